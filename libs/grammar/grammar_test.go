package grammar_test

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/grammar"
)

// tokens is a small vocabulary: all bytes, and pieces that reach over the borders of values.
func tokens() []string {
	out := []string{""} // the token that ends a text
	for b := range 256 {
		out = append(out, string([]byte{byte(b)}))
	}
	return append(out, `{"`, `":`, `": "`, `",`, `", "`, `"}`, `"}]`, "}]}", `"name"`, "name", "the", " the", "true", "false,", "null", "12", "3.5", "港", "\xe6\xb8", "\n  ", `\"`, `\u00`, "fact", `""`, "[]", "{}", `[{"`)
}

const end = 0

func vocabulary() (*grammar.Vocabulary, []string) {
	list := tokens()
	return grammar.NewVocabulary(len(list), func(id int32) string { return list[id] }), list
}

// takes reports whether a text, given byte by byte, can be all of an output. It asks Filter, so masks are checked.
func takes(t *testing.T, v *grammar.Vocabulary, g *grammar.Grammar, size int, text string) bool {
	t.Helper()
	m := v.Matcher(g)
	for _, b := range []byte(text) {
		logits := make([]float32, size)
		if m.Filter(logits, []int32{end}) != nil || math.IsInf(float64(logits[1+int(b)]), -1) {
			return false
		}
		require.NoError(t, m.Accept(1+int32(b)))
	}
	logits := make([]float32, size)
	err := m.Filter(logits, []int32{end})
	assert.Equal(t, m.Whole(), err == nil && logits[end] == 0)
	return m.Whole()
}

