package tokenizer

import (
	"strconv"

	"github.com/clara-suite/clara/libs/clara"
)

// Clara is a base tokenizer with the tokens of a CLaRa model added (spec clara-model §2).
type Clara struct {
	*Tokenizer
	// Mem are the m memory tokens, in order. Where the model has one `<MEM>` it is repeated.
	Mem []int32
	// AE, Enc and Sep are `<AE>`, `<ENC>` and `<SEP>`.
	AE, Enc, Sep int32
	// BOSID, EOSID and PadID are resolved by the rules of the spec; none of them is None.
	BOSID, EOSID, PadID int32
	// BOSName and EOSName are their texts, as templates write them.
	BOSName, EOSName string
	// Base is the tokenizer without the added tokens.
	Base *Tokenizer
}

// NewClara appends `<MEM0>`..`<MEM{m-1}>` (one `<MEM>` unless different), `<AE>`, `<ENC>`, `<SEP>` to base.
// BOS is the base's, or its first additional special token; pad is the base's, or BOS.
// It returns Invalid for m < 1 and for a base without EOS or anything to begin with.
func NewClara(base *Tokenizer, m int, different bool) (*Clara, error) {
	if m < 1 {
		return nil, clara.Errorf(clara.Invalid, "add memory tokens: m is %d: the compression rate is above the document length", m)
	}
	names := make([]string, 0, m+3)
	if different {
		for i := range m {
			names = append(names, "<MEM"+strconv.Itoa(i)+">")
		}
	} else {
		names = append(names, "<MEM>")
	}
	names = append(names, "<AE>", "<ENC>", "<SEP>")
	t, err := base.AddSpecialTokens(names...)
	if err != nil {
		return nil, err
	}
	c := &Clara{Tokenizer: t, Base: base, Mem: make([]int32, m), AE: t.ID("<AE>"), Enc: t.ID("<ENC>"), Sep: t.ID("<SEP>")}
	for i := range c.Mem {
		c.Mem[i] = t.ID(names[min(i, len(names)-4)])
	}
	c.BOSName, c.EOSName = base.special.BOS, base.special.EOS
	if c.BOSName == "" && len(base.special.Additional) > 0 {
		c.BOSName = base.special.Additional[0]
	}
	c.BOSID, c.EOSID, c.PadID = t.ID(c.BOSName), t.ID(c.EOSName), t.Pad()
	if c.BOSID == None {
		return nil, clara.Errorf(clara.Invalid, "add memory tokens: the tokenizer has neither a beginning-of-sequence token nor additional special tokens")
	}
	if c.EOSID == None {
		return nil, clara.Errorf(clara.Invalid, "add memory tokens: the tokenizer has no end-of-sequence token")
	}
	if c.PadID == None {
		c.PadID = c.BOSID
	}
	return c, nil
}

// M returns the number of memory tokens.
func (c *Clara) M() int { return len(c.Mem) }

// SlotText returns the text of one document slot: the memory tokens and `<SEP>`. It is m+1 tokens.
func (c *Clara) SlotText() string {
	s := make([]byte, 0, 8*len(c.Mem))
	for _, id := range c.Mem {
		s = append(s, c.Name(id)...)
	}
	return string(append(s, c.Name(c.Sep)...))
}
