package score

import (
	"math/rand/v2"
	"slices"
)

// Interval is a mean with its bootstrap confidence interval.
type Interval struct {
	Mean float64 `json:"mean"`
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	N    int     `json:"n"` // samples behind it
}

// Bootstrap settings of this package's intervals: 95 %, 1000 resamples.
const (
	Resamples  = 1000
	Confidence = 0.95
)

// Bootstrap returns the mean of values and its percentile interval. The same
// values and seed give the same interval. No values give the zero Interval.
func Bootstrap(values []float64, seed uint64) Interval {
	n := len(values)
	if n == 0 {
		return Interval{}
	}
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	rng := rand.New(rand.NewPCG(seed, uint64(n)))
	means := make([]float64, Resamples)
	for i := range means {
		total := 0.0
		for range n {
			total += values[rng.IntN(n)]
		}
		means[i] = total / float64(n)
	}
	slices.Sort(means)
	at := func(q float64) float64 { return means[min(int(q*Resamples), Resamples-1)] }
	return Interval{Mean: sum / float64(n), Low: at((1 - Confidence) / 2), High: at((1 + Confidence) / 2), N: n}
}

// AnswerSummary is the scores of a set of answers, each in 0..1.
type AnswerSummary struct {
	EM, Cover, F1 Interval
	// The same by characters, for texts with Chinese.
	CharEM, CharCover, CharF1 Interval
	Excluded                  int // samples whose golds normalise to nothing
}

// Answers gathers the scores of predictions. The zero value is ready.
type Answers struct {
	columns  [6][]float64
	excluded int
}

// Add scores one prediction against its golds.
func (a *Answers) Add(prediction string, golds []string) {
	ref, char, ok := Best(prediction, golds)
	if !ok {
		a.excluded++
		return
	}
	for i, v := range []float64{number(ref.EM), number(ref.Cover), ref.F1, number(char.EM), number(char.Cover), char.F1} {
		a.columns[i] = append(a.columns[i], v)
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Summary returns means and intervals over what was added.
func (a *Answers) Summary(seed uint64) AnswerSummary {
	var i [6]Interval
	for c := range i {
		i[c] = Bootstrap(a.columns[c], seed)
	}
	return AnswerSummary{EM: i[0], Cover: i[1], F1: i[2], CharEM: i[3], CharCover: i[4], CharF1: i[5], Excluded: a.excluded}
}

// Retrieval gathers recall and precision at several k. Make one with NewRetrieval.
type Retrieval struct {
	ks                []int
	recall, precision [][]float64
	excluded          int
}

// RetrievalSummary is recall and precision at each k; Excluded counts samples without positives.
type RetrievalSummary struct {
	K         []int
	Recall    []Interval
	Precision []Interval
	Excluded  int
}

// NewRetrieval returns a gatherer for the given k, 1, 3 and 5 if none are given.
func NewRetrieval(ks ...int) *Retrieval {
	if len(ks) == 0 {
		ks = []int{1, 3, 5}
	}
	return &Retrieval{ks: ks, recall: make([][]float64, len(ks)), precision: make([][]float64, len(ks))}
}

// At returns recall and precision at k of a ranking against positives, which
// must not be empty. Recall divides by the number of positives, precision by k,
// also where fewer than k were retrieved.
func At(k int, ranked, positives []int) (recall, precision float64) {
	hits := 0
	for _, p := range positives {
		if slices.Contains(ranked[:min(k, len(ranked))], p) {
			hits++
		}
	}
	return float64(hits) / float64(len(positives)), float64(hits) / float64(k)
}

// Add scores one ranking (indices, best first).
func (r *Retrieval) Add(ranked, positives []int) {
	unique := slices.Compact(slices.Sorted(slices.Values(positives)))
	if len(unique) == 0 {
		r.excluded++
		return
	}
	for i, k := range r.ks {
		recall, precision := At(k, ranked, unique)
		r.recall[i] = append(r.recall[i], recall)
		r.precision[i] = append(r.precision[i], precision)
	}
}

// Summary returns means and intervals over what was added.
func (r *Retrieval) Summary(seed uint64) RetrievalSummary {
	s := RetrievalSummary{K: r.ks, Excluded: r.excluded}
	for i := range r.ks {
		s.Recall = append(s.Recall, Bootstrap(r.recall[i], seed))
		s.Precision = append(s.Precision, Bootstrap(r.precision[i], seed))
	}
	return s
}
