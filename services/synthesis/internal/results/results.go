// Package results keeps what language models have answered, so that nothing is
// asked twice: a Log in a file, or a Bucket for services. A stored result is on disk
// when Put returns. Safe for concurrent use.
package results

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/gofrs/flock"

	"github.com/clara-suite/clara/libs/blob"
	"github.com/clara-suite/clara/libs/clara"
)

// Store is where results are kept, by a key of letters and digits.
type Store interface {
	// Get returns a result and whether there is one.
	Get(ctx context.Context, key string) ([]byte, bool, error)
	// Put stores a result, JSON, for good before it returns.
	Put(ctx context.Context, key string, value []byte) error
	// Keep drops all results but those whose key is needed: documents that are gone leave nothing behind.
	Keep(ctx context.Context, needed func(key string) bool) error
}

// Log is a Store in one file that is only appended to: a line a result. A crash loses at most the line in writing.
type Log struct {
	path string
	lock *flock.Flock

	mu   sync.Mutex
	file *os.File
	at   map[string]span
	size int64

	syncing sync.Mutex // taken before mu
	synced  int64
}

type span struct{ offset, length int64 }

// line is one result in the file. Sum is the CRC-32 of key and value: disks and editors do damage files.
type line struct {
	Key   string          `json:"key"`
	Sum   uint32          `json:"sum"`
	Value json.RawMessage `json:"value"`
}

func sum(key string, value []byte) uint32 {
	return crc32.Update(crc32.ChecksumIEEE([]byte(key)), crc32.IEEETable, value)
}

// OpenLog opens a log, making it if it is not there. Conflict if another process has it open; damaged lines are left out.
func OpenLog(path string) (*Log, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, clara.Errorf(clara.Unavailable, "open results: %w", err)
	}
	l := &Log{path: path, lock: flock.New(path + ".lock"), at: map[string]span{}}
	ok, err := l.lock.TryLock()
	if err != nil {
		return nil, clara.Errorf(clara.Unavailable, "lock results: %w", err)
	}
	if !ok {
		return nil, clara.Errorf(clara.Conflict, "%s is in use by another build", path)
	}
	if err := l.open(); err != nil {
		_ = l.lock.Unlock()
		return nil, err
	}
	return l, nil
}

func (l *Log) open() error {
	f, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE, 0o600) // answers repeat what documents say
	if err != nil {
		return clara.Errorf(clara.Unavailable, "open results: %w", err)
	}
	r := bufio.NewReaderSize(f, 1<<20)
	var offset int64
	for {
		text, err := r.ReadBytes('\n')
		if err == io.EOF {
			break // an unfinished last line was never promised: what follows takes its place
		}
		if err != nil {
			f.Close()
			return clara.Errorf(clara.Unavailable, "read %s: %w", l.path, err)
		}
		var x line
		if json.Unmarshal(text, &x) == nil && x.Key != "" && x.Sum == sum(x.Key, x.Value) {
			l.at[x.Key] = span{offset, int64(len(text))}
		}
		offset += int64(len(text))
	}
	if err := f.Truncate(offset); err != nil {
		f.Close()
		return clara.Errorf(clara.Unavailable, "mend %s: %w", l.path, err)
	}
	l.file, l.size = f, offset
	return nil
}

// Get implements Store.
func (l *Log) Get(_ context.Context, key string) ([]byte, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.at[key]
	if !ok {
		return nil, false, nil
	}
	x, err := l.read(s)
	return x.Value, err == nil, err
}

func (l *Log) read(s span) (line, error) {
	text := make([]byte, s.length)
	var x line
	if _, err := l.file.ReadAt(text, s.offset); err != nil {
		return x, clara.Errorf(clara.Unavailable, "read %s: %w", l.path, err)
	}
	if err := json.Unmarshal(text, &x); err != nil || x.Sum != sum(x.Key, x.Value) {
		return x, clara.Errorf(clara.Corrupt, "%s was changed while it was in use", l.path)
	}
	return x, nil
}

