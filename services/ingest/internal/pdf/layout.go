package pdf

import (
	"cmp"
	"math"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/clara-suite/clara/services/ingest/internal/doc"
)

// layout is a page cut into columns of lines, tables and pictures, in reading order.
type layout struct {
	number        int
	width, height float64
	columns       []column
	// readBy is how the page was read, if not by its text; problem what is missing.
	readBy  doc.ReadBy
	problem string
}

// column is a run of items read from top to bottom.
type column struct {
	box   box
	items []item
}

// item is one of a line, a table or a picture.
type item struct {
	box     box
	line    *line
	table   *table
	picture *picture
}

// arrange lays out a page.
func arrange(s *source) *layout {
	l := &layout{number: s.number, width: s.width, height: s.height}
	words, turned := upright(s)
	checkPitch(words)
	body := bodySize(words)
	rtl := mostlyRTL(words)

	tables := taggedTables(s, words)
	tables = append(tables, ruledTables(s, withoutTables(words, tables), turned)...)
	for _, t := range tables {
		t.measure(words)
	}
	words = withoutTables(words, tables)
	rg := region{box: box{0, 0, s.width, s.height}, words: words}
	for i := range tables {
		rg.obstacles = append(rg.obstacles, obstacle{tables[i].box, i})
	}
	pics := s.shownPictures()
	for i := range pics {
		rg.obstacles = append(rg.obstacles, obstacle{pics[i].box, len(tables) + i})
	}
	rg.obstacles = slices.DeleteFunc(rg.obstacles, func(o obstacle) bool {
		return o.index >= len(tables) && covers(o.box, words, s)
	})
	placed := make([]bool, len(tables)+len(pics))
	for _, part := range splitColumns(rg, body, rtl, 0) {
		c := column{}
		for _, o := range part.obstacles {
			placed[o.index] = true
			if o.index < len(tables) {
				c.items = append(c.items, item{box: o.box, table: tables[o.index]})
			} else {
				c.items = append(c.items, item{box: o.box, picture: &pics[o.index-len(tables)]})
			}
		}
		rows := buildRows(part.words)
		for _, it := range openTables(rows) {
			c.items = append(c.items, it)
		}
		if len(c.items) == 0 {
			continue
		}
		slices.SortStableFunc(c.items, func(a, b item) int { return cmp.Compare(a.top(), b.top()) })
		c.box = c.items[0].box
		for _, it := range c.items {
			c.box = c.box.union(it.box)
		}
		l.columns = append(l.columns, c)
	}
	// Backgrounds come last: their words were read round them.
	for i := range pics {
		if !placed[len(tables)+i] {
			l.columns = append(l.columns, column{box: pics[i].box, items: []item{{box: pics[i].box, picture: &pics[i]}}})
		}
	}
	return l
}

// top is where the item stands among others: lines by their baseline, so that
// high characters don't change the order.
func (it *item) top() float64 {
	if it.line != nil {
		return it.line.base - 0.7*it.line.style.size
	}
	return it.box.y0
}

// upright returns the words to be read: turned ones turned, and no watermarks,
// artifacts, words off the page or printed twice. turned are those that read
// upwards or downwards: only in the cells of tables they are more than labels
// of drawings and margins.
func upright(s *source) (words, turned []word) {
	turns := map[int]int{}
	for i := range s.words {
		turns[s.words[i].turn] += utf8.RuneCountInString(s.words[i].text)
	}
	main := 0
	for _, t := range []int{90, 180, 270} {
		if turns[t] > turns[main]*2 {
			main = t
		}
	}
	if main != 0 {
		s.turn(main)
	}
	words = make([]word, 0, len(s.words))
	type spot struct {
		x, y int
		text string
	}
	seen := make(map[spot]bool, len(s.words))
	for _, w := range s.words {
		if w.artifact || w.turn != 0 && w.turn != 90 && w.turn != 270 || w.style.size < 0.5 {
			continue
		}
		if w.box.x1 < 0 || w.box.x0 > s.width || w.box.y1 < 0 || w.box.y0 > s.height || w.box.width() <= 0 && w.box.height() <= 0 {
			continue
		}
		at := spot{int(math.Round(w.box.x0 / 1.5)), int(math.Round(w.base / 1.5)), w.text}
		if seen[at] {
			continue
		}
		seen[at] = true
		if w.turn != 0 {
			turned = append(turned, w)
			continue
		}
		w.id = len(words)
		words = append(words, w)
	}
	return words, turned
}

