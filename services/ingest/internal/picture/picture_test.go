package picture_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"image"
	"image/png"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/ocr"
	"github.com/clara-suite/clara/services/ingest/internal/picture"
)

// fixed returns the same lines for every picture.
type fixed struct {
	lines []ocr.Line
	err   error
}

func (f fixed) Ready() error                                               { return f.err }
func (f fixed) Recognize(context.Context, image.Image) ([]ocr.Line, error) { return f.lines, nil }

func line(text string, x, y float64) ocr.Line {
	return ocr.Line{Text: text, Corners: [4]ocr.Point{{X: x, Y: y}, {X: x + 50, Y: y}, {X: x + 50, Y: y + 10}, {X: x, Y: y + 10}}}
}

func encode(t *testing.T, w, h int) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, png.Encode(&b, image.NewGray(image.Rect(0, 0, w, h))))
	return b.Bytes()
}

// claiming is a small file that says it is a large picture.
func claiming(t *testing.T, w, h uint32) []byte {
	t.Helper()
	b := encode(t, 20, 20)
	head := b[12:29] // IHDR with its data
	binary.BigEndian.PutUint32(head[4:], w)
	binary.BigEndian.PutUint32(head[8:], h)
	binary.BigEndian.PutUint32(b[29:], crc32.ChecksumIEEE(head))
	return b
}

func read(r picture.Reader, data []byte, o doc.Options) (*doc.Document, error) {
	return r.Read(context.Background(), bytes.NewReader(data), int64(len(data)), o)
}

func TestReadingOrder(t *testing.T) {
	r := picture.Reader{OCR: fixed{lines: []ocr.Line{line("right", 100, 12), line("below", 0, 40), line("left", 0, 10), line(" ", 0, 80)}}}
	d, err := read(r, encode(t, 200, 100), doc.Options{})
	require.NoError(t, err)
	assert.Equal(t, "left  right\nbelow", d.Pages[0].Markdown)
	assert.Equal(t, doc.ByOCR, d.Pages[0].ReadBy)
	assert.Equal(t, doc.Done, d.State())
}

func TestRefusals(t *testing.T) {
	good := fixed{lines: []ocr.Line{line("x", 0, 0)}}
	for _, c := range []struct {
		name string
		ocr  fixed
		data []byte
		opts doc.Options
		kind clara.Kind
	}{
		{"no models", fixed{err: clara.Errorf(clara.State, "models are not installed")}, encode(t, 20, 20), doc.Options{}, clara.State},
		{"off", good, encode(t, 20, 20), doc.Options{OCR: doc.OCRNever}, clara.Unsupported},
		{"broken", good, encode(t, 20, 20)[:40], doc.Options{}, clara.Corrupt},
		{"small", good, encode(t, 20, 10), doc.Options{}, clara.Invalid},
		{"large", good, encode(t, 200, 200), doc.Options{Limits: doc.Limits{MaxPixels: 30_000}}, clara.Invalid},
		{"a hundred megapixels", good, claiming(t, 10_000, 10_000), doc.Options{}, clara.Invalid},
		{"no text", fixed{}, encode(t, 20, 20), doc.Options{}, clara.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := read(picture.Reader{OCR: c.ocr}, c.data, c.opts)
			assert.Equal(t, c.kind, clara.KindOf(err), "%v", err)
		})
	}
}

func TestSinkFailureIsAProblem(t *testing.T) {
	r := picture.Reader{OCR: fixed{lines: []ocr.Line{line("x", 0, 0)}}}
	d, err := read(r, encode(t, 20, 20), doc.Options{Images: func(context.Context, doc.Image, []byte) (string, error) { return "", errors.New("full") }})
	require.NoError(t, err)
	assert.Equal(t, doc.Partial, d.State())
}

func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	require.NoError(f, png.Encode(&b, image.NewGray(image.Rect(0, 0, 20, 20))))
	f.Add(b.Bytes())
	f.Add([]byte("\xff\xd8\xff\xe0\x00\x10JFIF\x00"))
	f.Add([]byte("GIF89a\x01\x00\x01\x00\x00\x00\x00"))
	r := picture.Reader{OCR: fixed{lines: []ocr.Line{line("x", 0, 0)}}}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := read(r, data, doc.Options{Limits: doc.Limits{MaxPixels: 1 << 20}})
		assert.True(t, (d == nil) == (err != nil))
	})
}
