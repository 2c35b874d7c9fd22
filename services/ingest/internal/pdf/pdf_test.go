package pdf_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"flag"
	"fmt"
	"image"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/ocr"
	"github.com/clara-suite/clara/services/ingest/internal/pdf"
)

var update = flag.Bool("update", false, "write the golden files")

func newReader(t testing.TB, cfg pdf.Config) *pdf.Reader {
	t.Helper()
	r := pdf.New(cfg)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	return r
}

func read(t testing.TB, r *pdf.Reader, data []byte, opts doc.Options) *doc.Document {
	t.Helper()
	d, err := r.Read(context.Background(), bytes.NewReader(data), int64(len(data)), opts)
	require.NoError(t, err)
	return d
}

// samples are documents of our own, one for each thing that the layout has to get right.
func samples() map[string]*writer {
	s := map[string]*writer{}

	w := &writer{}
	w.page()
	w.text(2, 20, 72, 90, "Rules of the Harbour")
	w.text(2, 14, 72, 130, "1 Opening hours")
	y := w.paragraph(1, 10, 72, 150, prose[:4]...)
	w.text(2, 12, 72, y+14, "1.1 Exceptions")
	y = w.paragraph(1, 10, 72, y+34, "On holidays the office stays closed, and a hyphen-", "ated word is put together again at its line end.")
	w.text(2, 14, 72, y+18, "2 Fees")
	w.paragraph(1, 10, 72, y+38, "An ordinary permit costs 42 euros.")
	s["headings"] = w

	w = &writer{}
	w.page()
	y = w.paragraph(1, 10, 72, 90, "Bring the following things with you:")
	for _, l := range []struct {
		x float64
		s string
	}{{80, "\x95 two photographs"}, {80, "\x95 a form, which is made of"}, {100, "\x95 the first sheet"}, {100, "\x95 the second sheet"}, {80, "\x95 cash"}} {
		w.text(1, 10, l.x, y+4, l.s)
		y += 14
	}
	y = w.paragraph(1, 10, 72, y+16, "Then do this:")
	for i, l := range []string{"wait until your number is called, which on", "go to the window", "pay"} {
		w.text(1, 10, 80, y+4, fmt.Sprintf("%d. %s", i+1, l))
		y += 14
		if i == 0 {
			w.text(1, 10, 92, y+4, "busy days takes an hour")
			y += 14
		}
	}
	s["lists"] = w

	w = &writer{}
	w.page()
	w.text(2, 18, 150, 80, "A Title Above Two Columns")
	w.paragraph(1, 10, 60, 120, prose...)
	w.paragraph(1, 10, 320, 120, "In winter the ferry sails only twice a day. Each", "sailing is announced on the board at the quay,", "and the board is right more often than the post.", "Those who miss the boat may sleep in the hall", "of the old customs house, which is heated and", "locked at ten. Dogs are welcome there.")
	w.paragraph(1, 10, 60, 300, "This closing paragraph runs across both of the columns, from the left margin of the page to its right one.")
	s["columns"] = w

	w = &writer{}
	w.page()
	w.text(1, 10, 72, 90, "Table 1: Fees by vessel")
	xs, ys := []float64{72, 200, 300, 400}, []float64{100, 120, 140, 160, 180}
	for _, y := range ys {
		if y == 160 {
			w.line(200, y, 400, y) // the first column's last two cells are one
			continue
		}
		w.line(72, y, 400, y)
	}
	for _, x := range xs {
		w.line(x, 100, x, 180)
	}
	for r, cells := range [][]string{{"Vessel", "Summer", "Winter"}, {"Dinghy", "10", "5"}, {"Trawler", "120", "60"}, {"", "140", "70"}} {
		for c, cell := range cells {
			if cell != "" {
				w.text(1, 10, xs[c]+4, ys[r]+14, cell)
			}
		}
	}
	s["ruled"] = w

	w = &writer{}
	w.page()
	w.paragraph(1, 10, 72, 90, "The fees of last year follow.")
	for _, y := range []float64{110, 142, 202} {
		w.line(72, y, 420, y)
	}
	w.text(1, 10, 240, 122, "Fees in euros")
	for r, cells := range [][]string{{"Vessel", "Summer", "Winter", "Berth"}, {"Dinghy", "10", "5", "inner"}, {"Yacht", "40", "20", "inner"}, {"Trawler", "120", "60", "outer quay"}, {"Ferry", "900", "450", "outer quay"}} {
		for c, cell := range cells {
			w.text(1, 10, []float64{76, 190, 290, 360}[c], 137+float64(r)*14+float64(min(r, 1))*2, cell)
		}
	}
	s["booktabs"] = w

	w = &writer{}
	w.page()
	w.paragraph(1, 10, 72, 90, "Distances from the harbour, in kilometres, are these:")
	for r, cells := range [][]string{{"Town", "By road", "By sea"}, {"Northport", "120", "95"}, {"Eastport", "48", "61"}, {"Southport", "200", "77"}} {
		for c, cell := range cells {
			w.text(1, 10, []float64{72, 200, 320}[c], 120+float64(r)*14, cell)
		}
	}
	w.paragraph(1, 10, 72, 200, "They were measured last year.")
	s["spaced"] = w

	w = &writer{}
	for p := range 4 {
		w.page()
		w.text(1, 9, 72, 40, "Harbour Gazette")
		w.text(1, 9, 500, 40, fmt.Sprintf("No. %d", 17))
		w.paragraph(1, 10, 72, 90, fmt.Sprintf("Page %s tells of the sea.", []string{"one", "two", "three", "four"}[p]))
		w.text(1, 9, 300, 760, fmt.Sprint(p+1))
		w.raw("q 0.7 0.7 -0.7 0.7 200 300 cm BT /F2 60 Tf 0.9 g (DRAFT) Tj ET Q")
	}
	s["furniture"] = w

	w = &writer{}
	w.page()
	w.paragraph(1, 10, 72, 90, "Between the years 2018\x96", "19 the rules at https://", "harbour.example/rules were re-", "written by well-", "meaning clerks, who are called well-meaning", "since, and the new text, which nobody asked for, was")
	w.page()
	w.paragraph(1, 10, 72, 90, "printed on blue paper.")
	w.paragraph(1, 10, 72, 130, "Another paragraph follows on the second page of it.")
	s["joined"] = w

	// Two columns of short cells without rules or a third row, items without
	// space between them, and paragraphs that only the structure tree parts.
	w = &writer{ofPage: "/StructParents 0 "}
	w.page()
	for i, l := range []string{"Bring what follows", "1. photographs", "2. a form", "Be early", "Be polite"} {
		w.marked(i, 1, 10, 72, 90+12*float64(i), l)
	}
	for i, l := range []string{"Vessel", "Fee", "Dinghy", "10"} {
		w.marked(5+i, 1, 10, 72+40*float64(i%2), 170+12*float64(i/2), l)
	}
	root := w.next(0)
	ref := func(i int) string { return fmt.Sprintf("%d 0 R ", root+i) }
	w.extra = "/MarkInfo << /Marked true >> /StructTreeRoot " + ref(0)
	element := func(kind, kids string) string {
		return fmt.Sprintf("<< /Type /StructElem /S /%s /P %s /Pg 6 0 R /K [%s] >>", kind, ref(1), kids)
	}
	w.more = []string{
		"<< /Type /StructTreeRoot /K " + ref(1) + "/ParentTree << /Nums [0 [" + ref(2) + ref(4) + ref(6) + ref(7) + ref(8) + ref(11) + ref(12) + ref(14) + ref(15) + "]] >> >>",
		element("Document", ref(2)+ref(3)+ref(7)+ref(8)+ref(9)),
		element("P", "0"),
		element("L", ref(5)+ref(16)), element("LBody", "1"), element("LI", ref(4)), element("LBody", "2"),
		element("P", "3"), element("P", "4"),
		element("Table", ref(10)+ref(13)),
		element("TR", ref(11)+ref(12)), element("TH", "5"), element("TH", "6"),
		element("TR", ref(14)+ref(15)), element("TD", "7"), element("TD", "8"),
		element("LI", ref(6)),
	}
	parents := map[int]int{2: 1, 3: 1, 4: 5, 5: 3, 6: 16, 16: 3, 7: 1, 8: 1, 9: 1, 10: 9, 11: 10, 12: 10, 13: 9, 14: 13, 15: 13}
	for child, parent := range parents {
		w.more[child] = strings.Replace(w.more[child], "/P "+ref(1), "/P "+ref(parent), 1)
	}
	w.more[1] = strings.Replace(w.more[1], "/P "+ref(1), "/P "+ref(0), 1)
	s["tagged"] = w

	w = &writer{annots: []string{"<< /Type /Annot /Subtype /Widget /FT /Tx /T (name) /V (Ada Byron) /Rect [150 680 350 700] /F 4 /AP << /N 8 0 R >> >>"}}
	w.page()
	w.text(1, 10, 72, 106, "Name:")
	w.more = []string{"<< /Type /XObject /Subtype /Form /BBox [0 0 200 20] /Resources << /Font << /F1 3 0 R >> >> /Length 39 >>\nstream\nBT /F1 10 Tf 2 6 Td (Ada Byron) Tj ET  \nendstream"}
	s["form"] = w

	w = &writer{}
	w.page()
	w.paragraph(1, 10, 72, 90, "The clerk's program reads:")
	w.paragraph(3, 10, 72, 112, "func fee(v Vessel) int {", "    if v.Small {", "        return 10", "    }", "    return 120", "}")
	w.paragraph(1, 10, 72, 210, "It has no *tests* and <no> comments.")
	s["code"] = w

	w = &writer{}
	w.page()
	w.text(1, 10, 72, 90, "The fee was raised")
	w.text(1, 6, 160, 86, "1")
	w.text(1, 10, 166, 90, "in spring. See the web site for more.")
	w.text(1, 6, 72, 700, "1")
	w.text(1, 8, 77, 703, "By a vote of the council.")
	w.annots = []string{"<< /Type /Annot /Subtype /Link /Rect [228 698 271 712] /A << /S /URI /URI (https://example.org/fees) >> >>"}
	s["notes"] = w
	// Thick lines above and below, a thin one under the head, cells of several
	// lines; the lines of the page's head and foot are as long.
	w = &writer{}
	w.page()
	w.line(72, 60, 520, 60)
	y = w.paragraph(1, 10, 72, 90, prose[0]+" "+prose[1], prose[2]+" "+prose[3], prose[4]+" "+prose[5])
	w.raw(fmt.Sprintf("1.6 w 72 %g m 520 %g l S", 792-y-10, 792-y-10))
	w.text(1, 10, 80, y+24, "No")
	w.text(1, 10, 130, y+24, "Rule")
	w.text(1, 10, 480, y+24, "Level")
	w.line(72, y+30, 520, y+30)
	for i, l := range [][]string{{prose[0], prose[1], prose[2]}, {prose[6], prose[7]}} {
		w.text(2, 10, 80, y+44, fmt.Sprintf("1.%d", i+1))
		w.text(1, 10, 490, y+44, fmt.Sprint(2-i))
		y = w.paragraph(1, 10, 130, y+44, l...) - 32
	}
	w.raw(fmt.Sprintf("1.6 w 72 %g m 520 %g l S", 792-y-36, 792-y-36))
	w.paragraph(1, 10, 72, y+60, prose[8]+" "+prose[9])
	w.line(72, 740, 520, 740)
	s["wrapped-cells"] = w

	// Two tables under lines as long as those of the page's head and foot, text
	// between them and below.
	w = &writer{}
	w.page()
	w.line(72, 60, 520, 60)
	for i, top := range []float64{90, 330} {
		w.line(72, top, 520, top)
		w.line(72, top+24, 520, top+24)
		w.line(72, top+120, 520, top+120)
		for r, cells := range [][]string{{"No", "Rule", "Level"}, {"1", "Come early", "2"}, {"2", "Pay in cash", "1"}, {"3", "Be polite", "3"}} {
			for c, cell := range cells {
				w.text(1, 10, []float64{80, 160, 480}[c], top+15+27*float64(r), cell)
			}
		}
		w.text(2, 14, 72, top+150, []string{"Exceptions", "Sources"}[i])
		w.paragraph(1, 10, 72, top+170, prose[0]+" "+prose[1], prose[2]+" "+prose[3])
	}
	w.line(72, 740, 520, 740)
	s["text-between-tables"] = w

	// The head of a table that a shade alone sets apart.
	w = &writer{}
	w.page()
	w.raw("0.7 0.8 1 rg 72 672 300 20 re f 0 g")
	for _, y := range []float64{100, 140, 160} {
		w.line(72, y, 372, y)
	}
	for _, x := range []float64{72, 172, 272, 372} {
		w.line(x, 100, x, 160)
	}
	for r, cells := range [][]string{{"Vessel", "Summer", "Winter"}, {"Dinghy", "10", "5"}, {"Trawler", "120", "60"}} {
		for c, cell := range cells {
			w.text(1, 10, 76+100*float64(c), 114+20*float64(r), cell)
		}
	}
	s["shaded-head"] = w

	// A head that reads upwards, and cells of one row drawn in one go.
	w = &writer{}
	w.page()
	for i := range 4 {
		w.line(72, 100+[]float64{0, 90, 110, 130}[i], 312, 100+[]float64{0, 90, 110, 130}[i])
	}
	for i := range 5 {
		w.line(72+[]float64{0, 120, 160, 200, 240}[i], 100, 72+[]float64{0, 120, 160, 200, 240}[i], 230)
	}
	w.text(1, 10, 76, 114, "Vessel")
	for i, s := range []string{"Pilot", "Tug boat", "Guard"} {
		w.raw(fmt.Sprintf("BT /F2 10 Tf 0 1 -1 0 %d %d Tm (%s) Tj ET", 217+40*i, 792-186, s))
	}
	for i, s := range []string{"Dinghy", "Ferry"} {
		w.text(1, 10, 76, 204+20*float64(i), s)
	}
	w.raw("BT /F1 10 Tf 1 0 0 1 208 588 Tm [(X) -7333 (X)] TJ ET BT /F1 10 Tf 1 0 0 1 208 568 Tm [(X) -3333 (X) -3333 (X)] TJ ET")
	s["sideways"] = w

	// A frame round two columns of text is no table.
	w = &writer{}
	w.page()
	w.raw("0.5 w 60 500 480 232 re S")
	w.text(2, 18, 72, 90, "Harbour Brief")
	w.paragraph(2, 10, 72, 120, "Early is polite", "Dogs are welcome", "Bring your form", "Pay in cash")
	w.paragraph(1, 10, 240, 120, prose...)
	s["framed-columns"] = w

	w = &writer{}
	w.page()
	w.line(72, 60, 520, 60)
	w.text(2, 14, 72, 90, "Contents")
	for i, title := range []string{"Preface", "Opening hours", "Exceptions on holidays", "Fees", "Renewal of a permit", "Index"} {
		at := 120 + 16*float64(i)
		w.text(1, 10, 72, at, title)
		for x := 200.0; i > 0 && x < 490; x += 10 {
			w.text(1, 10, x, at, ".")
		}
		w.text(1, 10, 500, at, fmt.Sprint(3+4*i))
	}
	w.line(72, 740, 520, 740)
	s["contents"] = w

	// Two pages of a book on one: short lines, on the same baselines.
	w = &writer{ofPage: "/CropBox [0 396 612 792] "}
	w.page()
	for i := range 2 {
		x := 40 + 310*float64(i)
		y = w.paragraph(1, 10, x, 50, fmt.Sprintf("%d. Which of these hold for your harbour?", i+1))
		for _, l := range []string{"Permits are given by letter", "Fees are paid in cash", "The gate is open at night", "None of these"} {
			w.text(1, 10, x, y+4, "\x95 "+l)
			y += 14
		}
		w.paragraph(1, 10, x, y+16, prose[:8]...)
	}
	s["spread"] = w

	w = &writer{}
	w.page()
	w.text(2, 14, 72, 90, "Problems")
	y = 110
	for i, title := range []string{"Rules that contradict the law", "Offices without a register", "Fees"} {
		w.text(2, 10, 72, y+10, fmt.Sprintf("(%d) %s", i+1, title))
		y = w.paragraph(1, 10, 72, y+28, prose[3*i:3*i+3]...)
	}
	s["numbered-heads"] = w

	// A form of boxes in one frame, as spreadsheets print it: a table stands in a box, of columns that only spacing shows.
	// The colour under a short entry is a row of its own.
	w = &writer{}
	w.page()
	w.line(250, 238, 250, 300)
	for _, y := range []float64{80, 120, 140, 238, 300} {
		w.line(72, y, 520, y)
	}
	for _, x := range []float64{72, 520} {
		w.line(x, 80, x, 300)
	}
	w.text(2, 14, 210, 104, "Harbour workshop")
	w.text(2, 10, 76, 134, "Owner and vessel")
	for r, cells := range [][]string{
		{"Name", "Ada Byron", "Vessel", "Petrel"}, {"Claim", "SF-1008", "Kind", "Dinghy"}, {"Policy", "POL-55", "Builder", "Eastport yard"},
		{"Telephone", "425 111", "Number", "XK-774-20"}, {"", "", "Hull", "White"}, {"", "", "Engine", "None"}, {"Order", "RO-2022", "Estimator", "E. Turner"},
	} {
		for c, cell := range cells {
			if cell != "" {
				w.text(1, 10, []float64{76, 160, 300, 400}[c], 152+float64(r)*13, cell)
			}
		}
	}
	w.text(1, 10, 76, 254, "Parts and labour")
	w.text(1, 10, 260, 254, "2,100")
	w.text(1, 10, 76, 290, "Grand total")
	w.text(1, 10, 260, 290, "5,738")
	s["boxes"] = w
	return s
}

