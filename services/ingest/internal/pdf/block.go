package pdf

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/clara-suite/clara/services/ingest/internal/doc"
)

type blockKind int

const (
	paragraph blockKind = iota
	heading
	listItem
	code
	tableBlock
	pictureBlock
)

// block is a piece of the document as a reader sees it.
type block struct {
	kind    blockKind
	lines   []*line
	box     box
	style   style
	bold    bool
	level   int    // of a heading, from 1; of a list item, from 0
	marker  string // of a list item: "-" or "3."
	table   *table
	picture *picture
	page    int
	column  int
	// note is the number of a footnote, "" for other blocks.
	note string
	// notes are the footnotes of the page.
	notes map[string]bool
	// known are the words of the document that no line end splits.
	known map[string]bool
}

var (
	bulletMarker = regexp.MustCompile(`^([•‣▪◦●○■□◆◇➢➤✓✔❖▸►∙⁃·*–—-]|o)[ \x{00A0}]+\S`)
	lonelyBullet = regexp.MustCompile(`^[•‣▪◦●○■□◆◇➢➤✓✔❖▸►∙⁃·]\S`)
	numberMarker = regexp.MustCompile(`^(\(?(\d{1,3}|[a-zA-Z]|[ivxIVX]{1,5})[.)]|\[\d{1,3}\]|\d{1,2}、|（[一二三四五六七八九十]{1,3}）|[一二三四五六七八九十]{1,3}、)[ \x{00A0}]*`)
	numbered     = regexp.MustCompile(`^((\d{1,2}(\.\d{1,2}){0,4})\.?|[A-H](\.\d{1,2}){1,4}|[IVX]{1,5}\.|(Chapter|CHAPTER|Section|Appendix|APPENDIX) [A-Z0-9]{1,3}[.:]?)\s+\S`)
	captionStart = regexp.MustCompile(`^(Fig\.|Figure|FIGURE|Table|TABLE|Tab\.|Listing|Algorithm|图|表|圖)\s*\d+`)
)

// blocks cuts the columns of a page into blocks.
func blocks(p *layout) []block {
	var out []block
	for ci := range p.columns {
		c := &p.columns[ci]
		var run []*line
		flush := func() {
			out = append(out, textBlocks(run, p.number, ci)...)
			run = nil
		}
		for i := range c.items {
			it := &c.items[i]
			switch {
			case it.line != nil:
				run = append(run, it.line)
			case it.table != nil:
				flush()
				out = append(out, block{kind: tableBlock, table: it.table, box: it.box, page: p.number, column: ci})
			default:
				flush()
				out = append(out, block{kind: pictureBlock, picture: it.picture, box: it.box, page: p.number, column: ci})
			}
		}
		flush()
	}
	out = joinColumns(out)
	markNotes(out, p.height)
	return out
}

var noteStart = regexp.MustCompile(`^\d{1,3}$`)

// markNotes finds the footnotes of a page: small text in its lower part that
// begins with a raised number which also stands in the text above.
func markNotes(bs []block, height float64) {
	raised := map[string]int{}
	for i := range bs {
		for _, l := range bs[i].lines {
			for _, s := range l.spans {
				if s.raised {
					raised[strings.TrimSpace(s.text)]++
				}
			}
		}
	}
	notes := map[string]bool{}
	for i := range bs {
		b := &bs[i]
		if b.kind != paragraph || len(b.lines) == 0 || b.box.y0 < 0.4*height {
			continue
		}
		first := &b.lines[0].spans[0]
		n := strings.TrimSpace(first.text)
		if first.raised && len(b.lines[0].spans) > 1 && noteStart.MatchString(n) && raised[n] >= 2 && !notes[n] {
			b.note = n
			notes[n] = true
		}
	}
	if len(notes) == 0 {
		return
	}
	for i := range bs {
		bs[i].notes = notes
	}
}

