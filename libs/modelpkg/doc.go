// Package modelpkg makes and reads model packages: folders that hold all an
// inference service needs, and nothing it has to compute.
//
//	manifest.json                 what it is; every other file with its size and SHA-256
//	graph.PRECISION.onnx          the model as a graph, over the weights below, for each precision that a role runs in
//	model*.safetensors            the base's own files where they are float32 (hard links), else
//	weights.safetensors           its weights converted to float32, once
//	weights.int4.safetensors, ..  or in blocks, codes, scales and shifts apart (packages quant, onnx/decoder)
//	embedding.safetensors         the table with memory rows, and the head (spec clara-model §2)
//	encoder.safetensors, ...      one file an adapter, keys as in the checkpoint (spec §7)
//	tokenizer.json, ...           tokenizer, chat template and configuration of the base
//
// A package without adapters (no checkpoint given) answers from text only.
// Import is deterministic: the same sources give the same bytes and so the same
// ID. A package that is being written is never seen under its name.
//
// Errors: NotFound (a source or file is missing), Invalid (sources that do not
// belong together), Corrupt (a file that is not what the manifest says),
// Unsupported (a format or architecture), Unavailable (the disk).
package modelpkg
