package checkpoint_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/checkpoint"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/libs/testkit/partstest"
	"github.com/clara-suite/clara/libs/torchpickle"
	"github.com/clara-suite/clara/libs/weights"
)

const baseConfig = `{"model_type":"llama","hidden_size":8,"intermediate_size":12,"num_hidden_layers":2,"num_attention_heads":2,
"num_key_value_heads":1,"vocab_size":10,"tie_word_embeddings":true,"max_position_embeddings":64}`

func model(t testing.TB) arch.Model {
	t.Helper()
	m, err := arch.FromHF([]byte(baseConfig), nil)
	require.NoError(t, err)
	return m
}

func zeros(shape ...int) tensor.View {
	n, _ := tensor.Shape(shape).Elements()
	return tensor.FromFloat32("", shape, make([]float32, n))
}

func adapter(m arch.Model, name string, rank int) checkpoint.Adapter {
	a := checkpoint.Adapter{Name: name, Rank: rank, Tensors: map[string]tensor.View{}}
	for layer := range m.Layers {
		for _, l := range m.Linears() {
			a.Tensors[checkpoint.AKey(layer, l.Name)] = zeros(rank, l.In)
			a.Tensors[checkpoint.BKey(layer, l.Name)] = zeros(l.Out, rank)
		}
	}
	return a
}

// tiny is a two-adapter checkpoint: m = 20 // 4 = 5, so 8 added tokens on 10.
func tiny(t testing.TB) *checkpoint.Checkpoint {
	c := checkpoint.DefaultConfig()
	c.DecoderModelName, c.DocMaxLength, c.CompressRate, c.LoraR, c.Sep, c.DifferentMemTokens = "x/base", 20, 4, 3, true, true
	m := model(t)
	return &checkpoint.Checkpoint{Config: c, Embedding: zeros(18, 8), Adapters: map[string]checkpoint.Adapter{
		checkpoint.Encoder: adapter(m, checkpoint.Encoder, 3), checkpoint.Decoder: adapter(m, checkpoint.Decoder, 3),
	}}
}

func TestWriteAndOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "x", "clara")
	c := tiny(t)
	require.NoError(t, checkpoint.SaveDir(dir, func(tmp string) error { return c.Write(tmp, model(t)) }))
	got, err := checkpoint.Open(dir)
	require.NoError(t, err)
	require.NoError(t, got.Validate(model(t), 10+got.Config.AddedTokens()))
	assert.Equal(t, 5, got.Config.M())
	assert.Equal(t, 8, got.Config.AddedTokens())
	assert.Empty(t, got.Config.Warnings())
	assert.Nil(t, got.Head)
	// A reasoner that is not there is the encoder's copy; any other is missing.
	q, err := got.Adapter(checkpoint.QueryReasoner)
	require.NoError(t, err)
	assert.Equal(t, checkpoint.QueryReasoner, q.Name)
	assert.Len(t, q.Tensors, 2*7*2)
	_, err = got.Adapter("other")
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
	assert.NoError(t, got.Config.CheckRate(0))
	assert.NoError(t, got.Config.CheckRate(4))
	assert.ErrorContains(t, got.Config.CheckRate(8), "trained at 4")

	// Layers come in the reference's order, q first, A before B.
	raw, err := torchpickle.Load(filepath.Join(dir, checkpoint.AdaptersFile))
	require.NoError(t, err)
	assert.Equal(t, []string{checkpoint.Decoder, checkpoint.Encoder}, raw.Keys())
	d, _ := raw.Dict(checkpoint.Decoder)
	assert.Equal(t, []string{"model.layers.0.self_attn.q_proj.lora_A.weight", "model.layers.0.self_attn.q_proj.lora_B.weight"}, d.Keys()[:2])
	// Reading and writing the config loses nothing.
	text, err := got.Config.JSON()
	require.NoError(t, err)
	again, err := checkpoint.ParseConfig(text)
	require.NoError(t, err)
	assert.Equal(t, got.Config, again)
}

// tables is a base of tables alone.
type tables map[string]tensor.View

func (b tables) Tensor(name string) (tensor.View, error) { return b[name], nil }

