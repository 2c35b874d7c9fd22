package blob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	cloud "gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/blob/memblob"
	"gocloud.dev/gcerrors"

	"github.com/clara-suite/clara/libs/clara"
)

// Bucket is a place for blobs.
type Bucket struct {
	url    string
	bucket *cloud.Bucket
	folder *folder // nil if it is no folder
}

// Entry is a blob in a listing.
type Entry struct {
	Key     string
	Size    int64
	ModTime time.Time
}

// Open opens the bucket at a URL or folder path; a folder is made if it is not there.
func Open(ctx context.Context, location string) (*Bucket, error) {
	scheme, _, isURL := strings.Cut(location, "://")
	switch {
	case location == "":
		return nil, clara.Errorf(clara.Invalid, "no place for blobs given: set a folder or a URL")
	case !isURL:
		return OpenDir(location)
	case scheme == "file":
		u, err := url.Parse(location)
		if err != nil || u.Host != "" || u.Path == "" {
			return nil, clara.Errorf(clara.Invalid, "blob folder %s: must be file:///absolute/path", location)
		}
		return OpenDir(filepath.FromSlash(u.Path))
	case scheme == "mem":
		return &Bucket{url: location, bucket: memblob.OpenBucket(nil)}, nil
	case scheme == "s3":
		b, err := cloud.OpenBucket(ctx, location)
		if err != nil {
			return nil, clara.Errorf(clara.Invalid, "open blobs at %s: %w", redact(location), err)
		}
		return &Bucket{url: redact(location), bucket: b}, nil
	}
	return nil, clara.Errorf(clara.Invalid, "blob URL %s: scheme must be file, s3 or mem", location)
}

// OpenDir opens a folder as a bucket, making it if it is not there.
func OpenDir(dir string) (*Bucket, error) {
	f, err := newFolder(dir)
	if err != nil {
		return nil, err
	}
	b, err := fileblob.OpenBucket(f.dir, &fileblob.Options{Metadata: fileblob.MetadataDontWrite, NoTempDir: true})
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "open blob folder %s: %w", dir, err)
	}
	return &Bucket{url: f.dir, bucket: b, folder: f}, nil
}

// redact takes credentials out of a URL.
func redact(location string) string {
	if u, err := url.Parse(location); err == nil {
		return u.Redacted()
	}
	return "(not a URL)"
}

// Close frees the connection.
func (b *Bucket) Close() error {
	err := b.bucket.Close()
	if b.folder != nil {
		err = errors.Join(err, b.folder.root.Close())
	}
	return err
}

// String returns where the blobs are, for messages.
func (b *Bucket) String() string { return b.url }

var keyForm = regexp.MustCompile(`^[A-Za-z0-9._=+@-]+(/[A-Za-z0-9._=+@-]+)*$`)

// check refuses keys that are not plain relative paths.
func check(key string) error {
	if !keyForm.MatchString(key) || path.Clean(key) != key || strings.HasPrefix(key, "..") || strings.HasPrefix(key, tempDir) ||
		strings.Contains(key, "__0x") || strings.HasSuffix(key, ".attrs") || len(key) > 1000 {
		return clara.Errorf(clara.Invalid, "blob key %q: must be a relative path of letters, digits and . _ - = + @", key)
	}
	return nil
}

// Put stores what r yields under the key, replacing what was there.
func (b *Bucket) Put(ctx context.Context, key string, r io.Reader) (int64, error) {
	if err := check(key); err != nil {
		return 0, err
	}
	if b.folder != nil {
		t, err := b.folder.temp()
		if err != nil {
			return 0, wrap(err, "store blob %s", key)
		}
		defer t.discard()
		n, err := copyContext(ctx, t, r)
		if err == nil {
			err = b.folder.commit(t, key)
		}
		return n, wrap(err, "store blob %s", key)
	}
	// Cancelling the writer's context is how a half-written blob is given up.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := b.bucket.NewWriter(ctx, key, &cloud.WriterOptions{DisableContentTypeDetection: true})
	if err != nil {
		return 0, wrap(err, "store blob %s", key)
	}
	n, err := copyContext(ctx, w, r)
	if err != nil {
		cancel()
		_ = w.Close()
		return n, wrap(err, "store blob %s", key)
	}
	return n, wrap(w.Close(), "store blob %s", key)
}

