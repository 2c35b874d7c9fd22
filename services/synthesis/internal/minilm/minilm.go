// Package minilm makes embeddings with all-MiniLM-L6-v2 on ONNX Runtime, from the
// model's own safetensors file, so that hard negatives need no service.
//
// A text of up to 256 tokens becomes a vector of 384 numbers of length 1: the mean of
// the last hidden states. Longer texts are cut off there, as the model was trained.
// Safe for concurrent use.
package minilm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer/ort"
	"github.com/clara-suite/clara/libs/onnx/graph"
	"github.com/clara-suite/clara/libs/safetensors"
	"github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/libs/tokenizer"
)

// Name of the model, for cards.
const Name = "all-MiniLM-L6-v2"

// maxTokens is what the model was trained on, marks at both ends included.
const maxTokens = 256

// batchTokens bounds a run: padded tokens of all its texts.
const batchTokens = 8192

// Model is the loaded model.
type Model struct {
	tok      *tokenizer.Tokenizer
	cls, sep int32
	pad      int32
	session  *ort.Session
	weights  *safetensors.File
	words    tensor.View
	position []float32 // with the type of all tokens added
	cfg      config

	mu sync.RWMutex // Close waits for runs
}

type config struct {
	Hidden       int     `json:"hidden_size"`
	Heads        int     `json:"num_attention_heads"`
	Layers       int     `json:"num_hidden_layers"`
	Positions    int     `json:"max_position_embeddings"`
	Vocab        int     `json:"vocab_size"`
	Epsilon      float64 `json:"layer_norm_eps"`
	Intermediate int     `json:"intermediate_size"`
}

// defaultDir is where scripts/deps.sh leaves the model.
func defaultDir() (string, error) {
	cache := os.Getenv("CLARA_CACHE")
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", clara.Errorf(clara.State, "find MiniLM: %w", err)
		}
		cache = filepath.Join(base, "clara")
	}
	return filepath.Join(cache, "minilm-0.1.0"), nil
}

