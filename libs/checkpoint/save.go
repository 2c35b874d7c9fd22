package checkpoint

import (
	"io/fs"
	"os"
	"path/filepath"

	"github.com/clara-suite/clara/libs/clara"
)

// SaveDir makes the folder path with what write puts into the folder it is
// given, atomically: whoever looks sees the old folder or the complete new
// one, after a crash at any moment too. All files are synced before the new
// folder takes its name. Where the system cannot exchange two folders in one
// step, a crash may leave the old one under ".NAME.old-*" beside it.
// Errors: those of write, Unavailable for the file system's (a full disk).
func SaveDir(path string, write func(dir string) error) error {
	parent, name := filepath.Split(filepath.Clean(path))
	if parent == "" {
		parent = "."
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return clara.Errorf(clara.Unavailable, "save %s: %w", path, err)
	}
	tmp, err := os.MkdirTemp(parent, "."+name+".new-*")
	if err != nil {
		return clara.Errorf(clara.Unavailable, "save %s: %w", path, err)
	}
	defer os.RemoveAll(tmp) // after the exchange this is the old folder
	if err := write(tmp); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return clara.Errorf(clara.Unavailable, "save %s: %w", path, err)
	}
	if err := syncTree(tmp); err != nil {
		return clara.Errorf(clara.Unavailable, "save %s: %w", path, err)
	}
	if err := replace(tmp, path); err != nil {
		return clara.Errorf(clara.Unavailable, "save %s: %w", path, err)
	}
	if err := syncPath(parent); err != nil {
		return clara.Errorf(clara.Unavailable, "save %s: %w", path, err)
	}
	return nil
}

// replace gives the folder from the name to; a folder that had it ends up as from.
func replace(from, to string) error {
	if _, err := os.Lstat(to); err != nil {
		return os.Rename(from, to)
	}
	if exchange(from, to) == nil {
		return nil
	}
	old, err := os.MkdirTemp(filepath.Dir(to), "."+filepath.Base(to)+".old-*")
	if err != nil {
		return err
	}
	aside := filepath.Join(old, "dir")
	if err := os.Rename(to, aside); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return os.RemoveAll(old)
}

func syncTree(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		return syncPath(path)
	})
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
