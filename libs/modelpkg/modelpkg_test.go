package modelpkg_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/safetensors"
	"github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/libs/testkit/tinymodel"
)

func importInto(t *testing.T, dir string, o modelpkg.ImportOptions) *modelpkg.Manifest {
	t.Helper()
	m, err := modelpkg.Import(t.Context(), dir, o)
	require.NoError(t, err)
	return m
}

func TestImport(t *testing.T) {
	dir := t.TempDir()
	base, ck, pkg := filepath.Join(dir, "base"), filepath.Join(dir, "clara"), filepath.Join(dir, "pkg")
	tinymodel.Base(t, base, tinymodel.Default(), 1)
	tinymodel.Checkpoint(t, ck, base, 40, 10, 1)
	var steps []string
	m := importInto(t, pkg, modelpkg.ImportOptions{Base: base, Checkpoint: ck, Progress: func(done, total int, s string) {
		assert.Equal(t, [2]int{len(steps), 6}, [2]int{done, total})
		steps = append(steps, s)
	}})
	assert.Equal(t, []string{"tokenizer", "embedding", "weights", "adapters", "graph", "hashes"}, steps)
	assert.Equal(t, "clara", m.Name)
	assert.Equal(t, []int{4, 48, 40, 10, 2, tinymodel.Vocab + 7}, []int{m.M, m.H, m.DocMaxLength, m.CompressRate, m.GenerationTopK, m.Vocab})
	assert.Equal(t, []int32{2}, m.EOS)
	assert.Len(t, m.Adapters, 3)
	assert.NotZero(t, m.IndexKeySeed)
	require.NoError(t, modelpkg.Verify(pkg))

	a, err := os.Stat(filepath.Join(base, safetensors.SingleFile))
	require.NoError(t, err)
	b, err := os.Stat(filepath.Join(pkg, safetensors.SingleFile))
	require.NoError(t, err)
	assert.True(t, os.SameFile(a, b), "float32 weights are not copied")

	p, err := modelpkg.Open(pkg)
	require.NoError(t, err)
	assert.EqualValues(t, 4*m.Vocab*m.H, p.TableBytes())
	assert.Equal(t, m.Vocab, p.Tokenizer.Len())
	assert.Len(t, p.Clara.Mem, 4)
	require.NoError(t, p.Close())

	id, err := m.ID()
	require.NoError(t, err)
	again := importInto(t, pkg, modelpkg.ImportOptions{Base: base, Checkpoint: ck})
	same, err := again.ID()
	require.NoError(t, err)
	assert.Equal(t, id, same, "the same sources make the same package")
	left, err := filepath.Glob(filepath.Join(dir, ".*"))
	require.NoError(t, err)
	assert.Empty(t, left, "nothing is left beside it")
}

// TestHashes: what changes one role changes that role's hash and no other.
func TestHashes(t *testing.T) {
	dir := t.TempDir()
	base, ck := filepath.Join(dir, "base"), filepath.Join(dir, "clara")
	tinymodel.Base(t, base, tinymodel.Default(), 1)
	tinymodel.Checkpoint(t, ck, base, 40, 10, 1)
	m := importInto(t, filepath.Join(dir, "a"), modelpkg.ImportOptions{Base: base, Checkpoint: ck})
	require.NotEqual(t, m.Hashes.Encoder, m.Hashes.Reasoner)

	tinymodel.Checkpoint(t, ck, base, 40, 20, 1)
	rate := importInto(t, filepath.Join(dir, "b"), modelpkg.ImportOptions{Base: base, Checkpoint: ck})
	assert.NotEqual(t, m.Hashes.Encoder, rate.Hashes.Encoder)
	assert.Equal(t, m.Hashes.Base, rate.Hashes.Base)
	assert.Equal(t, m.Hashes.Tokenizer, rate.Hashes.Tokenizer)

	plain := importInto(t, filepath.Join(dir, "c"), modelpkg.ImportOptions{Base: base})
	assert.Equal(t, m.Hashes.Base, plain.Hashes.Base)
	assert.Equal(t, modelpkg.Hashes{Base: m.Hashes.Base, Tokenizer: m.Hashes.Tokenizer}, plain.Hashes)
	assert.False(t, plain.HasAdapters())
	p, err := modelpkg.Open(filepath.Join(dir, "c"))
	require.NoError(t, err)
	defer p.Close()
	_, err = p.Adapter(modelpkg.Encoder)
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
	_, err = p.Graph("int4")
	assert.Equal(t, clara.Unsupported, clara.KindOf(err))
}

