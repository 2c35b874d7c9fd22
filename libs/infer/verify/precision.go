package verify

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/infer/ort"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/prompt"
)

// Agreement says how a model in one precision agrees with the same weights in float32.
type Agreement struct {
	Precision modelpkg.Precision `json:"precision"`
	Roles     []modelpkg.Role    `json:"roles"` // that run in it
	// Memories of texts by the encoder and the query reasoner, flattened: the least and the mean cosine. Without
	// adapters they are the hidden states of the texts' last tokens.
	Memories   int     `json:"memories"`
	CosineMin  float64 `json:"cosine_min"`
	CosineMean float64 `json:"cosine_mean"`
	// Tokens that follow prompts greedily, and how many of them are the same up to the first difference.
	Tokens int `json:"tokens"`
	Same   int `json:"same"`
	// LogitDifference is the largest difference of a logit after a prompt, as a share of the logits' spread (standard deviation).
	LogitDifference float64 `json:"logit_difference"`
	WeightBytes     int64   `json:"weight_bytes"` // of the files that its graph reads
	// NotRun says why this machine cannot tell: nothing is compared then.
	NotRun string `json:"not_run,omitempty"`
}

// alone is a bound on what requests may cost one another that none exceeds: here one follows the other.
const alone = 1e9

// steps is how many tokens follow each prompt.
const steps = 48

// Precisions compares every precision of the model package in dir with float32, which is made of the package's own
// weights in a temporary folder where the package has none: what blocks hold is spread out exactly. Errors are those of
// modelpkg.Spread and of running the model.
func Precisions(ctx context.Context, dir string, o infer.Options) ([]Agreement, error) {
	m, err := modelpkg.ReadManifest(dir)
	if err != nil {
		return nil, err
	}
	reference := dir
	if _, ok := m.Graphs[modelpkg.FP32]; !ok {
		work, err := os.MkdirTemp("", "clara-verify-*")
		if err != nil {
			return nil, clara.Errorf(clara.Unavailable, "make a folder for the model in float32: %w", err)
		}
		defer os.RemoveAll(work)
		reference = filepath.Join(work, "model")
		if err := modelpkg.Spread(ctx, dir, reference); err != nil {
			return nil, err
		}
	}
	want, err := observe(ctx, reference, modelpkg.FP32, o)
	if err != nil {
		return nil, err
	}
	var list []Agreement
	for _, p := range modelpkg.AllPrecisions() {
		if _, ok := m.Graphs[p]; !ok {
			continue
		}
		a := Agreement{}
		if lacks := ort.LacksCUDA(o.Runtime); p == modelpkg.BF16 && lacks != nil { // fp16 runs on processors, slowly
			a.NotRun = fmt.Sprintf("%s takes CUDA: %v", p, lacks)
		} else {
			got, err := observe(ctx, dir, p, o)
			if err != nil {
				return nil, fmt.Errorf("run %s: %w", p, err)
			}
			a = want.compare(got)
		}
		a.Precision, a.WeightBytes = p, m.WeightBytes(p)
		for _, r := range []modelpkg.Role{modelpkg.Base, modelpkg.Encoder, modelpkg.Reasoner, modelpkg.Decoder} {
			if _, has := m.Adapters[r]; (has || r == modelpkg.Base) && m.Precision(r) == p {
				a.Roles = append(a.Roles, r)
			}
		}
		list = append(list, a)
	}
	return list, nil
}

// observed is what a model makes of the texts and prompts.
type observed struct {
	memories [][]float32
	logits   [][]float32
	tokens   [][]int32
}

func observe(ctx context.Context, dir string, p modelpkg.Precision, o infer.Options) (seen observed, err error) {
	o.Precision, o.Streams, o.Slowdown = p, 1, alone
	e, err := infer.Open(ctx, dir, o)
	if err != nil {
		return seen, err
	}
	defer func() { err = errors.Join(err, e.Close(context.WithoutCancel(ctx))) }()
	m := e.Manifest()
	if m.HasAdapters() {
		for _, role := range []infer.Role{infer.Encoder, infer.Reasoner} {
			var ids [][]int32
			for _, text := range texts() {
				ids = append(ids, e.Prompts().Encoder(text, m.DocMaxLength))
			}
			list, err := e.Compress(ctx, role, ids)
			if err != nil {
				return seen, err
			}
			for _, x := range list {
				seen.memories = append(seen.memories, x.Data)
			}
		}
	}
	for i, text := range texts() {
		in, err := e.Prompts().Chat([]prompt.Message{{Role: "user", Content: []prompt.Part{prompt.Plain(questions()[i%len(questions())] + "\n\n" + text)}}}, 0)
		if err != nil {
			return seen, err
		}
		ids := in.IDs[:min(len(in.IDs), max(1, e.Options().Context-steps))]
		p, adapter := infer.Prompt{IDs: ids}, false
		if i%2 == 1 && m.HasAdapters() { // half of them from a memory, with the decoder's adapter
			filled, err := e.Prompts().Answer(questions()[i%len(questions())], 1, 0)
			if err != nil {
				return seen, err
			}
			if p, err = infer.Fill(filled, []clara.Memory{{M: m.M, H: m.H, Data: seen.memories[i]}}); err != nil {
				return seen, err
			}
			adapter = true
		}
		logits, err := e.Logits(ctx, p, adapter)
		if err != nil {
			return seen, err
		}
		seen.logits = append(seen.logits, logits)
		ids, err = greedy(ctx, e, p, adapter)
		if err != nil {
			return seen, err
		}
		seen.tokens = append(seen.tokens, ids)
	}
	return seen, nil
}

