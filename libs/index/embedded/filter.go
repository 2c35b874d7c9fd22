package embedded

import (
	"slices"

	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// column holds one indexed payload field of every slot.
type column struct {
	kind  qdrant.FieldType
	codes []uint32          // keyword: 0 is none, else an entry of words
	words map[string]uint32 // keyword
	ints  []int64           // integer
	has   []bool            // integer: the slot has one
}

func newColumn(kind qdrant.FieldType) *column {
	return &column{kind: kind, words: map[string]uint32{}}
}

func (c *column) add(v *qdrant.Value) {
	if c.kind == qdrant.FieldType_FieldTypeInteger {
		_, ok := v.GetKind().(*qdrant.Value_IntegerValue)
		c.has = append(c.has, ok)
		c.ints = append(c.ints, v.GetIntegerValue())
		return
	}
	code := uint32(0)
	if s, ok := v.GetKind().(*qdrant.Value_StringValue); ok {
		if code = c.words[s.StringValue]; code == 0 {
			code = uint32(len(c.words) + 1)
			c.words[s.StringValue] = code
		}
	}
	c.codes = append(c.codes, code)
}

// test reports whether a slot meets a condition. It may look at payloads on disk.
type test func(slot int) (bool, error)

// compile turns a filter into a test of slots. What is not supported is UNIMPLEMENTED.
func (s *state) compile(f *qdrant.Filter) (test, error) {
	if f == nil {
		return func(int) (bool, error) { return true, nil }, nil
	}
	if f.GetMinShould() != nil {
		return nil, unimplemented("filter with min_should")
	}
	groups := make([][]test, 3)
	for i, conditions := range [][]*qdrant.Condition{f.GetMust(), f.GetMustNot(), f.GetShould()} {
		for _, c := range conditions {
			t, err := s.condition(c)
			if err != nil {
				return nil, err
			}
			groups[i] = append(groups[i], t)
		}
	}
	must, not, should := groups[0], groups[1], groups[2]
	return func(slot int) (bool, error) {
		for _, t := range must {
			if ok, err := t(slot); !ok || err != nil {
				return false, err
			}
		}
		for _, t := range not {
			if ok, err := t(slot); ok || err != nil {
				return false, err
			}
		}
		for _, t := range should {
			if ok, err := t(slot); ok || err != nil {
				return ok, err
			}
		}
		return len(should) == 0, nil
	}, nil
}

func (s *state) condition(c *qdrant.Condition) (test, error) {
	switch v := c.GetConditionOneOf().(type) {
	case *qdrant.Condition_HasId:
		ids, err := parseIDs(v.HasId.GetHasId())
		if err != nil {
			return nil, err
		}
		slots := make(map[int]bool, len(ids))
		for _, id := range ids {
			if slot, ok := s.slots[id]; ok {
				slots[int(slot)] = true
			}
		}
		return func(slot int) (bool, error) { return slots[slot], nil }, nil
	case *qdrant.Condition_Filter:
		return s.compile(v.Filter)
	case *qdrant.Condition_Field:
		return s.field(v.Field)
	}
	return nil, unimplemented("filter condition other than has_id, a field or a filter")
}

func (s *state) field(f *qdrant.FieldCondition) (test, error) {
	var accept func(v *qdrant.Value) bool
	var words []string // for keyword conditions
	switch {
	case f.GetMatch() != nil && f.GetRange() == nil:
		switch m := f.GetMatch().GetMatchValue().(type) {
		case *qdrant.Match_Keyword:
			words = []string{m.Keyword}
		case *qdrant.Match_Keywords:
			words = m.Keywords.GetStrings()
			if words == nil {
				words = []string{}
			}
		case *qdrant.Match_Integer:
			accept = integer(func(i int64) bool { return i == m.Integer })
		case *qdrant.Match_Integers:
			accept = integer(func(i int64) bool { return slices.Contains(m.Integers.GetIntegers(), i) })
		case *qdrant.Match_Boolean:
			accept = func(v *qdrant.Value) bool {
				b, ok := v.GetKind().(*qdrant.Value_BoolValue)
				return ok && b.BoolValue == m.Boolean
			}
		default:
			return nil, unimplemented("filter match other than keywords, integers and booleans")
		}
	case f.GetRange() != nil && f.GetMatch() == nil:
		r := f.GetRange()
		accept = integer(func(i int64) bool {
			x := float64(i)
			return (r.Lt == nil || x < *r.Lt) && (r.Lte == nil || x <= *r.Lte) &&
				(r.Gt == nil || x > *r.Gt) && (r.Gte == nil || x >= *r.Gte)
		})
	default:
		return nil, unimplemented("filter on a field other than match or range")
	}
	if f.GetKey() == "" {
		return nil, status.Error(codes.InvalidArgument, "a field condition names no field")
	}
	col := s.columns[f.GetKey()]
	switch {
	case words != nil && col != nil && col.kind == qdrant.FieldType_FieldTypeKeyword:
		wanted := make(map[uint32]bool, len(words))
		for _, w := range words {
			if code := col.words[w]; code != 0 {
				wanted[code] = true
			}
		}
		return func(slot int) (bool, error) { return wanted[col.codes[slot]], nil }, nil
	case words == nil && col != nil && col.kind == qdrant.FieldType_FieldTypeInteger:
		return func(slot int) (bool, error) {
			return col.has[slot] && accept(qdrant.NewValueInt(col.ints[slot])), nil
		}, nil
	case words != nil:
		accept = func(v *qdrant.Value) bool {
			w, ok := v.GetKind().(*qdrant.Value_StringValue)
			return ok && slices.Contains(words, w.StringValue)
		}
	}
	// A field without an index: the payload says. Any element of a list may match.
	return func(slot int) (bool, error) {
		payload, err := s.payload(slot)
		if err != nil {
			return false, err
		}
		v := payload[f.GetKey()]
		if list := v.GetListValue(); list != nil {
			return slices.ContainsFunc(list.GetValues(), accept), nil
		}
		return accept(v), nil
	}, nil
}

func integer(accept func(i int64) bool) func(v *qdrant.Value) bool {
	return func(v *qdrant.Value) bool {
		i, ok := v.GetKind().(*qdrant.Value_IntegerValue)
		return ok && accept(i.IntegerValue)
	}
}
