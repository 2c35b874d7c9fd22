package tokenizer

import (
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"
)

// matcher finds added tokens in a text, leftmost first and of those the longest.
type matcher struct {
	byLen map[int]map[string]*addedToken
	lens  [256][]int // by first byte: lengths of tokens that begin with it, longest first
	first string     // the first byte if all tokens share it, else ""
	// What of a token may stand at an edge of a text that stands amid it: proper endings, by their first byte, and
	// proper beginnings, by their last.
	endings, beginnings [256][]string
}

func (m *matcher) add(key string, a addedToken) {
	if key == "" {
		return
	}
	if m.byLen == nil {
		m.byLen = map[int]map[string]*addedToken{}
	}
	if m.byLen[len(key)] == nil {
		m.byLen[len(key)] = map[string]*addedToken{}
	}
	if old := m.byLen[len(key)][key]; old != nil && old.id < a.id {
		return
	}
	m.byLen[len(key)][key] = &a
}

func (m *matcher) finish() {
	firsts := map[byte]bool{}
	edges := map[string]uint8{} // 1: an ending, 2: a beginning
	seen := map[[2]int]bool{}
	for n, tokens := range m.byLen {
		for key := range tokens {
			for i := 1; i < n; i++ {
				edges[key[i:]] |= 1
				edges[key[:i]] |= 2
			}
			b := key[0]
			firsts[b] = true
			if k := [2]int{int(b), n}; !seen[k] {
				seen[k] = true
				m.lens[b] = append(m.lens[b], n)
			}
		}
	}
	for b := range m.lens {
		sort.Sort(sort.Reverse(sort.IntSlice(m.lens[b])))
	}
	for edge, side := range edges {
		if side&1 != 0 {
			m.endings[edge[0]] = append(m.endings[edge[0]], edge)
		}
		if last := edge[len(edge)-1]; side&2 != 0 {
			m.beginnings[last] = append(m.beginnings[last], edge)
		}
	}
	if len(firsts) == 1 {
		for b := range firsts {
			m.first = string([]byte{b})
		}
	}
}

// next returns the first byte at or after i at which a token may begin, len(s) if there is none.
func (m *matcher) next(s string, i int) int {
	if m.first != "" {
		k := strings.IndexByte(s[i:], m.first[0])
		if k < 0 {
			return len(s)
		}
		return i + k
	}
	for i < len(s) && m.lens[s[i]] == nil {
		i++
	}
	return i
}

// at returns the longest token that begins at s[i] and that ok accepts.
func (m *matcher) at(s string, i int, ok func(n int) bool) (*addedToken, int) {
	for _, n := range m.lens[s[i]] {
		if n > len(s)-i {
			continue
		}
		if a := m.byLen[n][s[i:i+n]]; a != nil && ok(n) {
			return a, n
		}
	}
	return nil, 0
}

// split calls yield for each part of t in order: an added token, or the text between two.
func (m *matcher) split(t text, breaks []int, yield func(text, *addedToken)) {
	if len(t.s) == 0 {
		return
	}
	if len(m.byLen) == 0 {
		yield(t, nil)
		return
	}
	s, done := t.s, 0
	for i := m.next(s, 0); i < len(s); {
		a, n := m.at(s, i, func(n int) bool { return !broken(breaks, t.off(i), t.off(i+n)) })
		if a == nil {
			i = m.next(s, i+1)
			continue
		}
		start, end := i, i+n
		if a.singleWord && (endsWithWord(s[:start]) || startsWithWord(s[end:])) {
			i = m.next(s, end)
			continue
		}
		i = m.next(s, end)
		if a.lstrip {
			start = max(len(strings.TrimRightFunc(s[:start], unicode.IsSpace)), done)
		}
		if a.rstrip {
			end = len(s) - len(strings.TrimLeftFunc(s[end:], unicode.IsSpace))
		}
		if done < start {
			yield(t.cut(done, start), nil)
		}
		yield(t.cut(start, end), a)
		done = end
	}
	if done < len(s) {
		yield(t.cut(done, len(s)), nil)
	}
}

// broken reports whether a break lies strictly between i and j.
func broken(breaks []int, i, j int) bool {
	if len(breaks) == 0 {
		return false
	}
	k := sort.SearchInts(breaks, i+1)
	return k < len(breaks) && breaks[k] < j
}

// breaks appends the places in the plain text s that keep every token of m from being found there: one inside
// each occurrence, and one at an edge that could complete a token begun or ended outside.
func (m *matcher) breaks(s string, out *[]int) {
	if len(m.byLen) == 0 || s == "" {
		return
	}
	if m.completes(s) {
		*out = append(*out, 0)
	}
	anything := func(int) bool { return true }
	for i := m.next(s, 0); i < len(s); i = m.next(s, i+1) {
		if a, n := m.at(s, i, anything); a != nil {
			_, w := utf8.DecodeRuneInString(s[i:])
			if w < n {
				*out = append(*out, i+w)
			}
		}
	}
	if m.begins(s) {
		*out = append(*out, len(s))
	}
}

// completes reports whether s begins inside a token: with the rest of one, or as a whole amid one.
func (m *matcher) completes(s string) bool {
	for _, rest := range m.endings[s[0]] {
		if strings.HasPrefix(s, rest) || strings.HasPrefix(rest, s) {
			return true
		}
	}
	return false
}

// begins reports whether s ends with the beginning of a token that is not all there.
func (m *matcher) begins(s string) bool {
	for _, start := range m.beginnings[s[len(s)-1]] {
		if strings.HasSuffix(s, start) {
			return true
		}
	}
	return false
}

func isWord(r rune) bool {
	return r == '_' || unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Nl, unicode.Pc, unicode.Other_Alphabetic) || r == 0x200c || r == 0x200d
}

func endsWithWord(s string) bool {
	r, w := utf8.DecodeLastRuneInString(s)
	return w > 0 && isWord(r)
}

func startsWithWord(s string) bool {
	r, w := utf8.DecodeRuneInString(s)
	return w > 0 && isWord(r)
}
