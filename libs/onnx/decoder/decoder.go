package decoder

import (
	"slices"
	"strconv"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/onnx/graph"
	"github.com/clara-suite/clara/libs/quant"
)

// Weights finds the weights of a model in the files beside its graph.
type Weights interface {
	// Float finds a weight that is held as floats by its Hugging Face name, and says of which type.
	Float(name string) (shape []int64, dtype graph.DType, at graph.File, err error)
	// Blocks finds a matrix [.., in] that is held in blocks, by the name of a Slot, whose parts are then one below the
	// other, or by the Hugging Face name of a weight. ok is false for what is held as floats.
	Blocks(name string, in int) (b Blocks, ok bool)
}

// Blocks says where a matrix in blocks lies (package quant): codes, scale and, if it is shifted, shift.
type Blocks struct {
	quant.Format
	Out, In             int
	Codes, Scale, Shift graph.File
}

// Options of a graph.
type Options struct {
	// Adapters gives the graph inputs for LoRA adapters.
	Adapters bool
	// Exact multiplies blocks with float32 as it is, which the runtime does at speed for 4 bits only; else what is
	// multiplied with blocks is rounded to 8 bits (graph.MatMulBlocks).
	Exact bool
	// Type is that of the products of a block, its attention and its cache: Float16 or BFloat16, else Float32. With the
	// halves the stream between blocks, the norms, the head and what comes out are float32 all the same: the stream
	// outgrows Float16 in some models, and logits of BFloat16 are too coarse to choose between.
	Type graph.DType
}

// Build writes the graph of the model.
// m.Vocab is the number of rows of the head, memory tokens included (spec clara-model §2).
// Errors: those of weights, Corrupt for a weight of another shape, Unsupported for layers that rotate different parts of a head.
func Build(m arch.Model, weights Weights, o Options) (*graph.Builder, error) {
	if m.LocalRope != nil && m.LocalRope.Dim != m.Rope.Dim {
		return nil, clara.Errorf(clara.Unsupported, "build graph: layers rotate %d and %d numbers of a head", m.Rope.Dim, m.LocalRope.Dim)
	}
	if o.Type == 0 {
		o.Type = graph.Float32
	}
	d := &decoder{Builder: graph.New("decoder"), m: m, Options: o, weights: weights, sums: map[string]graph.Value{}, constants: map[string]graph.Value{}}
	d.build()
	if d.err != nil {
		return nil, d.err
	}
	return d.Builder, d.Err()
}

// Names of the graph's inputs and outputs.
const (
	Embeddings = "embeddings"
	Lengths    = "lengths"
	Longest    = "longest"
	Gather     = "gather"
	Rows       = "rows"
	Adapted    = "adapted"
	Cos        = "cos"
	Sin        = "sin"
	CosLocal   = "cos_local"
	SinLocal   = "sin_local"
	Hidden     = "hidden"
	Logits     = "logits"
)

// PastKey is the name of layer i's cache of keys as an input.
func PastKey(i int) string { return "past_key." + strconv.Itoa(i) }

// PastValue is the name of layer i's cache of values as an input.
func PastValue(i int) string { return "past_value." + strconv.Itoa(i) }

// Key is the name of layer i's cache of keys as an output.
func Key(i int) string { return "key." + strconv.Itoa(i) }

// Value is the name of layer i's cache of values as an output.
func Value(i int) string { return "value." + strconv.Itoa(i) }

type decoder struct {
	*graph.Builder
	Options
	m       arch.Model
	weights Weights
	sums    map[string]graph.Value // sums of groups, by the value and the size of a group
	err     error

	constants map[string]graph.Value
	given     bool // weights are inputs, see BuildBlock
	grams     bool

	lengths, longest, gather graph.Value
	adapted                  graph.Value // which rows the adapter is for
	rope, localRope          tables
}

type tables struct{ cos, sin graph.Value }

// residual is the stream between blocks, in float32: sum, and what the last part adds to it. The next norm
// joins both in one pass; at the start there is nothing to add.
type residual struct{ sum, delta graph.Value }

