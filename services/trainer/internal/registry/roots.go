package registry

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/clara-suite/clara/libs/checkpoint/hub"
	"github.com/clara-suite/clara/libs/clara"
)

// Roots are the folders that models and checkpoints may be read from. The hub's local cache and that
// of models which clara models pull fetches are always among them.
type Roots struct {
	dirs []string // as given, resolved
	flag string   // setting to name
}

// NewRoots checks that every folder is there. env finds the hub cache. Errors are Invalid.
func NewRoots(dirs []string, env func(string) string) (Roots, error) {
	r := Roots{flag: "--trainer-roots"}
	for _, d := range dirs {
		real, err := resolve(d)
		if err != nil {
			return r, clara.Errorf(clara.Invalid, "trainer root %s: %w; make the folder, or name another", d, err)
		}
		if info, err := os.Stat(real); err != nil || !info.IsDir() {
			return r, clara.Errorf(clara.Invalid, "trainer root %s is no folder", d)
		}
		r.dirs = append(r.dirs, real)
	}
	if cache, err := hub.CacheDir(env); err == nil { // else there is no home folder, and nothing in its cache
		r.add(cache)
	}
	cache := env("CLARA_CACHE")
	if cache == "" {
		if dir, err := os.UserCacheDir(); err == nil {
			cache = filepath.Join(dir, "clara")
		}
	}
	if cache != "" {
		r.add(filepath.Join(cache, "models"))
	}
	return r, nil
}

// add is for a folder that may not be there yet.
func (r *Roots) add(dir string) {
	if real, err := resolve(dir); err == nil {
		dir = real
	}
	r.dirs = append(r.dirs, dir)
}

func resolve(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(abs)
}

// Check refuses what is not below a root, by its own path or by where its links lead. Of a folder its files are
// looked at too, so that a link in it cannot pass off another file as a part of a model. Errors: Denied,
// NotFound.
func (r Roots) Check(path string) error {
	real, err := resolve(path)
	if errors.Is(err, fs.ErrNotExist) {
		if abs, aerr := filepath.Abs(path); aerr == nil && !r.holds(abs) {
			return r.denied(path) // whether it exists is nobody's business
		}
		return clara.Errorf(clara.NotFound, "there is no %s on the machine of the trainer", path)
	}
	if err != nil {
		return clara.Errorf(clara.Denied, "read %s: %w", path, err)
	}
	if !r.holds(real) {
		return r.denied(path)
	}
	entries, err := os.ReadDir(real)
	if err != nil {
		return nil // a file
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		file := filepath.Join(real, e.Name())
		target, err := filepath.EvalSymlinks(file)
		if err != nil {
			return clara.Errorf(clara.NotFound, "%s is a link that leads nowhere", file)
		}
		if info, err := os.Stat(target); err == nil && info.IsDir() {
			continue // no part of a model is in a folder of its own
		}
		if !r.holds(target) {
			return r.denied(file + " -> " + target)
		}
	}
	return nil
}

// CheckWrite refuses a path to be written that is not below a root, or whose nearest folder that exists leads out of it.
// Errors: Denied, Invalid.
func (r Roots) CheckWrite(path string) error {
	if !filepath.IsAbs(path) {
		return clara.Errorf(clara.Invalid, "%q: give the whole path; the trainer has a working folder of its own", path)
	}
	for at := filepath.Clean(path); ; at = filepath.Dir(at) {
		real, err := filepath.EvalSymlinks(at)
		if errors.Is(err, fs.ErrNotExist) && at != filepath.Dir(at) {
			if _, err := os.Lstat(at); err == nil {
				return r.denied(path) // a link that leads nowhere yet
			}
			continue
		}
		if err != nil || !r.holds(real) {
			return r.denied(path)
		}
		return nil
	}
}

func (r Roots) holds(path string) bool {
	for _, dir := range r.dirs {
		rel, err := filepath.Rel(dir, path)
		if err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
			return true
		}
	}
	return false
}

func (r Roots) denied(path string) error {
	return clara.Errorf(clara.Denied, "%s is outside of the folders that models may be read from (%s); add its folder with %s", path, strings.Join(r.dirs, ", "), r.flag)
}
