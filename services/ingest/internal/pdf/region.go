package pdf

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// gutter is an empty vertical strip with words on both sides.
type gutter struct {
	x0, x1     float64
	start, end int // rows, end exclusive
	both       int // rows with words on both sides
}

// interval is a range of x.
type interval struct{ x0, x1 float64 }

// gaps returns the empty intervals of a row between lo and hi: first the one
// before its first word, last the one after its last word.
func (r *row) gaps(lo, hi, least float64) []interval {
	out := []interval{{lo, r.words[0].box.x0}}
	end := r.words[0].box.x1
	for i := 1; i < len(r.words); i++ {
		b := r.words[i].box
		if b.x0-end >= least {
			out = append(out, interval{end, b.x0})
		}
		end = max(end, b.x1)
	}
	return append(out, interval{end, hi})
}

// findGutters returns the gutters at least `least` wide that run over at
// least two rows with words on both sides, best first.
func findGutters(rows []row, least float64) []gutter {
	if len(rows) < 2 {
		return nil
	}
	lo, hi := math.Inf(1), math.Inf(-1)
	for i := range rows {
		lo, hi = min(lo, rows[i].box.x0), max(hi, rows[i].box.x1)
	}
	var active, done []gutter
	for i := range rows {
		gaps := rows[i].gaps(lo-1, hi+1, least)
		var next []gutter
		for _, g := range active {
			alive := false
			for k, v := range gaps {
				x0, x1 := max(g.x0, v.x0), min(g.x1, v.x1)
				if x1-x0 < least {
					continue
				}
				both := g.both
				if k > 0 && k < len(gaps)-1 {
					both++
				}
				next = append(next, gutter{x0, x1, g.start, i + 1, both})
				alive = true
			}
			if !alive {
				done = append(done, g)
			}
		}
		for k := 1; k < len(gaps)-1; k++ {
			v := gaps[k]
			known := false
			for _, g := range next {
				if g.end == i+1 && g.x0 <= v.x0+0.5 && g.x1 >= v.x1-0.5 {
					known = true
					break
				}
			}
			if !known {
				next = append(next, gutter{v.x0, v.x1, i, i + 1, 1})
			}
		}
		active = dedupe(next)
	}
	done = append(done, active...)
	done = slices.DeleteFunc(done, func(g gutter) bool { return g.both < 2 })
	slices.SortStableFunc(done, func(a, b gutter) int {
		return cmp.Or(-cmp.Compare(a.both, b.both), -cmp.Compare(a.x1-a.x0, b.x1-b.x0))
	})
	// Keep the best of those that share place.
	var out []gutter
	for _, g := range done {
		clash := false
		for _, o := range out {
			if g.x0 < o.x1 && o.x0 < g.x1 && g.start < o.end && o.start < g.end {
				clash = true
				break
			}
		}
		if !clash {
			out = append(out, g)
		}
		if len(out) == 64 {
			break
		}
	}
	return out
}

// dedupe drops gutters that lie within an equally long or longer one.
func dedupe(gs []gutter) []gutter {
	if len(gs) < 2 {
		return gs
	}
	slices.SortStableFunc(gs, func(a, b gutter) int {
		return cmp.Or(cmp.Compare(a.start, b.start), -cmp.Compare(a.both, b.both), -cmp.Compare(a.x1-a.x0, b.x1-b.x0))
	})
	out := gs[:0]
	for _, g := range gs {
		inside := false
		for _, o := range out {
			if g.x0 >= o.x0-0.01 && g.x1 <= o.x1+0.01 {
				inside = true
				break
			}
		}
		if !inside {
			out = append(out, g)
		}
		if len(out) > 200 {
			break
		}
	}
	return out
}

// region is a part of the page that is read from top to bottom.
type region struct {
	// box is the page, of the region that is all of it.
	box   box
	words []word
	// obstacles are tables and pictures, each with its place in the page's list.
	obstacles []obstacle
}

// obstacle is a thing that is no text and that columns go round.
type obstacle struct {
	box   box
	index int
}

const maxRegionDepth = 24