func TestSchemas(t *testing.T) {
	v, list := vocabulary()
	for _, c := range []struct {
		name, schema string
		yes, no      []string
	}{
		{"object in order", `{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}},"required":["b","a"],"additionalProperties":false}`,
			[]string{`{"b":"","a":0}`, `{"b": "x", "a": -12}`, "{\n  \"b\": \"x\",\n  \"a\": 7\n}", ` {"b":"\u00e9\n\"","a":1}`},
			[]string{`{}`, `{"a":1,"b":""}`, `{"b":""}`, `{"b":"","a":1.5}`, `{"b":"","a":01}`, `{"b":"","a":1,}`, `{"b":"","a":1,"c":2}`, `{"b":"","a":1}}`, `{"b":"` + "\n" + `","a":1}`}},
		{"optional keys", `{"type":"object","properties":{"a":{"type":"boolean"},"b":{"type":"null"},"c":{"const":1}},"required":["b"]}`,
			[]string{`{"b":null}`, `{"a":true,"b":null}`, `{"b":null,"c":1}`, `{"a":false, "b":null, "c":1}`},
			[]string{`{}`, `{"a":true}`, `{,"b":null}`, `{"a":true"b":null}`, `{"b":null,}`, `{"c":1,"b":null}`}},
		{"all optional", `{"properties":{"a":{"type":"boolean"},"b":{"type":"boolean"}}}`,
			[]string{`{}`, `{ }`, `{"a":true}`, `{"b":true}`, `{"a":true,"b":false}`}, []string{`{"b":true,"a":true}`, `[]`}},
		{"required without a schema", `{"type":"object","required":["x"]}`, []string{`{"x":[1,{"y":null}]}`}, []string{`{}`, `{"y":1}`}},
		{"map", `{"type":"object","additionalProperties":{"type":"integer"}}`, []string{`{}`, `{"a":1}`, `{"a":1, "港":2}`}, []string{`{"a":"1"}`, `{"a":1,}`}},
		{"empty object", `{"type":"object","additionalProperties":false}`, []string{`{}`}, []string{`{"a":1}`}},
		{"items", `{"type":"array","items":{"type":"integer"},"minItems":1,"maxItems":3}`, []string{`[1]`, `[1,2]`, `[1, 2, 3]`}, []string{`[]`, `[1,2,3,4]`, `[1,]`, `["1"]`}},
		{"any number of items", `{"type":"array","items":{"type":"boolean"}}`, []string{`[]`, `[true]`, `[true,false,true,true]`}, []string{`[true false]`, `[1]`}},
		{"at least two", `{"type":"array","items":{"enum":[1]},"minItems":2}`, []string{`[1,1]`, `[1,1,1]`}, []string{`[]`, `[1]`}},
		{"no items", `{"type":"array","maxItems":0}`, []string{`[]`, `[ ]`}, []string{`[1]`}},
		{"tuple", `{"type":"array","prefixItems":[{"type":"string"},{"type":"integer"}],"items":false,"minItems":2}`, []string{`["a",1]`}, []string{`["a"]`, `[1,"a"]`, `["a",1,2]`}},
		{"tuple with a tail", `{"prefixItems":[{"type":"string"}],"items":{"type":"integer"}}`, []string{`[]`, `["a"]`, `["a",1,2]`}, []string{`[1]`, `["a","b"]`}},
		{"enum", `{"enum":["fact","fact check",3,null,{"a":[1]}]}`, []string{`"fact"`, `"fact check"`, `3`, `null`, `{"a":[1]}`}, []string{`"fac"`, `"facts"`, `4`, `{"a": [1]}`}},
		{"lengths count characters", `{"type":"string","minLength":2,"maxLength":3}`, []string{`"ab"`, `"港港"`, `"a\u00e9b"`, `"\n\n\n"`}, []string{`"a"`, `"abcd"`, `"港"`, `"港港港港"`}},
		{"numbers", `{"type":"number"}`, []string{`0`, `-0.5`, `12e3`, `1.25E-2`, `123456789012345`}, []string{`.5`, `1.`, `+1`, `1e`, `00`, `1234567890123456`, `1e999`}},
		{"types", `{"type":["string","null"]}`, []string{`"a"`, `null`}, []string{`1`}},
		{"nullable", `{"type":"integer","nullable":true}`, []string{`1`, `null`}, []string{`"a"`}},
		{"anyOf", `{"anyOf":[{"type":"integer"},{"type":"object","properties":{"k":{"const":"a"}},"required":["k"]},{"type":"object","properties":{"k":{"const":"b"},"n":{"type":"null"}},"required":["k","n"]}]}`,
			[]string{`7`, `{"k":"a"}`, `{"k":"b","n":null}`}, []string{`{"k":"b"}`, `{"k":"a","n":null}`}},
		{"references", `{"$ref":"#/$defs/tree","$defs":{"tree":{"type":"object","properties":{"v":{"type":"integer"},"sub":{"type":"array","items":{"$ref":"#/$defs/tree"}}},"required":["v","sub"]}}}`,
			[]string{`{"v":1,"sub":[]}`, `{"v":1,"sub":[{"v":2,"sub":[{"v":3,"sub":[]}]}]}`}, []string{`{"v":1}`, `{"v":1,"sub":[1]}`}},
		{"linked list", `{"type":"object","properties":{"next":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},"required":["next"],"title":"L"}`, []string{`{"next":null}`, `{"next":{"next":null}}`}, []string{`{}`}},
		{"allOf of one", `{"allOf":[{"$ref":"#/definitions/a"}],"description":"d","definitions":{"a":{"type":"null"}}}`, []string{`null`}, []string{`1`}},
		{"anything", `{}`, []string{`{"a":[1,"b",{"c":null}]}`, `[]`, `"x"`, `1.5`, `true`}, []string{`nul`, `{a:1}`, ``}},
		{"keys that need escapes", `{"type":"object","properties":{"a\"b":{"const":"<&>"}},"required":["a\"b"]}`, []string{`{"a\"b":"<&>"}`}, []string{`{"a"b":"<&>"}`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, err := grammar.Compile([]byte(c.schema))
			require.NoError(t, err)
			for _, s := range c.yes {
				assert.True(t, takes(t, v, g, len(list), s), s)
			}
			for _, s := range c.no {
				assert.False(t, takes(t, v, g, len(list), s), s)
			}
		})
	}
}

func TestObject(t *testing.T) {
	v, list := vocabulary()
	g := grammar.Object()
	for _, s := range []string{`{}`, `{"a":{"b":[[],{}]}}`, "{\n\t\"a\": 1\n}"} {
		assert.True(t, takes(t, v, g, len(list), s), s)
	}
	for _, s := range []string{`[]`, `"a"`, `{} `, strings.Repeat(`{"a":`, 200) + `1` + strings.Repeat(`}`, 200), "{\"\xff\":1}", "{\"\xe6\xb8\":1}", "{\"\xed\xa0\x80\":1}", `{"\ud800":1}`, `{"\x":1}`} {
		assert.False(t, takes(t, v, g, len(list), s), s)
	}
}

