package split

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
)

// Version names the way of cutting. It changes whenever the same text would be
// cut otherwise, so that stored passage sets of the old way are told apart.
const Version = "1"

// MinTokens is the least limit that a passage may have.
const MinTokens = 16

// Options say how to cut.
type Options struct {
	// MaxTokens is the limit of a passage, MinTokens at least.
	MaxTokens int
	// Count returns the number of tokens of a text in the tokenizer that the
	// limit is meant in, without special tokens. It must be deterministic.
	Count func(text string) int
	// Overlap is how many tokens of a passage may be repeated at the start of
	// the next, in whole paragraphs, items or sentences. It is 0 by default.
	Overlap int
}

func (o Options) check() error {
	switch {
	case o.Count == nil:
		return clara.Errorf(clara.Invalid, "split text: no counter of tokens given")
	case o.MaxTokens < MinTokens:
		return clara.Errorf(clara.Invalid, "split text: the limit of %d tokens a passage is below %d", o.MaxTokens, MinTokens)
	case o.Overlap < 0 || o.Overlap > o.MaxTokens/2:
		return clara.Errorf(clara.Invalid, "split text: an overlap of %d tokens is not between 0 and half of the limit of %d", o.Overlap, o.MaxTokens)
	}
	return nil
}

// Document cuts a document. Passages have Ordinal, Text, Headings, pages (0 for
// formats without), Hash and Tokens; collection, document and file are left to
// the caller. Errors: Invalid options, or a context that ended.
func Document(ctx context.Context, d *doc.Document, o Options) ([]clara.Passage, error) {
	var out []clara.Passage
	s, err := newSplitter(ctx, o, func(p clara.Passage) error {
		out = append(out, p)
		return nil
	})
	if err != nil {
		return nil, err
	}
	paged := d.Format == doc.PDF || d.Format == doc.PPTX || d.Format == doc.XLSX
	for _, p := range d.Pages {
		if paged {
			s.page = p.Number
		}
		if err := s.read(strings.NewReader(p.Markdown)); err != nil {
			return nil, err
		}
	}
	return out, s.close()
}

// Stream cuts a text that may be larger than memory, without pages. Lines end
// in a line feed. Errors are those of Document, of reading, and of emit.
func Stream(ctx context.Context, r io.Reader, o Options, emit func(clara.Passage) error) error {
	s, err := newSplitter(ctx, o, emit)
	if err != nil {
		return err
	}
	if err := s.read(r); err != nil {
		return err
	}
	return s.close()
}

// kind is what a unit is.
type kind uint8

const (
	paragraph kind = iota
	heading
	item
	row // of a table or of code: a line of a group
	top // the head of a group alone
)

// group is a table or a block of code: lines that need a head (and a tail) in
// every passage that has some of them.
type group struct {
	head, tail string
	tokens     int
	// big: it does not fit one passage, its lines go wherever there is room.
	big bool
}

// unit is a piece of text that is not cut further while it fits.
type unit struct {
	text   string
	tokens int
	kind   kind
	page   int
	group  *group
	// joined: the text goes on from the unit before it, with its own white space.
	joined bool
	// fine is how far the text was cut already.
	fine grain
	path []string
	// repeated: it stands in the passage before already.
	repeated bool
}

type splitter struct {
	ctx  context.Context
	o    Options
	emit func(clara.Passage) error
	page int
	// bytes is the size above which a text is cut without being counted.
	bytes  int
	seps   map[string]int
	path   []string
	levels []int
	buf    []unit
	tokens int // estimate of buf as one text
	// held are the lines of a group that may yet fit as a whole.
	held    []unit
	holding int // their tokens
	ordinal int
	parse   parser
}

func newSplitter(ctx context.Context, o Options, emit func(clara.Passage) error) (*splitter, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	s := &splitter{ctx: ctx, o: o, emit: emit, bytes: 16 * o.MaxTokens, seps: map[string]int{}}
	for _, sep := range []string{"\n\n", "\n"} {
		s.seps[sep] = o.Count(sep)
	}
	s.parse.s = s
	return s, nil
}

func (s *splitter) close() error {
	if err := s.release(); err != nil {
		return err
	}
	return s.flush(true)
}

// heading adds a heading and makes it part of the path.
func (s *splitter) heading(level int, title, text string) error {
	if err := s.release(); err != nil {
		return err
	}
	// A new section begins a new passage unless the one at hand is short.
	if 2*s.tokens >= s.o.MaxTokens {
		if err := s.flush(false); err != nil {
			return err
		}
	}
	n := len(s.levels)
	for n > 0 && s.levels[n-1] >= level {
		n--
	}
	s.levels = append(s.levels[:n:n], level)
	s.path = append(s.path[:n:n], title)
	return s.add(unit{text: text, kind: heading})
}

