package torchpickle

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/libs/tensor/filemap"
)

const (
	maxPickle  = 256 << 20 // a 70-layer checkpoint's is under 1 MiB
	maxEntries = 1 << 20
)

// file is a torch zip while its pickle is run.
type file struct {
	data    []byte
	entries map[string]*zip.File // by name without the archive's folder
	budget  int64                // bytes that non-contiguous tensors may still copy
}

// Load reads a .pth file and returns its dictionary.
func Load(path string) (*Dict, error) {
	m, err := filemap.Open(path)
	if err != nil {
		return nil, err
	}
	// The values outlive the map: a checkpoint is small beside its base model.
	data := bytes.Clone(m.Bytes())
	if err := m.Close(); err != nil {
		return nil, clara.Errorf(clara.Invalid, "close %s: %w", path, err)
	}
	return Parse(path, data)
}

// Parse reads a whole .pth file that is in memory; name stands for it in
// errors. Tensors point into data.
func Parse(name string, data []byte) (*Dict, error) {
	v, err := parse(data)
	if err != nil {
		return nil, clara.Errorf(clara.KindOf(err), "read %s: %w", name, err)
	}
	d, ok := v.(*Dict)
	if !ok {
		return nil, clara.Errorf(clara.Corrupt, "read %s: it holds a %T where a dictionary is expected", name, v)
	}
	return d, nil
}

func parse(data []byte) (any, error) {
	if !bytes.HasPrefix(data, []byte("PK\x03\x04")) {
		switch {
		case len(data) == 0:
			return nil, corrupt("the file is empty")
		case data[0] == 0x80:
			return nil, unsupported("a bare pickle (torch.save before 1.6): load it in torch and save it again")
		}
		return nil, corrupt("not a zip file of torch.save")
	}
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, corrupt("broken or truncated zip: %w", err)
	}
	if len(z.File) > maxEntries {
		return nil, corrupt("%d zip entries are over the limit of %d", len(z.File), maxEntries)
	}
	f := &file{data: data, entries: make(map[string]*zip.File, len(z.File)), budget: 2*int64(len(data)) + 1<<20}
	total := uint64(0)
	for _, e := range z.File {
		if e.Method != zip.Store {
			return nil, unsupported("zip entry %q is compressed: torch.save never does that", e.Name)
		}
		// Stored entries that add up to more than the file overlap.
		if total += e.UncompressedSize64; e.UncompressedSize64 != e.CompressedSize64 || total > uint64(len(data)) {
			return nil, corrupt("zip entries claim more bytes than the file has")
		}
		_, name, ok := strings.Cut(e.Name, "/")
		if !ok {
			continue
		}
		if f.entries[name] != nil {
			return nil, corrupt("zip entry %q appears twice", e.Name)
		}
		f.entries[name] = e
	}
	if e := f.entries["byteorder"]; e != nil {
		if order, err := f.bytes(e); err != nil || string(order) != "little" {
			return nil, unsupported("byte order %q is not read", order)
		}
	}
	e := f.entries["data.pkl"]
	if e == nil {
		return nil, corrupt("the zip has no data.pkl: not a file of torch.save")
	}
	if e.UncompressedSize64 > maxPickle {
		return nil, corrupt("a pickle of %d bytes is over the limit of %d", e.UncompressedSize64, maxPickle)
	}
	program, err := f.bytes(e)
	if err != nil {
		return nil, err
	}
	m := machine{data: program, memo: map[uint32]any{}, file: f}
	return m.run()
}

// bytes returns a stored entry's bytes, in place.
func (f *file) bytes(e *zip.File) ([]byte, error) {
	at, err := e.DataOffset()
	if err != nil {
		return nil, corrupt("zip entry %q: %w", e.Name, err)
	}
	n := int64(e.UncompressedSize64)
	if at < 0 || n < 0 || at > int64(len(f.data)) || n > int64(len(f.data))-at {
		return nil, corrupt("zip entry %q lies beyond the file's end", e.Name)
	}
	return f.data[at : at+n : at+n], nil
}

