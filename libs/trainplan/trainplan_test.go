package trainplan_test

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/trainplan"
)

func settings(pairs ...string) (out []trainplan.Setting) {
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, trainplan.Setting{Name: pairs[i], Value: pairs[i+1], Source: "flag"})
	}
	return out
}

func TestDefaults(t *testing.T) {
	one, two, three := trainplan.Default(trainplan.Stage1), trainplan.Default(trainplan.Stage12), trainplan.Default(trainplan.Stage2)
	assert.Equal(t, []int{128, 2, 1, 2048}, []int{one.BatchSize, one.MicroBatchSize, one.TopK, one.MaxLen})
	assert.Equal(t, []int{32, 1, 5, 2048}, []int{two.BatchSize, two.MicroBatchSize, two.TopK, two.MaxLen})
	assert.Equal(t, []int{32, 2, 5, 1024}, []int{three.BatchSize, three.MicroBatchSize, three.TopK, three.MaxLen})
	assert.Equal(t, 1e-4, one.LearningRate)
	assert.Equal(t, 5e-6, three.LearningRate)
	assert.Equal(t, "constant", three.Scheduler)
	assert.True(t, one.MSE)
	assert.False(t, three.MSE)
}

// Every name that users have in their scripts is taken, mapped or refused with words.
func TestEveryParameter(t *testing.T) {
	for _, c := range []struct{ name, value string }{
		{"max_len", "512"}, {"train_batch_size", "8"}, {"micro_train_batch_size", "1"}, {"learning_rate", "1e-5"}, {"max_epochs", "2"}, {"zero_stage", "2"},
		{"bf16", "True"}, {"flash_attn", "false"}, {"gradient_checkpointing", "true"}, {"doc_max_length", "64"}, {"compress_rate", "8"}, {"generation_top_k", "1"},
		{"mse_loss", "true"}, {"qa_loss", "true"}, {"stage2_mips", "false"}, {"stage2_retrieval_top_n", "10"}, {"max_samples", "-1"}, {"save_steps", "-1"},
		{"logging_steps", "1"}, {"eval_steps", "-1"}, {"do_eval_gen", "true"}, {"lr_scheduler", "cosine"}, {"lr_warmup_ratio", "0.1"}, {"seed", "1"}, {"l2", "0.01"},
		{"adam_betas", "(0.9, 0.95)"}, {"max_norm", "1.0"}, {"load_checkpoint", "true"}, {"pretrain", "/x"}, {"pretrain_checkpoint", "/c"}, {"dataset", "a.jsonl,b.jsonl"},
		{"eval_dataset", "e.jsonl"}, {"save_path", "/s"}, {"ckpt_path", "/k"}, {"max_ckpt_num", "2"}, {"lora_rank", "64"}, {"quantization", "int4"}, {"use_tensorboard", "/logs"},
		{"use_wandb", "false"}, {"wandb_project", "x"}, {"pure_inference", "false"}, {"save_hf_ckpt", "true"}, {"local_rank", "0"}, {"--micro-train-batch-size", "1"},
		{"model", "/x"}, {"data", "/d"}, {"lora_r", "4"}, {"warmup_ratio", "0.1"}, {"num_gpus", "2"},
	} {
		p := trainplan.Default(trainplan.Stage1)
		_, err := p.Set(c.name, c.value)
		assert.NoError(t, err, c.name)
	}
	p := trainplan.Default(trainplan.Stage1)
	for name, says := range map[string]string{"use_wandb": "metrics.jsonl", "pure_inference": "clara eval", "mikro_train_batch_size": "micro_train_batch_size", "max_epochs": "not a number", "bf16": "neither"} {
		value := "true"
		if name == "max_epochs" || name == "bf16" {
			value = "two"
		}
		_, err := p.Set(name, value)
		require.ErrorContains(t, err, says, name)
		assert.Equal(t, clara.Invalid, clara.KindOf(err))
	}
}

func TestSetValues(t *testing.T) {
	p := trainplan.Default(trainplan.Stage12)
	for _, s := range settings("data", "/d", "adam_betas", "0.8,0.9", "quantization", "", "lr_scheduler", "cosine", "max_samples", "-1") {
		_, err := p.Set(s.Name, s.Value)
		require.NoError(t, err)
	}
	assert.Equal(t, []trainplan.Dataset{{Path: "/d/instruction_data.jsonl"}}, p.Data)
	assert.Equal(t, []float64{0.8, 0.9}, []float64{p.Beta1, p.Beta2})
	assert.Equal(t, "no", p.Quantization)
	assert.Equal(t, "cosine_with_min_lr", p.Scheduler)
	assert.Zero(t, p.MaxSamples)
	_, err := p.Set("dataset", "a.jsonl, b.jsonl")
	require.NoError(t, err)
	_, err = p.Set("dataset_probs", "0.7,0.3")
	require.NoError(t, err)
	assert.Equal(t, []trainplan.Dataset{{"a.jsonl", 0.7}, {"b.jsonl", 0.3}}, p.Data)
}

