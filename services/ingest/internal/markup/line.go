package markup

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/clara-suite/clara/services/ingest/internal/doc"
)

// Style is how a piece of text looks.
type Style struct {
	Bold, Italic, Strike, Code bool
	// Script is +1 for superscript, -1 for subscript.
	Script int8
	// Link is a target, or "".
	Link string
}

// span is text of one style. Raw text is Markdown already.
type span struct {
	text  string
	style Style
	raw   bool
}

// Line is formatted text, gathered piece by piece. A newline in it is a line
// break within the paragraph. The zero value is empty and ready.
type Line struct{ spans []span }

// Add appends plain text.
func (l *Line) Add(text string, s Style) {
	if text == "" {
		return
	}
	if s.Script != 0 {
		text, s.Script = script(text, s.Script), 0
	}
	l.spans = append(l.spans, span{text: clean(text), style: s})
}

// merged returns the pieces with neighbours of one style joined.
func (l *Line) merged() []span {
	var out []span
	var b strings.Builder
	for i := 0; i < len(l.spans); {
		s := l.spans[i]
		j := i + 1
		for j < len(l.spans) && !s.raw && !l.spans[j].raw && l.spans[j].style == s.style {
			j++
		}
		if j > i+1 {
			b.Reset()
			for _, t := range l.spans[i:j] {
				b.WriteString(t.text)
			}
			s.text = b.String()
		}
		out = append(out, s)
		i = j
	}
	return out
}

// AddRaw appends text that is Markdown already: formulas, picture marks, note references.
func (l *Line) AddRaw(md string) {
	if md != "" {
		l.spans = append(l.spans, span{text: md, raw: true})
	}
}

// Append appends the pieces of another line.
func (l *Line) Append(o Line) { l.spans = append(l.spans, o.spans...) }

// Task takes a box off the beginning of the line, ticked or not, and returns
// it as Markdown marks a task: "[x] " or "[ ] "; "" if the line is none.
func (l *Line) Task() string {
	for i, s := range l.spans {
		text := strings.TrimLeftFunc(s.text, unicode.IsSpace)
		if text == "" {
			continue
		}
		mark := ""
		switch r, _ := utf8.DecodeRuneInString(text); {
		case s.raw:
			return ""
		case r == '☐':
			mark = "[ ] "
		case r == '☑' || r == '☒':
			mark = "[x] "
		default:
			return ""
		}
		rest := append([]span{}, l.spans[i:]...)
		rest[0].text = strings.TrimLeftFunc(text[len("☐"):], unicode.IsSpace)
		if all := (Line{spans: rest}); all.Blank() || strings.ContainsAny(all.Text(), "☐☑☒") {
			return "" // a box without a text, or a choice on one line
		}
		l.spans = rest
		return mark
	}
	return ""
}

// Reset empties the line.
func (l *Line) Reset() { l.spans = l.spans[:0] }

// Blank reports whether the line holds nothing to be seen.
func (l *Line) Blank() bool {
	for _, s := range l.spans {
		if strings.TrimSpace(s.text) != "" {
			return false
		}
	}
	return true
}

// Text returns the text without any Markdown, raw pieces as they are.
func (l *Line) Text() string {
	var b strings.Builder
	for _, s := range l.spans {
		b.WriteString(s.text)
	}
	return b.String()
}

// Weight returns how many bytes of visible text the line has, and how many of
// them are bold.
func (l *Line) Weight() (all, bold int) {
	for _, s := range l.spans {
		n := len(strings.TrimSpace(s.text))
		all += n
		if s.style.Bold {
			bold += n
		}
	}
	return all, bold
}

// Paragraph returns the line as Markdown that may begin a block: what would
// make a heading or a list of it is escaped.
func (l *Line) Paragraph() string { return l.render(true, true) }

// Inline returns the line as Markdown that stands within a block (after a list
// marker, in a table cell).
func (l *Line) Inline() string { return l.render(false, true) }

// Heading returns the line for a heading: one line, no emphasis.
func (l *Line) Heading() string {
	return strings.Join(strings.Fields(l.render(false, false)), " ")
}

func (l *Line) render(start, emphasis bool) string {
	var b strings.Builder
	spans := l.merged()
	for i := 0; i < len(spans); {
		// A link may hold text of several styles: its pieces are taken together.
		j := i + 1
		for j < len(spans) && spans[i].style.Link != "" && spans[j].style.Link == spans[i].style.Link {
			j++
		}
		var inner strings.Builder
		for k := i; k < j; k++ {
			before := b.String()
			if inner.Len() > 0 {
				before = inner.String()
			}
			after := ""
			if k+1 < len(spans) {
				after = spans[k+1].text
			}
			inner.WriteString(piece(spans[k], before, after, start, emphasis))
		}
		text := inner.String()
		if link := spans[i].style.Link; link != "" && strings.TrimSpace(text) != "" {
			lead, mid, tail := cut(text)
			if mid == link || "mailto:"+mid == link {
				text = lead + "<" + mid + ">" + tail
			} else {
				text = lead + "[" + mid + "](" + target(link) + ")" + tail
			}
		}
		b.WriteString(text)
		i = j
	}
	return tidy(b.String())
}

