// Package evaluations does evaluations (libs/evaluate) as held jobs: a crash resumes
// them where they were, for the predictions are kept as they come.
//
// Errors: Invalid, Denied (paths outside of the roots), those of libs/evaluate. Safe
// for concurrent use.
package evaluations

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/evaluate"
	"github.com/clara-suite/clara/libs/events/job"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	trainerv1 "github.com/clara-suite/clara/proto/gen/clara/trainer/v1"
)

// EvaluateJob is the type of the jobs.
const EvaluateJob = "evaluate"

// Roots says which paths may be read and written.
type Roots interface {
	Check(path string) error
	CheckWrite(path string) error
}

// Options is what a Manager works with. All are required.
type Options struct {
	Log        *slog.Logger
	Jobs       *job.Jobs
	Generator  evaluate.Generator
	Reranker   evaluate.Reranker
	Compressor evaluate.Compressor
	Models     evaluate.Models
	Roots      Roots
}

// Manager starts evaluations and does those whose jobs it holds.
type Manager struct {
	o    Options
	one  chan struct{} // at a time: the services are busy with each as it is
	ctx  context.Context
	stop context.CancelFunc
	work sync.WaitGroup
}

// New makes a Manager.
func New(ctx context.Context, o Options) *Manager {
	m := &Manager{o: o, one: make(chan struct{}, 1)}
	m.ctx, m.stop = context.WithCancel(context.WithoutCancel(ctx))
	return m
}

// Close stops evaluations, which go on when the service is back, and waits for them as long as ctx allows.
func (m *Manager) Close(ctx context.Context) error {
	m.stop()
	done := make(chan struct{})
	go func() { m.work.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// config is a request as settings.
func config(r *trainerv1.EvaluateRequest) (evaluate.Config, error) {
	modes := map[trainerv1.EvaluateRequest_Mode]string{
		trainerv1.EvaluateRequest_MODE_UNSPECIFIED: evaluate.EndToEnd, trainerv1.EvaluateRequest_MODE_END_TO_END: evaluate.EndToEnd,
		trainerv1.EvaluateRequest_MODE_INSTRUCTION: evaluate.Instruction, trainerv1.EvaluateRequest_MODE_PARAPHRASE: evaluate.Paraphrase,
		trainerv1.EvaluateRequest_MODE_MSE: evaluate.MSE,
	}
	settings := map[trainerv1.EvaluateRequest_Setting]string{
		trainerv1.EvaluateRequest_SETTING_UNSPECIFIED: evaluate.Normal, trainerv1.EvaluateRequest_SETTING_NORMAL: evaluate.Normal,
		trainerv1.EvaluateRequest_SETTING_ORACLE: evaluate.Oracle,
	}
	contexts := map[generatorv1.Context]string{
		generatorv1.Context_CONTEXT_MEMORY: evaluate.Memory, generatorv1.Context_CONTEXT_TEXT: evaluate.Text, generatorv1.Context_CONTEXT_NONE: evaluate.None,
	}
	c := evaluate.Config{Model: r.Model, Data: r.Data, Mode: modes[r.Mode], Setting: settings[r.Setting],
		TopK: int(r.TopK), MaxTokens: int(r.MaxTokens), MaxSamples: int(r.MaxSamples)}
	for _, x := range r.Contexts {
		name, ok := contexts[x]
		if !ok {
			return c, clara.Errorf(clara.Invalid, "context %s: give MEMORY, TEXT or NONE", x)
		}
		if !slices.Contains(c.Contexts, name) {
			c.Contexts = append(c.Contexts, name)
		}
	}
	return c, c.Validate()
}

// Start checks a request and starts the evaluation.
func (m *Manager) Start(ctx context.Context, r *trainerv1.EvaluateRequest) (*jobv1.Job, error) {
	if _, err := config(r); err != nil {
		return nil, err
	}
	var errs []error
	for _, path := range r.Data {
		if !filepath.IsAbs(path) {
			errs = append(errs, clara.Errorf(clara.Invalid, "data %q: give the whole path; the trainer has a working folder of its own", path))
			continue
		}
		errs = append(errs, m.o.Roots.Check(path))
	}
	if err := errors.Join(append(errs, m.o.Roots.CheckWrite(r.Output))...); err != nil {
		return nil, err
	}
	spec, err := protojson.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	target := r.Model
	if target == "" {
		target = "models/active"
	}
	j, err := m.o.Jobs.Create(ctx, &jobv1.Job{Type: EvaluateJob, Target: target, Detail: "evaluation on " + strings.Join(r.Data, ", "), RequestId: r.RequestId, Spec: spec})
	if err != nil {
		return nil, err
	}
	if err := m.Resume(ctx, j); err != nil && clara.KindOf(err) != clara.Conflict && clara.KindOf(err) != clara.State {
		return nil, err
	}
	return j, nil
}

// Resume starts an evaluation, at first or again after a crash, and returns at once.
func (m *Manager) Resume(_ context.Context, j *jobv1.Job) error {
	run, err := m.o.Jobs.Start(m.ctx, j.Name)
	if err != nil {
		return err
	}
	m.work.Go(func() {
		err := m.run(run)
		if err != nil && !clara.IsContext(err) {
			m.o.Log.Warn("evaluation failed", "job", run.Name(), "err", err)
		}
		if err := run.Finish(err); err != nil {
			m.o.Log.Warn("job not ended", "job", run.Name(), "err", err)
		}
	})
	return nil
}

func (m *Manager) run(run *job.Run) error {
	r := &trainerv1.EvaluateRequest{}
	if err := protojson.Unmarshal(run.Job().GetSpec(), r); err != nil {
		return clara.Errorf(clara.Corrupt, "%s: %w", run.Name(), err)
	}
	c, err := config(r)
	if err != nil {
		return err
	}
	ctx := run.Context()
	run.Progress(0, 0, "answers", "waiting for another evaluation")
	select {
	case m.one <- struct{}{}:
		defer func() { <-m.one }()
	case <-ctx.Done():
		return ctx.Err()
	}
	e := evaluate.Runner{Generator: m.o.Generator, Reranker: m.o.Reranker, Compressor: m.o.Compressor, Models: m.o.Models, Progress: func(done, total int, what string) {
		run.Progress(int64(done), int64(total), "answers", what)
	}}
	if _, err := e.Run(ctx, c, r.Output); err != nil {
		return err
	}
	run.Detail("reports are in " + r.Output)
	return nil
}
