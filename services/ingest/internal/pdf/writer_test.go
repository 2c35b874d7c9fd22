package pdf_test

import (
	"bytes"
	"fmt"
	"strings"
)

// writer makes small PDF files for tests, with the standard fonts:
// F1 Helvetica, F2 Helvetica-Bold, F3 Courier.
type writer struct {
	pages  []string // content streams
	extra  string   // more entries of the catalog
	annots []string // of each page, by index
	more   []string // further objects
	ofPage string   // more entries of each page
	images [][]byte // raw RGB, 32 x 32, as /I0, /I1, ..
	forms  []string // content of form objects, as /X0, /X1, .., which can draw each other
}

// page begins a page; calls that draw go to the last one.
func (w *writer) page() { w.pages = append(w.pages, "") }

func (w *writer) raw(s string) { w.pages[len(w.pages)-1] += s + "\n" }

// text writes a line with its baseline at y points from the top of the page (792 high).
func (w *writer) text(font int, size, x, y float64, s string) {
	s = strings.NewReplacer(`\`, `\\`, "(", `\(`, ")", `\)`).Replace(s)
	w.raw(fmt.Sprintf("BT /F%d %g Tf 1 0 0 1 %g %g Tm (%s) Tj ET", font, size, x, 792-y, s))
}

// line draws a thin line.
func (w *writer) line(x0, y0, x1, y1 float64) {
	w.raw(fmt.Sprintf("0.5 w %g %g m %g %g l S", x0, 792-y0, x1, 792-y1))
}

// paragraph writes lines one below the other and returns the next baseline.
func (w *writer) paragraph(font int, size, x, y float64, lines ...string) float64 {
	for _, l := range lines {
		w.text(font, size, x, y, l)
		y += size * 1.2
	}
	return y
}

func (w *writer) image(i int, x, y, width, height float64) {
	w.raw(fmt.Sprintf("q %g 0 0 %g %g %g cm /I%d Do Q", width, height, x, 792-y-height, i))
}

// next returns the number of the i-th of the further objects, once all pages and
// pictures are there.
func (w *writer) next(i int) int {
	return 6 + len(w.images) + len(w.forms) + 2*len(w.pages) + i
}

// marked writes a line as marked content of the structure tree.
func (w *writer) marked(id, font int, size, x, y float64, s string) {
	w.raw(fmt.Sprintf("/P << /MCID %d >> BDC", id))
	w.text(font, size, x, y, s)
	w.raw("EMC")
}

func (w *writer) bytes() []byte {
	var b bytes.Buffer
	var offsets []int
	object := func(s string) {
		offsets = append(offsets, b.Len())
		fmt.Fprintf(&b, "%d 0 obj\n%s\nendobj\n", len(offsets), s)
	}
	b.WriteString("%PDF-1.7\n")
	object("<< /Type /Catalog /Pages 2 0 R " + w.extra + ">>")
	first := 6 + len(w.images) + len(w.forms)
	kids := ""
	for i := range w.pages {
		kids += fmt.Sprintf("%d 0 R ", first+2*i)
	}
	object(fmt.Sprintf("<< /Type /Pages /Count %d /Kids [%s] >>", len(w.pages), kids))
	for _, f := range []string{"Helvetica", "Helvetica-Bold", "Courier"} {
		object("<< /Type /Font /Subtype /Type1 /Encoding /WinAnsiEncoding /BaseFont /" + f + " >>")
	}
	xobjects := ""
	for i, img := range w.images {
		xobjects += fmt.Sprintf("/I%d %d 0 R ", i, 6+i)
		object(fmt.Sprintf("<< /Type /XObject /Subtype /Image /Width 32 /Height 32 /BitsPerComponent 8 /ColorSpace /DeviceRGB /Length %d >>\nstream\n%s\nendstream", len(img), img))
	}
	for i := range w.forms {
		xobjects += fmt.Sprintf("/X%d %d 0 R ", i, 6+len(w.images)+i)
	}
	for _, f := range w.forms {
		object(fmt.Sprintf("<< /Type /XObject /Subtype /Form /BBox [0 0 612 792] /Resources << /XObject << %s>> >> /Length %d >>\nstream\n%s\nendstream", xobjects, len(f), f))
	}
	for i, p := range w.pages {
		annots := ""
		if i < len(w.annots) {
			annots = "/Annots [" + w.annots[i] + "] "
		}
		object(fmt.Sprintf("<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] %s%s/Contents %d 0 R /Resources << /Font << /F1 3 0 R /F2 4 0 R /F3 5 0 R >> /XObject << %s>> >> >>", annots, w.ofPage, first+2*i+1, xobjects))
		object(fmt.Sprintf("<< /Length %d >>\nstream\n%s\nendstream", len(p), p))
	}
	for _, o := range w.more {
		object(o)
	}
	xref := b.Len()
	fmt.Fprintf(&b, "xref\n0 %d\n0000000000 65535 f \n", len(offsets)+1)
	for _, o := range offsets {
		fmt.Fprintf(&b, "%010d 00000 n \n", o)
	}
	fmt.Fprintf(&b, "trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n", len(offsets)+1, xref)
	return b.Bytes()
}

// Sentences of 45 to 50 characters, a column of Helvetica 10 wide.
var prose = []string{
	"The harbour office opens at seven each morning",
	"and closes when the last ferry has left. People",
	"who need a permit should bring two photographs",
	"and the form that hangs beside the main door. A",
	"clerk checks the form and stamps it on the same",
	"day unless the register is under revision. Fees",
	"are paid in cash at the second window, where a",
	"receipt is printed without being asked for. The",
	"permit is valid for a year and can be renewed by",
	"letter in the month before it ends, as long as",
	"the holder has kept the rules of the harbour.",
}
