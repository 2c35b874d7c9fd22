package infer_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/testkit/tinymodel"
)

// TestFamilies compares tiny models of other families with what transformers computes with them
// (testdata/make_tiny.py): logits after short and long prompts, and greedy tokens.
func TestFamilies(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "*", "witness.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			var w struct {
				Cases []struct {
					IDs    []int32   `json:"ids"`
					Logits []float32 `json:"logits"`
					Greedy []int32   `json:"greedy"`
				} `json:"cases"`
			}
			raw, err := os.ReadFile(file)
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(raw, &w))
			base, pkg := filepath.Join(t.TempDir(), "base"), filepath.Join(t.TempDir(), "pkg")
			tinymodel.Base(t, base, tinymodel.Default(), 1) // for its tokenizer
			for _, name := range []string{"config.json", "model.safetensors"} {
				raw, err := os.ReadFile(filepath.Join(dir, name))
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(filepath.Join(base, name), raw, 0o600))
			}
			_, err = modelpkg.Import(t.Context(), pkg, modelpkg.ImportOptions{Base: base})
			require.NoError(t, err)
			e := open(t, pkg, infer.Options{Context: 160})
			for _, c := range w.Cases {
				p := infer.Prompt{IDs: c.IDs}
				got, err := e.Logits(t.Context(), p, false)
				require.NoError(t, err)
				assert.InDeltaSlice(t, c.Logits, got, 2e-4, "%d tokens", len(c.IDs))
				ids, _, _, err := generate(t.Context(), e, infer.Request{Prompt: p, MaxTokens: len(c.Greedy), StopIDs: []int32{}})
				require.NoError(t, err)
				assert.Equal(t, c.Greedy, ids, "after %d tokens", len(c.IDs))
			}
		})
	}
}
