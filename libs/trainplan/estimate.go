package trainplan

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
)

// Load is what the data asks of the model, a sample on average unless it says otherwise.
type Load struct {
	Samples       int
	Documents     int     // distinct, in all samples
	DocTokens     float64 // of one document in the encoder, memory tokens included
	DocsPerSample float64
	QueryTokens   float64 // in the query reasoner
	DecoderTokens float64
	Targets       float64
	GradTokens    float64 // through the model with a gradient
	MaxGradTokens int     // of the longest sample
	MinCandidates int     // the fewest documents of a sample
	MemoryTokens  int     // m
	Fresh         bool    // memory rows are trained too
}

// Machine is what a run has at its disposal.
type Machine struct {
	Memory int64   // bytes that are free; 0: unknown
	FLOPS  float64 // reached in training; 0: no time is estimated
}

// Estimate is what a run is going to need.
type Estimate struct {
	Trained     int64   `json:"trained_parameters"`
	Steps       int     `json:"steps"`
	Memory      int64   `json:"memory"` // at its peak
	Base        int64   `json:"memory_base"`
	State       int64   `json:"memory_state"` // masters, gradients, optimizer
	Activations int64   `json:"memory_activations"`
	FLOPs       float64 `json:"flops"`
	Seconds     float64 `json:"seconds,omitempty"`
}

// Estimate computes what the plan needs on model a. Memory is for one rank.
func (p Plan) Estimate(a arch.Model, l Load, rank int, machine Machine) Estimate {
	linear := int64(0)
	adapter := int64(0)
	for _, lin := range a.Linears() {
		linear += int64(lin.In) * int64(lin.Out) * int64(a.Layers)
		adapter += int64(rank) * int64(lin.In+lin.Out) * int64(a.Layers)
	}
	width := int64(4)
	if p.BF16 {
		width = 2
	}
	weight := width * linear
	switch p.Bits() { // with a scale for every 32 columns
	case 8:
		weight = linear + linear/32*width
	case 4:
		weight = linear/2 + linear/32*width
	}
	if p.ZeroStage == 3 { // a part of every layer, and one whole layer at a time
		weight = weight/int64(max(1, p.World)) + weight/int64(max(1, a.Layers))
	}
	tables := int64(a.Vocab) * int64(a.Hidden)
	if !a.TieEmbeddings {
		tables *= 2
	}
	e := Estimate{Base: weight + width*tables, Steps: p.Steps(l.Samples)}
	trained := int64(2)
	if p.Stage == Retrieval || p.Stage == Reasoning {
		trained = 1
	}
	e.Trained = trained * adapter
	if l.Fresh {
		e.Trained += int64(l.MemoryTokens) * int64(a.Hidden)
	}
	// All adapters are held; the trained ones with a gradient and two moments.
	e.State = 4 * (3*adapter + 3*e.Trained)

	// A micro batch has the tokens of micro_train_batch_size samples of average length, or those of one that is longer.
	micro := min(p.MicroBatchSize, max(1, p.BatchSize/max(1, p.World)), max(1, l.Samples))
	kept := math.Max(l.GradTokens*float64(micro), float64(l.MaxGradTokens))
	// What a token leaves behind in a layer: norms' inputs, projections' inputs, attention, gate and up.
	perLayer := float64(width) * float64(4*a.Hidden+2*(a.Heads+2*a.KVHeads)*a.HeadDim+2*a.Heads*a.HeadDim+3*a.Intermediate)
	if p.Dropout > 0 {
		perLayer += float64(3*a.Hidden + a.Heads*a.HeadDim + 2*a.Intermediate)
	}
	layers := float64(a.Layers)
	recomputes := p.Checkpointing || p.ZeroStage == 3
	if recomputes {
		e.Activations = int64(kept * (layers*float64(width*int64(a.Hidden)) + 2*perLayer))
	} else {
		e.Activations = int64(kept * layers * perLayer)
	}
	e.Activations += 96 << 20 // a chunk of logits, its gradient, work space
	// What an allocator loses to sizes that do not fit together grows with what it hands out; the rest is libraries and data.
	e.Memory = e.Base + e.State + e.Activations + e.Activations/5 + 350<<20

	// 2 FLOPs a weight forward, 2 for the gradient of the input, and LoRA's share; weights have no gradient.
	perToken := 2 * float64(linear)
	grads := 2.0
	if recomputes {
		grads = 3
	}
	samples := float64(e.Steps) * float64(p.BatchSize)
	head := 2 * 2 * float64(a.Vocab) * float64(a.Hidden) * l.Targets
	switch p.Stage {
	case Stage1, Stage12:
		e.FLOPs = samples * ((l.DocTokens*l.DocsPerSample+l.DecoderTokens)*perToken*grads + head)
	case Reasoning:
		e.FLOPs = samples*(l.DecoderTokens*perToken*grads+head) + float64(l.Documents)*l.DocTokens*perToken
	case Retrieval:
		e.FLOPs = samples*l.QueryTokens*perToken*grads + float64(l.Documents)*l.DocTokens*perToken
	default:
		e.FLOPs = samples*((l.QueryTokens+l.DecoderTokens)*perToken*grads+head) + float64(l.Documents)*l.DocTokens*perToken
	}
	if machine.FLOPS > 0 {
		e.Seconds = e.FLOPs / machine.FLOPS / math.Max(1, float64(p.World))
	}
	return e
}

