// Package dataset reads, checks and writes the JSONL files of training and
// evaluation (the data pipeline's pretrain, instruction, end-to-end, mixed and
// raw-knowledge files).
//
// One line is one sample. Reading is by stream; every faulty line is reported
// with file, line number and reason, and the lines around it are read on.
// Older spellings are accepted:
//
//	documents  docs | context | content (a list of texts, or one text)
//	answer     answer | answers | golden_answers | gold_answer, in this order; output
//	question   question (a text, or a list) | instruction (+ input)
//
// Errors are Invalid with a *Faults inside for bad lines, NotFound and
// Unavailable for files. A Writer is not safe for concurrent use; the rest is.
package dataset