func TestGolden(t *testing.T) {
	r := newReader(t, pdf.Config{})
	for name, w := range samples() {
		t.Run(name, func(t *testing.T) {
			d := read(t, r, w.bytes(), doc.Options{})
			assert.Equal(t, doc.Done, d.State(), "%v", d.Problems)
			path := filepath.Join("testdata", name+".md")
			if *update {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(path, []byte(d.Markdown()), 0o644))
			}
			want, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.Equal(t, string(want), d.Markdown())
		})
	}
}

func TestPictures(t *testing.T) {
	img := make([]byte, 32*32*3)
	for i := range img {
		img[i] = byte(i)
	}
	w := &writer{images: [][]byte{img}}
	w.page()
	w.paragraph(1, 10, 72, 90, "Above the picture.")
	w.image(0, 72, 120, 100, 100)
	w.paragraph(1, 10, 72, 260, "Below the picture.")
	w.page()
	w.image(0, 72, 120, 100, 100)
	w.paragraph(1, 10, 72, 260, "The same picture again.")
	r := newReader(t, pdf.Config{})
	stored := 0
	d := read(t, r, w.bytes(), doc.Options{Images: func(_ context.Context, i doc.Image, data []byte) (string, error) {
		stored++
		assert.Equal(t, "p1-1.png", i.Name)
		_, kind, err := image.DecodeConfig(bytes.NewReader(data))
		assert.NoError(t, err)
		assert.Equal(t, "png", kind)
		return "images/" + i.Name, nil
	}})
	assert.Equal(t, 1, stored, "each picture is stored once")
	assert.Equal(t, "Above the picture.\n\n[IMAGE_REF: images/p1-1.png]\n\nBelow the picture.\n\n[IMAGE_REF: images/p1-1.png]\n\nThe same picture again.\n", d.Markdown())

	d = read(t, r, w.bytes(), doc.Options{Images: func(context.Context, doc.Image, []byte) (string, error) { return "", os.ErrPermission }})
	assert.Equal(t, doc.Partial, d.State(), "a picture that cannot be stored is a problem, not the end")
}

