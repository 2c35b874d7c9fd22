package trainplan

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
)

// Stages by the names of the reference (spec clara-model §5).
const (
	Stage1    = "stage1"                    // compression pretraining
	Stage12   = "stage1_2"                  // compression instruction tuning
	Stage2    = "stage2"                    // end to end
	Retrieval = "stage2_pretrain_retrieval" // retrieval warm-up of end to end
	Reasoning = "stage2_reasoning"          // decoder on reasoning traces
	All       = "all"                       // Stage1, Stage12 and Stage2 in a row: a request, never in a Plan
)

// Stages lists what a Plan may name.
func Stages() []string { return []string{Stage1, Stage12, Stage2, Retrieval, Reasoning} }

// Dataset is one data file, with its share of the samples where several are mixed.
type Dataset struct {
	Path  string  `json:"path"`
	Share float64 `json:"share,omitempty"` // of an epoch's samples; 0 everywhere: every sample once
}

// Plan is a training run of one stage with nothing left to guess. Keys keep the names that users know.
type Plan struct {
	Name  string `json:"name"`
	Stage string `json:"stage"`

	// Model is the base: a Hugging Face folder, a GGUF file or a hub id; empty with a checkpoint that names it.
	Model string `json:"pretrain"`
	// Checkpoint is the CLaRa checkpoint to start from; empty in a fresh stage 1.
	Checkpoint string    `json:"pretrain_checkpoint"`
	Data       []Dataset `json:"dataset"`
	EvalData   string    `json:"eval_dataset"`
	// SavePath is the folder of the finished checkpoint. RunDir holds everything else of the run.
	SavePath string `json:"save_path"`
	RunDir   string `json:"ckpt_path"`
	// Resume goes on from the newest checkpoint in RunDir, if there is one; otherwise one that is there is an error.
	Resume bool `json:"load_checkpoint"`

	DocMaxLength int    `json:"doc_max_length"` // 0: the checkpoint's
	CompressRate int    `json:"compress_rate"`  // 0: the checkpoint's
	LoraRank     int    `json:"lora_rank"`      // 0: the checkpoint's
	TopK         int    `json:"generation_top_k"`
	MaxLen       int    `json:"max_len"`
	Quantization string `json:"quantization"` // of the frozen base: no, int8, int4
	BF16         bool   `json:"bf16"`         // base and activations; masters stay float32
	// BF16Auto says that nobody asked for bf16: on the CPU, whose kernels for it are slower, it is off then.
	BF16Auto       bool `json:"bf16_auto,omitempty"`
	FlashAttention bool `json:"flash_attn"`
	Checkpointing  bool `json:"gradient_checkpointing"`
	ZeroStage      int  `json:"zero_stage"`

	BatchSize      int     `json:"train_batch_size"` // of all ranks
	MicroBatchSize int     `json:"micro_train_batch_size"`
	Epochs         int     `json:"max_epochs"`
	MaxSamples     int     `json:"max_samples"`
	MaxSteps       int     `json:"max_steps"` // 0: as the epochs give
	LearningRate   float64 `json:"learning_rate"`
	Scheduler      string  `json:"lr_scheduler"` // cosine_with_min_lr or constant
	WarmupRatio    float64 `json:"lr_warmup_ratio"`
	MinRateRatio   float64 `json:"min_lr_ratio"`
	Decay          float64 `json:"l2"`
	Beta1          float64 `json:"adam_beta1"`
	Beta2          float64 `json:"adam_beta2"`
	MaxNorm        float64 `json:"max_norm"`
	Dropout        float64 `json:"lora_dropout"`
	MSE            bool    `json:"mse_loss"`
	QA             bool    `json:"qa_loss"`
	MIPS           bool    `json:"stage2_mips"`
	Candidates     int     `json:"stage2_retrieval_top_n"`
	Seed           int64   `json:"seed"`

	SaveSteps      int  `json:"save_steps"` // 0: at the end only
	KeepLast       int  `json:"max_ckpt_num"`
	LoggingSteps   int  `json:"logging_steps"`
	EvalSteps      int  `json:"eval_steps"` // 0: at the end only, if there is evaluation data
	EvalGeneration bool `json:"do_eval_gen"`
	TensorBoard    bool `json:"use_tensorboard"`

	Device    string `json:"device"` // auto, cpu, cuda
	Threads   int    `json:"threads"`
	World     int    `json:"world_size"`
	Interface string `json:"interface"` // that Gloo binds; empty: its choice
	// PeerTimeout is how long a rank waits for the others before it gives them up.
	PeerTimeout float64 `json:"peer_timeout"`
}

