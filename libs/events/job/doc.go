// Package job keeps the jobs of the suite (clara.job.v1.Job): long work that a
// user can watch, cancel and retry, whichever service does it.
//
// There are two kinds. A held job has one worker at a time: Create it, Start it,
// report to its Run, Finish. The worker promises to be heard of again (a lease);
// if it is not, the reaper of its service resumes or fails the job. An open job
// is spread over events and replicas: CreateOpen, SetItem for each part from
// wherever it is done, Seal when nothing more comes. Its totals are computed from
// the items, which are stored one by one, so an event that is handled twice
// counts once; the job ends by itself when it is sealed and all items have ended.
//
// A job is moving or ended, never stuck: leases run out, and an open job that
// nobody seals or adds to any more seals itself. Progress is announced over plain
// NATS as it happens and stored at most once a second. Late reports of a worker
// that has lost its lease are refused (Conflict).
//
// Handler is the RPC service over all of it. Safe for concurrent use.
package job
