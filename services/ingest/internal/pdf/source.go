package pdf

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// box is a rectangle in points, y downwards from the top of the page as it is shown.
type box struct{ x0, y0, x1, y1 float64 }

func (b box) width() float64  { return b.x1 - b.x0 }
func (b box) height() float64 { return b.y1 - b.y0 }
func (b box) midX() float64   { return (b.x0 + b.x1) / 2 }
func (b box) midY() float64   { return (b.y0 + b.y1) / 2 }

func (b box) union(c box) box {
	return box{min(b.x0, c.x0), min(b.y0, c.y0), max(b.x1, c.x1), max(b.y1, c.y1)}
}

func (b box) contains(x, y float64) bool { return x >= b.x0 && x <= b.x1 && y >= b.y0 && y <= b.y1 }

// overlap returns the area that both cover.
func (b box) overlap(c box) float64 {
	w := min(b.x1, c.x1) - max(b.x0, c.x0)
	h := min(b.y1, c.y1) - max(b.y0, c.y0)
	if w <= 0 || h <= 0 {
		return 0
	}
	return w * h
}

// style is how a word looks.
type style struct {
	font               string
	size               float64
	bold, italic, mono bool
}

// word is a run of characters without a space. Text is in logical order.
type word struct {
	id    int // its place among the words of the page
	text  string
	box   box
	base  float64 // y of the baseline
	style style
	// turn is the direction of the text: 0 upright, 90 reading upwards, 270
	// downwards, 180 upside down, -1 askew.
	turn int
	// link is the address that the word leads to, else "".
	link string
	// mcid is the marked content that the word belongs to, -1 for none.
	mcid     int
	artifact bool
	// heading is the level that the structure tree gives, 0 for none; element
	// and listItem are the paragraph and the item that it puts the word into.
	heading, element, listItem int
	// glued means that no space stands between this word and the one before.
	glued bool
	// hyphen means that the word ends in a hyphen at the end of its line.
	hyphen bool
}

// rule is a straight line or the thin side of a rectangle, horizontal or vertical.
type rule struct {
	box        box
	horizontal bool
}

// picture is an image on the page. obj is valid while the page is loaded.
type picture struct {
	obj  uint64
	box  box
	name string
	mark string // set when the sink took it
	sum  [32]byte
	alt  string
	mcid int
}

// source is all that is read from one page.
type source struct {
	number        int
	width, height float64
	words         []word
	rules         []rule
	fills         []box // filled areas that may shade table cells
	pictures      []picture
	tagged        []*taggedTable
	// meaningless counts characters whose meaning the file does not tell.
	meaningless int
	// drawn counts vector objects: a page without words but with many is a drawing.
	drawn int
}

// Limits within one page; beyond them what is left is not looked at.
const (
	maxObjects   = 30_000
	maxFormDepth = 6
	maxSegments  = 2_000
	maxPageChars = 2_000_000
	maxPageRules = 8_000
	maxLinks     = 2_000
	objText      = 1
	objPath      = 2
	objImage     = 3
	objShading   = 4
	objForm      = 5
	segLine      = 0
	segBezier    = 1
	segMove      = 2
)

// pageReader reads pages of one instance and remembers what fonts are.
type pageReader struct {
	*instance
	fonts map[uint64]style
	// objects holds what is known of the page's text objects.
	objects map[uint64]textObject
	// artifacts is whether marks are looked at: only tagged files have them.
	tagged bool
}

// textObject is what all characters of one text object share.
type textObject struct {
	style    style
	base     float64 // baseline in page coordinates, along the text's own axis
	turn     int
	mcid     int
	artifact bool
}

// frame maps user space to the page as shown.
type frame struct {
	x0, y0, x1, y1 float64 // the visible box in user space
	rotation       int     // quarter turns clockwise
}

func (f frame) size() (w, h float64) {
	w, h = f.x1-f.x0, f.y1-f.y0
	if f.rotation%2 == 1 {
		return h, w
	}
	return w, h
}

func (f frame) point(x, y float64) (float64, float64) {
	switch f.rotation {
	case 1:
		return y - f.y0, x - f.x0
	case 2:
		return f.x1 - x, y - f.y0
	case 3:
		return f.y1 - y, f.x1 - x
	default:
		return x - f.x0, f.y1 - y
	}
}