// recognizer reads the same line in every picture.
type recognizer struct{ err error }

func (r recognizer) Ready() error { return r.err }

func (r recognizer) Recognize(_ context.Context, img image.Image) ([]ocr.Line, error) {
	w := float64(img.Bounds().Dx())
	return []ocr.Line{{Text: "read by eye", Score: 1, Corners: [4]ocr.Point{{X: w / 4, Y: 300}, {X: w / 2, Y: 300}, {X: w / 2, Y: 340}, {X: w / 4, Y: 340}}}}, nil
}

func TestOCR(t *testing.T) {
	img := bytes.Repeat([]byte{200, 10, 30}, 32*32)
	img[0] = 1
	w := &writer{images: [][]byte{img}}
	w.page()
	w.image(0, 50, 50, 500, 700)
	w.page()
	w.paragraph(1, 10, 72, 90, prose...)
	data := w.bytes()
	for _, c := range []struct {
		name   string
		cfg    pdf.Config
		mode   doc.OCRMode
		state  doc.State
		first  doc.ReadBy
		second doc.ReadBy
		reason string
	}{
		{"auto", pdf.Config{OCR: recognizer{}}, doc.OCRAuto, doc.Done, doc.ByOCR, doc.ByText, ""},
		{"always", pdf.Config{OCR: recognizer{}}, doc.OCRAlways, doc.Done, doc.ByOCR, doc.ByOCR, ""},
		{"never", pdf.Config{OCR: recognizer{}}, doc.OCRNever, doc.Partial, doc.ByNone, doc.ByText, "switched off"},
		{"none", pdf.Config{}, doc.OCRAuto, doc.Partial, doc.ByNone, doc.ByText, "there is no OCR"},
		{"not installed", pdf.Config{OCR: recognizer{err: clara.Errorf(clara.State, "install it")}}, doc.OCRAuto, doc.Partial, doc.ByNone, doc.ByText, "install it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := read(t, newReader(t, c.cfg), data, doc.Options{OCR: c.mode})
			assert.Equal(t, c.state, d.State())
			assert.Equal(t, c.first, d.Pages[0].ReadBy)
			assert.Equal(t, c.second, d.Pages[1].ReadBy)
			if c.reason != "" {
				assert.Contains(t, d.Pages[0].Err, c.reason)
			} else {
				assert.Equal(t, "read by eye", d.Pages[0].Markdown)
			}
		})
	}
}

