package tokenizer

import (
	"hash/maphash"
	"strings"
	"sync/atomic"
	"unicode/utf8"
)

// bpe is byte-pair encoding. With bytes set its symbols are bytes (byte-level BPE: the vocabulary is kept as
// raw bytes, the printable stand-ins of the files are gone), otherwise they are runes.
type bpe struct {
	vocab        map[string]int32 // key: what pieces hold (raw bytes, or text)
	names        []string         // as the files write them
	nameIDs      map[string]int32
	pairs        pairTable
	bytes        bool
	byteIDs      [256]int32 // symbol of a byte, None if the vocabulary lacks it
	fallback     [256]int32 // ids of <0x00>.. for byte fallback
	byteFallback bool
	unk          int32
	fuseUnk      bool
	ignoreMerges bool
	// cutBefore is a mark that begins every token that holds it: text may be cut before it without changing a
	// merge. Sentencepiece models come without a pre-tokenizer; this gives them one for free. "" if not so.
	cutBefore string

	seed  maphash.Seed
	cache []atomic.Pointer[cached]
}

// cached is a piece that was merged before.
type cached struct {
	piece string
	ids   []int32
}

const (
	cacheSlots   = 1 << 14 // with cachedLongest it bounds the cache to a few MB
	cacheLongest = 48      // bytes; longer pieces seldom come twice
	shortWord    = 40      // symbols; up to here scanning beats a heap
)

func (m *bpe) id(token string) (int32, bool) { id, ok := m.nameIDs[token]; return id, ok }
func (m *bpe) size() int                     { return len(m.names) }
func (m *bpe) token(id int32) (string, bool) {
	if id < 0 || int(id) >= len(m.names) {
		return "", false
	}
	return m.names[id], true
}

// without returns the model without any way to spell one of these tokens: some vocabularies hold their special
// tokens, and merges or a whole piece could make one of plain text.
func (m *bpe) without(blocked map[int32]bool) *bpe {
	n, keys := *m, map[string]bool{}
	for id := range blocked {
		if int(id) >= len(m.names) || m.names[id] == "" || id == m.unk {
			continue
		}
		key := m.names[id]
		if m.bytes {
			key, _ = rawBytes(key)
		}
		keys[key] = true
	}
	if len(keys) == 0 {
		return m
	}
	n.vocab = make(map[string]int32, len(m.vocab))
	for key, id := range m.vocab {
		if !keys[key] || !blocked[id] {
			n.vocab[key] = id
		}
	}
	n.pairs = pairTable{make([]pairSlot, len(m.pairs.slots)), m.pairs.shift}
	for _, s := range m.pairs.slots {
		if s.key != 0 && !(blocked[s.id] && s.id != m.unk) {
			*n.pairs.find(s.key) = s
		}
	}
	n.cache = make([]atomic.Pointer[cached], cacheSlots)
	return &n
}

func (m *bpe) encode(ids []int32, p piece, spans *[]Token) []int32 {
	if m.cutBefore == "" {
		return m.word(ids, p, spans)
	}
	// Pieces are a run of marks and what follows up to the next mark.
	s, mark := p.s, m.cutBefore
	for start := 0; start < len(s); {
		i := start
		for strings.HasPrefix(s[i:], mark) {
			i += len(mark)
		}
		end := len(s)
		if k := strings.Index(s[i:], mark); k >= 0 {
			end = i + k
		}
		ids = m.word(ids, p.cut(start, end), spans)
		start = end
	}
	return ids
}

func (m *bpe) word(ids []int32, p piece, spans *[]Token) []int32 {
	s := p.s
	if spans != nil {
		return m.wordSpans(ids, p, spans)
	}
	if m.ignoreMerges {
		if id, ok := m.vocab[s]; ok {
			return append(ids, id)
		}
	}
	if len(s) > cacheLongest {
		return m.merge(ids, s)
	}
	slot := &m.cache[maphash.String(m.seed, s)&(cacheSlots-1)]
	if c := slot.Load(); c != nil && c.piece == s {
		return append(ids, c.ids...)
	}
	n := len(ids)
	ids = m.merge(ids, s)
	slot.Store(&cached{strings.Clone(s), append([]int32(nil), ids[n:]...)})
	return ids
}