func TestAdaptersAloneGoWithTheirBase(t *testing.T) {
	// Two tables of 18 rows, counted up; the base has the first 10, and two more that pad its vocabulary.
	count := func(rows int, from float32) tensor.View {
		v := make([]float32, rows*8)
		for i := range v {
			v[i] = from + float32(i)
		}
		return tensor.FromFloat32("", tensor.Shape{rows, 8}, v)
	}
	c := tiny(t)
	head := count(18, 500)
	c.Embedding, c.Head = count(18, 0), &head
	c.Config.DecoderModelName = "/srv/models/base.gguf"
	c.Config.Extra = map[string]json.RawMessage{"compr_base_model_name": json.RawMessage(`"/srv/models/base.gguf"`)}
	a := c.Adapters[checkpoint.Encoder].Tensors[checkpoint.AKey(1, "mlp.up_proj")]
	copy(a.Data, tensor.FromFloat32("", tensor.Shape{2}, []float32{0.1, -3}).Data)
	dir := filepath.Join(t.TempDir(), "small")
	require.NoError(t, checkpoint.SaveDir(dir, func(tmp string) error { return c.WriteAdapters(tmp, model(t)) }))

	got, err := checkpoint.Open(dir)
	require.NoError(t, err)
	config, err := os.ReadFile(filepath.Join(dir, checkpoint.ConfigFile))
	require.NoError(t, err)
	assert.Equal(t, "base.gguf", got.Config.DecoderModelName)
	assert.NotContains(t, string(config), "/srv", "where files lie is nobody's business")
	assert.Error(t, got.Validate(model(t), 18), "not complete yet")
	base := tables{arch.Embedding: count(12, 0), arch.Head: count(12, 500)}
	require.NoError(t, got.Complete(base, 18))
	require.NoError(t, got.Validate(model(t), 18))
	assert.Equal(t, c.Embedding.Data, got.Embedding.Data)
	assert.Equal(t, head.Data, got.Head.Data)
	half, err := got.Adapters[checkpoint.Encoder].Tensors[checkpoint.AKey(1, "mlp.up_proj")].Float32()
	require.NoError(t, err)
	assert.InDeltaSlice(t, []float32{0.1, -3, 0}, half[:3], 1e-4)

	err = got.Complete(tables{arch.Embedding: zeros(12, 9), arch.Head: zeros(12, 9)}, 18)
	assert.Equal(t, clara.Invalid, clara.KindOf(err), "%v", err)
	// A checkpoint with its tables stays as it is.
	require.NoError(t, tiny(t).Complete(tables{}, 18))
	// What half precision cannot hold is refused.
	copy(a.Data, tensor.FromFloat32("", tensor.Shape{1}, []float32{1e6}).Data)
	err = c.WriteAdapters(t.TempDir(), model(t))
	assert.Equal(t, clara.Invalid, clara.KindOf(err), "%v", err)
	assert.ErrorContains(t, err, "encoder_adapter/model.layers.1.mlp.up_proj.lora_A.weight")
}

