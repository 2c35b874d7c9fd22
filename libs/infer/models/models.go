// Package models is what the inference services share: they find the engine of
// a model by its resource name, keep the active one loaded, exchange memories
// with one another, and score memories alike (spec clara-model §5).
//
// Inputs and outputs: memories are [m, H] float32, m*H little-endian values on
// the wire; scores are cosines, from -1 to 1.
//
// Errors: NotFound and State, with the way out, for a model that is not there;
// those of host.Acquire; Corrupt for a memory that is not whole; those of the
// services called. Safe for concurrent use.
package models

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/infer/host"
	modelv1 "github.com/clara-suite/clara/proto/gen/clara/model/v1"
	"github.com/clara-suite/clara/proto/gen/clara/model/v1/modelv1connect"
)

// Active is the resource name of whichever model is active.
const Active = "models/active"

// Models finds engines by the names of models.
type Models struct {
	Host     *host.Host
	Registry modelv1connect.ModelServiceClient
}

// Lease is an engine in use, until Release.
type Lease struct {
	*infer.Engine
	// Name is the model's resource name, "models/{model}".
	Name    string
	Release func()
}

// Acquire returns the engine of a model, "models/{model}"; empty or Active is the active one. It loads the model
// if nobody has used it yet. The caller releases it.
func (m Models) Acquire(ctx context.Context, name string) (Lease, error) {
	name, err := m.Resolve(ctx, name)
	if err != nil {
		return Lease{}, err
	}
	e, release, err := m.Host.Acquire(ctx, strings.TrimPrefix(name, "models/"))
	if err != nil {
		return Lease{}, err
	}
	return Lease{Engine: e, Name: name, Release: release}, nil
}

// Resolve returns the resource name of a model: that of the active one for an empty name or Active.
func (m Models) Resolve(ctx context.Context, name string) (string, error) {
	if name != "" && name != Active {
		if !strings.HasPrefix(name, "models/") {
			return "", clara.Errorf(clara.Invalid, "model name %q: want models/NAME", name)
		}
		return name, nil
	}
	active, err := m.Registry.GetModel(ctx, &modelv1.GetModelRequest{Name: Active})
	if clara.KindOf(err) == clara.NotFound {
		return "", clara.Errorf(clara.State, "no model is active: get one with clara models pull or clara models import, then clara models activate NAME")
	}
	if err != nil {
		return "", err
	}
	return active.Name, nil
}

// warmEvery is how often Warm looks for a newly activated model.
const warmEvery = 5 * time.Second

// Warm loads the active model, and each that becomes active later, so that the first request after an activation
// does not wait for it. It ends with ctx. loading is told while a model is being loaded, and why one can't be;
// nil once it is there, and when none is active or that is one which this program can't run, as a package of an earlier format.
func (m Models) Warm(ctx context.Context, log *slog.Logger, loading func(reason error)) error {
	var (
		last   string // digest of the model that was loaded
		missed int    // looks in a row that got no answer
	)
	for {
		active, err := m.Registry.GetModel(ctx, &modelv1.GetModelRequest{Name: Active})
		if missed++; err == nil || clara.KindOf(err) == clara.NotFound {
			missed = 0
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case clara.KindOf(err) == clara.NotFound:
			loading(nil)
		case err != nil:
			// One is no news, such as while stopping, and neither is each of many.
			if missed == 2 {
				log.WarnContext(ctx, "look for the active model", "err", err)
			}
		case active.Digest+active.Name != last:
			if last == "" {
				loading(clara.Errorf(clara.State, "model %s is being loaded", active.Name))
			}
			lease, err := m.Acquire(ctx, active.Name)
			if err == nil {
				lease.Release()
			} else if ctx.Err() == nil {
				log.WarnContext(ctx, "load the active model", "model", active.Name, "err", err)
			}
			if err == nil || clara.KindOf(err) == clara.Unsupported { // which lasts until another is active: as good as none
				last = active.Digest + active.Name
				loading(nil)
			} else if ctx.Err() == nil {
				loading(err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(warmEvery):
		}
	}
}

// Wait pauses for as long as a Busy error advises, within reason, and reports whether err was one and ctx lasts:
// then the call is worth repeating.
func Wait(ctx context.Context, err error) bool {
	if clara.KindOf(err) != clara.Busy {
		return false
	}
	after := min(max(clara.RetryAfter(err), 50*time.Millisecond), 5*time.Second)
	t := time.NewTimer(after)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