func (f frame) box(x0, y0, x1, y1 float64) box {
	ax, ay := f.point(x0, y0)
	bx, by := f.point(x1, y1)
	return box{min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)}
}

// direction returns the turn of text whose x axis points along (a, b) in user space.
func (f frame) direction(a, b float64) int {
	if a == 0 && b == 0 {
		return 0
	}
	deg := math.Atan2(b, a)*180/math.Pi - float64(f.rotation)*90
	deg = math.Mod(deg+720, 360)
	near := math.Round(deg / 90)
	if math.Abs(deg-near*90) > 3 {
		return -1
	}
	return int(near) % 4 * 90
}

// load opens a page. What is filled into its form and written on it becomes a
// part of its content: the text of annotations is not among the page's otherwise.
func (r *pageReader) load(index int) (page uint64, links []link) {
	page = r.call(fnLoadPage, r.doc, uint64(index))
	if page == 0 {
		return 0, nil
	}
	links = r.links(page)
	if !r.writtenOn(page) {
		return page, links
	}
	const forDisplay, success = 0, 1
	if r.callInt(fnFlatten, page, forDisplay) == success {
		r.call(fnClosePage, page)
		page = r.call(fnLoadPage, r.doc, uint64(index))
	}
	return page, links
}

// writtenOn reports whether the page has fields or text typed onto it. Stamps
// and marks are left where they are: they lie over text.
func (r *pageReader) writtenOn(page uint64) bool {
	const freeText, widget = 3, 20
	n := min(r.callInt(fnAnnotCount, page), maxLinks)
	for i := 0; i < n && r.err == nil; i++ {
		a := r.call(fnAnnotGet, page, uint64(i))
		if a == 0 {
			continue
		}
		kind := r.callInt(fnAnnotType, a)
		r.call(fnAnnotClose, a)
		if kind == freeText || kind == widget {
			return true
		}
	}
	return false
}

// read reads the loaded page.
func (r *pageReader) read(page uint64, number int, links []link) *source {
	// Fonts too: pdfium frees those that no open page uses.
	clear(r.objects)
	clear(r.fonts)
	s := &source{number: number}
	f := frame{rotation: r.callInt(fnPageRotation, page) & 3}
	// FS_RECTF is left, top, right, bottom.
	if r.callOK(fnPageBox, page, r.outAt(0)) {
		f.x0, f.y1, f.x1, f.y0 = r.float(0), r.float(4), r.float(8), r.float(12)
		if f.y0 > f.y1 {
			f.y0, f.y1 = f.y1, f.y0
		}
	}
	s.width, s.height = f.size()
	if !(s.width > 0 && s.height > 0) {
		f.x0, f.y0, f.x1, f.y1 = 0, 0, 612, 792
		s.width, s.height = f.size()
	}
	r.readText(page, f, s)
	s.addLinks(links, f)
	r.readObjects(page, f, s)
	r.readTree(page).apply(s)
	return s
}

func (r *pageReader) readText(page uint64, f frame, s *source) {
	tp := r.call(fnTextLoad, page)
	if tp == 0 {
		return
	}
	defer r.call(fnTextClose, tp)
	n := r.callInt(fnTextCount, tp)
	if n <= 0 {
		return
	}
	n = min(n, maxPageChars)
	chars := r.chars(tp, n)
	s.meaningless = r.repair(tp, chars)
	b := wordBuilder{pageReader: r, tp: tp, f: f, s: s, chars: chars}
	for i := 0; i < n && r.err == nil; {
		if isBreak(chars[i]) {
			b.space = b.space || chars[i] == ' '
			b.newline = b.newline || chars[i] == '\n' || chars[i] == '\r'
			i++
			continue
		}
		j := i + 1
		for j < n && !isBreak(chars[j]) {
			j++
		}
		b.run(i, j)
		b.space, b.newline = false, false
		i = j
	}
}

