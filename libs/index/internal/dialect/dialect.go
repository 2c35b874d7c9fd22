// Package dialect is what the embedded index does beyond Qdrant's protocol, and how
// a client knows of it.
package dialect

const (
	// Title is what the health check of the embedded index answers.
	Title = "clara embedded index"
	// Nibbles, a key of a collection's metadata with the value true, makes distances of its bytes those of two numbers
	// of 4 bits a byte.
	Nibbles = "clara_nibbles"
)
