package model

import (
	"math"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	views "github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

// Names of the three adapters (spec clara-model §1).
const (
	Encoder  = "encoder_adapter"
	Decoder  = "decoder_adapter"
	Reasoner = "query_reasoner_adapter"
)

// Adapter is LoRA on every linear layer of the blocks, in float32.
type Adapter struct {
	Name    string
	Rank    int
	Dropout float64 // in training passes
	Names   []string
	Params  []tensor // beside Names: A [r, in] and B [out, r] of each layer in turn
	layers  []map[string]pair
}

// pair is the adapter of a linear layer; number is its place in the block.
type pair struct {
	a, b   tensor
	number uint64
}

// lora returns the adapter of one linear layer, nil if a is nil.
func (a *Adapter) lora(layer int, name string, train bool, seed uint64) *torchx.LoRA {
	if a == nil {
		return nil
	}
	p := a.layers[layer][name]
	l := &torchx.LoRA{A: p.a, B: p.b, Scale: 2} // alpha = 2 r
	if train {
		l.Dropout, l.Seed = a.Dropout, mix(mix(seed, uint64(layer)), p.number)
	}
	return l
}

// each calls f for every linear layer with the names and shapes of its A and B.
func (m *Model) each(f func(layer int, lin arch.Linear, aName, bName string)) {
	for i := range m.Arch.Layers {
		for _, lin := range m.Arch.Linears() {
			f(i, lin, arch.LayerName(i, lin.Name+".lora_A.weight"), arch.LayerName(i, lin.Name+".lora_B.weight"))
		}
	}
}

func (a *Adapter) add(layer int, lin arch.Linear, aName, bName string, pa, pb tensor) {
	for len(a.layers) <= layer {
		a.layers = append(a.layers, map[string]pair{})
	}
	a.layers[layer][lin.Name] = pair{pa, pb, uint64(len(a.layers[layer]))}
	a.Names = append(a.Names, aName, bName)
	a.Params = append(a.Params, pa, pb)
}

// NewAdapter makes a fresh adapter: A Kaiming-uniform with a = sqrt 5, B zero. The seed fixes A.
func (m *Model) NewAdapter(owner scope, name string, rank int, dropout float64, seed uint64) *Adapter {
	a := &Adapter{Name: name, Rank: rank, Dropout: dropout}
	n := uint64(0)
	m.each(func(i int, lin arch.Linear, aName, bName string) {
		torchx.Seed(mix(seed, n))
		n++
		pa := owner.Uniform(1/math.Sqrt(float64(lin.In)), m.Device, int64(rank), int64(lin.In))
		a.add(i, lin, aName, bName, pa, owner.Zeros(torchx.Float32, m.Device, int64(lin.Out), int64(rank)))
	})
	return a
}

// LoadAdapter reads an adapter of a checkpoint. The rank is that of its tensors. A missing or misshapen tensor is a Corrupt
// error that names it.
func (m *Model) LoadAdapter(owner scope, name string, dropout float64, tensors func(key string) (views.View, bool)) (*Adapter, error) {
	a := &Adapter{Name: name, Dropout: dropout}
	var err error
	read := func(key string, fit func(s views.Shape) bool, want string) tensor {
		v, ok := tensors(key)
		switch {
		case err != nil:
		case !ok:
			err = clara.Errorf(clara.Corrupt, "checkpoint: adapter %s: %s is missing", name, key)
		case !fit(v.Shape):
			err = clara.Errorf(clara.Corrupt, "checkpoint: adapter %s: %s has shape %v, not %s", name, key, v.Shape, want)
		default:
			var f []float32
			if f, err = v.Float32(); err == nil {
				return owner.Floats(f, m.Device, int64(v.Shape[0]), int64(v.Shape[1]))
			}
		}
		return nil
	}
	m.each(func(i int, lin arch.Linear, aName, bName string) {
		pa := read(aName, func(s views.Shape) bool {
			if len(s) == 2 && a.Rank == 0 {
				a.Rank = s[0]
			}
			return s.Equal(views.Shape{a.Rank, lin.In})
		}, "[rank, in]")
		pb := read(bName, func(s views.Shape) bool { return s.Equal(views.Shape{lin.Out, a.Rank}) }, "[out, rank]")
		a.add(i, lin, aName, bName, pa, pb)
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// CopyAdapter makes an independent copy under another name.
func (m *Model) CopyAdapter(owner scope, from *Adapter, name string) *Adapter {
	a := &Adapter{Name: name, Rank: from.Rank, Dropout: from.Dropout}
	n := 0
	m.each(func(i int, lin arch.Linear, aName, bName string) {
		a.add(i, lin, aName, bName, owner.Clone(from.Params[n]), owner.Clone(from.Params[n+1]))
		n += 2
	})
	return a
}

// Train marks the adapter's parameters as trained and returns them.
func (a *Adapter) Train() []tensor {
	for _, p := range a.Params {
		p.RequireGrad()
	}
	return a.Params
}

// MemoryRows are the rows of the memory tokens where they are trained (a fresh stage 1 only), in float32.
type MemoryRows struct {
	Rows  tensor // [m, H]
	ids   tensor // int64 [m]
	index map[int64]int64
}

// TrainMemory makes the rows of these tokens trainable and returns them.
func (m *Model) TrainMemory(owner scope, ids []int64) tensor {
	r := &MemoryRows{ids: owner.Ints(ids, m.Device), index: map[int64]int64{}}
	for i, id := range ids {
		r.index[id] = int64(i)
	}
	rows := owner.Sub(func(s scope) tensor { return s.Clone(s.To(s.Rows(m.embedding, r.ids), torchx.Float32)) })
	r.Rows = owner.Leaf(rows, true)
	m.Memory = r
	return r.Rows
}

// find returns the positions of memory tokens among ids, and which row each of them is.
func (r *MemoryRows) find(ids []int64) (at, row []int64) {
	for i, id := range ids {
		if k, ok := r.index[id]; ok {
			at, row = append(at, int64(i)), append(row, k)
		}
	}
	return at, row
}

// SyncMemory writes the trained rows back into the table, which the tied head reads. Call it after every step.
func (m *Model) SyncMemory() {
	if m.Memory != nil {
		m.embedding.CopyRows(m.Memory.ids, m.Memory.Rows)
	}
}

// Tables returns the embedding and, if it is not tied, the head: [V, H].
func (m *Model) Tables() (embedding, head tensor) {
	if m.Arch.TieEmbeddings {
		return m.embedding, nil
	}
	return m.embedding, m.head
}