// isBreak reports characters that end a word: spaces and controls, but not
// the marks that pdfium sets for a hyphen at the end of a line.
func isBreak(c rune) bool {
	return c != softHyphen && c != 0xFFFE && (c <= ' ' || c == 0xA0 || unicode.IsSpace(c))
}

// softHyphen is what pdfium puts for a hyphen at the end of a line.
const softHyphen = 2

// chars returns the page's characters, one rune for each index of pdfium.
func (r *pageReader) chars(tp uint64, n int) []rune {
	out := make([]rune, n)
	// One call for all, right when each index holds one UTF-16 unit.
	buf, err := r.impl.Malloc(uint64(n+1) * 2)
	if err != nil {
		r.fail(err)
		return out
	}
	defer func() { _ = r.impl.Free(buf) }()
	got := r.callInt(fnTextGet, tp, 0, uint64(n), buf)
	if got-1 == n {
		b := r.bytes(uint32(buf), n*2)
		plain := len(b) == n*2
		for i := 0; plain && i < n; i++ {
			u := rune(b[2*i]) | rune(b[2*i+1])<<8
			plain = u < 0xD800 || u > 0xDFFF
			out[i] = u
		}
		if plain {
			return out
		}
	}
	for i := 0; i < n && r.err == nil; i++ {
		out[i] = rune(r.callInt(fnTextUnicode, tp, uint64(i)))
	}
	return out
}

// wordBuilder turns runs of characters into words.
type wordBuilder struct {
	*pageReader
	tp             uint64
	f              frame
	s              *source
	chars          []rune
	space, newline bool
}

// run adds the characters [i, j): one word, or several if its look changes within.
func (b *wordBuilder) run(i, j int) {
	first := b.object(i)
	if j-i > 1 && b.objectID(j-1) != b.objectID(i) && b.object(j-1) != first {
		// Split where the text object changes to another look.
		glued := false
		start, cur := i, first
		for k := i + 1; k < j; k++ {
			if o := b.object(k); o != cur {
				b.add(start, k, cur, glued)
				start, cur, glued = k, o, true
			}
		}
		b.add(start, j, cur, glued)
		return
	}
	b.add(i, j, first, false)
}

// wideGap is the space between two characters, in sizes of the font, that parts
// words though pdfium sees none: cells of a row drawn in one go.
const wideGap = 1.0

// add adds the characters [i, j) of one look.
func (b *wordBuilder) add(i, j int, o textObject, glued bool) {
	first := b.charBox(i)
	bx := first
	if j-i > 1 {
		bx = bx.union(b.charBox(j - 1))
	}
	if long := max(bx.width(), bx.height()); j-i > 1 && o.turn >= 0 && long > (float64(j-i)+0.5*wideGap)*o.style.size {
		for k, prev := i+1, first; k < j; k++ {
			next := b.charBox(k)
			if apart(prev, next) > wideGap*o.style.size {
				b.word(i, k, prev.union(first), o, glued)
				i, first, glued = k, next, false
			}
			prev = next
		}
		bx = first.union(b.charBox(j - 1))
	}
	b.word(i, j, bx, o, glued)
}

// apart is the space between two boxes along the axis where it is larger.
func apart(a, b box) float64 {
	return max(b.x0-a.x1, a.x0-b.x1, b.y0-a.y1, a.y0-b.y1)
}

// word adds the characters [i, j) as one word.
func (b *wordBuilder) word(i, j int, bx box, o textObject, glued bool) {
	chars := b.chars[i:j]
	if slices.ContainsFunc(chars, isRTL) {
		chars = b.visual(i, j)
	}
	text, hyphen := wordText(chars)
	if text == "" {
		return
	}
	if n := strings.ToLower(o.style.font); len(text) == 1 && (strings.Contains(n, "dings") || n == "symbol" && text == "·") {
		text = dingbat(text)
	}
	w := word{
		text: text, box: bx, base: o.base, style: o.style, turn: o.turn,
		mcid: o.mcid, artifact: o.artifact, glued: glued && !b.newline, hyphen: hyphen,
	}
	if w.base == 0 {
		w.base = bx.y1 - 0.2*bx.height()
	}
	b.s.words = append(b.s.words, w)
}

