// Package blob keeps files, passage sets, data sets, checkpoints and model
// packages as blobs under keys: in a folder, in an S3-compatible bucket, or in
// memory for tests, by URL:
//
//	/var/lib/clara/blobs, file:///var/lib/clara/blobs   a folder
//	s3://bucket?region=..&endpoint=..                   a bucket, credentials from the environment
//	mem://                                              memory
//
// A blob appears whole or not at all. In a folder it is on disk, name included,
// when Put returns. Keys are relative paths of letters, digits and . _ - = + @ ,
// and cannot leave the folder.
//
// PutContent stores bytes under their own SHA-256: twice is once. A Cache
// brings content to a local file and checks it before it is used.
//
// Errors are NotFound, Invalid (keys, URLs), Corrupt (content that does not have
// its hash), Unavailable (storage that cannot be reached or is full). Safe for
// concurrent use.
package blob
