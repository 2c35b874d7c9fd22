package prompt_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/prompt"
	"github.com/clara-suite/clara/libs/testkit/partstest"
	"github.com/clara-suite/clara/libs/tokenizer"
)

type sample struct {
	DataType  string `json:"data_type"`
	PromptLen int    `json:"prompt_len"`
	Text      string
	InputIDs  []int32 `json:"input_ids"`
	Labels    []int32
	NTargets  int `json:"n_targets"`
	Truncated bool
}

type stage struct {
	Instruction int `json:"paraphrase_instruction_index"`
	MaxLen      int `json:"max_len"`
	TopK        int `json:"top_k"`
	Samples     []sample
}

type encoderCase struct {
	Text     string
	InputIDs []int32 `json:"input_ids"`
	Mask     []int32 `json:"attention_mask"`
}

type golden struct {
	Documents []encoderCase
	Questions []encoderCase `json:"questions_inference"`
	Prompts   struct {
		Stage1        stage
		Stage1_2      stage `json:"stage1_2"`
		Stage2        stage
		ParaphraseAll []struct {
			Index      int
			Prompt     string
			WithAnswer string `json:"with_answer"`
			PromptLen  int    `json:"prompt_len"`
		} `json:"paraphrase_all"`
		Inference []struct {
			Question string
			Prompt   string
			InputIDs []int32 `json:"input_ids"`
		} `json:"inference_stage1_2"`
		NoSystem struct {
			Template string `json:"chat_template"`
			Standard struct {
				PromptLen int `json:"prompt_len"`
				Text      string
			}
		} `json:"template_without_system_role"`
	}
	Stages map[string]struct {
		Batch struct {
			Queries [][]int32 `json:"query_ids_unpadded"`
		}
	}
	Extras struct {
		Mask struct {
			Cases []struct {
				Text        string
				IDs, Labels []int32
			}
		} `json:"information_mask"`
	}
	dir string
	w   *prompt.Writer
	m   int
	doc int
}

func load(t *testing.T) []golden {
	root := partstest.Golden(t)
	files, err := filepath.Glob(filepath.Join(root, "*", "golden.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var all []golden
	for _, f := range files {
		var g golden
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(b, &g))
		g.dir = filepath.Dir(f)
		var conf struct {
			Doc  int `json:"doc_max_length"`
			Rate int `json:"compr_rate"`
		}
		b, err = os.ReadFile(filepath.Join(g.dir, "clara", "config.json"))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(b, &conf))
		g.doc, g.m = conf.Doc, conf.Doc/conf.Rate
		base, err := tokenizer.Load(filepath.Join(g.dir, "base"))
		require.NoError(t, err)
		tok, err := tokenizer.NewClara(base, g.m, true)
		require.NoError(t, err)
		tmpl, err := prompt.NewTemplate(base.ChatTemplate(), nil)
		require.NoError(t, err)
		g.w = prompt.New(tok, tmpl)
		all = append(all, g)
	}
	return all
}

func lines[T any](t *testing.T, file string) []T {
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	var out []T
	sc := bufio.NewScanner(bytes.NewReader(b))
	sc.Buffer(nil, 1<<24)
	for sc.Scan() {
		var x T
		require.NoError(t, json.Unmarshal(sc.Bytes(), &x))
		out = append(out, x)
	}
	return out
}

// unpadded returns the ids of a left-padded row.
func unpadded(c encoderCase) []int32 {
	for i, on := range c.Mask {
		if on == 1 {
			return c.InputIDs[i:]
		}
	}
	return nil
}

func check(t *testing.T, name string, want sample, got prompt.Encoded, err error, k, m int) {
	require.NoError(t, err, name)
	assert.Equal(t, want.InputIDs, got.IDs, name)
	assert.Equal(t, want.Labels, got.Labels, name)
	assert.Equal(t, want.NTargets, got.Targets, name)
	assert.Equal(t, want.Truncated, got.Cut, name)
	assert.Len(t, got.Slots, k, name)
	for i, s := range got.Slots {
		assert.Equal(t, m, s.Len)
		assert.Equal(t, got.Slots[0].Start+i*(m+1), s.Start, name)
	}
}

