// Package infer runs model packages (libs/modelpkg): it compresses texts into
// memories, encodes questions and generates answers, for the three roles of a
// CLaRa model over one session and one copy of the base weights (spec
// clara-model §1, §3, §4, §6).
//
// An Engine has one goroutine that runs the model; callers wait for it. Work is
// batched by what it needs: texts by role, sorted by length, under a budget of
// tokens; requests for tokens in a running batch that they join and leave
// (continuous batching). Questions come first, then generation, then
// compression; long prompts are taken in pieces, so that nothing stalls for
// longer than Options.Stall. Each request has a row of a cache that is reserved
// when the engine opens: memory use does not grow with use.
//
// Letters: m memory tokens, H hidden size, V vocabulary, C context.
//
// Errors: Invalid (a prompt longer than the context, an id outside the
// vocabulary), Busy with a retry hint (the queue is full), State (the package
// has no adapters; the engine is closing), what ended the context, Internal.
// An Engine is safe for concurrent use.
package infer
