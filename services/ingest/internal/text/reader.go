package text

import (
	"context"
	"io"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
)

// Reader reads plain text. It is safe for concurrent use.
type Reader struct{}

var _ doc.Reader = Reader{}

// Read reads a text as a document of one page. Errors: Invalid (empty, over the
// limit), Unavailable (the file can't be read), or a context that ended.
func (Reader) Read(ctx context.Context, r io.ReaderAt, size int64, opts doc.Options) (*doc.Document, error) {
	s, err := String(ctx, r, size, opts)
	if err != nil {
		return nil, err
	}
	if opts.Progress != nil {
		opts.Progress(1, 1)
	}
	return &doc.Document{Format: doc.Text, Pages: []doc.Page{{Number: 1, Markdown: s, ReadBy: doc.ByText}}}, nil
}

// String returns a whole text as UTF-8 without blank lines at its ends. Its
// memory is the text itself, once; use NewReader for what should stream.
func String(ctx context.Context, r io.ReaderAt, size int64, opts doc.Options) (string, error) {
	limit := opts.Limits.WithDefaults().MaxText
	if size > limit*4 { // no encoding takes more than four bytes for one of UTF-8
		return "", clara.Errorf(clara.Invalid, "read the text: its %d bytes are more than the limit of %d", size, limit)
	}
	in, _, err := NewReader(r, size)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.Grow(int(min(size+size/8, limit) + 1))
	buf := make([]byte, 256<<10)
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := in.Read(buf)
		b.Write(buf[:n])
		if int64(b.Len()) > limit {
			return "", clara.Errorf(clara.Invalid, "read the text: it is larger than the limit of %d bytes", limit)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", clara.Errorf(clara.Unavailable, "read the text: %w", err)
		}
	}
	s := strings.Trim(b.String(), "\n")
	if strings.TrimSpace(s) == "" {
		return "", clara.Errorf(clara.Invalid, "read the text: it holds nothing but white space")
	}
	return s, nil
}
