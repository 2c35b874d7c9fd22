package pdf

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/clara-suite/clara/services/ingest/internal/doc"
)

// typography is what the sizes and fonts of a document say about its headings.
type typography struct {
	body  style
	title bool
	// levels are the styles of headings, the most important first.
	levels []headStyle
	// outline holds the level of each outline entry by its normalised title.
	outline map[string]int
}

// mostlyTables is how much more text in tables than outside of them makes a
// document of tables.
const mostlyTables = 3

type headStyle struct {
	size float64
	bold bool
	caps bool
}

// headings finds the headings among the blocks of a document and sets their levels.
func headings(pages [][]block, outline map[string]int) {
	t := typography{outline: outline}
	var sizes weights[float64]
	fonts := map[float64]*weights[string]{}
	styles := map[string]style{}
	for _, p := range pages {
		for i := range p {
			for _, l := range p[i].lines {
				n := utf8.RuneCountInString(l.text())
				sizes.add(l.style.size, n)
				if fonts[l.style.size] == nil {
					fonts[l.style.size] = &weights[string]{}
				}
				fonts[l.style.size].add(l.style.font, n)
				styles[l.style.font] = l.style
			}
		}
	}
	// Where nearly all text stands in tables, its style is that of the document.
	text, tabled := 0, 0
	for _, n := range sizes.n {
		text += n
	}
	for _, p := range pages {
		for i := range p {
			if p[i].kind == tableBlock {
				tabled += p[i].table.chars
			}
		}
	}
	for _, p := range pages {
		for i := range p {
			if t := p[i].table; p[i].kind == tableBlock && t.chars > 0 && tabled > mostlyTables*text {
				sizes.add(t.look.size, t.chars)
				if fonts[t.look.size] == nil {
					fonts[t.look.size] = &weights[string]{}
				}
				fonts[t.look.size].add(t.look.font, t.chars)
				styles[t.look.font] = t.look
			}
		}
	}
	size := sizes.top()
	if size == 0 {
		return
	}
	t.body = styles[fonts[size].top()]
	t.body.size = size
	var found []*block
	for _, p := range pages {
		for i := range p {
			var next *block
			if i+1 < len(p) {
				next = &p[i+1]
			}
			if t.isHeading(&p[i], next) {
				p[i].kind = heading
				found = append(found, &p[i])
			}
		}
	}
	t.setLevels(found)
}

func (t *typography) isHeading(b *block, next *block) bool {
	if b.kind != paragraph && b.kind != listItem || len(b.lines) == 0 || len(b.lines) > 4 || b.note != "" || b.lines[0].leader {
		return false
	}
	if b.lines[0].heading > 0 {
		return true
	}
	text := b.joined(plain)
	n := utf8.RuneCountInString(text)
	if n == 0 || n > 160 || !hasLetter(text) {
		return false
	}
	wide := n
	for _, c := range text {
		if isCJK(c) {
			wide++
		}
	}
	if _, ok := t.outline[normal(text)]; ok && wide >= 3 {
		return true
	}
	if captionStart.MatchString(text) {
		return false
	}
	last, _ := utf8.DecodeLastRuneInString(strings.TrimRight(text, " "))
	sentence := strings.ContainsRune(".,;。，；", last)
	number := numbered.MatchString(text)
	// "(2) Scope" in bold above text of its own is no item of a list.
	alone := b.kind == listItem && !isBullet(b.marker) && b.bold && !t.body.bold && len(b.lines) == 1 && !sentence &&
		next != nil && next.kind == paragraph && !next.bold
	if b.kind == listItem && !alone && (isBullet(b.marker) || !number && !strings.ContainsAny(b.marker, "、")) && b.style.size < 1.15*t.body.size {
		return false
	}
	letters, upper := 0, 0
	for _, c := range text {
		if unicode.IsLetter(c) {
			letters++
			if unicode.IsUpper(c) {
				upper++
			}
		}
	}
	if letters < 2 || letters*5 < n*2 {
		return false
	}
	bigger := b.style.size / t.body.size
	lines := len(b.lines)
	switch {
	case bigger >= 1.45 && lines <= 4:
		return true
	case bigger >= 1.15 && lines <= 3 && !(sentence && lines > 1):
		return true
	case bigger >= 1.05 && (b.bold || number) && lines <= 2 && !sentence:
		return true
	case bigger < 0.9:
		return false
	}
	if sentence && !number || lines > 2 || wide > 110 {
		return false
	}
	distinct := b.bold && !t.body.bold || b.style.font != t.body.font && !b.style.italic && b.style.mono == t.body.mono && number
	follows := next != nil && next.kind != heading || next == nil
	caps := upper == letters && letters >= 4
	switch {
	case b.bold && !t.body.bold && (b.kind == paragraph || alone) && follows && last != ':' && last != '：':
		return lines == 1 || number
	case distinct && number:
		return true
	case caps && (number || lines == 1 && wide <= 50 && b.kind == paragraph && b.lines[0].spans[0].link == ""):
		return bigger >= 0.95
	case number && b.style.italic && !t.body.italic && lines == 1 && wide < 80:
		return true
	}
	return false
}

