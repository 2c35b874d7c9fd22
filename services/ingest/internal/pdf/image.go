package pdf

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"image"
	"image/png"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/ocr"
)

// Recognizer reads text in pictures; *ocr.Engine is one.
type Recognizer interface {
	// Ready says whether it can read at all: an error names what to install.
	Ready() error
	Recognize(ctx context.Context, img image.Image) ([]ocr.Line, error)
}

// imageData is a picture of a page with its bytes.
type imageData struct {
	doc.Image
	data    []byte
	sum     [sha256.Size]byte
	picture *picture
	err     string
}

func newPageReader(in *instance) *pageReader {
	return &pageReader{
		instance: in, fonts: map[uint64]style{}, objects: map[uint64]textObject{},
		tagged: in.callOK(fnCatalogTagged, in.doc),
	}
}

// finish does what needs the loaded page besides its text: recognising text in
// its picture, and taking out pictures.
func (r *pageReader) finish(ctx context.Context, rd *reading, page uint64, s *source, l *layout) (*layout, []imageData) {
	limit := rd.opts.Limits.PageTimeout
	if rd.needsOCR(s) {
		l = r.recognize(ctx, rd, page, s, l)
	}
	var images []imageData
	r.guard(ctx, limit, func() {
		if rd.opts.Images != nil {
			images = r.images(rd, page, l)
		}
		r.call(fnClosePage, page)
	})
	return l, images
}

// images takes the layout's pictures out of the page.
func (r *pageReader) images(rd *reading, page uint64, l *layout) []imageData {
	var out []imageData
	for c := range l.columns {
		for i := range l.columns[c].items {
			p := l.columns[c].items[i].picture
			if p == nil || len(out) >= rd.opts.Limits.MaxImages {
				continue
			}
			d := imageData{picture: p, Image: doc.Image{Page: l.number, Alt: p.alt}}
			r.image(rd, page, p, &d)
			if r.err != nil {
				return nil
			}
			if d.data != nil || d.err != "" {
				d.sum = sha256.Sum256(d.data)
				out = append(out, d)
			}
		}
	}
	return out
}

// needsOCR decides whether the page's text has to be read from its picture.
func (rd *reading) needsOCR(s *source) bool {
	if rd.opts.OCR == doc.OCRAlways {
		return true
	}
	chars, broken, odd, cjk := 0, 0, 0, 0
	for i := range s.words {
		w := &s.words[i]
		if w.artifact || w.turn < 0 {
			continue
		}
		for _, c := range w.text {
			chars++
			if c == utf8.RuneError || unicode.Is(unicode.Co, c) {
				broken++
			}
			switch {
			case isCJK(c):
				cjk++
			case c >= 0x0F00 && c < 0x2000 && (c < 0x1100 || c > 0x11FF):
				odd++
			}
		}
	}
	if chars > 0 && (broken*2 > chars || s.meaningless*50 > chars) {
		return true
	}
	// Letters of scripts that nobody mixes with Chinese: the file's table of
	// characters is wrong, as some printer drivers write it.
	if cjk*3 > chars && odd*100 > chars {
		return true
	}
	covered := 0.0
	for _, p := range s.pictures {
		covered = max(covered, p.box.overlap(box{0, 0, s.width, s.height})/(s.width*s.height))
	}
	if chars == 0 {
		return covered > 0.02 || s.drawn > 20
	}
	// A scan with a stamp or a page number printed on it.
	return chars < 60 && covered > 0.6
}

// Of drawing a page for recognition.
const (
	ocrDPI     = 200
	ocrMaxSide = 4000
)

