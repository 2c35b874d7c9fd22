package infer_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/infer/ort"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/testkit/tinymodel"
)

// TestBlocksOnce: roles whose blocks are multiplied with floats and roles whose are with rounded numbers hold them once, and
// each agrees with an engine that has one of both alone.
func TestBlocksOnce(t *testing.T) {
	dir := t.TempDir()
	base, ck := filepath.Join(dir, "base"), filepath.Join(dir, "clara")
	tinymodel.Base(t, base, tinymodel.Default(), 1)
	tinymodel.Checkpoint(t, ck, base, 40, 10, 1)
	texts := []string{"one text", "and another, which is longer"}
	ids := []int32{5, 6, 7, 8, 9, 10, 11, 12}
	for _, x := range []struct{ rounded, exact modelpkg.Precision }{{modelpkg.Int4, modelpkg.Int4Float}, {modelpkg.Int8, modelpkg.Int8Float}} {
		t.Run(string(x.rounded), func(t *testing.T) {
			pkg := filepath.Join(t.TempDir(), "pkg")
			_, err := modelpkg.Import(t.Context(), pkg, modelpkg.ImportOptions{Base: base, Checkpoint: ck,
				Precision: modelpkg.Precisions{Encoder: x.exact, Reasoner: x.exact, Decoder: x.rounded}})
			require.NoError(t, err)
			use := func(o infer.Options) (held int64, memories [][]float32, tokens []int32) {
				shared := ort.NewMatrices()
				t.Cleanup(func() { assert.NoError(t, shared.Close()) }) // after the engine: what is asked for last comes first
				o.Context, o.Runtime = 96, ort.Options{Provider: ort.CPU, Matrices: shared}
				e := open(t, pkg, o)
				list, err := e.CompressTexts(t.Context(), texts)
				require.NoError(t, err)
				for _, m := range list {
					memories = append(memories, m.Data)
				}
				tokens, _, _, err = generate(t.Context(), e, infer.Request{Prompt: infer.Prompt{IDs: ids}, Adapter: true, MaxTokens: 12, StopIDs: []int32{}})
				require.NoError(t, err)
				return shared.Bytes(), memories, tokens
			}
			both, memories, tokens := use(infer.Options{})
			one, _, wantTokens := use(infer.Options{Precision: x.rounded})
			_, wantMemories, _ := use(infer.Options{Precision: x.exact})
			assert.Equal(t, one, both, "bytes held")
			assert.Equal(t, wantTokens, tokens)
			assert.Equal(t, wantMemories, memories)
		})
	}
}