// textBlocks cuts lines that follow each other into paragraphs and list items.
func textBlocks(lines []*line, page, col int) []block {
	if len(lines) == 0 {
		return nil
	}
	left, right := lines[0].box.x0, lines[0].box.x1
	var pitches []float64
	for i, l := range lines {
		left, right = min(left, l.box.x0), max(right, l.box.x1)
		if i > 0 && sameSize(l.style.size, lines[i-1].style.size) {
			pitches = append(pitches, (l.base-lines[i-1].base)/max(l.style.size, 1))
		}
	}
	pitch := median(pitches)
	if pitch < 0.9 || pitch > 2.2 {
		pitch = 1.2
	}
	tagged := trustsElements(lines)
	var out []block
	var cur *block
	for i, l := range lines {
		m := markerOf(l)
		begins := cur == nil
		if !begins {
			switch same := l.element == lines[i-1].element; {
			case tagged && l.listItem != 0 && l.listItem != lines[i-1].listItem:
				begins = true
			case tagged && l.element != 0 && lines[i-1].element != 0 && !same:
				begins = true
			case tagged && l.element != 0 && same && m == "" && joinsInElement(lines[i-1], l):
			default:
				begins = startsBlock(cur, lines, i, left, right, pitch, m)
			}
		}
		if begins {
			out = append(out, block{box: l.box, style: l.style, bold: l.bold, page: page, column: col})
			cur = &out[len(out)-1]
			item := tagged && l.listItem != 0 && (i == 0 || l.listItem != lines[i-1].listItem)
			if m != "" && (isBullet(m) || item || sequential(out, m) || aloneEnough(lines, i)) {
				cur.kind = listItem
				cur.marker = m
			}
		}
		cur.lines = append(cur.lines, l)
		cur.box = cur.box.union(l.box)
		cur.bold = cur.bold && l.bold
	}
	for i := range out {
		if b := &out[i]; b.kind == paragraph && isCode(b) {
			b.kind = code
		}
	}
	return contents(mergeCode(out))
}

// pageNumber is how contents name a page.
var pageNumber = regexp.MustCompile(`^(\d{1,4}|[ivxlc]{1,7}|[A-Z]{1,2}-?\d{1,3})$`)

// minContents is how many entries in a row make a table of contents.
const minContents = 3

// contents makes tables of the entries of contents: their titles and pages.
func contents(bs []block) []block {
	out := bs[:0]
	for i := 0; i < len(bs); {
		var rows [][]string
		var lines []*line // they still tell of the document's typography
		area := bs[i].box
		j := i
		for ; j < len(bs); j++ {
			b := &bs[j]
			if b.kind != paragraph && b.kind != listItem || !b.lines[len(b.lines)-1].leader {
				break
			}
			title, page := b.joined(doc.EscapeInline), ""
			if k := strings.LastIndexByte(title, ' '); k > 0 && pageNumber.MatchString(title[k+1:]) {
				title, page = title[:k], title[k+1:]
			}
			rows, lines = append(rows, []string{title, page}), append(lines, b.lines...)
			area = area.union(b.box)
		}
		if len(rows) < minContents {
			out = append(out, bs[i:max(j, i+1)]...)
			i = max(j, i+1)
			continue
		}
		out = append(out, block{kind: tableBlock, table: &table{box: area, rows: rows}, lines: lines, box: area, page: bs[i].page, column: bs[i].column})
		i = j
	}
	return out
}

// trustsElements reports whether the structure tree's paragraphs are ones:
// some programs make one of each line.
func trustsElements(lines []*line) bool {
	changes, within := 0, 0
	for i := 1; i < len(lines); i++ {
		a, b := lines[i-1], lines[i]
		if a.element == 0 || b.element == 0 || a.element == b.element {
			continue
		}
		changes++
		if c, _ := utf8.DecodeRuneInString(b.text()); (unicode.IsLower(c) || a.hyphen) && !endsSentence(a) && a.listItem == b.listItem {
			within++
		}
	}
	return within*5 <= changes
}

