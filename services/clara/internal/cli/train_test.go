package cli

import (
	"bytes"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/trainplan"
)

// parameters are those that users have in their scripts (spec data-pipeline, "Training parameters").
var parameters = strings.Fields(`max_len train_batch_size micro_train_batch_size learning_rate max_epochs zero_stage bf16 flash_attn
	gradient_checkpointing doc_max_length compress_rate generation_top_k mse_loss qa_loss stage2_mips stage2_retrieval_top_n max_samples
	save_steps logging_steps eval_steps do_eval_gen lr_scheduler lr_warmup_ratio seed l2 adam_betas max_norm load_checkpoint pretrain
	pretrain_checkpoint dataset dataset_probs eval_dataset save_path ckpt_path max_ckpt_num lora_rank quantization use_tensorboard
	use_wandb wandb_project wandb_group pure_inference save_hf_ckpt local_rank`)

func TestTrainTakesAllParameters(t *testing.T) {
	for _, name := range parameters {
		for _, flag := range []string{name, strings.ReplaceAll(name, "_", "-")} {
			t.Run(flag, func(t *testing.T) {
				var c Train
				k, err := kong.New(&c)
				require.NoError(t, err)
				_, err = k.Parse([]string{"--stage", "stage1", "--" + flag + "=1"})
				require.NoError(t, err)
				given := c.settings()
				require.Len(t, given, 1)
				assert.Equal(t, name, given[0].Name)
				p := trainplan.Default(trainplan.Stage1)
				p.Data = []trainplan.Dataset{{Path: "x"}}
				_, err = p.Set(given[0].Name, given[0].Value)
				if err != nil {
					assert.NotContains(t, err.Error(), "no such setting")
				}
			})
		}
	}
}

func TestTrainRequest(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "run.yaml")
	require.NoError(t, os.WriteFile(file, []byte("stage: stage1\npreset: qwen3\nmax-epochs: 2\nlearning_rate: 1e-4\ndataset: [a.jsonl, b.jsonl]\nbf16: false\nseed: null\n"), 0o644))
	env := map[string]string{"MODEL_PATH": "org/model", "CHECKPOINT_ROOT": dir}
	c := Train{File: file, Params: Params{LearningRate: "3e-4"}}
	req, err := c.request(func(name string) string { return env[name] })
	require.NoError(t, err)
	assert.Equal(t, "stage1", req.Stage)
	assert.Equal(t, "qwen3", req.Preset)
	last := map[string]string{}
	source := map[string]string{}
	for _, s := range req.Settings {
		last[s.Name], source[s.Name] = s.Value, s.Source
	}
	wd, err := os.Getwd()
	require.NoError(t, err)
	assert.Equal(t, map[string]string{
		"max_epochs": "2", "learning_rate": "3e-4", "bf16": "false", "pretrain": "org/model", "save_path": filepath.Join(dir, "clara_stage1"),
		"dataset": filepath.Join(wd, "a.jsonl") + "," + filepath.Join(wd, "b.jsonl"),
	}, last)
	assert.Equal(t, "flag", source["learning_rate"])
	assert.Equal(t, "run.yaml line 3", source["max_epochs"])

	all := Train{Stage: "all"}
	req, err = all.request(func(name string) string { return env[name] })
	require.NoError(t, err)
	for _, s := range req.Settings {
		if s.Name == "save_path" {
			assert.Equal(t, dir, s.Value, "the three folders go into it")
		}
	}
	_, err = (&Train{}).request(func(string) string { return "" })
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
}

func TestPlot(t *testing.T) {
	p := Plot{Title: "Loss <of> runs", X: "step", Smooth: 0.5, Series: []Series{
		{Label: "a & b", X: []float64{1, 2, 3, 4}, Y: []float64{4, 2, 1, 0.5}}, {Label: "one point", X: []float64{2}, Y: []float64{3}},
	}}
	svg := string(p.SVG())
	assert.Contains(t, svg, "a &amp; b")
	assert.Equal(t, 4, strings.Count(svg, "<polyline"), "each curve as it is and smoothed")
	assert.NotContains(t, svg, "NaN")
	data, err := p.PNG()
	require.NoError(t, err)
	img, err := png.Decode(bytes.NewReader(data))
	require.NoError(t, err)
	assert.Equal(t, plotWidth, img.Bounds().Dx())
	blue := 0
	for y := range plotHeight {
		for x := range plotWidth {
			if r, g, b, _ := img.At(x, y).RGBA(); r>>8 == 0 && g>>8 == 0x72 && b>>8 == 0xb2 {
				blue++
			}
		}
	}
	assert.Positive(t, blue)

	p.Log, p.Series = true, []Series{{Label: "flat", X: []float64{5}, Y: []float64{0}}}
	assert.NotContains(t, string(p.SVG()), "NaN")
}

func TestTicks(t *testing.T) {
	assert.Equal(t, []float64{0, 2, 4, 6, 8, 10}, ticks(0, 10, 0))
	assert.Equal(t, []float64{1, 2, 3}, ticks(1, 3, 1))
	assert.InDeltaSlice(t, []float64{0.2, 0.25, 0.3, 0.35, 0.4, 0.45}, ticks(0.18, 0.46, 0), 1e-9)
}