// recognize reads the page from its picture and returns the layout of that.
func (r *pageReader) recognize(ctx context.Context, rd *reading, page uint64, s *source, l *layout) *layout {
	fail := func(reason string) *layout {
		l.problem = reason
		if len(s.words) == 0 {
			l.readBy = doc.ByNone
		}
		return l
	}
	const what = "the page's text is only in its picture"
	if rd.opts.OCR == doc.OCRNever {
		return fail(what + " and OCR is switched off")
	}
	if rd.ocr == nil {
		return fail(what + " and there is no OCR")
	}
	if err := rd.ocr.Ready(); err != nil {
		return fail(what + ": " + firstLine(err.Error()))
	}
	var img *image.RGBA
	r.guard(ctx, rd.opts.Limits.PageTimeout, func() { img = r.draw(page, s, rd.opts.Limits.MaxPixels) })
	if img == nil {
		return fail(what + " and it cannot be drawn")
	}
	lines, err := rd.ocr.Recognize(ctx, img)
	if err != nil {
		return fail(what + ": OCR: " + firstLine(err.Error()))
	}
	b := img.Bounds()
	words := wordsOf(lines, s.width/float64(b.Dx()), s.height/float64(b.Dy()))
	if len(words) == 0 {
		// A picture without text, or a drawing.
		return l
	}
	pics := slices.DeleteFunc(slices.Clone(s.pictures), func(p picture) bool {
		return p.box.overlap(box{0, 0, s.width, s.height}) > 0.5*s.width*s.height
	})
	out := arrange(&source{number: s.number, width: s.width, height: s.height, words: words, rules: s.rules, pictures: pics})
	out.readBy = doc.ByOCR
	return out
}

// wordsOf makes words of recognised lines; each word's share of its line is by its characters.
func wordsOf(lines []ocr.Line, sx, sy float64) []word {
	var out []word
	for _, l := range lines {
		c := l.Corners
		for i := range c {
			c[i].X *= sx
			c[i].Y *= sy
		}
		h := math.Hypot(c[3].X-c[0].X, c[3].Y-c[0].Y)
		turn := 0
		switch deg := math.Atan2(c[0].Y-c[1].Y, c[1].X-c[0].X) * 180 / math.Pi; {
		case deg > 45 && deg < 135:
			turn = 90
		case deg < -45 && deg > -135:
			turn = 270
		case math.Abs(deg) >= 135:
			turn = 180
		}
		total := float64(utf8.RuneCountInString(l.Text))
		// Boxes are grown by detection; letters fill about two thirds of them.
		size := math.Round(0.72*h*2) / 2
		at := 0.0
		for _, f := range strings.Fields(l.Text) {
			n := float64(utf8.RuneCountInString(f))
			from, to := at/total, (at+n)/total
			at += n + 1
			a := ocr.Point{X: c[0].X + from*(c[1].X-c[0].X), Y: c[0].Y + from*(c[1].Y-c[0].Y)}
			b := ocr.Point{X: c[3].X + to*(c[2].X-c[3].X), Y: c[3].Y + to*(c[2].Y-c[3].Y)}
			bx := box{min(a.X, b.X), min(a.Y, b.Y), max(a.X, b.X), max(a.Y, b.Y)}
			// The line's middle keeps the words of a slanted line on one baseline.
			base := (c[0].Y+c[1].Y+c[2].Y+c[3].Y)/4 + 0.25*h
			if turn == 90 || turn == 270 {
				base = (c[0].X+c[1].X+c[2].X+c[3].X)/4 + 0.25*h
			}
			out = append(out, word{text: f, box: bx, base: base, style: style{font: "ocr", size: size}, turn: turn, mcid: -1})
		}
	}
	levelSizes(out)
	return out
}

// levelSizes gives words of nearly the same height the same size: boxes of
// recognised lines differ with their letters.
func levelSizes(words []word) {
	var sizes weights[float64]
	for i := range words {
		sizes.add(words[i].style.size, utf8.RuneCountInString(words[i].text))
	}
	body := sizes.top()
	for i := range words {
		if s := words[i].style.size; s > 0.75*body && s < 1.3*body {
			words[i].style.size = body
		}
	}
}

// draw paints the page on white; nil if it does not fit the limits.
func (r *pageReader) draw(page uint64, s *source, maxPixels int) *image.RGBA {
	scale := ocrDPI / 72.0
	if m := max(s.width, s.height) * scale; m > ocrMaxSide {
		scale *= ocrMaxSide / m
	}
	w, h := s.width, s.height
	if rw, rh := r.pageSize(page); (rw > rh) != (w > h) {
		// The words were turned, the page is not.
		w, h = h, w
	}
	return r.paint(page, int(w*scale), int(h*scale), maxPixels)
}