// Default returns the spec's defaults for a stage. The file paths are empty.
func Default(stage string) Plan {
	p := Plan{
		Stage: stage, TopK: 5, MaxLen: 2048, Quantization: "no", BF16: true, FlashAttention: true,
		BatchSize: 128, MicroBatchSize: 2, Epochs: 1, LearningRate: 1e-4, Scheduler: "cosine_with_min_lr", WarmupRatio: 0.03, MinRateRatio: 0.1,
		Beta1: 0.9, Beta2: 0.95, MaxNorm: 1, Dropout: 0.1, MSE: true, QA: true, Candidates: 20, Seed: 42,
		SaveSteps: 100, KeepLast: 3, LoggingSteps: 1, Device: "auto", World: 1, PeerTimeout: 600,
	}
	switch stage {
	case Stage1:
		p.TopK = 1
		p.DocMaxLength, p.CompressRate, p.LoraRank = 256, 32, 16
	case Stage12:
		p.BatchSize, p.MicroBatchSize = 32, 1
	case Stage2, Retrieval, Reasoning:
		p.MaxLen, p.BatchSize = 1024, 32
		p.LearningRate, p.Scheduler, p.WarmupRatio, p.MSE = 5e-6, "constant", 0, false
	}
	return p
}

// DataFile is the name of a stage's file in a data folder.
func DataFile(stage string) string {
	switch stage {
	case Stage1:
		return "pretrain_data.jsonl"
	case Stage12:
		return "instruction_data.jsonl"
	}
	return "end_to_end_data.jsonl"
}

// Validate returns every fault of the plan in itself, as one Invalid error. What needs the files is for Preflight.
func (p Plan) Validate() error {
	var faults []error
	bad := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if !slices.Contains(Stages(), p.Stage) {
		bad("stage %q: give one of %s", p.Stage, strings.Join(append(Stages(), All), ", "))
	}
	if p.Model == "" && p.Checkpoint == "" {
		bad("pretrain: name a base model, or a checkpoint with pretrain_checkpoint")
	}
	if p.Checkpoint == "" && p.Stage != Stage1 {
		bad("pretrain_checkpoint: %s starts from a checkpoint of the stage before it", p.Stage)
	}
	if len(p.Data) == 0 {
		bad("dataset: name a data file (%s)", DataFile(p.Stage))
	}
	shares := 0
	for _, d := range p.Data {
		if d.Share < 0 || math.IsNaN(d.Share) {
			bad("dataset_probs: %g is not a share", d.Share)
		}
		if d.Share > 0 {
			shares++
		}
	}
	if shares != 0 && shares != len(p.Data) {
		bad("dataset_probs: give one share a file of dataset, or none")
	}
	if p.SavePath == "" {
		bad("save_path: name the folder of the finished checkpoint")
	}
	if p.SavePath != "" && p.RunDir != "" && filepath.Clean(p.SavePath) == filepath.Clean(p.RunDir) {
		bad("ckpt_path: it must not be save_path, which is replaced as a whole")
	}
	for _, n := range []struct {
		name       string
		value, min int
	}{
		{"train_batch_size", p.BatchSize, 1}, {"micro_train_batch_size", p.MicroBatchSize, 1}, {"max_epochs", p.Epochs, 1}, {"max_len", p.MaxLen, 2},
		{"generation_top_k", p.TopK, 1}, {"world_size", p.World, 1}, {"max_samples", p.MaxSamples, 0}, {"max_steps", p.MaxSteps, 0},
		{"save_steps", p.SaveSteps, 0}, {"max_ckpt_num", p.KeepLast, 1}, {"logging_steps", p.LoggingSteps, 1}, {"eval_steps", p.EvalSteps, 0},
		{"doc_max_length", p.DocMaxLength, 0}, {"compress_rate", p.CompressRate, 0}, {"lora_rank", p.LoraRank, 0}, {"threads", p.Threads, 0},
		{"stage2_retrieval_top_n", p.Candidates, 1},
	} {
		if n.value < n.min {
			bad("%s is %d, at least %d", n.name, n.value, n.min)
		}
	}
	if p.Checkpoint == "" && p.Stage == Stage1 {
		for name, v := range map[string]int{"doc_max_length": p.DocMaxLength, "compress_rate": p.CompressRate, "lora_rank": p.LoraRank} {
			if v == 0 {
				bad("%s: a fresh model needs it", name)
			}
		}
	}
	if p.CompressRate > 256 {
		bad("compress_rate is %d, at most 256", p.CompressRate)
	}
	if p.DocMaxLength > 0 && p.CompressRate > p.DocMaxLength {
		bad("compress_rate %d above doc_max_length %d leaves no memory tokens: lower it", p.CompressRate, p.DocMaxLength)
	}
	if m := p.Memories(); m > 0 && p.TopK*(m+1) >= p.MaxLen {
		bad("generation_top_k %d documents of %d memory tokens do not fit max_len %d: raise max_len or compress_rate, or lower generation_top_k", p.TopK, m, p.MaxLen)
	}
	if p.Stage == Stage1 && p.TopK != 1 {
		bad("generation_top_k is %d: a sample of stage1 has one document", p.TopK)
	}
	if p.MIPS && p.Candidates < p.TopK {
		bad("stage2_retrieval_top_n %d is below generation_top_k %d", p.Candidates, p.TopK)
	}
	if p.BatchSize < p.World {
		bad("train_batch_size %d is below the number of ranks, %d: it is the batch of all of them", p.BatchSize, p.World)
	}
	for _, f := range []struct {
		name      string
		v, lo, hi float64
	}{
		{"learning_rate", p.LearningRate, 0, 1}, {"lr_warmup_ratio", p.WarmupRatio, 0, 1}, {"min_lr_ratio", p.MinRateRatio, 0, 1}, {"l2", p.Decay, 0, 10},
		{"adam_betas", p.Beta1, 0, 0.9999999}, {"adam_betas", p.Beta2, 0, 0.9999999}, {"max_norm", p.MaxNorm, 0, math.MaxFloat64}, {"lora_dropout", p.Dropout, 0, 0.99},
		{"peer_timeout", p.PeerTimeout, 1, 1e6},
	} {
		if !(f.v >= f.lo && f.v <= f.hi) {
			bad("%s is %g, outside %g to %g", f.name, f.v, f.lo, f.hi)
		}
	}
	if p.Scheduler != "constant" && p.Scheduler != "cosine_with_min_lr" {
		bad("lr_scheduler %q: give cosine_with_min_lr or constant", p.Scheduler)
	}
	if !slices.Contains([]string{"no", "int8", "int4"}, p.Quantization) {
		bad("quantization %q: give no, int8 or int4", p.Quantization)
	}
	if !slices.Contains([]string{"auto", "cpu", "cuda"}, p.Device) {
		bad("device %q: give auto, cpu or cuda", p.Device)
	}
	if p.ZeroStage < 0 || p.ZeroStage > 3 {
		bad("zero_stage is %d, 0 to 3: 1 spreads the optimizer's state over the ranks, 2 gradients too, 3 the frozen base too", p.ZeroStage)
	}
	if !p.QA && (!p.MSE || p.Stage != Stage1 && p.Stage != Stage12) {
		bad("qa_loss off leaves nothing to train on: set mse_loss, in stage1 or stage1_2")
	}
	if len(faults) > 0 {
		return clara.Errorf(clara.Invalid, "training plan: %w", errors.Join(faults...))
	}
	return nil
}