// TestConvert: weights in half precision are converted once.
func TestConvert(t *testing.T) {
	dir := t.TempDir()
	base := filepath.Join(dir, "base")
	tinymodel.Base(t, base, tinymodel.Default(), 1)
	path := filepath.Join(base, safetensors.SingleFile)
	f, err := safetensors.Open(path)
	require.NoError(t, err)
	var list []tensor.View
	for _, name := range f.Names() {
		v, err := f.Tensor(name)
		require.NoError(t, err)
		half, err := v.Convert(tensor.BF16)
		require.NoError(t, err)
		list = append(list, half)
	}
	require.NoError(t, safetensors.WriteFile(path+".new", nil, list))
	require.NoError(t, f.Close())
	require.NoError(t, os.Rename(path+".new", path))
	importInto(t, filepath.Join(dir, "pkg"), modelpkg.ImportOptions{Base: base})
	p, err := modelpkg.Open(filepath.Join(dir, "pkg"))
	require.NoError(t, err)
	defer p.Close()
	want, err := list[0].Float32()
	require.NoError(t, err)
	g, err := safetensors.Open(filepath.Join(dir, "pkg", "weights.safetensors"))
	require.NoError(t, err)
	defer g.Close()
	v, err := g.Tensor(list[0].Name)
	require.NoError(t, err)
	got, err := v.Float32()
	require.NoError(t, err)
	assert.Equal(t, tensor.F32, v.DType)
	assert.Equal(t, want, got)
}

func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	base, other, ck := filepath.Join(dir, "base"), filepath.Join(dir, "other"), filepath.Join(dir, "clara")
	tinymodel.Base(t, base, tinymodel.Default(), 1)
	tinymodel.Base(t, other, tinymodel.Default().With(tinymodel.Config{"hidden_size": 64}), 1)
	tinymodel.Checkpoint(t, ck, base, 40, 10, 1)
	for _, c := range []struct {
		name string
		o    modelpkg.ImportOptions
		kind clara.Kind
	}{
		{"no base", modelpkg.ImportOptions{Base: filepath.Join(dir, "none")}, clara.NotFound},
		{"no checkpoint", modelpkg.ImportOptions{Base: base, Checkpoint: filepath.Join(dir, "none")}, clara.NotFound},
		{"checkpoint of another base", modelpkg.ImportOptions{Base: other, Checkpoint: ck}, clara.Invalid},
		{"contradicting rate", modelpkg.ImportOptions{Base: base, Checkpoint: ck, CompressRate: 4}, clara.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			pkg := filepath.Join(dir, "pkg")
			_, err := modelpkg.Import(t.Context(), pkg, c.o)
			require.Error(t, err)
			assert.Equal(t, c.kind, clara.KindOf(err), "%v", err)
			assert.NoDirExists(t, pkg)
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := modelpkg.Import(ctx, filepath.Join(dir, "pkg"), modelpkg.ImportOptions{Base: base})
	assert.True(t, clara.IsContext(err))
	left, err := filepath.Glob(filepath.Join(dir, ".*"))
	require.NoError(t, err)
	assert.Empty(t, left)
}

func TestCorrupt(t *testing.T) {
	pkg := tinymodel.Package(t, tinymodel.Default(), 4)
	path := filepath.Join(pkg, "encoder.safetensors")
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	raw[len(raw)-1] ^= 1
	require.NoError(t, os.WriteFile(path, raw, 0o600))
	err = modelpkg.Verify(pkg)
	assert.Equal(t, clara.Corrupt, clara.KindOf(err))
	require.ErrorContains(t, err, "encoder.safetensors is not what was imported")
	require.NoError(t, os.Truncate(path, 10))
	_, err = modelpkg.Open(pkg)
	assert.Equal(t, clara.Corrupt, clara.KindOf(err))

	manifest := filepath.Join(pkg, modelpkg.ManifestFile)
	for name, c := range map[string]struct {
		raw  string
		kind clara.Kind
	}{
		"no JSON": {"{", clara.Corrupt}, "another format": {`{"format": 99}`, clara.Unsupported}, "empty": {`{"format": 2}`, clara.Corrupt},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(manifest, []byte(c.raw), 0o600))
			_, err := modelpkg.Open(pkg)
			assert.Equal(t, c.kind, clara.KindOf(err))
		})
	}
	require.NoError(t, os.Remove(manifest))
	_, err = modelpkg.Open(pkg)
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
}
