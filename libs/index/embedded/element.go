package embedded

import (
	"math"
	"unsafe"

	"github.com/qdrant/go-client/qdrant"

	"github.com/clara-suite/clara/libs/index/internal/dialect"
	"github.com/clara-suite/clara/libs/index/internal/half"
	"github.com/clara-suite/clara/libs/index/internal/octet"
)

// element is what a dense vector consists of, and what its points are ordered by: dot products of halves, the
// largest first, or Euclidean distances of bytes or of their halves of 4 bits, the smallest first.
type element uint8

const (
	halves element = iota
	octets
	nibbles
)

// elementOf returns what a vector is asked to consist of; false for what there is not.
func elementOf(p *qdrant.VectorParams, metadata map[string]*qdrant.Value) (element, bool) {
	switch {
	case p.GetDistance() == qdrant.Distance_Dot && p.GetDatatype() == qdrant.Datatype_Float16:
		return halves, true
	case p.GetDistance() == qdrant.Distance_Euclid && p.GetDatatype() == qdrant.Datatype_Uint8:
		if metadata[dialect.Nibbles].GetBoolValue() {
			return nibbles, true
		}
		return octets, true
	}
	return 0, false
}

// size is the bytes of one element.
func (e element) size() int {
	if e == halves {
		return 2
	}
	return 1
}

// check says what is wrong with the numbers of a vector; empty if nothing is.
func (e element) check(data []float32) string {
	if e != halves {
		for _, v := range data {
			if !(v >= 0 && v <= 255 && v == float32(uint8(v))) {
				return "a value is not a whole number from 0 to 255"
			}
		}
		return ""
	}
	for _, v := range data {
		if !(v <= half.Max && v >= -half.Max) {
			return "a value is not within half precision"
		}
	}
	return ""
}

// encode writes a vector to its row.
func (e element) encode(row []byte, v []float32) {
	if e != halves {
		for i, x := range v {
			row[i] = uint8(x)
		}
		return
	}
	half.Encode(asHalves(row, len(v)), v)
}

// decode reads a vector from its row.
func (e element) decode(v []float32, row []byte) {
	if e != halves {
		for i := range v {
			v[i] = float32(row[i])
		}
		return
	}
	half.Decode(v, asHalves(row, len(v)))
}

// scorer returns what compares rows with a query: the higher, the better.
func (e element) scorer(q []float32) func(row []byte) float32 {
	if e == halves {
		return func(row []byte) float32 { return half.Dot(q, asHalves(row, len(q))) }
	}
	distance := octet.Distance
	if e == nibbles {
		distance = octet.Nibbles
	}
	b := make([]uint8, len(q))
	e.encode(b, q)
	return func(row []byte) float32 { return -float32(distance(b, row[:len(b)])) }
}

// score is what a reply says for what scorer returned.
func (e element) score(s float32) float32 {
	if e != halves {
		return float32(math.Sqrt(-float64(s)))
	}
	return s
}

func asHalves(row []byte, n int) []uint16 { return unsafe.Slice((*uint16)(unsafe.Pointer(&row[0])), n) }