// setLevels ranks the styles of the headings; numbers and the outline overrule.
func (t *typography) setLevels(found []*block) {
	styleOf := func(b *block) headStyle {
		text := b.joined(plain)
		return headStyle{math.Round(b.style.size*2) / 2, b.bold, text == strings.ToUpper(text)}
	}
	seen := map[headStyle]int{}
	for _, b := range found {
		seen[styleOf(b)]++
	}
	for s := range seen {
		t.levels = append(t.levels, s)
	}
	slices.SortFunc(t.levels, func(a, b headStyle) int {
		flag := func(v bool) int {
			if v {
				return 0
			}
			return 1
		}
		return cmp.Or(-cmp.Compare(a.size, b.size), cmp.Compare(flag(a.bold), flag(b.bold)), cmp.Compare(flag(a.caps), flag(b.caps)))
	})
	// A title is alone in its style, and first.
	t.title = len(found) > 1 && len(t.levels) > 1 && styleOf(found[0]) == t.levels[0] && seen[t.levels[0]] == 1
	offset := 0
	if t.title {
		offset = 1
	}
	for i, b := range found {
		text := b.joined(plain)
		level := 1 + slices.Index(t.levels, styleOf(b))
		if m := numbered.FindStringSubmatch(text); m != nil && !(t.title && i == 0) {
			level = offset + 1 + strings.Count(strings.Trim(m[1], "."), ".")
		}
		if o, ok := t.outline[normal(text)]; ok {
			level = o
		}
		if h := b.lines[0].heading; h > 0 {
			level = h
		}
		b.level = min(max(level, 1), 6)
	}
}

// normal makes titles comparable: letters and digits only, in lower case.
func normal(s string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsLetter(c) || unicode.IsDigit(c) {
			return unicode.ToLower(c)
		}
		return -1
	}, s)
}

func plain(s string) string { return s }

// nest sets the levels of list items by their indentation.
func nest(bs []block) {
	var stack []float64
	for i := range bs {
		b := &bs[i]
		if b.kind != listItem {
			if b.kind != pictureBlock {
				stack = stack[:0]
			}
			continue
		}
		x := b.lines[0].box.x0
		if b.lines[0].rtl {
			x = -b.lines[0].box.x1
		}
		tol := 0.6 * b.style.size
		for len(stack) > 0 && x < stack[len(stack)-1]-tol {
			stack = stack[:len(stack)-1]
		}
		if len(stack) == 0 || x > stack[len(stack)-1]+tol {
			if len(stack) > 0 && x-stack[len(stack)-1] > 20*b.style.size {
				// Another column, not another level.
				stack = stack[:0]
			}
			stack = append(stack, x)
		}
		b.level = min(len(stack)-1, 8)
	}
}

// render writes the blocks of one page as Markdown.
func render(bs []block) string {
	nest(bs)
	var out strings.Builder
	var prev *block
	for i := range bs {
		b := &bs[i]
		text := b.render()
		if text == "" {
			continue
		}
		if prev != nil {
			if prev.kind == listItem && b.kind == listItem {
				out.WriteByte('\n')
			} else {
				out.WriteString("\n\n")
			}
		}
		out.WriteString(text)
		prev = b
	}
	return out.String()
}

func (b *block) render() string {
	switch b.kind {
	case tableBlock:
		return doc.Table(b.table.rows)
	case pictureBlock:
		if b.picture.mark == "" {
			return ""
		}
		return doc.ImageMark(b.picture.mark)
	case code:
		return b.renderCode()
	case heading:
		text := strings.TrimSpace(b.joined(plain))
		if text == "" {
			return ""
		}
		return strings.Repeat("#", b.level) + " " + doc.EscapeInline(text)
	case listItem:
		text := b.joined(doc.EscapeInline)
		body := text
		marker := b.marker
		if isBullet(marker) {
			_, n := utf8.DecodeRuneInString(text)
			if strings.HasPrefix(text, `\`) {
				n++
			}
			body = strings.TrimSpace(text[n:])
			if body == "" {
				return ""
			}
		} else {
			// Only "3." and "3)" are list marks in Markdown; others stay as text.
			body = strings.TrimSpace(strings.TrimPrefix(text, marker))
			if core := strings.TrimRight(marker, ".)"); !allDigits(core) || len(marker) != len(core)+1 {
				body, marker = text, "-"
			}
		}
		return strings.Repeat("    ", b.level) + marker + " " + body
	}
	text := b.joined(doc.EscapeInline)
	if text == "" {
		return ""
	}
	if b.note != "" {
		if body, ok := strings.CutPrefix(text, "[^"+b.note+"]"); ok {
			return "[^" + b.note + "]: " + strings.TrimSpace(body)
		}
	}
	return doc.EscapeStart(text)
}

func (b *block) renderCode() string {
	left := math.Inf(1)
	for _, l := range b.lines {
		left = min(left, l.box.x0)
	}
	var sb strings.Builder
	fence := "```"
	for _, l := range b.lines {
		if strings.Contains(l.text(), "```") {
			fence = "````"
		}
	}
	sb.WriteString(fence)
	prev := 0.0
	for i, l := range b.lines {
		if i > 0 && l.base-prev > 1.9*l.style.size {
			sb.WriteByte('\n')
		}
		prev = l.base
		sb.WriteByte('\n')
		n := utf8.RuneCountInString(l.text())
		if n > 0 {
			if pitch := l.box.width() / float64(n); pitch > 0 {
				sb.WriteString(strings.Repeat(" ", min(int(math.Round((l.box.x0-left)/pitch)), 80)))
			}
		}
		sb.WriteString(l.text())
	}
	sb.WriteString("\n" + fence)
	return sb.String()
}