func (d *decoder) build() {
	B, M := graph.Named("B"), graph.Named("M")
	x := d.Input(Embeddings, graph.Float32, B, graph.Named("T"), graph.Fixed(d.m.Hidden))
	d.lengths = d.Input(Lengths, graph.Int32, B)
	d.longest = d.Input(Longest, graph.Int32, graph.Fixed(1))
	d.gather = d.Input(Gather, graph.Int64, B, M, graph.Fixed(1))
	rows := d.Input(Rows, graph.Int64, B, graph.Named("L"), graph.Fixed(1))
	if d.Adapters {
		d.adapted = d.Cast(d.Input(Adapted, graph.Float32, B, graph.Fixed(1), graph.Fixed(1)), d.Type)
	}
	d.rope = d.tables(Cos, Sin, d.m.Rope)
	if d.m.LocalRope != nil {
		d.localRope = d.tables(CosLocal, SinLocal, *d.m.LocalRope)
	}

	r := residual{sum: x}
	for i := range d.m.Layers {
		d.In("layers."+strconv.Itoa(i), func() { r = d.block(i, r) })
	}
	hidden, _ := d.norm(r, arch.FinalNorm)
	d.Output(Hidden, hidden)
	d.Output(Logits, d.head(d.GatherRows(hidden, rows)))
}

func (d *decoder) tables(cos, sin string, r arch.Rope) tables {
	P, half := graph.Named("P"), graph.Fixed(RotaryWidth(r)/2)
	c, s := d.Input(cos, graph.Float32, P, half), d.Input(sin, graph.Float32, P, half)
	return tables{d.Cast(c, d.Type), d.Cast(s, d.Type)}
}

// block is one layer. The last one goes on with the wanted positions only, once their
// attention has seen the others.
func (d *decoder) block(i int, r residual) residual {
	norms := d.m.Norms()
	name := func(n string) string { return arch.LayerName(i, n+".weight") }

	x, sum := d.norm(r, name(norms[0]))
	a := d.attention(i, d.Cast(x, d.Type))
	if i == d.m.Layers-1 && d.gather.Name() != "" {
		a, sum = d.GatherRows(a, d.gather), d.GatherRows(sum, d.gather)
	}
	a = d.Cast(d.linear(i, "o", a, "self_attn.o_proj"), graph.Float32)
	if !d.m.PostNorms {
		x, sum = d.norm(residual{sum, a}, name(norms[1]))
		return residual{sum, d.mlp(i, x)}
	}
	a, _ = d.norm(residual{sum: a}, name(norms[1]))
	x, sum = d.norm(residual{sum, a}, name(norms[2]))
	f, _ := d.norm(residual{sum: d.mlp(i, x)}, name(norms[3]))
	return residual{sum, f}
}

// attention: x [B, T, H] -> [B, T, Heads*HeadDim], before the output projection.
func (d *decoder) attention(i int, x graph.Value) graph.Value {
	m := d.m
	parts := []string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}
	if m.FusedQKV {
		parts = []string{"self_attn.qkv_proj"}
	}
	q, k, v := d.linear(i, "qkv", x, parts...), graph.Value{}, graph.Value{}
	if m.QKNorm || padded(m) {
		qkv := d.Split(q, int64(m.Heads*m.HeadDim), int64(m.KVHeads*m.HeadDim), int64(m.KVHeads*m.HeadDim))
		q, k, v = qkv[0], qkv[1], qkv[2]
	}
	if m.QKNorm {
		q = d.headNorm(q, arch.LayerName(i, "self_attn.q_norm.weight"))
		k = d.headNorm(k, arch.LayerName(i, "self_attn.k_norm.weight"))
	}
	if padded(m) {
		q, k, v = d.pad(q, m.Heads), d.pad(k, m.KVHeads), d.pad(v, m.KVHeads)
	}
	rope, window := d.rope, 0
	if m.IsSliding(i) {
		window = m.SlidingWindow
		if m.LocalRope != nil {
			rope = d.localRope
		}
	}
	B, C, heads, width := graph.Named("B"), graph.Named("C"), graph.Fixed(m.KVHeads), graph.Fixed(HeadWidth(m))
	out, key, value := d.GroupQueryAttention(graph.Attention{
		Query: q, Key: k, Value: v,
		PastKey:   d.Input(PastKey(i), d.Type, B, heads, C, width),
		PastValue: d.Input(PastValue(i), d.Type, B, heads, C, width),
		SeqLens:   d.lengths, Total: d.longest, Cos: rope.cos, Sin: rope.sin,
		Heads: m.Heads, KVHeads: m.KVHeads, HeadDim: HeadWidth(m),
		Scale: m.AttentionScale, Window: window, Softcap: m.AttentionSoftcap,
	}, Key(i), Value(i))
	d.Output(Key(i), key)
	d.Output(Value(i), value)
	if padded(m) {
		return d.unpad(out, m.Heads)
	}
	return out
}