// Memories is the number of memory tokens a document, 0 where the checkpoint will tell.
func (p Plan) Memories() int {
	if p.CompressRate == 0 {
		return 0
	}
	return p.DocMaxLength / p.CompressRate
}

// Bits of the frozen base's linear weights: 8, 4, or 0 for not quantised.
func (p Plan) Bits() int {
	return map[string]int{"int8": 8, "int4": 4}[p.Quantization]
}

// Steps is the number of optimizer steps of a run over that many samples an epoch.
func (p Plan) Steps(samples int) int {
	if p.MaxSamples > 0 {
		samples = min(samples, p.MaxSamples)
	}
	steps := (samples + p.BatchSize - 1) / p.BatchSize * p.Epochs
	if p.MaxSteps > 0 {
		steps = min(steps, p.MaxSteps)
	}
	return steps
}

// Chain turns a plan for all stages into one plan a stage: each starts from the checkpoint of the one before it. set fills
// in what differs between stages, given the defaults of each.
func Chain(root, dataDir string, set func(p *Plan) error) ([]Plan, error) {
	var plans []Plan
	for i, stage := range []string{Stage1, Stage12, Stage2} {
		p := Default(stage)
		p.Data = []Dataset{{Path: filepath.Join(dataDir, DataFile(stage))}}
		p.SavePath = filepath.Join(root, fmt.Sprintf("clara_stage%d", i+1))
		if err := set(&p); err != nil {
			return nil, err
		}
		if i > 0 {
			p.Checkpoint = plans[i-1].SavePath
			p.DocMaxLength, p.CompressRate, p.LoraRank = 0, 0, 0
		} else {
			p.TopK = 1
		}
		p.RunDir = RunDir(p.SavePath)
		plans = append(plans, p)
	}
	return plans, nil
}

// RunDir is where a run keeps its state by default: beside the finished checkpoint, which is replaced as a whole.
func RunDir(savePath string) string { return filepath.Clean(savePath) + ".run" }
