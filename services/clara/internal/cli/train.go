package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/trainplan"
	trainerv1 "github.com/clara-suite/clara/proto/gen/clara/trainer/v1"
	"github.com/clara-suite/clara/proto/gen/clara/trainer/v1/trainerv1connect"
)

// Train starts a training run and follows it.
type Train struct {
	File   string `arg:"" optional:"" name:"run.yaml" help:"Settings, one name a line, with the names of the flags below, stage, preset and name."`
	Stage  string `help:"stage1, stage1_2, stage2, stage2_pretrain_retrieval, stage2_reasoning, or all for the first three in a row." placeholder:"STAGE"`
	Preset string `help:"Settings to begin with: qwen3, the recommended run." placeholder:"NAME"`
	Name   string `help:"What to call the run; default: the folder of its result." placeholder:"NAME"`
	DryRun bool   `help:"Check settings, model and data, show what the run needs, and start nothing."`
	Detach bool   `help:"Do not follow the run."`

	Params `embed:""`
}

// Params are the parameters of a run, by the names that users have in their scripts (spec data-pipeline). Fields are texts
// and switches so that what was not given is told from what was; the trainer checks them all.
type Params struct {
	Pretrain              string `help:"Base model: Hugging Face folder, GGUF file or hub id." aliases:"model,model-path,model_path" placeholder:"MODEL" group:"Training"`
	PretrainCheckpoint    string `help:"CLaRa checkpoint to start from." aliases:"pretrain_checkpoint" placeholder:"DIR" group:"Training"`
	Dataset               string `help:"Data file, several with commas, or the folder that holds them." aliases:"data,data-path,data_path" placeholder:"PATH" group:"Training"`
	DatasetProbs          string `help:"Share of each of several files." aliases:"dataset_probs" placeholder:"P,P" group:"Training"`
	EvalDataset           string `help:"Data file to evaluate on while training." aliases:"eval_dataset" placeholder:"FILE" group:"Training"`
	SavePath              string `help:"Folder of the finished checkpoint; of all three with --stage all." aliases:"save_path" placeholder:"DIR" group:"Training"`
	CkptPath              string `help:"Folder of everything else of the run; default: beside save-path." aliases:"ckpt_path" placeholder:"DIR" group:"Training"`
	LoadCheckpoint        *bool  `help:"Go on from the newest checkpoint in ckpt-path." aliases:"load_checkpoint" negatable:"" group:"Training"`
	DocMaxLength          string `help:"Tokens of a document." aliases:"doc_max_length" placeholder:"N" group:"Training"`
	CompressRate          string `help:"Tokens for one memory vector, 1 to 256." aliases:"compress_rate,compr-rate,compr_rate" placeholder:"N" group:"Training"`
	LoraRank              string `help:"Rank of the adapters." aliases:"lora_rank,lora-r,lora_r" placeholder:"N" group:"Training"`
	LoraDropout           string `help:"Dropout in the adapters." aliases:"lora_dropout" placeholder:"P" group:"Training"`
	GenerationTopK        string `name:"generation-top-k" help:"Documents that an answer is read from." aliases:"generation_top_k" placeholder:"K" group:"Training"`
	MaxLen                string `help:"Longest sequence." aliases:"max_len" placeholder:"N" group:"Training"`
	TrainBatchSize        string `help:"Samples of a step, of all ranks." aliases:"train_batch_size" placeholder:"N" group:"Training"`
	MicroTrainBatchSize   string `help:"Samples at once." aliases:"micro_train_batch_size" placeholder:"N" group:"Training"`
	MaxEpochs             string `help:"Passes over the data." aliases:"max_epochs" placeholder:"N" group:"Training"`
	MaxSamples            string `help:"Samples to use at most." aliases:"max_samples" placeholder:"N" group:"Training"`
	MaxSteps              string `help:"Steps to make at most." aliases:"max_steps" placeholder:"N" group:"Training"`
	LearningRate          string `help:"Peak learning rate." aliases:"learning_rate" placeholder:"X" group:"Training"`
	LRScheduler           string `name:"lr-scheduler" help:"cosine_with_min_lr or constant." aliases:"lr_scheduler" placeholder:"NAME" group:"Training"`
	LRWarmupRatio         string `name:"lr-warmup-ratio" help:"Share of the steps with a rising rate." aliases:"lr_warmup_ratio,warmup-ratio,warmup_ratio" placeholder:"X" group:"Training"`
	MinLRRatio            string `name:"min-lr-ratio" help:"Last rate as a share of the peak." aliases:"min_lr_ratio" placeholder:"X" group:"Training"`
	L2                    string `name:"l2" help:"Weight decay." placeholder:"X" group:"Training"`
	AdamBetas             string `help:"Two numbers." aliases:"adam_betas" placeholder:"B,B" group:"Training"`
	MaxNorm               string `help:"Gradient norm to clip at." aliases:"max_norm" placeholder:"X" group:"Training"`
	Seed                  string `help:"Of order and dropout." placeholder:"N" group:"Training"`
	MSELoss               *bool  `name:"mse-loss" help:"Keep memories near the text's states." aliases:"mse_loss" negatable:"" group:"Training"`
	QALoss                *bool  `name:"qa-loss" help:"Train on answers." aliases:"qa_loss" negatable:"" group:"Training"`
	Stage2MIPS            *bool  `name:"stage2-mips" help:"Candidates from all documents rather than each sample's own." aliases:"stage2_mips" negatable:"" group:"Training"`
	Stage2RetrievalTopN   string `name:"stage2-retrieval-top-n" help:"How many of them." aliases:"stage2_retrieval_top_n" placeholder:"N" group:"Training"`
	BF16                  *bool  `name:"bf16" help:"Base and activations in bfloat16." negatable:"" group:"Training"`
	FlashAttn             *bool  `name:"flash-attn" help:"Flash attention where the build has it." aliases:"flash_attn" negatable:"" group:"Training"`
	GradientCheckpointing *bool  `help:"Compute activations twice rather than keep them." aliases:"gradient_checkpointing" negatable:"" group:"Training"`
	Quantization          string `help:"Of the frozen base: no, int8, int4." placeholder:"HOW" group:"Training"`
	ZeroStage             string `help:"What the ranks share out: 0 to 3." aliases:"zero_stage" placeholder:"N" group:"Training"`
	SaveSteps             string `help:"Steps between checkpoints." aliases:"save_steps" placeholder:"N" group:"Training"`
	MaxCkptNum            string `help:"Checkpoints to keep." aliases:"max_ckpt_num" placeholder:"N" group:"Training"`
	LoggingSteps          string `help:"Steps between lines of metrics." aliases:"logging_steps" placeholder:"N" group:"Training"`
	EvalSteps             string `help:"Steps between evaluations." aliases:"eval_steps" placeholder:"N" group:"Training"`
	DoEvalGen             *bool  `help:"Score greedy answers in evaluations." aliases:"do_eval_gen" negatable:"" group:"Training"`
	UseTensorboard        string `help:"Write TensorBoard event files." aliases:"use_tensorboard" placeholder:"BOOL" group:"Training"`
	UseWandb              string `help:"Refused, with what replaces it." aliases:"use_wandb" placeholder:"BOOL" group:"Training"`
	WandbProject          string `help:"Without effect." aliases:"wandb_project" placeholder:"NAME" group:"Training"`
	WandbGroup            string `help:"Without effect." aliases:"wandb_group" placeholder:"NAME" group:"Training"`
	WandbOrg              string `help:"Without effect." aliases:"wandb_org" placeholder:"NAME" group:"Training"`
	WandbRunName          string `help:"Without effect." aliases:"wandb_run_name" placeholder:"NAME" group:"Training"`
	PureInference         *bool  `help:"Refused: see clara eval." aliases:"pure_inference" negatable:"" group:"Training"`
	SaveHFCkpt            *bool  `name:"save-hf-ckpt" help:"Always on." aliases:"save_hf_ckpt" negatable:"" group:"Training"`
	LocalRank             string `help:"Taken from the environment of each rank." aliases:"local_rank" placeholder:"N" group:"Training"`
	Device                string `help:"auto, cpu or cuda." placeholder:"DEVICE" group:"Training"`
	Threads               string `help:"Threads of a rank; 0: all cores shared out." placeholder:"N" group:"Training"`
	WorldSize             string `help:"Ranks; default: one for each GPU, else one." aliases:"world_size,num-gpus,num_gpus" placeholder:"N" group:"Training"`
	Interface             string `help:"Network interface for the ranks to meet." placeholder:"NAME" group:"Training"`
	PeerTimeout           string `help:"Seconds a rank waits for the others." aliases:"peer_timeout" placeholder:"S" group:"Training"`
}

