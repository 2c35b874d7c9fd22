package registry

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clara-suite/clara/libs/blob"
	"github.com/clara-suite/clara/libs/checkpoint"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	"github.com/clara-suite/clara/libs/events/job"
	"github.com/clara-suite/clara/libs/infer/calibrate"
	"github.com/clara-suite/clara/libs/infer/ort"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/modelstore"
	eventv1 "github.com/clara-suite/clara/proto/gen/clara/event/v1"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	"github.com/clara-suite/clara/proto/gen/clara/ingest/v1/ingestv1connect"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	modelv1 "github.com/clara-suite/clara/proto/gen/clara/model/v1"
)

// Types of job: imports are done here, activations by ingest.
const (
	ImportJob   = "import"
	ActivateJob = "activate"
)

// Keys of the records of models.
const (
	activeKey     = "active"     // Name and Generation of the active package
	generationKey = "generation" // Generation: the last activation there was, of named collections too
	sourcePrefix  = "source."    // Source of a package, by its name in hex, for people
)

const (
	defaultPage = 100
	maxPage     = 1000
)

// Registry implements clara.model.v1.ModelService.
type Registry struct {
	log      *slog.Logger
	packages *modelstore.Store
	files    *blob.Bucket
	conn     *events.Conn
	jobs     *job.Jobs
	ingest   ingestv1connect.IngestServiceClient
	roots    Roots
	bases    checkpoint.BaseFinder
	records  *events.Store[*modelv1.Model]

	importing chan struct{} // holds one while a package is made: two at once would only fight for memory and disk
	ctx       context.Context
	stop      context.CancelFunc
	work      sync.WaitGroup
}

// Options is what a Registry works with. All are required.
type Options struct {
	Log      *slog.Logger
	Packages *modelstore.Store
	Files    *blob.Bucket
	Conn     *events.Conn
	Jobs     *job.Jobs
	Ingest   ingestv1connect.IngestServiceClient
	Roots    Roots
	Bases    checkpoint.BaseFinder
}

// New opens the records. Close ends what the registry does in the background.
func New(ctx context.Context, o Options) (*Registry, error) {
	records, err := events.OpenStore[*modelv1.Model](ctx, o.Conn, "models", 0)
	if err != nil {
		return nil, err
	}
	r := &Registry{log: o.Log, packages: o.Packages, files: o.Files, conn: o.Conn, jobs: o.Jobs, ingest: o.Ingest, roots: o.Roots, bases: o.Bases,
		records: records, importing: make(chan struct{}, 1)}
	r.ctx, r.stop = context.WithCancel(context.WithoutCancel(ctx))
	return r, nil
}

