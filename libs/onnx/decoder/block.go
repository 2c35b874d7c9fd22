package decoder

import (
	"strconv"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/onnx/graph"
)

// GramOf is the name of the output of BuildBlock that belongs to a Slot.
func GramOf(slot string) string { return "gram." + slot }

// BuildBlock writes one layer of the model as a graph of its own, in float32 and without adapters: Embeddings, which are
// what the layer before gives, to Hidden, of all positions. Its weights are inputs by their Hugging Face names. The other
// inputs are those of Build but Gather and Rows. With grams it has an output for each Slot: the sum of x x^T over the inputs x
// that the slot's layers meet, [In, In]; that of "up" is that of "gate".
func BuildBlock(m arch.Model, layer int, grams bool) (*graph.Builder, error) {
	d := &decoder{Builder: graph.New("block"), m: m, Options: Options{Type: graph.Float32}, weights: given{}, given: true, grams: grams,
		sums: map[string]graph.Value{}, constants: map[string]graph.Value{}}
	B := graph.Named("B")
	x := d.Input(Embeddings, graph.Float32, B, graph.Named("T"), graph.Fixed(m.Hidden))
	d.lengths, d.longest = d.Input(Lengths, graph.Int32, B), d.Input(Longest, graph.Int32, graph.Fixed(1))
	if m.LocalRope != nil && m.IsSliding(layer) {
		d.localRope = d.tables(Cos, Sin, m.LayerRope(layer))
	} else {
		d.rope = d.tables(Cos, Sin, m.LayerRope(layer))
	}
	d.In("layers."+strconv.Itoa(layer), func() {
		r := d.block(layer, residual{sum: x})
		d.Output(Hidden, d.Add(r.sum, r.delta))
	})
	return d.Builder, d.Err()
}

// given is weights that are the graph's inputs.
type given struct{}

// Float implements Weights; it is never asked.
func (given) Float(string) ([]int64, graph.DType, graph.File, error) {
	return nil, 0, graph.File{}, nil
}

// Blocks implements Weights.
func (given) Blocks(string, int) (Blocks, bool) { return Blocks{}, false }
