package verify_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/infer/verify"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/testkit/tinymodel"
)

// TestPrecisions: float32 agrees with itself, and blocks with the same weights in float32 as far as they are meant to.
func TestPrecisions(t *testing.T) {
	dir := t.TempDir()
	base, ck := filepath.Join(dir, "base"), filepath.Join(dir, "clara")
	tinymodel.Base(t, base, tinymodel.Default().With(tinymodel.Config{"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96}), 1)
	tinymodel.Checkpoint(t, ck, base, 40, 10, 1)
	for _, c := range []struct {
		precision modelpkg.Precision
		cosine    float64
	}{{modelpkg.FP32, 1}, {modelpkg.Int4, 0.99}, {modelpkg.Int8Float, 0.9999999}, {modelpkg.Int4Float, 0.9999999}} {
		t.Run(string(c.precision), func(t *testing.T) {
			pkg := filepath.Join(t.TempDir(), "pkg")
			_, err := modelpkg.Import(t.Context(), pkg, modelpkg.ImportOptions{Base: base, Checkpoint: ck,
				Precision: modelpkg.Precisions{Encoder: c.precision, Reasoner: c.precision, Decoder: c.precision}})
			require.NoError(t, err)
			list, err := verify.Precisions(t.Context(), pkg, infer.Options{})
			require.NoError(t, err)
			require.Len(t, list, 1)
			a := list[0]
			assert.Equal(t, c.precision, a.Precision)
			assert.Len(t, a.Roles, 4)
			assert.GreaterOrEqual(t, a.CosineMin, c.cosine-1e-9)
			assert.Equal(t, 16, a.Memories)
			assert.Positive(t, a.Same)
			if c.precision == modelpkg.FP32 {
				assert.Equal(t, a.Tokens, a.Same)
			}
			t.Logf("%+v", a)
		})
	}
}