func TestBadFiles(t *testing.T) {
	r := newReader(t, pdf.Config{})
	w := &writer{}
	w.page()
	w.paragraph(1, 10, 72, 90, "Sound.")
	sound := w.bytes()
	empty := (&writer{}).bytes()
	for _, c := range []struct {
		name string
		data []byte
		kind clara.Kind
		text string
	}{
		{"empty", nil, clara.Invalid, "empty"},
		{"no pdf", []byte("PK\x03\x04 this is a zip"), clara.Corrupt, "damaged or no PDF"},
		{"cut off", sound[:120], clara.Corrupt, "damaged"},
		{"no pages", empty, clara.Corrupt, "no pages"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := r.Read(context.Background(), bytes.NewReader(c.data), int64(len(c.data)), doc.Options{})
			assert.Nil(t, d)
			assert.Equal(t, c.kind, clara.KindOf(err))
			assert.ErrorContains(t, err, c.text)
		})
	}
	t.Run("over the size limit", func(t *testing.T) {
		_, err := r.Read(context.Background(), bytes.NewReader(sound), int64(len(sound)), doc.Options{Limits: doc.Limits{MaxBytes: 10}})
		assert.Equal(t, clara.Invalid, clara.KindOf(err))
	})
	t.Run("vanishes while read", func(t *testing.T) {
		_, err := r.Read(context.Background(), vanished{}, int64(len(sound)), doc.Options{})
		assert.Error(t, err)
	})
}

