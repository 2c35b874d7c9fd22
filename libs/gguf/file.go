package gguf

import (
	"slices"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tensor/filemap"
)

// File is an open GGUF file.
type File struct {
	path     string
	close    func() error
	metadata map[string]any
	names    []string
	tensors  map[string]Tensor
}

// Open maps the file and reads everything but the tensors' bytes.
func Open(path string) (*File, error) {
	m, err := filemap.Open(path)
	if err != nil {
		return nil, err
	}
	f, err := Parse(path, m.Bytes())
	if err != nil {
		m.Close()
		return nil, err
	}
	f.close = m.Close
	return f, nil
}

// Parse reads a whole file that is in memory; name stands for it in errors.
func Parse(name string, data []byte) (*File, error) {
	f, err := parse(data)
	if err != nil {
		return nil, clara.Errorf(clara.KindOf(err), "read gguf %s: %w", name, err)
	}
	f.path = name
	return f, nil
}

// Path returns the path that the file was opened with.
func (f *File) Path() string { return f.path }

// Close unmaps the file; tensors of it must no longer be used.
func (f *File) Close() error {
	if f.close == nil {
		return nil
	}
	return f.close()
}

// Names returns the tensors' names in the order of the file.
func (f *File) Names() []string { return slices.Clone(f.names) }

// Has reports whether the file holds the tensor.
func (f *File) Has(name string) bool { _, ok := f.tensors[name]; return ok }

// Tensor returns a tensor. Errors: NotFound, Unsupported for a block format
// that is not read.
func (f *File) Tensor(name string) (Tensor, error) {
	t, ok := f.tensors[name]
	if !ok {
		return Tensor{}, clara.Errorf(clara.NotFound, "read gguf %s: no tensor %q in it", f.path, name)
	}
	if _, known := t.Type.layout(); !known {
		return Tensor{}, clara.Errorf(clara.Unsupported, "read gguf %s: tensor %q has the block format %d, which is not read; read are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K", f.path, name, uint32(t.Type))
	}
	return t, nil
}

// Keys returns the metadata's keys, sorted.
func (f *File) Keys() []string {
	keys := make([]string, 0, len(f.metadata))
	for k := range f.metadata {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Has* and the getters below return def where the key is absent or of another type.

// HasKey reports whether the metadata has the key.
func (f *File) HasKey(key string) bool { _, ok := f.metadata[key]; return ok }

func get[T any](f *File, key string, def T) T {
	if v, ok := f.metadata[key].(T); ok {
		return v
	}
	return def
}

// String returns a text.
func (f *File) String(key, def string) string { return get(f, key, def) }

// Bool returns a truth value.
func (f *File) Bool(key string, def bool) bool { return get(f, key, def) }

// Int returns a whole number of any width.
func (f *File) Int(key string, def int) int { return int(get(f, key, int64(def))) }

// Float returns a number, whole ones too.
func (f *File) Float(key string, def float64) float64 {
	if i, ok := f.metadata[key].(int64); ok {
		return float64(i)
	}
	return get(f, key, def)
}

// Strings returns an array of texts, nil if there is none.
func (f *File) Strings(key string) []string { return get[[]string](f, key, nil) }

// Ints returns an array of whole numbers, nil if there is none.
func (f *File) Ints(key string) []int64 { return get[[]int64](f, key, nil) }

// Floats returns an array of numbers, nil if there is none.
func (f *File) Floats(key string) []float64 { return get[[]float64](f, key, nil) }

// Bools returns an array of truth values, nil if there is none.
func (f *File) Bools(key string) []bool { return get[[]bool](f, key, nil) }
