package indexer

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/index"
	eventv1 "github.com/clara-suite/clara/proto/gen/clara/event/v1"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
)

// work is a passage set that is to be in an index.
type work struct {
	collection, document, file string
	revision                   int64
	index, set, model, job     string
	passages                   int
	// indexed is set if the record says that the index holds it already.
	indexed bool
}

func (w work) name() string { return documentName(w.collection, w.document) }

// memory reports whether the index holds memories; its name says so (index.Name).
func (w work) memory() bool { return !strings.HasPrefix(w.index, w.collection+".text.") }

func (w work) filter() index.Filter {
	return index.Filter{Collection: w.collection, Documents: []string{w.document}}
}

// The ways in which a record can tell a writer to stop.
var (
	errGone      = errors.New("the document is gone")
	errMoved     = errors.New("the document has changed")
	errCancelled = errors.New("the job was cancelled")
)

// Ready handles documents whose passages are to be indexed.
type Ready struct{ *Indexer }

// rounds is how often a document may change under the hands of a handler before it waits for the change to end.
const rounds = 4

// Handle brings a document's passages into its index and publishes that they are there.
func (r Ready) Handle(ctx context.Context, e *eventv1.DocumentReady) error {
	w := work{
		collection: e.Collection, document: e.Document, file: e.File, revision: e.Revision,
		index: e.Index, set: e.PassageSet, model: e.Model, job: e.Job, passages: int(e.Passages),
	}
	for range rounds {
		d, err := r.record(ctx, w.name())
		if err != nil {
			return err
		}
		if d == nil {
			return r.erase(ctx, w)
		}
		now, err := due(d, w)
		if err != nil || now == nil {
			return err
		}
		if now.indexed {
			if done, err := r.complete(ctx, *now); done || err != nil {
				return err
			}
		}
		switch err = r.write(ctx, *now, d); {
		case errors.Is(err, errGone):
			return r.erase(ctx, w)
		case errors.Is(err, errMoved):
			continue
		case errors.Is(err, errCancelled):
			return r.cancel(ctx, *now, d)
		case err != nil:
			return err
		}
		return r.Events.Publish(ctx, "", &eventv1.DocumentIndexed{
			Collection: now.collection, Document: now.document, Revision: now.revision, Index: now.index, Passages: int32(now.passages), Job: now.job,
		})
	}
	return clara.Errorf(clara.Conflict, "index %s: it changes all the time", w.name())
}

// due returns what is to be done for a document's record when the event of w comes, nil for nothing. Work for an
// older revision may have left points among those of the present one: once that is settled, they are looked after.
func due(d *ingestv1.Document, w work) (*work, error) {
	p := placement(d, w.index)
	if p == nil {
		return nil, nil
	}
	if d.Revision == w.revision && p.PassageSet == w.set {
		w.indexed, w.passages, w.file = p.Indexed, int(p.Passages), d.File
		return &w, nil
	}
	switch {
	case settled(d) && p.Indexed:
		w.revision, w.set, w.passages, w.file = d.Revision, p.PassageSet, int(p.Passages), d.File
		w.indexed, w.job = true, ""
		return &w, nil
	case d.State == ingestv1.Document_STATE_INDEXING:
		return nil, clara.Errorf(clara.Conflict, "index %s at revision %d: revision %d is being indexed", w.name(), w.revision, d.Revision)
	}
	return nil, nil // what comes next has its own event
}

// Parked ends a document whose passages could not be indexed: nothing of it answers half.
func (r Ready) Parked(ctx context.Context, e *eventv1.DocumentReady, reason error) error {
	d, err := r.record(ctx, documentName(e.Collection, e.Document))
	if err != nil {
		return err
	}
	if d != nil && d.Revision == e.Revision {
		if p := placement(d, e.Index); p == nil || !p.Indexed {
			if err := r.DeleteDocument(ctx, e.Collection, e.Document, e.Revision+1, []string{e.Index}); err != nil {
				return err
			}
		}
	}
	return r.Events.Publish(ctx, "", &eventv1.DocumentIndexed{
		Collection: e.Collection, Document: e.Document, Revision: e.Revision, Index: e.Index, Job: e.Job, Error: reason.Error(),
	})
}

// cancel ends a document whose job was stopped.
func (r Ready) cancel(ctx context.Context, w work, d *ingestv1.Document) error {
	const reason = "cancelled before it was indexed"
	if err := r.DeleteDocument(ctx, w.collection, w.document, w.revision+1, []string{w.index}); err != nil {
		return err
	}
	item := &jobv1.Item{Name: d.Name, Label: d.File, State: jobv1.Job_STATE_CANCELLED, Error: reason}
	if err := r.Jobs.SetItem(ctx, w.job, item); err != nil && clara.KindOf(err) != clara.NotFound {
		return err
	}
	return r.Events.Publish(ctx, "", &eventv1.DocumentIndexed{
		Collection: w.collection, Document: w.document, Revision: w.revision, Index: w.index, Job: w.job, Error: reason,
	})
}

// erase removes what was written of a document that is gone, with the index if the collection is gone too.
func (x *Indexer) erase(ctx context.Context, w work) error {
	_, err := x.Ingest.GetCollection(ctx, &ingestv1.GetCollectionRequest{Name: "collections/" + w.collection})
	switch {
	case clara.KindOf(err) == clara.NotFound:
		return x.Drop(ctx, w.index)
	case err != nil:
		return err
	}
	return x.DeleteDocument(ctx, w.collection, w.document, w.revision+1, []string{w.index})
}

// Deleted handles documents and collections that are deleted.
type Deleted struct{ *Indexer }

// Handle removes the points.
func (r Deleted) Handle(ctx context.Context, e *eventv1.DocumentDeleted) error {
	if e.All {
		if len(e.Indexes) == 0 {
			return nil // a later collection of the same name may have indexes by now
		}
		return r.DropCollection(ctx, e.Collection, e.Indexes)
	}
	return r.DeleteDocument(ctx, e.Collection, e.Document, e.Revision, e.Indexes)
}

// progress tells a job how far a document is, at most once a second.
type progress struct {
	x          *Indexer
	job        string
	item       *jobv1.Item
	begin, at  time.Time
	done, from int64
}

func (p *progress) add(ctx context.Context, n int) {
	p.done += int64(n)
	now := time.Now()
	if p.job == "" || now.Sub(p.at) < time.Second {
		return
	}
	p.at = now
	pr := p.item.Progress
	pr.Done = p.done
	if s := now.Sub(p.begin).Seconds(); s > 0 && p.done > p.from {
		pr.Rate = float64(p.done-p.from) / s
		pr.RemainingSeconds = float64(max(pr.Total-p.done, 0)) / pr.Rate
	}
	if err := p.x.Jobs.SetItem(ctx, p.job, p.item); err != nil && ctx.Err() == nil {
		p.x.Log.DebugContext(ctx, "progress not stored", "job", p.job, "err", err)
	}
}

// wait tells the job what the document waits for, if err is of that kind.
func (p *progress) wait(ctx context.Context, err error) {
	if p.job == "" || !clara.Waits(err) {
		return
	}
	p.item.Stage = "waiting: " + err.Error()
	if err := p.x.Jobs.SetItem(ctx, p.job, p.item); err != nil && ctx.Err() == nil {
		p.x.Log.DebugContext(ctx, "progress not stored", "job", p.job, "err", err)
	}
}
