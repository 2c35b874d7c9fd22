// Package lifecycle starts the parts of a process in order, runs them until the
// first failure or signal, and stops them in reverse.
//
// The order on the way down is fixed: readiness goes first, so that callers turn
// to another replica; then every unit drains, last started first (a server
// refuses new calls and ends the ones it has while what they use still runs);
// then every unit stops in reverse, within a deadline. A second signal skips
// the waiting.
//
// Readiness is a registry of named conditions ("events", "model/smollm2") that
// health checks read.
package lifecycle
