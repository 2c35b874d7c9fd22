package model_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/libs/testkit/tinymodel"
	"github.com/clara-suite/clara/libs/weights"
	"github.com/clara-suite/clara/services/trainer/torch/internal/model"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

type scope = *torchx.Scope

func tiny(t *testing.T) weights.Source {
	t.Helper()
	dir := t.TempDir()
	tinymodel.Base(t, dir, tinymodel.Default(), 1)
	src, err := weights.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, src.Close()) })
	return src
}

// fused shows a model's projections as Phi has them: q, k and v in one matrix, gate and up in another.
type fused struct{ model.Source }

func (f fused) Tensor(name string) (tensor.View, error) {
	for whole, parts := range map[string][]string{"self_attn.qkv_proj": {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, "mlp.gate_up_proj": {"mlp.gate_proj", "mlp.up_proj"}} {
		if !strings.Contains(name, whole) {
			continue
		}
		all := tensor.View{Name: name, DType: tensor.F32}
		for _, p := range parts {
			v, err := f.Source.Tensor(strings.Replace(name, whole, p, 1))
			if err != nil {
				return all, err
			}
			rows := v.Shape[0]
			if all.Shape != nil {
				rows += all.Shape[0]
			}
			all.Shape = tensor.Shape{rows, v.Shape[1]}
			all.Data = append(all.Data, v.Data...)
		}
		return all, nil
	}
	return f.Source.Tensor(name)
}

// hidden runs packed sequences through a model and returns the states of all of them.
func hidden(t *testing.T, a arch.Model, src model.Source, o model.Options, seqs ...[]int64) []float32 {
	t.Helper()
	var out []float32
	require.NoError(t, torchx.Do(func(s scope) error {
		o.Device, o.Vocab = torchx.CPU, a.Vocab
		m, err := model.Load(s, a, src, o)
		if err != nil {
			return err
		}
		m.Reserve(s, 64)
		var lens []int64
		for _, x := range seqs {
			lens = append(lens, int64(len(x)))
		}
		torchx.NoGrad(func() {
			h := m.Hidden(s, m.Embed(s, slices.Concat(seqs...)), lens, model.Pass{})
			out = m.Norm(s, h).Float32s()
		})
		return nil
	}))
	return out
}

func TestFusedProjections(t *testing.T) {
	src := tiny(t)
	a := src.Arch()
	seq := []int64{5, 9, 100, 7, 30}
	want := hidden(t, a, src, model.Options{DType: torchx.Float32}, seq)
	b := a
	b.FusedQKV, b.FusedGateUp = true, true
	assert.InDeltaSlice(t, want, hidden(t, b, fused{src}, model.Options{DType: torchx.Float32}, seq), 1e-5)
}

func TestPackedEqualsAlone(t *testing.T) {
	src := tiny(t)
	a := src.Arch()
	long := a
	half := a.Rope.Dim / 2
	long.Rope.Kind, long.Rope.OriginalPositions, long.Rope.MaxPositions = arch.RopeLongRope, 4, 16
	long.Rope.ShortFactors, long.Rope.LongFactors = slices.Repeat([]float64{1}, half), slices.Repeat([]float64{3}, half)
	window := a
	window.SlidingWindow, window.Sliding = 3, slices.Repeat([]bool{true}, a.Layers)
	one, two := []int64{5, 9, 100}, []int64{7, 30, 31, 32, 33, 34, 35}
	for _, c := range []struct {
		name string
		a    arch.Model
	}{{"plain", a}, {"long rope", long}, {"window", window}} {
		t.Run(c.name, func(t *testing.T) {
			o := model.Options{DType: torchx.Float32}
			want := append(hidden(t, c.a, src, o, one), hidden(t, c.a, src, o, two)...)
			assert.InDeltaSlice(t, want, hidden(t, c.a, src, o, one, two), 1e-5)
		})
	}
	assert.NotEqual(t, hidden(t, a, src, model.Options{DType: torchx.Float32}, two), hidden(t, window, src, model.Options{DType: torchx.Float32}, two))
}

func TestHalfPrecision(t *testing.T) {
	src := tiny(t)
	seq := []int64{5, 9, 100, 7, 30}
	want := hidden(t, src.Arch(), src, model.Options{DType: torchx.Float32}, seq)
	got := hidden(t, src.Arch(), src, model.Options{DType: torchx.BFloat16}, seq)
	assert.InDeltaSlice(t, want, got, 0.2)
}

// A vocabulary that grows gets rows near the mean of the old ones; one that shrinks keeps the first.
func TestTable(t *testing.T) {
	src := tiny(t)
	a := src.Arch()
	require.NoError(t, torchx.Do(func(s scope) error {
		m, err := model.Load(s, a, src, model.Options{DType: torchx.Float32, Device: torchx.CPU, Vocab: a.Vocab + 3})
		require.NoError(t, err)
		table, head := m.Tables()
		assert.Nil(t, head, "tied")
		assert.Equal(t, []int64{int64(a.Vocab + 3), int64(a.Hidden)}, table.Shape())
		all := table.Float32s()
		mean := make([]float32, a.Hidden)
		for i, x := range all[:a.Vocab*a.Hidden] {
			mean[i%a.Hidden] += x / float32(a.Vocab)
		}
		assert.InDeltaSlice(t, mean, all[a.Vocab*a.Hidden:(a.Vocab+1)*a.Hidden], 1e-3)
		m, err = model.Load(s, a, src, model.Options{DType: torchx.Float32, Device: torchx.CPU, Vocab: 100})
		require.NoError(t, err)
		small, _ := m.Tables()
		assert.Equal(t, all[:100*a.Hidden], small.Float32s())
		return nil
	}))
}

func TestGenerateEqualsWholePasses(t *testing.T) {
	src := tiny(t)
	a := src.Arch()
	require.NoError(t, torchx.Do(func(s scope) error {
		m, err := model.Load(s, a, src, model.Options{DType: torchx.Float32, Device: torchx.CPU, Vocab: a.Vocab})
		require.NoError(t, err)
		m.Reserve(s, 64)
		prompts := [][]int64{{5, 9, 100}, {7, 30, 31, 32, 33}}
		got := m.Generate(s, m.Embed(s, slices.Concat(prompts...)), []int64{3, 5}, nil, 6, nil)
		for i, ids := range prompts {
			for _, want := range got[i].IDs {
				torchx.NoGrad(func() {
					h := m.Hidden(s, m.Embed(s, ids), []int64{int64(len(ids))}, model.Pass{})
					last := s.Narrow(h, 0, int64(len(ids)-1), 1)
					assert.Equal(t, s.Argmax(m.Logits(s, m.Norm(s, last))).Int64s()[0], want)
				})
				ids = append(ids, want)
			}
		}
		return nil
	}))
}

func TestUnsupported(t *testing.T) {
	src := tiny(t)
	a := src.Arch()
	a.PostNorms = true
	err := torchx.Do(func(s scope) error {
		_, err := model.Load(s, a, src, model.Options{DType: torchx.Float32, Device: torchx.CPU, Vocab: a.Vocab})
		return err
	})
	assert.Equal(t, clara.Unsupported, clara.KindOf(err))
}
