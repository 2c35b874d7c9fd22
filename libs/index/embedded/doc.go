// Package embedded is an index server that speaks the part of Qdrant's gRPC
// protocol that the package index uses: in the same process through
// [Server.Dial], or over TCP through [Server.Serve]. Anything else answers
// UNIMPLEMENTED and says so.
//
// Searches are exact. Dense vectors lie in memory-mapped files, in half precision
// (distance Dot) or as bytes (distance Euclid), and are scanned by all processors;
// sparse vectors are in an inverted index in memory, and inverse document frequencies
// are those of the points that live at the time of the search. Filters are applied
// before. One thing goes beyond the protocol: where a collection's metadata has
// clara_nibbles, a byte is two numbers of 4 bits to a distance.
//
// # On disk
//
//	LOCK             held while a server has the folder open
//	manifest.json    which collection is in which folder, and the aliases; replaced as a whole
//	c000001/         a collection
//	  collection.json  its configuration, indexed payload fields and current generation; replaced as a whole
//	  log.000001       points and deletions, appended; one checksummed record for each write
//	  v0.000001 ..     the rows of a dense vector: slot i at byte i*stride, little-endian halves or bytes
//
// A write is acknowledged after the rows, then the record that refers to them,
// are synced. At the start, a torn last record is cut off (nothing acknowledged
// is in it); damage anywhere before it is reported as corruption instead. When
// more points are dead than alive, what lives is rewritten as a new generation.
// If a sync fails, the collection takes no more writes until it is opened again,
// for what the disk holds is then unknown.
package embedded
