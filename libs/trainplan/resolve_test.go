package trainplan_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/trainplan"
)

func TestReadFileRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, says string }{
		{"list", "- a\n", "line 1"},
		{"twice", "seed: 1\nseed: 2\n", "twice"},
		{"mapping", "a: {b: c}\n", "no value"},
		{"broken", "a: [\n", "run.yaml"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "run.yaml")
			require.NoError(t, os.WriteFile(path, []byte(c.text), 0o644))
			_, err := trainplan.ReadFile(path)
			assert.Equal(t, clara.Invalid, clara.KindOf(err))
			assert.ErrorContains(t, err, c.says)
		})
	}
}

func TestPathsWithCommas(t *testing.T) {
	dir := t.TempDir()
	odd := filepath.Join(dir, "a, b,c.jsonl")
	require.NoError(t, os.WriteFile(odd, nil, 0o644))
	for _, c := range []struct {
		name, value string
		want        []string
	}{
		{"one", "x.jsonl", []string{"x.jsonl"}},
		{"two", "x.jsonl, y.jsonl,", []string{"x.jsonl", "y.jsonl"}},
		{"there as a whole", odd, []string{odd}},
		{"there beside others", "x.jsonl," + odd + ",y.jsonl", []string{"x.jsonl", odd, "y.jsonl"}},
		{"marked", `x\,y.jsonl,z.jsonl`, []string{"x,y.jsonl", "z.jsonl"}},
		{"nothing", "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := trainplan.SplitPaths(c.value)
			assert.Equal(t, c.want, got)
			assert.Equal(t, c.want, trainplan.SplitPaths(trainplan.JoinPaths(got)))
		})
	}
}

// What comes from a file of settings reaches the plan as it is, commas and folders with a dot included.
func TestGatherAndResolve(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data.v2")
	require.NoError(t, os.Mkdir(dir, 0o755))
	file := filepath.Join(dir, "run.yaml")
	require.NoError(t, os.WriteFile(file, []byte("stage: stage1\npretrain: org/model\ndataset: ["+dir+", 'a,b.jsonl']\ndataset_probs: [0.5, 0.5]\n"), 0o644))
	settings, err := trainplan.ReadFile(file)
	require.NoError(t, err)
	env := map[string]string{"PROJECT_ROOT": dir}
	r, err := trainplan.Gather(trainplan.Request{}, settings, func(k string) string { return env[k] })
	require.NoError(t, err)
	plans, _, err := trainplan.Resolve(r, 0)
	require.NoError(t, err)
	wd, err := os.Getwd()
	require.NoError(t, err)
	assert.Equal(t, []trainplan.Dataset{{Path: filepath.Join(dir, "pretrain_data.jsonl"), Share: 0.5}, {Path: filepath.Join(wd, "a,b.jsonl"), Share: 0.5}}, plans[0].Data)
	assert.Equal(t, filepath.Join(dir, "checkpoints", "clara_stage1"), plans[0].SavePath)
	assert.Equal(t, "org/model", plans[0].Model)

	r.Stage = trainplan.All
	r.Settings = append(r.Settings, trainplan.Setting{Name: "dataset", Value: dir}, trainplan.Setting{Name: "save_path", Value: dir})
	_, _, err = trainplan.Resolve(r, 0)
	require.ErrorContains(t, err, "dataset_probs")
	_, err = trainplan.Gather(trainplan.Request{}, nil, func(string) string { return "" })
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
}

func TestPresetOfAllStages(t *testing.T) {
	dir := t.TempDir()
	plans, _, err := trainplan.Resolve(trainplan.Request{Stage: trainplan.All, Preset: "qwen3", Settings: []trainplan.Setting{{Name: "dataset", Value: dir}, {Name: "save_path", Value: "/ck"}}}, 4)
	require.NoError(t, err)
	require.Len(t, plans, 3)
	for i, p := range plans {
		assert.Equal(t, "Qwen/Qwen3-4B-Instruct-2507", p.Model)
		assert.Equal(t, []int{32, 1, 3, 100, 4}, []int{p.BatchSize, p.MicroBatchSize, p.Epochs, p.SaveSteps, p.World})
		assert.Equal(t, []float64{1e-5, 1e-5, 5e-6}[i], p.LearningRate)
		assert.Equal(t, "int4", p.Quantization)
		assert.True(t, p.BF16Auto, "nobody asked for it")
	}
	assert.Equal(t, []int{512, 32, 64}, []int{plans[0].DocMaxLength, plans[0].CompressRate, plans[0].LoraRank})
}
