package indexer

import (
	"context"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/infer/models"
	"github.com/clara-suite/clara/libs/passageset"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
)

// A chunk is what is in memory of a document at once, times two: one is compressed while the one before is written.
const (
	chunkPassages = 256
	chunkText     = 4 << 20
	chunkMemory   = 16 << 20
	// lookEvery is the least time between two looks at the record while a document is written.
	lookEvery = 500 * time.Millisecond
)

// passes is how often a document is gone over until the index holds it as it is: more than once only where two
// writers are at it.
const passes = 3

// write brings w into its index and removes what else there is of the document from earlier revisions. It fails
// with errGone, errMoved or errCancelled if the record says so; some points may be written by then.
func (x *Indexer) write(ctx context.Context, w work, d *ingestv1.Document) error {
	i, err := x.ensure(ctx, w)
	if err != nil {
		return err
	}
	var lease models.Lease
	if w.memory() {
		lease, err = x.Models.Acquire(ctx, w.model)
		if clara.KindOf(err) == clara.NotFound {
			return clara.Errorf(clara.Invalid, "%w: the collection still names it; import it again, or activate another", err)
		}
		if err != nil {
			return err
		}
		defer lease.Release()
	}
	p := &progress{x: x, begin: time.Now(), at: time.Now(), item: &jobv1.Item{
		Name: d.Name, Label: d.File, State: jobv1.Job_STATE_RUNNING, Stage: "indexing",
		Progress: &jobv1.Progress{Total: int64(w.passages), Unit: "passages", RemainingSeconds: -1},
	}}
	if w.job != "" && w.job == d.Job {
		p.job = w.job // the job that counts this document, rather than one that moves its collection
	}
	for range passes {
		if err := x.pass(ctx, i, lease, w, p); err != nil {
			p.wait(ctx, err)
			return x.dropped(w.index, err)
		}
		if err := x.look(ctx, w, p.job); err != nil {
			return err
		}
		older := w.filter()
		older.RevisionBelow = w.revision
		if err := i.Delete(ctx, older); err != nil {
			return x.dropped(w.index, err)
		}
		done, err := x.complete(ctx, w)
		if err == nil && !done {
			if err = x.strays(ctx, i, w); err == nil {
				done, err = x.complete(ctx, w)
			}
		}
		if err != nil {
			return err
		}
		if done {
			return x.look(ctx, w, p.job)
		}
	}
	return clara.Errorf(clara.Conflict, "index %s: another writer is at it", w.name())
}

// look returns what the record says to a writer of w: nil to go on.
func (x *Indexer) look(ctx context.Context, w work, job string) error {
	d, err := x.record(ctx, w.name())
	if err != nil {
		return err
	}
	if d == nil {
		return errGone
	}
	if p := placement(d, w.index); p == nil || d.Revision != w.revision || p.PassageSet != w.set {
		return errMoved
	}
	if job == "" || w.indexed {
		return nil
	}
	stop, err := x.Jobs.Cancelled(ctx, job)
	if err != nil && clara.KindOf(err) != clara.NotFound {
		return err
	}
	if stop {
		return errCancelled
	}
	return nil
}

// complete reports whether the index holds w's passages and nothing else of the document.
func (x *Indexer) complete(ctx context.Context, w work) (bool, error) {
	i, err := x.existing(ctx, w.index)
	if err != nil || i == nil {
		return false, err
	}
	set, older := w.filter(), w.filter()
	set.Set, older.RevisionBelow = w.set, w.revision
	for _, c := range []struct {
		f    index.Filter
		want int
	}{{w.filter(), w.passages}, {set, w.passages}, {older, 0}} {
		n, err := i.Count(ctx, c.f)
		if err != nil {
			return false, x.dropped(w.index, err)
		}
		if n != c.want {
			return false, nil
		}
	}
	return true, nil
}

