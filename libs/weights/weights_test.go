package weights_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/safetensors"
	"github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/libs/weights"
)

const config = `{"model_type":"llama","hidden_size":8,"intermediate_size":12,"num_hidden_layers":2,"num_attention_heads":2,
"num_key_value_heads":1,"vocab_size":10,"rms_norm_eps":1e-5,"tie_word_embeddings":true,"max_position_embeddings":64}`

// model writes a Hugging Face folder whose weights count up from 0 in each tensor.
func model(t *testing.T, change func([]tensor.View) []tensor.View) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600))
	m, err := arch.FromHF([]byte(config), nil)
	require.NoError(t, err)
	var views []tensor.View
	for _, w := range m.Weights() {
		n, _ := w.Shape.Elements()
		values := make([]float32, n)
		for i := range values {
			values[i] = float32(i)
		}
		views = append(views, tensor.FromFloat32(w.Name, w.Shape, values))
	}
	if change != nil {
		views = change(views)
	}
	require.NoError(t, safetensors.WriteFile(filepath.Join(dir, safetensors.SingleFile), nil, views))
	return dir
}

func TestFolder(t *testing.T) {
	s, err := weights.Open(model(t, nil))
	require.NoError(t, err)
	defer s.Close()
	assert.True(t, s.Has(arch.Embedding))
	assert.False(t, s.Has(arch.Head))
	v, err := s.Tensor("model.layers.1.mlp.down_proj.weight")
	require.NoError(t, err)
	assert.Equal(t, tensor.Shape{8, 12}, v.Shape)
	path, off, ok := s.Location(v.Name)
	require.True(t, ok)
	assert.Equal(t, s.Files(), []string{path})
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, v.Data, raw[off:off+int64(len(v.Data))])
	_, ok, err = s.Blocks(v.Name)
	assert.False(t, ok)
	assert.NoError(t, err)
}

func TestFolderWithoutPrefix(t *testing.T) {
	s, err := weights.Open(model(t, func(v []tensor.View) []tensor.View {
		for i := range v {
			v[i].Name = v[i].Name[len("model."):]
		}
		return v
	}))
	require.NoError(t, err)
	defer s.Close()
	v, err := s.Tensor(arch.FinalNorm)
	require.NoError(t, err)
	assert.Equal(t, arch.FinalNorm, v.Name)
}

func TestOpenNamesWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func([]tensor.View) []tensor.View
		kind   clara.Kind
		text   string
	}{
		{"missing", func(v []tensor.View) []tensor.View { return v[:len(v)-1] }, clara.NotFound, "model.norm.weight [8] is missing"},
		{"misshapen", func(v []tensor.View) []tensor.View { v[0].Shape = tensor.Shape{8, 10}; return v }, clara.Corrupt, "model.embed_tokens.weight is [8, 10] where its config asks for [10, 8]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := weights.Open(model(t, c.change))
			require.ErrorContains(t, err, c.text)
			assert.Equal(t, c.kind, clara.KindOf(err))
		})
	}
	_, err := weights.Open(t.TempDir())
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
	_, err = weights.Open(filepath.Join(t.TempDir(), "none"))
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
}