// visual returns the characters [i, j) of a word with right-to-left letters in
// logical order by their places. pdfium gets neutral signs at the ends of
// words and the parts of ligatures the wrong way round.
func (b *wordBuilder) visual(i, j int) []rune {
	if j-i > 200 {
		return b.chars[i:j]
	}
	type glyph struct {
		c rune
		x float64
	}
	gs := make([]glyph, 0, j-i)
	for k := i; k < j; k++ {
		gs = append(gs, glyph{b.chars[k], b.charBox(k).midX()})
	}
	// One glyph may hold several letters: its parts come in reverse.
	for k := 0; k < len(gs); {
		e := k + 1
		for e < len(gs) && math.Abs(gs[e].x-gs[k].x) < 0.01 && !unicode.Is(unicode.Mn, gs[e].c) && !unicode.Is(unicode.Mn, gs[k].c) {
			e++
		}
		slices.Reverse(gs[k:e])
		k = e
	}
	slices.SortStableFunc(gs, func(a, b glyph) int {
		if math.Abs(a.x-b.x) < 0.01 {
			return 0
		}
		return -cmp.Compare(a.x, b.x)
	})
	out := make([]rune, len(gs))
	for k := range gs {
		out[k] = gs[k].c
	}
	// Runs of Latin letters and digits go from left to right.
	ltr := func(c rune) bool { return unicode.IsDigit(c) || unicode.IsLetter(c) && !isRTL(c) }
	for k := 0; k < len(out); {
		if !ltr(out[k]) {
			k++
			continue
		}
		e := k + 1
		for e < len(out) && (ltr(out[e]) || e+1 < len(out) && strings.ContainsRune(".,:/-", out[e]) && ltr(out[e+1])) {
			e++
		}
		slices.Reverse(out[k:e])
		k = e
	}
	return out
}

func (b *wordBuilder) charBox(i int) box {
	if !b.callOK(fnTextLooseBox, b.tp, uint64(i), b.outAt(0)) {
		return box{}
	}
	// FS_RECTF is left, top, right, bottom.
	return b.f.box(b.float(0), b.float(12), b.float(8), b.float(4))
}

func (b *wordBuilder) objectID(i int) uint64 { return b.call(fnTextObject, b.tp, uint64(i)) }

// object returns what is known of the text object of character i.
func (b *wordBuilder) object(i int) textObject {
	id := b.objectID(i)
	if o, ok := b.objects[id]; ok && id != 0 {
		return o
	}
	o := textObject{mcid: -1, style: style{size: 10}}
	a, bb, c, d := 1.0, 0.0, 0.0, 1.0
	if b.callOK(fnTextMatrix, b.tp, uint64(i), b.outAt(0)) {
		a, bb, c, d = b.float(0), b.float(4), b.float(8), b.float(12)
		x, y := b.f.point(b.float(16), b.float(20))
		o.turn = b.f.direction(a, bb)
		if o.turn == 90 || o.turn == 270 {
			o.base = x
		} else {
			o.base = y
		}
	}
	size := b.fontSize(i) * math.Hypot(c, d)
	if id != 0 {
		if font := b.call(fnTextObjFont, id); font != 0 {
			o.style = b.font(font)
		}
		if b.tagged {
			o.mcid = b.callInt(fnObjMCID, id)
			o.artifact = b.isArtifact(id)
		}
	}
	o.style.size = math.Round(math.Abs(size)*10) / 10
	if id != 0 {
		b.objects[id] = o
	}
	return o
}

func (b *wordBuilder) fontSize(i int) float64 {
	return math.Float64frombits(b.call(fnTextFontSize, b.tp, uint64(i)))
}

func (r *pageReader) isArtifact(obj uint64) bool {
	n := min(r.callInt(fnObjMarkCount, obj), 16)
	for i := range n {
		mark := r.call(fnObjMark, obj, uint64(i))
		if mark == 0 {
			continue
		}
		// The name comes as (mark, buffer, size, *length).
		if !r.callOK(fnMarkName, mark, r.outAt(8), 128, r.outAt(0)) {
			continue
		}
		if n := int(r.uint(0)); n > 2 && n <= 128 && utf16le(r.bytes(r.out+8, n-2)) == "Artifact" {
			return true
		}
	}
	return false
}

