// Package cli is the commands of `clara` that talk to running services: what a
// person types, and what is printed for them. Every command has --json.
//
// Commands print results on standard output, progress and warnings on standard
// error. Errors carry the service's own words.
package cli
