package stage

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/dataset"
	"github.com/clara-suite/clara/libs/prompt"
	"github.com/clara-suite/clara/libs/trainplan"
	"github.com/clara-suite/clara/services/trainer/torch/internal/net"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

// Sample is a sample as token ids.
type Sample struct {
	Name      string // file:line
	Docs      []int  // places in Data.Docs
	Query     []int32
	Input     prompt.Encoded
	Targets   int
	Positives []int // places in Docs
	Question  string
	Golds     []string
	cost      int // tokens that go through the model with a gradient
}

// Data is a data set as token ids. Documents are held once, however many samples name them.
type Data struct {
	Samples []Sample
	Docs    [][]int32 // encoder inputs
	Skipped []string  // samples without a target, with the reason
	Cut     []string  // samples whose answer does not fit max_len as a whole
	Hash    string    // of the files and of what was made of them
	files   [][]int   // samples by file
	shares  []float64
}

// Limits are what sample texts are cut to.
type limits struct {
	doc, k, maxLen int
}

// readData tokenizes the files of a plan, ahead of all training and on all cores. Faulty lines of all files come back in
// one Invalid error, and so do samples whose slots do not fit.
func readData(p trainplan.Plan, files []trainplan.Dataset, w *prompt.Writer, l limits, seed int64) (*Data, error) {
	kind := map[string]dataset.Kind{trainplan.Stage1: dataset.Pretrain, trainplan.Stage12: dataset.Instruction}[p.Stage]
	if kind == "" {
		kind = dataset.EndToEnd
	}
	sum := sha256.New()
	var raw []dataset.Sample
	var faults []error
	d := &Data{}
	for _, f := range files {
		samples, err := dataset.ReadFiles(kind, f.Path)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if err := addFile(sum, f.Path); err != nil {
			return nil, err
		}
		if f.Share > 0 {
			d.shares = append(d.shares, f.Share)
		}
		var index []int
		for _, s := range samples {
			if p.MaxSamples > 0 && len(raw) >= p.MaxSamples {
				break
			}
			index = append(index, len(raw))
			raw = append(raw, s)
		}
		d.files = append(d.files, index)
	}
	if len(faults) > 0 {
		return nil, clara.Errorf(clara.Invalid, "read the training data: %w", errors.Join(faults...))
	}
	fmt.Fprint(sum, p.Stage, l, seed)
	d.Hash = hex.EncodeToString(sum.Sum(nil))
	return d, d.encode(p, raw, w, l, seed)
}

func addFile(sum hash.Hash, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return clara.Errorf(clara.NotFound, "read the training data: %w", err)
	}
	defer f.Close()
	if _, err := io.Copy(sum, f); err != nil {
		return clara.Errorf(clara.Unavailable, "read the training data: %w", err)
	}
	return nil
}

func (d *Data) encode(p trainplan.Plan, raw []dataset.Sample, w *prompt.Writer, l limits, seed int64) error {
	// Distinct documents, in the order in which they first appear.
	place := map[string]int{}
	var texts []string
	samples := make([]Sample, len(raw))
	for i, s := range raw {
		docs := s.Docs
		if p.Stage == trainplan.Stage1 || p.Stage == trainplan.Stage12 {
			docs = docs[:min(l.k, len(docs))] // what the decoder has slots for
		}
		for _, t := range docs {
			at, ok := place[t]
			if !ok {
				at = len(texts)
				place[t], texts = at, append(texts, t)
			}
			samples[i].Docs = append(samples[i].Docs, at)
		}
	}
	d.Docs = make([][]int32, len(texts))
	parallel(len(texts), func(i int) { d.Docs[i] = w.Encoder(texts[i], l.doc) })
	errs := make([]error, len(raw))
	parallel(len(raw), func(i int) { errs[i] = samples[i].encode(p, raw[i], w, l, seed, uint64(i)) })
	var faults []error
	kept := make([]int, len(raw)) // new place of each, -1: left out
	for i, s := range samples {
		kept[i] = -1
		switch {
		case errs[i] != nil:
			faults = append(faults, errs[i])
		case s.Targets == 0 && p.Stage != trainplan.Retrieval:
			why := "its answer is empty"
			if s.Input.Cut {
				why = fmt.Sprintf("its whole answer is cut away at max_len %d", l.maxLen)
			}
			d.Skipped = append(d.Skipped, "left out "+s.Name+": "+why)
		case p.Stage == trainplan.Retrieval && len(s.Positives) == 0:
			d.Skipped = append(d.Skipped, "left out "+s.Name+": it has no pos_index")
		default:
			kept[i] = len(d.Samples)
			if s.Input.Cut && p.Stage != trainplan.Retrieval {
				d.Cut = append(d.Cut, fmt.Sprintf("%s: the end of its answer is cut away at max_len %d", s.Name, l.maxLen))
			}
			s.cost = len(s.Input.IDs) + len(s.Query)
			if p.Stage == trainplan.Stage1 || p.Stage == trainplan.Stage12 {
				for _, x := range s.Docs {
					s.cost += len(d.Docs[x])
				}
			}
			d.Samples = append(d.Samples, s)
		}
	}
	if len(faults) > 0 {
		n := len(faults)
		if n > mostFaults {
			faults = append(faults[:mostFaults], fmt.Errorf("and %d more", n-mostFaults))
		}
		return clara.Errorf(clara.Invalid, "%d samples cannot be used: %w", n, errors.Join(faults...))
	}
	for f, index := range d.files {
		var now []int
		for _, i := range index {
			if kept[i] >= 0 {
				now = append(now, kept[i])
			}
		}
		d.files[f] = now
	}
	return nil
}