// settings are those that were given, by the names of the trainer.
func (p Params) settings() []trainplan.Setting {
	var out []trainplan.Setting
	v := reflect.ValueOf(p)
	for i := range v.NumField() {
		value := ""
		switch f := v.Field(i).Interface().(type) {
		case string:
			value = f
		case *bool:
			if f != nil {
				value = strconv.FormatBool(*f)
			}
		}
		if value != "" {
			out = append(out, trainplan.Setting{Name: settingName(v.Type().Field(i)), Value: value, Source: "flag"})
		}
	}
	return out
}

// settingName is a flag's name with underscores, as in users' scripts.
func settingName(f reflect.StructField) string {
	if name := f.Tag.Get("name"); name != "" {
		return strings.ReplaceAll(name, "-", "_")
	}
	var b strings.Builder
	for i, r := range f.Name {
		if i > 0 && r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}

// Run starts the run and follows it.
func (t *Train) Run(ctx context.Context, e *Env) error {
	req, err := t.request(os.Getenv)
	if err != nil {
		return err
	}
	client, err := e.trainer()
	if err != nil {
		return err
	}
	run, err := client.StartRun(ctx, req)
	if err != nil {
		return err
	}
	for _, n := range run.Notes {
		fmt.Fprintln(e.Err, "note:", n)
	}
	if t.DryRun {
		return e.print(func(w io.Writer) { showPlans(w, run) }, run)
	}
	if t.Detach {
		return e.print(func(w io.Writer) {
			fmt.Fprintf(w, "%s started; follow it with: clara runs watch %s\n", run.Name, short(run.Name))
		}, run)
	}
	return e.followRun(ctx, client, run.Name)
}

// request gathers the settings. Flags win over the environment, that over the file, that over the preset.
func (t *Train) request(getenv func(string) string) (*trainerv1.StartRunRequest, error) {
	var file []trainplan.Setting
	if t.File != "" {
		var err error
		if file, err = trainplan.ReadFile(t.File); err != nil {
			return nil, err
		}
	}
	r, err := trainplan.Gather(trainplan.Request{Stage: t.Stage, Preset: t.Preset, Name: t.Name, Settings: t.settings()}, file, getenv)
	if err != nil {
		return nil, err
	}
	req := &trainerv1.StartRunRequest{Stage: r.Stage, Preset: r.Preset, DisplayName: r.Name, ValidateOnly: t.DryRun}
	for _, s := range r.Settings {
		req.Settings = append(req.Settings, &trainerv1.Setting{Name: s.Name, Value: s.Value, Source: s.Source})
	}
	return req, nil
}

func (e *Env) trainer() (trainerv1connect.TrainerServiceClient, error) {
	c, err := e.dial(e.TrainerAddr)
	if err != nil {
		return nil, err
	}
	return trainerv1connect.NewTrainerServiceClient(c.HTTP, c.URL, c.Options()...), nil
}

// followRun shows a run until it has ended.
func (e *Env) followRun(ctx context.Context, client trainerv1connect.TrainerServiceClient, name string) error {
	stream, err := client.WatchRun(ctx, &trainerv1.WatchRunRequest{Name: name})
	if err != nil {
		return err
	}
	defer stream.Close()
	show := newRunMeter(e.Err, e.JSON)
	var run *trainerv1.Run
	for stream.Receive() {
		run = stream.Msg().Run
		if e.JSON {
			if err := e.print(nil, stream.Msg()); err != nil {
				return err
			}
		}
		show.update(stream.Msg())
	}
	show.end()
	if err := stream.Err(); err != nil {
		if ctx.Err() != nil {
			fmt.Fprintf(e.Err, "%s goes on; follow it with: clara runs watch %s; stop it with: clara runs stop %s\n", name, short(name), short(name))
		}
		return err
	}
	switch run.GetState() {
	case trainerv1.Run_STATE_SUCCEEDED:
		if e.JSON {
			return nil
		}
		last := run.Stages[len(run.Stages)-1]
		fmt.Fprintf(e.Out, "%s finished: %s\nuse it with: clara runs export %s --activate\n", run.Name, last.SavePath, short(run.Name))
		return nil
	case trainerv1.Run_STATE_STOPPED:
		return clara.Errorf(clara.Conflict, "%s was stopped after saving; go on with: clara runs resume %s", name, short(name))
	}
	return clara.Errorf(clara.Internal, "%s failed: %s", name, run.GetError())
}

// showPlans prints what a run needs and what the settings became.
func showPlans(w io.Writer, run *trainerv1.Run) {
	for _, s := range run.Stages {
		showSummary(w, s)
		var b bytes.Buffer
		if err := json.Indent(&b, []byte(s.Plan), "", "  "); err != nil {
			b.WriteString(s.Plan)
		}
		fmt.Fprintf(w, "%s\n", b.String())
	}
}

// showSummary prints what a run found out before its first step.
func showSummary(w io.Writer, stage *trainerv1.Stage) {
	s := stage.Summary
	if s == nil {
		return
	}
	n := s.Estimate
	rows := [][2]string{
		{"stage", stage.Stage}, {"model", fmt.Sprintf("%s (%s, %s parameters, %s trained)", s.Model, s.Family, count(s.Parameters), count(s.TrainedParameters))},
		{"data", fmt.Sprintf("%d samples, %d distinct documents", s.Samples, s.Documents)},
		{"steps", fmt.Sprintf("%d, from %d", s.Steps, s.FromStep)},
		{"memory tokens", fmt.Sprint(s.MemoryTokens)},
		{"device", fmt.Sprintf("%s, %s, %d ranks of %d threads", s.Device, s.Dtype, max(1, s.WorldSize), s.Threads)},
		{"attention", s.Attention},
	}
	if s.SkippedSamples > 0 {
		rows = append(rows, [2]string{"left out", fmt.Sprintf("%d samples that there is nothing to learn from", s.SkippedSamples)})
	}
	if s.CutSamples > 0 {
		rows = append(rows, [2]string{"cut", fmt.Sprintf("%d answers that do not fit max_len as a whole", s.CutSamples)})
	}
	if n != nil {
		memory := fmt.Sprintf("about %s a rank: base %s, adapters and optimizer %s, activations %s", trainplan.Bytes(n.Memory), trainplan.Bytes(n.MemoryBase), trainplan.Bytes(n.MemoryState), trainplan.Bytes(n.MemoryActivations))
		if s.MemoryFree > 0 {
			memory += "; free " + trainplan.Bytes(s.MemoryFree)
		}
		rows = append(rows, [2]string{"memory", memory}, [2]string{"work", fmt.Sprintf("%.3g FLOPs", n.Flops)})
		if n.Seconds > 0 {
			rows = append(rows, [2]string{"time", "about " + duration(n.Seconds)})
		}
	}
	for _, r := range rows {
		fmt.Fprintf(w, "  %-14s %s\n", r[0], r[1])
	}
	for _, x := range s.Warnings {
		fmt.Fprintf(w, "  warning: %s\n", x)
	}
}

// duration writes seconds as people say them.
func duration(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	}
	return d.Round(time.Minute).String()
}

