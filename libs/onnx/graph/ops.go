package graph

import "slices"

// isFloat reports whether the type is one that arithmetic here takes.
func isFloat(d DType) bool { return d == Float32 || d == Float16 || d == BFloat16 }

// matmul checks x [.., K] x w [K, N] (or [N, K] if transposed) and returns the result's shape.
func (b *Builder) matmul(op string, x, w Value, transposed bool) ([]Dim, bool) {
	if b.err != nil {
		return nil, false
	}
	if len(x.shape) < 2 || len(w.shape) != 2 || x.dtype != w.dtype || !isFloat(x.dtype) {
		b.fault(op, "takes x [.., K] and w of rank 2 of one float type, not %s and %s", x, w)
		return nil, false
	}
	k, n := w.shape[0], w.shape[1]
	if transposed {
		k, n = n, k
	}
	if last := x.shape[len(x.shape)-1]; last != k {
		b.fault(op, "inner dimensions %s and %s differ: %s, %s", last, k, x, w)
		return nil, false
	}
	return append(slices.Clone(x.shape[:len(x.shape)-1]), n), true
}

// MatMul (opset 13): x [.., K] x w [K, N] -> [.., N].
func (b *Builder) MatMul(x, w Value) Value {
	shape, ok := b.matmul("MatMul", x, w, false)
	if !ok {
		return Value{}
	}
	return b.emit(onnx, "MatMul", []Value{x, w}, x.dtype, shape)
}

// MatMulT (com.microsoft FusedMatMul with transB): x [.., K] x w [N, K] -> [.., N],
// the layout in which linear layers are stored, so that a weight is used as it lies in its file.
func (b *Builder) MatMulT(x, w Value) Value {
	shape, ok := b.matmul("FusedMatMul", x, w, true)
	if !ok {
		return Value{}
	}
	return b.emit(microsoft, "FusedMatMul", []Value{x, w}, x.dtype, shape, attr{"transB", 1})
}

// Gram (com.microsoft FusedMatMul with transA): x [.., K] -> x^T x [K, K], summed over all rows of x.
func (b *Builder) Gram(x Value) Value {
	if b.err != nil {
		return Value{}
	}
	if len(x.shape) < 2 || x.shape[len(x.shape)-1].Name != "" || !isFloat(x.dtype) {
		return b.fault("Gram", "takes floats [.., K], not %s", x)
	}
	K := x.shape[len(x.shape)-1]
	rows := b.Reshape(x, []int64{-1, K.Size}, Named("rows of "+x.name), K)
	return b.emit(microsoft, "FusedMatMul", []Value{rows, rows}, x.dtype, []Dim{K, K}, attr{"transA", 1})
}

// MatMulBlocks (com.microsoft MatMulNBits): x [.., K] x w -> [.., N], where w [N, K] is held as codes of bits each in
// groups along K: codes u8 [N, K/group, group*bits/8], scale [N, K/group], w = scale * (code - 2^(bits-1)). int8 rounds
// each group of x to 8 bits first, which processors multiply several times faster; else x stays as it is.
func (b *Builder) MatMulBlocks(x, codes, scale Value, bits, group int, int8 bool) Value {
	const op = "MatMulNBits"
	if b.err != nil {
		return Value{}
	}
	if (bits != 4 && bits != 8) || group < 16 || len(x.shape) < 2 || !isFloat(x.dtype) || len(codes.shape) != 3 || codes.dtype != Uint8 || len(scale.shape) != 2 || scale.dtype != x.dtype {
		return b.fault(op, "takes x [.., K], codes u8 [N, K/group, bytes], scale [N, K/group] and 4 or 8 bits in groups from 16, not %s, %s, %s, %d, %d", x, codes, scale, bits, group)
	}
	K, N := x.shape[len(x.shape)-1], codes.shape[0]
	groups := Fixed(K.Size / int64(group))
	if K.Name != "" || K.Size%int64(group) != 0 || !sameShape(codes.shape, []Dim{N, groups, Fixed(group * bits / 8)}) || !sameShape(scale.shape, []Dim{N, groups}) {
		return b.fault(op, "%s and %s do not hold a matrix of %d bits in groups of %d for %s", codes, scale, bits, group, x)
	}
	level := 1 // as x is
	if int8 {
		level = 4
	}
	shape := append(slices.Clone(x.shape[:len(x.shape)-1]), N)
	return b.emit(microsoft, op, []Value{x, codes, scale}, x.dtype, shape,
		attr{"K", int(K.Size)}, attr{"N", int(N.Size)}, attr{"bits", bits}, attr{"block_size", group}, attr{"accuracy_level", level})
}

