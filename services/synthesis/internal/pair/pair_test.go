package pair_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/services/synthesis/internal/pair"
)

const passage = "The harbour of Lindau was dredged in 1987 to a depth of 4.5 metres, because ferries of the new class could not enter. " +
	"Two cranes on the eastern quay lift 30 tonnes each. The harbour master keeps the log in the tower."

func chunk() *pair.Chunk {
	return pair.NewChunk([]string{"harbour_report_2019.pdf", "raw/lake/harbour_report_2019.pdf"}, passage)
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name string
		pair pair.Pair
		want pair.Reason
	}{
		{"fact", pair.Pair{Type: pair.Fact, Question: "When was the harbour of Lindau dredged?", Answer: "The harbour was dredged in 1987."}, ""},
		{"bare number", pair.Pair{Type: pair.Fact, Question: "How deep is the harbour of Lindau in metres?", Answer: "4.5"}, ""},
		{"reasoning with words of its own", pair.Pair{Type: pair.Reasoning, Question: "How much can both cranes of Lindau's eastern quay lift together?", Answer: "Both cranes together lift 60 tonnes, as each lifts 30 tonnes."}, ""},
		{"Chinese question", pair.Pair{Type: pair.CrossLingual, Question: "林道港在哪一年疏浚？", Answer: "The harbour of Lindau was dredged in 1987."}, ""},
		{"no answer", pair.Pair{Type: pair.Fact, Question: "When was it?", Answer: " "}, pair.Empty},
		{"no question", pair.Pair{Type: pair.Fact, Answer: "In 1987."}, pair.Empty},
		{"long question", pair.Pair{Type: pair.Fact, Question: strings.Repeat("harbour ", 100), Answer: "In 1987."}, pair.TooLong},
		{"file name", pair.Pair{Type: pair.Fact, Question: "What does harbour_report_2019.pdf say about cranes?", Answer: "Two cranes lift 30 tonnes each."}, pair.Leak},
		{"stem of the file", pair.Pair{Type: pair.Fact, Question: "What does harbour_report_2019 say about cranes?", Answer: "Two cranes lift 30 tonnes each."}, pair.Leak},
		{"another file", pair.Pair{Type: pair.Fact, Question: "What is in notes.docx about the cranes?", Answer: "Two cranes lift 30 tonnes each."}, pair.Leak},
		{"path", pair.Pair{Type: pair.Fact, Question: "Which cranes are there?", Answer: "Two cranes on the eastern quay, see raw/lake/cranes"}, pair.Leak},
		{"Windows path", pair.Pair{Type: pair.Fact, Question: `What is in C:\lake about cranes?`, Answer: "Two cranes on the eastern quay."}, pair.Leak},
		{"picture mark", pair.Pair{Type: pair.Fact, Question: "What does [IMAGE_REF: a.png] show?", Answer: "Two cranes on the eastern quay."}, pair.Leak},
		{"the passage", pair.Pair{Type: pair.Fact, Question: "What does the passage say about cranes?", Answer: "Two cranes lift 30 tonnes each."}, pair.NotAlone},
		{"according to the text", pair.Pair{Type: pair.Fact, Question: "Which cranes are there?", Answer: "According to the text, two cranes lift 30 tonnes each."}, pair.NotAlone},
		{"the passage in Chinese", pair.Pair{Type: pair.CrossLingual, Question: "根据本文，林道港在哪一年疏浚？", Answer: "In 1987."}, pair.NotAlone},
		{"Russian question", pair.Pair{Type: pair.Fact, Question: "Когда был углублён порт Линдау?", Answer: "In 1987."}, pair.WrongLanguage},
		{"answer in another language", pair.Pair{Type: pair.Fact, Question: "When was the harbour of Lindau dredged?", Answer: "林道港在一九八七年疏浚过，因为新的渡轮无法进入。"}, pair.WrongLanguage},
		{"answer from elsewhere", pair.Pair{Type: pair.Fact, Question: "Who built the lighthouse of Lindau?", Answer: "A company from Hamburg named Petersen built it."}, pair.NotAnswerable},
		{"wrong number", pair.Pair{Type: pair.Fact, Question: "When was the harbour of Lindau dredged?", Answer: "The harbour of Lindau was dredged in 1978."}, pair.NotAnswerable},
		{"unanswerable", pair.Pair{Type: pair.Unanswerable, Question: "What did the dredging of Lindau's harbour cost?", Answer: "Nothing is said about the price of this work."}, ""},
	} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.want, chunk().Check(c.pair)) })
	}
}

// What the text itself says is no leak: a handbook may speak of files and documents.
func TestCheckKnowsTheTextsOwnWords(t *testing.T) {
	c := pair.NewChunk([]string{"setup.md"}, "The service reads config.yaml from /etc/lake/service when it starts. The document is locked until the reader has finished.")
	assert.Empty(t, c.Check(pair.Pair{Type: pair.Fact, Question: "From where is config.yaml read when the service starts?", Answer: "The service reads config.yaml from /etc/lake/service"}))
	assert.Empty(t, c.Check(pair.Pair{Type: pair.Fact, Question: "When is the document unlocked?", Answer: "The document is locked until the reader has finished."}))
}

func TestCheckOfMixedText(t *testing.T) {
	c := pair.NewChunk(nil, "供应链安全要求检查每个组件的来源和签名，记录构建环境，并验证部署前的制品。\nSupply chain security checks source and signature of all components, records the build environment and verifies artefacts.")
	for _, answer := range []string{"供应链安全要求检查每个组件的来源和签名。", "It checks source and signature of all components."} {
		assert.Empty(t, c.Check(pair.Pair{Type: pair.Fact, Question: "What does supply chain security check?", Answer: answer}), answer)
	}
}

