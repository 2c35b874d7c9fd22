package tokenizer

import "unicode/utf8"

// wordPiece is BERT's model: the longest known beginning, again and again.
type wordPiece struct {
	vocab    map[string]int32
	names    []string
	prefix   string // of a token that continues a word
	unk      int32
	maxRunes int
}

func (m *wordPiece) id(token string) (int32, bool) { id, ok := m.vocab[token]; return id, ok }
func (m *wordPiece) size() int                     { return len(m.names) }
func (m *wordPiece) token(id int32) (string, bool) {
	if id < 0 || int(id) >= len(m.names) {
		return "", false
	}
	return m.names[id], true
}

func (m *wordPiece) encode(ids []int32, p piece, spans *[]Token) []int32 {
	s, n := p.s, len(ids)
	unknown := func() []int32 {
		ids = append(ids[:n], m.unk)
		if spans != nil {
			*spans = append(*spans, Token{m.unk, text(p).off(0), text(p).off(len(s))})
		}
		return ids
	}
	if utf8.RuneCountInString(s) > m.maxRunes {
		return unknown()
	}
	var ends []int
	for i := 0; i < len(s); {
		j, id := len(s), None
		for ; j > i; j-- {
			if j < len(s) && !utf8.RuneStart(s[j]) {
				continue
			}
			key := s[i:j]
			if i > 0 {
				key = m.prefix + key
			}
			if k, ok := m.vocab[key]; ok {
				id = k
				break
			}
		}
		if id == None {
			return unknown()
		}
		ids = append(ids, id)
		ends = append(ends, j)
		i = j
	}
	if spans != nil {
		at := 0
		for k, end := range ends {
			*spans = append(*spans, Token{ids[n+k], text(p).off(at), text(p).off(end)})
			at = end
		}
	}
	return ids
}
