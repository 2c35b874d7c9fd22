package pdf

import (
	"strings"
	"unicode"
)

// dropFurniture removes running heads, feet and page numbers: lines at the
// edge of the page that come again on other pages at the same height, digits
// aside, and lone page numbers.
func dropFurniture(pages []*layout) {
	type key struct {
		y    int
		text string
	}
	// Count in how many pages each edge line stands.
	count := map[key]int{}
	read := 0
	for _, p := range pages {
		if p == nil {
			continue
		}
		read++
		once := map[key]bool{}
		p.edges(func(l *line, _ *item) bool {
			k := key{int(l.base / 4), pattern(l.text())}
			if !once[k] {
				once[k] = true
				count[k]++
			}
			return false
		})
	}
	drop := func(p *layout) func(l *line, it *item) bool {
		numberAt := p.lonelyNumber()
		return func(l *line, _ *item) bool {
			text := l.text()
			k := key{int(l.base / 4), pattern(text)}
			n := count[k]
			for _, d := range []int{-1, 1} {
				n += count[key{k.y + d, k.text}]
			}
			switch {
			case n >= 3 || n == 2 && read <= 6:
				// Every second page has its own head in books.
				return true
			case isPageNumber(text):
				return true
			case numberAt > 0 && abs(l.base-numberAt) < 0.4*l.style.size && len([]rune(text)) < 90:
				// Stands beside the page number.
				return true
			}
			return false
		}
	}
	// Where heads and feet are all there is, such as on labels or in a series of forms, they are the text.
	left := 0
	for _, p := range pages {
		if p != nil {
			decide := drop(p)
			for c := range p.columns {
				left += len(p.columns[c].items)
			}
			p.edges(func(l *line, it *item) bool {
				if decide(l, it) {
					left--
				}
				return false
			})
		}
	}
	if left == 0 {
		return
	}
	for _, p := range pages {
		if p != nil {
			p.edges(drop(p))
		}
	}
}

func abs(f float64) float64 {
	if f < 0 {
		return -f
	}
	return f
}

// edges calls f for the lines near the top and the foot of the page, and
// removes those for which it returns true.
func (p *layout) edges(f func(*line, *item) bool) {
	top, foot := p.bounds()
	lone := p.loneFoot()
	for c := range p.columns {
		col := &p.columns[c]
		kept := col.items[:0]
		for i := range col.items {
			it := col.items[i]
			if it.line != nil && (it.box.y1 <= top || it.box.y0 >= foot || it.line.base == lone) && f(it.line, &it) {
				continue
			}
			kept = append(kept, it)
		}
		col.items = kept
	}
}

// bounds returns the y above which a line may be a head and below which a foot:
// within the outer eighth, and among the outermost three rows.
func (p *layout) bounds() (top, foot float64) {
	const rows = 3
	var ys []float64
	for _, c := range p.columns {
		for _, it := range c.items {
			if it.line != nil {
				ys = append(ys, it.line.base)
			} else {
				ys = append(ys, it.box.y0, it.box.y1)
			}
		}
	}
	if len(ys) == 0 {
		return 0, p.height
	}
	distinct := func(less func(a, b float64) bool) float64 {
		last := 0.0
		used := 0
		for used < rows {
			best, ok := 0.0, false
			for _, y := range ys {
				if used > 0 && !less(last, y) || used > 0 && abs(y-last) < 3 {
					continue
				}
				if !ok || less(y, best) {
					best, ok = y, true
				}
			}
			if !ok {
				break
			}
			last = best
			used++
		}
		return last
	}
	first := distinct(func(a, b float64) bool { return a < b })
	lastRow := distinct(func(a, b float64) bool { return a > b })
	top = min(p.height/8, first+6)
	foot = max(p.height-p.height/8, lastRow-20)
	return top, foot
}

