//go:build cgo

package ort_test

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer/ort"
	"github.com/clara-suite/clara/libs/onnx/graph"
)

// model is y = x + w, z = x * w.
func model(t *testing.T) []byte {
	g := graph.New("test")
	x := g.Input("x", graph.Float32, graph.Named("B"), graph.Fixed(2))
	w := g.Input("w", graph.Float32, graph.Fixed(2))
	g.Output("y", g.Add(x, w))
	g.Output("z", g.Mul(x, w))
	g.Meta("made for", "a test")
	var buf bytes.Buffer
	_, err := g.WriteTo(&buf)
	require.NoError(t, err)
	return buf.Bytes()
}

func TestRun(t *testing.T) {
	s, err := ort.OpenBytes(model(t), ort.Options{Threads: 1, Provider: ort.CPU})
	require.NoError(t, err)
	defer s.Close()
	assert.Equal(t, []ort.IO{{"x", []int64{-1, 2}, "f32"}, {"w", []int64{2}, "f32"}}, s.Inputs())
	assert.Equal(t, ort.CPU, s.Provider())
	v, ok, err := s.Metadata("made for")
	require.NoError(t, err)
	assert.True(t, ok)
	assert.Equal(t, "a test", v)

	w := ort.Of([]float32{10, 20}, 2)
	var wg sync.WaitGroup
	for i := range 8 { // concurrent runs do not mix
		wg.Go(func() {
			k := float32(i)
			out, err := s.Run(map[string]ort.Tensor{"x": ort.Of([]float32{k, k}, 1, 2), "w": w})
			if assert.NoError(t, err) {
				y, err := ort.Data[float32](out["y"])
				assert.NoError(t, err)
				assert.Equal(t, []float32{k + 10, k + 20}, y)
				assert.Equal(t, []float32{k * 10, k * 20}, out["z"].Data)
			}
		})
	}
	wg.Wait()

	for _, c := range []struct {
		name string
		in   map[string]ort.Tensor
		text string
	}{
		{"missing", map[string]ort.Tensor{"w": w}, "input x is missing"},
		{"unknown", map[string]ort.Tensor{"w": w, "x": w, "q": w}, "it has [x w]"},
		{"short", map[string]ort.Tensor{"w": w, "x": ort.Of([]float32{1}, 1, 2)}, "holds 1 elements"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := s.Run(c.in)
			require.ErrorContains(t, err, c.text)
			assert.Equal(t, clara.Invalid, clara.KindOf(err))
		})
	}
	_, err = s.Run(map[string]ort.Tensor{"w": w, "x": ort.Of([]int32{1, 2}, 1, 2)})
	require.Error(t, err, "another type")
}

// TestBinding runs in place: the output is the input's memory, and new contents are seen without binding again.
func TestBinding(t *testing.T) {
	s, err := ort.OpenBytes(model(t), ort.Options{Threads: 1})
	require.NoError(t, err)
	defer s.Close()
	x := []float32{1, 2}
	xv, err := ort.NewValue(ort.Of(x, 1, 2))
	require.NoError(t, err)
	defer xv.Close()
	wv, err := ort.NewValue(ort.Of([]float32{10, 20}, 2))
	require.NoError(t, err)
	defer wv.Close()
	b, err := s.Bind()
	require.NoError(t, err)
	defer b.Close()
	require.NoError(t, b.In("x", xv))
	require.NoError(t, b.In("w", wv))
	require.NoError(t, b.Out("y", xv))
	require.NoError(t, b.Run())
	require.NoError(t, b.Run())
	assert.Equal(t, []float32{21, 42}, x)
	require.Error(t, b.In("nothing", xv))
}

func TestOpenRefuses(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.onnx")
	require.NoError(t, os.WriteFile(bad, []byte("\x08\x0a not a model"), 0o600))
	for _, c := range []struct {
		name, path string
		kind       clara.Kind
	}{{"missing", bad + "x", clara.NotFound}, {"broken", bad, clara.Corrupt}} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ort.Open(c.path, ort.Options{})
			require.Error(t, err)
			assert.Equal(t, c.kind, clara.KindOf(err))
		})
	}
	_, err := ort.OpenBytes(model(t), ort.Options{Provider: ort.CUDA})
	if err != nil { // a machine without CUDA says what it lacks
		assert.Equal(t, clara.State, clara.KindOf(err))
		assert.ErrorContains(t, err, "choose device cpu")
	}
}

