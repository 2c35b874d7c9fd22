// Package index keeps passages and their memories in Qdrant, or in any server
// of the same gRPC protocol (see the package embedded), and searches them.
//
// A collection's name is an alias to a physical index, whose name adds the hash
// of the encoder and splitting that made it (see [Name]); moving the alias
// swaps a whole index in one step. [Client] makes, lists, moves and drops them;
// [Index] writes, searches and reads one.
//
// # What a point holds
//
// A memory of shape [m, H] is flattened to D = m*H values. How they are kept is a
// setting of the index ([Schema.Memories]); what one takes is [Schema.MemoryBytes],
// what comes back is [Schema.Stored]. All of it works on Qdrant and on the embedded
// index alike.
//
//   - [FP16]: divided by a scale so that their root mean square is 1, and stored in
//     half precision. The scale is in the payload, so the memory comes back as it went
//     in: each value within a relative 2^-11 of itself, or within 2^-25 of the memory's
//     root mean square where it is smaller than 2^-14 of that.
//   - [Int8], [Int4]: each slot is rotated (a fixed transform that spreads large values
//     over the whole slot), rounded to 255 or 16 steps, and stored as bytes, one or half
//     a byte a value, with a scale for each slot in the payload. Each slot keeps its
//     direction to a cosine of about 0.9999 or 0.994.
//
// Scores are cosines against the memory as stored: its length is in the payload
// too, and no normalisation of the server's is relied on. Bytes are compared by
// Euclidean distance, which orders memories of equal length as their cosines do;
// the best of them, and some more, are then ranked by the cosine of the question as
// it is. For Int4, Qdrant's distances of bytes see one half of the values (the high
// four bits), so 10 times as many candidates are ranked, and what a search finds is
// not always what brute force would ([Index.Exact]); the embedded index compares all.
//
// Up to 65,536 values or bytes (the most that a dense vector of Qdrant takes) a
// memory is one vector and is searched as it is. A larger one, or any when
// [Schema.Key] is set, is split into equal parts, and a key of [Key.Dims]
// values, a fixed random projection (see [Key]), finds 10*k candidates; partial
// dot products of the parts, added up, then rank these by the cosine of the
// whole memory. Beyond [MaxMemory] values a memory is refused.
//
// Text is stored as BM25 term weights in a sparse vector (see the package
// bm25); the server multiplies by the inverse document frequency.
//
// # Errors
//
// Unavailable: the server can't be reached, or has no disk space; NotFound: no
// such index or point; Invalid: impossible requests, non-finite numbers; State:
// a memory of another shape than the index, a refused API key; Unsupported: a
// memory too large, or a server too old; Corrupt: a point that does not read
// back as written; Busy: the server's limits. Contexts that end are reported as
// such. All methods are safe for concurrent use.
package index