func TestValidateNamesWhatIsWrong(t *testing.T) {
	q := checkpoint.AKey(1, "self_attn.q_proj")
	for _, c := range []struct {
		name   string
		change func(*checkpoint.Checkpoint)
		kind   clara.Kind
		text   string
	}{
		{"no decoder", func(c *checkpoint.Checkpoint) { delete(c.Adapters, checkpoint.Decoder) }, clara.NotFound, "decoder_adapter is missing"},
		{"matrix missing", func(c *checkpoint.Checkpoint) { delete(c.Adapters[checkpoint.Encoder].Tensors, q) }, clara.NotFound, "encoder_adapter lacks " + q},
		{"misshapen", func(c *checkpoint.Checkpoint) { c.Adapters[checkpoint.Encoder].Tensors[q] = zeros(3, 9) }, clara.Invalid, q + " is [3, 9] where the base needs [3, 8]"},
		{"too many layers", func(c *checkpoint.Checkpoint) {
			c.Adapters[checkpoint.Encoder].Tensors[checkpoint.AKey(2, "mlp.up_proj")] = zeros(3, 8)
		}, clara.Invalid, "for which the base has no layer"},
		{"rank", func(c *checkpoint.Checkpoint) { c.Config.LoraR = 16 }, clara.Corrupt, "lora_r 16"},
		{"hidden", func(c *checkpoint.Checkpoint) { c.Embedding = zeros(18, 9) }, clara.Invalid, "another base"},
		{"rows", func(c *checkpoint.Checkpoint) { c.Embedding = zeros(19, 8) }, clara.Invalid, "has 19 rows"},
		{"head rows", func(c *checkpoint.Checkpoint) { h := zeros(17, 8); c.Head = &h }, clara.Invalid, "lm_head.weight has 17 rows"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cp := tiny(t)
			c.change(cp)
			err := cp.Validate(model(t), 18)
			require.ErrorContains(t, err, c.text)
			assert.Equal(t, c.kind, clara.KindOf(err))
		})
	}
	untied := model(t)
	untied.TieEmbeddings = false
	assert.ErrorContains(t, tiny(t).Validate(untied, 18), "not tied")
}

func TestOpenReadsOldKeysAndLeavesCopiesOut(t *testing.T) {
	dir := t.TempDir()
	c := tiny(t)
	require.NoError(t, c.Write(dir, model(t)))
	d := torchpickle.NewDict()
	for name, a := range c.Adapters {
		inner := torchpickle.NewDict()
		inner.Set(arch.Embedding, zeros(18, 8))
		inner.Set(arch.Head, zeros(18, 8))
		for key, v := range a.Tensors {
			inner.Set("base_model.model."+key[:len(key)-len("weight")]+name+".weight", v)
		}
		d.Set(name, inner)
	}
	require.NoError(t, torchpickle.Save(filepath.Join(dir, checkpoint.AdaptersFile), d))
	got, err := checkpoint.Open(dir)
	require.NoError(t, err)
	require.NoError(t, got.Validate(model(t), 18))

	d.Set("bad", torchpickle.NewDict())
	require.NoError(t, torchpickle.Save(filepath.Join(dir, checkpoint.AdaptersFile), d))
	_, err = checkpoint.Open(dir)
	assert.ErrorContains(t, err, "adapter bad")
	for _, file := range []string{checkpoint.AdaptersFile, checkpoint.ConfigFile} {
		require.NoError(t, os.Remove(filepath.Join(dir, file)))
		_, err = checkpoint.Open(dir)
		assert.Equal(t, clara.NotFound, clara.KindOf(err))
		assert.ErrorContains(t, err, file)
	}
}

func TestConfigRefusals(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"json", `{`, "parse"},
		{"no base", `{}`, "decoder_model_name"},
		{"rate above length", `{"decoder_model_name":"x","doc_max_length":8,"compr_rate":9}`, "leaves no memory"},
		{"type", `{"decoder_model_name":"x","doc_max_length":"8"}`, "parse"},
		{"rank", `{"decoder_model_name":"x","lora_r":0}`, "lora_r"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := checkpoint.ParseConfig([]byte(c.text))
			require.ErrorContains(t, err, c.want)
			assert.Equal(t, clara.Corrupt, clara.KindOf(err))
		})
	}
	c, err := checkpoint.ParseConfig([]byte(`{"decoder_model_name":"x","doc_max_length":64,"compr_rate":8,"sep":false,"mine":1}`))
	require.NoError(t, err)
	assert.Len(t, c.Warnings(), 1)
	assert.Equal(t, 4, c.AddedTokens(), "one repeated <MEM>")
	assert.Contains(t, c.Extra, "mine")
}

func TestSaveDirIsAtomic(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "run", "ckpt")
	write := func(text string, fail error) error {
		return checkpoint.SaveDir(dir, func(tmp string) error {
			if err := os.WriteFile(filepath.Join(tmp, "f"), []byte(text), 0o600); err != nil {
				return err
			}
			return fail
		})
	}
	content := func() string {
		b, err := os.ReadFile(filepath.Join(dir, "f"))
		require.NoError(t, err)
		return string(b)
	}
	require.NoError(t, write("one", nil))
	assert.Equal(t, "one", content())
	require.NoError(t, write("two", nil))
	assert.Equal(t, "two", content())
	full := errors.New("disk full")
	assert.ErrorIs(t, write("three", full), full)
	assert.Equal(t, "two", content())
	entries, err := os.ReadDir(filepath.Dir(dir))
	require.NoError(t, err)
	assert.Len(t, entries, 1, "nothing is left behind")
}

