package stage_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/prompt"
	"github.com/clara-suite/clara/libs/trainplan"
	"github.com/clara-suite/clara/services/trainer/torch/internal/model"
	"github.com/clara-suite/clara/services/trainer/torch/internal/net"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

// What was trained is what is served: a model after all three stages, imported into the ONNX engine, makes the memories and
// answers that it makes here.
func TestServedAsTrained(t *testing.T) {
	ctx := context.Background()
	one := tinyPlan(t)
	two := next(t, one, trainplan.Stage12)
	three := next(t, two, trainplan.Stage2)
	for _, p := range []trainplan.Plan{one, two, three} {
		p.Epochs = 1
		_, _, err := execute(ctx, p)
		require.NoError(t, err)
	}
	dir := filepath.Join(t.TempDir(), "package")
	_, err := modelpkg.Import(ctx, dir, modelpkg.ImportOptions{Base: one.Model, Checkpoint: three.SavePath})
	require.NoError(t, err)
	e, err := infer.Open(ctx, dir, infer.Options{Context: 512, Streams: 2})
	require.NoError(t, err)
	defer func() { assert.NoError(t, e.Close(ctx)) }()

	docs := []string{"House 3 has 5 rooms.", "House 4 has 6 rooms and more.", "Nobody lives in house 9, which is why its rooms are empty."}
	require.NoError(t, torchx.Do(func(s *torchx.Scope) error {
		o, err := net.Open(ctx, s, net.Config{Base: one.Model, Checkpoint: three.SavePath, DType: torchx.Float32, Device: torchx.CPU, MaxLen: 512})
		if err != nil {
			return err
		}
		defer o.Close()
		for role, adapter := range map[modelpkg.Role]*model.Adapter{modelpkg.Encoder: o.Encoder, modelpkg.Reasoner: o.Reasoner} {
			var ids [][]int32
			for _, d := range docs {
				ids = append(ids, o.Prompts.Encoder(d, 48))
			}
			served, err := e.Compress(ctx, role, ids)
			require.NoError(t, err)
			torchx.NoGrad(func() {
				want := o.Compress(s, ids, model.Pass{Adapter: adapter}, false).Memory.Float32s()
				var got []float32
				for _, m := range served {
					got = append(got, m.Data...)
				}
				assert.InDeltaSlice(t, want, got, 1e-4, string(role))
			})
		}

		memories, err := e.CompressTexts(ctx, docs)
		require.NoError(t, err)
		sure := 0
		for _, question := range []string{"Rooms of 3?", "Rooms of 4?", "Who lives there?"} {
			p, err := o.Prompts.Answer(question, len(docs), 512)
			require.NoError(t, err)
			var all []float32
			for _, m := range memories {
				all = append(all, m.Data...)
			}
			want := o.Generate(s, []prompt.Encoded{p}, s.Floats(all, torchx.CPU, int64(len(docs)*o.M), int64(o.Arch.Hidden)), 16, o.EOS())[0]
			if want.Margin < 1e-3 { // two tokens are as good as each other
				continue
			}
			sure++
			filled, err := infer.Fill(p, memories)
			require.NoError(t, err)
			var got []int64
			_, err = e.Generate(ctx, infer.Request{Prompt: filled, Adapter: true, MaxTokens: 16}, func(x infer.Token) error {
				if x.ID >= 0 {
					got = append(got, int64(x.ID))
				}
				return nil
			})
			require.NoError(t, err)
			assert.Equal(t, want.IDs, got, question)
		}
		assert.Positive(t, sure, "answers without a near tie")
		return nil
	}))
}
