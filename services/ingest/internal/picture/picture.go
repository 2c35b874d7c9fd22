// Package picture reads the text in a stand-alone picture by OCR: one page, read
// by doc.ByOCR, its lines in reading order.
package picture

import (
	"bytes"
	"cmp"
	"context"
	"image"
	_ "image/gif"  // formats that pictures come in
	_ "image/jpeg" //
	_ "image/png"  //
	"io"
	"math"
	"slices"
	"strings"

	_ "golang.org/x/image/bmp"  //
	_ "golang.org/x/image/tiff" //
	_ "golang.org/x/image/webp" //

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/ocr"
)

// Recognizer reads text in pictures; *ocr.Engine is one.
type Recognizer interface {
	// Ready says whether it can read at all: an error names what to install.
	Ready() error
	Recognize(ctx context.Context, img image.Image) ([]ocr.Line, error)
}

// Reader reads pictures. It is safe for concurrent use.
type Reader struct{ OCR Recognizer }

var _ doc.Reader = Reader{}

// minSide is the least width and height of a picture that can hold text.
const minSide = 11

// Read decodes the picture and reads its lines. Errors: State without OCR models, Corrupt for what does not
// decode, Invalid for a picture without text or over the limit of pixels.
func (r Reader) Read(ctx context.Context, f io.ReaderAt, size int64, opts doc.Options) (*doc.Document, error) {
	if opts.OCR == doc.OCRNever {
		return nil, clara.Errorf(clara.Unsupported, "this is a picture, and reading text in pictures is off")
	}
	if err := r.OCR.Ready(); err != nil {
		return nil, err
	}
	limits := opts.Limits.WithDefaults()
	conf, kind, err := image.DecodeConfig(io.NewSectionReader(f, 0, size))
	if err != nil {
		return nil, clara.Errorf(clara.Corrupt, "the picture does not decode: %w", err)
	}
	if conf.Width < minSide || conf.Height < minSide {
		return nil, clara.Errorf(clara.Invalid, "the picture is %d x %d pixels: too small to hold text", conf.Width, conf.Height)
	}
	if conf.Width > limits.MaxPixels/conf.Height {
		return nil, clara.Errorf(clara.Invalid, "the picture has %d x %d pixels: the limit is %d in all", conf.Width, conf.Height, limits.MaxPixels)
	}
	data := make([]byte, size)
	if _, err := f.ReadAt(data, 0); err != nil && err != io.EOF {
		return nil, clara.Errorf(clara.Unavailable, "read the picture: %w", err)
	}
	img, _, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, clara.Errorf(clara.Corrupt, "the picture does not decode: %w", err)
	}
	lines, err := r.OCR.Recognize(ctx, img)
	if err != nil {
		return nil, err
	}
	text := Text(lines)
	if text == "" {
		return nil, clara.Errorf(clara.Invalid, "no text was found in the picture")
	}
	d := &doc.Document{Format: doc.Picture, Pages: []doc.Page{{Number: 1, Markdown: doc.Escape(text), ReadBy: doc.ByOCR}}}
	if opts.Progress != nil {
		opts.Progress(1, 1)
	}
	if opts.Images != nil {
		name := "picture." + map[string]string{"jpeg": "jpg"}[kind]
		if kind != "jpeg" {
			name = "picture." + kind
		}
		meta := doc.Image{Name: name, Page: 1, MIME: "image/" + kind, Width: conf.Width, Height: conf.Height}
		if meta.Ref, err = opts.Images(ctx, meta, data); err != nil {
			d.AddProblem(1, "picture not stored: "+err.Error())
		} else {
			d.Images = []doc.Image{meta}
			d.Pages[0].Markdown = doc.ImageMark(meta.Ref) + "\n\n" + d.Pages[0].Markdown
		}
	}
	return d, nil
}

// Text joins lines in reading order: those at about the same height are one line of text, left to right.
func Text(lines []ocr.Line) string {
	type placed struct {
		top, bottom, left float64
		text              string
	}
	var all []placed
	for _, l := range lines {
		p := placed{top: math.Inf(1), bottom: math.Inf(-1), left: math.Inf(1), text: strings.TrimSpace(l.Text)}
		for _, c := range l.Corners {
			p.top, p.bottom, p.left = min(p.top, c.Y), max(p.bottom, c.Y), min(p.left, c.X)
		}
		if p.text != "" {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b placed) int { return cmp.Compare(a.top+a.bottom, b.top+b.bottom) })
	var rows [][]placed
	for _, p := range all {
		if n := len(rows); n > 0 {
			first := rows[n-1][0]
			if middle := (p.top + p.bottom) / 2; middle > first.top && middle < first.bottom {
				rows[n-1] = append(rows[n-1], p)
				continue
			}
		}
		rows = append(rows, []placed{p})
	}
	var b strings.Builder
	for i, row := range rows {
		slices.SortFunc(row, func(a, b placed) int { return cmp.Compare(a.left, b.left) })
		if i > 0 {
			b.WriteByte('\n')
		}
		for j, p := range row {
			if j > 0 {
				b.WriteString("  ")
			}
			b.WriteString(p.text)
		}
	}
	return b.String()
}