// loneFoot returns the baseline of the last row if it stands alone in the lower
// quarter, well below the rest; 0 if not.
func (p *layout) loneFoot() float64 {
	last, before := 0.0, 0.0
	size := 10.0
	for _, c := range p.columns {
		for i := range c.items {
			it := &c.items[i]
			y := it.box.y1
			if it.line != nil {
				y = it.line.base
			}
			switch {
			case y > last+2:
				if last > before {
					before = last
				}
				last = y
				size = 10
				if it.line != nil {
					size = it.line.style.size
				}
			case y < last-2 && y > before:
				before = y
			}
		}
	}
	if last > 0.75*p.height && last-before > 2*size {
		return last
	}
	return 0
}

// lonelyNumber returns the baseline of a page number at the edge of the page, 0 for none.
func (p *layout) lonelyNumber() float64 {
	at := 0.0
	first, last := p.height, 0.0
	for _, c := range p.columns {
		for _, it := range c.items {
			if it.line != nil {
				first, last = min(first, it.line.base), max(last, it.line.base)
			}
		}
	}
	p.edges(func(l *line, _ *item) bool {
		if t := strings.TrimSpace(l.text()); len(t) <= 4 && allDigits(t) {
			at = l.base
		} else if f := strings.Fields(t); len(f) > 2 && (allDigits(f[0]) != allDigits(f[len(f)-1])) &&
			l.wide > 1.1*l.style.size && (l.base < p.height/2) == (l.base <= first) && (l.base > p.height/2) == (l.base >= last) {
			// "8  A. Author et al.": a number set apart within the head.
			at = l.base
		}
		return false
	})
	return at
}

// pattern is the text with all numbers alike.
func pattern(s string) string {
	var b strings.Builder
	digit := false
	for _, c := range s {
		switch {
		case unicode.IsDigit(c):
			if !digit {
				b.WriteByte('0')
			}
			digit = true
		case unicode.IsSpace(c):
		default:
			b.WriteRune(unicode.ToLower(c))
			digit = false
		}
	}
	return b.String()
}

// isPageNumber reports texts such as "12", "- 12 -", "Page 3 of 10", "xii", "第 3 页".
func isPageNumber(s string) bool {
	s = strings.ToLower(strings.Trim(strings.TrimSpace(s), "-–—|·•[]() "))
	if s == "" || len(s) > 24 {
		return false
	}
	if allDigits(s) && len(s) <= 4 || strings.Trim(s, "ivxl") == "" && len(s) <= 6 {
		return true
	}
	for _, pre := range []string{"page", "seite", "página", "стр.", "第", "p."} {
		if r, ok := strings.CutPrefix(s, pre); ok {
			r = strings.NewReplacer("of", " ", "von", " ", "de", " ", "/", " ", "页", " ", "頁", " ", "共", " ", "out", " ").Replace(r)
			f := strings.Fields(r)
			if len(f) == 0 || len(f) > 2 {
				return false
			}
			for _, x := range f {
				if !allDigits(x) {
					return false
				}
			}
			return true
		}
	}
	f := strings.FieldsFunc(s, func(c rune) bool { return c == '/' || c == ' ' })
	return strings.Contains(s, "/") && len(f) == 2 && allDigits(f[0]) && allDigits(f[1])
}

func allDigits(s string) bool {
	if s == "" {
		return false
	}
	for _, c := range s {
		if !unicode.IsDigit(c) {
			return false
		}
	}
	return true
}

// dropLogos removes the marks of pictures that come again on most pages.
func (rd *reading) dropLogos() {
	for _, p := range rd.layouts {
		if p == nil {
			continue
		}
		for c := range p.columns {
			col := &p.columns[c]
			kept := col.items[:0]
			for _, it := range col.items {
				if it.picture != nil && it.picture.mark != "" {
					if n := rd.shown[it.picture.sum]; n >= 4 && n*3 >= len(rd.layouts) {
						continue
					}
				}
				kept = append(kept, it)
			}
			col.items = kept
		}
	}
}