func TestCheckSummary(t *testing.T) {
	for _, c := range []struct {
		name, summary string
		want          pair.Reason
	}{
		{"good", "Lindau harbour was dredged in 1987 to 4.5 metres as new ferries could not enter. Two cranes lift 30 tonnes each; the log is in the tower.", ""},
		{"missing", "", pair.Empty},
		{"too short", "A harbour.", pair.SummaryLength},
		{"too long", passage + passage, pair.SummaryLength},
		{"file name", "harbour_report_2019.pdf tells that the harbour was dredged in 1987 to a depth of 4.5 metres.", pair.Leak},
		{"other language", "林道港于一九八七年疏浚到四点五米深，因为新型渡轮无法进港。东码头上的两台起重机各能吊起三十吨。港务长把日志放在塔里。", pair.WrongLanguage},
		{"of something else", "Penguins breed on the ice of the southern continent, where winters are long, dark and colder than anywhere.", pair.NotAnswerable},
		{"the passage", "The passage says that the harbour of Lindau was dredged in 1987 to a depth of 4.5 metres for ferries.", pair.NotAlone},
	} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.want, chunk().CheckSummary(c.summary)) })
	}
}

func TestSetFindsDuplicatesOverAll(t *testing.T) {
	var s pair.Set
	assert.Empty(t, s.Add("How many tonnes does each of the two cranes on the eastern quay of the harbour lift in one go?"))
	assert.Equal(t, pair.Duplicate, s.Add("how many TONNES does each of the two cranes on the eastern quay of the harbour lift in one go"))
	assert.Equal(t, pair.NearDuplicate, s.Add("How many tonnes does each of the two cranes on the eastern quay of the harbour lift in one go today?"))
	assert.Empty(t, s.Add("How many tonnes does the crane on the western quay lift?"))
}

func TestParse(t *testing.T) {
	const good = `{"dense_summary": "S", "qa_pairs": [{"type": "fact", "question": "Q1", "answer": "A1"}, {"type": "fact", "question": "Q2", "answer": "A2"}]}`
	for _, c := range []struct {
		name, text string
		pairs      int
		says       string // of the error
	}{
		{"plain", good, 2, ""},
		{"fenced, with words around it", "Sure:\n```json\n" + good + "\n```\nAnything else?", 2, ""},
		{"trailing commas", strings.Replace(good, `}]}`, `},],}`, 1), 2, ""},
		{"line break in a text", strings.Replace(good, "A1", "A\n1", 1), 2, ""},
		{"braces before it", "With {name} as the subject: " + good, 2, ""},
		{"another object before it", `{"plan": ["read", "write"]} ` + good, 2, ""},
		{"thoughts before it", `<think>{"qa_pairs": [{"question": "draft", "answer": "x"}]} no, better so</think>` + good, 2, ""},
		{"cut off in the second pair", good[:strings.Index(good, "Q2")], 1, ""},
		{"cut off before the first pair", good[:strings.Index(good, "Q1")], 0, "cut off"},
		{"empty list", `{"qa_pairs": []}`, 0, ""},
		{"empty pairs are kept, to be counted", `{"qa_pairs": [{"question": " ", "answer": "A"}]}`, 1, ""},
		{"no list", `{"summary": 7, "questions": "none"}`, 0, "qa_pairs"},
		{"null list", `{"dense_summary": "S", "qa_pairs": null}`, 0, "qa_pairs"},
		{"wrong types", `{"dense_summary": {"x": 1}, "qa_pairs": "none"}`, 0, "not valid JSON"},
		{"prose", "I would be glad to help.", 0, "no JSON object"},
		{"nothing", "", 0, "no JSON object"},
		{"brackets", `{"qa_pairs": [}`, 0, "brackets"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, err := pair.Parse(c.text)
			if c.says != "" {
				require.ErrorContains(t, err, c.says)
				return
			}
			require.NoError(t, err)
			require.Len(t, w.Pairs, c.pairs)
			for _, p := range w.Pairs {
				assert.NotEqual(t, "draft", p.Question)
			}
		})
	}
}

func TestVerdicts(t *testing.T) {
	v, err := pair.Verdicts("```json\n{\"verdicts\": [true, false,]}\n```", 2)
	require.NoError(t, err)
	assert.Equal(t, []bool{true, false}, v)
	_, err = pair.Verdicts(`{"verdicts": [true]}`, 2)
	require.ErrorContains(t, err, "1 verdicts for 2 pairs")
	_, err = pair.Verdicts("yes", 1)
	require.ErrorContains(t, err, "no JSON object")
}

func FuzzParse(f *testing.F) {
	f.Add(`{"dense_summary": "S", "qa_pairs": [{"type": "fact", "question": "Q", "answer": "A"}]}`)
	f.Add("```json\n{\"qa_pairs\": [{\"question\": \"a\\\"}\",},]}\n```")
	f.Add(`<think>{</think>{"verdicts": [true,]}`)
	f.Fuzz(func(t *testing.T, s string) {
		w, err := pair.Parse(s)
		if err == nil && w.Pairs == nil {
			t.Fatal("an answer without pairs was taken")
		}
		c := chunk()
		for _, p := range w.Pairs {
			c.Check(p)
		}
		c.CheckSummary(w.Summary)
		if v, err := pair.Verdicts(s, 1); err == nil && len(v) != 1 {
			t.Fatal("other verdicts than asked for")
		}
	})
}
