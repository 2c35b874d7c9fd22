//go:build cgo

package ort

// HoldsProducts reports whether the session has products of ours, and whether this processor has what they take.
func HoldsProducts(s *Session) (holds, can bool) {
	return s.matrices != nil && s.matrices.Bytes() > 0, operatorsDomain() != ""
}