// add counts a unit and puts it where there is room.
func (s *splitter) add(u unit) error {
	u.page, u.path = s.page, s.path
	if u.group == nil {
		if err := s.release(); err != nil {
			return err
		}
	}
	u.tokens = s.count(u.text)
	if u.group == nil || u.group.big {
		return s.put(u)
	}
	if len(s.held) > 0 && s.held[0].group != u.group {
		if err := s.release(); err != nil {
			return err
		}
	}
	s.held = append(s.held, u)
	s.holding += u.tokens + s.seps["\n"]
	if u.group.tokens+s.holding <= s.o.MaxTokens && len(s.held) < s.o.MaxTokens {
		return nil
	}
	u.group.big = true
	return s.releaseAs(false)
}

// release puts the lines of a group that turned out to fit as a whole.
func (s *splitter) release() error { return s.releaseAs(true) }

func (s *splitter) releaseAs(whole bool) error {
	if len(s.held) == 0 {
		return nil
	}
	held, total := s.held, s.holding
	s.held, s.holding = nil, 0
	if whole {
		if s.tokens+s.seps["\n\n"]+held[0].group.tokens+total > s.o.MaxTokens {
			if err := s.flush(false); err != nil {
				return err
			}
		}
	}
	for _, h := range held {
		if err := s.put(h); err != nil {
			return err
		}
	}
	return nil
}

// count returns the tokens of a text; one that is far too long is not counted.
func (s *splitter) count(text string) int {
	if len(text) > s.bytes {
		return s.o.MaxTokens + 1
	}
	return s.o.Count(text)
}

// put appends a unit to the passage at hand, or begins the next with it.
func (s *splitter) put(u unit) error {
	limit := s.o.MaxTokens
	if u.group != nil && u.group.tokens+s.seps["\n"]+u.tokens > limit {
		// The head leaves no room for the line: it goes without.
		u.group = nil
	}
	if u.group == nil && u.tokens > limit {
		if u.fine < runes {
			return s.cut(u)
		}
		if err := s.flush(true); err != nil {
			return err
		}
		return s.passage([]unit{u}) // halves it down to single characters
	}
	if s.tokens+s.cost(u) > limit {
		if err := s.flush(false); err != nil {
			return err
		}
		// What was kept for the next passage must leave room for the unit.
		if s.tokens+s.cost(u) > limit {
			if err := s.dropRepeated(); err != nil {
				return err
			}
		}
		if s.tokens+s.cost(u) > limit {
			if err := s.flush(true); err != nil {
				return err
			}
		}
	}
	s.tokens += s.cost(u)
	s.buf = append(s.buf, u)
	return nil
}

// cut puts the pieces of a unit that is too long.
func (s *splitter) cut(u unit) error {
	first := true
	return pieces(u.text, u.fine, s.o.MaxTokens, func(text string, fine grain) error {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		p := unit{text: text, kind: paragraph, page: u.page, path: u.path, fine: fine, joined: !first || u.joined}
		if first {
			p.kind = u.kind
			if p.kind == row {
				p.kind = paragraph
			}
		}
		first = false
		p.tokens = s.count(text)
		return s.put(p)
	})
}

// cost is what a unit adds to the passage at hand.
func (s *splitter) cost(u unit) int {
	if len(s.buf) == 0 {
		return u.tokens + s.head(nil, u)
	}
	last := &s.buf[len(s.buf)-1]
	return u.tokens + s.seps[between(*last, u)] + s.head(last, u)
}

func (s *splitter) head(last *unit, u unit) int {
	if u.group == nil || last != nil && last.group == u.group {
		return 0
	}
	return u.group.tokens + s.seps["\n"]
}

// between is what parts two units of a passage.
func between(a, b unit) string {
	switch {
	case b.joined:
		return ""
	case b.group != nil && a.group == b.group, a.kind == item && b.kind == item:
		return "\n"
	}
	return "\n\n"
}

// flush emits the passage at hand. Unless all is to go, headings at its end are
// kept for the next, and what may overlap is repeated there.
func (s *splitter) flush(all bool) error {
	done := s.buf
	var keep []unit
	if !all {
		n := len(done)
		for n > 0 && (done[n-1].kind == heading || done[n-1].kind == top) {
			n--
		}
		if n > 0 {
			done, keep = done[:n], done[n:]
		}
	}
	fresh := false
	for _, u := range done {
		fresh = fresh || !u.repeated
	}
	if fresh {
		if err := s.passage(done); err != nil {
			return err
		}
	}
	var next []unit
	if !all && fresh {
		next = s.overlap(done)
	}
	s.rebuild(append(next, keep...))
	return nil
}

// overlap returns the units at the end of a passage that the next repeats.
func (s *splitter) overlap(done []unit) []unit {
	room := s.o.Overlap
	n := len(done)
	for n > 0 && done[n-1].group == nil && done[n-1].tokens+s.seps["\n\n"] <= room {
		n--
		room -= done[n].tokens + s.seps["\n\n"]
	}
	if n == 0 {
		return nil // the whole passage: that would be the same again
	}
	out := append([]unit(nil), done[n:]...)
	for i := range out {
		out[i].repeated = true
	}
	return out
}