func (m *bpe) wordSpans(ids []int32, p piece, spans *[]Token) []int32 {
	if m.ignoreMerges {
		if id, ok := m.vocab[p.s]; ok {
			*spans = append(*spans, Token{id, text(p).off(0), text(p).off(len(p.s))})
			return append(ids, id)
		}
	}
	w := newWord(m, p.s)
	w.merge()
	at := 0
	for i := int32(0); i >= 0 && int(i) < len(w.ids); i = w.next[i] {
		ids = append(ids, w.ids[i])
		end := at + int(w.width[i])
		*spans = append(*spans, Token{w.ids[i], text(p).off(at), text(p).off(end)})
		at = end
	}
	return ids
}

// merge appends the ids of the word s.
func (m *bpe) merge(ids []int32, s string) []int32 {
	var stack [shortWord]int32
	var ranks [shortWord]int32
	if len(s) > shortWord {
		w := newWord(m, s)
		if len(w.ids) == 0 {
			return ids
		}
		w.merge()
		for i := int32(0); i >= 0; i = w.next[i] {
			ids = append(ids, w.ids[i])
		}
		return ids
	}
	syms := m.symbols(stack[:0], nil, s)
	n := len(syms)
	var fresh [shortWord]int32
	for i := 0; i+1 < n; i++ {
		ranks[i], fresh[i] = m.pairs.get(syms[i], syms[i+1])
	}
	for n > 1 {
		best, at := noRank, -1
		for i := 0; i+1 < n; i++ {
			if ranks[i] < best {
				best, at = ranks[i], i
			}
		}
		if at < 0 {
			break
		}
		syms[at] = fresh[at]
		copy(syms[at+1:n-1], syms[at+2:n])
		n--
		if at+1 < n {
			copy(ranks[at+1:n-1], ranks[at+2:n])
			copy(fresh[at+1:n-1], fresh[at+2:n])
			ranks[at], fresh[at] = m.pairs.get(syms[at], syms[at+1])
		}
		if at > 0 {
			ranks[at-1], fresh[at-1] = m.pairs.get(syms[at-1], syms[at])
		}
	}
	return append(ids, syms[:n]...)
}

// symbols appends the symbols that s begins with, and their widths in bytes if wanted.
func (m *bpe) symbols(ids []int32, width *[]int32, s string) []int32 {
	add := func(id int32, w int) {
		ids = append(ids, id)
		if width != nil {
			*width = append(*width, int32(w))
		}
	}
	unkWidth := 0 // bytes of an unknown symbol not yet added
	for i := 0; i < len(s); {
		id, w := None, 1
		if m.bytes {
			id = m.byteIDs[s[i]]
		} else {
			_, w = utf8.DecodeRuneInString(s[i:])
			if k, ok := m.vocab[s[i:i+w]]; ok {
				id = k
			}
		}
		switch {
		case id != None:
			if unkWidth > 0 {
				add(m.unk, unkWidth)
				unkWidth = 0
			}
			add(id, w)
		case !m.bytes && m.byteFallback && m.hasBytes(s[i:i+w]):
			for k := i; k < i+w; k++ {
				add(m.fallback[s[k]], 1)
			}
		case m.unk != None:
			if unkWidth > 0 && !m.fuseUnk {
				add(m.unk, unkWidth)
				unkWidth = 0
			}
			unkWidth += w
		}
		i += w
	}
	if unkWidth > 0 {
		add(m.unk, unkWidth)
	}
	return ids
}

func (m *bpe) hasBytes(s string) bool {
	for i := range len(s) {
		if m.fallback[s[i]] == None {
			return false
		}
	}
	return true
}

