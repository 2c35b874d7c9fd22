package pdf

import (
	"cmp"
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// row is a set of words on one baseline, from left to right.
type row struct {
	words []word
	box   box
	base  float64
	size  float64 // of most of its characters
}

// buildRows groups words by baseline; rows come from top to bottom. Words
// raised or lowered beside larger ones join the row of those.
func buildRows(words []word) []row {
	if len(words) == 0 {
		return nil
	}
	body := bodySize(words)
	order := make([]int, len(words))
	for i := range order {
		order[i] = i
	}
	small := func(w *word) int {
		if w.style.size < 0.82*body {
			return 1
		}
		return 0
	}
	// Small words come last: large ones make the rows that scripts join.
	slices.SortFunc(order, func(a, b int) int {
		wa, wb := &words[a], &words[b]
		return cmp.Or(cmp.Compare(small(wa), small(wb)), cmp.Compare(wa.base, wb.base),
			cmp.Compare(wa.box.x0, wb.box.x0), cmp.Compare(a, b))
	})
	var rows []row
	large := 0 // rows of large words, in order of their baselines
	for _, i := range order {
		w := words[i]
		best := -1
		if small(&w) == 1 {
			from, _ := slices.BinarySearchFunc(rows[:large], w.base-0.3*body, func(r row, y float64) int { return cmp.Compare(r.base, y) })
			for k := from; k < large && rows[k].base < w.base+2*body; k++ {
				if sameRow(&rows[k], &w) {
					best = k
					break
				}
			}
		}
		for k := len(rows) - 1; best < 0 && k >= max(0, len(rows)-6) && (small(&w) == 0 || k >= large); k-- {
			if sameRow(&rows[k], &w) {
				best = k
			}
		}
		if best < 0 {
			rows = append(rows, row{words: []word{w}, box: w.box, base: w.base, size: w.style.size})
			if small(&w) == 0 {
				large = len(rows)
			}
			continue
		}
		r := &rows[best]
		r.words = append(r.words, w)
		r.box = r.box.union(w.box)
		if w.style.size > r.size*1.15 {
			r.base, r.size = w.base, w.style.size
		}
	}
	for k := range rows {
		rows[k].finish()
	}
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(a.base, b.base) })
	return joinScripts(rows)
}

// joinScripts puts rows of nothing but raised or lowered signs, such as the
// marks behind the names of authors, into the rows of larger words beside them.
func joinScripts(rows []row) []row {
	out := rows[:0]
	for i := range rows {
		r := rows[i]
		if n := len(out); n > 0 && r.isScriptOf(&out[n-1]) {
			out[n-1].words = append(out[n-1].words, r.words...)
			out[n-1].finish()
			continue
		} else if n > 0 && out[n-1].isScriptOf(&r) {
			r.words = append(r.words, out[n-1].words...)
			r.finish()
			out[n-1] = r
			continue
		}
		out = append(out, r)
	}
	return out
}

func (r *row) isScriptOf(large *row) bool {
	if r.size > 0.82*large.size || math.Abs(r.base-large.base) > 0.6*large.size {
		return false
	}
	return !slices.ContainsFunc(r.words, func(w word) bool {
		return utf8.RuneCountInString(w.text) > 3 || !slices.ContainsFunc(large.words, func(o word) bool {
			return max(w.box.x0-o.box.x1, o.box.x0-w.box.x1) < 0.35*large.size
		})
	})
}

func sameRow(r *row, w *word) bool {
	d := math.Abs(r.base - w.base)
	small := min(r.size, w.style.size)
	if d <= 0.25*small+0.3 {
		return true
	}
	// A script: clearly smaller, near the row's words, within their height.
	large := max(r.size, w.style.size)
	if small > 0.85*large || d > 0.6*large {
		return false
	}
	for i := range r.words {
		o := &r.words[i]
		gap := max(w.box.x0-o.box.x1, o.box.x0-w.box.x1)
		if gap < 0.35*large {
			return true
		}
	}
	return false
}

func (r *row) finish() {
	slices.SortStableFunc(r.words, func(a, b word) int { return cmp.Compare(a.box.x0, b.box.x0) })
	r.box = r.words[0].box
	var sizes weights[float64]
	bases := make(map[float64]float64, 2)
	for i := range r.words {
		w := &r.words[i]
		r.box = r.box.union(w.box)
		sizes.add(w.style.size, utf8.RuneCountInString(w.text))
		bases[w.style.size] = w.base
	}
	r.size = sizes.top()
	r.base = bases[r.size]
}

// weights counts how much of each value there is.
type weights[K cmp.Ordered] struct {
	keys []K
	n    []int
}

func (w *weights[K]) add(k K, n int) {
	for i := range w.keys {
		if w.keys[i] == k {
			w.n[i] += n
			return
		}
	}
	w.keys, w.n = append(w.keys, k), append(w.n, n)
}

// top returns the heaviest value, the smaller of equals; zero if there is none.
func (w *weights[K]) top() K {
	var k K
	best := -1
	for i := range w.keys {
		if w.n[i] > best || w.n[i] == best && w.keys[i] < k {
			k, best = w.keys[i], w.n[i]
		}
	}
	return k
}