// joinsInElement reports whether two lines of one element of the structure
// tree can be one paragraph.
func joinsInElement(a, b *line) bool {
	step := b.base - a.base
	return sameSize(a.style.size, b.style.size) && a.heading == b.heading && a.mono == b.mono && !a.leader &&
		step > 0.2*b.style.size && step < 2.2*b.style.size
}

func sameSize(a, b float64) bool { return a > 0.93*b && b > 0.93*a }

// startsBlock decides whether line i begins a new block after cur.
func startsBlock(cur *block, lines []*line, i int, left, right, pitch float64, marker string) bool {
	l, prev := lines[i], lines[i-1]
	size := max(l.style.size, prev.style.size)
	if l.heading != prev.heading || prev.leader {
		return true
	}
	if isCode(cur) && l.mono && l.base-prev.base < 2.1*size {
		return false
	}
	step := l.base - prev.base
	if step > (pitch+0.35)*size || step < 0.2*size {
		return true
	}
	if !sameSize(l.style.size, prev.style.size) {
		return true
	}
	if len(l.spans) > 1 && l.spans[0].raised && noteStart.MatchString(strings.TrimSpace(l.spans[0].text)) {
		// Footnotes, one below the other: elsewhere the mark stands behind a word.
		return true
	}
	if l.bold != prev.bold && (l.bold || cur.bold) {
		// A line in bold under one that isn't, or the first plain line after a bold head.
		if hasLetter(l.text()) && hasLetter(prev.text()) && !(cur.bold && !endsShort(prev, right, l)) {
			return true
		}
	}
	if l.mono != prev.mono && hasLetter(l.text()) && hasLetter(prev.text()) {
		return true
	}
	indent := l.box.x0 - prev.box.x0
	if l.rtl {
		indent = prev.box.x1 - l.box.x1
	}
	em := l.style.size
	if marker != "" {
		if isBullet(marker) {
			return true
		}
		if cur.kind == listItem && !isBullet(cur.marker) && follows(cur.marker, marker) {
			return true
		}
		if endsShort(prev, right, l) || step > (pitch+0.15)*size {
			return true
		}
		if cur.kind == listItem && strings.HasPrefix(marker, "[") {
			return true
		}
	}
	if cur.kind == listItem {
		// Text hanging under the item belongs to it; text further left does not.
		first := cur.lines[0]
		if !l.rtl && l.box.x0 < first.box.x0-0.3*em {
			// Unless the item is set as a paragraph whose first line alone is indented.
			return endsShort(prev, right, l) || endsSentence(prev) || l.box.x0 > left+em
		}
		if !l.rtl && len(cur.lines) >= 2 && abs(l.box.x0-first.box.x0) < 0.3*em && abs(prev.box.x0-first.box.x0) > 0.6*em {
			return true
		}
		if !l.rtl && len(cur.lines) == 1 && abs(l.box.x0-first.box.x0) < 0.3*em && endsShort(prev, right, l) {
			return true
		}
		return endsShort(prev, right, l) && endsSentence(prev) && step > (pitch+0.12)*size
	}
	// An indented first line.
	if indent > 0.8*em && indent < 6*em && len(cur.lines) > 0 {
		if len(cur.lines) >= 2 && abs(prev.box.x0-cur.lines[len(cur.lines)-2].box.x0) < 0.5*em && !l.centred(left, right) {
			return true
		}
		if len(cur.lines) == 1 && endsShort(prev, right, l) {
			return true
		}
	}
	if l.rtl {
		return prev.box.x0-left > 0.3*(right-left) && endsSentence(prev)
	}
	// The line before had room for this one's first word: the paragraph ended there.
	if endsShort(prev, right, l) && endsSentence(prev) && indent > -0.5*em {
		return true
	}
	return false
}

func (l *line) centred(left, right float64) bool {
	return l.box.x0-left > l.style.size && abs((l.box.x0-left)-(right-l.box.x1)) < l.style.size
}