// headNorm is RMSNorm over each head of x [B, T, heads*HeadDim].
func (d *decoder) headNorm(x graph.Value, name string) graph.Value {
	shape := x.Shape()
	if len(shape) != 3 {
		return graph.Value{} // a fault is kept already
	}
	D := int64(d.m.HeadDim)
	y := d.Reshape(x, []int64{0, -1, D}, shape[0], graph.Named("T*heads"), graph.Fixed(D))
	y = d.RMSNorm(d.Cast(y, graph.Float32), d.normWeight(name, d.m.HeadDim), d.m.NormEps)
	return d.Reshape(d.Cast(y, d.Type), []int64{0, -1, shape[2].Size}, shape...)
}

// mlp: x [B, T, H] -> [B, T, H].
func (d *decoder) mlp(i int, x graph.Value) graph.Value {
	var gate, up graph.Value
	x = d.Cast(x, d.Type)
	if d.m.FusedGateUp {
		half := int64(d.m.Intermediate)
		both := d.Split(d.linear(i, "gate_up", x, "mlp.gate_up_proj"), half, half)
		gate, up = both[0], both[1]
	} else {
		gate = d.linear(i, "gate", x, "mlp.gate_proj")
		up = d.linear(i, "up", x, "mlp.up_proj")
	}
	switch d.m.Activation {
	case arch.SiLU:
		gate = d.SiLU(gate)
	default: // the runtime has no such kernel for every half
		gate = d.Cast(d.GELU(d.Cast(gate, graph.Float32), d.m.Activation == arch.GELUTanh), d.Type)
	}
	return d.Cast(d.linear(i, "down", d.Mul(gate, up), "mlp.down_proj"), graph.Float32)
}

// head: x [B, L, H] -> logits [B, L, V].
func (d *decoder) head(x graph.Value) graph.Value {
	name := arch.Head
	if d.m.TieEmbeddings {
		name = arch.Embedding
	}
	y, ok := d.blocks(arch.Head, x, d.m.Vocab, d.m.Hidden)
	if !ok {
		y = d.MatMulT(x, d.weightAs(graph.Float32, name, d.m.Vocab, d.m.Hidden))
	}
	if limit := d.m.LogitSoftcap; limit > 0 {
		y = d.Mul(d.Tanh(d.Mul(y, d.scalar("softcap.in", 1/limit))), d.scalar("softcap.out", limit))
	}
	return y
}

// linear: x [.., In] -> [.., sum of Out] through layers of the block that read the same x, side by
// side, plus the adapter: x A B with A [In, R], B [R, sum of Out], in rows that it is for.
func (d *decoder) linear(i int, slot string, x graph.Value, parts ...string) graph.Value {
	var layers []arch.Linear
	var biases []graph.Value
	in, out := 0, 0
	for _, l := range d.m.Linears() {
		if !slices.Contains(parts, l.Name) {
			continue
		}
		in, out = l.In, out+l.Out
		layers = append(layers, l)
		if l.Bias {
			biases = append(biases, d.weight(arch.LayerName(i, l.Name+".bias"), l.Out))
		}
	}
	name := adapterName(i, slot)
	if d.grams && slot != "up" { // which reads what gate reads
		d.Output(GramOf(name), d.Gram(x))
	}
	y, ok := d.blocks(name, x, out, in)
	if !ok {
		y = d.products(i, x, layers)
	}
	if len(biases) > 0 {
		y = d.Add(y, d.join(biases))
	}
	if !d.Adapters {
		return y
	}
	R := graph.Named("R." + name)
	a := d.Input(name+".A", d.Type, graph.Fixed(in), R)
	b := d.Input(name+".B", d.Type, R, graph.Fixed(out))
	return d.Add(y, d.MatMul(d.Mul(d.MatMul(x, a), d.adapted), b))
}

