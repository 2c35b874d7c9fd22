// Package worker runs the processes that train one stage: one clara-train a rank,
// started the torchrun way (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE,
// MASTER_ADDR, MASTER_PORT). The plan goes in as a file of JSON, progress comes out
// as events, one JSON object a line (libs/trainplan); what else a worker writes is
// its log, kept in the run's folder as rank-N.log.
//
// When the context ends, every rank gets SIGTERM, saves and leaves; one that does
// not is killed after a time. If a rank is lost, so is the group: the others get
// the same treatment, and the error says what became of the one that went first.
// Workers do not outlive this process where the system allows it (Linux).
//
// Errors: those that a worker reports, with their kind; Unavailable for a process
// that was killed or died without a word; State if clara-train is not there.
package worker
