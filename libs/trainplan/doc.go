// Package trainplan is what a training run is told and what it tells: the Plan with every parameter resolved (spec
// data-pipeline, "Training parameters", spec clara-model §5), the Events of its progress, and the checks and estimates made
// before any long work begins. It is pure Go: the trainer service and the command line use it as the worker does.
//
// A Build gathers settings under the names that users have in their scripts and environment; each is taken, mapped to what
// replaces it (with a Note), or refused with the name of what replaces it. All faults come back together, as Invalid.
//
// Units: lengths are tokens, memory is bytes, times are seconds, rates per step or second as named.
package trainplan