// greedy returns the tokens that follow a prompt.
func greedy(ctx context.Context, e *infer.Engine, p infer.Prompt, adapter bool) ([]int32, error) {
	var ids []int32
	_, err := e.Generate(ctx, infer.Request{Prompt: p, Adapter: adapter, MaxTokens: min(steps, e.Options().Context-len(p.IDs)), StopIDs: []int32{}}, func(t infer.Token) error {
		if t.ID >= 0 {
			ids = append(ids, t.ID)
		}
		return nil
	})
	return ids, err
}

func (want observed) compare(got observed) Agreement {
	a := Agreement{CosineMin: 1, CosineMean: 1}
	sum := 0.0
	vectors, other := want.memories, got.memories
	if len(vectors) == 0 { // no adapters: what the model says of the next token
		vectors, other = want.logits, got.logits
	}
	for i, x := range vectors {
		c := cosineOf(x, other[i])
		a.CosineMin = min(a.CosineMin, c)
		sum += c
	}
	a.Memories = len(vectors)
	a.CosineMean = sum / float64(max(len(vectors), 1))
	for i, x := range want.logits {
		mean, square, worst := 0.0, 0.0, 0.0
		for j, v := range x {
			mean += float64(v)
			square += float64(v) * float64(v)
			worst = max(worst, math.Abs(float64(v)-float64(got.logits[i][j])))
		}
		n := float64(len(x))
		if spread := math.Sqrt(max(square/n-mean*mean/n/n, 0)); spread > 0 {
			a.LogitDifference = max(a.LogitDifference, worst/spread)
		}
	}
	for i, ids := range want.tokens {
		a.Tokens += len(ids)
		for j, id := range ids {
			if j >= len(got.tokens[i]) || got.tokens[i][j] != id {
				break
			}
			a.Same++
		}
	}
	return a
}

func cosineOf(a, b []float32) float64 {
	var ab, aa, bb float64
	for i := range a {
		ab += float64(a[i]) * float64(b[i])
		aa += float64(a[i]) * float64(a[i])
		bb += float64(b[i]) * float64(b[i])
	}
	if aa == 0 || bb == 0 {
		return 0
	}
	return ab / math.Sqrt(aa*bb)
}

func questions() []string {
	return []string{"What is this about?", "List the figures that it names.", "Who is responsible, and by when?", "Sum it up in one sentence."}
}

// texts are short passages of several kinds.
func texts() []string {
	return []string{
		"The harbour office keeps a register of every buoy. Each entry holds the position, the depth of the anchor and the date of the last inspection. A buoy that drifts more than forty metres is reported within two hours.",
		"Travel expenses are paid back within thirty days. Receipts go to the finance desk by the fifth of the following month; without a receipt at most 20 euros a day are paid. Flights above 800 euros need the approval of the head of department before they are booked.",
		"Warranty. The maker repairs or replaces the pump free of charge for 24 months from the date of purchase. The warranty ends where the housing was opened, or where the filter was not changed every 500 hours of work.",
		"The Petrel is a small coastal buoy made in Norway. It was designed by Ingrid Solheim in 2014 and reports wind, waves and water temperature every 60 minutes over a satellite link.",
		"请假须提前三个工作日在系统中提交申请。年假每年十五天，未使用的假期最多可结转五天至次年三月底。病假超过两天须附医院证明。",
		"Section 4.2: The tenant gives notice three months before the end of a quarter. The deposit of two monthly rents is returned within six weeks after the keys are handed over, less the cost of repairs that the tenant owes.",
		"In 1905 Albert Einstein published four papers, on the photoelectric effect, Brownian motion, special relativity and the equivalence of mass and energy. He received the Nobel Prize in Physics for 1921.",
		"| Site | Staff | Opened |\n| --- | --- | --- |\n| Lisbon | 41 | 2011 |\n| Qingdao | 118 | 2016 |\n| Tromsø | 9 | 2022 |",
	}
}
