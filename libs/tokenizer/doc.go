// Package tokenizer turns text into token ids and back, token for token as the
// Hugging Face `tokenizers` library does for the Llama, Mistral, Qwen, SmolLM,
// Phi, Gemma and BERT families.
//
// Input is UTF-8 text, output are ids [T] int32. A tokenizer is read from a
// Hugging Face folder (Load), from its files (Parse) or built from the
// vocabulary inside a GGUF file (FromVocab).
//
// Text has two kinds. Trusted text is written by a template: added tokens
// (`</s>`, `<|im_end|>`, `<MEM0>`) are recognised in it. Plain text comes from
// users: whatever it says, it never yields an added token (spec clara-model §2).
// EncodeMixed takes a text made of both: breaks mark the places that no added
// token may span, everything else is as if the whole were trusted. The one
// exception are added tokens made of nothing but white space that are not
// special (Gemma has them): they are part of how text is written and are
// recognised everywhere.
//
// Invalid UTF-8 is replaced by U+FFFD before anything else.
//
// Errors are Invalid (files that contradict themselves), NotFound (no
// tokenizer.json) or Unsupported (a component this package does not do, named).
// A Tokenizer does not change after it is made and is safe for concurrent use.
package tokenizer
