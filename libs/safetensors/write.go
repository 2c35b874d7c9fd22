package safetensors

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tensor"
)

// Entry announces a tensor to a Writer.
type Entry struct {
	Name  string
	DType tensor.DType
	Shape tensor.Shape
}

// Writer streams a safetensors file: the header first, then the tensors in the
// order that Entries returns. Equal entries and metadata give equal bytes.
type Writer struct {
	w       io.Writer
	entries []Entry
	next    int
}

// NewWriter writes the header. The order of the tensors is by size of element,
// largest first, then by name, which keeps every tensor aligned.
// Errors: Invalid for duplicate names or shapes that overflow, else what w returns.
func NewWriter(w io.Writer, metadata map[string]string, entries []Entry) (*Writer, error) {
	sorted := slices.Clone(entries)
	slices.SortFunc(sorted, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(b.DType.Size(), a.DType.Size()), cmp.Compare(a.Name, b.Name))
	})
	type jsonEntry struct {
		DType   string       `json:"dtype"`
		Shape   tensor.Shape `json:"shape"`
		Offsets [2]int64     `json:"data_offsets"`
	}
	header := []byte{'{'}
	field := func(name string, value any) error {
		if len(header) > 1 {
			header = append(header, ',')
		}
		for i, v := range []any{name, value} {
			if i == 1 {
				header = append(header, ':')
			}
			b, err := json.Marshal(v)
			if err != nil {
				return clara.Errorf(clara.Invalid, "write safetensors header of %q: %w", name, err)
			}
			header = append(header, b...)
		}
		return nil
	}
	if len(metadata) > 0 {
		if err := field("__metadata__", metadata); err != nil {
			return nil, err
		}
	}
	at := int64(0)
	for i, e := range sorted {
		n, ok := e.Shape.Elements()
		if !ok || e.DType.Size() == 0 || e.Name == "__metadata__" || i > 0 && sorted[i-1].Name == e.Name {
			return nil, clara.Errorf(clara.Invalid, "write safetensors: tensor %q of %s %s has a bad name, type or shape, or comes twice", e.Name, e.DType, e.Shape)
		}
		shape := e.Shape
		if shape == nil {
			shape = tensor.Shape{}
		}
		end := at + int64(n)*int64(e.DType.Size())
		if err := field(e.Name, jsonEntry{e.DType.String(), shape, [2]int64{at, end}}); err != nil {
			return nil, err
		}
		at = end
	}
	header = append(header, '}')
	for len(header)%8 != 0 {
		header = append(header, ' ')
	}
	if _, err := w.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(header)))); err != nil {
		return nil, clara.Errorf(clara.Unavailable, "write safetensors header: %w", err)
	}
	if _, err := w.Write(header); err != nil {
		return nil, clara.Errorf(clara.Unavailable, "write safetensors header: %w", err)
	}
	return &Writer{w: w, entries: sorted}, nil
}

// Entries returns the order in which Write expects the tensors.
func (w *Writer) Entries() []Entry { return w.entries }

// Write writes the next tensor. It is an Invalid error if it is not the one expected.
func (w *Writer) Write(v tensor.View) error {
	if w.next == len(w.entries) {
		return clara.Errorf(clara.Invalid, "write safetensors: tensor %q was not announced", v.Name)
	}
	e := w.entries[w.next]
	if v.Name != e.Name || v.DType != e.DType || !v.Shape.Equal(e.Shape) {
		return clara.Errorf(clara.Invalid, "write safetensors: got tensor %q %s %s where %q %s %s is next", v.Name, v.DType, v.Shape, e.Name, e.DType, e.Shape)
	}
	if err := v.Check(); err != nil {
		return err
	}
	if _, err := w.w.Write(v.Data); err != nil {
		return clara.Errorf(clara.Unavailable, "write tensor %q: %w", v.Name, err)
	}
	w.next++
	return nil
}

// Close reports an Invalid error if announced tensors are missing. It does not close the io.Writer.
func (w *Writer) Close() error {
	if w.next < len(w.entries) {
		return clara.Errorf(clara.Invalid, "write safetensors: tensor %q was announced but not written", w.entries[w.next].Name)
	}
	return nil
}

// Encode writes tensors, in any order, to w.
func Encode(w io.Writer, metadata map[string]string, tensors []tensor.View) error {
	entries := make([]Entry, len(tensors))
	byName := make(map[string]tensor.View, len(tensors))
	for i, v := range tensors {
		entries[i] = Entry{v.Name, v.DType, v.Shape}
		byName[v.Name] = v
	}
	sw, err := NewWriter(w, metadata, entries)
	if err != nil {
		return err
	}
	for _, e := range sw.Entries() {
		if err := sw.Write(byName[e.Name]); err != nil {
			return err
		}
	}
	return sw.Close()
}

// WriteFile writes the tensors to path atomically: a reader sees the old file or
// the whole new one, also after a crash.
func WriteFile(path string, metadata map[string]string, tensors []tensor.View) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return clara.Errorf(clara.Unavailable, "create %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	b := bufio.NewWriterSize(f, 1<<20)
	if err := Encode(b, metadata, tensors); err != nil {
		return err
	}
	for _, step := range []func() error{b.Flush, func() error { return f.Chmod(0o644) }, f.Sync, f.Close, func() error { return os.Rename(f.Name(), path) }} {
		if err := step(); err != nil {
			return clara.Errorf(clara.Unavailable, "write %s: %w", path, err)
		}
	}
	return nil
}
