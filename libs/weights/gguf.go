package weights

import (
	"fmt"
	"strings"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/gguf"
	"github.com/clara-suite/clara/libs/tensor"
)

// Blocks is a quantised tensor under its Hugging Face name: format, row-major
// shape and blocks row by row.
type Blocks = gguf.Tensor

// ggufFile is a GGUF file under Hugging Face names.
type ggufFile struct {
	file  *gguf.File
	model arch.Model
	names map[string]string // Hugging Face name -> name in the file
}

func openGGUF(path string) (Source, error) {
	f, err := gguf.Open(path)
	if err != nil {
		return nil, err
	}
	model, err := arch.FromGGUF(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &ggufFile{file: f, model: model, names: ggufNames(model)}, nil
}

// ggufNames maps every weight of the model to its name in a GGUF file.
func ggufNames(m arch.Model) map[string]string {
	parts := map[string]string{
		"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
		"self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output",
		"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
		"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
		"mlp.gate_up_proj":         "ffn_up", // Phi-3 keeps gate and up in one tensor of that name
		"input_layernorm":          "attn_norm",
		"post_attention_layernorm": "ffn_norm",
	}
	if m.PostNorms {
		parts["post_attention_layernorm"] = "post_attention_norm"
		parts["pre_feedforward_layernorm"] = "ffn_norm"
		parts["post_feedforward_layernorm"] = "post_ffw_norm"
	}
	names := map[string]string{arch.Embedding: "token_embd.weight", arch.FinalNorm: "output_norm.weight", arch.Head: "output.weight"}
	for _, w := range m.Weights() {
		var layer int
		if _, err := fmt.Sscanf(w.Name, "model.layers.%d.", &layer); err != nil {
			continue
		}
		part := strings.TrimPrefix(w.Name, arch.LayerName(layer, ""))
		dot := strings.LastIndexByte(part, '.')
		names[w.Name] = fmt.Sprintf("blk.%d.%s%s", layer, parts[part[:dot]], part[dot:])
	}
	return names
}

func (g *ggufFile) Arch() arch.Model { return g.model }

func (g *ggufFile) Has(name string) bool {
	stored, ok := g.names[name]
	return ok && g.file.Has(stored)
}

func (g *ggufFile) Files() []string { return []string{g.file.Path()} }

func (g *ggufFile) Close() error { return g.file.Close() }

func (g *ggufFile) stored(name string) (gguf.Tensor, error) {
	stored, ok := g.names[name]
	if !ok {
		return gguf.Tensor{}, clara.Errorf(clara.NotFound, "read %s: the model has no weight %q", g.file.Path(), name)
	}
	t, err := g.file.Tensor(stored)
	t.Name = name
	return t, err
}

func (g *ggufFile) shape(name string) (tensor.Shape, bool) {
	t, err := g.stored(name)
	return t.Shape, err == nil
}

// permutedHeads returns how many heads the rows of a weight are permuted
// within, 0 if they lie as in Hugging Face. Only files of the llama
// architecture are permuted: they hold the rotated pairs (i, i + d/2) side by
// side.
func (g *ggufFile) permutedHeads(name string) int {
	if g.model.Family != "llama" {
		return 0
	}
	switch {
	case strings.Contains(name, ".self_attn.q_proj."):
		return g.model.Heads
	case strings.Contains(name, ".self_attn.k_proj."):
		return g.model.KVHeads
	}
	return 0
}

// halves returns the order of rows that undoes the permutation: row j of half
// s of a head lies at 2j + s.
func halves(heads, headDim int) []int {
	order := make([]int, 0, heads*headDim)
	for h := range heads {
		for s := range 2 {
			for j := range headDim / 2 {
				order = append(order, h*headDim+2*j+s)
			}
		}
	}
	return order
}

// tensor returns the tensor with its rows in Hugging Face's order.
func (g *ggufFile) tensor(name string) (gguf.Tensor, error) {
	t, err := g.stored(name)
	if err != nil {
		return gguf.Tensor{}, err
	}
	heads := g.permutedHeads(name)
	if heads == 0 {
		return t, nil
	}
	if len(t.Shape) == 0 || t.Shape[0] != heads*g.model.HeadDim {
		return gguf.Tensor{}, clara.Errorf(clara.Corrupt, "read %s: %s has shape %s, %d heads of %d do not fit", g.file.Path(), name, t.Shape, heads, g.model.HeadDim)
	}
	return t.PermuteRows(halves(heads, g.model.HeadDim)), nil
}

func (g *ggufFile) Tensor(name string) (tensor.View, error) {
	t, err := g.tensor(name)
	if err != nil {
		return tensor.View{}, err
	}
	if v, ok := t.View(); ok {
		return v, nil
	}
	values, err := t.Float32()
	if err != nil {
		return tensor.View{}, err
	}
	return tensor.FromFloat32(name, t.Shape, values), nil
}

func (g *ggufFile) Location(name string) (string, int64, bool) {
	t, err := g.stored(name)
	if err != nil || t.Type.Quantised() || g.permutedHeads(name) > 0 {
		return "", 0, false
	}
	return g.file.Path(), t.Offset, true
}

func (g *ggufFile) Blocks(name string) (Blocks, bool, error) {
	t, err := g.tensor(name)
	if err != nil {
		return Blocks{}, false, err
	}
	return t, t.Type.Quantised(), nil
}

// GGUF returns the GGUF file that a source reads, for its tokenizer and chat
// template; false for other sources.
func GGUF(s Source) (*gguf.File, bool) {
	g, ok := s.(*ggufFile)
	if !ok {
		return nil, false
	}
	return g.file, true
}