// font returns the style of a font, without a size.
func (r *pageReader) font(font uint64) style {
	if st, ok := r.fonts[font]; ok {
		return st
	}
	var st style
	if n := r.callInt(fnFontName, font, r.outAt(0), outSize); n > 1 && n <= outSize {
		st.font = strings.Clone(string(r.bytes(r.out, n-1)))
	}
	// Subsets carry a tag of six letters: ABCDEF+Name.
	if len(st.font) > 7 && st.font[6] == '+' {
		st.font = st.font[7:]
	}
	if !utf8.ValidString(st.font) {
		st.font = strings.ToValidUTF8(st.font, "")
	}
	const fixedPitch, italic, forceBold = 1 << 0, 1 << 6, 1 << 18
	flags := r.callInt(fnFontFlags, font)
	weight := r.callInt(fnFontWeight, font)
	name := strings.ToLower(st.font)
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(name, p) {
				return true
			}
		}
		return false
	}
	st.bold = flags > 0 && flags&forceBold != 0 || weight >= 600 && weight <= 1000 ||
		has("bold", "black", "heavy", "demi", "medi", "cmbx", "sfbx", "-md")
	st.italic = flags > 0 && flags&italic != 0 || has("italic", "oblique", "cmti", "slant", "ital")
	st.mono = flags > 0 && flags&fixedPitch != 0 || has("mono", "courier", "consol", "cmtt", "menlo", "typewriter", "sftt", "inconsolata")
	r.fonts[font] = st
	return st
}

// wordText makes the text of a word, and says whether it ends in a hyphen
// that pdfium saw at the end of its line.
func wordText(chars []rune) (text string, hyphen bool) {
	var b strings.Builder
	for k, c := range chars {
		switch {
		case c == softHyphen || c == 0xFFFE:
			b.WriteByte('-')
			hyphen = k == len(chars)-1
		case c == 0xAD:
			if k == len(chars)-1 {
				b.WriteByte('-')
				hyphen = true
			}
		case c < ' ' || c == 0x7F || c == 0xFFFF || c == 0xFEFF || c == 0x200B || c >= 0xD800 && c <= 0xDFFF || c > unicode.MaxRune:
		case c == 0x2010 || c == 0x2011:
			// Hyphens by another name; at a line's end they split words too.
			b.WriteByte('-')
		case c >= 0xFB00 && c <= 0xFB06:
			b.WriteString(ligatures[c-0xFB00])
		case c >= 0xE000 && c <= 0xF8FF:
			// Private use: only the bullets of symbol fonts have a known look.
			if s := privateUse(c); s != 0 {
				b.WriteRune(s)
			}
		default:
			b.WriteRune(c)
		}
	}
	return b.String(), hyphen
}

var ligatures = [...]string{"ff", "fi", "fl", "ffi", "ffl", "st", "st"}

// privateUse maps what Symbol and Wingdings put where Unicode has nothing.
func privateUse(c rune) rune {
	switch c {
	case 0xF0B7, 0xF0A7, 0xF0D8, 0xF0FC, 0xF076, 0xF0A8, 0xF06C, 0xF06E, 0xF071, 0xF0E8, 0xF09F, 0xF0DA, 0xF0B2:
		return '•'
	case 0xF02D:
		return '-'
	case 0xF0E0:
		return '→'
	}
	return 0
}

// dingbat maps the letters that Wingdings draws as bullets and arrows.
func dingbat(s string) string {
	switch s[0] {
	case 'l', 'm', 'n', 'o', 'p', 'q', 'r', 's', 't', 'u', 'v', 'w', 'x', 'z', 'y':
		return "•"
	}
	return s
}

// link is an area, in user space, that leads to an address.
type link struct {
	x0, y0, x1, y1 float64
	uri            string
}