// runMeter draws a run: on a terminal a line that is redrawn, elsewhere a line every few seconds.
type runMeter struct {
	w        io.Writer
	width    int
	terminal bool
	silent   bool
	drawn    bool
	last     time.Time
	shown    map[string]bool // summaries and phases
}

func newRunMeter(w io.Writer, silent bool) *runMeter {
	width, terminal := isTerminal(w)
	return &runMeter{w: w, width: width, terminal: terminal, silent: silent, shown: map[string]bool{}}
}

func (m *runMeter) once(key string) bool {
	if key == "" || m.shown[key] {
		return false
	}
	m.shown[key] = true
	return true
}

func (m *runMeter) update(e *trainerv1.WatchRunResponse) {
	if m.silent || int(e.Run.Stage) >= len(e.Run.Stages) {
		return
	}
	stage := e.Run.Stages[e.Run.Stage]
	say := func(format string, args ...any) {
		m.clear()
		fmt.Fprintf(m.w, format+"\n", args...)
	}
	if stage.Phase != "" && m.once(stage.Stage+" "+stage.Phase) {
		say("%s: %s", stage.Stage, stage.Phase)
	}
	if stage.Summary != nil && m.once(fmt.Sprintf("summary %s %d", stage.Stage, stage.Summary.FromStep)) {
		m.clear()
		showSummary(m.w, stage)
	}
	switch e.Event {
	case trainplan.Warning, "restarted":
		say("%s: %s", e.Event, e.Message)
	case trainplan.Saved:
		say("saved %s", e.Path)
	case trainplan.Evaluated:
		v := stage.Evaluation
		line := fmt.Sprintf("evaluation at step %d: loss %.4f", v.GetStep(), v.GetLoss())
		if v.GetF1() > 0 || v.GetEm() > 0 || v.GetAccuracy() > 0 {
			line += fmt.Sprintf(", EM %.1f, accuracy %.1f, F1 %.1f", 100*v.GetEm(), 100*v.GetAccuracy(), 100*v.GetF1())
		}
		say("%s", line)
	}
	if p := stage.Metrics; p != nil && stage.Summary != nil {
		m.draw(stage.Stage, p)
	}
}