// Preflight refuses what cannot work, once the data and the model are known: every fault in one Invalid error that names the
// setting to change.
func (p Plan) Preflight(a arch.Model, l Load, rank int, machine Machine) (Estimate, error) {
	var faults []error
	bad := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	e := p.Estimate(a, l, rank, machine)
	if l.Samples == 0 {
		bad("dataset: no sample is left to train on")
	}
	if (p.Stage == Stage2 || p.Stage == Retrieval) && !p.MIPS && l.Samples > 0 && p.TopK > l.MinCandidates {
		bad("generation_top_k is %d and a sample has %d candidates: lower it or give more candidates", p.TopK, l.MinCandidates)
	}
	if l.MemoryTokens > 0 && p.TopK*(l.MemoryTokens+1) >= p.MaxLen {
		bad("%d documents of %d memory tokens do not fit max_len %d: raise max_len, or lower generation_top_k", p.TopK, l.MemoryTokens, p.MaxLen)
	}
	if p.MaxLen > a.MaxPositions {
		bad("max_len is %d and the model has %d positions: lower it", p.MaxLen, a.MaxPositions)
	}
	if machine.Memory > 0 && e.Memory > machine.Memory {
		bad("about %s are needed and %s are free: %s", Bytes(e.Memory), Bytes(machine.Memory), p.smaller(a, l, rank, machine.Memory))
	}
	if len(faults) > 0 {
		return e, clara.Errorf(clara.Invalid, "this run cannot work: %w", errors.Join(faults...))
	}
	return e, nil
}

// smaller names settings with which the plan needs no more than free bytes: one that is enough, else several together.
func (p Plan) smaller(a arch.Model, l Load, rank int, free int64) string {
	type change struct {
		name string
		set  func(*Plan)
	}
	var changes []change
	add := func(useful bool, name string, set func(*Plan)) {
		if useful {
			changes = append(changes, change{name, set})
		}
	}
	add(!p.Checkpointing, "gradient_checkpointing true", func(q *Plan) { q.Checkpointing = true })
	for n := min(p.MicroBatchSize, p.BatchSize) / 2; n >= 1; n /= 2 {
		add(true, fmt.Sprintf("micro_train_batch_size %d", n), func(q *Plan) { q.MicroBatchSize = n })
	}
	add(!p.BF16, "bf16 true", func(q *Plan) { q.BF16 = true })
	add(p.World > 1 && p.ZeroStage < 3, "zero_stage 3", func(q *Plan) { q.ZeroStage = 3 })
	add(p.Bits() == 0, "quantization int8", func(q *Plan) { q.Quantization = "int8" })
	add(p.Bits() != 4, "quantization int4", func(q *Plan) { q.Quantization = "int4" })
	need := func(q Plan) int64 { return q.Estimate(a, l, rank, Machine{}).Memory }
	for _, c := range changes {
		q := p
		if c.set(&q); need(q) <= free {
			return fmt.Sprintf("set %s (about %s)", c.name, Bytes(need(q)))
		}
	}
	q := p
	var names []string
	for _, c := range changes {
		// A later change of the same setting goes further than the one before it.
		setting, _, _ := strings.Cut(c.name, " ")
		names = slices.DeleteFunc(names, func(n string) bool { return strings.HasPrefix(n, setting+" ") })
		names = append(names, c.name)
		if c.set(&q); need(q) <= free {
			return fmt.Sprintf("set %s (about %s)", strings.Join(names, ", "), Bytes(need(q)))
		}
	}
	if len(names) == 0 {
		return "lower max_len or doc_max_length, or take a smaller model"
	}
	return fmt.Sprintf("set %s, and lower max_len or doc_max_length, or take a smaller model: those settings alone leave about %s", strings.Join(names, ", "), Bytes(need(q)))
}

// Bytes writes a number of bytes for people.
func Bytes(n int64) string {
	f, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	return fmt.Sprintf("%.4g %s", f, units[i])
}
