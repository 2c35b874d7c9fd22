package tokenizer

import "strings"

// text is a string on its way from the caller's text to the model. Where it was rewritten and positions are
// wanted, at[i] is the caller's offset of byte i (len(s)+1 of them); otherwise byte i is at base+i.
type text struct {
	s    string
	at   []int32
	base int
}

// piece is a text that pre-tokenizers have cut.
type piece text

func (t text) off(i int) int {
	if t.at != nil {
		return int(t.at[i])
	}
	return t.base + i
}

func (t text) cut(i, j int) text {
	if t.at != nil {
		return text{s: t.s[i:j], at: t.at[i : j+1]}
	}
	return text{s: t.s[i:j], base: t.base + i}
}

func (p piece) cut(i, j int) piece { return piece(text(p).cut(i, j)) }

// rewriter builds a changed copy of a text and keeps the positions if they are wanted.
type rewriter struct {
	src   text
	out   strings.Builder
	at    []int32
	track bool
}

// keep copies src[i:j].
func (r *rewriter) keep(i, j int) {
	r.out.WriteString(r.src.s[i:j])
	if r.track {
		for k := i; k < j; k++ {
			r.at = append(r.at, int32(r.src.off(k)))
		}
	}
}

// put writes s in the place of what begins at src[i].
func (r *rewriter) put(s string, i int) {
	r.out.WriteString(s)
	if r.track {
		o := int32(r.src.off(i))
		for range len(s) {
			r.at = append(r.at, o)
		}
	}
}

func (r *rewriter) done() text {
	t := text{s: r.out.String(), base: r.src.base}
	if r.track {
		t.at = append(r.at, int32(r.src.off(len(r.src.s))))
	}
	return t
}