func (m *runMeter) draw(stage string, p *trainerv1.Metrics) {
	now := time.Now()
	pause := 2 * time.Second
	if m.terminal {
		pause = 100 * time.Millisecond
	}
	if p.Step < p.Steps && now.Sub(m.last) < pause {
		return
	}
	if p.Step == p.Steps && !m.once(stage+" last") {
		return
	}
	m.last = now
	full := 0
	if p.Steps > 0 {
		full = int(20 * p.Step / p.Steps)
	}
	line := fmt.Sprintf("%s [%s%s] %d/%d loss %.4f lr %.2g %.0f tok/s %s", stage, strings.Repeat("#", full), strings.Repeat(".", 20-full), p.Step, p.Steps, p.Loss, p.Lr, p.TokensPerSecond, trainplan.Bytes(p.Memory))
	if p.SecondsLeft > 0 {
		line += " " + (time.Duration(p.SecondsLeft) * time.Second).String() + " left"
	}
	line += shares(p.Share)
	m.clear()
	if m.terminal {
		r := []rune(line)
		fmt.Fprint(m.w, string(r[:min(len(r), m.width-1)]))
		m.drawn = true
		return
	}
	fmt.Fprintln(m.w, line)
}

// shares are the largest parts of a step's time.
func shares(share map[string]float64) string {
	type part struct {
		name string
		of   float64
	}
	var parts []part
	for n, v := range share {
		if v >= 0.01 {
			parts = append(parts, part{n, v})
		}
	}
	slices.SortFunc(parts, func(a, b part) int {
		if a.of != b.of {
			return int(1e6 * (b.of - a.of))
		}
		return strings.Compare(a.name, b.name)
	})
	var b strings.Builder
	for i, p := range parts {
		sep := ", "
		if i == 0 {
			sep = "; "
		}
		fmt.Fprintf(&b, "%s%s %.0f%%", sep, p.name, 100*p.of)
	}
	return b.String()
}

func (m *runMeter) clear() {
	if m.drawn {
		fmt.Fprint(m.w, "\r\x1b[2K")
		m.drawn = false
	}
}

func (m *runMeter) end() {
	if m.drawn {
		fmt.Fprintln(m.w)
		m.drawn = false
	}
}
