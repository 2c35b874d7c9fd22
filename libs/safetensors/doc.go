// Package safetensors reads and writes safetensors files: an 8-byte header
// length, a JSON header with name, type, shape and byte range of each tensor,
// and the tensors' bytes, little endian and row-major.
//
// Reading maps the file: a tensor.View points into the map and is valid until
// Close; File.Offset gives the place of a tensor in the file for those who let
// another program read it there (ONNX external data). A header is input from
// outside: sizes, overlaps, gaps and duplicate names are checked before any
// byte is used.
//
// Errors: NotFound (file or tensor), Corrupt (what the header says does not
// hold), Unsupported (element types without a tensor.DType). Files are safe
// for concurrent reads; a Writer is not.
package safetensors
