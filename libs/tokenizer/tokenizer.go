package tokenizer

import (
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/clara-suite/clara/libs/clara"
)

// None is the id of a token that does not exist.
const None int32 = -1

// Token is a token with the bytes of the text it came from: text[Start:End].
// Tokens that stand for no text of their own (an inserted `▁`) have Start == End.
type Token struct {
	ID         int32
	Start, End int
}

// Tokenizer is one tokenizer. It is immutable and safe for concurrent use.
type Tokenizer struct {
	normalizers []normalizer
	pre         []preStep
	model       model
	post        []postItem // nil: nothing is added
	decoders    []decoder
	decodeSep   string // joins tokens where no decoder is given

	added    map[int32]addedToken
	addedIDs map[string]int32
	raw      matcher // added tokens looked for before normalization
	norm     matcher // added tokens looked for after it
	rawPlain matcher // those of raw that plain text may hold too
	normWS   matcher

	special  Special
	template string
	length   int
}

// Special names the special tokens of a tokenizer. A token that is not set is "".
type Special struct {
	BOS, EOS, Pad, Unk string
	// Additional are the additional special tokens, in the tokenizer's order.
	Additional []string
}

// model turns one pre-token into ids.
type model interface {
	// encode appends the ids of p. With spans not nil it appends one Token for each id too.
	encode(ids []int32, p piece, spans *[]Token) []int32
	id(token string) (int32, bool)
	token(id int32) (string, bool)
	size() int
}

type addedToken struct {
	content string
	// key is what is looked for: content, as the normalizers write it if normal is set. Decoders see it too.
	key                                string
	id                                 int32
	special                            bool
	singleWord, lstrip, rstrip, normal bool
}

// Len returns the number of token ids: the length V of a table that has a row for each.
func (t *Tokenizer) Len() int { return t.length }

// Special returns the names of the special tokens.
func (t *Tokenizer) Special() Special {
	s := t.special
	s.Additional = append([]string(nil), s.Additional...)
	return s
}

// ChatTemplate returns the Jinja chat template that came with the tokenizer, "" if none did.
func (t *Tokenizer) ChatTemplate() string { return t.template }

// ID returns the id of the token with this exact name, None if there is none.
func (t *Tokenizer) ID(token string) int32 {
	if id, ok := t.addedIDs[token]; ok {
		return id
	}
	if id, ok := t.model.id(token); ok {
		return id
	}
	return None
}

// Name returns the name of a token as the tokenizer's files write it, "" for an unknown id.
func (t *Tokenizer) Name(id int32) string {
	if a, ok := t.added[id]; ok {
		return a.content
	}
	s, _ := t.model.token(id)
	return s
}

// IsSpecial reports whether id is a special token.
func (t *Tokenizer) IsSpecial(id int32) bool { return t.added[id].special }

// IsAdded reports whether id is an added token, special or not.
func (t *Tokenizer) IsAdded(id int32) bool { _, ok := t.added[id]; return ok }

// BOS, EOS and Pad return the id of the special token of that use, None if the tokenizer has none.
func (t *Tokenizer) BOS() int32 { return t.ID(t.special.BOS) }

// EOS returns the id of the end-of-sequence token, None if there is none.
func (t *Tokenizer) EOS() int32 { return t.ID(t.special.EOS) }

// Pad returns the id of the padding token, None if there is none.
func (t *Tokenizer) Pad() int32 { return t.ID(t.special.Pad) }

// Encode returns the ids of plain text: no added token is recognised, none is added.
func (t *Tokenizer) Encode(text string) []int32 { return t.AppendEncode(nil, text) }

// AppendEncode appends the ids of plain text to dst.
func (t *Tokenizer) AppendEncode(dst []int32, text string) []int32 {
	e := encoder{t: t, ids: dst}
	e.run(text, &t.rawPlain, &t.normWS)
	return e.ids
}

// Count returns the number of ids of plain text.
func (t *Tokenizer) Count(text string) int { return len(t.Encode(text)) }

// EncodeTrusted returns the ids of trusted text: added tokens are recognised. Nothing is added to it.
func (t *Tokenizer) EncodeTrusted(text string) []int32 { return t.EncodeMixed(text, nil) }

// EncodeMixed returns the ids of a text of which parts are plain. breaks are byte offsets, ascending:
// an added token is recognised only if no break lies strictly inside it. Breaks have no other
// effect, so the ids are those of the whole text wherever no added token is written in a plain part.
// Breaks finds the breaks of a plain part.
func (t *Tokenizer) EncodeMixed(text string, breaks []int) []int32 {
	e := encoder{t: t, breaks: breaks}
	e.run(text, &t.raw, &t.norm)
	return e.ids
}

// EncodeOffsets is Encode, with the bytes each token came from.
func (t *Tokenizer) EncodeOffsets(text string) []Token {
	e := encoder{t: t, spans: []Token{}}
	e.run(text, &t.rawPlain, &t.normWS)
	return e.spans
}

// EncodeMixedOffsets is EncodeMixed, with the bytes each token came from.
func (t *Tokenizer) EncodeMixedOffsets(text string, breaks []int) []Token {
	e := encoder{t: t, breaks: breaks, spans: []Token{}}
	e.run(text, &t.raw, &t.norm)
	return e.spans
}

