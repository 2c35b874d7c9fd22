package grammar

import (
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/clara-suite/clara/libs/clara"
)

// Vocabulary is the tokens of a model as a tree of their bytes. Safe for concurrent use.
type Vocabulary struct {
	texts []string // by id; "" for those that stand for none
	order []int32  // ids by their bytes
	nodes []branch // in the order of a walk; the last one marks the end

	mu    sync.Mutex
	masks map[*state][]uint64
}

// branch is a beginning of tokens.
type branch struct {
	b     byte
	depth uint8 // bytes of the longest way on from here, at most 255
	// plain has a bit for each place in a string from which all ways on from here stay inside of it.
	plain uint16
	end   int32 // of its branches, which follow it
	first int32 // of its tokens in order: those that end here, then those of its branches
}

// maxMasks bounds the masks that are kept, of a bit for each token.
const maxMasks = 512

// NewVocabulary makes the tree of so many tokens. text returns the bytes that a token stands for, "" for one that can't be
// part of a text.
func NewVocabulary(size int, text func(id int32) string) *Vocabulary {
	texts := make([]string, size)
	v := &Vocabulary{texts: texts, masks: map[*state][]uint64{}}
	for id := range int32(size) {
		if texts[id] = text(id); texts[id] != "" {
			v.order = append(v.order, id)
		}
	}
	slices.SortFunc(v.order, func(a, b int32) int {
		if c := strings.Compare(texts[a], texts[b]); c != 0 {
			return c
		}
		return int(a - b)
	})
	v.nodes = append(v.nodes, branch{})
	var path []int32 // nodes from the root's child to the present one
	before := ""
	for i, id := range v.order {
		s := texts[id]
		same := 0
		for same < len(before) && same < len(s) && before[same] == s[same] {
			same++
		}
		for _, n := range path[same:] {
			v.nodes[n].end = int32(len(v.nodes))
		}
		path = path[:same]
		for _, b := range []byte(s[same:]) {
			path = append(path, int32(len(v.nodes)))
			v.nodes = append(v.nodes, branch{b: b, first: int32(i)})
		}
		before = s
	}
	for _, n := range path {
		v.nodes[n].end = int32(len(v.nodes))
	}
	v.nodes[0].end = int32(len(v.nodes))
	v.nodes = append(v.nodes, branch{first: int32(len(v.order))})
	for i := len(v.nodes) - 2; i >= 0; i-- {
		n := &v.nodes[i]
		n.plain = 1<<textOut - 1
		for c := int32(i) + 1; c < n.end; c = v.nodes[c].end {
			child := v.nodes[c]
			n.depth = max(n.depth, min(child.depth, math.MaxUint8-1)+1)
			for at := range textOut {
				if to := inText(at, child.b); to == textOut || child.plain>>to&1 == 0 {
					n.plain &^= 1 << at
				}
			}
		}
	}
	return v
}

// mask returns a bit for each token that may follow. The caller holds the grammar's lock.
func (v *Vocabulary) mask(g *Grammar, s *state) []uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	if m := v.masks[s]; m != nil {
		return m
	}
	if len(v.masks) >= maxMasks {
		clear(v.masks)
	}
	m := make([]uint64, (len(v.texts)+63)/64)
	v.walk(g, s, 0, m)
	v.masks[s] = m
	return m
}

// walk sets the bits of the tokens that go on from a branch in a state.
func (v *Vocabulary) walk(g *Grammar, s *state, at int32, m []uint64) {
	n := v.nodes[at]
	for c := at + 1; c < n.end; c = v.nodes[c].end {
		child := &v.nodes[c]
		to := g.step(s, child.b)
		if to == dead {
			continue
		}
		inside := v.nodes[c+1].first // tokens that end here come before those of the branches
		if child.depth > 0 && staysInText(g, to, child) {
			inside = v.nodes[child.end].first
		} else if child.depth > 0 {
			v.walk(g, to, c, m)
		}
		for _, id := range v.order[child.first:inside] {
			m[id>>6] |= 1 << (id & 63)
		}
	}
}

// staysInText reports whether every way on from a branch is the inside of a string that the state stands in.
func staysInText(g *Grammar, s *state, n *branch) bool {
	for _, t := range s.threads {
		if g.program[t.pc].op == opText && n.plain>>t.at&1 != 0 && (t.left < 0 || t.left >= int32(n.depth) && n.depth < math.MaxUint8) {
			return true
		}
	}
	return false
}

// Matcher is one text on its way. It is for one goroutine.
type Matcher struct {
	g *Grammar
	v *Vocabulary
	s *state
}

// Matcher begins a text.
func (v *Vocabulary) Matcher(g *Grammar) *Matcher {
	g.mu.Lock()
	defer g.mu.Unlock()
	return &Matcher{g: g, v: v, s: g.first()}
}

// Filter makes the logits [V] of tokens that may not come next negative infinity. Those of end, which end the text,
// stay where it may end. Invalid where nothing is left.
func (m *Matcher) Filter(logits []float32, end []int32) error {
	m.g.mu.Lock()
	mask := m.v.mask(m.g, m.s)
	m.g.mu.Unlock()
	kept := make([]float32, len(end))
	for i, id := range end {
		if id >= 0 && int(id) < len(logits) {
			kept[i] = logits[id]
		}
	}
	none, left := float32(math.Inf(-1)), uint64(0)
	for w := 0; w<<6 < len(logits); w++ {
		word := uint64(0)
		if w < len(mask) {
			word = mask[w]
		}
		left |= word
		part := logits[w<<6 : min(w<<6+64, len(logits))]
		switch word {
		case math.MaxUint64:
		case 0:
			for i := range part {
				part[i] = none
			}
		default:
			for i := range part {
				if word>>i&1 == 0 {
					part[i] = none
				}
			}
		}
	}
	for i, id := range end {
		if id < 0 || int(id) >= len(logits) {
			continue
		}
		logits[id] = none
		if m.s.accept {
			logits[id], left = kept[i], 1
		}
	}
	if left == 0 {
		return clara.Errorf(clara.Invalid, "no token of the model goes on in the form asked for: has it a value that ends?")
	}
	return nil
}

// Accept moves on by a token. Internal for one that Filter does not let pass.
func (m *Matcher) Accept(id int32) error {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	s := m.s
	if id < 0 || int(id) >= len(m.v.texts) || m.v.texts[id] == "" {
		return clara.Errorf(clara.Internal, "token %d is no text", id)
	}
	for _, b := range []byte(m.v.texts[id]) {
		if s = m.g.step(s, b); s == dead {
			return clara.Errorf(clara.Internal, "token %q is not of the form asked for", m.v.texts[id])
		}
	}
	m.s = s
	return nil
}

// Done reports whether the text is whole and nothing can follow.
func (m *Matcher) Done() bool { return m.s.accept && len(m.s.threads) == 0 }

// Whole reports whether the text may end here.
func (m *Matcher) Whole() bool { return m.s.accept }