// strays removes points of the document that no revision after w can have written and that are not w's.
func (x *Indexer) strays(ctx context.Context, i *index.Index, w work) error {
	var ids []string
	for s, err := range i.ScrollRefs(ctx, w.filter()) {
		if err != nil {
			return x.dropped(w.index, err)
		}
		if s.Revision < w.revision || s.Revision == w.revision && (s.Set != w.set || s.Passage.Ordinal >= w.passages) {
			ids = append(ids, s.PointID)
		}
	}
	return x.dropped(w.index, i.DeletePoints(ctx, ids))
}

// pass goes over the passage set and writes what the index does not hold yet.
func (x *Indexer) pass(ctx context.Context, i *index.Index, lease models.Lease, w work, p *progress) error {
	present := make([]bool, w.passages) // work that was cut off is taken up where it was
	p.done = 0
	for s, err := range i.ScrollRefs(ctx, w.filter()) {
		if err != nil {
			return err
		}
		if o := s.Passage.Ordinal; s.Set == w.set && s.Revision == w.revision && o >= 0 && o < len(present) && !present[o] {
			present[o] = true
			p.done++
		}
	}
	p.from = p.done
	f, err := x.Files.Get(ctx, w.set)
	if clara.KindOf(err) == clara.NotFound {
		return clara.Errorf(clara.Corrupt, "the passages of %s are not in the store any more: reprocess it (clara docs reprocess)", w.name())
	}
	if err != nil {
		return err
	}
	defer f.Close()

	points := make(chan []index.Point)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(points)
		return x.compress(ctx, f, present, i.Schema(), lease, w, p.job, points)
	})
	group.Go(func() error {
		for some := range points {
			if err := i.Upsert(ctx, some); err != nil {
				return err
			}
			x.Passages.Add(ctx, int64(len(some)))
			p.add(ctx, len(some))
		}
		return nil
	})
	return group.Wait()
}

// compress reads passages chunk by chunk, makes their memories, and sends the points on.
func (x *Indexer) compress(ctx context.Context, f io.Reader, present []bool, s index.Schema, lease models.Lease, w work, job string, points chan<- []index.Point) error {
	most, tokens := chunkPassages, 0
	if w.memory() {
		most = max(1, min(most, chunkMemory/(4*s.Values())))
		tokens = lease.Options().QueueTokens / 8 // room for other documents beside this one
	}
	var (
		chunk     []index.Point
		ids       [][]int32
		text, sum int
		n         int
		looked    = time.Now()
	)
	flush := func() error {
		if len(chunk) == 0 {
			return nil
		}
		if time.Since(looked) > lookEvery {
			if err := x.look(ctx, w, job); err != nil {
				return err
			}
			looked = time.Now()
		}
		if w.memory() {
			memories, err := encode(ctx, lease, ids)
			if err != nil {
				return err
			}
			for j := range chunk {
				chunk[j].Memory = memories[j]
			}
		}
		select {
		case points <- chunk:
		case <-ctx.Done():
			return ctx.Err()
		}
		chunk, ids, text, sum = nil, nil, 0, 0
		return nil
	}
	for passage, err := range passageset.Read(f) {
		if err != nil {
			return err
		}
		n++
		if passage.Ordinal < len(present) && present[passage.Ordinal] {
			continue
		}
		passage.Collection, passage.Document, passage.File = w.collection, w.document, w.file
		chunk = append(chunk, index.Point{Passage: passage, Set: w.set, Revision: w.revision})
		text += len(passage.Text)
		if w.memory() {
			in := lease.Prompts().Encoder(passage.Text, lease.Manifest().DocMaxLength)
			ids, sum = append(ids, in), sum+len(in)
		}
		if len(chunk) >= most || text >= chunkText || tokens > 0 && sum >= tokens {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if n != w.passages {
		return clara.Errorf(clara.Corrupt, "the passage set of %s holds %d passages, its record says %d", w.name(), n, w.passages)
	}
	return flush()
}

// encode makes memories, waiting while the engine is full.
func encode(ctx context.Context, lease models.Lease, ids [][]int32) ([]clara.Memory, error) {
	for {
		memories, err := lease.Compress(ctx, infer.Encoder, ids)
		if err == nil || !models.Wait(ctx, err) {
			return memories, err
		}
	}
}