// AddSpecials wraps ids in the tokens that the tokenizer's post-processor puts around one text
// (`<s>` before it, `[CLS]` and `[SEP]` around it). It returns ids itself where there are none.
func (t *Tokenizer) AddSpecials(ids []int32) []int32 {
	if t.post == nil {
		return ids
	}
	out := make([]int32, 0, len(ids)+2)
	for _, p := range t.post {
		if p.text {
			out = append(out, ids...)
		} else {
			out = append(out, p.ids...)
		}
	}
	return out
}

// Breaks returns the places, as ascending byte offsets into the plain text, that must be breaks so that no
// added token is recognised in it or over its edges, whatever stands before and after it.
// A text that does not look like a token has none.
func (t *Tokenizer) Breaks(plain string) []int {
	var out []int
	t.raw.breaks(plain, &out)
	if len(t.norm.byLen) > 0 {
		tx := normalizeAll(t.normalizers, text{s: plain}, true)
		var inner []int
		t.norm.breaks(tx.s, &inner)
		for _, b := range inner {
			out = append(out, tx.off(b))
		}
		sort.Ints(out)
	}
	return out
}

// AddSpecialTokens returns a tokenizer that has the named special tokens too, with new ids in the given
// order from Len on. Names it knows already become special and keep their id.
func (t *Tokenizer) AddSpecialTokens(names ...string) (*Tokenizer, error) {
	n := *t
	list := make([]addedToken, 0, len(t.added)+len(names))
	for _, a := range t.added {
		list = append(list, a)
	}
	next := int32(t.length)
	seen := map[string]bool{}
	for _, name := range names {
		if name == "" || !utf8.ValidString(name) {
			return nil, clara.Errorf(clara.Invalid, "add special token %q: not a name", name)
		}
		if seen[name] {
			continue
		}
		seen[name] = true
		id := n.ID(name)
		if id == None {
			id = next
			next++
		}
		list = append(list, addedToken{content: name, id: id, special: true})
	}
	n.setAdded(list)
	return &n, nil
}

// setAdded installs the added tokens; of several with one id the last counts.
func (t *Tokenizer) setAdded(list []addedToken) {
	t.added = make(map[int32]addedToken, len(list))
	t.addedIDs = make(map[string]int32, len(list))
	t.length = t.model.size()
	blocked := map[int32]bool{}
	for _, a := range list {
		t.added[a.id] = a
	}
	t.raw, t.norm, t.rawPlain, t.normWS = matcher{}, matcher{}, matcher{}, matcher{}
	for id, a := range t.added {
		a.key = a.content
		if a.normal {
			a.key = normalizeAll(t.normalizers, text{s: a.content}, false).s
		}
		t.added[id] = a
		t.addedIDs[a.content] = id
		t.length = max(t.length, int(id)+1)
		white := !a.special && strings.TrimSpace(a.content) == ""
		// A token that has to stand alone may be part of a word; every other one is only ever recognised, never spelt.
		if !white && (a.special || !a.singleWord) {
			blocked[id] = true
		}
		all, plain := &t.raw, &t.rawPlain
		if a.normal {
			all, plain = &t.norm, &t.normWS
		}
		all.add(a.key, a)
		if white {
			plain.add(a.key, a)
		}
	}
	if m, ok := t.model.(*bpe); ok {
		t.model = m.without(blocked)
	}
	for _, m := range []*matcher{&t.raw, &t.norm, &t.rawPlain, &t.normWS} {
		m.finish()
	}
}

// encoder is one call of Encode.
type encoder struct {
	t      *Tokenizer
	breaks []int
	ids    []int32
	spans  []Token // nil: offsets are not wanted
}

func (e *encoder) run(s string, raw, norm *matcher) {
	if !utf8.ValidString(s) {
		// Offsets then count bytes of the repaired text; callers that need offsets pass valid text.
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	raw.split(text{s: s}, e.breaks, func(t text, a *addedToken) {
		if a != nil {
			e.addToken(t, a.id)
			return
		}
		// Positions in the normalized text are needed for offsets and to find breaks in it.
		track := e.spans != nil || (len(e.breaks) > 0 && len(norm.byLen) > 0)
		n := normalizeAll(e.t.normalizers, t, track)
		norm.split(n, e.breaks, func(t text, a *addedToken) {
			if a != nil {
				e.addToken(t, a.id)
				return
			}
			e.pretokenize(0, piece(t))
		})
	})
}

func (e *encoder) addToken(t text, id int32) {
	e.ids = append(e.ids, id)
	if e.spans != nil {
		e.spans = append(e.spans, Token{id, t.off(0), t.off(len(t.s))})
	}
}

// pretokenize runs the pre-tokenizers from step k on p, and the model on what they leave.
func (e *encoder) pretokenize(k int, p piece) {
	if len(p.s) == 0 {
		return
	}
	if k < len(e.t.pre) {
		e.t.pre[k].split(p, e.spans != nil, func(q piece) { e.pretokenize(k+1, q) })
		return
	}
	if e.spans == nil {
		e.ids = e.t.model.encode(e.ids, p, nil)
		return
	}
	e.ids = e.t.model.encode(e.ids, p, &e.spans)
}
