// Package torchx is the one door to libtorch: tensors, the scope that owns them, autograd with recomputation, the
// optimizer, random numbers and collective calls.
//
// A Scope frees every tensor made in it. Calls inside Do do not return errors: a fault of libtorch unwinds to Do, which
// returns it. Grad mode, random state and the last error belong to an OS thread, so Do locks the goroutine to its own.
//
// Plain operators are gotch's bindings (package libtch). Gotch's own tensor type is not used: it allocates 100 kB of Go
// memory a handle and leaks what its in-place methods replace. What gotch lacks is in shim.h.
package torchx
