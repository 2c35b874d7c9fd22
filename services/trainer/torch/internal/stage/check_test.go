package stage_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/trainplan"
	"github.com/clara-suite/clara/services/trainer/torch/internal/stage"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

// A chain is checked as a whole before any of it begins: a stage may start from the checkpoint that one before it will write.
func TestCheck(t *testing.T) {
	first := tinyPlan(t)
	second := next(t, first, trainplan.Stage12)
	check := func(plans ...trainplan.Plan) (found []trainplan.Summary, err error) {
		err = stage.Check(context.Background(), plans, stage.Env{Device: torchx.CPU, FreeMemory: 8 << 30}, func(s trainplan.Summary) error {
			found = append(found, s)
			return nil
		})
		return found, err
	}
	found, err := check(first, second)
	require.NoError(t, err)
	require.Len(t, found, 2)
	for i, s := range found {
		assert.Equal(t, []string{trainplan.Stage1, trainplan.Stage12}[i], s.Stage)
		assert.Equal(t, found[0].Memories, s.Memories)
		assert.Positive(t, s.Estimate.Memory)
		assert.Positive(t, s.Estimate.Seconds)
		assert.Positive(t, s.Steps)
	}
	assert.NoDirExists(t, first.RunDir, "a check leaves nothing behind")

	// Faults of all stages come together.
	bad := filepath.Join(t.TempDir(), "bad.jsonl")
	require.NoError(t, os.WriteFile(bad, []byte("no\n"), 0o644))
	one, two := first, second
	one.Data, two.Data = []trainplan.Dataset{{Path: bad}}, []trainplan.Dataset{{Path: bad}}
	_, err = check(one, two)
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
	require.ErrorContains(t, err, "stage1: ")
	require.ErrorContains(t, err, "stage1_2: ")

	// A folder that another run is at work in, or was.
	first.Epochs = 1
	_, _, err = execute(context.Background(), first)
	require.NoError(t, err)
	_, err = check(first)
	assert.Equal(t, clara.Exists, clara.KindOf(err))
	first.Resume = true
	_, err = check(first)
	require.NoError(t, err)
	first.LearningRate = 3e-3
	_, err = check(first)
	require.ErrorContains(t, err, "learning_rate")
}

// Event files hold what metrics.jsonl does.
func TestTensorBoard(t *testing.T) {
	p := tinyPlan(t)
	p.Epochs, p.TensorBoard = 1, true
	_, _, err := execute(context.Background(), p)
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(p.RunDir, "tensorboard", "events.out.tfevents.*"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	raw, err := os.ReadFile(files[0])
	require.NoError(t, err)
	assert.Contains(t, string(raw), "loss/total")
}
