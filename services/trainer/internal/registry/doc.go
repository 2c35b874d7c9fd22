// Package registry is the models of the suite (clara.model.v1): it imports
// packages into the blob store, lists and deletes them, and keeps the one record
// there is beside them: which package is active.
//
// Imports are held jobs: a crash resumes them from the start, for a package
// becomes visible only as a whole. Activations are open jobs of ingest, which
// moves the collections: this package stores which model is active, publishes
// clara.model.activated.v1 and leaves the rest to it.
//
// Errors: Invalid (names, sources that do not belong together), Denied (paths
// outside of the roots), NotFound (no such model), State (a model in use), those
// of modelpkg.Import, Unavailable. Safe for concurrent use.
package registry