func TestGolden(t *testing.T) {
	for _, g := range load(t) {
		t.Run(filepath.Base(g.dir), func(t *testing.T) {
			require.NotEmpty(t, g.Documents)
			for _, c := range g.Documents {
				assert.Equal(t, unpadded(c), g.w.Encoder(c.Text, g.doc), c.Text)
			}
			for _, c := range g.Questions {
				assert.Equal(t, unpadded(c), g.w.Encoder(c.Text, g.doc), c.Text)
			}

			type pretrain struct {
				DataType string `json:"data_type"`
				Question []string
				Answers  []string
			}
			p := g.Prompts.Stage1
			require.NotEmpty(t, p.Samples)
			for i, x := range lines[pretrain](t, filepath.Join(g.dir, "data", "pretrain_data.jsonl"))[:len(p.Samples)] {
				name := "stage1 " + strconv.Itoa(i)
				var e prompt.Encoded
				var err error
				if x.DataType == "qa" {
					e, err = g.w.TrainQA(name, x.Question, x.Answers, p.TopK, p.MaxLen)
				} else {
					e, err = g.w.TrainParaphrase(name, p.Instruction, x.Answers[0], p.TopK, p.MaxLen)
				}
				check(t, name, p.Samples[i], e, err, p.TopK, g.m)
				assert.Equal(t, p.Samples[i].PromptLen, e.PromptLen, name)
			}
			type qa struct{ Question, Answer string }
			for file, p := range map[string]stage{"instruction_data.jsonl": g.Prompts.Stage1_2, "end_to_end_data.jsonl": g.Prompts.Stage2} {
				require.NotEmpty(t, p.Samples)
				for i, x := range lines[qa](t, filepath.Join(g.dir, "data", file))[:len(p.Samples)] {
					name := file + " " + strconv.Itoa(i)
					e, err := g.w.TrainAnswer(name, x.Question, x.Answer, p.TopK, p.MaxLen)
					check(t, name, p.Samples[i], e, err, p.TopK, g.m)
					assert.Equal(t, p.Samples[i].PromptLen, e.PromptLen, name)
				}
			}
			for i, q := range lines[qa](t, filepath.Join(g.dir, "data", "end_to_end_data.jsonl"))[:4] {
				assert.Equal(t, g.Stages["stage2"].Batch.Queries[i], g.w.Encoder(q.Question, g.Prompts.Stage2.MaxLen))
			}
			tok := g.w.Tokenizer()
			require.Len(t, g.Prompts.ParaphraseAll, prompt.ParaphraseInstructions)
			for _, x := range g.Prompts.ParaphraseAll {
				e, err := g.w.Paraphrase(x.Index, 1, 0)
				require.NoError(t, err)
				assert.Equal(t, tok.EncodeTrusted(x.Prompt), e.IDs)
				assert.Equal(t, x.PromptLen, e.PromptLen)
				e, err = g.w.TrainParaphrase("", x.Index, "An answer.", 1, 0)
				require.NoError(t, err)
				assert.Equal(t, tok.EncodeTrusted(x.WithAnswer), e.IDs)
			}
			require.NotEmpty(t, g.Prompts.Inference)
			for _, x := range g.Prompts.Inference {
				e, err := g.w.Answer(x.Question, g.Prompts.Stage1_2.TopK, 1024)
				require.NoError(t, err)
				assert.Equal(t, x.InputIDs, e.IDs)
			}
			tmpl, err := prompt.NewTemplate(g.Prompts.NoSystem.Template, nil)
			require.NoError(t, err)
			messages := []prompt.Message{
				{Role: "system", Content: []prompt.Part{prompt.Trusted(prompt.SystemAnswer)}},
				{Role: "user", Content: []prompt.Part{prompt.Trusted("Background:\n<DOCS>\n\nQuestion:"), prompt.Plain("A question?")}},
				{Role: "assistant", Content: []prompt.Part{prompt.Plain("An answer.")}},
			}
			r, err := tmpl.Render(messages, prompt.Vars{BOS: tok.BOSName, EOS: tok.EOSName}, tok)
			require.NoError(t, err)
			assert.Equal(t, g.Prompts.NoSystem.Standard.Text, r.Text)
			r, err = tmpl.Render(messages[:2], prompt.Vars{BOS: tok.BOSName, EOS: tok.EOSName, AddGenerationPrompt: true}, tok)
			require.NoError(t, err)
			assert.Len(t, tok.EncodeMixed(r.Text, r.Breaks), g.Prompts.NoSystem.Standard.PromptLen)

			require.NotEmpty(t, g.Extras.Mask.Cases)
			for _, c := range g.Extras.Mask.Cases {
				assert.Equal(t, c.IDs, tok.EncodeTrusted(c.Text))
				labels := append([]int32{}, c.IDs...)
				g.w.MaskInformationIDs(c.IDs, labels)
				assert.Equal(t, c.Labels, labels, c.Text)
			}
		})
	}
}
