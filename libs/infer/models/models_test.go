package models_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer/host"
	"github.com/clara-suite/clara/libs/infer/models"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/testkit/tinymodel"
	modelv1 "github.com/clara-suite/clara/proto/gen/clara/model/v1"
	"github.com/clara-suite/clara/proto/gen/clara/model/v1/modelv1connect"
)

// registry answers each look with the next fault, and with the last one from then on.
type registry struct {
	modelv1connect.ModelServiceClient
	faults []error
}

func (r *registry) GetModel(context.Context, *modelv1.GetModelRequest) (*modelv1.Model, error) {
	fault := r.faults[0]
	if len(r.faults) > 1 {
		r.faults = r.faults[1:]
	}
	return nil, fault
}

func TestWarmLogsAnOutageOnce(t *testing.T) {
	away := clara.Errorf(clara.Unavailable, "trainer is away")
	none := clara.Errorf(clara.NotFound, "no model is active")
	for _, c := range []struct {
		name   string
		faults []error
		want   int
	}{
		{"no model is active", []error{none}, 0},
		{"one look is missed", []error{none, away, none}, 0},
		{"away for long", []error{none, away}, 1},
		{"away twice", []error{away, away, away, none, away, away, none}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				var log bytes.Buffer
				m := models.Models{Registry: &registry{faults: c.faults}}
				require.NoError(t, m.Warm(ctx, slog.New(slog.NewTextHandler(&log, nil)), func(error) {}))
				assert.Equal(t, c.want, strings.Count(log.String(), "look for the active model"), log.String())
			})
		})
	}
}

// one is a registry with one model, which is active.
type one struct {
	modelv1connect.ModelServiceClient
}

func (one) GetModel(context.Context, *modelv1.GetModelRequest) (*modelv1.Model, error) {
	return &modelv1.Model{Name: "models/early", Digest: "1"}, nil
}

// TestWarmBesideAModelOfAnEarlierFormat: a suite starts whose active model has to be imported again.
func TestWarmBesideAModelOfAnEarlierFormat(t *testing.T) {
	dir := tinymodel.Package(t, tinymodel.Default(), 4)
	m, err := modelpkg.ReadManifest(dir)
	require.NoError(t, err)
	m.Format = 1
	raw, err := json.Marshal(m)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, modelpkg.ManifestFile), raw, 0o600))
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		h := host.New(host.Options{Dir: func(context.Context, string) (string, string, error) { return dir, "1", nil }})
		var log bytes.Buffer
		reason := errors.New("not told yet")
		require.NoError(t, models.Models{Registry: one{}, Host: h}.Warm(ctx, slog.New(slog.NewTextHandler(&log, nil)), func(err error) { reason = err }))
		assert.NoError(t, reason)
		assert.Equal(t, 1, strings.Count(log.String(), "import the model again"), log.String())
	})
}
