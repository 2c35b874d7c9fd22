// Package blob keeps files, passages, data sets and model packages in a bucket:
// a folder on one machine, or any S3-compatible store, through gocloud.dev/blob.
//
// What Put has returned for is durable: in a folder the file and its directory
// are synced. Readers see the old content or the new one, never a part.
//
// Keys are relative slash-separated paths of letters, digits, '.', '_', '-' and
// '/'; anything else is Invalid, so that no key leaves the bucket. Errors:
// NotFound for a missing key, Unavailable for a store that can't be reached or
// is full. All methods are safe for concurrent use.
package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	gcblob "gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/blob/memblob"
	_ "gocloud.dev/blob/s3blob" // s3:// addresses
	"gocloud.dev/gcerrors"

	"github.com/clara-suite/clara/libs/clara"
)

// Bucket is an open store.
type Bucket struct {
	b    *gcblob.Bucket
	url  string
	dir  string // of a folder bucket; "" else
	temp string // where content waits for its hash
}

// Open opens file:///folder (made if it is not there), s3://bucket?region=..&endpoint=.. or mem://.
func Open(ctx context.Context, address string) (*Bucket, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "blob address %q: %w; want file:///folder or s3://bucket?region=..", address, err)
	}
	switch u.Scheme {
	case "mem":
		return &Bucket{b: memblob.OpenBucket(nil), url: address, temp: os.TempDir()}, nil
	case "file":
		if u.Path == "" || u.Host != "" {
			return nil, clara.Errorf(clara.Invalid, "blob address %q: want file:///folder with three slashes", address)
		}
		return OpenDir(filepath.FromSlash(u.Path))
	case "s3":
		b, err := gcblob.OpenBucket(ctx, address)
		if err != nil {
			return nil, clara.Errorf(clara.Invalid, "open blob store %s: %w", u.Redacted(), err)
		}
		return &Bucket{b: b, url: u.Redacted(), temp: os.TempDir()}, nil
	default:
		return nil, clara.Errorf(clara.Invalid, "blob address %q: scheme %q is not file, s3 or mem", address, u.Scheme)
	}
}

// OpenDir opens a folder as a bucket, making it if it is not there.
func OpenDir(dir string) (*Bucket, error) {
	temp := filepath.Join(dir, ".tmp")
	if err := os.MkdirAll(temp, 0o750); err != nil {
		return nil, clara.Errorf(clara.State, "make blob folder %s: %w", dir, err)
	}
	// No metadata files beside each blob; temporary files lie in the same file system, so that a rename is enough.
	b, err := fileblob.OpenBucket(dir, &fileblob.Options{Metadata: fileblob.MetadataDontWrite, NoTempDir: true, DirFileMode: 0o750})
	if err != nil {
		return nil, clara.Errorf(clara.State, "open blob folder %s: %w", dir, err)
	}
	return &Bucket{b: b, url: "file://" + filepath.ToSlash(dir), dir: dir, temp: temp}, nil
}

// String names the store, without credentials.
func (b *Bucket) String() string { return b.url }

// Close frees the bucket.
func (b *Bucket) Close() error { return b.b.Close() }

// Ping returns nil if the store answers.
func (b *Bucket) Ping(ctx context.Context) error {
	ok, err := b.b.IsAccessible(ctx)
	if err != nil {
		return b.fault("reach", "", err)
	}
	if !ok {
		return clara.Errorf(clara.Unavailable, "blob store %s can't be reached", b.url)
	}
	return nil
}

func checkKey(key string) error {
	if key == "" || len(key) > 512 || key[0] == '/' || key[len(key)-1] == '/' {
		return clara.Errorf(clara.Invalid, "blob key %q: 1 to 512 bytes, no slash at either end", key)
	}
	for _, part := range strings.Split(key, "/") {
		if part == "" || part[0] == '.' {
			return clara.Errorf(clara.Invalid, "blob key %q: a part is empty or begins with a dot", key)
		}
	}
	for i := range len(key) {
		c := key[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("._-/", c) >= 0) {
			return clara.Errorf(clara.Invalid, "blob key %q: letters, digits and . _ - / only", key)
		}
	}
	return nil
}

// Put stores what r yields under key and returns its size. A reader that fails leaves what was there before.
func (b *Bucket) Put(ctx context.Context, key string, r io.Reader) (int64, error) {
	if err := checkKey(key); err != nil {
		return 0, err
	}
	// Cancelling the context before Close is how the library drops a half-written blob.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := b.b.NewWriter(ctx, key, &gcblob.WriterOptions{ContentType: "application/octet-stream"})
	if err != nil {
		return 0, b.fault("write", key, err)
	}
	n, err := io.Copy(w, r)
	if err != nil {
		cancel()
		_ = w.Close() // reports the cancellation
		var own *clara.Error
		if errors.As(err, &own) {
			return 0, err
		}
		return 0, b.fault("write", key, err)
	}
	if err := w.Close(); err != nil {
		return 0, b.fault("write", key, err)
	}
	if b.dir != "" {
		if err := b.sync(key); err != nil {
			return 0, b.fault("sync", key, err)
		}
	}
	return n, nil
}

// sync makes a written file and the directories on the way to it durable.
func (b *Bucket) sync(key string) error {
	path := filepath.Join(b.dir, filepath.FromSlash(key))
	for p := path; ; p = filepath.Dir(p) {
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		err = f.Sync()
		f.Close()
		if err != nil {
			return err
		}
		if p == b.dir {
			return nil
		}
	}
}