// vanished is a file that can no longer be read.
type vanished struct{}

func (vanished) ReadAt([]byte, int64) (int, error) { return 0, os.ErrNotExist }

func TestEncrypted(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "encrypted.pdf"))
	require.NoError(t, err)
	r := newReader(t, pdf.Config{})
	_, err = r.Read(context.Background(), bytes.NewReader(data), int64(len(data)), doc.Options{})
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
	assert.ErrorContains(t, err, "--password")
	_, err = r.Read(context.Background(), bytes.NewReader(data), int64(len(data)), doc.Options{Password: "wrong"})
	assert.ErrorContains(t, err, "password is wrong")
	d := read(t, r, data, doc.Options{Password: "open sesame"})
	assert.Contains(t, d.Markdown(), "Behind the door")
}

func TestHostile(t *testing.T) {
	r := newReader(t, pdf.Config{})
	t.Run("a form that draws itself", func(t *testing.T) {
		w := &writer{}
		w.page()
		w.paragraph(1, 10, 72, 90, "Still here.")
		w.raw("/Loop Do")
		data := bytes.Replace(w.bytes(), []byte("/XObject << >>"), []byte("/XObject << /Loop 7 0 R >>"), 1)
		d := read(t, r, data, doc.Options{})
		assert.Contains(t, d.Markdown(), "Still here.")
	})
	t.Run("bookmarks in a ring", func(t *testing.T) {
		w := &writer{extra: "/Outlines << /First 3 0 R /Last 3 0 R /Count 1 >> "}
		w.page()
		w.paragraph(1, 10, 72, 90, "Still here.")
		data := bytes.Replace(w.bytes(), []byte("<< /Type /Font /Subtype /Type1"), []byte("<< /Title (x) /Next 3 0 R /First 3 0 R /Type /Font /Subtype /Type1"), 1)
		d := read(t, r, data, doc.Options{})
		assert.Len(t, d.Pages, 1)
	})
	t.Run("pages in a ring", func(t *testing.T) {
		w := &writer{}
		w.page()
		w.paragraph(1, 10, 72, 90, "Still here.")
		data := bytes.Replace(w.bytes(), []byte("/Count 1 /Kids [6 0 R ]"), []byte("/Count 9 /Kids [2 0 R 6]"), 1)
		d, err := r.Read(context.Background(), bytes.NewReader(data), int64(len(data)), doc.Options{})
		if err == nil {
			assert.NotEqual(t, doc.Done, d.State())
		}
	})
	t.Run("twenty thousand pages of one object", func(t *testing.T) {
		w := &writer{}
		w.page()
		w.paragraph(1, 10, 72, 90, "One of many.")
		data := bytes.Replace(w.bytes(), []byte("/Count 1 /Kids [6 0 R ]"), []byte("/Count 20000 /Kids ["+strings.Repeat("6 0 R ", 20_000)+"]"), 1)
		d := read(t, r, data, doc.Options{Limits: doc.Limits{MaxPages: 200}})
		assert.Len(t, d.Pages, 200)
		assert.Equal(t, doc.Partial, d.State())
	})
	t.Run("a page that unpacks to more than its memory", func(t *testing.T) {
		small := newReader(t, pdf.Config{MaxMemory: 64 << 20})
		w := &writer{}
		w.page()
		w.paragraph(1, 10, 72, 90, "Before.")
		w.page()
		w.page()
		w.paragraph(1, 10, 72, 90, "After.")
		data := w.bytes()
		packed := deflated(deflated(bytes.Repeat([]byte("q "), 100<<20/2)))
		data = bytes.Replace(data, []byte("<< /Length 0 >>\nstream\n"), fmt.Appendf(nil, "<< /Filter [/FlateDecode /FlateDecode] /Length %d >>\nstream\n%s", len(packed), packed), 1)
		d := read(t, small, data, doc.Options{})
		require.Len(t, d.Pages, 3)
		assert.Equal(t, "Before.", d.Pages[0].Markdown)
		assert.Equal(t, "After.", d.Pages[2].Markdown)
		assert.Empty(t, d.Pages[1].Markdown)
		assert.Zero(t, small.Live())
	})
	t.Run("a picture of four hundred megapixels", func(t *testing.T) {
		img := bytes.Repeat([]byte{200, 10, 30}, 32*32)
		w := &writer{images: [][]byte{img}}
		w.page()
		w.paragraph(1, 10, 72, 90, "A caption.")
		w.image(0, 100, 200, 200, 200)
		data := bytes.Replace(w.bytes(), []byte("/Width 32 /Height 32"), []byte("/Width 20000 /Height 20000"), 1)
		d := read(t, r, data, doc.Options{Images: func(context.Context, doc.Image, []byte) (string, error) { return "x", nil }})
		assert.Equal(t, "A caption.", d.Pages[0].Markdown)
		assert.Equal(t, doc.Partial, d.State())
		assert.Contains(t, d.Problems[0].Reason, "over the limit")
		assert.Empty(t, d.Images)
	})
	t.Run("more pages than the limit", func(t *testing.T) {
		w := &writer{}
		for range 12 {
			w.page()
			w.paragraph(1, 10, 72, 300, "A page of its own.")
		}
		d := read(t, r, w.bytes(), doc.Options{Limits: doc.Limits{MaxPages: 10}})
		assert.Len(t, d.Pages, 10)
		assert.Equal(t, doc.Partial, d.State())
		assert.Contains(t, d.Problems[0].Reason, "12 pages")
	})
	t.Run("text over its limit", func(t *testing.T) {
		w := &writer{}
		for range 3 {
			w.page()
			w.paragraph(1, 10, 72, 300, prose...)
		}
		d := read(t, r, w.bytes(), doc.Options{Limits: doc.Limits{MaxText: 700}})
		assert.Equal(t, doc.Partial, d.State())
		assert.Equal(t, doc.ByNone, d.Pages[2].ReadBy)
	})
}

