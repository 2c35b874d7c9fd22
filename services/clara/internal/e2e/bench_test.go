//go:build !race

package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
)

// BenchmarkEventToIndexed publishes an event for a small file and waits until the file is searchable, one after
// another, with a tiny model: what is measured is the suite's own way from NATS to the index.
func BenchmarkEventToIndexed(b *testing.B) {
	folder := b.TempDir()
	s := startSuite(b, "--ingest-roots", folder, "--ingest-ocr", "never")
	base := tinyBase(b)
	s.ok("models", "import", base, "--checkpoint", tinyCheckpoint(b, base), "--name", "tiny-clara", "--activate")
	_, err := s.clients().ingest.CreateCollection(b.Context(), &ingestv1.CreateCollectionRequest{Collection: &ingestv1.Collection{Name: "collections/bench"}})
	require.NoError(b, err)
	conn, err := nats.Connect("nats://" + s.nats)
	require.NoError(b, err)
	defer conn.Close()
	client := s.clients().ingest
	n := 0
	for b.Loop() {
		n++
		path := write(b, folder, fmt.Sprintf("%d.md", n), fmt.Sprintf("# File %d\n\nA file of an event.\n", n))
		event, err := json.Marshal(map[string]string{"collection": "bench", "document": fmt.Sprintf("d%d", n),
			"uri": (&url.URL{Scheme: "file", Path: filepath.ToSlash(path)}).String()})
		require.NoError(b, err)
		require.NoError(b, conn.Publish("clara.ingest.requested.v1.bench", event))
		name := fmt.Sprintf("collections/bench/documents/d%d", n)
		for begin := time.Now(); ; {
			d, err := client.GetDocument(b.Context(), &ingestv1.GetDocumentRequest{Name: name})
			if err == nil && d.State == ingestv1.Document_STATE_READY {
				break
			}
			require.Less(b, time.Since(begin), time.Minute, "document %s", name)
		}
	}
}
