package trainplan

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
)

// Setting is a value that a user gave under a name, and where: "flag", "environment", "run.yaml", "preset qwen3".
type Setting struct{ Name, Value, Source string }

// Presets returns the names that Preset takes.
func Presets() []string { return []string{"qwen3"} }

// Preset returns the settings of a recommended run for a stage (spec data-pipeline).
func Preset(name, stage string) ([]Setting, error) {
	if name != "qwen3" {
		return nil, clara.Errorf(clara.Invalid, "preset %q: give one of %s", name, strings.Join(Presets(), ", "))
	}
	rate := "1e-5"
	if stage == Stage2 || stage == Retrieval || stage == Reasoning {
		rate = "5e-6"
	}
	s := []Setting{
		{"pretrain", "Qwen/Qwen3-4B-Instruct-2507", ""}, {"quantization", "int4", ""}, {"train_batch_size", "32", ""}, {"micro_train_batch_size", "1", ""},
		{"max_epochs", "3", ""}, {"learning_rate", rate, ""}, {"save_steps", "100", ""},
	}
	if stage == Stage1 { // later stages take these from the checkpoint
		s = append(s, Setting{"doc_max_length", "512", ""}, Setting{"compress_rate", "32", ""}, Setting{"lora_rank", "64", ""})
	}
	for i := range s {
		s[i].Source = "preset " + name
	}
	return s, nil
}

// environment maps variables of users' environments to settings, in order of preference.
var environment = []struct{ variable, setting string }{
	{"MODEL_PATH", "pretrain"},
	{"PRETRAIN_CHECKPOINT", "pretrain_checkpoint"},
	{"PRETRAIN_CKPT", "pretrain_checkpoint"},
	{"DATA_PATH", "dataset"},
	{"DATA_ROOT", "dataset"},
	{"SAVE_PATH", "save_path"},
	{"NUM_GPUS", "world_size"},
}

// FromEnvironment returns the settings that the environment holds. CHECKPOINT_ROOT, else checkpoints below PROJECT_ROOT, gives
// save_path its default: clara_stage1, 2 or 3 in it; for all stages the folder itself, into which the three go.
func FromEnvironment(getenv func(string) string, stage string) []Setting {
	var out []Setting
	for _, e := range environment {
		v := getenv(e.variable)
		if v == "" || slices.ContainsFunc(out, func(s Setting) bool { return s.Name == e.setting }) {
			continue
		}
		out = append(out, Setting{e.setting, v, "environment " + e.variable})
	}
	if given(out, "save_path") {
		return out
	}
	root, source := getenv("CHECKPOINT_ROOT"), "environment CHECKPOINT_ROOT"
	if project := getenv("PROJECT_ROOT"); root == "" && project != "" {
		root, source = filepath.Join(project, "checkpoints"), "environment PROJECT_ROOT"
	}
	if root == "" {
		return out
	}
	if stage != All {
		root = filepath.Join(root, FolderName(stage))
	}
	return append(out, Setting{"save_path", root, source})
}

// FolderName is the usual name of a stage's finished checkpoint.
func FolderName(stage string) string {
	switch stage {
	case Stage1:
		return "clara_stage1"
	case Stage12:
		return "clara_stage2"
	}
	return "clara_stage3"
}

// Build makes the plan of a stage from its defaults and settings, later ones over earlier. Notes say what was mapped or
// needs no setting here. Every fault is reported, unknown names included.
func Build(stage string, settings []Setting) (p Plan, notes []string, err error) {
	p = Default(stage)
	var faults []error
	for _, s := range settings {
		note, err := p.Set(s.Name, s.Value)
		if err != nil {
			faults = append(faults, fmt.Errorf("%w (from %s)", err, s.Source))
		}
		if note != "" {
			notes = append(notes, note)
		}
	}
	p.BF16Auto = !given(settings, "bf16")
	if p.SavePath != "" && p.RunDir == "" {
		p.RunDir = RunDir(p.SavePath)
	}
	if p.Name == "" {
		p.Name = filepath.Base(p.SavePath)
	}
	if err := p.Validate(); err != nil {
		faults = append(faults, err)
	}
	if len(faults) > 0 {
		return p, notes, clara.Errorf(clara.Invalid, "%w", errors.Join(faults...))
	}
	return p, notes, nil
}

