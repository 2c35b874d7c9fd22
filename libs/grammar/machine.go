package grammar

import (
	"encoding/binary"
	"slices"
	"strings"
	"sync"
)

// op is what an instruction does.
type op uint8

const (
	opBytes  op = iota // takes one byte of set
	opText             // takes the inside of a string, min to max characters
	opWord             // takes the bytes of word
	opSpace            // takes white space, or none
	opSplit            // goes on at each of to
	opCall             // goes on at to[0], and at next after opReturn
	opReturn           // ends a call, or all
)

// instruction is a step of the program; next is where it goes on.
type instruction struct {
	op       op
	next     int32
	to       []int32
	set      byteSet
	word     string
	opens    bool  // word begins an object or a list
	min, max int32 // max < 0: no limit
}

type byteSet [4]uint64

func (s *byteSet) add(from, to byte) {
	for b := int(from); b <= int(to); b++ {
		s[b>>6] |= 1 << (b & 63)
	}
}

func (s *byteSet) has(b byte) bool { return s[b>>6]>>(b&63)&1 != 0 }

// frame is where a call returns to. Equal frames of a grammar are one.
type frame struct {
	ret    int32
	parent *frame
	id     uint32
	depth  int32
}

// thread is one way through the program, standing before an instruction that takes bytes.
type thread struct {
	pc    int32
	frame *frame
	// at is how far it is within its instruction: the place in a word, in white space, or in a character.
	at uint8
	// left and need are the characters that a string may still and must still have; left < 0: no limit.
	left, need int32
}

// state is all that is known of a text on its way. It is fixed but for next, which the grammar's lock guards.
type state struct {
	threads []thread
	accept  bool // the text may end here
	next    [256]*state
}

// dead is where no text goes on.
var dead = &state{}

const (
	// maxDepth bounds how deep values lie in one another, and maxFrames how many calls do: a level takes four at most.
	maxDepth  = 64
	maxFrames = 4 * maxDepth
	// maxStates bounds the states that a grammar keeps, of 2 KiB each.
	maxStates = 4096
	// maxSpace bounds indentation.
	maxSpace = 16
)

// Grammar is a schema, ready to be matched.
type Grammar struct {
	program []instruction
	begin   int32

	mu     sync.Mutex
	frames map[frameKey]*frame
	made   uint32 // frames, ever
	states map[string]*state
	start  *state // nil: not made
}

type frameKey struct {
	ret    int32
	parent uint32
}

// first returns the state of the empty text. The caller holds the lock.
func (g *Grammar) first() *state {
	if g.start == nil {
		c := closure{g: g, seen: map[thread]bool{}}
		c.add(g.begin, nil)
		g.start = g.intern(c)
	}
	return g.start
}

// step returns the state after one more byte. The caller holds the lock.
func (g *Grammar) step(s *state, b byte) *state {
	if n := s.next[b]; n != nil {
		return n
	}
	c := closure{g: g, seen: map[thread]bool{}}
	for _, t := range s.threads {
		c.advance(t, b)
	}
	n := dead
	if len(c.threads) > 0 || c.accept {
		n = g.intern(c)
	}
	s.next[b] = n
	return n
}

// call returns the frame of a call, nil if it would be too deep.
func (g *Grammar) call(ret int32, parent *frame) *frame {
	k, depth := frameKey{ret: ret}, int32(1)
	if parent != nil {
		k.parent, depth = parent.id, parent.depth+1
	}
	if f := g.frames[k]; f != nil {
		return f
	}
	if depth > 2*maxFrames { // calls that call themselves with nothing between
		return nil
	}
	g.made++
	f := &frame{ret: ret, parent: parent, id: g.made, depth: depth}
	if g.frames == nil {
		g.frames = map[frameKey]*frame{}
	}
	g.frames[k] = f
	return f
}

// intern returns the one state of these threads.
func (g *Grammar) intern(c closure) *state {
	slices.SortFunc(c.threads, compareThreads)
	key := make([]byte, 0, 16*len(c.threads)+1)
	if c.accept {
		key = append(key, 1)
	}
	for _, t := range c.threads {
		id := uint32(0)
		if t.frame != nil {
			id = t.frame.id
		}
		key = binary.AppendVarint(key, int64(t.pc))
		key = binary.AppendUvarint(key, uint64(id))
		key = append(key, t.at)
		key = binary.AppendVarint(key, int64(t.left))
		key = binary.AppendVarint(key, int64(t.need))
	}
	if s := g.states[string(key)]; s != nil {
		return s
	}
	if len(g.states) >= maxStates { // texts on their way keep what they need
		g.frames, g.states, g.start = nil, nil, nil
	}
	if g.states == nil {
		g.states = map[string]*state{}
	}
	s := &state{threads: c.threads, accept: c.accept}
	g.states[string(key)] = s
	return s
}