// Put implements Store.
func (l *Log) Put(_ context.Context, key string, value []byte) error {
	var compact bytes.Buffer
	if err := json.Compact(&compact, value); err != nil {
		return clara.Errorf(clara.Invalid, "store result: %w", err)
	}
	// Encoding must not change the value again, or the sum would be of another text.
	enc := &bytes.Buffer{}
	e := json.NewEncoder(enc)
	e.SetEscapeHTML(false)
	if err := e.Encode(line{key, sum(key, compact.Bytes()), compact.Bytes()}); err != nil {
		return clara.Errorf(clara.Invalid, "store result: %w", err)
	}
	l.mu.Lock()
	if l.file == nil {
		l.mu.Unlock()
		return clara.Errorf(clara.State, "%s is closed", l.path)
	}
	place := span{l.size, int64(enc.Len())}
	if _, err := l.file.WriteAt(enc.Bytes(), place.offset); err != nil {
		l.mu.Unlock()
		return clara.Errorf(clara.Unavailable, "write %s: %w", l.path, err)
	}
	l.size += place.length
	l.mu.Unlock()
	if err := l.sync(l.path, place.offset+place.length); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at[key] = place
	return nil
}

// sync returns when the file is on disk up to an offset. Results that come together share one sync.
func (l *Log) sync(path string, upTo int64) error {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	if l.synced >= upTo {
		return nil
	}
	l.mu.Lock()
	file, size := l.file, l.size
	l.mu.Unlock()
	if file == nil {
		return clara.Errorf(clara.State, "%s is closed", path)
	}
	if err := file.Sync(); err != nil {
		return clara.Errorf(clara.Unavailable, "sync %s: %w", path, err)
	}
	l.synced = size
	return nil
}

// Keep implements Store: it writes the log anew if any of it is not needed any more. No Put may be under way.
func (l *Log) Keep(_ context.Context, needed func(key string) bool) error {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	stale := false
	for k := range l.at {
		stale = stale || !needed(k)
	}
	if !stale {
		return nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(l.path), filepath.Base(l.path)+".*")
	if err != nil {
		return clara.Errorf(clara.Unavailable, "rewrite %s: %w", l.path, err)
	}
	defer os.Remove(tmp.Name())
	w := bufio.NewWriter(tmp)
	for k, s := range l.at {
		if !needed(k) {
			continue
		}
		text := make([]byte, s.length)
		if _, err = l.file.ReadAt(text, s.offset); err == nil {
			_, err = w.Write(text)
		}
		if err != nil {
			break
		}
	}
	err = errors.Join(err, w.Flush(), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), l.path)
	}
	if err != nil {
		return clara.Errorf(clara.Unavailable, "rewrite %s: %w", l.path, err)
	}
	l.file.Close()
	l.file, l.at, l.synced = nil, map[string]span{}, 0
	return l.open()
}

// Close frees the log.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := errors.Join(l.file.Close(), l.lock.Unlock())
	l.file = nil
	return err
}

// Bucket is a Store of one blob a result, below a prefix that ends in a slash.
type Bucket struct {
	Files  *blob.Bucket
	Prefix string
}

// maxResult bounds a stored result.
const maxResult = 16 << 20

// Get implements Store.
func (b Bucket) Get(ctx context.Context, key string) ([]byte, bool, error) {
	data, err := b.Files.ReadAll(ctx, b.Prefix+key, maxResult)
	if clara.KindOf(err) == clara.NotFound {
		return nil, false, nil
	}
	return data, err == nil, err
}

// Put implements Store.
func (b Bucket) Put(ctx context.Context, key string, value []byte) error {
	return b.Files.PutBytes(ctx, b.Prefix+key, value)
}

// Keep implements Store.
func (b Bucket) Keep(ctx context.Context, needed func(key string) bool) error {
	for e, err := range b.Files.List(ctx, b.Prefix) {
		if err != nil {
			return err
		}
		if !needed(e.Key[len(b.Prefix):]) {
			if err := b.Files.Delete(ctx, e.Key); err != nil {
				return err
			}
		}
	}
	return nil
}
