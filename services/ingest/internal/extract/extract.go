// Package extract reads a file of any kind: it looks at the content, chooses
// the reader, and keeps whatever that does within bounds of time and memory. A
// reader that panics is an error of its file, never the end of the process.
package extract

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"github.com/xuri/excelize/v2"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/docx"
	"github.com/clara-suite/clara/services/ingest/internal/html"
	"github.com/clara-suite/clara/services/ingest/internal/markdown"
	"github.com/clara-suite/clara/services/ingest/internal/pptx"
	"github.com/clara-suite/clara/services/ingest/internal/sniff"
	"github.com/clara-suite/clara/services/ingest/internal/text"
	"github.com/clara-suite/clara/services/ingest/internal/xlsx"
)

// Extractor reads files of all formats. It is safe for concurrent use.
type Extractor struct {
	readers map[doc.Format]doc.Reader
	timeout time.Duration
	log     *slog.Logger
}

// Config says what an Extractor reads with.
type Config struct {
	// Readers adds to, or replaces, the readers of this package's own: DOCX,
	// PPTX, XLSX, HTML, Markdown and text.
	Readers map[doc.Format]doc.Reader
	// Timeout bounds one file; 0 is one hour.
	Timeout time.Duration
	// Log tells of panics; nil logs nothing.
	Log *slog.Logger
}