// line is one row of text of one column.
type line struct {
	box   box
	base  float64
	style style // of most of its characters
	spans []span
	// rtl is the direction of most of its letters.
	rtl bool
	// hyphen means that the line ends in a hyphen that splits a word.
	hyphen bool
	// leader means that dots lead from a title to a page number.
	leader bool
	mono   bool // all of it
	bold   bool // all of it
	// heading, element and listItem are what the structure tree says of all its
	// words, 0 for nothing.
	heading, element, listItem int
	// wide is the widest space within the line, in points.
	wide float64
	// firstWidth is the width of the first word.
	firstWidth float64
}

// leaders are dots between a title and its page number.
var leaders = regexp.MustCompile(` ?(\.{5,}|(\. ){5,}|…{3,})[. ]*`)

// span is a part of a line with one link and one height.
type span struct {
	text string // with its spaces
	link string
	// raised is a superscript.
	raised bool
	x0     float64
}

func (l *line) text() string {
	if len(l.spans) == 1 {
		return l.spans[0].text
	}
	var b strings.Builder
	for i := range l.spans {
		b.WriteString(l.spans[i].text)
	}
	return b.String()
}

// makeLine puts the words of a row in logical order.
func makeLine(r *row) line {
	l := line{box: r.box, base: r.base, mono: true, bold: true}
	rtl, ltr := 0, 0
	letters := 0
	for i := range r.words {
		for _, c := range r.words[i].text {
			switch {
			case isRTL(c):
				rtl++
			case unicode.IsLetter(c):
				ltr++
			}
		}
	}
	l.rtl = rtl > ltr
	words := joinLetters(r.words, r.size)
	if rtl > 0 {
		words = placeMarks(reglue(logicalOrder(words, l.rtl)))
	}
	var fonts weights[string]
	styles := make(map[string]style, 2)
	var prev *word
	for i := range words {
		w := &words[i]
		n := utf8.RuneCountInString(w.text)
		// A span's style is named by font and size.
		key := w.style.font + "\x00" + formatSize(w.style.size)
		fonts.add(key, n)
		styles[key] = w.style
		if hasLetter(w.text) {
			letters++
			// Ideographs are all of one width: that makes no code.
			l.mono = l.mono && w.style.mono && !strings.ContainsFunc(w.text, isCJK)
			l.bold = l.bold && w.style.bold
		}
		raised := w.style.size < 0.85*r.size && w.base < r.base-0.15*r.size
		space := ""
		if prev != nil {
			gap := gapBetween(prev, w)
			l.wide = max(l.wide, gap)
			if needsSpace(prev, w, gap, r.size) {
				space = " "
			}
		}
		last := len(l.spans) - 1
		if last >= 0 && l.spans[last].link == w.link && l.spans[last].raised == raised {
			l.spans[last].text += space + w.text
		} else {
			if last >= 0 {
				l.spans[last].text += space
			}
			l.spans = append(l.spans, span{text: w.text, link: w.link, raised: raised, x0: w.box.x0})
		}
		prev = w
	}
	for i := range l.spans {
		if t := leaders.ReplaceAllString(l.spans[i].text, " "); t != l.spans[i].text {
			l.leader, l.spans[i].text = true, t
		}
	}
	if letters == 0 {
		l.mono, l.bold = words[0].style.mono, words[0].style.bold
	}
	l.style = styles[fonts.top()]
	l.heading, l.element, l.listItem = words[0].heading, words[0].element, words[0].listItem
	for i := range words {
		if words[i].heading != l.heading {
			l.heading = 0
		}
		if words[i].element != l.element {
			l.element = 0
		}
	}
	if n := len(words); n >= 2 && !l.leader && allDigits(words[n-1].text) && letters >= 1 && gapBetween(&words[n-2], &words[n-1]) > 3*r.size {
		// An entry of a table of contents, led to its page by space alone.
		l.leader = true
	}
	l.firstWidth = words[0].box.width()
	l.hyphen = words[len(words)-1].hyphen || strings.HasSuffix(words[len(words)-1].text, "-")
	return l
}

// joinLetters makes words of a row whose characters stand one by one, as some
// programs write them: there pdfium sees a space after each.
func joinLetters(words []word, size float64) []word {
	single := 0
	for i := range words {
		c, n := utf8.DecodeRuneInString(words[i].text)
		if n == len(words[i].text) && unicode.IsLetter(c) && !isCJK(c) {
			single++
		}
	}
	if len(words) < 6 || single*10 < len(words)*4 {
		return words
	}
	out := make([]word, 0, len(words)/3)
	for _, w := range words {
		if n := len(out); n > 0 && w.box.x0-out[n-1].box.x1 < 0.14*size && w.link == out[n-1].link && w.style == out[n-1].style {
			p := &out[n-1]
			p.text += w.text
			p.box = p.box.union(w.box)
			p.hyphen = w.hyphen
			continue
		}
		out = append(out, w)
	}
	return out
}

func formatSize(f float64) string {
	n := int(f * 10)
	return string([]rune{rune(n%0xD000 + 1)})
}

