// Package gguf reads GGUF files of versions 2 and 3: metadata, tensors (F32,
// F16, BF16, F64, integers and the block formats Q4_0, Q4_1, Q5_0, Q5_1, Q8_0,
// Q4_K, Q5_K, Q6_K), and the tokenizer inside.
//
// The file is mapped: a Tensor's bytes point into the map and are valid until
// Close. Shapes are row-major, outermost axis first, which is the reverse of
// the order in the file; a block lies within a row. Dequantised values are
// bit for bit those of ggml's scalar code.
//
// Every length is checked against what is left of the file before anything is
// allocated. Errors: NotFound (no such file or tensor), Corrupt (not GGUF,
// truncated, contradicting), Unsupported (version, big endian, block format).
// Files are safe for concurrent reads.
package gguf
