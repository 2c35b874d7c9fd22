// Package candidate chooses the documents that a question comes with: its positives
// and the wrong ones beside them. Equal inputs and seeds give equal choices.
package candidate

import (
	"cmp"
	"context"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/clara-suite/clara/libs/index/bm25"
	"github.com/clara-suite/clara/services/synthesis/internal/text"
)

// Ranker orders chunks by how good they are as wrong candidates for a question.
type Ranker interface {
	// Rank returns up to n chunks, best first.
	Rank(ctx context.Context, q Question, n int) ([]int, error)
}

// Question is what candidates are chosen for.
type Question struct {
	ID        string // makes the choice its own
	Text      string
	Answer    string // "" for one that nothing answers
	Positives []int  // chunks
}

// Random orders chunks by chance.
type Random struct {
	N    int
	Seed int64
}

// Rank implements Ranker.
func (r Random) Rank(_ context.Context, q Question, n int) ([]int, error) {
	rng := generator(r.Seed, "random", q.ID)
	if n >= r.N {
		return rng.Perm(r.N), nil
	}
	// n of N without making all N: Floyd's way, then shuffled.
	seen := map[int]bool{}
	out := make([]int, 0, n)
	for i := r.N - n; i < r.N; i++ {
		x := rng.IntN(i + 1)
		if seen[x] {
			x = i
		}
		seen[x] = true
		out = append(out, x)
	}
	rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out, nil
}

// generator makes random numbers that depend on the seed and on what they are for, and on nothing else.
func generator(seed int64, what, id string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(what + "\x00" + id)) // never fails
	return rand.New(rand.NewPCG(uint64(seed), h.Sum64()))
}

// BM25 orders chunks by the words they share with the question.
type BM25 struct {
	postings map[uint32][]posting
	n        int
}

type posting struct {
	chunk  int32
	weight float32
}

// NewBM25 indexes chunks.
func NewBM25(chunks []string) *BM25 {
	b := &BM25{postings: map[uint32][]posting{}, n: len(chunks)}
	for i, c := range chunks {
		ids, weights := bm25.Document(c)
		for j, id := range ids {
			b.postings[id] = append(b.postings[id], posting{int32(i), weights[j]})
		}
	}
	return b
}

// Rank implements Ranker.
func (b *BM25) Rank(_ context.Context, q Question, n int) ([]int, error) {
	return b.Search(q.Text, n), nil
}

// Search returns the up to n chunks that share most with a text, best first.
func (b *BM25) Search(s string, n int) []int {
	ids, _ := bm25.Query(s)
	scores := map[int]float64{}
	for _, id := range ids {
		list := b.postings[id]
		idf := math.Log(1 + (float64(b.n)-float64(len(list))+0.5)/(float64(len(list))+0.5))
		for _, p := range list {
			scores[int(p.chunk)] += idf * float64(p.weight)
		}
	}
	return best(scores, n)
}

func best(scores map[int]float64, n int) []int {
	out := make([]int, 0, len(scores))
	for i := range scores {
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b int) int { return cmp.Or(cmp.Compare(scores[b], scores[a]), cmp.Compare(a, b)) })
	return out[:min(n, len(out))]
}

// Vectors orders chunks by the cosine of their embeddings to the first positive's.
type Vectors struct{ unit [][]float32 }

// NewVectors takes one embedding a chunk, all of one length; they are made unit length in place.
func NewVectors(v [][]float32) *Vectors {
	for _, x := range v {
		var sum float64
		for _, y := range x {
			sum += float64(y) * float64(y)
		}
		if sum == 0 {
			continue
		}
		scale := float32(1 / math.Sqrt(sum))
		for i := range x {
			x[i] *= scale
		}
	}
	return &Vectors{v}
}

// Rank implements Ranker. A question without a positive has no place among the chunks and gets nothing.
func (v *Vectors) Rank(_ context.Context, q Question, n int) ([]int, error) {
	if len(q.Positives) == 0 {
		return nil, nil
	}
	from := v.unit[q.Positives[0]]
	scores := make(map[int]float64, len(v.unit))
	for i, to := range v.unit {
		var dot float32
		for j, x := range from {
			dot += x * to[j]
		}
		scores[i] = float64(dot)
	}
	return best(scores, n), nil
}

// Selector chooses candidates.
type Selector struct {
	Ranker Ranker
	K      int
	Seed   int64

	chunks   []string
	shingles [][]uint64
	normal   []string
	terms    []map[string]bool
}