// PutBytes is Put of bytes in memory.
func (b *Bucket) PutBytes(ctx context.Context, key string, data []byte) error {
	_, err := b.Put(ctx, key, bytes.NewReader(data))
	return err
}

// ContentKey is the key of the content with this hash below a prefix.
func ContentKey(prefix, hash string) string { return prefix + "/" + hash }

// PutContent stores what r yields under its SHA-256 below the prefix, and returns key, hash (hex) and size.
// Content that is there already is not written again. More than limit bytes is Invalid; 0 is no limit.
func (b *Bucket) PutContent(ctx context.Context, prefix string, r io.Reader, limit int64) (key, hash string, size int64, err error) {
	if err := check(prefix); err != nil {
		return "", "", 0, err
	}
	in := r
	if limit > 0 {
		in = io.LimitReader(r, limit+1)
	}
	sum := sha256.New()
	in = io.TeeReader(in, sum)
	if b.folder != nil {
		t, err := b.folder.temp()
		if err != nil {
			return "", "", 0, wrap(err, "store content")
		}
		defer t.discard()
		key, hash, size, err := b.fill(ctx, prefix, t, in, sum, limit)
		if err != nil || b.has(ctx, key, size) {
			return key, hash, size, err
		}
		return key, hash, size, wrap(b.folder.commit(t, key), "store content %s", hash)
	}
	// Elsewhere the key must be known before the first byte is sent.
	t, err := os.CreateTemp("", "clara-content-*")
	if err != nil {
		return "", "", 0, wrap(err, "store content")
	}
	defer func() { _ = t.Close(); _ = os.Remove(t.Name()) }()
	key, hash, size, err = b.fill(ctx, prefix, t, in, sum, limit)
	if err != nil || b.has(ctx, key, size) {
		return key, hash, size, err
	}
	if _, err := t.Seek(0, io.SeekStart); err != nil {
		return "", "", 0, wrap(err, "store content")
	}
	_, err = b.Put(ctx, key, t)
	return key, hash, size, err
}

// fill copies content to w and names it.
func (b *Bucket) fill(ctx context.Context, prefix string, w io.Writer, in io.Reader, sum hash.Hash, limit int64) (key, hash string, size int64, err error) {
	size, err = copyContext(ctx, w, in)
	if err != nil {
		return "", "", 0, wrap(err, "store content")
	}
	if limit > 0 && size > limit {
		return "", "", 0, clara.Errorf(clara.Invalid, "more than %d bytes: the limit for one file", limit)
	}
	hash = hex.EncodeToString(sum.Sum(nil))
	return ContentKey(prefix, hash), hash, size, nil
}

func (b *Bucket) has(ctx context.Context, key string, size int64) bool {
	have, err := b.Size(ctx, key)
	return err == nil && have == size
}

// Get opens the blob for reading.
func (b *Bucket) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	return b.Range(ctx, key, 0, -1)
}

// Range opens length bytes of the blob from offset on; length -1 is to the end.
func (b *Bucket) Range(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := check(key); err != nil {
		return nil, err
	}
	r, err := b.bucket.NewRangeReader(ctx, key, offset, length, nil)
	if err != nil {
		return nil, wrap(err, "read blob %s", key)
	}
	return r, nil
}

// ReadAll returns a blob's bytes. More than limit bytes is Invalid.
func (b *Bucket) ReadAll(ctx context.Context, key string, limit int64) ([]byte, error) {
	r, err := b.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, wrap(err, "read blob %s", key)
	}
	if int64(len(data)) > limit {
		return nil, clara.Errorf(clara.Invalid, "blob %s is larger than %d bytes", key, limit)
	}
	return data, nil
}

// Size returns a blob's size in bytes. NotFound.
func (b *Bucket) Size(ctx context.Context, key string) (int64, error) {
	if err := check(key); err != nil {
		return 0, err
	}
	a, err := b.bucket.Attributes(ctx, key)
	if err != nil {
		return 0, wrap(err, "look at blob %s", key)
	}
	return a.Size, nil
}