// New makes an Extractor.
func New(cfg Config) *Extractor {
	e := &Extractor{timeout: cfg.Timeout, log: cfg.Log, readers: map[doc.Format]doc.Reader{
		doc.DOCX: docx.Reader{}, doc.PPTX: pptx.Reader{}, doc.XLSX: xlsx.Reader{},
		doc.HTML: html.Reader{}, doc.Markdown: markdown.Reader{}, doc.Text: text.Reader{},
	}}
	for f, r := range cfg.Readers {
		e.readers[f] = r
	}
	if e.timeout == 0 {
		e.timeout = time.Hour
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	return e
}

// maxDecrypt is the size of an encrypted office file, which is decrypted in memory.
const maxDecrypt = 256 << 20

// Extract reads a file. The name is for messages and for telling text formats
// apart; opts.Name is set to it. The document is never nil without an error.
// Errors name the file and what it is. Kinds: Invalid (empty, over a limit, not
// what it claims to be, wrong or missing password), Corrupt, Unsupported (a
// format without a reader), Unavailable (the file can't be read), Internal (a
// reader panicked); or a context that ended.
func (e *Extractor) Extract(ctx context.Context, name string, r io.ReaderAt, size int64, opts doc.Options) (*doc.Document, error) {
	d, err := e.extract(ctx, name, r, size, opts)
	if err != nil {
		return nil, wrap(name, err)
	}
	return d, nil
}

func (e *Extractor) extract(ctx context.Context, name string, r io.ReaderAt, size int64, opts doc.Options) (*doc.Document, error) {
	opts.Name = name
	opts.Limits = opts.Limits.WithDefaults()
	if size > opts.Limits.MaxBytes {
		return nil, clara.Errorf(clara.Invalid, "the file's %d bytes are more than the limit of %d", size, opts.Limits.MaxBytes)
	}
	kind, err := sniff.Detect(name, r, size)
	if err != nil {
		return nil, err
	}
	if kind.Encrypted {
		if r, size, err = decrypt(r, size, opts.Password); err != nil {
			return nil, err
		}
		if kind, err = sniff.Detect(name, r, size); err != nil {
			return nil, err
		}
	}
	if kind.Damaged {
		return nil, clara.Errorf(clara.Corrupt, "this is %s: %s", kind.Name, kind.Hint)
	}
	if kind.Format == "" {
		return nil, clara.Errorf(clara.Unsupported, "this is %s, which is not read: %s", kind.Name, kind.Hint)
	}
	reader := e.readers[kind.Format]
	if reader == nil {
		return nil, clara.Errorf(clara.Unsupported, "this is %s, for which no reader is configured", kind.Name)
	}
	limited, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	d, err := e.read(limited, reader, r, size, opts)
	switch {
	case err != nil && errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return nil, clara.Errorf(clara.Invalid, "reading %s takes longer than the limit of %s", kind.Name, e.timeout)
	case err != nil && clara.KindOf(err) != clara.Internal && mislabelled(name, kind):
		return nil, clara.Errorf(clara.KindOf(err), "by its content this is %s: %w", kind.Name, err)
	case err != nil:
		return nil, err
	}
	var total int64
	blank := true
	for _, p := range d.Pages {
		total += int64(len(p.Markdown))
		blank = blank && strings.TrimSpace(p.Markdown) == ""
	}
	if blank && len(d.Problems) == 0 {
		return nil, clara.Errorf(clara.Invalid, "this is %s that holds no text", kind.Name)
	}
	if total > opts.Limits.MaxText {
		return nil, clara.Errorf(clara.Invalid, "its text of %d bytes is larger than the limit of %d", total, opts.Limits.MaxText)
	}
	return d, nil
}

// read calls the reader and turns its panic into an error.
func (e *Extractor) read(ctx context.Context, reader doc.Reader, r io.ReaderAt, size int64, opts doc.Options) (d *doc.Document, err error) {
	defer func() {
		if p := recover(); p != nil {
			e.log.ErrorContext(ctx, "reader panicked", "file", opts.Name, "panic", p, "stack", string(debug.Stack()))
			d, err = nil, clara.Errorf(clara.Corrupt, "the file is built in a way that its reader can't cope with (%v)", p)
		}
	}()
	d, err = reader.Read(ctx, r, size, opts)
	if err == nil && d == nil {
		err = clara.Errorf(clara.Internal, "the reader returned neither a document nor an error")
	}
	return d, err
}

// decrypt opens the container that a password makes of an office file.
func decrypt(r io.ReaderAt, size int64, password string) (_ io.ReaderAt, _ int64, err error) {
	if password == "" {
		return nil, 0, clara.Errorf(clara.Invalid, "it is an office file protected by a password: give its password (--password)")
	}
	if size > maxDecrypt {
		return nil, 0, clara.Errorf(clara.Invalid, "it is an encrypted office file of %d bytes, the limit for those is %d: remove its password", size, maxDecrypt)
	}
	raw := make([]byte, size)
	if _, err := r.ReadAt(raw, 0); err != nil && err != io.EOF {
		return nil, 0, clara.Errorf(clara.Unavailable, "read the file: %w", err)
	}
	defer func() {
		if p := recover(); p != nil { // the library trusts the container's numbers
			err = clara.Errorf(clara.Corrupt, "it is an encrypted office file, and damaged")
		}
	}()
	plain, err := excelize.Decrypt(raw, &excelize.Options{Password: password})
	if err != nil && !errors.Is(err, excelize.ErrWorkbookPassword) {
		return nil, 0, clara.Errorf(clara.Corrupt, "it is an encrypted office file that can't be decrypted: %w", err)
	}
	if err != nil || !bytes.HasPrefix(plain, []byte("PK")) {
		return nil, 0, clara.Errorf(clara.Invalid, "it is an office file protected by another password than the one given")
	}
	return bytes.NewReader(plain), int64(len(plain)), nil
}

// mislabelled reports whether the name claims another kind than the content.
func mislabelled(name string, k sniff.Kind) bool {
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return false
	}
	want, ok := map[string]doc.Format{
		"pdf": doc.PDF, "docx": doc.DOCX, "pptx": doc.PPTX, "xlsx": doc.XLSX, "html": doc.HTML, "htm": doc.HTML,
		"md": doc.Markdown, "txt": doc.Text, "png": doc.Picture, "jpg": doc.Picture, "jpeg": doc.Picture,
	}[strings.ToLower(name[i+1:])]
	return ok && want != k.Format
}

// wrap names the file.
func wrap(name string, err error) error {
	if clara.IsContext(err) {
		return err
	}
	return clara.Errorf(clara.KindOf(err), "extract %s: %w", name, err)
}
