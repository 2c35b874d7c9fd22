package ingest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/extract"
	"github.com/clara-suite/clara/services/ingest/internal/ocr"
	"github.com/clara-suite/clara/services/ingest/internal/pdf"
	"github.com/clara-suite/clara/services/ingest/internal/picture"
)

// Names of what an extraction returns, for programs that read files without the service.
type (
	// Document is a file as Markdown.
	Document = doc.Document
	// ExtractOptions are what a caller may ask of an extraction.
	ExtractOptions = doc.Options
	// Image is a picture of a document.
	Image = doc.Image
)

// ByOCR is how a page was read whose text was recognised in its picture.
const ByOCR = doc.ByOCR

// ExtractorOptions say how files are read.
type ExtractorOptions struct {
	// Timeout bounds one file; 0 is one hour.
	Timeout time.Duration
	// Workers is how many pages are read at once; 0 is one a processor.
	Workers int
	Log     *slog.Logger
}

// Extractor reads files of all formats. It is safe for concurrent use.
type Extractor struct {
	inner *extract.Extractor
	pdf   *pdf.Reader
	ocr   *ocr.Engine
}

// NewExtractor makes an extractor with all readers. Close frees it.
func NewExtractor(o ExtractorOptions) *Extractor {
	// Its models are loaded when the first picture needs them.
	eyes := ocr.New(ocr.Config{})
	reader := pdf.New(pdf.Config{Workers: o.Workers, OCR: eyes})
	return &Extractor{pdf: reader, ocr: eyes, inner: extract.New(extract.Config{
		Readers: map[doc.Format]doc.Reader{doc.PDF: reader, doc.Picture: picture.Reader{OCR: eyes}}, Timeout: o.Timeout, Log: o.Log,
	})}
}

// Extract reads a file; see the errors of services/ingest/internal/extract.
func (e *Extractor) Extract(ctx context.Context, name string, r io.ReaderAt, size int64, o ExtractOptions) (*Document, error) {
	return e.inner.Extract(ctx, name, r, size, o)
}

// Close frees the readers.
func (e *Extractor) Close() error { return errors.Join(e.pdf.Close(), e.ocr.Close()) }