func TestBuildOrderAndFaults(t *testing.T) {
	p, _, err := trainplan.Build(trainplan.Stage1, settings("pretrain", "/m", "dataset", "x.jsonl", "save_path", "/out/s1", "seed", "1", "seed", "2"))
	require.NoError(t, err)
	assert.Equal(t, int64(2), p.Seed)
	assert.Equal(t, "/out/s1.run", p.RunDir)
	assert.Equal(t, "s1", p.Name)

	_, _, err = trainplan.Build(trainplan.Stage1, settings("nonsense", "1", "compress_rate", "300", "quantization", "int2", "train_batch_size", "0"))
	require.Error(t, err)
	for _, says := range []string{"nonsense", "compress_rate", "quantization", "train_batch_size", "pretrain", "dataset", "save_path", "from flag"} {
		assert.ErrorContains(t, err, says)
	}
}

func TestPresetAndEnvironment(t *testing.T) {
	s, err := trainplan.Preset("qwen3", trainplan.Stage1)
	require.NoError(t, err)
	env := map[string]string{"MODEL_PATH": "/models/q", "DATA_PATH": "/data", "CHECKPOINT_ROOT": "/ck", "NUM_GPUS": "4", "PRETRAIN_CKPT": "/old"}
	s = append(s, trainplan.FromEnvironment(func(k string) string { return env[k] }, trainplan.Stage1)...)
	p, _, err := trainplan.Build(trainplan.Stage1, s)
	require.NoError(t, err)
	assert.Equal(t, "/models/q", p.Model)
	assert.Equal(t, "/ck/clara_stage1", p.SavePath)
	assert.Equal(t, "/data/pretrain_data.jsonl", p.Data[0].Path)
	assert.Equal(t, []int{512, 32, 64, 4, 32, 1, 3, 100}, []int{p.DocMaxLength, p.CompressRate, p.LoraRank, p.World, p.BatchSize, p.MicroBatchSize, p.Epochs, p.SaveSteps})
	assert.Equal(t, 1e-5, p.LearningRate)
	assert.Equal(t, "int4", p.Quantization)
	_, err = trainplan.Preset("qwen4", trainplan.Stage1)
	require.ErrorContains(t, err, "qwen3")
}

// The variables that scripts of the reference read, alone and beside those that go before them.
func TestEnvironment(t *testing.T) {
	for _, c := range []struct {
		name, stage string
		env, want   map[string]string
	}{
		{"nothing", trainplan.Stage1, nil, map[string]string{}},
		{"model, data, target", trainplan.Stage12, map[string]string{"MODEL_PATH": "/m", "DATA_ROOT": "/d", "SAVE_PATH": "/s", "PRETRAIN_CHECKPOINT": "/p", "NUM_GPUS": "2"},
			map[string]string{"pretrain": "/m", "dataset": "/d", "save_path": "/s", "pretrain_checkpoint": "/p", "world_size": "2"}},
		{"both names", trainplan.Stage12, map[string]string{"DATA_PATH": "/d", "DATA_ROOT": "/not", "PRETRAIN_CHECKPOINT": "/p", "PRETRAIN_CKPT": "/not"},
			map[string]string{"dataset": "/d", "pretrain_checkpoint": "/p"}},
		{"a target before its folder", trainplan.Stage2, map[string]string{"SAVE_PATH": "/s", "CHECKPOINT_ROOT": "/c", "PROJECT_ROOT": "/r"}, map[string]string{"save_path": "/s"}},
		{"its folder before the project", trainplan.Stage2, map[string]string{"CHECKPOINT_ROOT": "/c", "PROJECT_ROOT": "/r"}, map[string]string{"save_path": "/c/clara_stage3"}},
		{"the project", trainplan.Stage12, map[string]string{"PROJECT_ROOT": "/r"}, map[string]string{"save_path": "/r/checkpoints/clara_stage2"}},
		{"the project, all stages", trainplan.All, map[string]string{"PROJECT_ROOT": "/r"}, map[string]string{"save_path": "/r/checkpoints"}},
		{"names of others", trainplan.Stage1, map[string]string{"WANDB_API_KEY": "k", "STAGE": "x"}, map[string]string{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := map[string]string{}
			for _, s := range trainplan.FromEnvironment(func(k string) string { return c.env[k] }, c.stage) {
				got[s.Name] = filepath.ToSlash(s.Value)
				assert.Contains(t, s.Source, "environment ")
			}
			assert.Equal(t, c.want, got)
		})
	}
}