// PutContent stores what r yields under prefix/SHA-256 and returns key, hash (hex) and size. Content that is
// already there is not written again. More than limit bytes is Invalid; 0 is no limit.
func (b *Bucket) PutContent(ctx context.Context, prefix string, r io.Reader, limit int64) (key, hash string, size int64, err error) {
	f, err := os.CreateTemp(b.temp, "put-")
	if err != nil {
		return "", "", 0, b.fault("write", prefix, err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	h := sha256.New()
	in := r
	if limit > 0 {
		in = io.LimitReader(r, limit+1)
	}
	if size, err = io.Copy(io.MultiWriter(f, h), in); err != nil {
		var own *clara.Error
		if errors.As(err, &own) || clara.IsContext(err) {
			return "", "", 0, err
		}
		return "", "", 0, b.fault("write", prefix, err)
	}
	if limit > 0 && size > limit {
		return "", "", 0, clara.Errorf(clara.Invalid, "more than %d bytes: the limit for one file", limit)
	}
	hash = hex.EncodeToString(h.Sum(nil))
	key = prefix + "/" + hash
	if have, err := b.Size(ctx, key); err == nil && have == size {
		return key, hash, size, nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", "", 0, b.fault("write", key, err)
	}
	if _, err := b.Put(ctx, key, f); err != nil {
		return "", "", 0, err
	}
	return key, hash, size, nil
}

// Get opens a blob for reading.
func (b *Bucket) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	r, err := b.b.NewReader(ctx, key, nil)
	if err != nil {
		return nil, b.fault("read", key, err)
	}
	return r, nil
}

// ReadAll returns a blob's content. More than limit bytes is Invalid.
func (b *Bucket) ReadAll(ctx context.Context, key string, limit int64) ([]byte, error) {
	r, err := b.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, b.fault("read", key, err)
	}
	if int64(len(data)) > limit {
		return nil, clara.Errorf(clara.Invalid, "read %s: more than %d bytes", key, limit)
	}
	return data, nil
}

// File is a blob with random access.
type File struct {
	*os.File
	Size int64
	temp bool
}

// Close frees the file, and removes it if it was a copy.
func (f *File) Close() error {
	err := f.File.Close()
	if f.temp {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

// OpenFile opens a blob with random access: in place in a folder, a temporary copy else.
func (b *Bucket) OpenFile(ctx context.Context, key string) (*File, error) {
	if path, ok := b.Path(key); ok {
		f, err := os.Open(path)
		if err != nil {
			return nil, b.fault("read", key, err)
		}
		info, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, b.fault("read", key, err)
		}
		return &File{File: f, Size: info.Size()}, nil
	}
	r, err := b.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	f, err := os.CreateTemp(b.temp, "get-")
	if err != nil {
		return nil, b.fault("copy", key, err)
	}
	out := &File{File: f, temp: true}
	if out.Size, err = io.Copy(f, r); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(b.fault("copy", key, err), out.Close())
	}
	return out, nil
}

// Path returns where a blob lies in a folder bucket; false for others and for impossible keys.
func (b *Bucket) Path(key string) (string, bool) {
	if b.dir == "" || checkKey(key) != nil {
		return "", false
	}
	return filepath.Join(b.dir, filepath.FromSlash(key)), true
}

// Size returns a blob's size in bytes.
func (b *Bucket) Size(ctx context.Context, key string) (int64, error) {
	if err := checkKey(key); err != nil {
		return 0, err
	}
	a, err := b.b.Attributes(ctx, key)
	if err != nil {
		return 0, b.fault("read", key, err)
	}
	return a.Size, nil
}

// Delete removes a blob; one that is not there is no error.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if err := b.b.Delete(ctx, key); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return b.fault("delete", key, err)
	}
	return nil
}

// Entry is a blob in a listing.
type Entry struct {
	Key     string
	Size    int64
	ModTime time.Time
}

// List yields the blobs whose keys begin with prefix, in order of key.
func (b *Bucket) List(ctx context.Context, prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		it := b.b.List(&gcblob.ListOptions{Prefix: prefix})
		for {
			o, err := it.Next(ctx)
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(Entry{}, b.fault("list", prefix, err))
				return
			}
			if o.IsDir || strings.HasPrefix(o.Key, ".tmp/") {
				continue
			}
			if !yield(Entry{o.Key, o.Size, o.ModTime}, nil) {
				return
			}
		}
	}
}

// fault gives an error of the store its kind.
func (b *Bucket) fault(what, key string, err error) error {
	if clara.IsContext(err) {
		return fmt.Errorf("%s %s in %s: %w", what, key, b.url, err)
	}
	kind := clara.Unavailable
	switch {
	case gcerrors.Code(err) == gcerrors.NotFound || errors.Is(err, os.ErrNotExist):
		kind = clara.NotFound
	case errors.Is(err, syscall.ENOSPC):
		return &clara.Error{Kind: clara.Unavailable, RetryAfter: 10 * time.Second,
			Err: fmt.Errorf("%s %s in %s: the disk is full: %w; free some space, the work goes on by itself", what, key, b.url, err)}
	case errors.Is(err, os.ErrPermission):
		kind = clara.State
	}
	return clara.Errorf(kind, "%s %s in %s: %w", what, key, b.url, err)
}
