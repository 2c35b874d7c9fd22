package stage_test

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/checkpoint"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/trainplan"
	"github.com/clara-suite/clara/services/trainer/torch/internal/stage"
)

func uint32Bits(f float32) uint32 { return math.Float32bits(f) }

// All stages in a row: each learns, and its checkpoint is what the next one starts from.
func TestStages(t *testing.T) {
	ctx := context.Background()
	p := tinyPlan(t)
	p.Epochs = 6
	m, events, err := execute(ctx, p)
	require.NoError(t, err)
	require.Len(t, m, 18)
	assert.Less(t, m[17].Loss, m[1].Loss)
	assert.Equal(t, trainplan.Finished, events[len(events)-1].Kind)
	c, err := checkpoint.Open(p.SavePath)
	require.NoError(t, err)
	assert.Len(t, c.Adapters, 2)
	assert.Equal(t, 4, c.Config.M())

	two := next(t, p, trainplan.Stage12)
	m, _, err = execute(ctx, two)
	require.NoError(t, err)
	assert.Less(t, m[len(m)-1].Loss, m[0].Loss)

	for _, name := range []string{trainplan.Retrieval, trainplan.Stage2, trainplan.Reasoning} {
		t.Run(name, func(t *testing.T) {
			q := next(t, two, name)
			q.EvalData = q.Data[0].Path
			q.EvalSteps, q.EvalGeneration = 3, true
			m, events, err := execute(ctx, q)
			require.NoError(t, err)
			require.Len(t, m, 6)
			assert.Greater(t, m[0].Share["compress"], 0.0)
			evaluated := 0
			for _, e := range events {
				if e.Evaluation != nil {
					evaluated++
					assert.Equal(t, 11, e.Evaluation.Samples)
				}
			}
			assert.Equal(t, 2, evaluated)
			c, err := checkpoint.Open(q.SavePath)
			require.NoError(t, err)
			assert.Len(t, c.Adapters, 3)
			before, err := checkpoint.Open(two.SavePath)
			require.NoError(t, err)
			assert.Equal(t, before.Adapters[checkpoint.Encoder].Tensors, c.Adapters[checkpoint.Encoder].Tensors, "the encoder is frozen in stage 3")
		})
	}
}

// A run that was stopped and resumed makes the same steps as one that was not, bit for bit, dropout included.
func TestResumeEqualsNeverStopped(t *testing.T) {
	whole := tinyPlan(t)
	want, _, err := execute(context.Background(), whole)
	require.NoError(t, err)

	p := whole
	p.SavePath, p.RunDir, p.Resume, p.SaveSteps = whole.SavePath+"b", whole.SavePath+"b.run", true, 2
	p.MaxSteps = 0
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // as a signal that comes during the first step
	first, events, err := execute(ctx, p)
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, first, 1)
	assert.Equal(t, trainplan.Stopped, events[len(events)-1].Kind)
	rest, _, err := execute(context.Background(), p)
	require.NoError(t, err)
	assert.Equal(t, losses(want), losses(append(first, rest...)))

	a, err := os.ReadFile(filepath.Join(whole.SavePath, checkpoint.AdaptersFile))
	require.NoError(t, err)
	b, err := os.ReadFile(filepath.Join(p.SavePath, checkpoint.AdaptersFile))
	require.NoError(t, err)
	assert.Equal(t, a, b)
	raw, err := os.ReadFile(filepath.Join(p.RunDir, "metrics.jsonl"))
	require.NoError(t, err)
	assert.Len(t, strings.Split(strings.TrimSpace(string(raw)), "\n"), len(want))
}

