package doc

import (
	"strings"
	"unicode/utf8"
)

// ImageMark returns the mark of a picture in Markdown.
func ImageMark(ref string) string { return "[IMAGE_REF: " + ref + "]" }

// Table renders rows as a GitHub-flavoured table; the first row is its head.
// Rows may be ragged. A merged cell is the caller's to repeat, so that every
// row says all that holds for it. It returns "" for a table without cells.
func Table(rows [][]string) string {
	cols := 0
	for _, r := range rows {
		cols = max(cols, len(r))
	}
	if cols == 0 {
		return ""
	}
	var b strings.Builder
	for i, r := range rows {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteByte('|')
		for c := range cols {
			cell := ""
			if c < len(r) {
				cell = Cell(r[c])
			}
			b.WriteByte(' ')
			b.WriteString(cell)
			if cell != "" {
				b.WriteByte(' ')
			}
			b.WriteByte('|')
		}
		if i == 0 {
			b.WriteString("\n|")
			b.WriteString(strings.Repeat(" --- |", cols))
		}
	}
	return b.String()
}

// Cell makes Markdown fit for a table cell: one line, bars escaped.
func Cell(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	return strings.ReplaceAll(strings.ReplaceAll(s, `\|`, "|"), "|", `\|`)
}

// Escape makes plain text fit for a paragraph of Markdown: EscapeInline, and
// at the start what would make it a heading, a list, a quotation or a rule.
func Escape(s string) string {
	if strings.IndexAny(s, "*_`<[]\\#>+-=~0123456789|") < 0 {
		return s
	}
	return escapeStart(s) + EscapeInline(trimStart(s))
}

// EscapeStart is Escape for a paragraph whose inner marks are already right.
func EscapeStart(s string) string { return escapeStart(s) + trimStart(s) }

// EscapeInline makes plain text fit for the inside of a line of Markdown. Only
// what would change its meaning is escaped, so that ordinary text stays as it
// is: emphasis and code marks that could open or close, HTML tags, links.
func EscapeInline(s string) string {
	if strings.IndexAny(s, "*_`<]\\") < 0 {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 8)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch c {
		case '\\':
			if i+1 < len(s) && isPunct(s[i+1]) {
				b.WriteByte('\\')
			}
		case '*':
			if !spaceAround(s, i) {
				b.WriteByte('\\')
			}
		case '_':
			if !wordAround(s, i) && !spaceAround(s, i) {
				b.WriteByte('\\')
			}
		case '`':
			b.WriteByte('\\')
		case '<':
			if i+1 < len(s) && (isLetter(s[i+1]) || s[i+1] == '/' || s[i+1] == '!' || s[i+1] == '?') {
				b.WriteByte('\\')
			}
		case ']':
			if i+1 < len(s) && (s[i+1] == '(' || s[i+1] == '[') {
				b.WriteByte('\\')
			}
		}
		b.WriteByte(c)
	}
	return b.String()
}

// trimStart cuts what escapeStart has written.
func trimStart(s string) string {
	t := strings.TrimLeft(s, " \t")
	if t == "" {
		return s
	}
	switch t[0] {
	case '#', '>', '+', '-', '=', '|', '~':
		return t[1:]
	}
	if n := digits(t); n > 0 && n < len(t) && (t[n] == '.' || t[n] == ')') {
		return t[n+1:]
	}
	return t
}

// escapeStart returns the escaped form of the part that trimStart cuts.
func escapeStart(s string) string {
	t := strings.TrimLeft(s, " \t")
	if t == "" {
		return ""
	}
	next := func(n int) bool { return len(t) == n || t[n] == ' ' || t[n] == '\t' }
	switch c := t[0]; c {
	case '#':
		if next(len(t) - len(strings.TrimLeft(t, "#"))) {
			return `\#`
		}
		return "#"
	case '>', '|':
		return `\` + string(c)
	case '+':
		if next(1) {
			return `\+`
		}
		return "+"
	case '-', '=', '~':
		if next(1) || strings.Trim(t, string(c)+" ") == "" || strings.HasPrefix(t, "~~~") {
			return `\` + string(c)
		}
		return string(c)
	}
	if n := digits(t); n > 0 && n < len(t) && (t[n] == '.' || t[n] == ')') {
		if n <= 9 && next(n+1) {
			return t[:n] + `\` + t[n:n+1]
		}
		return t[:n+1]
	}
	return ""
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

func isPunct(c byte) bool {
	return c > ' ' && c < 0x7f && !isLetter(c) && (c < '0' || c > '9')
}

func spaceAround(s string, i int) bool {
	return (i == 0 || s[i-1] == ' ') && (i+1 == len(s) || s[i+1] == ' ')
}

func wordAround(s string, i int) bool {
	word := func(c byte) bool {
		return isLetter(c) || c >= '0' && c <= '9' || c == '_' || c >= utf8.RuneSelf
	}
	return i > 0 && i+1 < len(s) && word(s[i-1]) && word(s[i+1])
}
