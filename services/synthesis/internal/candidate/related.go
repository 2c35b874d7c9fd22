package candidate

import (
	"hash/fnv"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/clara-suite/clara/libs/index/bm25"
)

// Related finds chunks that have something in common. How related two are depends on the two alone, unlike BM25, where
// it depends on all others too: a chunk that comes or goes changes the choice of no two others.
type Related struct {
	chunks   []string
	weights  []float64          // of all terms of a chunk together
	postings map[string][]int32 // chunks by term
}

// NewRelated indexes chunks.
func NewRelated(chunks []string) *Related {
	r := &Related{chunks: chunks, weights: make([]float64, len(chunks)), postings: map[string][]int32{}}
	for i, c := range chunks {
		for _, t := range terms(c) {
			r.weights[i] += weight(t)
			r.postings[t] = append(r.postings[t], int32(i))
		}
	}
	return r
}

func terms(chunk string) []string {
	list := bm25.Terms(chunk)
	slices.Sort(list)
	return slices.Compact(list)
}

// weight is how much a term says: long words are rare ones, and a Chinese term is a pair of characters.
func weight(term string) float64 {
	n := utf8.RuneCountInString(term)
	if len(term) > n { // not Latin
		n *= 3
	}
	return math.Pow(float64(min(n, 12)), 1.5)
}

// leastRelated is the share of their terms that two chunks have to have in common.
const leastRelated = 0.08

// Best returns the chunk most related to chunk i that fits, false if there is none.
func (r *Related) Best(i int, fits func(j int) bool) (int, bool) {
	common := map[int32]float64{}
	for _, t := range terms(r.chunks[i]) {
		for _, j := range r.postings[t] {
			common[j] += weight(t)
		}
	}
	delete(common, int32(i))
	type other struct {
		chunk int32
		score float64
		tie   uint64
	}
	var list []other
	for j, w := range common {
		if score := w / math.Sqrt(r.weights[i]*r.weights[j]); score >= leastRelated {
			h := fnv.New64a()
			_, _ = h.Write([]byte(r.chunks[i] + "\x00" + r.chunks[j])) // never fails
			list = append(list, other{j, math.Round(score * 1e9), h.Sum64()})
		}
	}
	slices.SortFunc(list, func(a, b other) int {
		switch {
		case a.score != b.score:
			if a.score > b.score {
				return -1
			}
			return 1
		case a.tie < b.tie:
			return -1
		}
		return 1
	})
	for _, o := range list {
		if fits(int(o.chunk)) {
			return int(o.chunk), true
		}
	}
	return 0, false
}