// endsShort reports whether the next line's first word would have fitted on prev.
func endsShort(prev *line, right float64, next *line) bool {
	return right-prev.box.x1 > next.firstWidth+0.9*next.style.size
}

func endsSentence(l *line) bool {
	t := strings.TrimRight(l.text(), " \"'”’»)]")
	c, _ := utf8.DecodeLastRuneInString(t)
	return strings.ContainsRune(".:;!?。：；！？…؟", c)
}

// markerOf returns the list marker that the line begins with, "" for none.
func markerOf(l *line) string {
	t := l.text()
	if m := bulletMarker.FindStringSubmatch(t); m != nil {
		return "-"
	}
	if lonelyBullet.MatchString(t) || len(t) <= 4 && strings.ContainsAny(t, "•‣▪◦●○■□◆◇➢➤✓✔❖▸►∙⁃") {
		return "-"
	}
	m := numberMarker.FindString(t)
	if m == "" || len(m) == len(t) {
		return ""
	}
	if r, _ := utf8.DecodeLastRuneInString(m); r < utf8.RuneSelf && r != ' ' {
		return "" // "1.5", "e.g."
	}
	return strings.TrimSpace(m)
}

func isBullet(m string) bool { return m == "-" }

// ordinal returns the number of a marker and its kind of notation.
func ordinal(m string) (n int, kind string) {
	core := strings.Trim(m, "().[]、（）")
	frame := strings.Replace(m, core, "#", 1)
	if core == "" {
		return 0, frame
	}
	if allDigits(core) {
		for _, c := range core {
			n = n*10 + int(c-'0')
		}
		return n, frame + "1"
	}
	if i := strings.Index("一二三四五六七八九十", core); i >= 0 && utf8.RuneCountInString(core) == 1 {
		return i/3 + 1, frame + "一"
	}
	if len(core) == 1 && unicode.IsLetter(rune(core[0])) {
		c := rune(core[0])
		if unicode.IsUpper(c) {
			return int(c-'A') + 1, frame + "A"
		}
		return int(c-'a') + 1, frame + "a"
	}
	return roman(strings.ToLower(core)), frame + "i"
}

func roman(s string) int {
	v := map[rune]int{'i': 1, 'v': 5, 'x': 10}
	n, last := 0, 0
	for _, c := range s {
		d := v[c]
		n += d
		if last < d {
			n -= 2 * last
		}
		last = d
	}
	return n
}

// follows reports whether b is the marker after a.
func follows(a, b string) bool {
	na, ka := ordinal(a)
	nb, kb := ordinal(b)
	if ka == kb {
		return nb == na+1
	}
	// i after h may be roman one; v after iv is no letter.
	core := strings.Trim(b, "().[]")
	return ka[:len(ka)-1] == kb[:len(kb)-1] && roman(strings.ToLower(core)) == na+1
}

// sequential reports whether the marker begins a list or carries one on.
func sequential(out []block, m string) bool {
	n, _ := ordinal(m)
	if n == 1 {
		return true
	}
	for i := len(out) - 2; i >= 0 && i >= len(out)-14; i-- {
		if out[i].kind == listItem && !isBullet(out[i].marker) && follows(out[i].marker, m) {
			return true
		}
	}
	return strings.HasPrefix(m, "[")
}

// aloneEnough accepts a numbered line that goes on a list from another column or page.
func aloneEnough(lines []*line, i int) bool {
	if i+1 >= len(lines) {
		return i == 0
	}
	next := lines[i+1]
	if m := markerOf(next); m != "" && follows(markerOf(lines[i]), m) {
		return true
	}
	return next.box.x0 > lines[i].box.x0+0.6*next.style.size
}

// isCode reports whether the block is set in a fixed pitch.
func isCode(b *block) bool {
	for _, l := range b.lines {
		if !l.mono {
			return false
		}
	}
	return len(b.lines) > 0
}