// Open loads the model from its folder; "" is the project's cache. State if it is not there or cannot run.
func Open(dir string) (*Model, error) {
	if dir == "" {
		var err error
		if dir, err = defaultDir(); err != nil {
			return nil, err
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, clara.Errorf(clara.State, "embeddings without a service need MiniLM: get it with scripts/deps.sh minilm, or set EMBEDDING_MODEL to one of your endpoint (%w)", err)
	}
	m := &Model{}
	if err := json.Unmarshal(data, &m.cfg); err != nil {
		return nil, clara.Errorf(clara.Corrupt, "%s: %w", filepath.Join(dir, "config.json"), err)
	}
	if m.tok, err = tokenizer.Load(dir); err != nil {
		return nil, err
	}
	m.cls, m.sep, m.pad = m.tok.ID("[CLS]"), m.tok.ID("[SEP]"), m.tok.ID("[PAD]")
	if m.weights, err = safetensors.Open(filepath.Join(dir, safetensors.SingleFile)); err != nil {
		return nil, err
	}
	if err := m.load(); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func (m *Model) load() error {
	c := m.cfg
	if c.Hidden <= 0 || c.Heads <= 0 || c.Layers <= 0 || c.Positions < maxTokens || m.cls == tokenizer.None || m.sep == tokenizer.None {
		return clara.Errorf(clara.Corrupt, "MiniLM: config %+v is not one of a BERT model", c)
	}
	var err error
	if m.words, err = m.weights.Tensor("embeddings.word_embeddings.weight"); err != nil {
		return err
	}
	if !slices.Equal(m.words.Shape, tensor.Shape{c.Vocab, c.Hidden}) || m.words.DType != tensor.F32 {
		return clara.Errorf(clara.Corrupt, "MiniLM: word embeddings are %v", m.words.Shape)
	}
	if m.position, err = m.floats("embeddings.position_embeddings.weight", c.Positions*c.Hidden); err != nil {
		return err
	}
	kinds, err := m.floats("embeddings.token_type_embeddings.weight", 2*c.Hidden)
	if err != nil {
		return err
	}
	for i := range m.position {
		m.position[i] += kinds[i%c.Hidden]
	}
	model, err := m.graph()
	if err != nil {
		return err
	}
	m.session, err = ort.OpenBytes(model, ort.Options{Provider: ort.CPU})
	return err
}

func (m *Model) floats(name string, n int) ([]float32, error) {
	v, err := m.weights.Tensor(name)
	if err != nil {
		return nil, err
	}
	f, err := v.Float32()
	if err == nil && len(f) != n {
		err = clara.Errorf(clara.Corrupt, "MiniLM: %s has %d values, want %d", name, len(f), n)
	}
	return slices.Clone(f), err
}

// graph writes the encoder: x f32 [B, T, H], mask i32 [B, T] -> hidden f32 [B, T, H].
func (m *Model) graph() ([]byte, error) {
	c := m.cfg
	b := graph.New("minilm")
	var fault error
	weight := func(name string, shape ...int64) graph.Value {
		n := int64(1)
		for _, d := range shape {
			n *= d
		}
		f, err := m.floats(name, int(n))
		if err != nil && fault == nil {
			fault = err
		}
		return b.Floats(name, shape, f)
	}
	h := int64(c.Hidden)
	linear := func(x graph.Value, name string, in, out int64) graph.Value {
		return b.Add(b.MatMulT(x, weight(name+".weight", out, in)), weight(name+".bias", out))
	}
	norm := func(x graph.Value, name string) graph.Value {
		return b.LayerNorm(x, weight(name+".weight", h), weight(name+".bias", h), c.Epsilon)
	}
	batch, length := graph.Named("B"), graph.Named("T")
	mask := b.Input("mask", graph.Int32, batch, length)
	x := norm(b.Input("x", graph.Float32, batch, length, graph.Fixed(h)), "embeddings.LayerNorm")
	for i := range c.Layers {
		layer := fmt.Sprintf("encoder.layer.%d.", i)
		self := layer + "attention.self."
		a := b.MultiHeadAttention(linear(x, self+"query", h, h), linear(x, self+"key", h, h), linear(x, self+"value", h, h), mask, c.Heads)
		x = norm(b.Add(linear(a, layer+"attention.output.dense", h, h), x), layer+"attention.output.LayerNorm")
		inner := b.GELU(linear(x, layer+"intermediate.dense", h, int64(c.Intermediate)), false)
		x = norm(b.Add(linear(inner, layer+"output.dense", int64(c.Intermediate), h), x), layer+"output.LayerNorm")
	}
	b.Output("hidden", x)
	if fault != nil {
		return nil, fault
	}
	var out bytes.Buffer
	if _, err := b.WriteTo(&out); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Embed returns a vector of length 1 for each text.
func (m *Model) Embed(ctx context.Context, texts []string) ([][]float32, error) {
	ids := make([][]int32, len(texts))
	order := make([]int, len(texts))
	for i, t := range texts {
		inner := m.tok.Encode(t)
		inner = inner[:min(len(inner), maxTokens-2)]
		ids[i] = append(append([]int32{m.cls}, inner...), m.sep)
		order[i] = i
	}
	// Texts of like length share a run, so that little of it is padding.
	slices.SortStableFunc(order, func(a, b int) int { return len(ids[a]) - len(ids[b]) })
	out := make([][]float32, len(texts))
	for start := 0; start < len(order); {
		end := start + 1
		for end < len(order) && (end+1-start)*len(ids[order[end]]) <= batchTokens {
			end++
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := m.run(ids, order[start:end], out); err != nil {
			return nil, err
		}
		start = end
	}
	return out, nil
}

// run embeds the texts of these indices together.
func (m *Model) run(ids [][]int32, batch []int, out [][]float32) error {
	h, t := m.cfg.Hidden, len(ids[batch[len(batch)-1]])
	x := make([]float32, len(batch)*t*h)
	mask := make([]int32, len(batch)*t)
	for i, text := range batch {
		for j, id := range ids[text] {
			row := x[(i*t+j)*h : (i*t+j+1)*h]
			if err := m.words.Rows(int(id), int(id)+1).CopyFloat32(row); err != nil {
				return err
			}
			for k, p := range m.position[j*h : (j+1)*h] {
				row[k] += p
			}
			mask[i*t+j] = 1
		}
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.session == nil {
		return clara.Errorf(clara.State, "MiniLM is closed")
	}
	res, err := m.session.Run(map[string]ort.Tensor{
		"x": ort.Of(x, int64(len(batch)), int64(t), int64(h)), "mask": ort.Of(mask, int64(len(batch)), int64(t)),
	})
	if err != nil {
		return err
	}
	hidden, err := ort.Data[float32](res["hidden"])
	if err != nil {
		return err
	}
	for i, text := range batch {
		v := make([]float32, h)
		for j := range ids[text] {
			for k, y := range hidden[(i*t+j)*h : (i*t+j+1)*h] {
				v[k] += y
			}
		}
		var sum float64
		for _, y := range v {
			sum += float64(y) * float64(y)
		}
		scale := float32(1 / math.Sqrt(max(sum, 1e-24)))
		for k := range v {
			v[k] *= scale
		}
		out[text] = v
	}
	return nil
}

// Close frees the model, after runs have ended.
func (m *Model) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.session != nil {
		_ = m.session.Close() // nothing is lost
		m.session = nil
	}
	if m.weights != nil {
		_ = m.weights.Close()
		m.weights = nil
	}
}
