package golden_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/testkit/partstest"
	"github.com/clara-suite/clara/services/trainer/torch/internal/golden"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

func folders(t *testing.T) []string {
	root := partstest.Golden(t)
	files, err := filepath.Glob(filepath.Join(root, "*", "golden.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	return files
}

func TestFolders(t *testing.T) {
	torchx.SetThreads(1)
	for _, f := range folders(t) {
		t.Run(filepath.Base(filepath.Dir(f)), func(t *testing.T) {
			r, err := golden.Verify(context.Background(), filepath.Dir(f))
			require.NoError(t, err)
			var out bytes.Buffer
			r.Print(&out, false)
			assert.True(t, r.OK(), out.String())
			assert.Greater(t, r.Passed, 1000)
		})
	}
}

// The folders of this package: what plain torch and transformers compute with families that a checkout has no other figures of.
func TestOwnFolders(t *testing.T) {
	torchx.SetThreads(1)
	for _, name := range []string{"llama", "qwen2", "phi3"} {
		t.Run(name, func(t *testing.T) {
			r, err := golden.Verify(context.Background(), filepath.Join("testdata", name))
			require.NoError(t, err)
			var out bytes.Buffer
			r.Print(&out, false)
			assert.True(t, r.OK(), out.String())
			assert.Greater(t, r.Passed, 500)
		})
	}
}

// copied is a golden folder of which a part may be taken away.
func copied(t *testing.T, from string, change func(figures map[string]any)) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(from)))
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chmod(path, 0o755)) // what is copied may be read-only
	}))
	path := filepath.Join(dir, "golden.json")
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	var figures map[string]any
	require.NoError(t, json.Unmarshal(raw, &figures))
	if change != nil {
		change(figures)
	}
	raw, err = json.Marshal(figures)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, raw, 0o644))
	return dir
}

// What a folder does not hold is listed, and the rest is compared.
func TestFolderThatLacksFigures(t *testing.T) {
	dir := copied(t, filepath.Join("testdata", "llama"), func(figures map[string]any) {
		section := func(path ...string) map[string]any {
			at := figures
			for _, key := range path {
				at = at[key].(map[string]any)
			}
			return at
		}
		delete(section("prompts"), "stage1_2")
		delete(section("curves", "stage1"), "betas")
		delete(section("stages", "stage2"), "scores")
		delete(section("stages", "stage1", "grads"), "total_norm")
		delete(section("stages", "stage1", "grads", "group_norms"), "encoder_adapter")
	})
	r, err := golden.Verify(context.Background(), dir)
	require.NoError(t, err)
	var out bytes.Buffer
	r.Print(&out, false)
	assert.True(t, r.OK(), out.String())
	for _, name := range []string{
		"prompts.stage1_2", "stages.stage1_2", "stages.stage1_2_memrows", "stages.stage2.scores", "stages.stage1.grads.total_norm", "stages.stage1.grads.group_norms.encoder_adapter",
		"curves.stage1", "curves.stage1_2", "curves.stage1_accum2", "tokenizer", "documents", "compress", "generate", "differentiable_topk", "extras",
	} {
		assert.Contains(t, out.String(), "  skipped "+name+": ")
	}
}

// A damaged file fails, by its name, and never in silence.
func TestDamagedFolder(t *testing.T) {
	for _, file := range []string{"golden.json", "golden.safetensors", "base/model.safetensors", "base/tokenizer.json", "clara/adapters.pth", "clara/config.json", "data/end_to_end_data.jsonl"} {
		t.Run(file, func(t *testing.T) {
			dir := copied(t, filepath.Join("testdata", "phi3"), nil)
			path := filepath.Join(dir, filepath.FromSlash(file))
			info, err := os.Stat(path)
			require.NoError(t, err)
			require.NoError(t, os.Truncate(path, info.Size()/2))
			r, err := golden.Verify(context.Background(), dir)
			if err != nil {
				r = golden.Unreadable(dir, err)
			}
			var out bytes.Buffer
			r.Print(&out, false)
			assert.False(t, r.OK())
			assert.Contains(t, out.String(), filepath.Base(file))
			assert.NotContains(t, out.String(), "panic")
		})
	}
}

func TestNoFolder(t *testing.T) {
	_, err := golden.Verify(context.Background(), t.TempDir())
	require.Error(t, err)
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
}