func deflated(b []byte) []byte {
	var out bytes.Buffer
	z := zlib.NewWriter(&out)
	_, _ = z.Write(b)
	_ = z.Close()
	return out.Bytes()
}

func TestManyPages(t *testing.T) {
	w := &writer{}
	for i := range 300 {
		w.page()
		w.paragraph(1, 10, 72, 300, fmt.Sprintf("This is sheet number %d.", i+1))
	}
	var done []int
	d := read(t, newReader(t, pdf.Config{Workers: 3}), w.bytes(), doc.Options{Progress: func(n, total int) {
		assert.Equal(t, 300, total)
		done = append(done, n)
	}})
	require.Equal(t, doc.Done, d.State())
	require.Len(t, done, 300)
	for i, p := range d.Pages {
		assert.Equal(t, i+1, p.Number)
		assert.Equal(t, i+1, done[i])
		assert.Equal(t, fmt.Sprintf("This is sheet number %d.", i+1), p.Markdown)
	}
}

func TestConcurrentReads(t *testing.T) {
	r := newReader(t, pdf.Config{Workers: 2})
	s := samples()
	data := map[string][]byte{}
	want := map[string]string{}
	for name, w := range s {
		data[name] = w.bytes()
		d := read(t, r, data[name], doc.Options{})
		want[name] = d.Markdown()
	}
	var wg sync.WaitGroup
	for name := range s {
		for range 2 {
			wg.Go(func() {
				d, err := r.Read(context.Background(), bytes.NewReader(data[name]), int64(len(data[name])), doc.Options{})
				if assert.NoError(t, err) {
					assert.Equal(t, want[name], d.Markdown())
				}
			})
		}
	}
	wg.Wait()
}

