//go:build !race

package e2e_test

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/testkit/tinymodel"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
)

// patience is how long a busy machine may take for what takes seconds on a quiet one.
const patience = 3 * time.Minute

// asker asks without a pause, from several callers, and counts the models that answered.
type asker struct {
	mu     sync.Mutex
	models map[string]int
	faults []string
	stop   context.CancelFunc
	work   sync.WaitGroup
}

func (s *suite) askAlways(t *testing.T, callers int) *asker {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	a := &asker{models: map[string]int{}, stop: cancel}
	generator := s.clients().generator
	once := func() error {
		stream, err := generator.Answer(ctx, &generatorv1.AnswerRequest{Collection: "collections/handbook", Question: "How many days of leave?", TopK: 2, MaxTokens: 4,
			Context: generatorv1.Context_CONTEXT_MEMORY})
		if err != nil {
			return err
		}
		defer stream.Close()
		model, done := "", false
		for stream.Receive() {
			if r := stream.Msg().GetRetrieved(); r != nil {
				model = r.Model
			}
			done = done || stream.Msg().GetDone() != nil
		}
		if err := stream.Err(); err != nil {
			return err
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if !done {
			a.faults = append(a.faults, "an answer without an end")
		}
		a.models[model]++
		return nil
	}
	for range callers {
		a.work.Go(func() {
			for ctx.Err() == nil {
				if err := once(); err != nil && ctx.Err() == nil {
					a.mu.Lock()
					a.faults = append(a.faults, err.Error())
					a.mu.Unlock()
				}
			}
		})
	}
	return a
}

// of is how many answers came from a model.
func (a *asker) of(model string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.models[model]
}

// TestActivateDropsNothing activates a model with another encoder while questions are asked: the collection is compressed
// anew beside the old index, then moves, and every question is answered, by the one model or the other.
func TestActivateDropsNothing(t *testing.T) {
	s := startSuite(t, "--ingest-ocr", "never")
	base := tinyBase(t)
	other := filepath.Join(t.TempDir(), "other")
	tinymodel.Checkpoint(t, other, base, 256, 64, 8)
	s.ok("models", "import", base, "--checkpoint", tinyCheckpoint(t, base), "--name", "first", "--activate")
	s.ok("models", "import", base, "--checkpoint", other, "--name", "second")
	s.ok("ingest", filepath.Join(root, "example", "handbook"), "-c", "handbook")
	require.Eventually(t, func() bool { return s.collection("handbook").Memory }, patience, 50*time.Millisecond)
	before := s.collection("handbook").Index

	a := s.askAlways(t, 3)
	defer a.work.Wait()
	defer a.stop()
	require.Eventually(t, func() bool { return a.of("models/first") >= 3 }, patience, 20*time.Millisecond)
	s.ok("models", "activate", "second")
	require.Eventually(t, func() bool { return strings.HasSuffix(s.collection("handbook").Model, "/second") }, patience, 50*time.Millisecond, "the collection must move")
	require.Eventually(t, func() bool { return a.of("models/second") >= 3 }, patience, 20*time.Millisecond)
	a.stop()
	a.work.Wait()
	assert.Empty(t, a.faults)
	assert.NotEqual(t, before, s.collection("handbook").Index, "another encoder has an index of its own")
}