// mergeCode joins code blocks that only blank lines part.
func mergeCode(bs []block) []block {
	var out []block
	for _, b := range bs {
		if n := len(out); n > 0 && b.kind == code && out[n-1].kind == code && b.box.y0-out[n-1].box.y1 < 3*b.style.size {
			p := &out[n-1]
			p.lines = append(p.lines, b.lines...)
			p.box = p.box.union(b.box)
			continue
		}
		out = append(out, b)
	}
	return out
}

// joinColumns joins paragraphs that run on from one column to the next.
func joinColumns(bs []block) []block {
	var out []block
	for _, b := range bs {
		n := len(out)
		if n > 0 && b.kind == paragraph && b.column != out[n-1].column && len(out[n-1].lines) > 0 &&
			(out[n-1].kind == paragraph || out[n-1].kind == listItem) && runsOn(&out[n-1], &b) {
			p := &out[n-1]
			p.lines = append(p.lines, b.lines...)
			p.column = b.column
			p.bold = p.bold && b.bold
			continue
		}
		out = append(out, b)
	}
	return out
}

func runsOn(a, b *block) bool {
	last, first := a.lines[len(a.lines)-1], b.lines[0]
	if !sameSize(a.style.size, b.style.size) || a.bold != b.bold || endsSentence(last) || first.heading != last.heading {
		return false
	}
	if last.hyphen {
		return true
	}
	c, _ := utf8.DecodeRuneInString(first.text())
	return unicode.IsLower(c) || isCJK(c) && len(a.lines) > 1
}

// joined returns the text of the lines as one paragraph, hyphens at line ends undone.
func (b *block) joined(mark func(string) string) string {
	var sb strings.Builder
	for i, l := range b.lines {
		t := l.markdown(mark, b.notes)
		if i > 0 {
			prev := b.lines[i-1]
			s := sb.String()
			last, _ := utf8.DecodeLastRuneInString(s)
			first, _ := utf8.DecodeRuneInString(t)
			switch {
			case prev.hyphen && splitsWord(s, t, b.known):
				cut := strings.TrimSuffix(s, "-")
				sb.Reset()
				sb.WriteString(cut)
			case prev.hyphen && strings.HasSuffix(s, "-") && unicode.IsLetter(first):
				// A compound such as "e-mail": keep it in one piece.
			case isCJK(last) && isCJK(first):
			case goesOnWithoutSpace(s, last, first):
			default:
				sb.WriteByte(' ')
			}
		}
		sb.WriteString(t)
	}
	return sb.String()
}

// goesOnWithoutSpace reports a line that ends within a number range, a pair of
// names or an address: "2018–", "https://".
func goesOnWithoutSpace(s string, last, first rune) bool {
	if !unicode.IsLetter(first) && !unicode.IsDigit(first) {
		return false
	}
	token := s[strings.LastIndexAny(s, " \n")+1:]
	switch last {
	case '–', '—', '-':
		before, _ := utf8.DecodeLastRuneInString(strings.TrimSuffix(token, string(last)))
		return unicode.IsDigit(before) && unicode.IsDigit(first) || last != '-' && (unicode.IsLetter(before) || unicode.IsDigit(before))
	case '/':
		return strings.Contains(token, "://") || strings.HasPrefix(token, "www.")
	}
	return false
}

// splitsWord reports whether the hyphen at the end of a was put there to
// split a word that b goes on with: both sides in lower case letters, and the
// document nowhere else has the word with its hyphen alone.
func splitsWord(a, b string, known map[string]bool) bool {
	if !strings.HasSuffix(a, "-") || len(a) < 3 {
		return false
	}
	before, _ := utf8.DecodeLastRuneInString(a[:len(a)-1])
	after, _ := utf8.DecodeRuneInString(b)
	if !unicode.IsLower(before) || !unicode.IsLower(after) {
		return false
	}
	// A word with another hyphen in it is a compound: "state-of-the-", "off-" "the-shelf".
	tail, _, _ := strings.Cut(b, " ")
	if strings.Contains(strings.TrimRight(tail, "-"), "-") {
		return false
	}
	head := a[strings.LastIndexAny(a[:len(a)-1], " \n")+1 : len(a)-1]
	if strings.Contains(head, "-") {
		return false
	}
	head, tail = bareWord(head), bareWord(tail)
	return !known[head+"-"+tail] || known[head+tail]
}