// tensor rebuilds (storage, offset, size, stride, requires_grad, hooks[, metadata]).
func (f *file) tensor(args Tuple) (tensor.View, error) {
	none := tensor.View{}
	if len(args) < 6 {
		return none, corrupt("a tensor with %d arguments", len(args))
	}
	s, ok1 := args[0].(storage)
	offset, ok2 := args[1].(int64)
	size, ok3 := ints(args[2])
	stride, ok4 := ints(args[3])
	if !ok1 || !ok2 || !ok3 || !ok4 || len(size) != len(stride) || offset < 0 {
		return none, corrupt("a tensor whose storage, offset, size or stride is not what it should be")
	}
	e := f.entries["data/"+s.key]
	if e == nil {
		return none, corrupt("storage %q is missing from the zip: the file is truncated", s.key)
	}
	data, err := f.bytes(e)
	if err != nil {
		return none, err
	}
	width := s.dtype.Size()
	if s.size > math.MaxInt/width || len(data) != s.size*width {
		return none, corrupt("storage %q has %d bytes where %d elements of %s are announced", s.key, len(data), s.size, s.dtype)
	}
	shape := tensor.Shape(size)
	n, ok := shape.Elements()
	if !ok {
		return none, corrupt("storage %q: a tensor of impossible shape %s", s.key, shape)
	}
	v := tensor.View{DType: s.dtype, Shape: shape}
	if n == 0 {
		v.Data = []byte{}
		return v, nil
	}
	last, ok := reach(size, stride, int(offset))
	if !ok || last >= s.size {
		return none, corrupt("storage %q has %d elements, a tensor of shape %s and stride %v at %d reaches beyond", s.key, s.size, shape, stride, offset)
	}
	if contiguous(size, stride) {
		v.Data = data[int(offset)*width : (int(offset)+n)*width : (int(offset)+n)*width]
		return v, nil
	}
	// A copy may be larger than its storage (stride 0): bound what a file can ask for.
	if n > math.MaxInt/width || int64(n*width) > f.budget {
		return none, unsupported("tensors with strides ask for more bytes than the file justifies: refused")
	}
	f.budget -= int64(n * width)
	v.Data = gather(data, size, stride, int(offset), n, width)
	return v, nil
}

func ints(v any) ([]int, bool) {
	t, ok := v.(Tuple)
	if !ok || len(t) > 16 {
		return nil, false
	}
	out := make([]int, len(t))
	for i, x := range t {
		n, ok := x.(int64)
		if !ok || n < 0 {
			return nil, false
		}
		out[i] = int(n)
	}
	return out, true
}

// reach returns the index of the last element of a non-empty tensor.
func reach(size, stride []int, offset int) (int, bool) {
	last := offset
	for i, n := range size {
		if n > 1 && stride[i] > 0 {
			if n-1 > (math.MaxInt-last)/stride[i] {
				return 0, false
			}
			last += (n - 1) * stride[i]
		}
	}
	return last, true
}

func contiguous(size, stride []int) bool {
	want := 1
	for i := len(size) - 1; i >= 0; i-- {
		if size[i] != 1 && stride[i] != want {
			return false
		}
		want *= size[i]
	}
	return true
}

// gather copies a strided tensor into row-major order.
func gather(data []byte, size, stride []int, offset, n, width int) []byte {
	out := make([]byte, 0, n*width)
	index := make([]int, len(size))
	at := offset
	for range n {
		out = append(out, data[at*width:(at+1)*width]...)
		for d := len(size) - 1; d >= 0; d-- {
			index[d]++
			at += stride[d]
			if index[d] < size[d] {
				break
			}
			at -= index[d] * stride[d]
			index[d] = 0
		}
	}
	return out
}

// Save writes the dictionary to path as torch.save does. The folder inside the
// zip is called archive. The write is not atomic: see checkpoint.SaveDir.
func Save(path string, d *Dict) error {
	f, err := os.Create(path)
	if err != nil {
		return clara.Errorf(clara.Unavailable, "create %s: %w", path, err)
	}
	defer f.Close()
	if err := Encode(f, d); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return clara.Errorf(clara.Unavailable, "write %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return clara.Errorf(clara.Unavailable, "write %s: %w", path, err)
	}
	return nil
}

// Encode writes the dictionary to w; equal dictionaries give equal bytes.
func Encode(w io.Writer, d *Dict) error {
	p := &pickler{}
	if err := p.program(d); err != nil {
		return err
	}
	return writeZip(w, p)
}
