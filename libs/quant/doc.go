// Package quant holds weight matrices as blocks of small integers, the way ONNX
// Runtime's MatMulNBits takes them, so that they are multiplied without being
// spread out to floats first.
//
// A matrix [Out, In] has Bits 4 or 8 and groups of Group weights along In:
//
//	w[n, k] = Scale[n, g] * (code[n, k] - 2^(Bits-1)) + Shift[n, g],  g = k / Group
//
// Codes [Out, In/Group, Group*Bits/8] are unsigned, two of four bits a byte, the
// lower first; Scale and Shift [Out, In/Group] are float32. A matrix without
// Shift has none. A product with Shift is two products, both exact:
// x W^T = MatMulNBits(x) + groupsum(x) Shift^T.
//
// Halve turns 8 bits into two matrices of 4, for which the runtime has a fast
// product with floats, as it has not for 8.
//
// FromGGUF takes the blocks of a GGUF tensor as they are: formats of up to 4 bits
// become 4 bits, of 5 to 8 bits 8, in groups of 32 (Q6_K: 16), so no weight
// changes. Round makes a matrix from floats, to the nearest code.
//
// Errors: none; what cannot be held (In that is no multiple of the group, another
// format) is answered with false. Values are safe for concurrent reads.
package quant