// mostFaults is how many samples that cannot be used are named.
const mostFaults = 50

func (s *Sample) encode(p trainplan.Plan, raw dataset.Sample, w *prompt.Writer, l limits, seed int64, n uint64) (err error) {
	s.Name = fmt.Sprintf("%s:%d", raw.File, raw.Line)
	s.Positives, s.Golds = raw.PosIndex, raw.Golds
	k := min(l.k, len(s.Docs))
	switch {
	case p.Stage == trainplan.Stage1 && raw.DataType == dataset.Paraphrase:
		s.Input, err = w.TrainParaphrase(s.Name, prompt.DrawParaphrase(uint64(seed), n), raw.Answer(), k, l.maxLen)
	case p.Stage == trainplan.Stage1:
		s.Input, err = w.TrainQA(s.Name, raw.Questions, raw.Answers, k, l.maxLen)
	case p.Stage == trainplan.Stage12:
		s.Question = raw.Question()
		s.Input, err = w.TrainAnswer(s.Name, raw.Question(), raw.Answer(), k, l.maxLen)
	case p.Stage == trainplan.Reasoning:
		s.Question, s.Query = raw.Question(), w.Encoder(raw.Question(), l.maxLen)
		s.Input, err = w.TrainReasoning(s.Name, raw.Question(), raw.Answer(), k, l.maxLen)
	case p.Stage == trainplan.Retrieval:
		s.Question, s.Query = raw.Question(), w.Encoder(raw.Question(), l.maxLen)
	default:
		if p.MIPS {
			k = l.k
		} else if k < l.k {
			return clara.Errorf(clara.Invalid, "%s: %d candidates, generation_top_k is %d: lower it or give more candidates", s.Name, k, l.k)
		}
		s.Question, s.Query = raw.Question(), w.Encoder(raw.Question(), l.maxLen)
		s.Input, err = w.TrainAnswer(s.Name, raw.Question(), raw.Answer(), k, l.maxLen)
	}
	s.Targets = net.Targets(s.Input)
	return err
}

func parallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	workers := min(runtime.GOMAXPROCS(0), max(1, n/16))
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := w; i < n; i += workers {
				f(i)
			}
		}()
	}
	wg.Wait()
}

// load sums up what the data asks of the model.
func (d *Data) load(m int) trainplan.Load {
	l := trainplan.Load{Samples: len(d.Samples), Documents: len(d.Docs), MemoryTokens: m, MinCandidates: math.MaxInt}
	for _, x := range d.Docs {
		l.DocTokens += float64(len(x)) / float64(len(d.Docs))
	}
	n := float64(len(d.Samples))
	for _, s := range d.Samples {
		l.DocsPerSample += float64(len(s.Docs)) / n
		l.QueryTokens += float64(len(s.Query)) / n
		l.DecoderTokens += float64(len(s.Input.IDs)) / n
		l.Targets += float64(s.Targets) / n
		l.GradTokens += float64(s.cost) / n
		l.MaxGradTokens = max(l.MaxGradTokens, s.cost)
		l.MinCandidates = min(l.MinCandidates, len(s.Docs))
	}
	return l
}

// order is the order of the samples in an epoch: a random permutation seeded with seed + epoch (spec §5). Where files have
// shares, each gives its share of as many samples as there are, going round as often as needed.
func (d *Data) order(seed, epoch int64) []int {
	n := len(d.Samples)
	if len(d.shares) == 0 {
		return ints(torchx.RandPerm(seed+epoch, n))
	}
	total := 0.0
	for _, s := range d.shares {
		total += s
	}
	var pool []int
	for f, share := range d.shares {
		want := int(math.Round(share / total * float64(n)))
		for round := int64(0); want > 0 && len(d.files[f]) > 0; round++ {
			for _, i := range torchx.RandPerm((seed+epoch)*1009+round*31+int64(f), len(d.files[f])) {
				if want--; want < 0 {
					break
				}
				pool = append(pool, d.files[f][i])
			}
		}
	}
	shuffled := make([]int, 0, len(pool))
	for _, i := range torchx.RandPerm(seed+epoch, len(pool)) {
		shuffled = append(shuffled, pool[i])
	}
	return shuffled
}

func ints(v []int64) []int {
	out := make([]int, len(v))
	for i, x := range v {
		out[i] = int(x)
	}
	return out
}

// deal gives every rank its part of a batch, so that all have about the same number of tokens, longest samples first.
func (d *Data) deal(batch []int, rank, world int) []int {
	sorted := slices.Clone(batch)
	slices.SortStableFunc(sorted, func(a, b int) int { return d.Samples[b].cost - d.Samples[a].cost })
	var mine []int
	for i, s := range sorted {
		at := i % (2 * world) // there and back again
		if at >= world {
			at = 2*world - 1 - at
		}
		if at == rank {
			mine = append(mine, s)
		}
	}
	return mine
}