func TestChain(t *testing.T) {
	plans, err := trainplan.Chain("/ck", "/data", func(p *trainplan.Plan) error { p.Model = "/m"; return nil })
	require.NoError(t, err)
	require.Len(t, plans, 3)
	for i, p := range plans {
		require.NoError(t, p.Validate())
		if i > 0 {
			assert.Equal(t, plans[i-1].SavePath, p.Checkpoint)
		}
	}
	assert.Equal(t, "/ck/clara_stage3", plans[2].SavePath)
	assert.Equal(t, "/data/end_to_end_data.jsonl", plans[2].Data[0].Path)
}

func TestPreflight(t *testing.T) {
	a := arch.Model{Family: "llama", Hidden: 576, Intermediate: 1536, Layers: 30, Heads: 9, KVHeads: 3, HeadDim: 64, Vocab: 49152, MaxPositions: 2048, TieEmbeddings: true}
	p := trainplan.Default(trainplan.Stage2)
	p.TopK, p.MaxLen = 5, 4096
	l := trainplan.Load{Samples: 10, MinCandidates: 3, MemoryTokens: 1000, DocTokens: 200, DocsPerSample: 20, DecoderTokens: 100, QueryTokens: 40, GradTokens: 140, MaxGradTokens: 200, Documents: 100, Targets: 10}
	_, err := p.Preflight(a, l, 16, trainplan.Machine{Memory: 1 << 20})
	require.Error(t, err)
	for _, says := range []string{"generation_top_k is 5", "max_len 4096", "2048 positions", "gradient_checkpointing"} {
		assert.ErrorContains(t, err, says)
	}
	p.TopK, p.MaxLen, l.MemoryTokens, l.MinCandidates = 2, 1024, 16, 20
	e, err := p.Preflight(a, l, 16, trainplan.Machine{Memory: 64 << 30, FLOPS: 1e11})
	require.NoError(t, err)
	assert.Equal(t, 1, e.Steps)
	assert.Greater(t, e.Seconds, 0.0)
	assert.Equal(t, int64(2*4884480), e.Trained) // two adapters of rank 16 on SmolLM2-135M
	checkpointed := p
	checkpointed.Checkpointing = true
	assert.Less(t, checkpointed.Estimate(a, l, 16, trainplan.Machine{}).Activations, e.Activations)
	// A setting that is enough is named alone; where it takes several, all of them.
	_, err = p.Preflight(a, l, 16, trainplan.Machine{Memory: e.Memory - 1})
	require.ErrorContains(t, err, ": set gradient_checkpointing true (about")
	tight := p
	tight.Checkpointing, tight.BF16, tight.MicroBatchSize = true, false, 8
	least := tight
	least.BF16, least.MicroBatchSize = true, 1
	_, err = tight.Preflight(a, l, 16, trainplan.Machine{Memory: least.Estimate(a, l, 16, trainplan.Machine{}).Memory})
	require.ErrorContains(t, err, "set micro_train_batch_size 1, bf16 true (about")
	quantized := p
	quantized.Quantization = "int4"
	assert.Less(t, quantized.Estimate(a, l, 16, trainplan.Machine{}).Base, e.Base)
}

func TestSteps(t *testing.T) {
	p := trainplan.Plan{BatchSize: 4, Epochs: 2}
	assert.Equal(t, 6, p.Steps(11)) // the last, smaller batch counts
	p.MaxSamples = 4
	assert.Equal(t, 2, p.Steps(11))
	p.MaxSteps = 1
	assert.Equal(t, 1, p.Steps(11))
}

func TestEventIsOneLine(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, trainplan.Event{Kind: trainplan.Step, Message: "a\nb", Metrics: &trainplan.Metrics{Step: 3, Loss: 1.5}}.Write(&b))
	assert.Equal(t, 1, bytes.Count(b.Bytes(), []byte("\n")))
	var e trainplan.Event
	require.NoError(t, json.Unmarshal(b.Bytes(), &e))
	assert.Equal(t, 3, e.Metrics.Step)
	assert.False(t, e.Time.IsZero())
}
