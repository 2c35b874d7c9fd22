package weights_test

import (
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/gguf"
	"github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/libs/weights"
)

func TestGGUF(t *testing.T) {
	const path = "testdata/llama.gguf"
	s, err := weights.Open(path)
	require.NoError(t, err)
	defer s.Close()
	m := s.Arch()
	assert.Equal(t, "llama", m.Family)
	assert.Equal(t, []int{32, 64, 2, 4, 2, 8, 24}, []int{m.Hidden, m.Intermediate, m.Layers, m.Heads, m.KVHeads, m.HeadDim, m.Vocab})
	assert.True(t, m.TieEmbeddings)
	assert.Equal(t, []int{2, 3}, m.EOS)
	inv, scale := m.Rope.Frequencies(1)
	assert.Equal(t, []float32{1, 0.1, 0.0025, 0.000125}, inv)
	assert.InDelta(t, 1, scale, 0)

	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, w := range m.Weights() {
		v, err := s.Tensor(w.Name)
		require.NoError(t, err)
		assert.Equal(t, w.Shape, v.Shape, w.Name)
		assert.Equal(t, w.Name, v.Name)
		values, err := v.Float32()
		require.NoError(t, err)
		isK := w.Name == arch.LayerName(0, "self_attn.k_proj.weight") || w.Name == arch.LayerName(1, "self_attn.k_proj.weight")
		for i, got := range values {
			want := float32(i)
			if isK {
				want = float32(127 * math.Ldexp(1, i/32-8))
			}
			require.InDelta(t, want, got, 0, "%s[%d]", w.Name, i)
		}
		if file, at, ok := s.Location(w.Name); ok {
			assert.Equal(t, path, file)
			assert.Equal(t, v.Data, raw[at:at+int64(len(v.Data))], w.Name)
		}
	}
	k := arch.LayerName(0, "self_attn.k_proj.weight")
	_, _, ok := s.Location(k)
	assert.False(t, ok, "a quantised tensor lies in the file otherwise than Tensor returns it")
	_, _, ok = s.Location(arch.LayerName(0, "self_attn.q_proj.weight"))
	assert.False(t, ok, "so does a permuted one")
	_, _, ok = s.Location(arch.Embedding)
	assert.True(t, ok)
	b, ok, err := s.Blocks(k)
	require.NoError(t, err)
	require.True(t, ok)
	assert.Equal(t, gguf.Q8_0, b.Type)
	assert.Equal(t, tensor.Shape{16, 32}, b.Shape)
	v, err := s.Tensor(k)
	require.NoError(t, err)
	want, err := v.Float32()
	require.NoError(t, err)
	got, err := b.Float32()
	require.NoError(t, err)
	assert.Equal(t, want, got, "blocks are in Hugging Face's order too")
	_, err = s.Tensor("none")
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
	file, ok := weights.GGUF(s)
	require.True(t, ok)
	assert.Equal(t, 2, file.Int("tokenizer.ggml.eos_token_id", 0))
}
