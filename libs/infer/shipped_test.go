//go:build !race

package infer_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/testkit/partstest"
)

// TestShippedModel imports the adapters of example/model on their base, and answers from memories.
func TestShippedModel(t *testing.T) {
	base := exampleBase(t)
	_, err := os.Stat(base)
	partstest.Fetched(t, err)
	dir := filepath.Join(t.TempDir(), "package")
	m, err := modelpkg.Import(t.Context(), dir, modelpkg.ImportOptions{Base: base, Checkpoint: filepath.Join("..", "..", "example", "model", "clara-smollm2-135m")})
	require.NoError(t, err)
	assert.Equal(t, "clara-smollm2-135m", m.Name)
	assert.Empty(t, m.Warnings)
	assert.NotEqual(t, m.Hashes.Encoder, m.Hashes.Reasoner, "stage 3 trains a reasoner of its own")

	e := open(t, dir, infer.Options{})
	p := e.Prompts()
	docs := []string{
		"Petrel (buoy)\nThe Petrel is a small coastal buoy made in Norway. It was designed by Ingrid Solheim.",
		"Adélie penguin\nThe Adélie penguin is a species of penguin common along the entire coast of Antarctica.",
	}
	var ids [][]int32
	for _, d := range docs {
		ids = append(ids, p.Encoder(d, m.DocMaxLength))
	}
	memories, err := e.Compress(t.Context(), infer.Encoder, ids)
	require.NoError(t, err)
	require.Len(t, memories, len(docs))

	for _, x := range memories {
		assert.Equal(t, []int{16, m.H}, []int{x.M, x.H})
	}

	// The decoder reads them, one at a time and both, and what is in them makes a difference.
	ask := func(list ...clara.Memory) (infer.Prompt, string) {
		in, err := p.Answer("Who designed the Petrel?", len(list), e.Options().Context)
		require.NoError(t, err)
		filled, err := infer.Fill(in, list)
		require.NoError(t, err)
		_, text, _, err := generate(t.Context(), e, infer.Request{Prompt: filled, Adapter: true, MaxTokens: 16})
		require.NoError(t, err)
		return filled, text
	}
	one, said := ask(memories[0])
	assert.NotEmpty(t, said)
	other, _ := ask(memories[1])
	_, said = ask(memories...)
	assert.NotEmpty(t, said)
	a, err := e.Logits(t.Context(), one, true)
	require.NoError(t, err)
	b, err := e.Logits(t.Context(), other, true)
	require.NoError(t, err)
	assert.NotEqual(t, a, b)
}
