package trainplan

import (
	"encoding/json"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/clara-suite/clara/libs/tensorboard"
)

// Kinds of events.
const (
	Started    = "started"    // Summary is set
	Step       = "step"       // an optimizer step was made; Metrics is set
	Evaluated  = "evaluated"  // Evaluation is set
	Saved      = "checkpoint" // Path is a checkpoint that can be resumed
	Warning    = "warning"    // Message
	Finished   = "finished"   // Path is the finished checkpoint
	Stopped    = "stopped"    // by a signal, after a checkpoint at Path
	Failed     = "failed"     // Message says why, Fault its kind
	Planned    = "planned"    // Summary is what a check found; nothing was begun
	PhaseBegun = "phase"      // Message names what the run does now, before the first step
)

// Event is one line of a run's progress: what a worker writes to its standard output, one JSON object a line.
type Event struct {
	Time       time.Time   `json:"time"`
	Kind       string      `json:"event"`
	Rank       int         `json:"rank,omitempty"`
	Message    string      `json:"message,omitempty"`
	Fault      string      `json:"fault,omitempty"` // a clara.Kind by name
	Path       string      `json:"path,omitempty"`
	Summary    *Summary    `json:"summary,omitempty"`
	Metrics    *Metrics    `json:"metrics,omitempty"`
	Evaluation *Evaluation `json:"evaluation,omitempty"`
}

// Summary is what a run found out before its first step.
type Summary struct {
	Stage      string   `json:"stage"`
	Model      string   `json:"model"`
	Family     string   `json:"family"`
	Parameters int64    `json:"parameters"`
	Trained    int64    `json:"trained_parameters"`
	Samples    int      `json:"samples"`
	Skipped    int      `json:"skipped_samples"` // whose targets are all cut away
	Cut        int      `json:"cut_samples"`     // whose answer does not fit as a whole
	Documents  int      `json:"documents"`       // distinct
	Steps      int      `json:"steps"`
	From       int      `json:"from_step"` // of a resumed run
	Memories   int      `json:"memory_tokens"`
	Device     string   `json:"device"`
	DType      string   `json:"dtype"`
	Attention  string   `json:"attention"`
	Threads    int      `json:"threads"`
	World      int      `json:"world_size"`
	Free       int64    `json:"memory_free"` // that a rank may use; 0: unknown
	Estimate   Estimate `json:"estimate"`
	Warnings   []string `json:"warnings,omitempty"`
}

// Metrics is the state of a run at a step. It is also a line of metrics.jsonl.
type Metrics struct {
	Step      int     `json:"step"` // steps made
	Steps     int     `json:"steps"`
	Epoch     float64 `json:"epoch"`
	Loss      float64 `json:"loss"` // of this step's batch, as spec §5 names it
	CE        float64 `json:"ce,omitempty"`
	MSE       float64 `json:"mse,omitempty"`
	Recall1   float64 `json:"recall_at_1,omitempty"` // of this step's batch, stage 3
	Recall5   float64 `json:"recall_at_5,omitempty"`
	GradNorm  float64 `json:"grad_norm"`
	Rate      float64 `json:"lr"`
	Samples   int64   `json:"samples"` // since the run began
	Targets   int64   `json:"targets"` // trained on in this step
	Tokens    int64   `json:"tokens"`  // that went through the model in this step
	Seconds   float64 `json:"seconds"` // of this step
	PerSecond float64 `json:"tokens_per_second"`
	FLOPS     float64 `json:"flops_per_second"`
	Left      float64 `json:"seconds_left"`
	// Share of the step's time by phase: data, compress, forward, backward, reduce, optimizer, save, other.
	Share      map[string]float64 `json:"share"`
	Memory     int64              `json:"memory"`
	MemoryPeak int64              `json:"memory_peak"`
}

// Scalars are the metrics as TensorBoard shows them.
func (m Metrics) Scalars() []tensorboard.Scalar {
	out := []tensorboard.Scalar{{Tag: "loss/total", Value: m.Loss}}
	for _, s := range []tensorboard.Scalar{
		{Tag: "loss/ce", Value: m.CE}, {Tag: "loss/mse", Value: m.MSE}, {Tag: "retrieval/recall_at_1", Value: m.Recall1}, {Tag: "retrieval/recall_at_5", Value: m.Recall5},
	} {
		if s.Value != 0 { // of another stage
			out = append(out, s)
		}
	}
	out = append(out, []tensorboard.Scalar{
		{Tag: "train/lr", Value: m.Rate}, {Tag: "train/grad_norm", Value: m.GradNorm}, {Tag: "train/epoch", Value: m.Epoch},
		{Tag: "speed/tokens_per_second", Value: m.PerSecond}, {Tag: "speed/flops_per_second", Value: m.FLOPS}, {Tag: "speed/step_seconds", Value: m.Seconds},
		{Tag: "memory/bytes", Value: float64(m.Memory)}, {Tag: "memory/peak_bytes", Value: float64(m.MemoryPeak)},
	}...)
	for _, phase := range slices.Sorted(maps.Keys(m.Share)) {
		out = append(out, tensorboard.Scalar{Tag: "time/" + phase, Value: m.Share[phase]})
	}
	return out
}

// Scalars are the evaluation as TensorBoard shows it.
func (e Evaluation) Scalars() []tensorboard.Scalar {
	out := []tensorboard.Scalar{{Tag: "eval/loss", Value: e.Loss}}
	for _, s := range []tensorboard.Scalar{{Tag: "eval/em", Value: e.EM}, {Tag: "eval/accuracy", Value: e.Cover}, {Tag: "eval/f1", Value: e.F1}, {Tag: "eval/recall_at_k", Value: e.Recall}} {
		if s.Value != 0 {
			out = append(out, s)
		}
	}
	return out
}

// Evaluation is a pass over the evaluation data.
type Evaluation struct {
	Step    int     `json:"step"`
	Loss    float64 `json:"loss"`
	Samples int     `json:"samples"`
	// Of greedy answers, where do_eval_gen asks for them.
	EM     float64 `json:"em,omitempty"`
	Cover  float64 `json:"accuracy,omitempty"`
	F1     float64 `json:"f1,omitempty"`
	Recall float64 `json:"recall_at_k,omitempty"`
}

// Write adds the event to a stream as one line, in a single write.
func (e Event) Write(w io.Writer) error {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}