// piece renders one span, given what stands before and after it.
func piece(s span, before, after string, start, emphasis bool) string {
	if s.raw {
		return s.text
	}
	if s.style.Code && strings.TrimSpace(s.text) != "" {
		return Code(s.text)
	}
	parts := strings.Split(s.text, "\n")
	for i, p := range parts {
		if i > 0 || before == "" || strings.HasSuffix(before, "\n") {
			if start {
				parts[i] = doc.Escape(p)
				continue
			}
		}
		parts[i] = escapeWithin(p, i == 0 && (before == "" || strings.HasSuffix(before, " ")))
	}
	text := strings.Join(parts, "\n")
	mark := ""
	if s.style.Italic {
		mark = "*"
	}
	if s.style.Bold {
		mark += "**"
	}
	if s.style.Strike {
		mark += "~~"
	}
	if mark == "" || !emphasis || strings.Contains(s.text, "\n") || !strings.ContainsFunc(s.text, wordRune) {
		return text
	}
	lead, mid, tail := cut(text)
	if lead == "" && closed(first(mid)) && open(last(before)) || tail == "" && closed(last(mid)) && open(first(after)) {
		return text // CommonMark would not take the marks here as emphasis
	}
	return lead + mark + mid + reverse(mark) + tail
}

// escapeWithin escapes text that does not begin a line.
func escapeWithin(s string, afterSpace bool) string {
	if afterSpace {
		return doc.Escape("x " + s)[2:]
	}
	return doc.Escape("x" + s)[1:]
}

// Code returns text as a code span.
func Code(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	fence := "`"
	for strings.Contains(s, fence) {
		fence += "`"
	}
	if strings.HasPrefix(s, "`") || strings.HasSuffix(s, "`") {
		s = " " + s + " "
	}
	return fence + s + fence
}

// cut splits off the white space at both ends.
func cut(s string) (lead, mid, tail string) {
	mid = strings.TrimLeftFunc(s, unicode.IsSpace)
	lead = s[:len(s)-len(mid)]
	t := strings.TrimRightFunc(mid, unicode.IsSpace)
	return lead, t, mid[len(t):]
}

// tidy trims every line and drops blank ones at the ends.
func tidy(s string) string {
	if !strings.Contains(s, "\n") {
		return strings.TrimSpace(s)
	}
	var out []string
	for l := range strings.SplitSeq(s, "\n") {
		if l = strings.TrimSpace(l); l != "" {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}

// clean drops control characters and makes every space a plain one; soft
// hyphens and marks without width go too, they only guide a line breaker.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case r == '\r' || r == '\v' || r == '\u2028' || r == '\u2029':
			return '\n'
		case r == '\u00ad' || r == '\ufeff' || r == '\u200b':
			return -1
		case r == '\u00a0' || r == '\u202f' || r == '\u3000':
			return ' '
		case r < ' ' || r == 0x7f || r == utf8.RuneError:
			return -1
		}
		return r
	}, s)
}

// Link returns the target if it is one that a reader may keep: web, mail and
// telephone addresses and, with relative, paths of a web page. Scripts, files
// and places within the document give "".
func Link(s string, relative bool) string {
	s = strings.TrimSpace(s)
	if i := strings.IndexAny(s, ":/?#"); i > 0 && s[i] == ':' {
		switch strings.ToLower(s[:i]) {
		case "http", "https", "mailto", "ftp", "tel":
			return s
		}
		return ""
	}
	if !relative || s == "" || s[0] == '#' {
		return ""
	}
	return s
}

func target(s string) string {
	return strings.NewReplacer(" ", "%20", "(", "%28", ")", "%29", "<", "%3C", ">", "%3E", "\n", "", "\t", "").Replace(s)
}

func wordRune(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }
func closed(r rune) bool   { return r != 0 && !wordRune(r) && !unicode.IsSpace(r) }
func open(r rune) bool     { return r != 0 && wordRune(r) }

func first(s string) rune {
	if s == "" {
		return 0
	}
	r, _ := utf8.DecodeRuneInString(s)
	return r
}

func last(s string) rune {
	if s == "" {
		return 0
	}
	r, _ := utf8.DecodeLastRuneInString(s)
	return r
}

func reverse(mark string) string {
	if strings.HasSuffix(mark, "~~") && len(mark) > 2 {
		return "~~" + mark[:len(mark)-2]
	}
	return mark
}

const (
	supPlain = "0123456789+-=()ni"
	supMarks = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ"
	subPlain = "0123456789+-=()"
	subMarks = "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎"
)

// script writes text with raised or lowered characters where all of it has
// them, else as it is: the reader of plain text has no other way to see it.
func script(s string, dir int8) string {
	plain, marks := supPlain, []rune(supMarks)
	if dir < 0 {
		plain, marks = subPlain, []rune(subMarks)
	}
	var b strings.Builder
	for _, r := range s {
		i := strings.IndexRune(plain, r)
		if i < 0 {
			return s
		}
		b.WriteRune(marks[i])
	}
	return b.String()
}
