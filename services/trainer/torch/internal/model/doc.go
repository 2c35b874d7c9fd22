// Package model is a decoder-only language model on libtorch with switchable LoRA adapters (spec clara-model §1): the
// Llama, Mistral, Qwen2, Qwen3 and Phi-3/4 families, as an arch.Model describes them. model.go shows it from top to bottom.
//
// Sequences are packed: those of a batch lie one after another in one [T, H] tensor, T the sum of their lengths, and only
// attention looks at where one ends. There is no padding anywhere. RoPE is relative and attention causal, so a sequence
// gives the same numbers alone, packed or padded, up to rounding.
//
// Base weights are frozen: no gradient of theirs exists. A Model is for one goroutine.
package model