// splitColumns cuts the region into regions of one column, in reading order.
func splitColumns(rg region, body float64, rtl bool, depth int) []region {
	if depth >= maxRegionDepth || len(rg.words)+len(rg.obstacles) < 4 {
		return []region{rg}
	}
	rows := rowsWithObstacles(rg)
	for _, g := range findGutters(rows, max(0.75*body, 5)) {
		if g.both < 3 && g.end-g.start < 4 {
			continue
		}
		g = stretch(rows, g)
		g = trim(rows, g)
		if g.end-g.start < 2 || !isColumns(rows[g.start:g.end], g) && !isSpread(rows[g.start:g.end], g, rg.box, body) {
			continue
		}
		y0, y1 := rows[g.start].box.y0, rows[g.end-1].box.y1
		for i := g.start; i < g.end; i++ {
			y0, y1 = min(y0, rows[i].box.y0), max(y1, rows[i].box.y1)
		}
		x := (g.x0 + g.x1) / 2
		inBand := map[int]bool{}
		for i := g.start; i < g.end; i++ {
			for k := range rows[i].words {
				inBand[rows[i].words[k].id] = true
			}
		}
		var above, left, right, below region
		mid := (y0 + y1) / 2
		for _, w := range rg.words {
			switch {
			case inBand[w.id]:
				if w.box.midX() < x {
					left.words = append(left.words, w)
				} else {
					right.words = append(right.words, w)
				}
			case w.base < mid:
				above.words = append(above.words, w)
			default:
				below.words = append(below.words, w)
			}
		}
		for _, o := range rg.obstacles {
			switch cy := o.box.midY(); {
			case cy < y0:
				above.obstacles = append(above.obstacles, o)
			case cy > y1:
				below.obstacles = append(below.obstacles, o)
			case o.box.midX() < x:
				left.obstacles = append(left.obstacles, o)
			default:
				right.obstacles = append(right.obstacles, o)
			}
		}
		if rtl {
			left, right = right, left
		}
		var out []region
		for _, part := range []region{above, left, right, below} {
			if len(part.words)+len(part.obstacles) > 0 {
				out = append(out, splitColumns(part, body, rtl, depth+1)...)
			}
		}
		return out
	}
	return []region{rg}
}

// obstacleText marks a word that stands for an obstacle.
const obstacleText = "\x00"

// rowsWithObstacles returns the region's rows; an obstacle takes part in each
// row beside it, and in one of its own where there is none.
func rowsWithObstacles(rg region) []row {
	rows := buildRows(rg.words)
	for _, o := range rg.obstacles {
		hit := false
		for i := range rows {
			if rows[i].box.midY() > o.box.y0 && rows[i].box.midY() < o.box.y1 {
				rows[i].insert(o.box)
				hit = true
			}
		}
		if !hit {
			w := word{id: -1, text: obstacleText, box: o.box, base: o.box.midY(), style: style{size: 1}}
			rows = append(rows, row{words: []word{w}, box: o.box, base: w.base, size: 1})
			slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(a.base, b.base) })
		}
	}
	return rows
}

func (r *row) insert(b box) {
	w := word{id: -1, text: obstacleText, box: b, base: r.base, style: style{size: r.size}}
	i, _ := slices.BinarySearchFunc(r.words, w, func(a, b word) int { return cmp.Compare(a.box.x0, b.box.x0) })
	r.words = slices.Insert(r.words, i, w)
	r.box.x0, r.box.x1 = min(r.box.x0, b.x0), max(r.box.x1, b.x1)
}

// crosses reports whether a word of the row lies in the gutter.
func (r *row) crosses(g gutter) bool {
	for i := range r.words {
		if r.words[i].box.x0 < g.x1-0.5 && r.words[i].box.x1 > g.x0+0.5 {
			return true
		}
	}
	return false
}

// stretch takes in the rows above and below that leave the gutter empty.
func stretch(rows []row, g gutter) gutter {
	for g.start > 0 && !rows[g.start-1].crosses(g) && !farApart(&rows[g.start-1], &rows[g.start]) {
		g.start--
	}
	for g.end < len(rows) && !rows[g.end].crosses(g) && !farApart(&rows[g.end-1], &rows[g.end]) {
		g.end++
	}
	return g
}

// trim cuts rows off the ends of the band that are far from the rest and have
// words on one side only: titles, feet.
func trim(rows []row, g gutter) gutter {
	for g.end-g.start > 2 && oneSided(&rows[g.start], g) && farApart(&rows[g.start], &rows[g.start+1]) {
		g.start++
	}
	for g.end-g.start > 2 && oneSided(&rows[g.end-1], g) && farApart(&rows[g.end-2], &rows[g.end-1]) {
		g.end--
	}
	return g
}

func farApart(a, b *row) bool { return b.box.y0-a.box.y1 > 1.6*max(a.size, b.size, 8) }