func (r *pageReader) pageSize(page uint64) (w, h float64) {
	w = float64(math.Float32frombits(uint32(r.call(fnPageWidth, page))))
	h = float64(math.Float32frombits(uint32(r.call(fnPageHeight, page))))
	return w, h
}

func (r *pageReader) paint(page uint64, w, h, maxPixels int) *image.RGBA {
	if w < 8 || h < 8 || w*h > maxPixels {
		return nil
	}
	bitmap := r.call(fnBitmapCreate, uint64(w), uint64(h), 0)
	if bitmap == 0 {
		return nil
	}
	defer r.call(fnBitmapDestroy, bitmap)
	r.call(fnBitmapFill, bitmap, 0, 0, uint64(w), uint64(h), 0xFFFFFFFF)
	const annotations = 1
	r.call(fnRenderPage, bitmap, page, 0, 0, uint64(w), uint64(h), 0, annotations)
	return r.pixels(bitmap, maxPixels)
}

// pixels copies a bitmap out of the sandbox.
func (r *pageReader) pixels(bitmap uint64, maxPixels int) *image.RGBA {
	w, h := r.callInt(fnBitmapWidth, bitmap), r.callInt(fnBitmapHeight, bitmap)
	stride, format := r.callInt(fnBitmapStride, bitmap), r.callInt(fnBitmapFormat, bitmap)
	if w <= 0 || h <= 0 || stride <= 0 || w*h > maxPixels {
		return nil
	}
	src := r.bytes(uint32(r.call(fnBitmapBuffer, bitmap)), stride*h)
	if len(src) < stride*h {
		return nil
	}
	const gray, bgr, bgrx, bgra, bgraPremul = 1, 2, 3, 4, 5
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		row, dst := src[y*stride:], img.Pix[y*img.Stride:]
		for x := range w {
			d := dst[4*x : 4*x+4]
			switch format {
			case gray:
				d[0], d[1], d[2], d[3] = row[x], row[x], row[x], 255
			case bgr:
				d[0], d[1], d[2], d[3] = row[3*x+2], row[3*x+1], row[3*x], 255
			case bgrx:
				d[0], d[1], d[2], d[3] = row[4*x+2], row[4*x+1], row[4*x], 255
			case bgra:
				// On white: what takes the picture further knows no transparency.
				a := int(row[4*x+3])
				on := func(v byte) byte { return byte((int(v)*a + 255*(255-a)) / 255) }
				d[0], d[1], d[2], d[3] = on(row[4*x+2]), on(row[4*x+1]), on(row[4*x]), 255
			case bgraPremul:
				a := 255 - row[4*x+3]
				d[0], d[1], d[2], d[3] = row[4*x+2]+a, row[4*x+1]+a, row[4*x]+a, 255
			default:
				return nil
			}
		}
	}
	return img
}

// minPixels is the side below which a picture is an ornament.
const minPixels = 16

