package dataset_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/dataset"
	"github.com/clara-suite/clara/libs/testkit/partstest"
)

func read(text string, kind dataset.Kind) (samples []dataset.Sample, faults []string) {
	for s, f := range dataset.Samples(strings.NewReader(text), "f", kind) {
		if f != nil {
			faults = append(faults, f.String())
			continue
		}
		s.File, s.Line = "", 0
		samples = append(samples, s)
	}
	return samples, faults
}

func TestSpellings(t *testing.T) {
	plain := dataset.Sample{Kind: dataset.Instruction, DataType: dataset.QA, Questions: []string{"q"}, Answers: []string{"a"}, Golds: []string{"a"}, Docs: []string{"d", "e"}}
	with := func(change func(*dataset.Sample)) dataset.Sample {
		s := plain
		change(&s)
		return s
	}
	for _, c := range []struct {
		name, line string
		kind       dataset.Kind
		want       dataset.Sample
	}{
		{"gold_answer", `{"question":"q","docs":["d","e"],"gold_answer":"a"}`, dataset.Instruction, plain},
		{"context, answer", `{"question":"q","context":["d","e"],"answer":"a"}`, dataset.Instruction, plain},
		{"content is one text", `{"question":["q"],"content":"d","answer":"a"}`, dataset.Instruction, with(func(s *dataset.Sample) { s.Docs = []string{"d"} })},
		{"answers of one", `{"question":"q","docs":["d","e"],"answers":["a"]}`, dataset.Instruction, plain},
		{"answer before gold_answer", `{"question":"q","docs":["d","e"],"gold_answer":"g","answer":"a"}`, dataset.Instruction, with(func(s *dataset.Sample) { s.Golds = []string{"a", "g"} })},
		{"golden_answers", `{"question":"q","docs":["d","e"],"golden_answers":["a","b"],"gold_answer":"b"}`, dataset.Instruction, with(func(s *dataset.Sample) { s.Golds = []string{"a", "b"} })},
		{"aliases", `{"question":"q","docs":["d","e"],"gold_answer":"a","answer_aliases":["a","c"]}`, dataset.Instruction, with(func(s *dataset.Sample) { s.Golds, s.Aliases = []string{"a", "c"}, []string{"a", "c"} })},
		{"older instruction", `{"instruction":"q","input":"","output":"a","docs":["d","e"]}`, dataset.Instruction, plain},
		{"instruction with input", `{"instruction":"q","input":"i","output":"a","docs":["d","e"]}`, dataset.Instruction, with(func(s *dataset.Sample) { s.Questions = []string{"q\ni"} })},
		{"positives", `{"question":"q","docs":["d","e"],"gold_answer":"a","pos_index":[1]}`, dataset.EndToEnd, with(func(s *dataset.Sample) { s.Kind, s.PosIndex = dataset.EndToEnd, []int{1} })},
		{"no positives", `{"question":"q","docs":["d","e"],"gold_answer":"a","pos_index":[]}`, dataset.EndToEnd, with(func(s *dataset.Sample) { s.Kind, s.PosIndex = dataset.EndToEnd, []int{} })},
		{"pretrain", `{"question":["q","r"],"answers":["a","a"],"docs":["d"]}`, dataset.Pretrain, with(func(s *dataset.Sample) {
			s.Kind, s.Questions, s.Answers, s.Docs = dataset.Pretrain, []string{"q", "r"}, []string{"a", "a"}, []string{"d"}
		})},
		{"paraphrase", `{"data_type":"paraphrase","question":[""],"answers":["a"],"docs":["d"]}`, dataset.Pretrain, with(func(s *dataset.Sample) {
			s.Kind, s.DataType, s.Questions, s.Docs = dataset.Pretrain, dataset.Paraphrase, nil, []string{"d"}
		})},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, faults := read(c.line, c.kind)
			require.Empty(t, faults)
			require.Len(t, got, 1)
			assert.Equal(t, c.want, got[0])
		})
	}
}

