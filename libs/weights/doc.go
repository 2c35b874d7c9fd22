// Package weights opens the weights of a base model, whatever file they lie
// in, under their Hugging Face names: a Hugging Face folder (config.json and
// safetensors, sharded or not) or a GGUF file, whose names are mapped and whose
// permuted query and key rows are put back.
//
// Open checks that every tensor of the architecture is there with its shape, so
// users need not. Tensors of safetensors files are not copied (see
// Source.Location); GGUF tensors that are quantised are converted to float32
// on each call of Tensor, or handed out as blocks.
//
// Errors: NotFound (no such model, a tensor is missing), Corrupt (broken files,
// wrong shapes), Unsupported (architecture or block type not read). Sources are
// safe for concurrent use.
package weights
