// Package prompt writes everything that a CLaRa model reads as token ids
// (spec clara-model §3 and §4): encoder inputs of documents and questions,
// decoder prompts with document slots, and training samples with their labels.
//
// A Template is a model's Jinja chat template, rendered as Hugging Face does
// (trim_blocks, lstrip_blocks, raise_exception, enable_thinking = false). The
// texts of users go through it as Plain parts: no added token is ever
// recognised in them, while the ids are in all other respects those of the
// whole rendered text.
//
// A Writer joins a template and a tokenizer. Its ids are int32, [T]. Slots name
// where the m memory vectors of each document go; the `<SEP>` after them is an
// ordinary token. Labels are the ids themselves, or Masked.
//
// Errors are Invalid (a template or a sample that cannot work, named) or
// Unsupported (a Jinja feature that is not there). Both types are safe for
// concurrent use.
package prompt