// NewSelector prepares the choice among chunks.
func NewSelector(chunks []string, r Ranker, k int, seed int64) *Selector {
	s := &Selector{Ranker: r, K: k, Seed: seed, chunks: chunks}
	for _, c := range chunks {
		s.shingles = append(s.shingles, text.Shingles(c))
		s.normal = append(s.normal, " "+text.Normal(c)+" ")
		terms := map[string]bool{}
		for _, t := range bm25.Terms(c) {
			terms[t] = true
		}
		s.terms = append(s.terms, terms)
	}
	return s
}

// Choice is what was chosen.
type Choice struct {
	Chunks    []int // in the order of the sample's documents
	Positives []int // places in Chunks, ascending
	// Filtered counts chunks that were left out because they may answer the question too.
	Filtered int
}

// Choose returns the positives and as many negatives as make K, shuffled. There are fewer than K if there are not
// enough chunks that do not answer the question.
func (s *Selector) Choose(ctx context.Context, q Question) (Choice, error) {
	negatives, filtered, err := s.Negatives(ctx, q, nil, s.K-len(q.Positives))
	c := Choice{Chunks: append(slices.Clone(q.Positives), negatives...), Positives: []int{}, Filtered: filtered}
	if err != nil {
		return c, err
	}
	generator(s.Seed, "order", q.ID).Shuffle(len(c.Chunks), func(i, j int) { c.Chunks[i], c.Chunks[j] = c.Chunks[j], c.Chunks[i] })
	for at, i := range c.Chunks {
		if slices.Contains(q.Positives, i) {
			c.Positives = append(c.Positives, at)
		}
	}
	return c, nil
}

// Negatives returns up to want chunks that do not answer the question, nor say what one of beside says, best ones
// first; and how many were left out because they may answer it.
func (s *Selector) Negatives(ctx context.Context, q Question, beside []int, want int) (negatives []int, filtered int, err error) {
	tried := map[int]bool{}
	for _, i := range slices.Concat(q.Positives, beside) {
		tried[i] = true
	}
	take := func(list []int) {
		for _, i := range list {
			if len(negatives) >= want {
				return
			}
			if tried[i] {
				continue
			}
			tried[i] = true
			switch {
			case s.answers(i, q):
				filtered++
			case !s.repeats(i, beside) && !s.repeats(i, negatives):
				negatives = append(negatives, i)
			}
		}
	}
	// Most of what is ranked first passes; when it does not, all are looked at. What no ranker knows is left to chance.
	for _, look := range []struct {
		ranker Ranker
		n      int
	}{{s.Ranker, 4*s.K + 16}, {s.Ranker, len(s.chunks)}, {Random{len(s.chunks), s.Seed}, len(s.chunks)}} {
		if len(negatives) >= want {
			break
		}
		ranked, err := look.ranker.Rank(ctx, q, look.n)
		if err != nil {
			return nil, filtered, err
		}
		take(ranked)
	}
	return negatives, filtered, nil
}

const (
	// alike is how much two chunks have in common that say the same.
	alike = 0.5
	// within is how much of the shorter one lies in the longer.
	within = 0.7
	// shortAnswer is the length in characters from which the answer's own words, found in a chunk, count as the answer.
	shortAnswer = 4
	// mostTerms are the shares of the answer's and the question's content words that make a chunk an answer.
	answerTerms, questionTerms = 0.9, 0.6
)

// answers reports whether a chunk may answer the question too: it is a near-duplicate of a positive, or holds the answer.
func (s *Selector) answers(i int, q Question) bool {
	for _, p := range q.Positives {
		if s.same(i, p) {
			return true
		}
	}
	if q.Answer == "" {
		return false
	}
	answer := text.Normal(q.Answer)
	if len([]rune(answer)) >= shortAnswer && strings.Contains(s.normal[i], " "+answer+" ") {
		return true
	}
	return s.share(i, q.Answer) >= answerTerms && s.share(i, q.Text) >= questionTerms
}

// share is the share of a text's content words that are in a chunk.
func (s *Selector) share(i int, of string) float64 {
	terms := bm25.Terms(of)
	if len(terms) == 0 {
		return 0
	}
	found := 0
	for _, t := range terms {
		if s.terms[i][t] {
			found++
		}
	}
	return float64(found) / float64(len(terms))
}

func (s *Selector) same(i, j int) bool {
	a, b := s.shingles[i], s.shingles[j]
	if len(a) > len(b) {
		a, b = b, a
	}
	return text.Jaccard(a, b) >= alike || text.Within(a, b) >= within
}

// repeats reports whether a chunk says what a chosen one says.
func (s *Selector) repeats(i int, chosen []int) bool {
	return slices.ContainsFunc(chosen, func(j int) bool { return s.same(i, j) })
}