// Set gives a parameter a value by the name that users know. The note, if any, says what it became.
func (p *Plan) Set(name, value string) (note string, err error) {
	key := strings.ReplaceAll(strings.TrimLeft(name, "-"), "-", "_")
	switch key {
	case "model", "model_path":
		key = "pretrain"
	case "data", "data_path", "dataset":
		return p.setData(value)
	case "dataset_probs":
		return "", p.setShares(value)
	case "adam_betas":
		return "", p.setBetas(value)
	case "lora_r":
		key = "lora_rank"
	case "compr_rate":
		key = "compress_rate"
	case "num_gpus":
		key = "world_size"
	case "warmup_ratio":
		key = "lr_warmup_ratio"
	case "save_hf_ckpt":
		return "save_hf_ckpt: the reference's layout and a safetensors state are both written always", nil
	case "local_rank":
		return "local_rank: taken from RANK and LOCAL_RANK of the process, as torchrun sets them", nil
	case "pure_inference":
		if on, err := strconv.ParseBool(value); err == nil && !on {
			return "", nil
		}
		return "", clara.Errorf(clara.Invalid, "pure_inference: a training run cannot; use clara eval or clara ask")
	case "use_wandb":
		if off(value) {
			return "", nil
		}
		return "", clara.Errorf(clara.Invalid, "use_wandb: there is no maintained Weights & Biases client for Go; metrics.jsonl is always written, use_tensorboard writes event files")
	}
	if strings.HasPrefix(key, "wandb_") {
		return key + ": without effect, see use_wandb", nil
	}
	return p.setField(key, value)
}

func off(v string) bool {
	return v == "" || strings.EqualFold(v, "false") || v == "0" || strings.EqualFold(v, "none")
}

func (p *Plan) setField(key, value string) (note string, err error) {
	switch key {
	case "eval_steps", "save_steps", "logging_steps", "max_samples", "max_steps":
		if value == "-1" { // the scripts' "never"
			value = "0"
			if key == "logging_steps" {
				value = "1"
			}
		}
	case "quantization":
		if off(value) {
			value = "no"
		}
	case "lr_scheduler":
		if value == "cosine" {
			note, value = "lr_scheduler cosine: with the floor min_lr_ratio, as the reference does", "cosine_with_min_lr"
		}
		if value == "constant_with_warmup" {
			note, value = "lr_scheduler constant_with_warmup: constant has no warm-up here, as the reference's stage 3", "constant"
		}
	case "use_tensorboard":
		if !off(value) {
			if _, err := strconv.ParseBool(value); err != nil {
				note = "use_tensorboard: event files go to ckpt_path, not to " + value
			}
			value = "true"
		} else {
			value = "false"
		}
	}
	raw := json.RawMessage(value)
	fields := map[string]json.RawMessage{}
	now, _ := json.Marshal(p)
	if err := json.Unmarshal(now, &fields); err != nil {
		return "", err
	}
	old, ok := fields[key]
	if !ok {
		return "", clara.Errorf(clara.Invalid, "%s: no such setting%s", key, nearest(key, fields))
	}
	switch {
	case len(old) > 0 && old[0] == '"':
		raw, _ = json.Marshal(value)
	case string(old) == "true" || string(old) == "false":
		b, err := strconv.ParseBool(strings.ToLower(value))
		if err != nil {
			return "", clara.Errorf(clara.Invalid, "%s: %q is neither true nor false", key, value)
		}
		raw, _ = json.Marshal(b)
	}
	one, err := json.Marshal(map[string]json.RawMessage{key: raw})
	if err == nil {
		err = json.Unmarshal(one, p)
	}
	if err != nil {
		return "", clara.Errorf(clara.Invalid, "%s: %q is not a number of the kind it takes", key, value)
	}
	return note, nil
}

// nearest suggests the known name that is closest.
func nearest(key string, fields map[string]json.RawMessage) string {
	best, at := 4, ""
	for name := range fields {
		if d := distance(key, name); d < best || d == best && at != "" && name < at {
			best, at = d, name
		}
	}
	if at == "" {
		return ""
	}
	return "; did you mean " + at + "?"
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func (p *Plan) setData(value string) (string, error) {
	p.Data = nil
	for _, path := range SplitPaths(value) {
		if folder(path) {
			path = filepath.Join(path, DataFile(p.Stage)) // a folder holds the stage's file under its usual name
		}
		p.Data = append(p.Data, Dataset{Path: path})
	}
	return "", nil
}

func (p *Plan) setShares(value string) error {
	parts := strings.Split(value, ",")
	if len(parts) != len(p.Data) {
		return clara.Errorf(clara.Invalid, "dataset_probs: %d shares for %d files; give dataset first", len(parts), len(p.Data))
	}
	for i, s := range parts {
		f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
		if err != nil {
			return clara.Errorf(clara.Invalid, "dataset_probs: %q is not a number", s)
		}
		p.Data[i].Share = f
	}
	return nil
}

func (p *Plan) setBetas(value string) error {
	parts := strings.FieldsFunc(strings.Trim(value, "()[] "), func(r rune) bool { return r == ',' || r == ' ' })
	if len(parts) != 2 {
		return clara.Errorf(clara.Invalid, "adam_betas: %q is not two numbers", value)
	}
	for i, into := range []*float64{&p.Beta1, &p.Beta2} {
		f, err := strconv.ParseFloat(parts[i], 64)
		if err != nil {
			return clara.Errorf(clara.Invalid, "adam_betas: %q is not a number", parts[i])
		}
		*into = f
	}
	return nil
}
