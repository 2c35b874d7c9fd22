// Package source opens the files that events and calls name by URI: those below
// the roots that the operator allows, and nothing else. Links that lead out of a
// root are refused by the operating system's own means (os.Root), not by looking
// at paths.
package source

import (
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/clara-suite/clara/libs/clara"
)

// Roots are the folders that URIs may reach.
type Roots struct{ dirs []string }

// NewRoots checks that every folder is there. Errors are Invalid.
func NewRoots(dirs []string) (Roots, error) {
	var r Roots
	for _, d := range dirs {
		abs, err := filepath.Abs(d)
		if err != nil {
			return r, clara.Errorf(clara.Invalid, "root %s: %w", d, err)
		}
		info, err := os.Stat(abs)
		if err != nil {
			return r, clara.Errorf(clara.Invalid, "root %s: %w", d, err)
		}
		if !info.IsDir() {
			return r, clara.Errorf(clara.Invalid, "root %s is no folder", d)
		}
		r.dirs = append(r.dirs, abs)
	}
	return r, nil
}

// Path returns the path in a file:// URI. Errors: Unsupported for other schemes, Invalid.
func Path(uri string) (string, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return "", clara.Errorf(clara.Invalid, "URI %q: %w", uri, err)
	}
	if u.Scheme != "file" {
		return "", clara.Errorf(clara.Unsupported, "URI %q: only file:// is read; upload anything else", uri)
	}
	if u.Host != "" && u.Host != "localhost" || !strings.HasPrefix(u.Path, "/") {
		return "", clara.Errorf(clara.Invalid, "URI %q: want file:///path with three slashes", uri)
	}
	return filepath.Clean(filepath.FromSlash(u.Path)), nil
}

// Open opens a file:// URI below one of the roots. Errors: Denied outside of them, NotFound, Invalid for what is
// no regular file.
func (r Roots) Open(uri string) (*os.File, error) {
	path, err := Path(uri)
	if err != nil {
		return nil, err
	}
	for _, dir := range r.dirs {
		rel, err := filepath.Rel(dir, path)
		if err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
			continue
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			return nil, clara.Errorf(clara.Unavailable, "open root %s: %w", dir, err)
		}
		// Without O_NONBLOCK a pipe would hold its opener until somebody writes into it.
		f, err := root.OpenFile(rel, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		root.Close()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, clara.Errorf(clara.NotFound, "open %s: there is no such file", uri)
		}
		if err != nil {
			return nil, clara.Errorf(clara.Denied, "open %s: %w", uri, err)
		}
		info, err := f.Stat()
		if err != nil || !info.Mode().IsRegular() {
			f.Close()
			return nil, clara.Errorf(clara.Invalid, "open %s: not a regular file", uri)
		}
		return f, nil
	}
	allowed := "none are configured"
	if len(r.dirs) > 0 {
		allowed = "those are " + strings.Join(r.dirs, ", ")
	}
	return nil, clara.Errorf(clara.Denied, "open %s: outside of the roots that URIs may reach (%s); set --ingest-roots or upload the file", uri, allowed)
}
