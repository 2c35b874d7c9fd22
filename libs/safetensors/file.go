package safetensors

import (
	"maps"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/libs/tensor/filemap"
)

// File is an open safetensors file.
type File struct {
	path   string
	data   []byte
	close  func() error
	free   func()
	header *header
	byName map[string]int
}

// Open maps the file and checks its header.
func Open(path string) (*File, error) {
	m, err := filemap.Open(path)
	if err != nil {
		return nil, err
	}
	f, err := parse(path, m.Bytes())
	if err != nil {
		m.Close()
		return nil, err
	}
	f.close, f.free = m.Close, m.Release
	return f, nil
}

// Parse reads a whole file that is in memory; name stands for it in errors.
func Parse(name string, data []byte) (*File, error) { return parse(name, data) }

func parse(path string, data []byte) (*File, error) {
	h, err := parseHeader(path, data)
	if err != nil {
		return nil, err
	}
	f := &File{path: path, data: data, header: h, byName: make(map[string]int, len(h.entries))}
	for i, e := range h.entries {
		f.byName[e.name] = i
	}
	return f, nil
}

// Path returns the path that the file was opened with.
func (f *File) Path() string { return f.path }

// Metadata returns a copy of the header's free text.
func (f *File) Metadata() map[string]string { return maps.Clone(f.header.metadata) }

// Names returns the tensors' names in the order of their bytes.
func (f *File) Names() []string {
	names := make([]string, len(f.header.entries))
	for i, e := range f.header.entries {
		names[i] = e.name
	}
	return names
}

// Has reports whether the file holds the tensor.
func (f *File) Has(name string) bool { _, ok := f.byName[name]; return ok }

// Tensor returns a tensor, over the mapped bytes. It is a NotFound error if
// the file does not hold it.
func (f *File) Tensor(name string) (tensor.View, error) {
	i, ok := f.byName[name]
	if !ok {
		return tensor.View{}, clara.Errorf(clara.NotFound, "read %s: no tensor %q in it", f.path, name)
	}
	e := f.header.entries[i]
	from, to := f.header.size+e.begin, f.header.size+e.end
	return tensor.View{Name: name, DType: e.dtype, Shape: e.shape, Data: f.data[from:to:to]}, nil
}

// Offset returns where the tensor's bytes begin in the file.
func (f *File) Offset(name string) (int64, bool) {
	i, ok := f.byName[name]
	if !ok {
		return 0, false
	}
	return f.header.size + f.header.entries[i].begin, true
}

// Release gives back the memory of what was read of a mapped file; it is paged in again on use.
func (f *File) Release() {
	if f.free != nil {
		f.free()
	}
}

// Close unmaps the file; views of it must no longer be used.
func (f *File) Close() error {
	if f.close == nil {
		return nil
	}
	return f.close()
}