// links returns the page's links to web addresses.
func (r *pageReader) links(page uint64) []link {
	var links []link
	r.mem.WriteUint32Le(r.out, 0)
	for range maxLinks {
		if r.err != nil || !r.callOK(fnLinkEnumerate, page, r.outAt(0), r.outAt(4)) {
			break
		}
		l := uint64(r.uint(4))
		action := r.call(fnLinkAction, l)
		const uriAction = 3
		if action == 0 || r.callInt(fnActionType, action) != uriAction {
			continue
		}
		// Two offsets apart: the enumeration position stays at out[0].
		if !r.callOK(fnLinkRect, l, r.outAt(8)) {
			continue
		}
		found := link{x0: r.float(8), y0: r.float(20), x1: r.float(16), y1: r.float(12)}
		n := r.callInt(fnActionURI, r.doc, action, r.outAt(64), outSize-64)
		if n <= 1 || n > outSize-64 {
			continue
		}
		found.uri = strings.ToValidUTF8(string(r.bytes(r.out+64, n-1)), "")
		if webAddress(found.uri) {
			links = append(links, found)
		}
	}
	return links
}

// addLinks gives the words their web addresses.
func (s *source) addLinks(links []link, f frame) {
	for _, l := range links {
		b := f.box(l.x0, l.y0, l.x1, l.y1)
		if b.width() <= 0 || b.width() > 0.9*s.width && b.height() > 0.5*s.height {
			continue
		}
		for i := range s.words {
			if w := &s.words[i]; w.link == "" && b.contains(w.box.midX(), w.box.midY()) {
				w.link = l.uri
			}
		}
	}
}

func webAddress(s string) bool {
	l := strings.ToLower(s)
	return (strings.HasPrefix(l, "http://") || strings.HasPrefix(l, "https://") || strings.HasPrefix(l, "mailto:")) &&
		!strings.ContainsAny(s, " \t\r\n<>")
}

// matrix maps a form's space to that of its page.
type matrix struct{ a, b, c, d, e, f float64 }

func (m matrix) point(x, y float64) (float64, float64) {
	return m.a*x + m.c*y + m.e, m.b*x + m.d*y + m.f
}

// then returns the matrix that maps by m first and by n after it.
func (m matrix) then(n matrix) matrix {
	return matrix{
		a: m.a*n.a + m.b*n.c, b: m.a*n.b + m.b*n.d,
		c: m.c*n.a + m.d*n.c, d: m.c*n.b + m.d*n.d,
		e: m.e*n.a + m.f*n.c + n.e, f: m.e*n.b + m.f*n.d + n.f,
	}
}

func (m matrix) frameBox(f frame, x0, y0, x1, y1 float64) box {
	ax, ay := m.point(x0, y0)
	bx, by := m.point(x1, y1)
	out := f.box(min(ax, bx), min(ay, by), max(ax, bx), max(ay, by))
	if m.b != 0 || m.c != 0 {
		cx, cy := m.point(x0, y1)
		dx, dy := m.point(x1, y0)
		out = out.union(f.box(min(cx, dx), min(cy, dy), max(cx, dx), max(cy, dy)))
	}
	return out
}

func (r *pageReader) readObjects(page uint64, f frame, s *source) {
	left := maxObjects
	n := r.callInt(fnObjCount, page)
	for i := 0; i < n && left > 0 && r.err == nil; i++ {
		r.object(r.call(fnObjGet, page, uint64(i)), f, matrix{a: 1, d: 1}, s, 0, &left)
	}
}

func (r *pageReader) object(obj uint64, f frame, m matrix, s *source, depth int, left *int) {
	*left--
	if obj == 0 {
		return
	}
	if _, ok := r.objects[obj]; ok {
		return // text, seen already
	}
	switch r.callInt(fnObjType, obj) {
	case objPath:
		s.drawn++
		r.path(obj, f, m, s)
	case objImage:
		if b, ok := r.bounds(obj, f, m); ok {
			mcid := -1
			if r.tagged {
				mcid = r.callInt(fnObjMCID, obj)
			}
			s.pictures = append(s.pictures, picture{obj: obj, box: b, mcid: mcid})
		}
	case objForm:
		if depth >= maxFormDepth {
			return
		}
		own := matrix{a: 1, d: 1}
		if r.callOK(fnObjMatrix, obj, r.outAt(0)) {
			own = matrix{r.float(0), r.float(4), r.float(8), r.float(12), r.float(16), r.float(20)}
		}
		m = own.then(m)
		n := r.callInt(fnFormCount, obj)
		for i := 0; i < n && *left > 0 && r.err == nil; i++ {
			r.object(r.call(fnFormGet, obj, uint64(i)), f, m, s, depth+1, left)
		}
	}
}

