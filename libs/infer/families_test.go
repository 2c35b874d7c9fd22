package infer_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/testkit/tinymodel"
)

// TestFamilies compares tiny models of all families with what transformers computes with them: logits after short and
// long prompts, and greedy tokens. testdata/make_tiny.py makes Hugging Face folders, testdata/make_gguf.py GGUF files of
// every format. Those in blocks run in float32 and exactly as blocks; where what is multiplied with blocks is rounded to
// 8 bits, logits are near.
func TestFamilies(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "*", "witness.json"))
	require.NoError(t, err)
	require.Len(t, files, 20)
	for _, file := range files {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			base := familyBase(t, dir)
			all := modelpkg.Precisions{Encoder: modelpkg.FP32, Reasoner: modelpkg.FP32, Decoder: modelpkg.FP32}
			compareFamily(t, dir, base, all, 2e-4)
			own := compareFamily(t, dir, base, modelpkg.Precisions{}, 2e-4).Precision(infer.Base)
			switch own { // the same blocks, faster
			case modelpkg.Int4Float:
				compareFamily(t, dir, base, modelpkg.Precisions{Decoder: modelpkg.Int4}, 0.2)
			case modelpkg.Int8Float:
				compareFamily(t, dir, base, modelpkg.Precisions{Decoder: modelpkg.Int8}, 0.2)
			}
		})
	}
}

// familyBase is the folder's GGUF file, or a Hugging Face folder of its files and a tokenizer.
func familyBase(t *testing.T, dir string) string {
	if file := filepath.Join(dir, "model.gguf"); exists(t, file) {
		return file
	}
	base := filepath.Join(t.TempDir(), "base")
	tinymodel.Base(t, base, tinymodel.Default(), 1)
	require.NoError(t, os.Remove(filepath.Join(base, "model.safetensors")))
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	for _, f := range files {
		if strings.HasSuffix(f, "witness.json") {
			continue
		}
		raw, err := os.ReadFile(f)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(base, filepath.Base(f)), raw, 0o600))
	}
	return base
}

func exists(t *testing.T, path string) bool {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	require.NoError(t, err)
	return true
}

// compareFamily imports the base and compares it with the folder's witness, logits as a share of their largest magnitude.
func compareFamily(t *testing.T, dir, base string, p modelpkg.Precisions, tolerance float64) *modelpkg.Manifest {
	var w struct {
		Cases []struct {
			IDs    []int32   `json:"ids"`
			Logits []float32 `json:"logits"`
			Greedy []int32   `json:"greedy"`
		} `json:"cases"`
	}
	raw, err := os.ReadFile(filepath.Join(dir, "witness.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &w))
	pkg := filepath.Join(t.TempDir(), "pkg")
	m, err := modelpkg.Import(t.Context(), pkg, modelpkg.ImportOptions{Base: base, Precision: p})
	require.NoError(t, err)
	o := infer.Options{Context: 160}
	if p.Decoder.Half() { // which nobody gets on a processor who does not ask for it
		o.Precision = p.Decoder
	}
	e := open(t, pkg, o)
	worst, same, tokens := 0.0, 0, 0
	for _, c := range w.Cases {
		prompt := infer.Prompt{IDs: c.IDs}
		got, err := e.Logits(t.Context(), prompt, false)
		require.NoError(t, err)
		require.Len(t, got, len(c.Logits))
		top := 1.0
		for _, x := range c.Logits {
			top = max(top, float64(x), -float64(x))
		}
		for i, x := range c.Logits {
			worst = max(worst, float64(max(x-got[i], got[i]-x))/top)
		}
		ids, _, _, err := generate(t.Context(), e, infer.Request{Prompt: prompt, MaxTokens: len(c.Greedy), StopIDs: []int32{}})
		require.NoError(t, err)
		if tolerance < 1e-3 {
			assert.Equal(t, c.Greedy, ids, "after %d tokens", len(c.IDs))
		}
		tokens += len(ids)
		for i := 0; i < len(ids) && ids[i] == c.Greedy[i]; i++ {
			same++
		}
	}
	t.Logf("%s: logits differ by %.1e, %d of %d greedy tokens are the same", m.Precision(infer.Base), worst, same, tokens)
	assert.LessOrEqual(t, worst, tolerance, "%s", m.Precision(infer.Base))
	return m
}

// TestHalves runs tiny models of all families in fp16 on the processor, whose runtime has the operators or converts
// around them: logits are near those of transformers, in float32. Bfloat16 has no kernels there.
func TestHalves(t *testing.T) {
	for _, name := range []string{"llama", "llama-odd", "mistral-f16", "qwen2-bf16", "qwen3", "phi3", "gemma2", "gemma3", "gguf-llama-k"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join("testdata", name)
			half := modelpkg.Precisions{Encoder: modelpkg.FP16, Reasoner: modelpkg.FP16, Decoder: modelpkg.FP16}
			compareFamily(t, dir, familyBase(t, dir), half, 0.02)
		})
	}
}

// TestLongRopeIsReached: an answer that grows beyond the reach of short rotary tables takes the long ones from there on and
// keeps what is cached, as transformers does where it generates from embeddings; before, nothing depends on how long it may
// become. Tokens are what transformers 4.56 generates with the tiny model of testdata/phi3, whose tables change at 64.
func TestLongRopeIsReached(t *testing.T) {
	pkg := filepath.Join(t.TempDir(), "pkg")
	_, err := modelpkg.Import(t.Context(), pkg, modelpkg.ImportOptions{Base: familyBase(t, filepath.Join("testdata", "phi3"))})
	require.NoError(t, err)
	e := open(t, pkg, infer.Options{Context: 160, Streams: 3})
	want := [][]int32{
		{212, 98, 108, 174, 148, 148, 148, 148, 164, 93, 200, 160, 132, 266},
		{219, 255, 220, 38, 176, 174, 69, 168, 6, 129, 38, 125, 138, 44},
		{189, 171, 201, 131, 138, 137, 137, 93, 229, 34, 116, 237, 115, 140},
	}
	var all errgroup.Group // side by side, so that rows move
	for k, want := range want {
		ids := make([]int32, 60)
		for i := range ids {
			ids[i] = int32((7*i*i+3*i+k)%200 + 5)
		}
		for _, limit := range []int{3, len(want)} {
			all.Go(func() error {
				got, _, _, err := generate(t.Context(), e, infer.Request{Prompt: infer.Prompt{IDs: ids}, MaxTokens: limit, StopIDs: []int32{}, Patient: true})
				assert.Equal(t, want[:limit], got)
				return err
			})
		}
	}
	require.NoError(t, all.Wait())
}

// TestLongRopeOfABatch: a prompt out of a batch of training takes the tables that the length of the batch chooses.
func TestLongRopeOfABatch(t *testing.T) {
	pkg := filepath.Join(t.TempDir(), "pkg")
	_, err := modelpkg.Import(t.Context(), pkg, modelpkg.ImportOptions{Base: familyBase(t, filepath.Join("testdata", "phi3"))})
	require.NoError(t, err)
	e := open(t, pkg, infer.Options{Context: 160})
	logits := func(batch int) []float32 {
		out, err := e.Logits(t.Context(), infer.Prompt{IDs: []int32{5, 9, 77, 31, 12}, Batch: batch}, false)
		require.NoError(t, err)
		return out
	}
	alone := logits(0)
	assert.Equal(t, alone, logits(64))
	assert.NotEqual(t, alone, logits(65))
	assert.Equal(t, logits(65), logits(100))
}
