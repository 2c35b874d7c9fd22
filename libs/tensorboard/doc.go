// Package tensorboard writes scalars as event files that TensorBoard reads.
//
// A file is a row of records: the length as 8 bytes, a masked CRC-32C of those, the payload, and a masked CRC-32C of the
// payload, all little endian. The payload is an Event message of TensorFlow's event.proto. A folder may hold any number of
// files; TensorBoard reads them in the order of their names, which begin with the time they were made.
//
// Errors: Unavailable (the file cannot be made or written). A Writer is not safe for concurrent use.
package tensorboard