func compareThreads(a, b thread) int {
	id := func(f *frame) int32 {
		if f == nil {
			return 0
		}
		return int32(f.id)
	}
	for _, d := range [...]int32{a.pc - b.pc, id(a.frame) - id(b.frame), int32(a.at) - int32(b.at), a.left - b.left, a.need - b.need} {
		if d != 0 {
			return int(d)
		}
	}
	return 0
}

// closure gathers threads.
type closure struct {
	g       *Grammar
	threads []thread
	accept  bool
	seen    map[thread]bool
}

// add brings a thread to the instructions that take bytes.
func (c *closure) add(pc int32, f *frame) {
	in := &c.g.program[pc]
	switch in.op {
	case opSplit:
		for _, to := range in.to {
			c.add(to, f)
		}
	case opCall:
		if called := c.g.call(in.next, f); called != nil {
			c.add(in.to[0], called)
		}
	case opReturn:
		if f == nil {
			c.accept = true
			return
		}
		c.add(f.ret, f.parent)
	case opText:
		c.text(thread{pc: pc, frame: f, left: in.max, need: in.min})
	case opSpace:
		c.keep(thread{pc: pc, frame: f})
		c.add(in.next, f)
	case opWord:
		if in.opens && f != nil && f.depth > maxFrames {
			return
		}
		c.keep(thread{pc: pc, frame: f})
	default:
		c.keep(thread{pc: pc, frame: f})
	}
}

func (c *closure) keep(t thread) {
	if !c.seen[t] {
		c.seen[t] = true
		c.threads = append(c.threads, t)
	}
}

// text keeps a thread that stands between characters of a string, and lets it leave where it may.
func (c *closure) text(t thread) {
	if t.left != 0 {
		c.keep(t)
	}
	if t.need == 0 {
		c.add(c.g.program[t.pc].next, t.frame)
	}
}

// advance moves a thread over a byte.
func (c *closure) advance(t thread, b byte) {
	in := &c.g.program[t.pc]
	switch in.op {
	case opBytes:
		if in.set.has(b) {
			c.add(in.next, t.frame)
		}
	case opWord:
		if in.word[t.at] != b {
			return
		}
		if t.at++; int(t.at) == len(in.word) {
			c.add(in.next, t.frame)
			return
		}
		c.keep(t)
	case opSpace:
		// One blank, or a line break with indentation.
		switch {
		case b == ' ' && t.at == 0:
			c.add(in.next, t.frame)
		case b == '\n' && t.at == 0, (b == ' ' || b == '\t') && t.at > 0 && t.at <= maxSpace:
			t.at++
			c.keep(t)
			c.add(in.next, t.frame)
		}
	case opText:
		at := inText(t.at, b)
		if at == textOut {
			return
		}
		if t.at = at; at != textBetween {
			c.keep(t)
			return
		}
		if t.left > 0 {
			t.left--
		}
		t.need = max(0, t.need-1)
		c.text(t)
	}
}

// Places within the inside of a string.
const (
	textBetween uint8 = iota // characters
	textOne                  // one more byte of a character, from 80 to BF
	textTwo
	textThree
	textE0 // after that byte, whose next one is bound more closely
	textED
	textF0
	textF4
	textEscape // after a backslash
	textHex4   // four digits to come
	textHex3
	textHex2
	textHex1
	textHexD // three, after a d: not those of half a surrogate pair
	textOut  // the byte does not belong there
)

// inText is the machine of a string's inside: JSON in well-formed UTF-8, without halves of surrogate pairs.
func inText(at, b byte) byte {
	from, to, next := byte(0x80), byte(0xBF), textBetween
	switch at {
	case textBetween:
		switch {
		case b == '\\':
			return textEscape
		case b == '"' || b < 0x20:
			return textOut
		case b < 0x80:
			return textBetween
		case b == 0xE0:
			return textE0
		case b == 0xED:
			return textED
		case b == 0xF0:
			return textF0
		case b == 0xF4:
			return textF4
		case b >= 0xC2 && b <= 0xDF:
			return textOne
		case b >= 0xE1 && b <= 0xEF:
			return textTwo
		case b >= 0xF1 && b <= 0xF3:
			return textThree
		}
		return textOut
	case textEscape:
		switch {
		case strings.IndexByte(`"\/bfnrt`, b) >= 0:
			return textBetween
		case b == 'u':
			return textHex4
		}
		return textOut
	case textHex4, textHex3, textHex2, textHex1:
		switch {
		case !isHex(b):
			return textOut
		case at == textHex4 && (b == 'd' || b == 'D'):
			return textHexD
		case at == textHex1:
			return textBetween
		}
		return at + 1
	case textHexD:
		from, to, next = '0', '7', textHex2
	case textTwo:
		next = textOne
	case textThree:
		next = textTwo
	case textE0:
		from, next = 0xA0, textOne
	case textED:
		to, next = 0x9F, textOne
	case textF0:
		from, next = 0x90, textTwo
	case textF4:
		to, next = 0x8F, textTwo
	}
	if b < from || b > to {
		return textOut
	}
	return next
}

func isHex(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'a' && b <= 'f' || b >= 'A' && b <= 'F'
}