// products: x [.., In] -> [.., sum of Out]: one product where all layers are held as floats, else one each.
func (d *decoder) products(i int, x graph.Value, layers []arch.Linear) graph.Value {
	var weights, results []graph.Value
	mixed := slices.ContainsFunc(layers, func(l arch.Linear) bool {
		_, ok := d.weights.Blocks(arch.LayerName(i, l.Name+".weight"), l.In)
		return ok
	})
	for _, l := range layers {
		name := arch.LayerName(i, l.Name+".weight")
		if !mixed {
			weights = append(weights, d.weight(name, l.Out, l.In))
			continue
		}
		y, ok := d.blocks(name, x, l.Out, l.In)
		if !ok {
			y = d.MatMulT(x, d.weight(name, l.Out, l.In))
		}
		results = append(results, y)
	}
	switch {
	case !mixed:
		return d.MatMulT(x, d.join(weights))
	case len(results) == 1:
		return results[0]
	}
	return d.Concat(len(x.Shape())-1, results...)
}

// blocks: x [.., In] -> [.., Out] with a matrix that is held in blocks; ok is false if it is not.
func (d *decoder) blocks(name string, x graph.Value, out, in int) (y graph.Value, ok bool) {
	b, ok := d.weights.Blocks(name, in)
	if !ok || d.err != nil {
		return graph.Value{}, ok
	}
	if b.Out != out || b.In != in {
		d.err = misshapen(name, []int64{int64(b.Out), int64(b.In)}, []int{out, in})
		return graph.Value{}, true
	}
	groups, rows := int64(in/b.Group), int64(b.Rows(out))
	codes := d.External(name+".codes", graph.Uint8, []int64{rows, groups, int64(b.Group * b.Bits / 8)}, b.Codes)
	scale := d.External(name+".scale", graph.Float32, []int64{rows, groups}, b.Scale)
	y = d.MatMulBlocks(x, codes, scale, b.Bits, b.Group, !d.Exact)
	if b.Halved {
		halves := d.Split(y, int64(out), int64(out))
		y = d.Add(halves[0], halves[1])
	}
	if b.Shifted {
		of := x.Name() + "/" + strconv.Itoa(b.Group)
		sum, have := d.sums[of]
		if !have {
			sum = d.GroupSum(x, b.Group)
			d.sums[of] = sum
		}
		y = d.Add(y, d.MatMulT(sum, d.External(name+".shift", graph.Float32, []int64{int64(out), groups}, b.Shift)))
	}
	return y, true
}

// join stacks weights on their rows. The runtime does it once, when it loads the graph.
func (d *decoder) join(weights []graph.Value) graph.Value {
	if len(weights) == 1 {
		return weights[0]
	}
	return d.Concat(0, weights...)
}

// norm joins the stream and returns it normed and as it is.
func (d *decoder) norm(r residual, name string) (normed, sum graph.Value) {
	w := d.normWeight(name, d.m.Hidden)
	if r.delta.Name() == "" {
		return d.RMSNorm(r.sum, w, d.m.NormEps), r.sum
	}
	return d.SkipRMSNorm(r.sum, r.delta, w, d.m.NormEps)
}

func (d *decoder) normWeight(name string, width int) graph.Value {
	w := d.weightAs(graph.Float32, name, width)
	if d.m.NormOffset != 0 {
		w = d.Add(w, d.scalar(name+".offset", d.m.NormOffset))
	}
	return w
}

func (d *decoder) scalar(name string, x float64) graph.Value {
	return d.Floats(name, []int64{1}, []float32{float32(x)})
}

// weight is a weight of a block in the type of its products.
func (d *decoder) weight(name string, shape ...int) graph.Value {
	return d.weightAs(d.Type, name, shape...)
}

// weightAs is a weight in its file, checked against the shape that the architecture says. Where its type is another, the
// runtime converts it once, when it loads the graph.
func (d *decoder) weightAs(t graph.DType, name string, shape ...int) graph.Value {
	if d.err != nil {
		return graph.Value{}
	}
	if d.given {
		dims := make([]graph.Dim, len(shape))
		for i, n := range shape {
			dims[i] = graph.Fixed(n)
		}
		return d.Input(name, graph.Float32, dims...)
	}
	have, dtype, at, err := d.weights.Float(name)
	if err != nil {
		d.err = err
		return graph.Value{}
	}
	same := len(have) == len(shape)
	for i := range shape {
		same = same && have[i] == int64(shape[i])
	}
	if !same {
		d.err = misshapen(name, have, shape)
		return graph.Value{}
	}
	return d.Cast(d.External(name, dtype, have, at), t)
}
