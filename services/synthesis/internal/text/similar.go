package text

import (
	"hash/fnv"
	"slices"
)

// Shingles are the hashes of pairs of neighbouring words, ends included, ascending and distinct.
func Shingles(s string) []uint64 {
	words := Words(s)
	out := make([]uint64, 0, len(words)+1)
	last := ""
	for _, w := range append(words, "") {
		h := fnv.New64a()
		_, _ = h.Write([]byte(last + "\x00" + w)) // never fails
		out = append(out, h.Sum64())
		last = w
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Jaccard is the share of what two ascending lists have in common: 0 to 1.
func Jaccard(a, b []uint64) float64 {
	common := common(a, b)
	if common == 0 {
		return 0
	}
	return float64(common) / float64(len(a)+len(b)-common)
}

// Within is the share of a that is in b, both ascending: 0 to 1.
func Within(a, b []uint64) float64 {
	if len(a) == 0 {
		return 0
	}
	return float64(common(a, b)) / float64(len(a))
}

func common(a, b []uint64) int {
	n, i, j := 0, 0, 0
	for i < len(a) && j < len(b) {
		switch {
		case a[i] == b[j]:
			n++
			i++
			j++
		case a[i] < b[j]:
			i++
		default:
			j++
		}
	}
	return n
}

// The signature: texts whose Jaccard similarity is 0.8 share a band with a probability above 0.999.
const (
	bands = 16
	rows  = 4
)

// Index finds near-duplicates among many texts by MinHash, in time that does not grow with their number. The zero
// value is empty. Not safe for concurrent use.
type Index struct {
	buckets map[[2]uint64][]int // band and its hash -> texts
	texts   [][]uint64
}

// Near adds a text unless one that is at least so similar is in it, and reports whether one was.
func (x *Index) Near(s string, similarity float64) bool {
	if x.buckets == nil {
		x.buckets = map[[2]uint64][]int{}
	}
	shingles := Shingles(s)
	keys := signature(shingles)
	for _, k := range keys {
		for _, i := range x.buckets[k] {
			if Jaccard(shingles, x.texts[i]) >= similarity {
				return true
			}
		}
	}
	for _, k := range keys {
		x.buckets[k] = append(x.buckets[k], len(x.texts))
	}
	x.texts = append(x.texts, shingles)
	return false
}

func signature(shingles []uint64) [][2]uint64 {
	out := make([][2]uint64, bands)
	for b := range bands {
		h := uint64(14695981039346656037)
		for r := range rows {
			least := ^uint64(0)
			for _, s := range shingles {
				least = min(least, mix(s^mix(uint64(b*rows+r+1))))
			}
			h = mix(h ^ least)
		}
		out[b] = [2]uint64{uint64(b), h}
	}
	return out
}

// mix is the finaliser of SplitMix64: a permutation whose bits look random.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb
	return x ^ (x >> 31)
}
