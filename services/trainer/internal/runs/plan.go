package runs

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/trainplan"
	trainerv1 "github.com/clara-suite/clara/proto/gen/clara/trainer/v1"
)

// Plans makes the plans of a request: one, or one for each stage of "all". devices is how many GPUs there are: the
// number of ranks where none is given. Notes say what was mapped. All faults come back together, as Invalid.
func Plans(req *trainerv1.StartRunRequest, devices int) (plans []trainplan.Plan, notes []string, err error) {
	settings := make([]trainplan.Setting, 0, len(req.Settings))
	for _, s := range req.Settings {
		settings = append(settings, trainplan.Setting{Name: s.Name, Value: s.Value, Source: s.Source})
	}
	if req.Stage == trainplan.All {
		plans, notes, err = chain(req.Preset, settings)
	} else {
		if !slices.Contains(trainplan.Stages(), req.Stage) {
			return nil, nil, clara.Errorf(clara.Invalid, "stage %q: give one of %s, or all", req.Stage, strings.Join(trainplan.Stages(), ", "))
		}
		var preset []trainplan.Setting
		if req.Preset != "" {
			if preset, err = trainplan.Preset(req.Preset, req.Stage); err != nil {
				return nil, nil, err
			}
		}
		var p trainplan.Plan
		p, notes, err = trainplan.Build(req.Stage, append(preset, settings...))
		plans = []trainplan.Plan{p}
	}
	if err != nil {
		return nil, nil, err
	}
	if !given(settings, "world_size", "num_gpus") {
		for i := range plans {
			if plans[i].Device != "cpu" {
				plans[i].World = max(1, min(devices, plans[i].BatchSize))
			}
		}
	}
	return plans, notes, nil
}

// key is a setting's name as trainplan compares it.
func key(name string) string {
	return strings.ReplaceAll(strings.TrimLeft(name, "-"), "-", "_")
}

func given(settings []trainplan.Setting, names ...string) bool {
	return slices.ContainsFunc(settings, func(s trainplan.Setting) bool { return slices.Contains(names, key(s.Name)) })
}

// chain makes the plans of all stages. dataset is the folder that holds the three files, save_path the one that the three
// checkpoints go into.
func chain(preset string, settings []trainplan.Setting) ([]trainplan.Plan, []string, error) {
	var data, root string
	var rest []trainplan.Setting
	for _, s := range settings {
		switch key(s.Name) {
		case "data", "data_path", "dataset":
			data = s.Value
		case "save_path":
			root = s.Value
		case "dataset_probs", "ckpt_path", "eval_dataset":
			return nil, nil, clara.Errorf(clara.Invalid, "%s: it belongs to one stage; start the stages one by one to give it", s.Name)
		default:
			rest = append(rest, s)
		}
	}
	var faults []error
	if data == "" || filepath.Ext(data) != "" || strings.Contains(data, ",") {
		faults = append(faults, fmt.Errorf("dataset %q: for all stages give the folder that holds %s, %s and %s", data,
			trainplan.DataFile(trainplan.Stage1), trainplan.DataFile(trainplan.Stage12), trainplan.DataFile(trainplan.Stage2)))
	}
	if root == "" {
		faults = append(faults, errors.New("save_path: for all stages give the folder that clara_stage1, clara_stage2 and clara_stage3 go into"))
	}
	var notes []string
	plans, err := trainplan.Chain(root, data, func(p *trainplan.Plan) error {
		all := rest
		if preset != "" {
			of, err := trainplan.Preset(preset, p.Stage)
			if err != nil {
				return err
			}
			all = append(of, rest...)
		}
		for _, s := range all {
			note, err := p.Set(s.Name, s.Value)
			if err != nil {
				err = fmt.Errorf("%w (from %s)", err, s.Source)
				if !slices.ContainsFunc(faults, func(f error) bool { return f.Error() == err.Error() }) {
					faults = append(faults, err)
				}
			}
			if note != "" && !slices.Contains(notes, note) {
				notes = append(notes, note)
			}
		}
		p.Name = p.Stage
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if len(faults) == 0 {
		for _, p := range plans {
			if err := p.Validate(); err != nil {
				faults = append(faults, fmt.Errorf("%s: %w", p.Stage, err))
			}
		}
	}
	if len(faults) > 0 {
		return nil, nil, clara.Errorf(clara.Invalid, "%w", errors.Join(faults...))
	}
	return plans, notes, nil
}

// NewRun is the record of a run that has not begun.
func NewRun(display string, plans []trainplan.Plan, notes []string) (*trainerv1.Run, error) {
	run := &trainerv1.Run{DisplayName: display, State: trainerv1.Run_STATE_PENDING, Notes: notes}
	for _, p := range plans {
		raw, err := json.Marshal(p)
		if err != nil {
			return nil, fmt.Errorf("encode plan: %w", err)
		}
		run.Stages = append(run.Stages, &trainerv1.Stage{Stage: p.Stage, State: trainerv1.Run_STATE_PENDING, Plan: string(raw), SavePath: p.SavePath, RunDir: p.RunDir})
		run.WorldSize = int32(p.World)
	}
	if run.DisplayName == "" {
		run.DisplayName = plans[0].Name
		if len(plans) > 1 {
			run.DisplayName = filepath.Base(filepath.Dir(plans[0].SavePath))
		}
	}
	return run, nil
}

// planOf is the plan of a stage's record.
func planOf(s *trainerv1.Stage) (trainplan.Plan, error) {
	var p trainplan.Plan
	if err := json.Unmarshal([]byte(s.Plan), &p); err != nil {
		return p, clara.Errorf(clara.Corrupt, "plan of %s: %w", s.Stage, err)
	}
	return p, nil
}

// paths are the files and folders that a plan reads, and those that it writes.
func paths(p trainplan.Plan) (reads, writes []string) {
	for _, d := range p.Data {
		reads = append(reads, d.Path)
	}
	for _, f := range []string{p.EvalData, p.Checkpoint, p.Model} {
		if filepath.IsAbs(f) { // else a hub id, or nothing
			reads = append(reads, f)
		}
	}
	return reads, []string{p.SavePath, p.RunDir}
}