// Close stops imports, which go on when the service is back, and waits for them as long as ctx allows.
func (r *Registry) Close(ctx context.Context) error {
	r.stop()
	done := make(chan struct{})
	go func() { r.work.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// maxCalibration keeps a request within what a job's record may hold.
const maxCalibration = 256 << 10

// ImportModel starts to make a package and returns the job.
func (r *Registry) ImportModel(ctx context.Context, req *modelv1.ImportModelRequest) (*jobv1.Job, error) {
	if req.Base == "" && req.Checkpoint == "" {
		return nil, clara.Errorf(clara.Invalid, "import model: give a base (folder, GGUF file or hub id), a checkpoint, or both")
	}
	if req.CompressRate < 0 || req.CompressRate > 0 && req.Checkpoint == "" {
		return nil, clara.Errorf(clara.Invalid, "import model: compress_rate %d: it is a checkpoint's, and at least 1", req.CompressRate)
	}
	if _, err := modelpkg.ParsePrecisions(req.Precision); err != nil {
		return nil, err
	}
	if _, err := modelpkg.ParseRounding(req.Rounding); err != nil {
		return nil, err
	}
	if len(req.Calibration) > maxCalibration {
		return nil, clara.Errorf(clara.Invalid, "import model: the calibration text has %d bytes, at most %d are taken", len(req.Calibration), maxCalibration)
	}
	if req.Model == "" {
		req.Model = modelstore.Name(source(req))
	}
	if err := modelstore.CheckName(req.Model); err != nil {
		return nil, err
	}
	if prefix+req.Model == activeName {
		return nil, clara.Errorf(clara.Invalid, "model name %q stands for the active package: choose another", req.Model)
	}
	// What is refused is refused before a job begins.
	for _, path := range []string{req.Base, req.Checkpoint} {
		if filepath.IsAbs(path) {
			if err := r.roots.Check(path); err != nil {
				return nil, err
			}
		}
	}
	spec, err := protojson.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	j, err := r.jobs.Create(ctx, &jobv1.Job{Type: ImportJob, Target: prefix + req.Model, Detail: "import of " + source(req), RequestId: req.RequestId, Spec: spec})
	if err != nil {
		return nil, err
	}
	if j.State == jobv1.Job_STATE_PENDING {
		// A request that came twice finds the job held, or pending for whoever is first.
		if err := r.Resume(ctx, j); err != nil && clara.KindOf(err) != clara.Conflict && clara.KindOf(err) != clara.State {
			return nil, err
		}
	}
	return j, nil
}

// source is what a request is called, if it gives no name.
func source(req *modelv1.ImportModelRequest) string {
	if req.Checkpoint != "" {
		return req.Checkpoint
	}
	return req.Base
}

// Resume starts an import, at first or again after a crash, and returns at once.
func (r *Registry) Resume(_ context.Context, j *jobv1.Job) error {
	run, err := r.jobs.Start(r.ctx, j.Name)
	if err != nil {
		return err
	}
	r.work.Go(func() {
		err := r.run(run)
		if err != nil {
			r.log.Warn("model not imported", "job", run.Name(), "model", j.Target, "err", err)
		}
		if err := run.Finish(err); err != nil {
			r.log.Warn("job not ended", "job", run.Name(), "err", err)
		}
	})
	return nil
}

func (r *Registry) run(run *job.Run) error {
	ctx, req := run.Context(), &modelv1.ImportModelRequest{}
	if err := protojson.Unmarshal(run.Job().GetSpec(), req); err != nil {
		return clara.Errorf(clara.Corrupt, "%s: %w", run.Name(), err)
	}
	run.Progress(0, 0, "steps", "waiting for another import")
	select {
	case r.importing <- struct{}{}:
		defer func() { <-r.importing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	run.Progress(0, 0, "steps", "finding the base model")
	base, err := r.base(ctx, req)
	if err != nil {
		return err
	}
	precision, err := modelpkg.ParsePrecisions(req.Precision)
	if err != nil {
		return err
	}
	rounding, err := modelpkg.ParseRounding(req.Rounding)
	if err != nil {
		return err
	}
	m, err := r.make(ctx, run, modelpkg.ImportOptions{Name: req.Model, Base: base, Checkpoint: req.Checkpoint, CompressRate: int(req.CompressRate), Precision: precision,
		Rounding: rounding, Calibration: cmp.Or(req.Calibration, calibrate.Text()), Calibrate: calibrate.With(ort.Options{Provider: ort.CPU})})
	if err != nil {
		return err
	}
	if steps := run.Job().GetProgress().GetTotal(); steps > 0 {
		run.Progress(steps, steps, "steps", "")
	}
	if _, err := r.records.Put(ctx, sourceKey(req.Model), &modelv1.Model{Name: prefix + req.Model, Source: describeSource(req, base)}); err != nil {
		return err
	}
	detail := "imported " + prefix + req.Model
	if len(m.Warnings) > 0 {
		detail += "; " + strings.Join(m.Warnings, "; ")
	}
	if req.Activate {
		// The job's name as the request's: an import that is resumed activates once.
		moving, err := r.ActivateModel(ctx, &modelv1.ActivateModelRequest{Name: prefix + req.Model, RequestId: run.Name()})
		if err != nil {
			return fmt.Errorf("%s is imported but not active: %w; repeat with clara models activate %s", req.Model, err, req.Model)
		}
		detail += "; active, collections move with " + moving.Name
	}
	run.Detail(detail)
	return nil
}

// make imports a package. One that is in use is never replaced by another: indexes were written with its encoder.
func (r *Registry) make(ctx context.Context, run *job.Run, o modelpkg.ImportOptions) (*modelpkg.Manifest, error) {
	o.Progress = func(done, total int, step string) { run.Progress(int64(done), int64(total), "steps", step) }
	old, err := r.packages.Manifest(ctx, o.Name)
	if clara.KindOf(err) == clara.NotFound {
		return r.packages.Import(ctx, o.Name, o)
	}
	if err != nil {
		return nil, err
	}
	used := r.unused(ctx, prefix+o.Name)
	if used == nil {
		return r.packages.Import(ctx, o.Name, o)
	}
	if clara.KindOf(used) != clara.State {
		return nil, used
	}
	// Made beside it and compared: the same again is no change.
	beside := "import-" + strings.TrimPrefix(run.Name(), "jobs/")
	m, err := r.packages.Import(ctx, beside, o)
	if err != nil {
		return nil, err
	}
	if err := r.packages.Delete(context.WithoutCancel(ctx), beside); err != nil {
		return nil, err
	}
	if m.Hashes != old.Hashes {
		return nil, clara.Errorf(clara.State, "%s is there already, with other weights, and in use: %w; or import under another name", o.Name, used)
	}
	if old.Format == m.Format {
		return old, nil
	}
	return r.packages.Import(ctx, o.Name, o) // the same in the present form
}

// base finds the base model of an import on this machine.
func (r *Registry) base(ctx context.Context, req *modelv1.ImportModelRequest) (string, error) {
	name := ""
	if req.Checkpoint != "" {
		if err := r.roots.Check(req.Checkpoint); err != nil {
			return "", err
		}
		// config.json alone: the weights are read by the import.
		raw, err := os.ReadFile(filepath.Join(req.Checkpoint, checkpoint.ConfigFile))
		if err != nil {
			return "", clara.Errorf(clara.NotFound, "%s is no CLaRa checkpoint: %w", req.Checkpoint, err)
		}
		cfg, err := checkpoint.ParseConfig(raw)
		if err != nil {
			return "", fmt.Errorf("checkpoint %s: %w", req.Checkpoint, err)
		}
		name = cfg.DecoderModelName
	}
	base, err := r.bases.Find(ctx, name, req.Base, req.Checkpoint)
	if err != nil {
		return "", err
	}
	return base, r.roots.Check(base)
}

func describeSource(req *modelv1.ImportModelRequest, base string) string {
	if req.Checkpoint == "" {
		return base
	}
	return req.Checkpoint + " on " + base
}

func sourceKey(model string) string { return sourcePrefix + hex.EncodeToString([]byte(model)) }

const activeName = prefix + "active"

// active returns the record of the active package; its Name is empty if there is none.
func (r *Registry) active(ctx context.Context) (*modelv1.Model, error) {
	e, err := r.records.Get(ctx, activeKey)
	if clara.KindOf(err) == clara.NotFound {
		return &modelv1.Model{}, nil
	}
	return e.Value, err
}

// GetModel returns a package, by name or "models/active".
func (r *Registry) GetModel(ctx context.Context, req *modelv1.GetModelRequest) (*modelv1.Model, error) {
	active, err := r.active(ctx)
	if err != nil {
		return nil, err
	}
	name := req.Name
	if name == activeName {
		if name = active.Name; name == "" {
			return nil, clara.Errorf(clara.NotFound, "no model is active; clara models activate NAME makes one so")
		}
	}
	return r.model(ctx, name, active)
}

func (r *Registry) model(ctx context.Context, name string, active *modelv1.Model) (*modelv1.Model, error) {
	id, err := parse(name)
	if err != nil {
		return nil, err
	}
	manifest, err := r.packages.Manifest(ctx, id)
	if err != nil {
		return nil, err
	}
	m, err := describe(id, manifest)
	if err != nil {
		return nil, err
	}
	if m.Name == active.Name {
		m.Active, m.Generation = true, active.Generation
	}
	if e, err := r.records.Get(ctx, sourceKey(id)); err == nil {
		m.Source = e.Value.Source
	}
	for e, err := range r.files.List(ctx, prefix+id+"/"+modelpkg.ManifestFile) {
		if err != nil {
			return nil, err
		}
		m.CreateTime = timestamppb.New(e.ModTime)
		break
	}
	return m, nil
}

// ListModels lists packages by name.
func (r *Registry) ListModels(ctx context.Context, req *modelv1.ListModelsRequest) (*modelv1.ListModelsResponse, error) {
	names, err := r.packages.List(ctx)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	active, err := r.active(ctx)
	if err != nil {
		return nil, err
	}
	size := int(req.PageSize)
	if size <= 0 {
		size = defaultPage
	}
	size = min(size, maxPage)
	// The token is the last name given out, so that packages that come and go shift nothing.
	start, found := slices.BinarySearch(names, req.PageToken)
	if found {
		start++
	}
	out := &modelv1.ListModelsResponse{}
	for _, name := range names[start:] {
		if len(out.Models) == size {
			out.NextPageToken = strings.TrimPrefix(out.Models[size-1].Name, prefix)
			break
		}
		m, err := r.model(ctx, prefix+name, active)
		if clara.KindOf(err) == clara.NotFound {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		out.Models = append(out.Models, m)
	}
	return out, nil
}

// activation is the spec of an activation's job.
type activation struct {
	Collections []string `json:"collections,omitempty"` // ids
	// Generation is that of the published event; 0: not published yet.
	Generation int64 `json:"generation,omitempty"`
}

// ActivateModel makes a package the active one, or that of the named collections, and returns the job of the move.
// The same request_id publishes once; a call that failed can be repeated with it.
func (r *Registry) ActivateModel(ctx context.Context, req *modelv1.ActivateModelRequest) (*jobv1.Job, error) {
	model, err := parse(req.Name)
	if err != nil {
		return nil, err
	}
	if _, err := r.packages.Manifest(ctx, model); err != nil {
		return nil, err
	}
	what := activation{}
	for _, c := range req.Collections {
		if _, err := r.ingest.GetCollection(ctx, &ingestv1.GetCollectionRequest{Name: c}); err != nil {
			return nil, err
		}
		what.Collections = append(what.Collections, strings.TrimPrefix(c, "collections/"))
	}
	spec, err := json.Marshal(what)
	if err != nil {
		return nil, fmt.Errorf("encode activation: %w", err)
	}
	j, err := r.jobs.CreateOpen(ctx, &jobv1.Job{Type: ActivateJob, Target: req.Name, Detail: "collections move to " + model, RequestId: req.RequestId, Spec: spec,
		Progress: &jobv1.Progress{Unit: "collections"}})
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(j.Spec, &what); err != nil {
		return nil, clara.Errorf(clara.Corrupt, "%s: %w", j.Name, err)
	}
	if what.Generation != 0 {
		return j, nil // this request was carried out before
	}
	if what.Generation, err = r.next(ctx); err != nil {
		return nil, err
	}
	if len(what.Collections) == 0 {
		if err := r.setActive(ctx, req.Name, what.Generation); err != nil {
			return nil, err
		}
	}
	e := &eventv1.ModelActivated{Model: req.Name, Collections: what.Collections, Job: j.Name, Generation: what.Generation}
	if err := r.conn.Publish(ctx, j.Name, e); err != nil {
		return nil, err
	}
	if spec, err = json.Marshal(what); err != nil {
		return nil, fmt.Errorf("encode activation: %w", err)
	}
	return r.jobs.Modify(ctx, j.Name, func(j *jobv1.Job) error { j.Spec = spec; return nil })
}

// next counts activations.
func (r *Registry) next(ctx context.Context) (int64, error) {
	_, err := r.records.Create(ctx, generationKey, &modelv1.Model{})
	if err != nil && clara.KindOf(err) != clara.Exists {
		return 0, err
	}
	e, err := r.records.Modify(ctx, generationKey, func(m *modelv1.Model) error { m.Generation++; return nil })
	return e.Value.GetGeneration(), err
}

// setActive records the active package, unless a later activation was faster.
func (r *Registry) setActive(ctx context.Context, name string, generation int64) error {
	_, err := r.records.Create(ctx, activeKey, &modelv1.Model{Name: name, Generation: generation})
	if clara.KindOf(err) != clara.Exists {
		return err
	}
	_, err = r.records.Modify(ctx, activeKey, func(m *modelv1.Model) error {
		if m.Generation > generation {
			return events.Unchanged
		}
		m.Name, m.Generation = name, generation
		return nil
	})
	return err
}

// DeleteModel removes a package that nothing uses.
func (r *Registry) DeleteModel(ctx context.Context, req *modelv1.DeleteModelRequest) (*modelv1.DeleteModelResponse, error) {
	model, err := parse(req.Name)
	if err != nil {
		return nil, err
	}
	if _, err := r.packages.Manifest(ctx, model); err != nil {
		return nil, err
	}
	if err := r.unused(ctx, req.Name); err != nil {
		return nil, err
	}
	if err := r.packages.Delete(ctx, model); err != nil {
		return nil, err
	}
	return &modelv1.DeleteModelResponse{}, r.records.Delete(ctx, sourceKey(model), 0)
}

// unused is a State error if the model is active or a collection names it.
func (r *Registry) unused(ctx context.Context, name string) error {
	active, err := r.active(ctx)
	if err != nil {
		return err
	}
	if active.Name == name {
		return clara.Errorf(clara.State, "%s is active: activate another model first", name)
	}
	var users []string
	for token := ""; ; {
		page, err := r.ingest.ListCollections(ctx, &ingestv1.ListCollectionsRequest{PageSize: maxPage, PageToken: token})
		if err != nil {
			return fmt.Errorf("ask which collections use %s: %w", name, err)
		}
		for _, c := range page.Collections {
			if c.Model == name || c.NextModel == name {
				users = append(users, c.Name)
			}
		}
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	if len(users) > 0 {
		return clara.Errorf(clara.State, "%s is used by %s: move them with clara models activate OTHER -c COLLECTION first", name, strings.Join(users, ", "))
	}
	return nil
}