// levelled returns words that read upwards or downwards as they would stand if
// their text were turned upright.
func levelled(words []word) []word {
	out := slices.Clone(words)
	for i := range out {
		w := &out[i]
		b := w.box
		if w.turn == 90 {
			w.box = box{-b.y1, b.x0, -b.y0, b.x1}
		} else {
			w.box = box{b.y0, -b.x1, b.y1, -b.x0}
			w.base = -w.base
		}
		w.turn = 0
	}
	return out
}

// turn rotates the page's contents so that text of the given turn is upright.
func (s *source) turn(t int) {
	w, h := s.width, s.height
	point := func(x, y float64) (float64, float64) {
		switch t {
		case 90: // reads upwards: turn clockwise
			return h - y, x
		case 270:
			return y, w - x
		default:
			return w - x, h - y
		}
	}
	turned := func(b box) box {
		ax, ay := point(b.x0, b.y0)
		bx, by := point(b.x1, b.y1)
		return box{min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)}
	}
	for i := range s.words {
		o := &s.words[i]
		o.box = turned(o.box)
		if o.turn == t {
			switch t {
			case 90:
				// The baseline of upward text is an x, which becomes y.
			case 270:
				o.base = w - o.base
			default:
				o.base = h - o.base
			}
			o.turn = 0
		} else if o.turn >= 0 {
			o.turn = (o.turn - t + 360) % 360
		}
	}
	for i := range s.rules {
		s.rules[i].box = turned(s.rules[i].box)
		if t != 180 {
			s.rules[i].horizontal = !s.rules[i].horizontal
		}
	}
	for i := range s.fills {
		s.fills[i] = turned(s.fills[i])
	}
	for i := range s.pictures {
		s.pictures[i].box = turned(s.pictures[i].box)
	}
	if t != 180 {
		s.width, s.height = h, w
	}
}

// checkPitch takes the mark of a fixed pitch off fonts that only say so: their
// words are not as wide as they have characters.
func checkPitch(words []word) {
	type span struct{ lo, hi float64 }
	seen := map[string]span{}
	for i := range words {
		w := &words[i]
		if n := utf8.RuneCountInString(w.text); w.style.mono && n >= 3 {
			pitch := w.box.width() / float64(n) / max(w.style.size, 1)
			s, ok := seen[w.style.font]
			if !ok {
				s = span{pitch, pitch}
			}
			seen[w.style.font] = span{min(s.lo, pitch), max(s.hi, pitch)}
		}
	}
	for i := range words {
		w := &words[i]
		if s, ok := seen[w.style.font]; ok && (s.hi > 1.2*s.lo || s.lo < 0.4) {
			w.style.mono = false
		}
	}
}

func bodySize(words []word) float64 {
	var sizes weights[float64]
	for i := range words {
		sizes.add(words[i].style.size, len(words[i].text))
	}
	if s := sizes.top(); s > 0 {
		return s
	}
	return 10
}

func mostlyRTL(words []word) bool {
	rtl, ltr := 0, 0
	for i := range words {
		for _, c := range words[i].text {
			if isRTL(c) {
				rtl++
			} else if unicode.IsLetter(c) {
				ltr++
			}
		}
	}
	return rtl > ltr
}

// shownPictures returns the pictures large enough to mean something.
func (s *source) shownPictures() []picture {
	page := box{0, 0, s.width, s.height}
	var out []picture
	for _, p := range s.pictures {
		v := p.box
		v.x0, v.y0, v.x1, v.y1 = max(v.x0, 0), max(v.y0, 0), min(v.x1, s.width), min(v.y1, s.height)
		if v.width() < 12 || v.height() < 12 || page.overlap(p.box) <= 0 {
			continue
		}
		p.box = v
		out = append(out, p)
	}
	return out
}

// covers reports whether the box lies under text, as a background does.
func covers(b box, words []word, s *source) bool {
	n, rows := 0, map[int]bool{}
	for i := range words {
		if b.contains(words[i].box.midX(), words[i].box.midY()) {
			n++
			rows[int(words[i].base)] = true
		}
	}
	return n > 12 && len(rows) >= 2 || b.width()*b.height() > 0.85*s.width*s.height
}
