package split

import (
	"bufio"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/clara-suite/clara/libs/clara"
)

// parser finds the blocks of Markdown line by line.
type parser struct {
	s *splitter
	// lines are those of the open paragraph or list item.
	lines []string
	size  int
	item  bool
	// cont: a piece of the open paragraph was added already.
	cont bool
	// group is the open table or block of code; fence closes the latter.
	group *group
	fence string
	table bool
}

const (
	// maxLine is the size of a line from which on it is taken in pieces.
	maxLine = 64 << 10
	// maxBlock is the size of a paragraph from which on it is taken in pieces.
	maxBlock = 256 << 10
	// maxTitle is the length of a line that an underline makes a heading.
	maxTitle = 300
)

// read parses text to its end, which ends the open block too.
func (s *splitter) read(r io.Reader) error {
	br := bufio.NewReaderSize(r, maxLine)
	rest := ""
	cut := false // the line before was only a part
	for {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		chunk, err := br.ReadSlice('\n')
		line := rest + string(chunk)
		if !utf8.ValidString(line) && (err == nil || err == io.EOF) {
			line = strings.ToValidUTF8(line, "\ufffd")
		}
		rest = ""
		switch err {
		case nil:
			line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		case bufio.ErrBufferFull:
			n := lastSpace(line)
			line, rest = strings.ToValidUTF8(line[:n], "\ufffd"), line[n:]
			if err := s.parse.part(line, cut); err != nil {
				return err
			}
			cut = true
			continue
		case io.EOF:
			if line == "" && !cut {
				return s.parse.end()
			}
		default:
			return clara.Errorf(clara.Unavailable, "read the text: %w", err)
		}
		if cut {
			if e := s.parse.part(line, true); e != nil {
				return e
			}
			if e := s.parse.endLine(); e != nil {
				return e
			}
			cut = false
		} else if e := s.parse.line(line); e != nil {
			return e
		}
		if err == io.EOF {
			return s.parse.end()
		}
	}
}

// lastSpace is the place of a line after its last white space, else of its last
// whole character.
func lastSpace(s string) int {
	if i := strings.LastIndexAny(s, " \t"); i > 0 {
		return i
	}
	for i := 1; i < utf8.UTFMax && i < len(s); i++ {
		if utf8.RuneStart(s[len(s)-i]) {
			if !utf8.FullRuneInString(s[len(s)-i:]) {
				return len(s) - i
			}
			break
		}
	}
	return len(s)
}

// part takes a piece of a line that is too long to be anything but text.
func (p *parser) part(s string, goesOn bool) error {
	if p.group != nil {
		return p.s.add(unit{text: s, kind: row, group: p.group})
	}
	if !goesOn {
		if err := p.flush(); err != nil {
			return err
		}
	}
	err := p.s.add(unit{text: s, kind: paragraph, joined: p.cont})
	p.cont = true
	return err
}

func (p *parser) endLine() error {
	p.cont = false
	return p.flush()
}

// end ends whatever block is open.
func (p *parser) end() error {
	if err := p.flush(); err != nil {
		return err
	}
	p.group, p.table, p.fence = nil, false, ""
	return p.s.release()
}

// flush adds the open paragraph or item.
func (p *parser) flush() error {
	if len(p.lines) == 0 {
		p.cont, p.item = false, false
		return nil
	}
	k := paragraph
	if p.item {
		k = item
	}
	text := strings.Join(p.lines, "\n")
	u := unit{text: text, kind: k, joined: p.cont}
	if p.cont {
		u.text = "\n" + text
	}
	p.lines, p.size, p.cont, p.item = p.lines[:0], 0, false, false
	return p.s.add(u)
}

// open appends a line to the open block; one that grows too large goes in pieces.
func (p *parser) open(l string) error {
	p.lines = append(p.lines, l)
	if p.size += len(l); p.size < maxBlock {
		return nil
	}
	wasItem := p.item
	if err := p.flush(); err != nil {
		return err
	}
	p.cont, p.item = true, wasItem
	return nil
}