// bareWord is the word in lower case without signs around it.
func bareWord(s string) string {
	return strings.ToLower(strings.TrimFunc(s, func(c rune) bool { return !unicode.IsLetter(c) && !unicode.IsDigit(c) }))
}

// learnWords gives all blocks the words that stand whole in the document, of
// those that matter for hyphens: with one, and those that begin a line's rest.
func learnWords(pages [][]block) {
	known := map[string]bool{}
	split := false
	for _, p := range pages {
		for i := range p {
			for _, l := range p[i].lines {
				split = split || l.hyphen
			}
		}
	}
	if !split {
		return
	}
	for _, p := range pages {
		for i := range p {
			for _, l := range p[i].lines {
				f := strings.Fields(l.text())
				for k, w := range f {
					if len(known) < maxKnownWords && (k < len(f)-1 || !l.hyphen) {
						known[bareWord(w)] = true
					}
				}
			}
			p[i].known = known
		}
	}
}

const maxKnownWords = 500_000

// maxCarried is how many lines of a paragraph go back to the page it begins on.
const maxCarried = 15

// joinPages joins paragraphs that run on from one page to the next: their text
// goes to the page on which they begin.
func joinPages(pages [][]block) {
	for i := 0; i+1 < len(pages); i++ {
		a, b := pages[i], pages[i+1]
		k := len(a) - 1
		for k >= 0 && (a[k].note != "" || len(b) > 0 && len(b[0].lines) > 0 && a[k].style.size < 0.93*b[0].style.size && a[k].kind == paragraph) {
			k-- // footnotes
		}
		if k < 0 || len(b) < 2 || b[0].kind != paragraph || b[0].note != "" || len(b[0].lines) > maxCarried || len(b[0].notes) > 0 {
			continue
		}
		p := &a[k]
		if p.kind != paragraph && p.kind != listItem || len(p.lines) == 0 || !runsOn(p, &b[0]) {
			continue
		}
		p.lines = append(p.lines, b[0].lines...)
		p.bold = p.bold && b[0].bold
		pages[i+1] = b[1:]
	}
}

// markdown returns the line's text escaped, with its links.
func (l *line) markdown(mark func(string) string, notes map[string]bool) string {
	var b strings.Builder
	for i := 0; i < len(l.spans); i++ {
		s := &l.spans[i]
		if n := strings.TrimSpace(s.text); s.raised && notes[n] {
			// The mark stands at the word that it belongs to.
			before := strings.TrimRight(b.String(), " ")
			b.Reset()
			b.WriteString(before + "[^" + n + "]")
			if strings.HasSuffix(s.text, " ") {
				b.WriteByte(' ')
			}
			continue
		}
		if s.link == "" {
			b.WriteString(mark(s.text))
			continue
		}
		text := strings.TrimRight(s.text, " ")
		for i+1 < len(l.spans) && l.spans[i+1].link == s.link {
			i++
			text += l.spans[i].text
		}
		tail := ""
		if t := strings.TrimRight(text, " "); t != text || t != s.text && strings.HasSuffix(l.spans[i].text, " ") {
			text, tail = t, " "
		}
		b.WriteString(linkMarkdown(text, s.link, mark) + tail)
	}
	return strings.TrimSpace(b.String())
}

func linkMarkdown(text, uri string, mark func(string) string) string {
	plain := strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(uri, "mailto:"), "https://"), "http://")
	if t := strings.TrimSpace(text); t == uri || t == plain || strings.Contains(uri, strings.ReplaceAll(t, " ", "")) && strings.Contains(t, "/") {
		return mark(text) // the address itself is the text
	}
	return "[" + mark(text) + "](" + strings.NewReplacer("(", "%28", ")", "%29").Replace(uri) + ")"
}