func (s *splitter) dropRepeated() error {
	var rest []unit
	for _, u := range s.buf {
		if !u.repeated {
			rest = append(rest, u)
		}
	}
	s.rebuild(rest)
	return nil
}

func (s *splitter) rebuild(units []unit) {
	s.buf, s.tokens = nil, 0
	for _, u := range units {
		s.tokens += s.cost(u)
		s.buf = append(s.buf, u)
	}
}

// passage emits units as one passage. Tokens of a whole are not the sum of the
// tokens of its parts: where there are more, it is cut in two.
func (s *splitter) passage(units []unit) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	text := assemble(units)
	if text == "" {
		return nil
	}
	n := s.o.Count(text)
	if n <= s.o.MaxTokens {
		return s.send(units, text, n)
	}
	if len(units) > 1 {
		half := middle(units)
		if err := s.passage(units[:half]); err != nil {
			return err
		}
		return s.passage(units[half:])
	}
	u := units[0]
	if u.fine >= runes && len([]rune(strings.TrimSpace(u.text))) <= 1 {
		return clara.Errorf(clara.Invalid, "split text: the character %q alone has %d tokens, more than the limit of %d", strings.TrimSpace(u.text), n, s.o.MaxTokens)
	}
	var parts []unit
	if u.group != nil { // the head too must stand somewhere
		parts = append(parts, unit{text: u.group.head, page: u.page, path: u.path, tokens: u.group.tokens})
	}
	if u.fine >= runes {
		r := []rune(u.text)
		for _, t := range []string{string(r[:len(r)/2]), string(r[len(r)/2:])} {
			parts = append(parts, unit{text: t, kind: u.kind, page: u.page, path: u.path, fine: runes, joined: true, tokens: s.count(t)})
		}
		return s.halves(parts)
	}
	err := pieces(u.text, u.fine, s.o.MaxTokens, func(t string, fine grain) error {
		parts = append(parts, unit{text: t, kind: u.kind, page: u.page, path: u.path, fine: fine, joined: true, tokens: s.count(t)})
		return nil
	})
	if err != nil {
		return err
	}
	return s.halves(parts)
}

// halves emits the parts of one unit, which don't fit one passage.
func (s *splitter) halves(parts []unit) error {
	if len(parts) < 2 {
		return s.passage(parts)
	}
	half := middle(parts)
	if err := s.passage(parts[:half]); err != nil {
		return err
	}
	return s.passage(parts[half:])
}

// middle is where about half of the tokens are passed, at least one unit on
// either side.
func middle(units []unit) int {
	total, sum := 0, 0
	for _, u := range units {
		total += u.tokens
	}
	for i, u := range units[:len(units)-1] {
		if sum += u.tokens; 2*sum >= total {
			return i + 1
		}
	}
	return len(units) - 1
}

func (s *splitter) send(units []unit, text string, tokens int) error {
	sum := sha256.Sum256([]byte(text))
	p := clara.Passage{
		Ordinal: s.ordinal, Text: text, Tokens: tokens, Hash: hex.EncodeToString(sum[:]),
		Headings: common(units), PageFirst: units[0].page, PageLast: units[len(units)-1].page,
	}
	s.ordinal++
	return s.emit(p)
}

// common is the heading path that all units share. A passage that is a heading
// and its section has that heading.
func common(units []unit) []string {
	var path []string
	begun := false
	for i, u := range units {
		if u.kind == heading && i+1 < len(units) {
			continue // those that lead to the text do not part it
		}
		if !begun {
			path, begun = u.path, true
			continue
		}
		n := 0
		for n < len(path) && n < len(u.path) && path[n] == u.path[n] {
			n++
		}
		if n == len(path) {
			continue
		}
		path = path[:n]
	}
	return append([]string(nil), path...)
}

// assemble writes units as one text.
func assemble(units []unit) string {
	var b strings.Builder
	for i, u := range units {
		text := u.text
		if i > 0 {
			b.WriteString(between(units[i-1], u))
		} else if u.kind != row && u.kind != top {
			text = strings.TrimLeft(text, " \t\n")
		}
		if u.group != nil && (i == 0 || units[i-1].group != u.group) {
			b.WriteString(u.group.head)
			if u.kind != top {
				b.WriteByte('\n')
			}
		}
		b.WriteString(text)
		if u.group != nil && u.group.tail != "" && (i+1 == len(units) || units[i+1].group != u.group) {
			b.WriteByte('\n')
			b.WriteString(u.group.tail)
		}
	}
	return strings.TrimRight(strings.TrimLeft(b.String(), "\n"), " \t\n")
}