// Exists reports whether there is such a blob.
func (b *Bucket) Exists(ctx context.Context, key string) (bool, error) {
	_, err := b.Size(ctx, key)
	if clara.KindOf(err) == clara.NotFound {
		return false, nil
	}
	return err == nil, err
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

// OpenFile opens a blob with random access: in place in a folder, a temporary copy elsewhere.
func (b *Bucket) OpenFile(ctx context.Context, key string) (*File, error) {
	if file, ok := b.Path(key); ok {
		f, err := os.Open(file)
		if err != nil {
			return nil, wrap(err, "read blob %s", key)
		}
		info, err := f.Stat()
		if err != nil {
			return nil, errors.Join(wrap(err, "read blob %s", key), f.Close())
		}
		return &File{File: f, Size: info.Size()}, nil
	}
	r, err := b.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	f, err := os.CreateTemp("", "clara-blob-*")
	if err != nil {
		return nil, wrap(err, "copy blob %s", key)
	}
	out := &File{File: f, temp: true}
	if out.Size, err = copyContext(ctx, f, r); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(wrap(err, "copy blob %s", key), out.Close())
	}
	return out, nil
}

// Delete removes the blob; one that is not there is no error.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := check(key); err != nil {
		return err
	}
	if b.folder != nil {
		return wrap(b.folder.remove(key), "delete blob %s", key)
	}
	err := b.bucket.Delete(ctx, key)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return nil
	}
	return wrap(err, "delete blob %s", key)
}

// List goes through the blobs whose keys begin with prefix, sorted by key. The first error ends it.
func (b *Bucket) List(ctx context.Context, prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		it := b.bucket.List(&cloud.ListOptions{Prefix: prefix})
		for {
			o, err := it.Next(ctx)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(Entry{}, wrap(err, "list blobs %s", prefix))
				return
			}
			if o.IsDir || strings.HasPrefix(o.Key, tempDir) {
				continue
			}
			if !yield(Entry{Key: o.Key, Size: o.Size, ModTime: o.ModTime}, nil) {
				return
			}
		}
	}
}

// Path returns the file that holds the blob, if the bucket is a folder: large blobs can be used in place.
// It is false for other buckets and for impossible keys.
func (b *Bucket) Path(key string) (string, bool) {
	if b.folder == nil || check(key) != nil {
		return "", false
	}
	return filepath.Join(b.folder.dir, filepath.FromSlash(key)), true
}

// Ping reports whether the storage answers.
func (b *Bucket) Ping(ctx context.Context) error {
	ok, err := b.bucket.IsAccessible(ctx)
	if err != nil {
		return clara.Errorf(clara.Unavailable, "reach blobs at %s: %w", b.url, err)
	}
	if !ok {
		return clara.Errorf(clara.Unavailable, "blobs at %s: no such bucket, or no right to it", b.url)
	}
	return nil
}

// copyContext copies until the end, an error or the end of ctx.
func copyContext(ctx context.Context, w io.Writer, r io.Reader) (int64, error) {
	return io.CopyBuffer(onlyWriter{w}, contextReader{ctx, r}, make([]byte, 256<<10))
}

type onlyWriter struct{ io.Writer }

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// wrap gives storage errors their kind.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf(format, args...)
	var domain *clara.Error
	switch {
	case errors.As(err, &domain), clara.IsContext(err):
		return fmt.Errorf("%s: %w", what, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &clara.Error{Kind: clara.Unavailable, RetryAfter: 10 * time.Second,
			Err: fmt.Errorf("%s: the disk is full: %w; free some space, the work goes on by itself", what, err)}
	case errors.Is(err, os.ErrNotExist):
		return clara.Errorf(clara.NotFound, "%s: no such blob", what)
	case errors.Is(err, os.ErrPermission):
		return clara.Errorf(clara.Unavailable, "%s: %w", what, err)
	}
	switch gcerrors.Code(err) {
	case gcerrors.NotFound:
		return clara.Errorf(clara.NotFound, "%s: no such blob", what)
	case gcerrors.InvalidArgument:
		return clara.Errorf(clara.Invalid, "%s: %w", what, err)
	case gcerrors.PermissionDenied, gcerrors.ResourceExhausted:
		return clara.Errorf(clara.Unavailable, "%s: %w", what, err)
	case gcerrors.Canceled:
		return fmt.Errorf("%s: %w", what, context.Canceled)
	case gcerrors.DeadlineExceeded:
		return fmt.Errorf("%s: %w", what, context.DeadlineExceeded)
	}
	return clara.Errorf(clara.Internal, "%s: %w", what, err)
}
