package calibrate_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/infer/calibrate"
	"github.com/clara-suite/clara/libs/infer/ort"
	"github.com/clara-suite/clara/libs/infer/verify"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/onnx/decoder"
	"github.com/clara-suite/clara/libs/testkit/tinymodel"
	"github.com/clara-suite/clara/libs/weights"
)

func floats(t *testing.T, src weights.Source, name string) []float32 {
	v, err := src.Tensor(name)
	require.NoError(t, err)
	x, err := v.Float32()
	require.NoError(t, err)
	return x
}

// norm is RMSNorm of each row of x [.., H].
func norm(m arch.Model, x, weight []float32) []float32 {
	H := len(weight)
	out := make([]float32, len(x))
	for at := 0; at < len(x); at += H {
		sum := 0.0
		for _, v := range x[at : at+H] {
			sum += float64(v) * float64(v)
		}
		r := 1 / math.Sqrt(sum/float64(H)+m.NormEps)
		for i := range H {
			out[at+i] = float32(float64(x[at+i]) * r * (float64(weight[i]) + m.NormOffset))
		}
	}
	return out
}

// TestLayers takes tiny models layer by layer: at the end are the logits that transformers computed, and what the first
// layer's matrices meet are its normed embeddings.
func TestLayers(t *testing.T) {
	for _, family := range []string{"llama", "mistral", "qwen3", "phi3", "gemma2", "gemma3"} {
		t.Run(family, func(t *testing.T) {
			dir := filepath.Join("..", "testdata", family)
			src, err := weights.Open(dir)
			require.NoError(t, err)
			defer src.Close()
			var w struct {
				Cases []struct {
					IDs    []int
					Logits []float32
				}
			}
			raw, err := os.ReadFile(filepath.Join(dir, "witness.json"))
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(raw, &w))
			m, c := src.Arch(), w.Cases[1]
			table, H, T := floats(t, src, arch.Embedding), m.Hidden, len(c.IDs)
			x := make([]float32, 0, 2*T*H) // the same sequence twice
			for range 2 {
				for _, id := range c.IDs {
					for _, v := range table[id*H : (id+1)*H] {
						x = append(x, v*float32(m.EmbedScale))
					}
				}
			}
			first := norm(m, x, floats(t, src, arch.LayerName(0, "input_layernorm.weight")))
			run := calibrate.Start(m, x, T, ort.Options{Threads: 1})
			for layer := range m.Layers {
				of := map[string][]float32{}
				for _, part := range m.Weights() {
					if strings.HasPrefix(part.Name, arch.LayerName(layer, "")) {
						of[part.Name] = floats(t, src, part.Name)
					}
				}
				if layer == 0 {
					grams, err := run.Grams(t.Context(), layer, of)
					require.NoError(t, err)
					got := grams[decoder.GramOf("layers.0.qkv")]
					require.Len(t, got, H*H)
					for _, at := range [][2]int{{0, 0}, {1, 3}, {H - 1, 2}} {
						sum := 0.0
						for row := 0; row < len(first); row += H {
							sum += float64(first[row+at[0]]) * float64(first[row+at[1]])
						}
						assert.InDelta(t, sum, got[at[0]*H+at[1]], 1e-3*float64(T))
					}
					assert.Len(t, grams[decoder.GramOf("layers.0.down")], m.Intermediate*m.Intermediate)
				}
				require.NoError(t, run.Advance(t.Context(), layer, of))
			}
			last := norm(m, run.States()[(2*T-1)*H:], floats(t, src, arch.FinalNorm))
			head := table
			if !m.TieEmbeddings {
				head = floats(t, src, arch.Head)
			}
			for id, want := range c.Logits {
				sum := 0.0
				for i, v := range last {
					sum += float64(v) * float64(head[id*H+i])
				}
				if m.LogitSoftcap > 0 {
					sum = m.LogitSoftcap * math.Tanh(sum/m.LogitSoftcap)
				}
				assert.InDelta(t, want, sum, 2e-3)
			}
		})
	}
}

// TestImport rounds a tiny model with regard to a text: the package runs, its memories are near float32's, and what cannot be
// rounded so is refused.
func TestImport(t *testing.T) {
	dir := t.TempDir()
	base, ck := filepath.Join(dir, "base"), filepath.Join(dir, "clara")
	tinymodel.Base(t, base, tinymodel.Default().With(tinymodel.Config{"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96}), 1)
	tinymodel.Checkpoint(t, ck, base, 40, 10, 1)
	var steps []string
	o := modelpkg.ImportOptions{Base: base, Checkpoint: ck, Rounding: modelpkg.GPTQ, Calibration: calibrate.Text()[:3000], Calibrate: calibrate.With(ort.Options{Threads: 1}),
		Precision: modelpkg.Precisions{Encoder: modelpkg.FP32, Reasoner: modelpkg.FP32, Decoder: modelpkg.Int4}, Progress: func(_, _ int, s string) { steps = append(steps, s) }}
	codes := map[modelpkg.Rounding]string{}
	for _, r := range []modelpkg.Rounding{modelpkg.GPTQ, modelpkg.RTN} {
		o.Rounding = r
		pkg := filepath.Join(dir, string(r))
		m, err := modelpkg.Import(t.Context(), pkg, o)
		require.NoError(t, err)
		for _, f := range m.Files {
			if f.Path == "weights.int4.safetensors" {
				codes[r] = f.SHA256
			}
		}
		if r == modelpkg.RTN {
			continue
		}
		list, err := verify.Precisions(t.Context(), pkg, infer.Options{})
		require.NoError(t, err)
		require.Len(t, list, 2)
		// Random weights gain nothing from it: their memories are near float32's as far as 4 bits go.
		assert.Greater(t, list[1].CosineMin, 0.6)
		assert.Positive(t, list[1].Same)
	}
	assert.NotEqual(t, codes[modelpkg.GPTQ], codes[modelpkg.RTN])
	assert.Contains(t, steps, "rounding layer 1 of 2")

	o.Rounding = modelpkg.GPTQ
	o.Precision = modelpkg.Precisions{Decoder: modelpkg.Int8}
	_, err := modelpkg.Import(t.Context(), filepath.Join(dir, "no"), o)
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
	o.Precision.Decoder, o.Calibration = modelpkg.Int4, "short"
	_, err = modelpkg.Import(t.Context(), filepath.Join(dir, "no"), o)
	assert.ErrorContains(t, err, "the calibration text has")
}
