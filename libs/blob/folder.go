package blob

import (
	"crypto/rand"
	"errors"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/disk"
)

// tempDir is where blobs are while they are written, on the same file system as their place.
const tempDir = ".tmp"

// folder writes a folder of blobs so that they survive a power cut: the file is synced before it gets its
// name, and the name after. All access is below root, whatever links lie there.
type folder struct {
	dir  string // absolute
	root *os.Root
}

func newFolder(dir string) (*folder, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "blob folder %s: %w", dir, err)
	}
	if err := os.MkdirAll(filepath.Join(abs, tempDir), 0o755); err != nil {
		return nil, clara.Errorf(clara.Invalid, "make blob folder: %w", err)
	}
	root, err := os.OpenRoot(abs)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "open blob folder: %w", err)
	}
	f := &folder{dir: abs, root: root}
	f.sweep()
	return f, nil
}

// sweep removes what writers that were killed have left. Others may be writing now: only what is old goes.
func (f *folder) sweep() {
	entries, err := os.ReadDir(filepath.Join(f.dir, tempDir))
	if err != nil {
		return // the next write says what is wrong
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > 24*time.Hour {
			_ = f.root.Remove(path.Join(tempDir, e.Name()))
		}
	}
}

// temp is a blob that has no name yet.
type temp struct {
	folder *folder
	file   *os.File
	name   string
	// unlooked is how much was written since the last look at the room that is left.
	unlooked int64
}

func (f *folder) temp() (*temp, error) {
	if err := disk.Room(f.dir, 0); err != nil {
		return nil, err
	}
	name := path.Join(tempDir, rand.Text())
	file, err := f.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	return &temp{folder: f, file: file, name: name}, nil
}

// lookEvery is how many bytes are written between two looks at the room that is left.
const lookEvery = 8 << 20

// Write appends to the blob as long as the disk has room.
func (t *temp) Write(p []byte) (int, error) {
	if t.unlooked += int64(len(p)); t.unlooked >= lookEvery {
		if err := disk.Room(t.folder.dir, t.unlooked); err != nil {
			return 0, err
		}
		t.unlooked = 0
	}
	return t.file.Write(p)
}

// discard removes the file if it was not committed.
func (t *temp) discard() {
	if t.file != nil {
		_ = t.file.Close()
		_ = t.folder.root.Remove(t.name)
	}
}

// commit gives the blob its name.
func (f *folder) commit(t *temp, key string) error {
	if err := t.file.Sync(); err != nil {
		return err
	}
	if err := t.file.Close(); err != nil {
		return err
	}
	made, err := f.mkdirs(path.Dir(key))
	if err != nil {
		return err
	}
	if err := f.root.Rename(t.name, key); err != nil {
		return err
	}
	t.file = nil
	for _, dir := range append(made, path.Dir(key)) {
		if err := f.syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// mkdirs makes the folders of a path and returns those whose entries have changed.
func (f *folder) mkdirs(dir string) ([]string, error) {
	var changed []string
	for d := dir; d != "."; d = path.Dir(d) {
		if _, err := f.root.Stat(d); err == nil {
			break
		}
		changed = append(changed, path.Dir(d))
	}
	if changed == nil {
		return nil, nil
	}
	return changed, f.root.MkdirAll(dir, 0o755)
}

func (f *folder) syncDir(dir string) error {
	d, err := f.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// remove removes a blob; the deletion itself is synced.
func (f *folder) remove(key string) error {
	err := f.root.Remove(key)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.syncDir(path.Dir(key))
}
