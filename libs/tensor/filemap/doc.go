// Package filemap maps a file into memory for reading, so that weights are
// paged in on use and shared between processes. Where the system has no
// memory maps it reads the file instead.
package filemap
