package pipeline

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"path"

	"github.com/clara-suite/clara/libs/blob"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/passageset"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/split"
)

// ExtractVersion names the way files are read. It changes whenever the same file would be read otherwise.
const ExtractVersion = "1"

// maxExtract bounds a stored extract: more text than any limit of a reader lets through.
const maxExtract = 1 << 30

// extractKey names what was read from a content. What a password opened is for those who know the password: the same bytes
// in another collection do not open without it.
func extractKey(content, password string) string {
	key := "extracts/" + content + "-" + ExtractVersion
	if password != "" {
		sum := sha256.Sum256([]byte(content + "\x00" + password))
		key += "-" + hex.EncodeToString(sum[:16])
	}
	return key + ".json.gz"
}

// storeExtract keeps what was read from a file.
func storeExtract(ctx context.Context, b *blob.Bucket, key string, d *doc.Document) error {
	pr, pw := io.Pipe()
	go func() {
		z := gzip.NewWriter(pw)
		err := json.NewEncoder(z).Encode(d)
		if err == nil {
			err = z.Close()
		}
		pw.CloseWithError(err)
	}()
	_, err := b.Put(ctx, key, pr)
	pr.CloseWithError(err)
	return err
}

// LoadExtract reads what was read from a file.
func LoadExtract(ctx context.Context, b *blob.Bucket, key string) (*doc.Document, error) {
	r, err := b.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, clara.Errorf(clara.Corrupt, "read %s: %w", key, err)
	}
	d := &doc.Document{}
	if err := json.NewDecoder(io.LimitReader(z, maxExtract)).Decode(d); err != nil {
		return nil, clara.Errorf(clara.Corrupt, "read %s: %w", key, err)
	}
	return d, nil
}

// storePassages cuts a document and keeps its passage set. The same content cut the same way is one set.
func storePassages(ctx context.Context, b *blob.Bucket, content string, d *doc.Document, c Cutting) (key string, n int, err error) {
	sum := sha256.Sum256([]byte(content + "\x00" + ExtractVersion + "\x00" + c.key))
	key = "passages/" + hex.EncodeToString(sum[:]) + ".jsonl"
	passages, err := split.Document(ctx, d, split.Options{MaxTokens: c.Limit, Count: c.count})
	if err != nil {
		return "", 0, err
	}
	var buf bytes.Buffer
	n, err = passageset.Write(&buf, func(yield func(clara.Passage, error) bool) {
		for _, p := range passages {
			if !yield(p, nil) {
				return
			}
		}
	})
	if err != nil {
		return "", 0, err
	}
	_, err = b.Put(ctx, key, &buf)
	return key, n, err
}

// imageSink stores a document's pictures under the hash of its content.
func imageSink(b *blob.Bucket, content string) doc.ImageSink {
	return func(ctx context.Context, img doc.Image, data []byte) (string, error) {
		key := path.Join("images", content, img.Name)
		_, err := b.Put(ctx, key, bytes.NewReader(data))
		return key, err
	}
}
