package events_test

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/events"
	"github.com/clara-suite/clara/libs/testkit/natstest"
	eventv1 "github.com/clara-suite/clara/proto/gen/clara/event/v1"
)

// TestDrainBeforeRun stops consumers that are only about to run, as a process does that fails while it starts.
func TestDrainBeforeRun(t *testing.T) {
	conn := natstest.Start(t).Connect(events.Options{})
	for range 20 {
		c, err := events.NewConsumer[*eventv1.IngestRequested](conn, "ingest", events.HandlerFunc[*eventv1.IngestRequested](
			func(context.Context, *eventv1.IngestRequested) error { return nil }), events.ConsumerOptions{})
		require.NoError(t, err)
		var wg sync.WaitGroup
		wg.Go(func() { assert.NoError(t, c.Run(t.Context())) })
		wg.Go(func() { assert.NoError(t, c.Drain(t.Context())) })
		wg.Wait()
	}
}
