package stage_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/safetensors"
	"github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/libs/trainplan"
	"github.com/clara-suite/clara/services/trainer/torch/internal/stage"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

// tinyBase writes a random base model of two layers whose tokens are bytes, and returns its folder.
func tinyBase(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "base")
	require.NoError(t, os.Mkdir(dir, 0o755))
	write := func(name string, v any) {
		raw, err := json.Marshal(v)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), raw, 0o644))
	}
	type object = map[string]any
	vocab := object{}
	for b := range 256 {
		vocab[string(byteRune(b))] = b
	}
	vocab["<s>"], vocab["</s>"] = 256, 257
	special := func(id int, content string) object {
		return object{"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}
	}
	write("tokenizer.json", object{
		"version": "1.0", "added_tokens": []object{special(256, "<s>"), special(257, "</s>")}, "normalizer": nil,
		"pre_tokenizer": object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
		"decoder":       object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}, "post_processor": nil,
		"model": object{"type": "BPE", "vocab": vocab, "merges": []string{}, "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil,
			"end_of_word_suffix": nil, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false},
	})
	write("tokenizer_config.json", object{"bos_token": "<s>", "eos_token": "</s>",
		"chat_template": "{{ bos_token }}{% for m in messages %}{{ m['role'] + ':' + m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"})
	config := object{"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
		"vocab_size": 258, "max_position_embeddings": 1024, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "bos_token_id": 256, "eos_token_id": 257, "hidden_act": "silu"}
	write("config.json", config)
	raw, err := json.Marshal(config)
	require.NoError(t, err)
	a, err := arch.FromHF(raw, nil)
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(1, 2))
	var all []tensor.View
	for _, w := range a.Weights() {
		n, _ := w.Shape.Elements()
		f := make([]float32, n)
		for i := range f {
			f[i] = float32(rng.NormFloat64() * 0.15)
			if len(w.Shape) == 1 {
				f[i]++
			}
		}
		all = append(all, tensor.View{Name: w.Name, DType: tensor.F32, Shape: w.Shape, Data: float32Bytes(f)})
	}
	require.NoError(t, safetensors.WriteFile(filepath.Join(dir, safetensors.SingleFile), nil, all))
	return dir
}

// byteRune is the character that byte-level tokenizers write for a byte.
func byteRune(b int) rune {
	n := 0
	for c := range b {
		if !printable(c) {
			n++
		}
	}
	if printable(b) {
		return rune(b)
	}
	return rune(256 + n)
}

func printable(b int) bool { return b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae }

func float32Bytes(f []float32) []byte {
	b := new(bytes.Buffer)
	for _, x := range f {
		u := uint32Bits(x)
		b.Write([]byte{byte(u), byte(u >> 8), byte(u >> 16), byte(u >> 24)})
	}
	return b.Bytes()
}

// tinyData writes the file of a stage with n samples.
func tinyData(t testing.TB, name string, n int) string {
	t.Helper()
	var lines []string
	doc := func(i int) string {
		return fmt.Sprintf("House %d has %d rooms%s.", i, i+2, strings.Repeat(" and more", i%3))
	}
	for i := range n {
		var line any
		switch name {
		case trainplan.Stage1:
			if i%2 == 0 {
				line = map[string]any{"data_type": "qa", "question": []string{"Rooms?"}, "answers": []string{fmt.Sprint(i + 2)}, "docs": []string{doc(i)}}
			} else {
				line = map[string]any{"data_type": "paraphrase", "question": []string{}, "answers": []string{doc(i)}, "docs": []string{doc(i)}}
			}
		case trainplan.Stage12:
			line = map[string]any{"question": fmt.Sprintf("Rooms of %d?", i), "docs": []string{doc(i), doc(i + 1)}, "gold_answer": fmt.Sprint(i + 2)}
		default:
			line = map[string]any{"question": fmt.Sprintf("Rooms of %d?", i), "docs": []string{doc(i + 1), doc(i), doc(i + 2), doc(0)}, "pos_index": []int{1},
				"gold_answer": fmt.Sprintf("<think>x</think><information>y</information>%d", i+2)}
		}
		raw, err := json.Marshal(line)
		require.NoError(t, err)
		lines = append(lines, string(raw))
	}
	path := filepath.Join(t.TempDir(), trainplan.DataFile(name))
	require.NoError(t, os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644))
	return path
}

// tinyPlan is a fresh stage 1 on a tiny base.
func tinyPlan(t testing.TB) trainplan.Plan {
	t.Helper()
	p := trainplan.Default(trainplan.Stage1)
	root := t.TempDir()
	p.Model, p.Data = tinyBase(t), []trainplan.Dataset{{Path: tinyData(t, p.Stage, 11)}}
	p.SavePath, p.RunDir = filepath.Join(root, "s1"), filepath.Join(root, "s1.run")
	p.DocMaxLength, p.CompressRate, p.LoraRank, p.MaxLen = 48, 12, 4, 512
	p.BF16, p.BatchSize, p.MicroBatchSize, p.Epochs, p.LearningRate, p.SaveSteps = false, 4, 2, 2, 1e-2, 0
	p.Device = "cpu"
	return p
}

// next is the plan of a later stage on the checkpoint of another.
func next(t testing.TB, p trainplan.Plan, name string) trainplan.Plan {
	t.Helper()
	q := trainplan.Default(name)
	q.Model, q.Checkpoint, q.Data = p.Model, p.SavePath, []trainplan.Dataset{{Path: tinyData(t, name, 11)}}
	q.SavePath, q.RunDir = p.SavePath+name, p.SavePath+name+".run"
	q.TopK, q.MaxLen, q.BF16, q.BatchSize, q.MicroBatchSize, q.Epochs, q.LearningRate, q.SaveSteps, q.Device = 2, 512, false, 4, 2, 2, 1e-2, 0, "cpu"
	return q
}

// execute runs a plan and returns the metrics of its steps.
func execute(ctx context.Context, p trainplan.Plan) ([]trainplan.Metrics, []trainplan.Event, error) {
	torchx.SetThreads(1)
	var out bytes.Buffer
	err := stage.Execute(ctx, p, stage.Env{Out: &out, Log: slog.New(slog.DiscardHandler), Device: torchx.CPU})
	m, events := parse(out.Bytes())
	return m, events, err
}

func parse(out []byte) (m []trainplan.Metrics, events []trainplan.Event) {
	for _, line := range bytes.Split(out, []byte("\n")) {
		var e trainplan.Event
		if json.Unmarshal(line, &e) != nil {
			continue
		}
		events = append(events, e)
		if e.Metrics != nil {
			m = append(m, *e.Metrics)
		}
	}
	return m, events
}

func losses(m []trainplan.Metrics) (out []float64) {
	for _, x := range m {
		out = append(out, x.Loss, x.GradNorm)
	}
	return out
}