// GroupSum (Reshape, then ReduceSum, opset 13): x [.., K] -> [.., K/group], the sums of groups along the last dimension.
func (b *Builder) GroupSum(x Value, group int) Value {
	if b.err != nil {
		return Value{}
	}
	last := len(x.shape) - 1
	if last < 0 || group <= 0 || x.shape[last].Name != "" || x.shape[last].Size%int64(group) != 0 {
		return b.fault("ReduceSum", "%s in groups of %d", x, group)
	}
	shape := append(slices.Clone(x.shape[:last]), Fixed(x.shape[last].Size/int64(group)))
	to := make([]int64, last, last+2) // zeros: these dimensions stay
	parts := b.Reshape(x, append(to, shape[last].Size, int64(group)), append(slices.Clone(shape), Fixed(group))...)
	return b.emit(onnx, "ReduceSum", []Value{parts, b.Ints(int64(last + 1))}, x.dtype, shape, attr{"keepdims", 0})
}

// elementwise checks two tensors of one shape, but for dimensions of 1 in y, or y a vector over x's last dimension.
func (b *Builder) elementwise(op string, x, y Value) Value {
	if b.err != nil {
		return Value{}
	}
	vector := len(y.shape) == 1 && len(x.shape) > 0 && (x.shape[len(x.shape)-1] == y.shape[0] || y.shape[0] == Fixed(1))
	fits := len(x.shape) == len(y.shape)
	for i := range y.shape {
		fits = fits && (y.shape[i] == x.shape[i] || y.shape[i] == Fixed(1))
	}
	if x.dtype != y.dtype || !(vector || fits) {
		return b.fault(op, "takes one type and shape, dimensions of 1 or a vector over the last dimension, not %s and %s", x, y)
	}
	return b.emit(onnx, op, []Value{x, y}, x.dtype, x.shape)
}

// Add (opset 14): x + y of one shape, y with dimensions of 1, or y [N] or [1] along the last dimension of x [.., N].
func (b *Builder) Add(x, y Value) Value { return b.elementwise("Add", x, y) }

// Mul (opset 14): x * y of one shape, y with dimensions of 1, or y [N] or [1] along the last dimension of x [.., N].
func (b *Builder) Mul(x, y Value) Value { return b.elementwise("Mul", x, y) }

// Concat (opset 13): joins along an axis that is fixed in each; the other dimensions are equal.
func (b *Builder) Concat(axis int, vs ...Value) Value {
	if b.err != nil {
		return Value{}
	}
	if len(vs) == 0 || axis < 0 || axis >= len(vs[0].shape) {
		return b.fault("Concat", "axis %d of %v", axis, vs)
	}
	shape := slices.Clone(vs[0].shape)
	shape[axis].Size = 0
	for _, v := range vs {
		if v.dtype != vs[0].dtype || len(v.shape) != len(shape) || v.shape[axis].Name != "" {
			return b.fault("Concat", "cannot join %s and %s along %d", vs[0], v, axis)
		}
		for i, d := range v.shape {
			if i != axis && d != shape[i] {
				return b.fault("Concat", "cannot join %s and %s along %d", vs[0], v, axis)
			}
		}
		shape[axis].Size += v.shape[axis].Size
	}
	return b.emit(onnx, "Concat", vs, vs[0].dtype, shape, attr{"axis", axis})
}

// Split (opset 18): cuts the last dimension into parts of these sizes, which fill it.
func (b *Builder) Split(x Value, sizes ...int64) []Value {
	out := make([]Value, len(sizes))
	if b.err != nil {
		return out
	}
	last := len(x.shape) - 1
	sum := int64(0)
	for _, s := range sizes {
		sum += s
	}
	if last < 0 || x.shape[last] != Fixed(sum) {
		b.fault("Split", "%s into %v", x, sizes)
		return out
	}
	names := make([]string, len(sizes))
	for i, s := range sizes {
		out[i] = Value{b.unique("Split"), x.dtype, append(slices.Clone(x.shape[:last]), Fixed(s))}
		names[i] = out[i].name
	}
	b.node(onnx, "Split", []Value{x, b.Ints(sizes...)}, names, []attr{{"axis", last}})
	return out
}

