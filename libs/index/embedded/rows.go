package embedded

import (
	"errors"
	"os"
	"runtime/debug"

	"github.com/clara-suite/clara/libs/clara"
)

const (
	// rowAlign is the alignment of a row: a cache line.
	rowAlign = 64
	// minChunk is about how many bytes are mapped at a time.
	minChunk = 16 << 20
)

// rows is a file of vectors of one length and kind of element, mapped for reading
// in chunks, so that growing never moves what a search is reading. The machine
// must be little-endian, as all that Go's SIMD kernels and mmap run on are.
type rows struct {
	f    rowFile
	path string
	denseVector
	stride int      // bytes of a row, padded
	per    int      // rows of a chunk
	size   int64    // of the file
	chunks [][]byte // mapped
}

// rowFile is what rows need of a file; tests put failing ones in its place.
type rowFile interface {
	WriteAt(p []byte, at int64) (int, error)
	Sync() error
	Truncate(size int64) error
	Close() error
	Fd() uintptr
}

func openRows(path string, v denseVector, n int) (*rows, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	stride := (v.element.size()*v.dims + rowAlign - 1) / rowAlign * rowAlign
	// A chunk is whole pages: pageRows rows are, for the stride is a multiple of rowAlign.
	pageRows := max(1, os.Getpagesize()/rowAlign)
	r := &rows{
		f: f, path: path, denseVector: v, stride: stride,
		per: (minChunk/stride + pageRows) / pageRows * pageRows,
	}
	info, err := f.Stat()
	if err == nil {
		r.size = info.Size()
	}
	if err == nil && r.size < int64(n)*int64(stride) {
		err = clara.Errorf(clara.Corrupt, "%s: %d bytes for %d rows of %d: the file was cut short", path, r.size, n, stride)
	}
	if err == nil {
		err = r.grow(n)
	}
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

// grow maps enough chunks for n rows. The file is extended, without using disk
// space, so that no page of a chunk lies beyond its end.
func (r *rows) grow(n int) error {
	for len(r.chunks)*r.per < n {
		size := int64(r.per) * int64(r.stride)
		from := int64(len(r.chunks)) * size
		if r.size < from+size { // never shorter: there are rows after this chunk
			if err := r.f.Truncate(from + size); err != nil {
				return err
			}
			r.size = from + size
		}
		chunk, err := mapRead(r.f.Fd(), from, int(size))
		if err != nil {
			return clara.Errorf(clara.Unavailable, "map %s: %w", r.path, err)
		}
		r.chunks = append(r.chunks, chunk)
	}
	return nil
}

// write puts whole rows from slot first on; they are not durable before sync.
func (r *rows) write(first int, data []byte) error {
	_, err := r.f.WriteAt(data, int64(first)*int64(r.stride))
	return err
}

func (r *rows) sync() error { return r.f.Sync() }

func (r *rows) close() error {
	var err error
	for _, c := range r.chunks {
		err = errors.Join(err, unmap(c))
	}
	r.chunks = nil
	return errors.Join(err, r.f.Close())
}

// rowView reads the rows that were there when it was taken.
type rowView struct {
	denseVector
	stride, per int
	chunks      [][]byte
}

func (r *rows) view() rowView { return rowView{r.denseVector, r.stride, r.per, r.chunks} }

// bytes are the row of a slot with its padding.
func (v rowView) bytes(slot int) []byte {
	at := slot % v.per * v.stride
	return v.chunks[slot/v.per][at : at+v.stride]
}

// guard runs f, which reads mapped files, and turns a page that the disk does
// not give into a Corrupt error: without it the process would end.
func guard(f func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		r := recover()
		fault, ok := r.(interface{ Addr() uintptr })
		switch {
		case ok:
			err = clara.Errorf(clara.Corrupt, "read mapped vectors at address %#x: the disk failed, or a file was cut short", fault.Addr())
		case r != nil:
			panic(r)
		}
	}()
	f()
	return nil
}