func TestFindBase(t *testing.T) {
	root := t.TempDir()
	put := func(parts ...string) string {
		dir := filepath.Join(append([]string{root}, parts...)...)
		require.NoError(t, os.MkdirAll(dir, 0o755))
		for _, f := range []string{"config.json", "model.safetensors"} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, f), []byte("{}"), 0o600))
		}
		return dir
	}
	base := put("NAME", "base")
	other := put("other")
	snapshot := put("hf", "hub", "models--org--model", "snapshots", "abc")
	refs := filepath.Join(root, "hf", "hub", "models--org--model", "refs")
	require.NoError(t, os.MkdirAll(refs, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(refs, "main"), []byte("abc\n"), 0o600))
	ckpt := filepath.Join(root, "NAME", "clara")
	env := map[string]string{"HF_HOME": filepath.Join(root, "hf")}
	find := checkpoint.BaseFinder{Env: func(k string) string { return env[k] }, Offline: true}
	for _, c := range []struct{ name, model, override, want string }{
		{"relative to what holds NAME", "NAME/base", "", base},
		{"sibling", "base", "", base},
		{"absolute", base, "", base},
		{"override", "NAME/base", other, other},
		{"hub cache", "org/model", "", snapshot},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := find.Find(context.Background(), c.model, c.override, ckpt)
			require.NoError(t, err)
			assert.Equal(t, c.want, got)
		})
	}
	for _, c := range []struct{ name, model, text string }{
		{"not in the cache", "org/absent", "hf download org/absent"},
		{"absolute, absent", filepath.Join(root, "none"), "--base"},
		{"no id", "../../x/y/z", "--base"},
		{"none", "", "--base"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := find.Find(context.Background(), c.model, "", ckpt)
			assert.ErrorContains(t, err, c.text)
		})
	}
	t.Run("no checkpoint", func(t *testing.T) {
		_, err := find.Find(context.Background(), "org/absent", "", "")
		require.ErrorContains(t, err, "not in the working folder")
		assert.NotContains(t, err.Error(), "checkpoint", "there is none to look beside")
		assert.NotContains(t, err.Error(), "--base", "a flag of commands that have a checkpoint")
	})
}

func TestGoldenCheckpoints(t *testing.T) {
	root := partstest.Golden(t)
	dirs, err := filepath.Glob(filepath.Join(root, "*", "clara*"))
	require.NoError(t, err)
	require.NotEmpty(t, dirs)
	for _, dir := range dirs {
		t.Run(filepath.Base(filepath.Dir(dir))+"/"+filepath.Base(dir), func(t *testing.T) {
			c, err := checkpoint.Open(dir)
			require.NoError(t, err)
			base, err := checkpoint.BaseFinder{Offline: true}.Find(context.Background(), c.Config.DecoderModelName, "", dir)
			require.NoError(t, err)
			source, err := weights.Open(base)
			require.NoError(t, err)
			defer source.Close()
			require.NoError(t, c.Validate(source.Arch(), 0))
			// Written and read again it is the same.
			out := t.TempDir()
			require.NoError(t, c.Write(out, source.Arch()))
			again, err := checkpoint.Open(out)
			require.NoError(t, err)
			assert.Equal(t, c.Adapters, again.Adapters)
			assert.Equal(t, c.Embedding, again.Embedding)
			config := maps.Clone(again.Config.Extra)
			for key := range c.Config.Extra {
				assert.Contains(t, config, key)
			}
		})
	}
}

func ExampleMemoryTokens() {
	m, err := checkpoint.MemoryTokens(512, 32)
	if err != nil || m != 16 {
		panic("512 / 32 is 16")
	}
}