// How a batch is cut changes rounding only, and so does computing layers again.
func TestCutsOfABatchAreEqual(t *testing.T) {
	p := tinyPlan(t)
	p.Dropout, p.Epochs = 0, 1
	want, _, err := execute(context.Background(), p)
	require.NoError(t, err)
	for _, c := range []struct {
		name string
		set  func(q *trainplan.Plan)
	}{
		{"one by one", func(q *trainplan.Plan) { q.MicroBatchSize = 1 }},
		{"all at once", func(q *trainplan.Plan) { q.MicroBatchSize = 4 }},
		{"checkpointed", func(q *trainplan.Plan) { q.Checkpointing = true }},
		{"math attention", func(q *trainplan.Plan) { q.FlashAttention = false }},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := p
			q.SavePath, q.RunDir = filepath.Join(t.TempDir(), "x"), filepath.Join(t.TempDir(), "x.run")
			c.set(&q)
			got, _, err := execute(context.Background(), q)
			require.NoError(t, err)
			assert.InEpsilonSlice(t, losses(want), losses(got), 1e-3)
		})
	}
}

// Checkpointing draws the dropout masks that were drawn before.
func TestCheckpointingWithDropout(t *testing.T) {
	p := tinyPlan(t)
	p.Epochs, p.Dropout = 1, 0.3
	want, _, err := execute(context.Background(), p)
	require.NoError(t, err)
	q := p
	q.SavePath, q.RunDir, q.Checkpointing = p.SavePath+"c", p.SavePath+"c.run", true
	got, _, err := execute(context.Background(), q)
	require.NoError(t, err)
	assert.InEpsilonSlice(t, losses(want), losses(got), 1e-4)
}

func TestQuantizedBase(t *testing.T) {
	p := tinyPlan(t)
	p.Epochs = 1
	// The tiny base's widths are no multiples of 32 everywhere: that is an error which says so.
	p.Quantization = "int8"
	_, _, err := execute(context.Background(), p)
	require.ErrorContains(t, err, "multiple of 32")
}

// With candidates from the index, every document of the data may be chosen for any question.
func TestCandidatesFromTheIndex(t *testing.T) {
	p := tinyPlan(t)
	p.Epochs = 1
	_, _, err := execute(context.Background(), p)
	require.NoError(t, err)
	q := next(t, p, trainplan.Stage2)
	q.MIPS, q.Candidates = true, 6
	m, _, err := execute(context.Background(), q)
	require.NoError(t, err)
	require.Len(t, m, 6)
	assert.Greater(t, m[0].Share["search"], 0.0)
	q.Candidates, q.SavePath, q.RunDir = 1000, q.SavePath+"x", q.SavePath+"x.run"
	_, _, err = execute(context.Background(), q)
	require.ErrorContains(t, err, "stage2_retrieval_top_n")
}

func TestOneSample(t *testing.T) {
	p := tinyPlan(t)
	p.Data = []trainplan.Dataset{{Path: tinyData(t, p.Stage, 1)}}
	m, _, err := execute(context.Background(), p)
	require.NoError(t, err)
	assert.Len(t, m, 2)
}

func TestNotANumberStopsAndNamesTheSample(t *testing.T) {
	p := tinyPlan(t)
	p.LearningRate, p.Decay, p.SaveSteps, p.Epochs = 1, 10, 3, 50 // every step multiplies the weights by -9
	p.Scheduler = "constant"
	_, _, err := execute(context.Background(), p)
	if err == nil {
		t.Fatal("weights that grow without end must blow up")
	}
	require.ErrorContains(t, err, "pretrain_data.jsonl:")
	require.ErrorContains(t, err, "its last checkpoint is good")
	kept := stage.Checkpoints(p.RunDir)
	require.NotEmpty(t, kept)
	_, err = checkpoint.Open(kept[len(kept)-1])
	require.NoError(t, err)
}