func (r *pageReader) bounds(obj uint64, f frame, m matrix) (box, bool) {
	// left, bottom, right, top
	if !r.callOK(fnObjBounds, obj, r.outAt(0), r.outAt(4), r.outAt(8), r.outAt(12)) {
		return box{}, false
	}
	b := m.frameBox(f, r.float(0), r.float(4), r.float(8), r.float(12))
	ok := b.width() >= 0 && b.height() >= 0 && !math.IsInf(b.width()+b.height(), 0) && !math.IsNaN(b.width()+b.height())
	return b, ok
}

// ruleWidth is the greatest thickness of a line between table cells, in points.
const ruleWidth = 3

func (r *pageReader) path(obj uint64, f frame, m matrix, s *source) {
	b, ok := r.bounds(obj, f, m)
	if !ok || len(s.rules) >= maxPageRules {
		return
	}
	if !r.callOK(fnPathMode, obj, r.outAt(0), r.outAt(4)) {
		return
	}
	filled, stroked := r.uint(0) != 0, r.uint(4) != 0
	if !filled && !stroked {
		return
	}
	if s.addThin(b) {
		return
	}
	n := min(r.callInt(fnPathCount, obj), maxSegments)
	if n == 2 && stroked && !filled {
		// One line: its bounds are twice as thick as it is drawn.
		if b.width() > b.height() {
			b.y0, b.y1 = b.y0+b.height()/4, b.y1-b.height()/4
		} else {
			b.x0, b.x1 = b.x0+b.width()/4, b.x1-b.width()/4
		}
		if s.addThin(b) {
			return
		}
	}
	if n < 2 || b.width() < 4 || b.height() < 4 {
		return
	}
	own := matrix{a: 1, d: 1}
	if r.callOK(fnObjMatrix, obj, r.outAt(0)) {
		own = matrix{r.float(0), r.float(4), r.float(8), r.float(12), r.float(16), r.float(20)}
	}
	m = own.then(m)
	var px, py, sx, sy float64
	var sub []box // straight sides of the subpath
	curved := false
	flush := func() {
		if !curved && len(sub) > 0 {
			if stroked {
				for _, e := range sub {
					s.addThin(e)
				}
			} else {
				// A filled thin rectangle is a line, a wide one is a shade.
				u := sub[0]
				for _, e := range sub[1:] {
					u = u.union(e)
				}
				if !s.addThin(u) && len(sub) <= 5 && len(s.fills) < maxPageRules {
					s.fills = append(s.fills, u)
				}
			}
		}
		sub, curved = sub[:0], false
	}
	for i := 0; i < n && r.err == nil; i++ {
		seg := r.call(fnPathSegment, obj, uint64(i))
		if seg == 0 || !r.callOK(fnSegPoint, seg, r.outAt(0), r.outAt(4)) {
			continue
		}
		x, y := m.point(r.float(0), r.float(4))
		switch r.callInt(fnSegType, seg) {
		case segMove:
			flush()
			sx, sy = x, y
		case segLine:
			sub = append(sub, f.box(px, py, x, y))
		case segBezier:
			curved = true
		}
		px, py = x, y
		if r.callOK(fnSegClose, seg) && (px != sx || py != sy) {
			sub = append(sub, f.box(px, py, sx, sy))
			px, py = sx, sy
		}
	}
	flush()
}

// addThin adds b as a rule if it is thin and long enough for one.
func (s *source) addThin(b box) bool {
	w, h := b.width(), b.height()
	if len(s.rules) >= maxPageRules {
		return false
	}
	switch {
	case h <= ruleWidth && w >= 4 && w > 2*h:
		s.rules = append(s.rules, rule{b, true})
	case w <= ruleWidth && h >= 4 && h > 2*w:
		s.rules = append(s.rules, rule{b, false})
	default:
		return false
	}
	return true
}
