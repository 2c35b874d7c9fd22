// Package decoder writes a decoder-only language model with LoRA adapters as an
// ONNX graph. Read it from the top: Build, decoder.block, attention, mlp,
// linear. What differs between families is data (arch.Model); there is no code
// for a family.
//
// One graph serves all roles of a CLaRa model (spec clara-model §1, §3, §6):
// embeddings come in, text and memories alike, an adapter is bound per run, and
// out come final hidden states at chosen positions (memories, query vectors)
// or logits at chosen ones of these. Letters: B rows, T tokens of a run,
// C capacity of the cache, M and L chosen positions, H hidden size, V
// vocabulary, P positions of the rotary tables, R adapter rank.
//
//	input       type and shape        meaning
//	embeddings  f32 [B, T, H]         rows padded on the right with anything finite
//	lengths     i32 [B]               tokens of each row, past ones included, less one
//	longest     i32 [1]               the largest number of tokens of a row, past ones included
//	gather      i64 [B, M, 1]         positions within T whose final hidden states are wanted
//	rows        i64 [B, L, 1]         which of those M get logits; L may be 0
//	cos, sin    f32 [P, RotaryDim/2]  rotary tables; cos_local, sin_local where layers have their own
//	past_key.i, past_value.i          t [B, KVHeads, C, HeadDim]; C may be 0 for a first run
//	layers.i.X.A, layers.i.X.B        t [In, R], [R, Out]: an adapter (see Adapters); R may be 0
//
//	output      type and shape
//	hidden      f32 [B, M, H]         after the final norm
//	logits      f32 [B, L, V]
//	key.i, value.i                    t: the cache with this run written in; may be the memory of past_*.i
//
// t is Options.Type: f32, f16 or bf16.
package decoder
