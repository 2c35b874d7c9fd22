// Package indexer writes documents into the index, and takes them out again: it
// is the event handlers of the compressor.
//
// Everything here may be done twice, by two replicas at once, or be cut off
// anywhere: what counts is the document's record. A handler looks at it before
// it begins, before every chunk, and after the last, and leaves the points that
// the record stands for and no others.
package indexer

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/metric"

	"github.com/clara-suite/clara/libs/blob"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/infer/models"
	"github.com/clara-suite/clara/libs/modelstore"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	"github.com/clara-suite/clara/proto/gen/clara/ingest/v1/ingestv1connect"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
)

// Jobs is what the indexer tells of its progress; job.Jobs is one.
type Jobs interface {
	SetItem(ctx context.Context, job string, item *jobv1.Item) error
	Cancelled(ctx context.Context, job string) (bool, error)
}

// Indexer is what the handlers work with. Safe for concurrent use.
type Indexer struct {
	Log      *slog.Logger
	Events   *events.Conn
	Files    *blob.Bucket
	Index    *index.Client
	Models   models.Models
	Packages *modelstore.Store
	Ingest   ingestv1connect.IngestServiceClient
	Jobs     Jobs
	// Passages counts what was written.
	Passages metric.Int64Counter

	mu   sync.Mutex
	open map[string]*index.Index // by physical name
}

// record returns a document's record; nil if there is none any more.
func (x *Indexer) record(ctx context.Context, name string) (*ingestv1.Document, error) {
	docs, err := x.records(ctx, []string{name})
	return docs[name], err
}

// recordsAtOnce is how many names a request for records may hold.
const recordsAtOnce = 500

// records returns the records of the documents that exist, by name.
func (x *Indexer) records(ctx context.Context, names []string) (map[string]*ingestv1.Document, error) {
	out := map[string]*ingestv1.Document{}
	for len(names) > 0 {
		n := min(len(names), recordsAtOnce)
		reply, err := x.Ingest.BatchGetDocuments(ctx, &ingestv1.BatchGetDocumentsRequest{Names: names[:n]})
		if err != nil {
			return nil, err
		}
		for _, d := range reply.Documents {
			out[d.Name] = d
		}
		names = names[n:]
	}
	return out, nil
}

func documentName(collection, document string) string {
	return "collections/" + collection + "/documents/" + document
}

// placement returns a document's placement in an index, nil if it has none.
func placement(d *ingestv1.Document, index string) *ingestv1.Placement {
	for _, p := range d.Placements {
		if p.Index == index {
			return p
		}
	}
	return nil
}

// settled reports whether no revision of the document is on its way into the index in use.
func settled(d *ingestv1.Document) bool {
	return d.State == ingestv1.Document_STATE_READY || d.State == ingestv1.Document_STATE_PARTIAL
}

// existing returns an index that is there, or nil.
func (x *Indexer) existing(ctx context.Context, name string) (*index.Index, error) {
	x.mu.Lock()
	known := x.open[name]
	x.mu.Unlock()
	if known != nil {
		return known, nil
	}
	found, err := x.Index.Index(ctx, name)
	if clara.KindOf(err) == clara.NotFound {
		return nil, nil
	}
	if err == nil {
		x.remember(name, found)
	}
	return found, err
}

func (x *Indexer) remember(name string, i *index.Index) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.open == nil {
		x.open = map[string]*index.Index{}
	}
	x.open[name] = i
}

// forget makes the next use of an index look for it again.
func (x *Indexer) forget(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.open, name)
}

// ensure returns the index that w is for, making it if it is not there.
func (x *Indexer) ensure(ctx context.Context, w work) (*index.Index, error) {
	x.mu.Lock()
	known := x.open[w.index]
	x.mu.Unlock()
	if known != nil {
		return known, nil
	}
	var schema index.Schema
	if w.memory() {
		m, err := x.Packages.Manifest(ctx, strings.TrimPrefix(w.model, "models/"))
		if clara.KindOf(err) == clara.NotFound {
			return nil, clara.Errorf(clara.Invalid, "%w: the collection still names it; import it again, or activate another", err)
		}
		if err != nil {
			return nil, err
		}
		if !m.HasAdapters() {
			return nil, clara.Errorf(clara.Invalid, "index %s is for memories, and model %s has no adapters any more: it was imported anew; activate it again", w.index, w.model)
		}
		schema = index.Schema{M: m.M, H: m.H, Memories: index.PrecisionOf(w.index)}
		if schema.Split() {
			schema.Key = index.Key{Dims: index.DefaultKeyDims, Seed: m.IndexKeySeed}
		}
	}
	made, err := x.Index.Ensure(ctx, w.index, schema)
	if clara.KindOf(err) == clara.Exists {
		return nil, clara.Errorf(clara.Invalid, "%w: model %s was imported anew with another shape; activate it again", err, w.model)
	}
	if err == nil {
		x.remember(w.index, made)
	}
	return made, err
}

// dropped turns the loss of an index under our hands into a reason to look again.
func (x *Indexer) dropped(name string, err error) error {
	if clara.KindOf(err) != clara.NotFound {
		return err
	}
	x.forget(name)
	return clara.Errorf(clara.Unavailable, "%w", err)
}

// Drop removes a physical index.
func (x *Indexer) Drop(ctx context.Context, name string) error {
	err := x.Index.Drop(ctx, name)
	x.forget(name)
	return err
}

// DropCollection removes the indexes named; with none named, all that a collection has.
func (x *Indexer) DropCollection(ctx context.Context, collection string, indexes []string) error {
	if len(indexes) == 0 {
		all, err := x.Index.List(ctx)
		if err != nil {
			return err
		}
		for _, name := range all {
			if strings.HasPrefix(name, collection+".") {
				indexes = append(indexes, name)
			}
		}
	}
	var errs []error
	for _, name := range indexes {
		errs = append(errs, x.Drop(ctx, name))
	}
	return errors.Join(errs...)
}

// DeleteDocument removes a document's points older than a revision, 0 is all of them, from the indexes named.
func (x *Indexer) DeleteDocument(ctx context.Context, collection, document string, before int64, indexes []string) error {
	var errs []error
	for _, name := range indexes {
		i, err := x.existing(ctx, name)
		if err == nil && i != nil {
			err = i.Delete(ctx, index.Filter{Collection: collection, Documents: []string{document}, RevisionBelow: before})
			if clara.KindOf(err) == clara.NotFound {
				x.forget(name)
				err = nil
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