// Reshape (opset 21): 0 keeps a dimension, -1 takes what is left; shape is the result's.
func (b *Builder) Reshape(x Value, to []int64, shape ...Dim) Value {
	if b.err != nil {
		return Value{}
	}
	if len(to) != len(shape) {
		return b.fault("Reshape", "%s to %v says shape %s", x, to, shapeString(shape))
	}
	for i, d := range to {
		kept := d == 0 && i < len(x.shape) && x.shape[i] == shape[i]
		if !kept && d != -1 && shape[i] != Fixed(d) {
			return b.fault("Reshape", "%s to %v does not give %s", x, to, shapeString(shape))
		}
	}
	return b.emit(onnx, "Reshape", []Value{x, b.Ints(to...)}, x.dtype, shape)
}

// GatherRows (GatherND, opset 13, batch_dims 1): x [B, T, H], index i64 [B, M, 1] -> [B, M, H],
// row index[b, i] of x[b].
func (b *Builder) GatherRows(x, index Value) Value {
	if b.err != nil {
		return Value{}
	}
	if len(x.shape) != 3 || len(index.shape) != 3 || index.dtype != Int64 || index.shape[2] != Fixed(1) || index.shape[0] != x.shape[0] {
		return b.fault("GatherND", "takes x [B, T, H] and index i64 [B, M, 1], not %s and %s", x, index)
	}
	return b.emit(onnx, "GatherND", []Value{x, index}, x.dtype, []Dim{x.shape[0], index.shape[1], x.shape[2]}, attr{"batch_dims", 1})
}

// RMSNorm (SimplifiedLayerNormalization): x [.., H] over its last dimension, times weight [H].
func (b *Builder) RMSNorm(x, weight Value, epsilon float64) Value {
	if !b.normed("SimplifiedLayerNormalization", x, weight) {
		return Value{}
	}
	return b.emit(onnx, "SimplifiedLayerNormalization", []Value{x, weight}, x.dtype, x.shape,
		attr{"axis", -1}, attr{"epsilon", epsilon}, attr{"stash_type", 1})
}

// SkipRMSNorm (com.microsoft SkipSimplifiedLayerNormalization): sum = skip + x, normed = RMSNorm(sum), in one pass.
func (b *Builder) SkipRMSNorm(skip, x, weight Value, epsilon float64) (normed, sum Value) {
	const op = "SkipSimplifiedLayerNormalization"
	if !b.normed(op, x, weight) {
		return
	}
	if !sameShape(skip.shape, x.shape) || skip.dtype != x.dtype {
		b.fault(op, "%s and %s differ", skip, x)
		return
	}
	normed = Value{b.unique(op), x.dtype, x.shape}
	sum = Value{b.unique(op + ".sum"), x.dtype, x.shape}
	b.node(microsoft, op, []Value{skip, x, weight}, []string{normed.name, "", "", sum.name}, []attr{{"epsilon", epsilon}})
	return normed, sum
}

func (b *Builder) normed(op string, x, weight Value) bool {
	if b.err != nil {
		return false
	}
	if len(x.shape) == 0 || len(weight.shape) != 1 || weight.shape[0] != x.shape[len(x.shape)-1] || !isFloat(x.dtype) || x.dtype != weight.dtype {
		b.fault(op, "takes x [.., H] and weight [H], not %s and %s", x, weight)
		return false
	}
	return true
}

// SiLU (com.microsoft QuickGelu with alpha 1): x * sigmoid(x), in one pass.
func (b *Builder) SiLU(x Value) Value {
	if b.err == nil && !isFloat(x.dtype) {
		return b.fault("QuickGelu", "takes floats, not %s", x)
	}
	return b.emit(microsoft, "QuickGelu", []Value{x}, x.dtype, x.shape, attr{"alpha", 1.0})
}

// GELU (opset 20): x * P(X <= x), by erf or by its tanh approximation.
func (b *Builder) GELU(x Value, tanh bool) Value {
	if b.err == nil && !isFloat(x.dtype) {
		return b.fault("Gelu", "takes floats, not %s", x)
	}
	kind := "none"
	if tanh {
		kind = "tanh"
	}
	return b.emit(onnx, "Gelu", []Value{x}, x.dtype, x.shape, attr{"approximate", kind})
}

// Tanh (opset 13), element by element.
func (b *Builder) Tanh(x Value) Value {
	if b.err == nil && !isFloat(x.dtype) {
		return b.fault("Tanh", "takes floats, not %s", x)
	}
	return b.emit(onnx, "Tanh", []Value{x}, x.dtype, x.shape)
}