func TestLibrary(t *testing.T) {
	t.Setenv("CLARA_ONNXRUNTIME", filepath.Join(t.TempDir(), "none.so"))
	_, err := ort.Library()
	assert.Equal(t, clara.State, clara.KindOf(err))
	t.Setenv("CLARA_ONNXRUNTIME", "")
	t.Setenv("CLARA_CACHE", t.TempDir())
	_, err = ort.Library()
	require.ErrorContains(t, err, "make deps")
}

// TestMemory goes the way of a GPU with the processor's own memory: tensors made by the runtime's C API over memory
// of its allocator, bound as input and output at once, read and moved by copies that the runtime makes.
func TestMemory(t *testing.T) {
	s, err := ort.OpenBytes(model(t), ort.Options{Threads: 1, Provider: ort.CPU})
	require.NoError(t, err)
	defer s.Close()
	m, err := s.Allocate(ort.Float32, 12)
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	assert.EqualValues(t, 12, m.Len())
	require.NoError(t, m.Write(0, []float32{0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0}))

	x, err := m.View(2, 2, 2)
	require.NoError(t, err)
	defer x.Close()
	w, err := s.Constant(ort.Of([]float32{10, 20}, 2))
	require.NoError(t, err)
	defer w.Close()
	b, err := s.Bind()
	require.NoError(t, err)
	defer b.Close()
	require.NoError(t, b.In("x", x))
	require.NoError(t, b.In("w", w))
	require.NoError(t, b.Out("y", x)) // in place
	require.NoError(t, b.Run())
	require.NoError(t, b.Run())
	require.NoError(t, m.Move(8, 2, 4))
	got := make([]float32, 12)
	require.NoError(t, m.Read(got, 0))
	assert.Equal(t, []float32{0, 0, 21, 42, 23, 44, 0, 0, 21, 42, 23, 44}, got)
	require.NoError(t, m.Read(got[:2], 10))
	assert.Equal(t, []float32{23, 44}, got[:2])

	halves, err := s.Allocate(ort.Float16, 8)
	require.NoError(t, err)
	require.NoError(t, halves.Move(4, 0, 4))
	assert.Equal(t, clara.Unsupported, clara.KindOf(halves.Write(0, []float32{1})))
	require.NoError(t, halves.Close())

	for _, c := range []struct {
		name string
		f    func() error
	}{
		{"view beyond the end", func() error { _, err := m.View(8, 5); return err }},
		{"view before the beginning", func() error { _, err := m.View(-1, 1); return err }},
		{"a shape that overflows", func() error { _, err := m.View(0, 1<<40, 1<<40); return err }},
		{"a negative shape", func() error { _, err := m.View(0, -1); return err }},
		{"a move onto itself", func() error { return m.Move(1, 0, 4) }},
		{"a write beyond the end", func() error { return m.Write(11, []float32{1, 2}) }},
		{"nothing to allocate", func() error { _, err := s.Allocate(ort.Float32, 0); return err }},
	} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, clara.Invalid, clara.KindOf(c.f())) })
	}
	_, err = s.Allocate(ort.Float32, 1<<55)
	assert.Equal(t, clara.State, clara.KindOf(err), "%v", err)
}

// TestAuto: what auto finds is used or named.
func TestAuto(t *testing.T) {
	for _, p := range []ort.Provider{"", ort.Auto} {
		s, err := ort.OpenBytes(model(t), ort.Options{Threads: 1, Provider: p})
		require.NoError(t, err)
		if s.Provider() == ort.CPU {
			assert.Contains(t, s.Note(), "CUDA is not used")
		} else {
			assert.Empty(t, s.Note())
		}
		require.NoError(t, s.Close())
	}
	s, err := ort.OpenBytes(model(t), ort.Options{Threads: 1, Provider: ort.CPU})
	require.NoError(t, err)
	assert.Empty(t, s.Note(), "nobody asked for it")
	require.NoError(t, s.Close())
	_, err = ort.OpenBytes(model(t), ort.Options{Provider: "tpu"})
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
}
