package events_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/clara-suite/clara/libs/events"
	"github.com/clara-suite/clara/libs/testkit/natstest"
	eventv1 "github.com/clara-suite/clara/proto/gen/clara/event/v1"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
)

// BenchmarkPublish stores events on disk, one by one and in batches of 256: events/s.
func BenchmarkPublish(b *testing.B) {
	for name, size := range map[string]int{"single": 1, "batch=256": 256} {
		b.Run(name, func(b *testing.B) {
			conn := natstest.Start(b).Connect(events.Options{})
			batch := make([]proto.Message, size)
			for i := range batch {
				batch[i] = ready(i)
			}
			for b.Loop() {
				require.NoError(b, conn.Publish(b.Context(), "", batch...))
			}
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkConsume is the whole way of an event, from stored to handled, attempts counted: events/s.
func BenchmarkConsume(b *testing.B) {
	conn := natstest.Start(b).Connect(events.Options{})
	var handled atomic.Int64
	done := make(chan struct{})
	want := int64(0)
	c, err := events.NewConsumer[*eventv1.DocumentReady](conn, "compressor", events.HandlerFunc[*eventv1.DocumentReady](func(context.Context, *eventv1.DocumentReady) error {
		if handled.Add(1) == atomic.LoadInt64(&want) {
			close(done)
		}
		return nil
	}), events.ConsumerOptions{Concurrency: 64})
	require.NoError(b, err)
	atomic.StoreInt64(&want, int64(b.N))
	for i := 0; i < b.N; i += 256 {
		var batch []proto.Message
		for k := i; k < min(i+256, b.N); k++ {
			batch = append(batch, ready(k))
		}
		require.NoError(b, conn.Publish(b.Context(), "", batch...))
	}
	b.ResetTimer()
	go func() { _ = c.Run(b.Context()) }()
	<-done
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkOutbox stores a record with the event it owes, publishes it and strikes the debt out.
func BenchmarkOutbox(b *testing.B) {
	conn := natstest.Start(b).Connect(events.Options{})
	s, err := events.OpenStore[*ingestv1.Document](b.Context(), conn, "documents", 0)
	require.NoError(b, err)
	box := events.NewOutbox(conn, s, owed, func(d *ingestv1.Document) { d.Owed = nil })
	n := 0
	for b.Loop() {
		n++
		_, err := box.Put(b.Context(), "handbook.d", owing(n))
		require.NoError(b, err)
	}
}