func TestRefusals(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.jsonl")
	require.NoError(t, os.WriteFile(bad, []byte("{\"question\": [\"q\"], \"answers\": [\"a\"], \"docs\": [\"d\"]}\nnot json\n{\"docs\": []}\n"), 0o644))
	for _, c := range []struct {
		name string
		set  func(p *trainplan.Plan)
		kind clara.Kind
		says []string
	}{
		{"all faulty lines", func(p *trainplan.Plan) { p.Data[0].Path = bad }, clara.Invalid, []string{"bad.jsonl", ":2", ":3"}},
		{"no base", func(p *trainplan.Plan) { p.Model = filepath.Join(t.TempDir(), "none") }, clara.NotFound, nil},
		{"too long", func(p *trainplan.Plan) { p.MaxLen = 5000 }, clara.Invalid, []string{"max_len"}},
		{"several at once", func(p *trainplan.Plan) { p.BatchSize, p.Quantization = 0, "int3" }, clara.Invalid, []string{"train_batch_size", "quantization"}},
		{"everything cut away", func(p *trainplan.Plan) { p.MaxLen = 200 }, clara.Invalid, []string{"no sample is left"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := tinyPlan(t)
			c.set(&p)
			_, _, err := execute(context.Background(), p)
			require.Error(t, err)
			assert.Equal(t, c.kind, clara.KindOf(err), err.Error())
			for _, s := range c.says {
				assert.ErrorContains(t, err, s)
			}
		})
	}
}

// A checkpoint of other data, or with other settings, is not gone on from; one that is there is not written over.
func TestResumeRefusals(t *testing.T) {
	p := tinyPlan(t)
	p.Epochs = 1
	_, _, err := execute(context.Background(), p)
	require.NoError(t, err)
	_, _, err = execute(context.Background(), p)
	assert.Equal(t, clara.Exists, clara.KindOf(err))
	p.Resume = true
	q := p
	q.LearningRate = 5
	_, _, err = execute(context.Background(), q)
	require.ErrorContains(t, err, "learning_rate")
	require.NoError(t, os.WriteFile(p.Data[0].Path, []byte(`{"question": ["q"], "answers": ["a"], "docs": ["d"]}`), 0o644))
	_, _, err = execute(context.Background(), p)
	require.ErrorContains(t, err, "training data")
	// A checkpoint cut short is refused by name.
	last := stage.Checkpoints(p.RunDir)[0]
	require.NoError(t, os.Truncate(filepath.Join(last, "state.json"), 10))
	_, _, err = execute(context.Background(), p)
	assert.Equal(t, clara.Corrupt, clara.KindOf(err))
}

func TestPlanIsKeptWithTheCheckpoint(t *testing.T) {
	p := tinyPlan(t)
	p.Epochs = 1
	_, _, err := execute(context.Background(), p)
	require.NoError(t, err)
	raw, err := os.ReadFile(filepath.Join(stage.Checkpoints(p.RunDir)[0], "state.json"))
	require.NoError(t, err)
	var st struct{ Plan trainplan.Plan }
	require.NoError(t, json.Unmarshal(raw, &st))
	assert.Equal(t, p, st.Plan)
}

// bf16 that nobody asked for is for GPUs.
func TestHalfPrecisionByDefault(t *testing.T) {
	for _, c := range []struct {
		name  string
		auto  bool
		dtype string
	}{{"left open", true, "float32"}, {"asked for", false, "bfloat16"}} {
		t.Run(c.name, func(t *testing.T) {
			p := tinyPlan(t)
			p.Epochs, p.BF16, p.BF16Auto = 1, true, c.auto
			_, events, err := execute(context.Background(), p)
			require.NoError(t, err)
			for _, e := range events {
				if e.Summary != nil {
					assert.Equal(t, c.dtype, e.Summary.DType)
					return
				}
			}
			t.Fatal("nothing was told of the run")
		})
	}
}

// BenchmarkThousandSteps tells what the process holds after 100 and after 1,000 steps of a tiny model: what an operator or a
// step leaks does not depend on the width of a model.
func BenchmarkThousandSteps(b *testing.B) {
	for b.Loop() {
		p := tinyPlan(b)
		p.Epochs, p.MaxSteps, p.LearningRate = 1000, 1000, 1e-4
		m, _, err := execute(context.Background(), p)
		require.NoError(b, err)
		require.Len(b, m, 1000)
		b.ReportMetric(float64(m[99].Memory)/(1<<20), "MiB@100")
		b.ReportMetric(float64(m[999].Memory)/(1<<20), "MiB@1000")
		b.ReportMetric(float64(m[999].MemoryPeak)/(1<<20), "MiB-peak")
	}
}