func gapBetween(a, b *word) float64 {
	return max(b.box.x0-a.box.x1, a.box.x0-b.box.x1, 0)
}

// needsSpace says whether a space belongs between two words of a line.
func needsSpace(a, b *word, gap, size float64) bool {
	if b.glued && gap < 0.25*size {
		return false
	}
	ra, _ := utf8.DecodeLastRuneInString(a.text)
	rb, _ := utf8.DecodeRuneInString(b.text)
	if isCJK(ra) && isCJK(rb) {
		return gap > 1.2*size
	}
	if isCJK(ra) || isCJK(rb) {
		return gap > 0.4*size
	}
	if gap < 0.1*size && (isRTL(ra) && closesUp(rb) || isRTL(rb) && closesUp(ra)) {
		// Marks above letters and signs at a line's end look like words to pdfium.
		return false
	}
	return gap > 0.05*size || !b.glued
}

// placeMarks puts vowel signs that stand as words of their own behind the
// letters that they are drawn above.
func placeMarks(words []word) []word {
	out := words[:0:0]
	for i := range words {
		w := words[i]
		if strings.ContainsFunc(w.text, func(c rune) bool { return !unicode.Is(unicode.Mn, c) }) {
			out = append(out, w)
			continue
		}
		var under *word
		if n := len(out); n > 0 && out[n-1].box.x0 <= w.box.midX() && out[n-1].box.x1 >= w.box.midX() {
			under = &out[n-1]
		} else if i+1 < len(words) && words[i+1].box.x0 <= w.box.midX() && words[i+1].box.x1 >= w.box.midX() {
			under = &words[i+1]
		}
		if under == nil || !strings.ContainsFunc(under.text, isRTL) || under.box.width() <= 0 {
			out = append(out, w)
			continue
		}
		letters := []rune(under.text)
		n := min(int((under.box.x1-w.box.midX())/under.box.width()*float64(len(letters)))+1, len(letters))
		under.text = string(letters[:n]) + w.text + string(letters[n:])
	}
	return out
}

// closesUp reports what stands beside a right-to-left letter without a space
// unless there is one: such letters, their marks, and punctuation.
func closesUp(c rune) bool { return isRTL(c) || unicode.Is(unicode.Mn, c) || unicode.IsPunct(c) }

// direction is 1 for a word that reads from left to right, -1 for one from right
// to left, 0 for one without letters.
func direction(w *word) int {
	for _, c := range w.text {
		if isRTL(c) {
			return -1
		}
		if unicode.IsLetter(c) {
			return 1
		}
	}
	return 0
}

// logicalOrder reorders words given from left to right.
func logicalOrder(words []word, rtl bool) []word {
	out := slices.Clone(words)
	base := 1
	if rtl {
		base = -1
		slices.Reverse(out)
	}
	// Runs against the base direction are turned round again.
	for i := 0; i < len(out); {
		if direction(&out[i]) != -base {
			i++
			continue
		}
		j := i + 1
		for k := j; k < len(out); k++ {
			d := direction(&out[k])
			if d == base {
				break
			}
			if d == -base {
				j = k + 1
			}
		}
		slices.Reverse(out[i:j])
		i = j
	}
	// So are the parts of one number.
	for i := 0; i < len(out); {
		j := i + 1
		for j < len(out) && numeric(&out[j-1]) && numeric(&out[j]) && out[j].box.x0 < out[j-1].box.x0 &&
			gapBetween(&out[j-1], &out[j]) < 0.08*out[j].style.size {
			j++
		}
		slices.Reverse(out[i:j])
		i = j
	}
	return out
}

// numeric reports a word of digits and the signs between them.
func numeric(w *word) bool {
	digits := false
	for _, c := range w.text {
		switch {
		case unicode.IsDigit(c):
			digits = true
		case !strings.ContainsRune(".,:/٫٬", c):
			return false
		}
	}
	return digits
}

// reglue says of words in logical order which of them stand without a space
// before them: in the file they were glued to the word beside them on the page,
// they touch it, and they are not of another alphabet.
func reglue(words []word) []word {
	was := make([]bool, len(words))
	for i := range words {
		was[i] = words[i].glued
	}
	for i := 1; i < len(words); i++ {
		a, b := &words[i-1], &words[i]
		b.glued = was[i] && b.id == a.id+1 || was[i-1] && a.id == b.id+1 && gapBetween(a, b) < 0.1*a.style.size && direction(a)*direction(b) >= 0
	}
	return words
}

func isRTL(c rune) bool {
	return c >= 0x0590 && c <= 0x08FF && !unicode.IsDigit(c) || c >= 0xFB1D && c <= 0xFDFF || c >= 0xFE70 && c <= 0xFEFC
}

func isCJK(c rune) bool {
	return c >= 0x2E80 && c <= 0x9FFF || c >= 0xF900 && c <= 0xFAFF || c >= 0xFE30 && c <= 0xFE4F ||
		c >= 0xFF00 && c <= 0xFFEF || c >= 0x20000 && c <= 0x3FFFF
}

func hasLetter(s string) bool { return strings.IndexFunc(s, unicode.IsLetter) >= 0 }
