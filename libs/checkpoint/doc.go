// Package checkpoint reads and writes CLaRa checkpoint folders in the layout of
// the reference (spec clara-model §7): adapters.pth,
// decoder_first_last_layers.pth and config.json. It resolves the base model
// that a checkpoint names and writes folders atomically.
//
// LoRA keys are those of the reference, "model.layers.0.self_attn.q_proj.lora_A.weight":
// A is [r, In], B is [Out, r], and a linear becomes x W^T + Scale * (x A^T) B^T.
//
// Errors: NotFound (a file, an adapter or the base is missing), Corrupt (broken
// files, shapes that contradict the config), Invalid (a base or a rate other
// than the checkpoint's), Unsupported (refused pickles). A Checkpoint is safe
// for concurrent reads.
package checkpoint
