package decoder

import (
	"strconv"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
)

func misshapen(name string, have []int64, want []int) error {
	return clara.Errorf(clara.Corrupt, "weight %s has shape %v, the architecture says %v", name, have, want)
}

func adapterName(layer int, slot string) string { return "layers." + strconv.Itoa(layer) + "." + slot }

// Slot is a place of the graph where an adapter acts: one or several linear layers that read the
// same input side by side.
type Slot struct {
	Name string // "layers.0.qkv"
	// A and B are the names of the inputs, [In, R] and [R, Out].
	A, B    string
	In, Out int
	Parts   []Part
}

// Part is one linear layer of a Slot; its columns of B come after those of the parts before it.
type Part struct {
	// Name is the layer's Hugging Face name without ".weight"; its adapter has the keys
	// Name.lora_A.weight [r, In] and Name.lora_B.weight [Out, r] (spec clara-model §7).
	Name string
	Out  int
}

// Adapters returns the slots of the model's graph, layer by layer.
func Adapters(m arch.Model) []Slot {
	slotOf := map[string]string{
		"self_attn.q_proj": "qkv", "self_attn.k_proj": "qkv", "self_attn.v_proj": "qkv", "self_attn.qkv_proj": "qkv",
		"self_attn.o_proj": "o", "mlp.gate_proj": "gate", "mlp.up_proj": "up", "mlp.gate_up_proj": "gate_up", "mlp.down_proj": "down",
	}
	var slots []Slot
	for i := range m.Layers {
		for _, l := range m.Linears() {
			name := adapterName(i, slotOf[l.Name])
			if len(slots) == 0 || slots[len(slots)-1].A != name+".A" {
				slots = append(slots, Slot{Name: name, A: name + ".A", B: name + ".B", In: l.In})
			}
			s := &slots[len(slots)-1]
			s.Out += l.Out
			s.Parts = append(s.Parts, Part{arch.LayerName(i, l.Name), l.Out})
		}
	}
	return slots
}

// Stack writes the adapters of a slot's parts as the graph takes them: A [In, R] with the parts'
// A^T side by side, B [R, Out] block-diagonal with the parts' B^T times scale (alpha / r), where
// R is the sum of the parts' ranks. a[i] is [r_i, In] and b[i] [Out_i, r_i], row by row; a part
// without an adapter has rank 0.
func (s Slot) Stack(a, b [][]float32, scale float32) (A, B []float32, R int, err error) {
	ranks := make([]int, len(s.Parts))
	for i, p := range s.Parts {
		ranks[i] = len(a[i]) / s.In
		if len(a[i]) != ranks[i]*s.In || len(b[i]) != ranks[i]*p.Out {
			return nil, nil, 0, clara.Errorf(clara.Corrupt, "adapter of %s: A holds %d and B %d values for a layer [%d, %d]", p.Name, len(a[i]), len(b[i]), p.Out, s.In)
		}
		R += ranks[i]
	}
	A, B = make([]float32, s.In*R), make([]float32, R*s.Out)
	row, col := 0, 0
	for i, p := range s.Parts {
		r := ranks[i]
		for j := range r {
			for k := range s.In {
				A[k*R+row+j] = a[i][j*s.In+k]
			}
			for n := range p.Out {
				B[(row+j)*s.Out+col+n] = scale * b[i][n*r+j]
			}
		}
		row, col = row+r, col+p.Out
	}
	return A, B, R, nil
}