// image takes a picture out: as the JPEG that it is, else as PNG.
func (r *pageReader) image(rd *reading, page uint64, p *picture, d *imageData) {
	// FPDF_IMAGEOBJ_METADATA: width, height, two resolutions, bits, colour space, mark.
	if !r.callOK(fnImageMeta, p.obj, page, r.outAt(0)) {
		return
	}
	w, h, space := int(r.uint(0)), int(r.uint(4)), r.uint(20)
	if w < minPixels || h < minPixels {
		return
	}
	if w > rd.opts.Limits.MaxPixels/h {
		d.err = fmt.Sprintf("a picture of %d x %d pixels is over the limit of %d", w, h, rd.opts.Limits.MaxPixels)
		return
	}
	const deviceGray, deviceRGB, calGray, calRGB, icc = 1, 2, 4, 5, 7
	upright := false
	if r.callOK(fnObjMatrix, p.obj, r.outAt(0)) {
		upright = r.float(0) > 0 && r.float(12) > 0 && r.float(4) == 0 && r.float(8) == 0
	}
	if upright && (space == deviceGray || space == deviceRGB || space == calGray || space == calRGB || space == icc) &&
		r.callInt(fnImageFilterCount, p.obj) == 1 {
		n := r.callInt(fnImageFilter, p.obj, 0, r.outAt(0), 64)
		if n > 1 && n <= 64 && string(r.bytes(r.out, n-1)) == "DCTDecode" {
			if data := r.raw(p.obj, int(rd.opts.Limits.MaxBytes)); isJPEG(data) {
				d.data, d.MIME, d.Width, d.Height = data, "image/jpeg", w, h
				return
			}
		}
	}
	bitmap := r.call(fnImageRendered, r.doc, page, p.obj)
	if bitmap == 0 {
		return
	}
	defer r.call(fnBitmapDestroy, bitmap)
	img := r.pixels(bitmap, rd.opts.Limits.MaxPixels)
	if img == nil || blank(img) {
		return
	}
	var buf bytes.Buffer
	enc := png.Encoder{CompressionLevel: png.BestSpeed}
	if enc.Encode(&buf, img) != nil {
		return
	}
	d.data, d.MIME = buf.Bytes(), "image/png"
	d.Width, d.Height = img.Rect.Dx(), img.Rect.Dy()
}

func (r *pageReader) raw(obj uint64, limit int) []byte {
	n := r.callInt(fnImageRaw, obj, 0, 0)
	if n <= 0 || n > limit {
		return nil
	}
	p, err := r.impl.Malloc(uint64(n))
	if err != nil {
		return nil
	}
	defer func() { _ = r.impl.Free(p) }()
	r.call(fnImageRaw, obj, p, uint64(n))
	return bytes.Clone(r.bytes(uint32(p), n))
}

// isJPEG reports a JPEG of one or three components: four are CMYK, which few programs read.
func isJPEG(b []byte) bool {
	if len(b) < 4 || b[0] != 0xFF || b[1] != 0xD8 {
		return false
	}
	for i := 2; i+9 < len(b) && b[i] == 0xFF; {
		m := b[i+1]
		if m >= 0xC0 && m <= 0xCF && m != 0xC4 && m != 0xC8 && m != 0xCC {
			return b[i+9] == 1 || b[i+9] == 3
		}
		i += 2 + int(b[i+2])<<8 + int(b[i+3])
	}
	return false
}

// blank reports a picture of one colour.
func blank(img *image.RGBA) bool {
	first := img.Pix[:4]
	for i := 4; i < len(img.Pix); i += 4 {
		if !bytes.Equal(img.Pix[i:i+4], first) {
			return false
		}
	}
	return true
}

// storeImages hands the pictures of a page to the sink, each one once in the document.
func (rd *reading) storeImages(ctx context.Context, t *task) {
	n := 0
	for i := range t.images {
		d := &t.images[i]
		if d.err != "" {
			rd.out.AddProblem(d.Page, d.err)
			continue
		}
		if ref, ok := rd.refs[d.sum]; ok {
			d.picture.mark, d.picture.sum = ref, d.sum
			rd.shown[d.sum]++
			continue
		}
		if len(rd.out.Images) >= rd.opts.Limits.MaxImages {
			if len(rd.out.Images) == rd.opts.Limits.MaxImages && !rd.full {
				rd.full = true
				rd.out.AddProblem(d.Page, fmt.Sprintf("only the first %d pictures were kept (the limit)", rd.opts.Limits.MaxImages))
			}
			return
		}
		n++
		d.Name = fmt.Sprintf("p%d-%d.%s", d.Page, n, strings.TrimPrefix(strings.Replace(d.MIME, "jpeg", "jpg", 1), "image/"))
		ref, err := rd.opts.Images(ctx, d.Image, d.data)
		if err != nil {
			rd.out.AddProblem(d.Page, fmt.Sprintf("picture %s was not stored: %s", d.Name, firstLine(err.Error())))
			continue
		}
		d.Ref = ref
		rd.out.Images = append(rd.out.Images, d.Image)
		rd.refs[d.sum] = ref
		rd.shown[d.sum]++
		d.picture.mark, d.picture.sum = ref, d.sum
	}
	t.images = nil
}
