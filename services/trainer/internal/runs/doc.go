// Package runs is the training runs of the suite (clara.trainer.v1): it makes plans
// of what users ask for, supervises the workers of one stage after the other, and
// keeps what became of them.
//
// A run is a record and a held job of the same id. The job says who does the run and
// that somebody still does: when its worker is gone (a crash, a new version of the
// service) another takes the run up from its newest checkpoint. Stopping is
// cancelling the job, resuming is retrying it. Metrics stay where the workers write
// them, in metrics.jsonl of each stage's folder.
//
// Lost workers are started again, a limited number of times in a row without a new
// checkpoint; what cannot work (bad data, settings that do not fit) ends the run at
// once.
//
// Errors: Invalid (all faults of the settings together), Denied (paths outside of the
// roots), NotFound, Conflict (another run writes to the same folder), State
// (clara-train is not there; a run in the wrong state). Safe for concurrent use.
package runs