// At the greatest depth only what does not open another level may follow.
func TestDepthNeverLeadsIntoADeadEnd(t *testing.T) {
	v, list := vocabulary()
	for _, schema := range []string{`{}`, `{"anyOf":[{"type":"null"},{"type":"array","items":{"$ref":"#"},"minItems":1}]}`} {
		g, err := grammar.Compile([]byte(schema))
		require.NoError(t, err)
		m := v.Matcher(g)
		depth := 0
		for {
			logits := make([]float32, len(list))
			require.NoError(t, m.Filter(logits, []int32{end}))
			if logits[1+'['] != 0 {
				break
			}
			require.NoError(t, m.Accept(1+'['))
			depth++
		}
		assert.GreaterOrEqual(t, depth, 64)
		for _, b := range []byte("null" + strings.Repeat("]", depth)) {
			logits := make([]float32, len(list))
			require.NoError(t, m.Filter(logits, []int32{end}))
			require.Zero(t, logits[1+int(b)])
			require.NoError(t, m.Accept(1+int32(b)))
		}
		assert.True(t, m.Done())
	}
	g, err := grammar.Compile([]byte(`{"type":"object","properties":{"next":{"$ref":"#"}},"required":["next"]}`))
	require.NoError(t, err)
	m := v.Matcher(g)
	for {
		logits := make([]float32, len(list))
		if err = m.Filter(logits, []int32{end}); err != nil {
			break
		}
		id := int32(1)
		for logits[id] != 0 {
			id++
		}
		require.NoError(t, m.Accept(id))
	}
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
}

func TestSchemasThatAreRefused(t *testing.T) {
	for _, c := range []struct{ name, schema, says string }{
		{"not JSON", `{"type":`, "not JSON"},
		{"two values", `{} {}`, "more than one"},
		{"no schema", `7`, "no schema"},
		{"unknown type", `{"properties":{"a":{"type":"text"}}}`, `/properties/a/type: "text" is no type`},
		{"pattern", `{"properties":{"a":{"type":"string","pattern":"^x"}}}`, `/properties/a: "pattern" is not done here`},
		{"minimum", `{"type":"integer","minimum":3}`, "minimum"},
		{"unique items", `{"type":"array","uniqueItems":true}`, "uniqueItems"},
		{"several allOf", `{"allOf":[{},{}]}`, "allOf"},
		{"anyOf beside type", `{"type":"object","anyOf":[{}]}`, "beside"},
		{"reference elsewhere", `{"$ref":"https://example.com/a"}`, "within the schema"},
		{"reference to a file", `{"$ref":"file:///etc/passwd"}`, "within the schema"},
		{"reference to nothing", `{"$ref":"#/$defs/a"}`, "nowhere"},
		{"itself", `{"$ref":"#"}`, "stands for itself"},
		{"itself through another", `{"anyOf":[{"$ref":"#/$defs/a"}],"$defs":{"a":{"anyOf":[{"type":"null"},{"$ref":"#"}]}}}`, "stands for itself"},
		{"empty enum", `{"enum":[]}`, "enum"},
		{"const of another type", `{"type":"integer","const":"a"}`, "not of the schema's type"},
		{"bounds", `{"type":"string","minLength":3,"maxLength":2}`, "less than"},
		{"half a letter", `{"type":"string","maxLength":2.5}`, "whole number"},
		{"too many items", `{"type":"array","maxItems":1000000}`, "whole number up to"},
		{"deep", strings.Repeat(`{"items":`, 300) + `{}` + strings.Repeat(`}`, 300), "nested deeper"},
		{"same key twice", `{"type":"string","type":"null"}`, "twice"},
		{"false", `{"properties":{"a":false}}`, "no schema"},
		{"too large", `{"type":"array","minItems":9999,"maxItems":10000,"items":{"type":"array","minItems":9999,"maxItems":10000,"items":{"type":"array","maxItems":10000,"items":{"type":"array","maxItems":10000,"items":{"type":"array","maxItems":10000,"items":{"type":"array","maxItems":10000,"items":{"type":"array","maxItems":10000}}}}}}}`, "too large"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := grammar.Compile([]byte(c.schema))
			require.ErrorContains(t, err, c.says)
			assert.Equal(t, clara.Invalid, clara.KindOf(err))
		})
	}
}

