//go:build !linux || !amd64 || !cgo

package ort

// Matrices is for products of ours, which there are none of here.
type Matrices struct{}

// NewMatrices returns an empty set.
func NewMatrices() *Matrices { return &Matrices{} }

// Bytes is the memory that they take.
func (*Matrices) Bytes() int64 { return 0 }

// Close gives the memory back.
func (*Matrices) Close() error { return nil }