func (p *parser) line(l string) error {
	trimmed := strings.TrimSpace(l)
	if p.fence != "" {
		return p.codeLine(l, trimmed)
	}
	if p.table {
		if strings.Contains(l, "|") && trimmed != "" {
			return p.s.add(unit{text: trimmed, kind: row, group: p.group})
		}
		p.table, p.group = false, nil
		if err := p.s.release(); err != nil {
			return err
		}
	}
	switch {
	case trimmed == "":
		return p.flush()
	case strings.HasPrefix(trimmed, "```") || strings.HasPrefix(trimmed, "~~~"):
		return p.openFence(trimmed)
	}
	if level, title := atx(l); level > 0 {
		if err := p.flush(); err != nil {
			return err
		}
		return p.s.heading(level, title, trimmed)
	}
	if n := len(p.lines); n > 0 && isSeparator(trimmed) && strings.Contains(p.lines[n-1], "|") {
		return p.openTable(trimmed)
	}
	if len(p.lines) == 1 && !p.item && !p.cont && len(p.lines[0]) <= maxTitle {
		if level := setext(trimmed); level > 0 {
			title := strings.TrimSpace(p.lines[0])
			text := title + "\n" + trimmed
			p.lines, p.size = p.lines[:0], 0
			return p.s.heading(level, title, text)
		}
	}
	if isItem(l) {
		if err := p.flush(); err != nil {
			return err
		}
		p.item = true
		return p.open(strings.TrimRight(l, " \t"))
	}
	return p.open(strings.TrimRight(l, " \t"))
}

func (p *parser) openFence(trimmed string) error {
	if err := p.flush(); err != nil {
		return err
	}
	n := 0
	for n < len(trimmed) && trimmed[n] == trimmed[0] {
		n++
	}
	p.fence = trimmed[:n]
	g := &group{head: trimmed, tail: p.fence}
	g.tokens = p.s.count(g.head) + p.s.count(g.tail) + p.s.seps["\n"]
	if 2*g.tokens > p.s.o.MaxTokens {
		return p.s.add(unit{text: g.head, kind: paragraph})
	}
	p.group = g
	return p.s.add(unit{kind: top, group: g})
}

func (p *parser) codeLine(l, trimmed string) error {
	if strings.HasPrefix(trimmed, p.fence) && strings.Trim(trimmed, p.fence[:1]) == "" {
		p.fence, p.group = "", nil
		return p.s.release()
	}
	return p.s.add(unit{text: strings.TrimRight(l, " \t"), kind: row, group: p.group})
}

// openTable begins a table: its head is the last line of the open paragraph.
func (p *parser) openTable(sep string) error {
	n := len(p.lines)
	head := strings.TrimSpace(p.lines[n-1])
	p.lines = p.lines[:n-1]
	if err := p.flush(); err != nil {
		return err
	}
	g := &group{head: head + "\n" + sep}
	g.tokens = p.s.count(g.head)
	p.table = true
	if 2*g.tokens > p.s.o.MaxTokens {
		// A head that would fill most of every passage stands once, as text.
		p.table = false
		return p.s.add(unit{text: g.head, kind: paragraph})
	}
	p.group = g
	return p.s.add(unit{kind: top, group: g})
}

// atx returns the level and text of a heading of the form "## Text".
func atx(l string) (int, string) {
	t := strings.TrimLeft(l, " ")
	if len(l)-len(t) > 3 {
		return 0, ""
	}
	n := 0
	for n < len(t) && t[n] == '#' {
		n++
	}
	if n == 0 || n > 6 || n < len(t) && t[n] != ' ' && t[n] != '\t' {
		return 0, ""
	}
	title := strings.TrimSpace(t[n:])
	if c := strings.TrimRight(title, "#"); c == "" || strings.HasSuffix(c, " ") {
		title = strings.TrimSpace(c)
	}
	if title == "" {
		return 0, ""
	}
	return n, title
}

// setext returns the level that an underline makes of the line above it.
func setext(t string) int {
	switch {
	case len(t) >= 2 && strings.Trim(t, "=") == "":
		return 1
	case len(t) >= 2 && strings.Trim(t, "-") == "":
		return 2
	}
	return 0
}

// isSeparator reports whether a line parts the head of a table from its rows.
func isSeparator(t string) bool {
	return strings.Contains(t, "-") && strings.Contains(t, "|") && strings.Trim(t, "|:- \t") == ""
}

// isItem reports whether a line begins an item of a list.
func isItem(l string) bool {
	t := strings.TrimLeft(l, " \t")
	if len(t) >= 2 && (t[0] == '-' || t[0] == '*' || t[0] == '+') && (t[1] == ' ' || t[1] == '\t') {
		return true
	}
	n := 0
	for n < len(t) && n < 10 && t[n] >= '0' && t[n] <= '9' {
		n++
	}
	return n > 0 && n+1 < len(t) && (t[n] == '.' || t[n] == ')') && (t[n+1] == ' ' || t[n+1] == '\t')
}