// word is a long word being merged: a linked list of symbols and a heap of pairs, O(n log n).
type word struct {
	m          *bpe
	ids, width []int32
	prev, next []int32
	heap       []uint64 // rank<<32 | position of the left symbol
}

func newWord(m *bpe, s string) *word {
	w := &word{m: m, ids: make([]int32, 0, len(s)), width: make([]int32, 0, len(s))}
	w.ids = m.symbols(w.ids, &w.width, s)
	n := len(w.ids)
	w.prev, w.next = make([]int32, n), make([]int32, n)
	for i := range n {
		w.prev[i], w.next[i] = int32(i)-1, int32(i)+1
	}
	if n > 0 {
		w.next[n-1] = -1
	}
	return w
}

func (w *word) merge() {
	for i := range w.ids {
		w.consider(int32(i))
	}
	for len(w.heap) > 0 {
		top := w.pop()
		i := int32(uint32(top))
		if w.ids[i] == None || w.next[i] < 0 {
			continue
		}
		j := w.next[i]
		rank, id := w.m.pairs.get(w.ids[i], w.ids[j])
		if uint32(rank) != uint32(top>>32) {
			continue // one of the two has changed since: the new pair has its own entry
		}
		w.ids[i], w.ids[j] = id, None
		w.width[i] += w.width[j]
		w.next[i] = w.next[j]
		if w.next[i] >= 0 {
			w.prev[w.next[i]] = i
			w.consider(i)
		}
		if w.prev[i] >= 0 {
			w.consider(w.prev[i])
		}
	}
}

func (w *word) consider(i int32) {
	if w.next[i] < 0 {
		return
	}
	if rank, _ := w.m.pairs.get(w.ids[i], w.ids[w.next[i]]); rank != noRank {
		w.push(uint64(rank)<<32 | uint64(uint32(i)))
	}
}

func (w *word) push(x uint64) {
	h := append(w.heap, x)
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 2
		if h[up] <= x {
			break
		}
		h[i] = h[up]
		i = up
	}
	h[i] = x
	w.heap = h
}

func (w *word) pop() uint64 {
	h := w.heap
	top, x := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	i := 0
	for {
		k := 2*i + 1
		if k >= len(h) {
			break
		}
		if k+1 < len(h) && h[k+1] < h[k] {
			k++
		}
		if h[k] >= x {
			break
		}
		h[i] = h[k]
		i = k
	}
	if len(h) > 0 {
		h[i] = x
	}
	w.heap = h
	return top
}

// pairTable maps a pair of symbols to the rank of its merge and the merged symbol: open addressing, half full.
type pairTable struct {
	slots []pairSlot
	shift uint
}

type pairSlot struct {
	key      uint64 // left<<32 | right, plus 1: 0 is an empty slot
	rank, id int32
}

const noRank int32 = 1<<31 - 1

func newPairTable(n int) pairTable {
	bits := uint(4)
	for 1<<bits < 2*n {
		bits++
	}
	return pairTable{slots: make([]pairSlot, 1<<bits), shift: 64 - bits}
}

func (t *pairTable) find(key uint64) *pairSlot {
	mask := uint64(len(t.slots) - 1)
	for i := key * 0x9E3779B97F4A7C15 >> t.shift; ; i = (i + 1) & mask {
		if s := &t.slots[i]; s.key == key || s.key == 0 {
			return s
		}
	}
}

func pairKey(left, right int32) uint64 { return (uint64(uint32(left))<<32 | uint64(uint32(right))) + 1 }

func (t *pairTable) set(left, right, rank, id int32) {
	*t.find(pairKey(left, right)) = pairSlot{pairKey(left, right), rank, id}
}

func (t *pairTable) get(left, right int32) (rank, id int32) {
	s := t.find(pairKey(left, right))
	if s.key == 0 {
		return noRank, None
	}
	return s.rank, s.id
}
