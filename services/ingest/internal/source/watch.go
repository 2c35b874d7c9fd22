package source

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
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
	mode fs.FileMode
}

// trouble is what keeps a path from being taken in. It is told once, and again when the reason is another.
type trouble struct {
	of     state
	reason string
	wait   time.Duration // between the last attempt and the next
	next   time.Time
}

// maxWait is the longest time between two attempts at a file that cannot be taken in.
const maxWait = 5 * time.Minute

// Watch calls found with every file of the folder, and again with each that changed, once a file has stayed the
// same from one look to the next: a file that is still being copied is left alone. It looks every interval,
// which works on every file system, network ones included, and ends with ctx. If found fails, it is tried again, less
// and less often until the file changes, and the log has the reason once; so it has for what cannot be looked into.
func (f Folder) Watch(ctx context.Context, interval time.Duration, log *slog.Logger, found func(ctx context.Context, path string) error) error {
	seen, done, troubles := map[string]state{}, map[string]state{}, map[string]trouble{}
	complain := func(message, path string, t trouble) {
		if old, ok := troubles[path]; !ok || old.reason != t.reason || old.of != t.of {
			log.Warn(message, "path", path, "err", t.reason)
		}
		troubles[path] = t
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		now, closed := map[string]state{}, map[string]bool{}
		err := filepath.WalkDir(f.Dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				if !errors.Is(err, fs.ErrNotExist) || path == f.Dir { // a file that has vanished meanwhile is no news
					closed[path] = true
					complain("look into watched folder", path, trouble{reason: err.Error()})
				}
				return nil
			}
			if path != f.Dir && strings.HasPrefix(d.Name(), ".") {
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
				now[path] = state{info.Size(), info.ModTime(), info.Mode()}
			}
			return ctx.Err()
		})
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			log.Warn("look into watched folder", "path", f.Dir, "err", err)
		}
		for path, s := range now {
			if seen[path] != s || done[path] == s {
				continue
			}
			t, failed := troubles[path]
			if failed = failed && t.of == s; failed && time.Now().Before(t.next) {
				continue
			}
			if err := found(ctx, path); err != nil {
				wait := interval
				if failed {
					wait = min(2*t.wait, max(maxWait, interval))
				}
				complain("take in watched file", path, trouble{of: s, reason: err.Error(), wait: wait, next: time.Now().Add(wait)})
				continue
			}
			done[path] = s
			delete(troubles, path)
		}
		maps.DeleteFunc(done, func(path string, _ state) bool { _, there := now[path]; return !there })
		maps.DeleteFunc(troubles, func(path string, _ trouble) bool { _, there := now[path]; return !there && !closed[path] })
		seen = now
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
