// Package clara holds the domain of the suite: what a document, a passage, a
// memory, a candidate and an answer are, and the kinds of error that every
// service reports. It has no dependencies and does no I/O.
//
// Tensor letters, everywhere in the project: B batch, N candidates, k kept,
// m memory tokens a passage, T tokens, H hidden size, V vocabulary.
package clara
