package modelpkg_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/testkit/tinymodel"
)

func TestParsePrecisions(t *testing.T) {
	for _, c := range []struct {
		in   string
		want modelpkg.Precisions
	}{
		{"", modelpkg.Precisions{}},
		{"int4", modelpkg.Precisions{Decoder: modelpkg.Int4}},
		{"all=int8", modelpkg.Precisions{Encoder: modelpkg.Int8, Reasoner: modelpkg.Int8, Decoder: modelpkg.Int8}},
		{"encoder=fp32, reasoner=int8,generator=int4-f32", modelpkg.Precisions{Encoder: modelpkg.FP32, Reasoner: modelpkg.Int8, Decoder: modelpkg.Int4Float}},
	} {
		t.Run(c.in, func(t *testing.T) {
			p, err := modelpkg.ParsePrecisions(c.in)
			require.NoError(t, err)
			assert.Equal(t, c.want, p)
			again, err := modelpkg.ParsePrecisions(p.String())
			require.NoError(t, err)
			assert.Equal(t, p, again)
		})
	}
	for _, bad := range []string{"int3", "judge=int4", "encoder=", "int4,,"} {
		_, err := modelpkg.ParsePrecisions(bad)
		assert.Equal(t, clara.Invalid, clara.KindOf(err), bad)
	}
}

// TestPrecisions: a precision brings its own graph and weights, and leaves the hashes of other roles alone.
func TestPrecisions(t *testing.T) {
	dir := t.TempDir()
	base, ck := filepath.Join(dir, "base"), filepath.Join(dir, "clara")
	// Rows of 64 are whole groups; those of the down projection, 80, are not.
	tinymodel.Base(t, base, tinymodel.Default().With(tinymodel.Config{"hidden_size": 64, "num_attention_heads": 4}), 1)
	tinymodel.Checkpoint(t, ck, base, 40, 10, 1)
	plain := importInto(t, filepath.Join(dir, "a"), modelpkg.ImportOptions{Base: base, Checkpoint: ck})
	mixed := importInto(t, filepath.Join(dir, "b"), modelpkg.ImportOptions{Base: base, Checkpoint: ck, Precision: modelpkg.Precisions{Decoder: modelpkg.Int4}})
	assert.Len(t, mixed.Graphs, 2)
	assert.Equal(t, modelpkg.FP32, mixed.Precision(modelpkg.Encoder), "floats rounded to blocks make other memories: not chosen")
	assert.Equal(t, modelpkg.Int4, mixed.Precision(modelpkg.Decoder))
	assert.Equal(t, modelpkg.Int4, mixed.Precision(modelpkg.Base))
	assert.Equal(t, plain.Hashes.Encoder, mixed.Hashes.Encoder, "the index stays")
	assert.Equal(t, plain.Hashes.Reasoner, mixed.Hashes.Reasoner)
	assert.NotEqual(t, plain.Hashes.Decoder, mixed.Hashes.Decoder)
	assert.Less(t, mixed.WeightBytes(modelpkg.Int4), mixed.WeightBytes(modelpkg.FP32)/2)
	require.NoError(t, modelpkg.Verify(filepath.Join(dir, "b")))

	all := modelpkg.Precisions{Encoder: modelpkg.Int8, Reasoner: modelpkg.Int8, Decoder: modelpkg.Int8}
	only := importInto(t, filepath.Join(dir, "c"), modelpkg.ImportOptions{Base: base, Checkpoint: ck, Precision: all})
	assert.Len(t, only.Graphs, 1)
	assert.NotEqual(t, plain.Hashes.Encoder, only.Hashes.Encoder)
	for _, f := range only.Files {
		assert.NotEqual(t, "model.safetensors", f.Path, "floats are not in a package that does not run them")
	}
	require.NoError(t, modelpkg.Spread(t.Context(), filepath.Join(dir, "c"), filepath.Join(dir, "d")))
	require.NoError(t, modelpkg.Verify(filepath.Join(dir, "d")))
	spread, err := modelpkg.ReadManifest(filepath.Join(dir, "d"))
	require.NoError(t, err)
	assert.Equal(t, modelpkg.FP32, spread.Precision(modelpkg.Encoder))
}