func TestMixedFile(t *testing.T) {
	got, faults := read(`{"data_type":"qa","question":["q","r"],"answers":["a","b"],"docs":["d"]}
{"data_type":"paraphrase","question":[],"answers":["a"],"docs":["d"]}
{"question":"q","docs":["d","e"],"gold_answer":"a"}
{"question":"q","docs":["d","e"],"gold_answer":"a","pos_index":[0]}`, dataset.Any)
	require.Empty(t, faults)
	var kinds []dataset.Kind
	for _, s := range got {
		kinds = append(kinds, s.Kind)
	}
	assert.Equal(t, []dataset.Kind{dataset.Pretrain, dataset.Pretrain, dataset.Instruction, dataset.EndToEnd}, kinds)
}

func TestEveryFaultIsReported(t *testing.T) {
	for _, c := range []struct {
		name, line string
		kind       dataset.Kind
		text       string
	}{
		{"broken", `{"question":`, dataset.Instruction, "not a JSON object"},
		{"list", `[{"question":"q"}]`, dataset.Instruction, "JSONL"},
		{"null", `null`, dataset.Instruction, "null"},
		{"not utf-8", "{\"question\":\"\xff\"}", dataset.Instruction, "UTF-8"},
		{"no docs", `{"question":"q","answer":"a"}`, dataset.Instruction, "no documents"},
		{"docs empty", `{"question":"q","answer":"a","docs":[]}`, dataset.Instruction, "empty list"},
		{"doc blank", `{"question":"q","answer":"a","docs":["d"," "]}`, dataset.Instruction, `"docs"[1] is an empty document`},
		{"doc number", `{"question":"q","answer":"a","docs":["d",1]}`, dataset.Instruction, `"docs"[1] must be a text`},
		{"doc null", `{"question":"q","answer":"a","docs":[null]}`, dataset.Instruction, `"docs"[0] must be a text`},
		{"no question", `{"answer":"a","docs":["d"]}`, dataset.Instruction, "no question"},
		{"question number", `{"question":1,"answer":"a","docs":["d"]}`, dataset.Instruction, "must be a text"},
		{"two questions", `{"question":["q","r"],"answer":"a","docs":["d"]}`, dataset.Instruction, "only stage 1"},
		{"no answer", `{"question":"q","docs":["d"]}`, dataset.Instruction, "no answer"},
		{"several answers", `{"question":"q","docs":["d"],"answers":["a","b"]}`, dataset.Instruction, "golden_answers"},
		{"blank answer", `{"question":"q","docs":["d"],"answer":""}`, dataset.Instruction, "answer 0 is empty"},
		{"positive beyond", `{"question":"q","docs":["d"],"answer":"a","pos_index":[1]}`, dataset.EndToEnd, "there are 1 documents"},
		{"positive text", `{"question":"q","docs":["d"],"answer":"a","pos_index":["0"]}`, dataset.EndToEnd, "whole numbers"},
		{"unequal", `{"question":["q"],"answers":["a","b"],"docs":["d"]}`, dataset.Pretrain, "1 questions and 2 answers"},
		{"two docs", `{"question":["q"],"answers":["a"],"docs":["d","e"]}`, dataset.Pretrain, "exactly one"},
		{"data type", `{"data_type":"x","question":["q"],"answers":["a"],"docs":["d"]}`, dataset.Pretrain, `data_type is "x"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, faults := read("\n"+c.line+"\n", c.kind)
			require.Len(t, faults, 1)
			assert.True(t, strings.HasPrefix(faults[0], "f:2: "), faults[0])
			assert.Contains(t, faults[0], c.text)
		})
	}
}

func TestReadFilesGathersAllFaults(t *testing.T) {
	dir := t.TempDir()
	good := `{"question":"q","docs":["d"],"answer":"a"}`
	a, b := filepath.Join(dir, "a.jsonl"), filepath.Join(dir, "b.jsonl")
	require.NoError(t, os.WriteFile(a, []byte("\xef\xbb\xbf"+good+"\r\n{}\n\n"+good+"\nx\n"), 0o600))
	require.NoError(t, os.WriteFile(b, []byte(strings.Repeat("{}\n", 30)), 0o600))
	_, err := dataset.ReadFiles(dataset.Instruction, a, b)
	require.Error(t, err)
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
	var faults *dataset.Faults
	require.True(t, errors.As(err, &faults))
	assert.Len(t, faults.List, 32)
	assert.Contains(t, err.Error(), "32 faulty lines")
	assert.Contains(t, err.Error(), a+":5: ")
	assert.Contains(t, err.Error(), "and 12 more")

	require.NoError(t, os.WriteFile(b, []byte("\n\n"), 0o600))
	_, err = dataset.ReadFiles(dataset.Instruction, b)
	assert.ErrorContains(t, err, "no samples")
	_, err = dataset.ReadFiles(dataset.Instruction, filepath.Join(dir, "none"))
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
}

func TestCheck(t *testing.T) {
	r := dataset.Check(strings.NewReader(`{"question":"q","docs":["d","e"],"gold_answer":"a"}
{"question":"q","docs":["d"],"gold_answer":"a","pos_index":[0]}
{}
`), "f", dataset.Any, 2)
	assert.False(t, r.OK())
	assert.Equal(t, 2, r.Samples)
	assert.Equal(t, map[int]int{1: 1, 2: 1}, r.Docs)
	assert.Equal(t, 1, r.WithPositives)
	require.Len(t, r.Faults, 2)
	assert.Equal(t, 2, r.Faults[0].Line)
	assert.Contains(t, r.Faults[0].Reason, "1 documents where 2 are expected")
}

func TestWriterRoundTrips(t *testing.T) {
	in := []dataset.Sample{
		{Kind: dataset.Pretrain, DataType: dataset.QA, Questions: []string{"q", "r"}, Answers: []string{"a", "b"}, Golds: []string{"a", "b"}, Docs: []string{"<d> 图"}},
		{Kind: dataset.Pretrain, DataType: dataset.Paraphrase, Answers: []string{"a"}, Golds: []string{"a"}, Docs: []string{"d"}},
		{Kind: dataset.Instruction, ID: "7", DataType: dataset.QA, Questions: []string{"q"}, Answers: []string{"a"}, Golds: []string{"a", "b", "c"}, Aliases: []string{"c"}, Docs: []string{"d"}},
		{Kind: dataset.EndToEnd, DataType: dataset.QA, Questions: []string{"q"}, Answers: []string{"a"}, Golds: []string{"a"}, Docs: []string{"d"}, PosIndex: []int{}},
	}
	for _, s := range in {
		var b bytes.Buffer
		require.NoError(t, dataset.NewWriter(&b).Write(s))
		got, faults := read(b.String(), s.Kind)
		require.Empty(t, faults)
		assert.Equal(t, s, got[0])
		assert.NotContains(t, b.String(), `\u`)
	}
	var b bytes.Buffer
	assert.Equal(t, clara.Invalid, clara.KindOf(dataset.NewWriter(&b).Write(dataset.Sample{Kind: dataset.Instruction})))
	assert.Zero(t, b.Len())
}

func TestSourcesRoundTrip(t *testing.T) {
	for _, kind := range []dataset.Kind{dataset.Pretrain, dataset.EndToEnd} {
		in := dataset.Sample{Kind: kind, DataType: dataset.QA, Questions: []string{"q"}, Answers: []string{"a"}, Docs: []string{"d"}, Sources: []string{"d-1", "d-2"}}
		var buf bytes.Buffer
		require.NoError(t, dataset.NewWriter(&buf).Write(in))
		for out, fault := range dataset.Samples(&buf, "f", kind) {
			require.Nil(t, fault)
			assert.Equal(t, in.Sources, out.Sources)
		}
	}
}

func TestDocuments(t *testing.T) {
	text := `{"file_path":"p/a.pdf","filename":"a.pdf","content":"# A","product_area":"p","extracted_images":["i.png",{"path":"j.png"}],"pages":3}
{"filename":"x"}
{"filename":"b.png","content":"[IMAGE DESCRIPTION of b.png]\nx","source_type":"image"}
`
	var docs []dataset.Document
	var faults []dataset.Fault
	for d, f := range dataset.Documents(strings.NewReader(text), "raw") {
		if f != nil {
			faults = append(faults, *f)
			continue
		}
		docs = append(docs, d)
	}
	require.Len(t, docs, 2)
	require.Len(t, faults, 1)
	assert.Equal(t, 2, faults[0].Line)
	assert.Equal(t, []string{"i.png", "j.png"}, docs[0].ExtractedImages)
	assert.Equal(t, dataset.SourceImage, docs[1].SourceType)
	var b bytes.Buffer
	require.NoError(t, dataset.NewWriter(&b).WriteDocument(docs[0]))
	assert.Equal(t, `{"file_path":"p/a.pdf","filename":"a.pdf","content":"# A","product_area":"p","extracted_images":["i.png","j.png"],"pages":3}`+"\n", b.String())
	var again dataset.Document
	require.NoError(t, json.Unmarshal(b.Bytes(), &again))
	assert.Equal(t, docs[0], again)
}

func TestGoldenDataReads(t *testing.T) {
	root := partstest.Golden(t)
	for name, kind := range map[string]dataset.Kind{"pretrain": dataset.Pretrain, "instruction": dataset.Instruction, "end_to_end": dataset.EndToEnd} {
		files, err := filepath.Glob(filepath.Join(root, "*", "data", name+"_data.jsonl"))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			samples, err := dataset.ReadFiles(kind, file)
			require.NoError(t, err)
			assert.Len(t, samples, 8)
		}
	}
}

func FuzzSamples(f *testing.F) {
	f.Add([]byte(`{"question":["q"],"answers":["a"],"docs":["d"],"pos_index":[0]}`))
	f.Add([]byte("{}\n\xff\n[1]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for s, fault := range dataset.Samples(bytes.NewReader(data), "f", dataset.Any) {
			if fault == nil && (len(s.Docs) == 0 || len(s.Answers) == 0) {
				t.Fatalf("accepted a sample without documents or answers: %+v", s)
			}
		}
	})
}

// Documents come back as they were written, and faulty lines stop nothing.
func FuzzDocuments(f *testing.F) {
	f.Add([]byte(`{"file_path":"a/b.pdf","filename":"b.pdf","content":"# x [IMAGE_REF: c]","product_area":"a","extracted_images":[{"path":"c"},"d"],"more":{"x":1}}`))
	f.Add([]byte("{}\n\xff\nnull\n[1]\n{\"content\":7}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for d, fault := range dataset.Documents(bytes.NewReader(data), "f") {
			if fault != nil {
				continue
			}
			var buf bytes.Buffer
			if err := dataset.NewWriter(&buf).WriteDocument(d); err != nil {
				t.Fatalf("%+v: %v", d, err)
			}
			n := 0
			for again, fault := range dataset.Documents(&buf, "f") {
				n++
				if fault != nil || again.Content != d.Content || again.FilePath != d.FilePath || len(again.ExtractedImages) != len(d.ExtractedImages) {
					t.Fatalf("%+v came back as %+v, %v", d, again, fault)
				}
			}
			if n != 1 {
				t.Fatalf("%+v came back as %d lines", d, n)
			}
		}
	})
}

func ExampleWriter() {
	w := dataset.NewWriter(os.Stdout)
	err := w.Write(dataset.Sample{Kind: dataset.EndToEnd, Questions: []string{"Who?"}, Answers: []string{"Ada"}, Docs: []string{"Ada did.", "Rain."}, PosIndex: []int{0}})
	if err != nil {
		return
	}
	// Output: {"question":"Who?","docs":["Ada did.","Rain."],"gold_answer":"Ada","pos_index":[0]}
}