const pairs = `{"type":"object","additionalProperties":false,"required":["dense_summary","qa_pairs"],"properties":{"dense_summary":{"type":"string","maxLength":40},"qa_pairs":{"type":"array","minItems":1,"maxItems":3,"items":{"type":"object","additionalProperties":false,"required":["type","question","answer"],"properties":{"type":{"type":"string","enum":["fact","reasoning"]},"question":{"type":"string","maxLength":20},"answer":{"anyOf":[{"type":"string","minLength":1,"maxLength":20},{"type":"number"}]}}}}}}`

// Whatever a model likes best, what it is let write is of the schema: the masks of all states on many random ways are the
// tokens that a step by bytes takes, none more and none less.
func TestRandomTexts(t *testing.T) {
	v, list := vocabulary()
	g, err := grammar.Compile([]byte(pairs))
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 30 {
		m := v.Matcher(g)
		var text []byte
		for !m.Done() {
			require.Less(t, len(text), 2000)
			logits := make([]float32, len(list))
			require.NoError(t, m.Filter(logits, []int32{end}))
			var may []int32
			for id := 1; id < len(list); id++ {
				if logits[id] == 0 {
					may = append(may, int32(id))
				}
			}
			require.NotEmpty(t, may)
			id := may[rng.IntN(len(may))]
			text = append(text, list[id]...)
			require.NoError(t, m.Accept(id))
		}
		var x struct {
			Summary *string `json:"dense_summary"`
			Pairs   []struct {
				Type     string
				Question *string
				Answer   any
			} `json:"qa_pairs"`
		}
		dec := json.NewDecoder(strings.NewReader(string(text)))
		dec.DisallowUnknownFields()
		require.NoError(t, dec.Decode(&x), string(text))
		require.NotNil(t, x.Summary)
		assert.NotEmpty(t, x.Pairs)
		assert.LessOrEqual(t, len(x.Pairs), 3)
	}
}

// Two ways to the same masks: whole branches of the tree at once, and byte by byte.
func TestMasksAreThoseOfSteps(t *testing.T) {
	v, list := vocabulary()
	for _, schema := range []string{pairs, `{}`, `{"type":"string","maxLength":2}`} {
		g, err := grammar.Compile([]byte(schema))
		require.NoError(t, err)
		for _, text := range []string{``, `{`, `{"`, `{"dense_summary": "a`, `{"dense_summary": "a\`, `{"dense_summary": "a\u`, "{\"dense_summary\": \"\xe6", `"`, `"a`, `"ab`, "\"\xe6\xb8"} {
			m := v.Matcher(g)
			ok := true
			for _, b := range []byte(text) {
				ok = ok && m.Accept(1+int32(b)) == nil
			}
			if !ok {
				continue
			}
			logits := make([]float32, len(list))
			require.NoError(t, m.Filter(logits, []int32{end}))
			for id := 1; id < len(list); id++ {
				n := v.Matcher(g)
				for _, b := range []byte(text) {
					require.NoError(t, n.Accept(1+int32(b)))
				}
				assert.Equal(t, n.Accept(int32(id)) == nil, logits[id] == 0, "%q after %q", list[id], text)
			}
		}
	}
}

func TestManyStatesAreForgotten(t *testing.T) {
	v, list := vocabulary()
	g, err := grammar.Compile([]byte(`{"type":"string","maxLength":20000,"minLength":9000}`))
	require.NoError(t, err)
	m := v.Matcher(g)
	require.NoError(t, m.Accept(1+'"'))
	logits := make([]float32, len(list))
	for range 9000 {
		require.NoError(t, m.Accept(1+'a'))
	}
	require.NoError(t, m.Filter(logits, []int32{end}))
	require.NoError(t, m.Accept(1+'"'))
	assert.True(t, m.Done())
}

func FuzzCompile(f *testing.F) {
	f.Add([]byte(pairs))
	f.Add([]byte(`{"anyOf":[{"$ref":"#/$defs/a"}],"$defs":{"a":{"type":["string","null"],"maxLength":3}}}`))
	f.Fuzz(func(t *testing.T, schema []byte) {
		g, err := grammar.Compile(schema)
		if err != nil {
			return
		}
		v, list := vocabulary()
		m := v.Matcher(g)
		for i := 0; i < 50 && !m.Done(); i++ {
			logits := make([]float32, len(list))
			if err := m.Filter(logits, []int32{end}); err != nil {
				return // a schema that no value fits
			}
			for id := range logits {
				if id != end && logits[id] == 0 {
					if err := m.Accept(int32(id)); err != nil {
						t.Fatal(err)
					}
					break
				}
			}
		}
	})
}
