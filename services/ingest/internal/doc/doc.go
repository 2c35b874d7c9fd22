// Package doc is what every reader of files produces: a document as pages of
// Markdown, with its pictures, and every problem met on the way.
//
// A reader takes the bytes of one file and never fails halfway in silence:
// what could not be read is a Problem, and State says done, partial or failed.
// Values are not safe for concurrent use while a reader fills them; Readers are.
package doc

import (
	"context"
	"io"
	"strings"
	"time"
)

// Format names what a file is, by its content and not by its name.
type Format string

// The formats that readers exist for.
const (
	PDF      Format = "pdf"
	DOCX     Format = "docx"
	PPTX     Format = "pptx"
	XLSX     Format = "xlsx"
	HTML     Format = "html"
	Markdown Format = "markdown"
	Text     Format = "text"
	Picture  Format = "image"
)

// ReadBy is the way a page was read.
type ReadBy string

const (
	// ByText is text that the file itself holds.
	ByText ReadBy = "text"
	// ByOCR is text recognised in the page's picture.
	ByOCR ReadBy = "ocr"
	// ByNone is a page that was not read: Page.Err says why.
	ByNone ReadBy = "none"
)

// State is how far a reading came.
type State string

const (
	// Done is a document read whole: no problems.
	Done State = "done"
	// Partial is a document of which some part was not read: Problems say which.
	Partial State = "partial"
	// Failed is a document of which nothing was read.
	Failed State = "failed"
)

// Document is one file as Markdown.
type Document struct {
	// Title is the file's own title, else "".
	Title  string
	Format Format
	// Language is the file's own statement (BCP 47), else "".
	Language string
	// Pages are in order. A format without pages has one page, of number 1;
	// a presentation has one a slide.
	Pages []Page
	// Images are the pictures that the sink took, in order of their marks.
	Images   []Image
	Problems []Problem
}

// Page is one page of a document.
type Page struct {
	// Number counts from 1, in the order of the file (not the printed number).
	Number int
	// Markdown is the page's text in reading order; it ends without a newline.
	Markdown string
	ReadBy   ReadBy
	// Err says why the page, or part of it, was not read; "" when it was.
	Err string
}

// Image is a picture of the document.
type Image struct {
	// Name is unique in the document and safe as a file name: "p3-1.png".
	Name string
	// Page is the page that shows it, from 1.
	Page int
	// MIME is the type of the stored bytes.
	MIME string
	// Width and Height are in pixels, 0 if not known.
	Width, Height int
	// Alt is the file's own description of the picture, else "".
	Alt string
	// Ref is what the sink returned; it stands in the Markdown as [IMAGE_REF: Ref].
	Ref string
}

// Problem is something that was not read.
type Problem struct {
	// Page counts from 1; 0 is the document as a whole.
	Page   int
	Reason string
}

// State says how far the reading came: Failed if no page was read, Partial if
// there is any problem, Done else.
func (d *Document) State() State {
	read := false
	for _, p := range d.Pages {
		if p.ReadBy != ByNone {
			read = true
			break
		}
	}
	switch {
	case !read:
		return Failed
	case len(d.Problems) > 0:
		return Partial
	}
	return Done
}

// Markdown returns all pages as one text, a blank line between them. It ends
// with a newline unless it is empty.
func (d *Document) Markdown() string {
	var b strings.Builder
	for _, p := range d.Pages {
		if p.Markdown == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteString("\n\n")
		}
		b.WriteString(p.Markdown)
	}
	if b.Len() > 0 {
		b.WriteByte('\n')
	}
	return b.String()
}

// AddProblem records that a part of the document was not read. Page 0 is the
// document as a whole.
func (d *Document) AddProblem(page int, reason string) {
	d.Problems = append(d.Problems, Problem{Page: page, Reason: reason})
}

// OCRMode says when text in pictures is recognised.
type OCRMode string

const (
	// OCRAuto recognises pages that hold no text.
	OCRAuto OCRMode = "auto"
	// OCRNever reports pages that hold no text as not read.
	OCRNever OCRMode = "never"
	// OCRAlways recognises every page, whatever text the file holds.
	OCRAlways OCRMode = "always"
)

// Limits bound what one file may cost. A zero field takes its default.
type Limits struct {
	// MaxBytes is the size of the file.
	MaxBytes int64
	// MaxExpanded is the sum of all that is unpacked from the file (zip entries, XML).
	MaxExpanded int64
	// MaxText is the size of the Markdown.
	MaxText int64
	// MaxPages is the number of pages read; those beyond are a Problem.
	MaxPages int
	// PageTimeout bounds the work on one page.
	PageTimeout time.Duration
	// MaxPixels is width x height of a picture that is decoded or drawn.
	MaxPixels int
	// MaxImages is the number of pictures handed to the sink.
	MaxImages int
}

// defaultLimits are generous for honest files.
var defaultLimits = Limits{
	MaxBytes: 1 << 30, MaxExpanded: 2 << 30, MaxText: 256 << 20, MaxPages: 10_000,
	PageTimeout: 60 * time.Second, MaxPixels: 40_000_000, MaxImages: 5_000,
}

// WithDefaults returns the limits with every zero field set to its default.
func (l Limits) WithDefaults() Limits {
	d := defaultLimits
	if l.MaxBytes == 0 {
		l.MaxBytes = d.MaxBytes
	}
	if l.MaxExpanded == 0 {
		l.MaxExpanded = d.MaxExpanded
	}
	if l.MaxText == 0 {
		l.MaxText = d.MaxText
	}
	if l.MaxPages == 0 {
		l.MaxPages = d.MaxPages
	}
	if l.PageTimeout == 0 {
		l.PageTimeout = d.PageTimeout
	}
	if l.MaxPixels == 0 {
		l.MaxPixels = d.MaxPixels
	}
	if l.MaxImages == 0 {
		l.MaxImages = d.MaxImages
	}
	return l
}

// ImageSink stores a picture and returns the reference that marks its place,
// usually a path relative to the output. It is called from one goroutine at a
// time, in order of pages. An error is a Problem of the document, not its end.
type ImageSink func(ctx context.Context, img Image, data []byte) (ref string, err error)

// Options are what a caller may ask of a reader. The zero value reads text
// only, with OCRAuto and the default limits.
type Options struct {
	// Name is the file's name, for messages and for formats without a signature.
	Name     string
	Password string
	// OCR is OCRAuto if empty.
	OCR    OCRMode
	Limits Limits
	// Images takes the pictures; nil leaves them and their marks out.
	Images ImageSink
	// Comments keeps review comments where the format has them.
	Comments bool
	// Progress, if set, is called from one goroutine at a time after each
	// page; total is 0 while it is not known.
	Progress func(done, total int)
}

// Reader reads one format. Implementations are safe for concurrent use.
type Reader interface {
	// Read reads the file of the given size. It returns an error and no
	// document when nothing at all can be read: kinds Invalid (not this
	// format, wrong or missing password, over a limit), Corrupt, Unsupported,
	// or a context that ended. What fails in part is in Document.Problems.
	Read(ctx context.Context, r io.ReaderAt, size int64, opts Options) (*Document, error)
}
