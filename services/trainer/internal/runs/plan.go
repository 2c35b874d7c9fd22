package runs

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/trainplan"
	trainerv1 "github.com/clara-suite/clara/proto/gen/clara/trainer/v1"
)

// Plans makes the plans of a request; devices is how many GPUs there are. Errors are those of trainplan.Resolve.
func Plans(req *trainerv1.StartRunRequest, devices int) ([]trainplan.Plan, []string, error) {
	r := trainplan.Request{Stage: req.Stage, Preset: req.Preset, Name: req.DisplayName}
	for _, s := range req.Settings {
		r.Settings = append(r.Settings, trainplan.Setting{Name: s.Name, Value: s.Value, Source: s.Source})
	}
	return trainplan.Resolve(r, devices)
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
