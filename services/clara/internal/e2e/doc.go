// Package e2e tests the suite as its users meet it: the programs themselves, run
// as processes, spoken to through the command line, RPC and events. It has tests
// only. They are not built with the race detector: it would watch the tests, not the programs.
package e2e
