// Package tensor describes stored tensors: data type, shape, bytes, and their
// conversion to and from float32. It has no operators.
//
// Bytes are little endian and row-major, as safetensors, GGUF and torch store
// them; hosts are little endian too (amd64, arm64). Values are safe for
// concurrent reads. A View usually points into a mapped file: it lives as long
// as the file stays open, and its bytes must not be written.
package tensor
