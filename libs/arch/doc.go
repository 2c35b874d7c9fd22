// Package arch describes a decoder-only language model as data: sizes, norms,
// attention, rotary embedding and the weights it is made of. Graph builders
// and trainers read a Model and need no knowledge of families; a new family is
// a new description.
//
// A block computes, with x [T, H], norm = RMSNorm and every linear y = x W^T (+ b):
//
//	a = attention(norm(x)); if PostNorms, a = norm(a); x = x + a
//	f = mlp(norm(x));       if PostNorms, f = norm(f); x = x + f
//
// where attention is causal, grouped (Heads query heads over KVHeads key and
// value heads of HeadDim), optionally with RMSNorm over each head's query and
// key (QKNorm), rotated by Rope in the half-split layout of Hugging Face, and
// mlp = down(act(gate(x)) * up(x)). A final norm and the head follow.
//
// FromHF reads a Hugging Face config.json (llama, mistral, qwen2, qwen3, phi3,
// gemma2, gemma3_text), FromGGUF the metadata of a GGUF file. Both return
// Unsupported, naming the key, for what the description cannot express, and
// Corrupt for values that contradict each other. Weight names and shapes are
// those of Hugging Face, whatever the file was. Values are safe for concurrent
// reads.
package arch
