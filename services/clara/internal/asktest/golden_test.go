package asktest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/infer/models"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/prompt"
	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/libs/safetensors"
	"github.com/clara-suite/clara/libs/testkit/partstest"
	"github.com/clara-suite/clara/libs/testkit/servicetest"
	compressorv1 "github.com/clara-suite/clara/proto/gen/clara/compressor/v1"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
)

func toMemory(p *compressorv1.Memory) (clara.Memory, error) { return models.FromProto(p) }

// call is what the reference was asked and said.
type call struct {
	Questions   []string   `json:"questions"`
	Documents   [][]string `json:"documents"`
	Text        []string   `json:"text"`
	TopK        [][]int32  `json:"topk_idx"`
	Steps       int32      `json:"steps"`
	Instruction int        `json:"paraphrase_instruction_index"`
}

// TestGolden compares the three entry points, through RPC, with what the reference generates (spec clara-model §6).
func TestGolden(t *testing.T) {
	root := partstest.Golden(t)
	files, err := filepath.Glob(filepath.Join(root, "*", "golden.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) { golden(t, dir) })
	}
}

func golden(t *testing.T, dir string) {
	raw, err := os.ReadFile(filepath.Join(dir, "golden.json"))
	require.NoError(t, err)
	var g struct {
		Generate map[string]json.RawMessage `json:"generate"`
	}
	require.NoError(t, json.Unmarshal(raw, &g))
	read := func(name string) (c call) {
		require.NoError(t, json.Unmarshal(g.Generate[name], &c))
		require.NotEmpty(t, c.Text, name)
		return c
	}
	e := servicetest.New(t, infer.Options{}, rpc.Config{})
	m := e.ImportFrom("golden", modelpkg.ImportOptions{Base: filepath.Join(dir, "base"), Checkpoint: filepath.Join(dir, "clara")})
	e.Registry.Activate("golden")
	mount(t, e)
	ctx := t.Context()

	text := read("text")
	request := &generatorv1.GenerateRequest{MaxTokens: text.Steps}
	for i, q := range text.Questions {
		request.Items = append(request.Items, &generatorv1.GenerateRequest_Item{Question: q, Passages: text.Documents[i]})
	}
	generated, err := e.Generator.Generate(ctx, request)
	require.NoError(t, err)
	for i, want := range text.Text {
		assert.Equal(t, want, generated.Outputs[i].Text, "generate from text, row %d", i)
	}

	weights, err := safetensors.Open(filepath.Join(dir, "golden.safetensors"))
	require.NoError(t, err)
	defer func() { assert.NoError(t, weights.Close()) }()
	v, err := weights.Tensor("generate/compressed/memory")
	require.NoError(t, err)
	all, err := v.Float32()
	require.NoError(t, err)
	compressed := read("compressed")
	k, size := v.Shape[0]/len(compressed.Questions), m.M*m.H
	request = &generatorv1.GenerateRequest{MaxTokens: compressed.Steps}
	for i, q := range compressed.Questions {
		item := &generatorv1.GenerateRequest_Item{Question: q}
		for j := i * k; j < (i+1)*k; j++ {
			item.Memories = append(item.Memories, models.ToProto(clara.Memory{M: m.M, H: m.H, Data: all[j*size : (j+1)*size]}))
		}
		request.Items = append(request.Items, item)
	}
	generated, err = e.Generator.Generate(ctx, request)
	require.NoError(t, err)
	for i, want := range compressed.Text {
		assert.Equal(t, want, generated.Outputs[i].Text, "generate from memories, row %d", i)
	}

	questions := read("questions")
	selection := &generatorv1.SelectRequest{MaxTokens: questions.Steps}
	for i, q := range questions.Questions {
		selection.Items = append(selection.Items, &generatorv1.SelectRequest_Item{Question: q, Candidates: questions.Documents[i]})
	}
	selected, err := e.Generator.Select(ctx, selection)
	require.NoError(t, err)
	for i, want := range questions.Text {
		assert.Equal(t, questions.TopK[i], selected.Selections[i].Indices, "top k, row %d", i)
		assert.Equal(t, want, selected.Selections[i].Output.Text, "generate from questions, row %d", i)
	}

	paraphrase := read("paraphrase")
	seed := uint64(0)
	for prompt.DrawParaphrase(seed, 0) != paraphrase.Instruction {
		seed++
	}
	for i, documents := range paraphrase.Documents {
		out, err := e.Generator.Paraphrase(ctx, &generatorv1.ParaphraseRequest{Documents: documents, MaxTokens: paraphrase.Steps, Seed: int64(seed)})
		require.NoError(t, err)
		assert.Equal(t, paraphrase.Text[i], out.Outputs[0].Text, "paraphrase, row %d", i)
	}
}