func oneSided(r *row, g gutter) bool {
	return r.box.x0 > (g.x0+g.x1)/2 || r.box.x1 < (g.x0+g.x1)/2
}

// isColumns reports whether what lies on both sides of the gutter is running
// text, and not the cells of a table.
func isColumns(rows []row, g gutter) bool {
	x := (g.x0 + g.x1) / 2
	left, right := sideOf(rows, x, true), sideOf(rows, x, false)
	if left.rows < 2 || right.rows < 2 {
		return false
	}
	if left.solid || right.solid {
		// A picture or table beside text.
		return left.textual() && right.solid || right.textual() && left.solid || left.solid && right.solid
	}
	if left.textual() && right.textual() || left.flows() && right.flows() {
		return true
	}
	// Blocks side by side whose lines don't stand on the same baselines.
	if aligned := left.shared; aligned*3 < min(left.rows, right.rows) && left.rows >= 3 && right.rows >= 3 {
		return true
	}
	// Addresses side by side, as under the title of a paper.
	return left.mail && right.mail && left.rows >= 2
}

// isSpread reports whether the gutter is the fold between two pages of a book
// that are one page of the file: a wide one in the middle, with as much on
// both sides of it. The page is zero where the region is only a part of one.
func isSpread(rows []row, g gutter, page box, body float64) bool {
	x := (g.x0 + g.x1) / 2
	if page.width() < 1.2*page.height() || g.x1-g.x0 < 3*body || math.Abs(x-page.midX()) > 0.05*page.width() {
		return false
	}
	lo, hi := g.x0, g.x1
	for i := range rows {
		lo, hi = min(lo, rows[i].box.x0), max(hi, rows[i].box.x1)
	}
	left, right := sideOf(rows, x, true), sideOf(rows, x, false)
	return min(left.rows, right.rows) >= 8 && min(median(left.chars), median(right.chars)) >= 12 &&
		math.Abs((g.x0-lo)-(hi-g.x1)) < 0.08*page.width()
}

// side sums up the words on one side of a gutter.
type side struct {
	rows   int
	shared int // rows that have words on the other side too
	chars  []float64
	fill   []float64
	solid  bool // mostly an obstacle
	// runsOn counts the lines that end within a sentence that the next goes on.
	runsOn int
	mail   bool
}

func (s *side) textual() bool {
	return s.rows >= 3 && median(s.chars) >= 16 && mean(s.fill) >= 0.55
}

// flows reports narrow running text.
func (s *side) flows() bool {
	return s.rows >= 4 && median(s.chars) >= 11 && s.runsOn*10 >= 4*s.rows && s.shared*4 < 3*s.rows
}

func sideOf(rows []row, x float64, left bool) side {
	var s side
	lo, hi := math.Inf(1), math.Inf(-1)
	type extent struct {
		x0, x1 float64
		chars  int
	}
	prev := ""
	var es []extent
	solid := 0
	for i := range rows {
		e := extent{x0: math.Inf(1), x1: math.Inf(-1)}
		other, hit := false, false
		first, last := "", ""
		for k := range rows[i].words {
			w := &rows[i].words[k]
			if (w.box.midX() < x) != left {
				other = other || w.text != obstacleText
				continue
			}
			if w.text == obstacleText {
				hit = true
				lo, hi = min(lo, w.box.x0), max(hi, w.box.x1)
				continue
			}
			e.x0, e.x1 = min(e.x0, w.box.x0), max(e.x1, w.box.x1)
			if first == "" {
				first = w.text
			}
			last = w.text
			n := utf8.RuneCountInString(w.text) + 1
			if c, _ := utf8.DecodeRuneInString(w.text); isCJK(c) {
				n *= 2
			}
			e.chars += n
			s.mail = s.mail || strings.ContainsRune(w.text, '@')
		}
		if hit {
			solid++
		}
		if e.chars == 0 {
			if hit {
				s.rows++
			}
			continue
		}
		s.rows++
		if other {
			s.shared++
		}
		if c, _ := utf8.DecodeRuneInString(first); prev != "" && unicode.IsLower(c) && !strings.ContainsAny(prev[len(prev)-1:], ".:;!?") {
			s.runsOn++
		}
		prev = last
		lo, hi = min(lo, e.x0), max(hi, e.x1)
		es = append(es, e)
	}
	s.solid = solid*2 > s.rows
	for _, e := range es {
		s.chars = append(s.chars, float64(e.chars))
		s.fill = append(s.fill, (e.x1-e.x0)/max(hi-lo, 1))
	}
	return s
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

func mean(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}
