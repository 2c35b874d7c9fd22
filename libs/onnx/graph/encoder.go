package graph

// LayerNorm (opset 17): x [.., H] over its last dimension, times weight [H], plus bias [H].
func (b *Builder) LayerNorm(x, weight, bias Value, epsilon float64) Value {
	if !b.normed("LayerNormalization", x, weight) || !b.normed("LayerNormalization", x, bias) {
		return Value{}
	}
	return b.emit(onnx, "LayerNormalization", []Value{x, weight, bias}, x.dtype, x.shape,
		attr{"axis", -1}, attr{"epsilon", epsilon}, attr{"stash_type", 1})
}

// MultiHeadAttention (com.microsoft), in both directions: query, key and value [B, T, heads*D] and mask i32 [B, T], 0 for
// padding, -> [B, T, heads*D].
func (b *Builder) MultiHeadAttention(query, key, value, mask Value, heads int) Value {
	const op = "MultiHeadAttention"
	if b.err != nil {
		return Value{}
	}
	if len(query.shape) != 3 || !sameShape(query.shape, key.shape) || !sameShape(query.shape, value.shape) || !isFloat(query.dtype) ||
		key.dtype != query.dtype || value.dtype != query.dtype || heads <= 0 || query.shape[2].Size%int64(heads) != 0 {
		return b.fault(op, "takes query, key and value [B, T, H] of one float type, H a multiple of %d heads, not %s, %s and %s", heads, query, key, value)
	}
	if mask.dtype != Int32 || !sameShape(mask.shape, query.shape[:2]) {
		return b.fault(op, "takes mask i32 [B, T], not %s for %s", mask, query)
	}
	return b.emit(microsoft, op, []Value{query, key, value, {}, mask}, query.dtype, query.shape, attr{"num_heads", heads})
}
