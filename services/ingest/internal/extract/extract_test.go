package extract_test

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/xuri/excelize/v2"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/extract"
	. "github.com/clara-suite/clara/services/ingest/internal/ooxml/ooxmltest"
)

const para = `<w:p><w:r><w:t>Hello</w:t></w:r></w:p>`

func run(e *extract.Extractor, name string, file []byte, opts doc.Options) (*doc.Document, error) {
	return e.Extract(context.Background(), name, bytes.NewReader(file), int64(len(file)), opts)
}

func TestExtract(t *testing.T) {
	e := extract.New(extract.Config{})
	for _, c := range []struct {
		name   string
		file   string
		format doc.Format
	}{
		{"a.docx", string(Docx(para, nil)), doc.DOCX},
		{"mislabelled.pdf", string(Docx(para, nil)), doc.DOCX},
		{"a.html", "<html><p>Hello", doc.HTML},
		{"a.md", "Hello", doc.Markdown},
		{"a.txt", "Hello", doc.Text},
		{"none", "\xff\xfeH\x00e\x00l\x00l\x00o\x00", doc.Text},
	} {
		t.Run(c.name, func(t *testing.T) {
			done := 0
			d, err := run(e, c.name, []byte(c.file), doc.Options{Progress: func(n, _ int) { done = n }})
			require.NoError(t, err)
			assert.Equal(t, c.format, d.Format)
			assert.Equal(t, "Hello\n", d.Markdown())
			assert.Equal(t, 1, done)
		})
	}
}

// lying is an archive of an entry that unpacks to more than its header says.
func lying() []byte {
	file := Docx(strings.Repeat(para, 200_000), nil)
	z, err := zip.NewReader(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		panic(err)
	}
	for _, f := range z.File {
		var size [4]byte
		binary.LittleEndian.PutUint32(size[:], uint32(f.UncompressedSize64))
		if f.UncompressedSize64 > 1<<20 {
			file = bytes.ReplaceAll(file, size[:], []byte{1, 0, 0, 0})
		}
	}
	return file
}

func TestRefused(t *testing.T) {
	e := extract.New(extract.Config{})
	docx := Docx(para, nil)
	for _, c := range []struct {
		name string
		file string
		opts doc.Options
		kind clara.Kind
		says string
	}{
		{"empty.pdf", "", doc.Options{}, clara.Invalid, "empty"},
		{"blank.docx", string(Docx("", nil)), doc.Options{}, clara.Invalid, "holds no text"},
		{"x.rar", "Rar!\x1a\x07\x00", doc.Options{}, clara.Unsupported, "RAR archive"},
		{"x.doc", `{\rtf1}`, doc.Options{}, clara.Unsupported, "save it as DOCX"},
		{"x.pdf", "%PDF-1.7", doc.Options{}, clara.Unsupported, "no reader"},
		{"cut.docx", string(docx[:300]), doc.Options{}, clara.Corrupt, "truncated"},
		{"cut.zip", string(docx[:80]), doc.Options{}, clara.Corrupt, "truncated or damaged zip"},
		{"cut.pdf", string(docx[:len(docx)-60]), doc.Options{}, clara.Corrupt, "by its content this is a Word document"},
		{"big.txt", strings.Repeat("x", 5000), doc.Options{Limits: doc.Limits{MaxBytes: 1000}}, clara.Invalid, "more than the limit of 1000"},
		{"bomb.docx", string(Docx(strings.Repeat(para, 100_000), nil)), doc.Options{Limits: doc.Limits{MaxExpanded: 1 << 20}}, clara.Invalid, "unpacks to more"},
		{"lies.docx", string(lying()), doc.Options{Limits: doc.Limits{MaxExpanded: 1 << 20}}, clara.Corrupt, "lies.docx"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := run(e, c.name, []byte(c.file), c.opts)
			require.Error(t, err)
			assert.Equal(t, c.kind, clara.KindOf(err), err)
			assert.ErrorContains(t, err, c.says)
			assert.ErrorContains(t, err, c.name)
		})
	}
}

func TestPassword(t *testing.T) {
	noise := make([]byte, 8000) // the container stores small files in a way of its own
	r := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	secret, err := excelize.Encrypt(Docx(para, nil, Part{"word/media/noise.bin", string(noise)}), &excelize.Options{Password: "open sesame"})
	require.NoError(t, err)
	e := extract.New(extract.Config{})
	_, err = run(e, "x.docx", secret, doc.Options{})
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
	assert.ErrorContains(t, err, "protected by a password")
	_, err = run(e, "x.docx", secret, doc.Options{Password: "wrong"})
	assert.ErrorContains(t, err, "another password")
	d, err := run(e, "x.docx", secret, doc.Options{Password: "open sesame"})
	require.NoError(t, err)
	assert.Equal(t, "Hello\n", d.Markdown())
}

// readerFunc is a reader made of a function.
type readerFunc func(ctx context.Context) (*doc.Document, error)

func (f readerFunc) Read(ctx context.Context, _ io.ReaderAt, _ int64, _ doc.Options) (*doc.Document, error) {
	return f(ctx)
}

func TestReadersAreKeptInBounds(t *testing.T) {
	pdf := []byte("%PDF-1.7")
	with := func(timeout time.Duration, f readerFunc) *extract.Extractor {
		return extract.New(extract.Config{Timeout: timeout, Readers: map[doc.Format]doc.Reader{doc.PDF: f}})
	}
	_, err := run(with(0, func(context.Context) (*doc.Document, error) { panic("index out of range") }), "p.pdf", pdf, doc.Options{})
	assert.Equal(t, clara.Corrupt, clara.KindOf(err))
	_, err = run(with(time.Millisecond, func(ctx context.Context) (*doc.Document, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}), "slow.pdf", pdf, doc.Options{})
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
	assert.ErrorContains(t, err, "longer than the limit")
	_, err = run(with(0, func(context.Context) (*doc.Document, error) {
		return &doc.Document{Pages: []doc.Page{{Markdown: strings.Repeat("x", 2000)}}}, nil
	}), "long.pdf", pdf, doc.Options{Limits: doc.Limits{MaxText: 1000}})
	assert.ErrorContains(t, err, "larger than the limit")
	_, err = run(with(0, func(context.Context) (*doc.Document, error) { return nil, nil }), "nil.pdf", pdf, doc.Options{})
	assert.Error(t, err)
}

// vanishing is a file that can't be read after its first bytes.
type vanishing struct{ b []byte }

func (v vanishing) ReadAt(p []byte, off int64) (int, error) {
	if off > 0 {
		return 0, io.ErrUnexpectedEOF
	}
	return copy(p, v.b), nil
}

func TestVanishingFile(t *testing.T) {
	text := []byte(strings.Repeat("x", 20<<10))
	_, err := extract.New(extract.Config{}).Extract(context.Background(), "x.txt", vanishing{text}, 1<<20, doc.Options{})
	assert.Equal(t, clara.Unavailable, clara.KindOf(err), err)
}

func FuzzExtract(f *testing.F) {
	f.Add("a.docx", Docx(para, nil))
	f.Add("a.html", []byte("<html><table>"))
	f.Add("a.md", []byte("---\na: b\n---"))
	f.Fuzz(func(t *testing.T, name string, file []byte) {
		d, err := run(extract.New(extract.Config{}), name, file, doc.Options{Limits: doc.Limits{MaxText: 1 << 20, MaxExpanded: 8 << 20}})
		if err == nil && d == nil {
			t.Fatal("neither a document nor an error")
		}
		if err != nil && strings.Contains(err.Error(), "can't cope") {
			t.Fatal(err)
		}
	})
}
