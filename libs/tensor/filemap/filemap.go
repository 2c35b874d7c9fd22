package filemap

import (
	"errors"
	"io/fs"
	"os"

	"github.com/clara-suite/clara/libs/clara"
)

// Map is a file mapped for reading. Its bytes are valid until Close. A file
// that another process truncates while it is mapped kills the reader (SIGBUS),
// so writers replace files by renaming (see checkpoint.SaveDir).
type Map struct {
	data  []byte
	unmap func([]byte) error
}

// Open maps the file. Errors: NotFound, Invalid for what is not a regular file.
func Open(path string) (*Map, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, clara.Errorf(clara.NotFound, "open %s: no such file", path)
		}
		return nil, clara.Errorf(clara.Invalid, "open weights: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "stat %s: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, clara.Errorf(clara.Invalid, "open %s: not a regular file", path)
	}
	if info.Size() == 0 {
		return &Map{}, nil
	}
	if int64(int(info.Size())) != info.Size() {
		return nil, clara.Errorf(clara.Unsupported, "open %s: %d bytes do not fit this machine's address space", path, info.Size())
	}
	return mapFile(f, int(info.Size()))
}

// Bytes returns the content; it must not be written.
func (m *Map) Bytes() []byte { return m.data }

// Release gives back the memory of what was read; the bytes stay valid and are paged in again on use. Where only few of
// them are in use at a time this keeps the rest from counting as the process's.
func (m *Map) Release() {
	if m.data != nil && m.unmap != nil {
		release(m.data)
	}
}

// Close releases the memory. Bytes handed out before must no longer be used.
func (m *Map) Close() error {
	data := m.data
	m.data = nil
	if data == nil || m.unmap == nil {
		return nil
	}
	return m.unmap(data)
}