// TestLabels reads a file whose pages hold nothing but a similar line at the same place.
func TestLabels(t *testing.T) {
	w := &writer{}
	for i := range 8 {
		w.page()
		w.paragraph(1, 10, 72, 300, fmt.Sprintf("Crate number %d of 8", i+1))
	}
	d := read(t, newReader(t, pdf.Config{}), w.bytes(), doc.Options{})
	assert.Contains(t, d.Markdown(), "Crate number 7 of 8")
}

// TestLongDocumentsSideBySide reads documents that each want all instances there are.
func TestLongDocumentsSideBySide(t *testing.T) {
	w := &writer{}
	for range 40 {
		w.page()
		w.paragraph(1, 10, 72, 300, prose...)
	}
	data := w.bytes()
	r := newReader(t, pdf.Config{Workers: 2})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			d, err := r.Read(ctx, bytes.NewReader(data), int64(len(data)), doc.Options{})
			if assert.NoError(t, err) {
				assert.Equal(t, doc.Done, d.State())
			}
		})
	}
	wg.Wait()
}

func TestCancel(t *testing.T) {
	w := &writer{}
	for range 50 {
		w.page()
		w.paragraph(1, 10, 72, 300, prose...)
	}
	ctx, cancel := context.WithCancel(context.Background())
	data := w.bytes()
	r := newReader(t, pdf.Config{})
	_, err := r.Read(ctx, bytes.NewReader(data), int64(len(data)), doc.Options{Progress: func(n, _ int) {
		if n == 3 {
			cancel()
		}
	}})
	assert.ErrorIs(t, err, context.Canceled)
	read(t, r, data, doc.Options{}) // the reader goes on working
}

func FuzzRead(f *testing.F) {
	for _, w := range samples() {
		f.Add(w.bytes())
	}
	f.Add([]byte("%PDF-1.4\ntrailer<</Root 1 0 R>>"))
	r := newReader(f, pdf.Config{})
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := r.Read(context.Background(), bytes.NewReader(data), int64(len(data)), doc.Options{
			Limits: doc.Limits{PageTimeout: 5 * time.Second, MaxPages: 20},
		})
		if err == nil {
			for i, p := range d.Pages {
				assert.Equal(t, i+1, p.Number)
				assert.Equal(t, p.ReadBy == doc.ByNone, p.ReadBy == doc.ByNone && p.Err != "")
			}
		}
	})
}