// Cast (opset 21): x as numbers of another type; x itself where it is of that type.
func (b *Builder) Cast(x Value, to DType) Value {
	if b.err != nil || x.dtype == to {
		return x
	}
	if !isFloat(x.dtype) || !isFloat(to) {
		return b.fault("Cast", "takes floats to floats, not %s to %s", x, to)
	}
	return b.emit(onnx, "Cast", []Value{x}, to, x.shape, attr{"to", int(to)})
}

// Attention holds the inputs and attributes of GroupQueryAttention.
type Attention struct {
	// Query is [B, T, Heads*HeadDim] with Key and Value [B, T, KVHeads*HeadDim],
	// or all three side by side [B, T, (Heads+2*KVHeads)*HeadDim] with the others left out.
	Query, Key, Value Value
	// PastKey and PastValue are [B, KVHeads, C, HeadDim].
	PastKey, PastValue Value
	// SeqLens is i32 [B], each row's length with this run's tokens, less one; Total is i32 [1], the longest.
	SeqLens, Total Value
	// Cos and Sin are [P, R/2] for rotary dimension R <= HeadDim; both left out: no rotation.
	Cos, Sin                Value
	Heads, KVHeads, HeadDim int
	Scale                   float64
	// Window is how many positions back a token sees, itself included; 0 is all.
	Window int
	// Softcap bounds the scores: s -> cap * tanh(s / cap); 0 does not.
	Softcap float64
}

// GroupQueryAttention (com.microsoft): causal attention over the past and this run's tokens.
// It returns [B, T, Heads*HeadDim] and the cache [B, KVHeads, C, HeadDim] with this run's keys and
// values written in; presentKey and presentValue name it. Rows are padded on the right.
func (b *Builder) GroupQueryAttention(a Attention, presentKey, presentValue string) (out, key, value Value) {
	const op = "GroupQueryAttention"
	if b.err != nil {
		return
	}
	q := a.Query
	if len(q.shape) != 3 || !isFloat(q.dtype) {
		b.fault(op, "query is %s", q)
		return
	}
	width := a.Heads
	if a.Key.name == "" {
		width += 2 * a.KVHeads
	} else if kv := []Dim{q.shape[0], q.shape[1], Fixed(a.KVHeads * a.HeadDim)}; !sameShape(a.Key.shape, kv) || !sameShape(a.Value.shape, kv) {
		b.fault(op, "key %s, value %s: expected %s", a.Key, a.Value, shapeString(kv))
		return
	}
	if q.shape[2] != Fixed(width*a.HeadDim) || a.KVHeads <= 0 || a.Heads%a.KVHeads != 0 {
		b.fault(op, "%s does not hold %d heads over %d of %d", q, a.Heads, a.KVHeads, a.HeadDim)
		return
	}
	if len(a.PastKey.shape) != 4 || !sameShape(a.PastKey.shape, a.PastValue.shape) ||
		a.PastKey.shape[1] != Fixed(a.KVHeads) || a.PastKey.shape[3] != Fixed(a.HeadDim) || a.PastKey.dtype != q.dtype {
		b.fault(op, "past %s, %s", a.PastKey, a.PastValue)
		return
	}
	if a.SeqLens.dtype != Int32 || len(a.SeqLens.shape) != 1 || a.Total.dtype != Int32 {
		b.fault(op, "lengths %s, %s", a.SeqLens, a.Total)
		return
	}
	rotary := 0
	if a.Cos.name != "" {
		rotary = 1
		if len(a.Cos.shape) != 2 || !sameShape(a.Cos.shape, a.Sin.shape) || 2*a.Cos.shape[1].Size > int64(a.HeadDim) {
			b.fault(op, "rotary tables %s, %s for heads of %d", a.Cos, a.Sin, a.HeadDim)
			return
		}
	}
	if !b.claim(op, presentKey) || !b.claim(op, presentValue) {
		return
	}
	window := a.Window
	if window <= 0 {
		window = -1
	}
	out = Value{b.unique(op), q.dtype, []Dim{q.shape[0], q.shape[1], Fixed(a.Heads * a.HeadDim)}}
	key = Value{presentKey, q.dtype, a.PastKey.shape}
	value = Value{presentValue, q.dtype, a.PastValue.shape}
	b.node(microsoft, op, []Value{q, a.Key, a.Value, a.PastKey, a.PastValue, a.SeqLens, a.Total, a.Cos, a.Sin},
		[]string{out.name, key.name, value.name},
		[]attr{{"num_heads", a.Heads}, {"kv_num_heads", a.KVHeads}, {"do_rotary", rotary}, {"rotary_interleaved", 0},
			{"local_window_size", window}, {"scale", a.Scale}, {"softcap", a.Softcap}})
	return out, key, value
}
