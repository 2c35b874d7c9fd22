package infer_test

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/grammar"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/testkit/tinymodel"
)

// TestForm: a model that knows nothing writes JSON of the schema asked for, greedy and drawn, in a batch with requests of
// other forms and none, which are as they are alone.
func TestForm(t *testing.T) {
	dir := tinymodel.Package(t, tinymodel.Default(), 4)
	e := open(t, dir, infer.Options{Context: 700, Streams: 4, Slowdown: 1e9})
	schema, err := grammar.Compile([]byte(`{"type":"object","additionalProperties":false,"required":["kind","text","list"],"properties":{
		"kind":{"enum":["fact","reasoning"]},"text":{"type":"string","maxLength":8},"list":{"type":"array","minItems":1,"maxItems":3,"items":{"type":"boolean"}}}}`))
	require.NoError(t, err)
	type answer struct {
		Kind string
		Text *string
		List []bool
	}
	r := rand.New(rand.NewPCG(3, 3))
	requests := make([]infer.Request, 24)
	wanted := make([]string, len(requests))
	for i := range requests {
		requests[i] = infer.Request{Prompt: infer.Prompt{IDs: words(r, 1+r.IntN(20))}, MaxTokens: 600}
		if i%2 == 0 {
			requests[i].Output = schema
		}
		if i%3 > 0 {
			requests[i].Sampling = infer.Sampling{Temperature: 1.5, TopP: 0.9, Seed: uint64(i)}
		}
		_, wanted[i], _, err = generate(t.Context(), e, requests[i])
		require.NoError(t, err)
	}
	var all sync.WaitGroup
	for i, q := range requests {
		all.Go(func() {
			_, text, stats, err := generate(t.Context(), e, q)
			if !assert.NoError(t, err) || !assert.Equal(t, wanted[i], text) || q.Output == nil {
				return
			}
			assert.Equal(t, infer.FinishStop, stats.Finish)
			var a answer
			dec := json.NewDecoder(strings.NewReader(text))
			dec.DisallowUnknownFields()
			if assert.NoError(t, dec.Decode(&a), text) {
				assert.Contains(t, []string{"fact", "reasoning"}, a.Kind)
				assert.NotNil(t, a.Text)
				assert.True(t, len(a.List) >= 1 && len(a.List) <= 3, text)
			}
		})
	}
	all.Wait()

	endless, err := grammar.Compile([]byte(`{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}`))
	require.NoError(t, err)
	long := open(t, dir, infer.Options{Context: 2000, Streams: 1})
	_, _, _, err = generate(t.Context(), long, infer.Request{Prompt: infer.Prompt{IDs: words(r, 3)}, MaxTokens: 1900, Output: endless})
	assert.Equal(t, clara.Invalid, clara.KindOf(err), err)
}

// BenchmarkForm measures what a form costs on the tokens of a real model: the tree of its tokens, once for a model; a
// text of 300 tokens in states that were never seen, and in known ones. One step of the model takes milliseconds.
func BenchmarkForm(b *testing.B) {
	e := open(b, benchPackage(b, false), infer.Options{Runtime: benchRuntime(b)})
	tok := e.Tokenizer()
	const schema = `{"type":"object","additionalProperties":false,"required":["dense_summary","qa_pairs"],"properties":{"dense_summary":{"type":"string"},"qa_pairs":{"type":"array","minItems":3,"maxItems":5,"items":{"type":"object","additionalProperties":false,"required":["type","question","answer"],"properties":{"type":{"enum":["fact","reasoning","cross_lingual"]},"question":{"type":"string","maxLength":300},"answer":{"type":"string","maxLength":600}}}}}}`
	pair := `{"type": "fact", "question": "How soon must a lost laptop be reported to the help desk?", "answer": "Within one hour, by phone or in person."}`
	text := tok.Encode(`{"dense_summary": "` + strings.Repeat("A lost laptop is to be reported within one hour. ", 12) + `", "qa_pairs": [` + pair + ", " + pair + ", " + pair + `]}`)
	logits := make([]float32, tok.Len())
	write := func(b *testing.B, v *grammar.Vocabulary, g *grammar.Grammar) {
		m := v.Matcher(g)
		for _, id := range text {
			require.NoError(b, m.Filter(logits, nil))
			require.NoError(b, m.Accept(id))
		}
		require.True(b, m.Done())
	}
	b.Run("tree", func(b *testing.B) {
		for b.Loop() {
			grammar.NewVocabulary(tok.Len(), tok.Bytes)
		}
	})
	v := grammar.NewVocabulary(tok.Len(), tok.Bytes)
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			g, err := grammar.Compile([]byte(schema))
			require.NoError(b, err)
			write(b, v, g)
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(text)), "us/token")
	})
	g, err := grammar.Compile([]byte(schema))
	require.NoError(b, err)
	b.Run("known", func(b *testing.B) {
		for b.Loop() {
			write(b, v, g)
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(text)), "us/token")
	})
}
