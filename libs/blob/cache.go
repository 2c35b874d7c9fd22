package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"github.com/clara-suite/clara/libs/clara"
)

// Cache holds verified local files of content-addressed blobs, for what is read by memory mapping or by
// libraries that take paths. Several processes may share a folder.
type Cache struct {
	bucket *Bucket
	dir    string
}

// NewCache makes a cache in a folder.
func NewCache(b *Bucket, dir string) (*Cache, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, clara.Errorf(clara.Invalid, "make cache folder: %w", err)
	}
	return &Cache{bucket: b, dir: dir}, nil
}

// verified is what the cache remembers of a file whose hash it has checked: a file of other size or time
// is checked again.
type verified struct {
	Path string    `json:"path"`
	Size int64     `json:"size"`
	Time time.Time `json:"time"`
}

// Fetch returns a local file with the content of the blob, whose SHA-256 (hex) is known. A bucket that is a folder serves its own file; other content
// is downloaded once. Either is checked against the hash the first time, and whenever it has changed.
// Corrupt if the stored content does not have the hash; NotFound, Unavailable.
func (c *Cache) Fetch(ctx context.Context, key, hash string) (string, error) {
	if len(hash) != 2*sha256.Size {
		return "", clara.Errorf(clara.Invalid, "content hash %q: must be a SHA-256 in hex", hash)
	}
	// One process at a time fetches a file; the others wait and find it.
	lock := flock.New(filepath.Join(c.dir, hash+".lock"))
	if _, err := lock.TryLockContext(ctx, 50*time.Millisecond); err != nil {
		return "", wrap(err, "lock cache for %s", key)
	}
	defer func() { _ = lock.Unlock() }()

	file, inPlace := c.bucket.Path(key)
	if !inPlace {
		file = filepath.Join(c.dir, hash)
	}
	mark := filepath.Join(c.dir, hash+".verified")
	if c.known(file, mark) {
		return file, nil
	}
	if _, err := os.Stat(file); err == nil {
		err := verify(ctx, file, hash)
		if err == nil {
			return file, c.remember(file, mark)
		}
		if inPlace || clara.KindOf(err) != clara.Corrupt {
			return "", err
		}
		// A damaged copy is fetched anew.
	} else if inPlace {
		return "", wrap(err, "read blob %s", key)
	}
	if err := c.download(ctx, file, key, hash); err != nil {
		return "", err
	}
	return file, c.remember(file, mark)
}

func (c *Cache) known(file, mark string) bool {
	data, err := os.ReadFile(mark)
	if err != nil {
		return false
	}
	var v verified
	if json.Unmarshal(data, &v) != nil {
		return false
	}
	info, err := os.Stat(file)
	return err == nil && v.Path == file && v.Size == info.Size() && v.Time.Equal(info.ModTime())
}

func (c *Cache) remember(file, mark string) error {
	info, err := os.Stat(file)
	if err != nil {
		return wrap(err, "look at %s", file)
	}
	data, err := json.Marshal(verified{file, info.Size(), info.ModTime()})
	if err != nil {
		return wrap(err, "remember %s", file)
	}
	return wrap(os.WriteFile(mark, data, 0o644), "remember %s", file)
}

// download brings the content to file, checking it on the way; file appears only whole and right.
func (c *Cache) download(ctx context.Context, file, key, hash string) error {
	r, err := c.bucket.Get(ctx, key)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	part, err := os.OpenFile(file+".part", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return wrap(err, "write cache for %s", key)
	}
	sum := sha256.New()
	_, err = copyContext(ctx, io.MultiWriter(part, sum), r)
	if err == nil {
		err = part.Sync()
	}
	err = errors.Join(err, part.Close())
	if err == nil && hex.EncodeToString(sum.Sum(nil)) != hash {
		err = clara.Errorf(clara.Corrupt, "blob %s at %s has SHA-256 %x, expected %s", key, c.bucket, sum.Sum(nil), hash)
	}
	if err == nil {
		err = os.Rename(part.Name(), file)
	}
	if err != nil {
		_ = os.Remove(part.Name())
		return wrap(err, "fetch blob %s", key)
	}
	return nil
}

// verify reads the file and compares its hash.
func verify(ctx context.Context, file, hash string) error {
	f, err := os.Open(file)
	if err != nil {
		return wrap(err, "read %s", file)
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	if _, err := copyContext(ctx, sum, f); err != nil {
		return wrap(err, "read %s", file)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != hash {
		return clara.Errorf(clara.Corrupt, "%s has SHA-256 %s, expected %s: it was damaged or changed", file, got, hash)
	}
	return nil
}
