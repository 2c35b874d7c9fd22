package source

import (
	"context"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/clara-suite/clara/libs/clara"
)

// Folder is a folder whose files belong into a collection.
type Folder struct {
	Collection string
	Dir        string
}

// ParseFolder reads COLLECTION=DIR. Errors are Invalid.
func ParseFolder(s string) (Folder, error) {
	collection, dir, ok := strings.Cut(s, "=")
	if !ok || collection == "" || dir == "" {
		return Folder{}, clara.Errorf(clara.Invalid, "watched folder %q: want COLLECTION=DIR", s)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Folder{}, clara.Errorf(clara.Invalid, "watched folder %q: %w", s, err)
	}
	return Folder{collection, abs}, nil
}

// state is what tells one version of a file from another.
type state struct {
	size int64
	time time.Time
}

// Watch calls found with every file of the folder, and again with each that changed, once a file has stayed the
// same from one look to the next: a file that is still being copied is left alone. It looks every interval,
// which works on every file system, network ones included, and ends with ctx. found is tried again at the next
// look if it fails.
func (f Folder) Watch(ctx context.Context, interval time.Duration, log *slog.Logger, found func(ctx context.Context, path string) error) error {
	seen, done := map[string]state{}, map[string]state{}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		now := map[string]state{}
		err := filepath.WalkDir(f.Dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // vanished, or not ours to read: the next look decides
			}
			if path != f.Dir && strings.HasPrefix(d.Name(), ".") {
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
				now[path] = state{info.Size(), info.ModTime()}
			}
			return ctx.Err()
		})
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			log.Warn("look into watched folder", "dir", f.Dir, "err", err)
		}
		for path, s := range now {
			if seen[path] != s || done[path] == s {
				continue
			}
			if err := found(ctx, path); err != nil {
				log.Warn("take in watched file", "file", path, "err", err)
				continue
			}
			done[path] = s
		}
		seen = now
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
