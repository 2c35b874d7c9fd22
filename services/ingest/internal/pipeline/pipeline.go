// Package pipeline takes files from their arrival to passage sets, and documents
// from one model to the next. It is the event handlers of ingest: each reads the
// records, does its part, stores state first and lets the record publish what it
// owes. Every handler may see an event twice, or late.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clara-suite/clara/libs/blob"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	eventv1 "github.com/clara-suite/clara/proto/gen/clara/event/v1"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	"github.com/clara-suite/clara/services/ingest/internal/catalog"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/extract"
	"github.com/clara-suite/clara/services/ingest/internal/source"
)

// Jobs is what the pipeline tells of its progress.
type Jobs interface {
	// Start makes a job, or returns the one that the request id has made.
	Start(ctx context.Context, job *jobv1.Job) (*jobv1.Job, error)
	// Item stores the state of a document in its job. A job that is gone is no error.
	Item(ctx context.Context, job string, item *jobv1.Item) error
	// Reset is Item that also opens an item that has ended, and its job: the work begins once more.
	Reset(ctx context.Context, job string, item *jobv1.Item) error
	// Progress tells how far a document is, without storing it each time.
	Progress(job string, item *jobv1.Item)
	// Cancelled reports whether somebody asked the job to stop.
	Cancelled(ctx context.Context, job string) (bool, error)
	// Seal says that no more items will come.
	Seal(ctx context.Context, job string) error
	// Open calls f with every item that has not ended, of all jobs that have not ended.
	Open(ctx context.Context, f func(job string, item *jobv1.Item) error) error
}

// Pipeline is the handlers. Safe for concurrent use.
type Pipeline struct {
	Log       *slog.Logger
	Catalog   *catalog.Catalog
	Files     *blob.Bucket
	Extractor *extract.Extractor
	Models    *Models
	Roots     source.Roots
	Jobs      Jobs
	// Collection returns a live collection, making it with defaults if it is not there.
	Collection func(ctx context.Context, id string) (*ingestv1.Collection, error)
	Limits     doc.Limits
	OCR        doc.OCRMode
}

// Accept records a file whose bytes are stored and lets the record publish the request to read it. A file that
// is there already, unchanged and searchable, is left as it is. reread asks for reading it anew all the same.
func (p *Pipeline) Accept(ctx context.Context, f File, reread bool) (*ingestv1.Document, error) {
	item := &jobv1.Item{Name: f.Document, Label: f.Name, State: jobv1.Job_STATE_PENDING, Stage: "waiting"}
	unchanged, before, label := false, "", ""
	key, err := Seal(ctx, p.Files, f.Password)
	if err != nil {
		return nil, err
	}
	var old []byte
	d, err := p.Catalog.PutDocument(ctx, f.Document, func(d *ingestv1.Document) error {
		unchanged, before, label = false, d.Job, d.File
		ready := d.State == ingestv1.Document_STATE_READY || d.State == ingestv1.Document_STATE_PARTIAL
		if ready && d.ContentHash == f.Hash && !reread {
			unchanged = true
			return events.Unchanged
		}
		d.File, d.Uri, d.ContentHash, d.SizeBytes = f.Name, f.URI, f.Hash, f.Size
		old = takeKey(d)
		p.request(d, f.Job, key)
		return nil
	})
	if err != nil {
		return nil, err
	}
	p.Forget(ctx, old)
	if unchanged {
		p.Forget(ctx, key)
		item.State, item.Stage = itemState(d.State), "unchanged"
		item.Progress = &jobv1.Progress{Done: int64(d.PassageCount), Total: int64(d.PassageCount), Unit: "passages"}
		return d, p.Jobs.Item(ctx, f.Job, item)
	}
	if before != f.Job {
		if err := p.tell(ctx, before, &jobv1.Item{Name: f.Document, Label: label}); err != nil {
			return nil, err
		}
	}
	return d, p.reset(ctx, f.Job, item)
}

// reset opens a document's item in its job. The record was stored first, so the work may have ended by now, and its end
// been told before: it is told again then, or the job would wait for ever.
func (p *Pipeline) reset(ctx context.Context, job string, item *jobv1.Item) error {
	if err := p.Jobs.Reset(ctx, job, item); err != nil {
		return err
	}
	return p.tell(ctx, job, item)
}

// File is a file that has arrived.
type File struct {
	Document string // resource name
	Name     string // as the user calls it
	URI      string // where it lies for the user
	Hash     string // of its bytes, which are stored under it
	Size     int64
	Job      string
	Password string
}

// request puts a document at the start of the pipeline, in a new revision.
func (p *Pipeline) request(d *ingestv1.Document, job string, passwordKey []byte) {
	collection, document, _ := catalog.ParseDocument(d.Name) // names of records are well formed
	d.Revision = catalog.NextRevision(d.Revision)
	d.State, d.Error, d.Problems, d.Job, d.PasswordKey = ingestv1.Document_STATE_RECEIVED, "", nil, job, passwordKey
	// Placements stay: their points answer until those of the new revision are there.
	d.Owed = nil
	catalog.Owe(d, &eventv1.IngestRequested{
		Collection: collection, Document: document, Uri: "blob:" + d.ContentHash, File: d.File, Job: job, Revision: d.Revision,
	})
}

// Again puts a stored document at the start of the pipeline once more.
func (p *Pipeline) Again(ctx context.Context, name, job, password string) (*ingestv1.Document, error) {
	before := ""
	given, err := Seal(ctx, p.Files, password)
	if err != nil {
		return nil, err
	}
	var old []byte
	d, err := p.Catalog.PutDocument(ctx, name, func(d *ingestv1.Document) error {
		if d.Revision == 0 || d.State == ingestv1.Document_STATE_DELETED {
			return clara.Errorf(clara.NotFound, "no document %s", name)
		}
		before = d.Job
		key := given
		if old = takeKey(d); key == nil {
			key, old = old, nil // that of the password which it waits with
		}
		p.request(d, job, key)
		return nil
	})
	if err != nil {
		return nil, err
	}
	p.Forget(ctx, old)
	if before != job {
		if err := p.tell(ctx, before, &jobv1.Item{Name: name, Label: d.File}); err != nil {
			return nil, err
		}
	}
	// What was read before is not trusted: the reason for reading again may be that it was wrong.
	if err := p.Files.Delete(ctx, extractKey(d.ContentHash, password)); err != nil {
		return nil, err
	}
	return d, p.reset(ctx, job, &jobv1.Item{Name: name, Label: d.File, State: jobv1.Job_STATE_PENDING, Stage: "waiting"})
}

// Handle takes in a file: reads it, cuts it, and asks for it to be indexed.
func (p *Pipeline) Handle(ctx context.Context, e *eventv1.IngestRequested) error {
	if !strings.HasPrefix(e.Uri, "blob:") {
		return p.fetch(ctx, e)
	}
	name := catalog.DocumentName(e.Collection, e.Document)
	if _, _, err := catalog.ParseDocument(name); err != nil {
		return err
	}
	d, ok, err := p.Catalog.ModifyDocument(ctx, name, e.Revision, func(d *ingestv1.Document) error {
		if d.State != ingestv1.Document_STATE_RECEIVED && d.State != ingestv1.Document_STATE_EXTRACTING {
			return events.Unchanged
		}
		d.State = ingestv1.Document_STATE_EXTRACTING
		return nil
	})
	if err != nil {
		return err
	}
	if !ok || d.State != ingestv1.Document_STATE_EXTRACTING {
		// Late or repeated: a newer revision or a later step has it. What came before may have been cut off between
		// the record and the job.
		return p.tell(ctx, e.Job, &jobv1.Item{Name: name, Label: label(e)})
	}
	if stop, err := p.cancelled(ctx, d); stop || err != nil {
		return err
	}
	password, err := unseal(ctx, p.Files, d.PasswordKey)
	if err != nil {
		if clara.KindOf(err) == clara.NotFound || clara.KindOf(err) == clara.Corrupt {
			err = clara.Errorf(clara.Invalid, "its password is lost; give it again: clara docs reprocess %s/%s --password ..", e.Collection, e.Document)
		}
		return p.fault(ctx, d, err)
	}
	extracted, err := p.read(ctx, d, password)
	if err != nil {
		return p.fault(ctx, d, err)
	}
	return p.place(ctx, d, extracted, extractKey(d.ContentHash, password))
}

// Parked ends a document whose event was given up.
func (p *Pipeline) Parked(ctx context.Context, e *eventv1.IngestRequested, reason error) error {
	if !strings.HasPrefix(e.Uri, "blob:") {
		if catalog.CheckCollection(e.Collection) != nil {
			return nil // no collection whose job it could be; the dead letter has it
		}
		job, err := p.job(ctx, e)
		if err != nil {
			return err
		}
		if err := p.Jobs.Item(ctx, job, &jobv1.Item{Name: named(e), Label: label(e), State: jobv1.Job_STATE_FAILED, Error: reason.Error()}); err != nil {
			return err
		}
		return p.seal(ctx, e, job)
	}
	return p.Fail(ctx, catalog.DocumentName(e.Collection, e.Document), e.Revision, reason.Error())
}

func label(e *eventv1.IngestRequested) string {
	if e.File != "" {
		return e.File
	}
	return path.Base(e.Uri)
}

// job returns the job that counts the file of an event: the one that it names, or its own. Another delivery of the
// event, or one with the same request id, is in the same job.
func (p *Pipeline) job(ctx context.Context, e *eventv1.IngestRequested) (string, error) {
	if e.Job != "" {
		return e.Job, nil
	}
	id := e.RequestId
	if id == "" {
		id = "event " + events.ID(ctx)
	}
	again := proto.Clone(e).(*eventv1.IngestRequested) // what a retry asks for; records are no place for passwords
	again.Password, again.RequestId = "", ""
	spec, err := proto.Marshal(again)
	if err != nil {
		return "", fmt.Errorf("encode event: %w", err)
	}
	j, err := p.Jobs.Start(ctx, &jobv1.Job{Type: "ingest", Target: catalog.CollectionName(e.Collection), Detail: label(e), RequestId: id, Spec: spec})
	return j.GetName(), err
}

// seal says that no more files come into an event's own job.
func (p *Pipeline) seal(ctx context.Context, e *eventv1.IngestRequested, job string) error {
	if e.Job != "" {
		return nil
	}
	return p.Jobs.Seal(ctx, job)
}

// named is the document that an event's file is, or is to be.
func named(e *eventv1.IngestRequested) string {
	document := e.Document
	if document == "" {
		document = catalog.DocumentID(e.Collection, e.Uri)
	}
	return catalog.DocumentName(e.Collection, document)
}

// fetch copies a file that an event names into the store and accepts it.
func (p *Pipeline) fetch(ctx context.Context, e *eventv1.IngestRequested) error {
	if err := catalog.CheckCollection(e.Collection); err != nil {
		return err
	}
	f, err := p.Roots.Open(e.Uri)
	if err != nil {
		if clara.KindOf(err) == clara.NotFound || clara.KindOf(err) == clara.Denied {
			// Gone or forbidden stays so: say it where people look, and keep the event for a replay.
			return clara.Errorf(clara.Invalid, "%w", err)
		}
		return err
	}
	defer f.Close()
	if _, err := p.Collection(ctx, e.Collection); err != nil {
		return err
	}
	_, hash, size, err := p.Files.PutContent(ctx, "files", f, p.Limits.WithDefaults().MaxBytes)
	if err != nil {
		return err
	}
	job, err := p.job(ctx, e)
	if err != nil {
		return err
	}
	if _, err = p.Accept(ctx, File{
		Document: named(e), Name: label(e), URI: e.Uri, Hash: hash, Size: size, Job: job, Password: e.Password,
	}, e.Password != ""); err != nil {
		return err
	}
	return p.seal(ctx, e, job)
}

// cancelled ends a document whose job somebody stopped.
func (p *Pipeline) cancelled(ctx context.Context, d *ingestv1.Document) (bool, error) {
	stop, err := p.Jobs.Cancelled(ctx, d.Job)
	if err != nil || !stop {
		return false, err
	}
	var key []byte
	_, ok, err := p.Catalog.ModifyDocument(ctx, d.Name, d.Revision, func(d *ingestv1.Document) error {
		d.State, d.Error = ingestv1.Document_STATE_CANCELLED, "cancelled before it was indexed"
		key = takeKey(d)
		return nil
	})
	if err != nil || !ok {
		return true, err
	}
	p.Forget(ctx, key)
	return true, p.Jobs.Item(ctx, d.Job, &jobv1.Item{Name: d.Name, Label: d.File, State: jobv1.Job_STATE_CANCELLED, Error: "cancelled"})
}

// read returns the document's text, reading the file unless that was done before.
func (p *Pipeline) read(ctx context.Context, d *ingestv1.Document, password string) (*doc.Document, error) {
	key := extractKey(d.ContentHash, password)
	out, err := LoadExtract(ctx, p.Files, key)
	if kind := clara.KindOf(err); err == nil || kind != clara.NotFound && kind != clara.Corrupt {
		return out, err
	}
	f, err := p.Files.OpenFile(ctx, "files/"+d.ContentHash)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	job, item := d.Job, &jobv1.Item{Name: d.Name, Label: d.File, State: jobv1.Job_STATE_RUNNING, Stage: "reading"}
	p.Jobs.Progress(job, item)
	out, err = p.Extractor.Extract(ctx, d.File, f, f.Size, doc.Options{
		Password: password, OCR: p.OCR, Limits: p.Limits, Images: imageSink(p.Files, d.ContentHash),
		Progress: func(done, total int) {
			p.Jobs.Progress(job, &jobv1.Item{Name: d.Name, Label: d.File, State: jobv1.Job_STATE_RUNNING, Stage: "reading",
				Progress: &jobv1.Progress{Done: int64(done), Total: int64(total), Unit: "pages"}})
		},
	})
	if clara.KindOf(err) == clara.State {
		// Something that reading needs is not installed. Waiting does not bring it; who installs it retries the job.
		return nil, clara.Errorf(clara.Unsupported, "%w", err)
	}
	if err != nil {
		return nil, err
	}
	if out.State() == doc.Failed {
		reason := "no page could be read"
		if len(out.Problems) > 0 {
			reason += ": " + out.Problems[0].Reason
		}
		return nil, clara.Errorf(clara.Invalid, "%s", reason)
	}
	return out, storeExtract(ctx, p.Files, key, out)
}

// place cuts a document for every index of its collection that does not have it yet, and asks for it to be indexed.
func (p *Pipeline) place(ctx context.Context, d *ingestv1.Document, extracted *doc.Document, key string) error {
	for {
		id := catalog.CollectionID(d.Name)
		c, err := p.Catalog.LiveCollection(ctx, id)
		if clara.KindOf(err) == clara.NotFound {
			return p.gone(ctx, d)
		}
		if err != nil {
			return err
		}
		sets, err := p.cut(ctx, d, c, extracted)
		if err != nil {
			return p.fault(ctx, d, err)
		}
		var password []byte
		stored, ok, err := p.Catalog.ModifyDocument(ctx, d.Name, d.Revision, func(d *ingestv1.Document) error {
			describe(d, extracted)
			password = takeKey(d)
			d.Extract = key
			d.State = ingestv1.Document_STATE_INDEXING
			d.Placements = nil
			for _, s := range sets {
				d.Placements = append(d.Placements, s)
				if s.Index == c.Index {
					d.PassageCount = s.Passages
				}
				catalog.Owe(d, p.ready(d, c, s))
			}
			return nil
		})
		if err != nil || !ok {
			return err
		}
		p.Forget(ctx, password)
		p.Jobs.Progress(d.Job, &jobv1.Item{Name: d.Name, Label: d.File, State: jobv1.Job_STATE_RUNNING, Stage: "indexing",
			Progress: &jobv1.Progress{Total: int64(stored.PassageCount), Unit: "passages"}})
		// A move to another model may have begun after the collection was read; it has not seen these placements.
		now, err := p.Catalog.LiveCollection(ctx, id)
		if err != nil || now.Index == c.Index && now.NextIndex == c.NextIndex {
			return ignoreNotFound(err)
		}
		d = stored
	}
}

// gone removes a document whose collection was deleted: its record may have been stored after those of the collection were
// removed, and a new collection of that name is not to show it.
func (p *Pipeline) gone(ctx context.Context, d *ingestv1.Document) error {
	var key []byte
	_, ok, err := p.Catalog.ModifyDocument(ctx, d.Name, d.Revision, func(d *ingestv1.Document) error {
		d.State, d.Owed = ingestv1.Document_STATE_DELETED, nil
		key = takeKey(d)
		return nil
	})
	if err != nil {
		return err
	}
	if ok {
		p.Forget(ctx, key)
		if err := p.Catalog.RemoveDocument(ctx, d.Name); err != nil {
			return err
		}
	}
	return p.tell(ctx, d.Job, &jobv1.Item{Name: d.Name, Label: d.File})
}

// cut makes the passage sets of a document for the indexes of its collection.
func (p *Pipeline) cut(ctx context.Context, d *ingestv1.Document, c *ingestv1.Collection, extracted *doc.Document) ([]*ingestv1.Placement, error) {
	var out []*ingestv1.Placement
	for _, t := range []struct{ index, model string }{{c.Index, c.Model}, {c.NextIndex, c.NextModel}} {
		if t.index == "" {
			continue
		}
		how, err := p.Models.Cutting(ctx, t.model)
		if err != nil {
			return nil, err
		}
		set, n, err := storePassages(ctx, p.Files, d.ContentHash, extracted, how)
		if err != nil {
			return nil, err
		}
		out = append(out, &ingestv1.Placement{Index: t.index, PassageSet: set, Passages: int32(n)})
	}
	return out, nil
}

// ready is the event that asks for a placement to be indexed.
func (p *Pipeline) ready(d *ingestv1.Document, c *ingestv1.Collection, s *ingestv1.Placement) *eventv1.DocumentReady {
	collection, document, _ := catalog.ParseDocument(d.Name)
	model := c.Model
	if s.Index == c.NextIndex {
		model = c.NextModel
	}
	return &eventv1.DocumentReady{
		Collection: collection, Document: document, Revision: d.Revision, PassageSet: s.PassageSet, Index: s.Index, Model: model,
		Job: d.Job, Passages: s.Passages, File: d.File,
	}
}

// describe copies what was found out about a file into its record.
func describe(d *ingestv1.Document, x *doc.Document) {
	d.Format, d.Title, d.PageCount = string(x.Format), x.Title, int32(len(x.Pages))
	d.Problems, d.ReadBy = nil, map[string]int32{}
	const most = 100 // a record is small; the extract has them all
	for i, q := range x.Problems {
		if i == most {
			d.Problems = append(d.Problems, &ingestv1.Problem{Reason: fmt.Sprintf("and %d more", len(x.Problems)-most)})
			break
		}
		d.Problems = append(d.Problems, &ingestv1.Problem{Page: int32(q.Page), Reason: q.Reason})
	}
	for _, page := range x.Pages {
		d.ReadBy[string(page.ReadBy)]++
	}
}

// fault ends a document for good if trying again can't help, else hands the error to the consumer; what the
// document waits for is told to its job.
func (p *Pipeline) fault(ctx context.Context, d *ingestv1.Document, err error) error {
	switch clara.KindOf(err) {
	case clara.Invalid, clara.Unsupported, clara.Corrupt:
		if clara.IsContext(err) {
			return err
		}
		return p.Fail(ctx, d.Name, d.Revision, err.Error())
	case clara.NotFound:
		return p.Fail(ctx, d.Name, d.Revision, err.Error())
	}
	if clara.Waits(err) {
		p.Jobs.Progress(d.Job, &jobv1.Item{Name: d.Name, Label: d.File, State: jobv1.Job_STATE_RUNNING, Stage: "waiting: " + err.Error()})
	}
	return err
}

// Fail ends a document of this revision with a reason.
func (p *Pipeline) Fail(ctx context.Context, name string, revision int64, reason string) error {
	var key []byte
	d, ok, err := p.Catalog.ModifyDocument(ctx, name, revision, func(d *ingestv1.Document) error {
		d.State, d.Error = ingestv1.Document_STATE_FAILED, reason
		key = takeKey(d)
		return nil
	})
	if err != nil || !ok {
		return err
	}
	p.Forget(ctx, key)
	return p.Jobs.Item(ctx, d.Job, &jobv1.Item{Name: name, Label: d.File, State: jobv1.Job_STATE_FAILED, Error: reason})
}

// itemState is a document's state as that of an item of a job.
func itemState(s ingestv1.Document_State) jobv1.Job_State {
	switch s {
	case ingestv1.Document_STATE_READY:
		return jobv1.Job_STATE_SUCCEEDED
	case ingestv1.Document_STATE_PARTIAL:
		return jobv1.Job_STATE_PARTIAL
	case ingestv1.Document_STATE_FAILED:
		return jobv1.Job_STATE_FAILED
	case ingestv1.Document_STATE_CANCELLED, ingestv1.Document_STATE_DELETED:
		return jobv1.Job_STATE_CANCELLED
	}
	return jobv1.Job_STATE_RUNNING
}

func ignoreNotFound(err error) error {
	if clara.KindOf(err) == clara.NotFound {
		return nil
	}
	return err
}

// Indexed handles what the compressor reports.
type Indexed struct{ *Pipeline }

// Handle records that a placement is searchable, or why not, and ends the document's part in its job.
func (p Indexed) Handle(ctx context.Context, e *eventv1.DocumentIndexed) error {
	name := catalog.DocumentName(e.Collection, e.Document)
	c, err := p.Catalog.LiveCollection(ctx, e.Collection)
	if err != nil {
		return ignoreNotFound(err)
	}
	stopped := false
	if e.Error != "" {
		if stopped, err = p.Jobs.Cancelled(ctx, e.Job); err != nil {
			return err
		}
	}
	d, ok, err := p.Catalog.ModifyDocument(ctx, name, e.Revision, func(d *ingestv1.Document) error {
		s := catalog.Placement(d, e.Index)
		if s == nil || s.Indexed {
			return events.Unchanged
		}
		s.Indexed, s.Error = e.Error == "", e.Error
		if e.Index == c.Index {
			settle(d, s)
			if stopped && e.Job == d.Job {
				d.State = ingestv1.Document_STATE_CANCELLED
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !ok {
		return p.tell(ctx, e.Job, &jobv1.Item{Name: name})
	}
	if e.Index == c.Index {
		if err := p.Jobs.Item(ctx, d.Job, outcome(d)); err != nil {
			return err
		}
	}
	return p.advance(ctx, c)
}

// refused reports whether a document ended because the index did not take it.
func refused(d *ingestv1.Document, index string) bool {
	s := catalog.Placement(d, index)
	return s != nil && s.Error != ""
}

// settle gives a document the state that its placement in the index in use amounts to.
func settle(d *ingestv1.Document, s *ingestv1.Placement) {
	d.PassageCount = s.Passages
	switch {
	case s.Error != "":
		d.State, d.Error = ingestv1.Document_STATE_FAILED, s.Error
	case len(d.Problems) > 0:
		d.State = ingestv1.Document_STATE_PARTIAL
	default:
		d.State = ingestv1.Document_STATE_READY
	}
	if s.Error == "" {
		d.Error = ""
	}
}

// outcome is a document as an item that has ended.
func outcome(d *ingestv1.Document) *jobv1.Item {
	item := &jobv1.Item{Name: d.Name, Label: d.File, State: itemState(d.State), Error: d.Error,
		Progress: &jobv1.Progress{Done: int64(d.PassageCount), Total: int64(d.PassageCount), Unit: "passages"}}
	if item.Error == "" && len(d.Problems) > 0 {
		q := d.Problems[0]
		item.Error = q.Reason
		if q.Page > 0 {
			item.Error = fmt.Sprintf("page %d: %s", q.Page, q.Reason)
		}
		if n := len(d.Problems) - 1; n > 0 {
			item.Error += fmt.Sprintf(" (and %d more)", n)
		}
	}
	return item
}

// Activated handles the activation of a model: it begins to move collections over.
type Activated struct{ *Pipeline }

// Handle names the next index of every collection concerned and asks for all of its documents to be put there.
func (p Activated) Handle(ctx context.Context, e *eventv1.ModelActivated) error {
	collections, err := p.Catalog.Collections(ctx)
	if err != nil {
		return err
	}
	how, err := p.Models.Cutting(ctx, e.Model)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range collections {
		id := catalog.CollectionID(c.Name)
		if c.Deleted || !concerns(e, c) {
			continue
		}
		late, before := false, ""
		c, err := p.Catalog.ModifyCollection(ctx, id, func(c *ingestv1.Collection) error {
			late, before = e.Generation < c.Activation, c.NextJob
			if late {
				return events.Unchanged
			}
			c.Activation = e.Generation
			next := how.Index(id, c.Uid, c.MemoryPrecision)
			if next == c.Index {
				// The encoder stays, so the index stays; only the decoder or the name is new.
				c.Model, c.Memory, c.PassageTokens = e.Model, how.Memory, int32(how.Limit)
				c.NextIndex, c.NextModel, c.NextJob = "", "", ""
				return nil
			}
			c.NextIndex, c.NextModel, c.NextJob = next, e.Model, e.Job
			return nil
		})
		switch {
		case err != nil:
		case late:
			err = p.Jobs.Item(ctx, e.Job, overtaken(c))
		default:
			if before != "" && before != e.Job {
				err = p.Jobs.Item(ctx, before, overtaken(c))
			}
			if err == nil {
				err = p.Jobs.Item(ctx, e.Job, moved(c, 0, 0, 0))
			}
			if err == nil && c.NextIndex != "" {
				err = p.move(ctx, c)
			}
		}
		if err != nil && clara.KindOf(err) != clara.NotFound {
			errs = append(errs, fmt.Errorf("collection %s: %w", id, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return p.Jobs.Seal(ctx, e.Job)
}

// unread reports whether a document's file is still to be read: extract and placements, if any, are of the one before.
func unread(d *ingestv1.Document) bool {
	return d.State == ingestv1.Document_STATE_RECEIVED || d.State == ingestv1.Document_STATE_EXTRACTING
}

// overtaken is a collection as an item of a job that moves it no more.
func overtaken(c *ingestv1.Collection) *jobv1.Item {
	return &jobv1.Item{Name: c.Name, Label: c.Name, State: jobv1.Job_STATE_CANCELLED, Error: "another model was activated meanwhile"}
}

// moved is a collection as an item of the job that moves it to another model.
func moved(c *ingestv1.Collection, done, total, failed int64) *jobv1.Item {
	item := &jobv1.Item{Name: c.Name, Label: c.Name, State: jobv1.Job_STATE_RUNNING, Stage: "indexing",
		Progress: &jobv1.Progress{Done: done, Total: total, Unit: "documents"}}
	if c.NextIndex == "" {
		item.State = jobv1.Job_STATE_SUCCEEDED
		if failed > 0 {
			item.State, item.Error = jobv1.Job_STATE_PARTIAL, fmt.Sprintf("%d documents could not be indexed for the model; clara docs list says why", failed)
		}
	}
	return item
}

// concerns reports whether an activation is about a collection.
func concerns(e *eventv1.ModelActivated, c *ingestv1.Collection) bool {
	if len(e.Collections) == 0 {
		return !c.Pinned
	}
	for _, id := range e.Collections {
		if id == catalog.CollectionID(c.Name) {
			return true
		}
	}
	return false
}

// move gives every document that was read a placement in the collection's next index.
func (p *Pipeline) move(ctx context.Context, c *ingestv1.Collection) error {
	docs, err := p.Catalog.Documents(ctx, catalog.CollectionID(c.Name))
	if err != nil {
		return err
	}
	how, err := p.Models.Cutting(ctx, c.NextModel)
	if err != nil {
		return err
	}
	for _, d := range docs {
		if d.Extract == "" || len(d.Placements) == 0 || d.State == ingestv1.Document_STATE_DELETED || catalog.Placement(d, c.NextIndex) != nil {
			continue // nothing to move, or moved before
		}
		if unread(d) {
			continue // what it has is of the file before; the new one will be put into both indexes
		}
		extracted, err := LoadExtract(ctx, p.Files, d.Extract)
		if err != nil {
			return err
		}
		set, n, err := storePassages(ctx, p.Files, d.ContentHash, extracted, how)
		if err != nil {
			return err
		}
		_, _, err = p.Catalog.ModifyDocument(ctx, d.Name, d.Revision, func(d *ingestv1.Document) error {
			if catalog.Placement(d, c.NextIndex) != nil {
				return events.Unchanged
			}
			s := &ingestv1.Placement{Index: c.NextIndex, PassageSet: set, Passages: int32(n)}
			d.Placements = append(d.Placements, s)
			ready := p.ready(d, c, s)
			ready.Job = c.NextJob
			catalog.Owe(d, ready)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return p.advance(ctx, c)
}

// advance lets a collection use its next index once every document is in it.
func (p *Pipeline) advance(ctx context.Context, c *ingestv1.Collection) error {
	if c.NextIndex == "" {
		return nil
	}
	id, next := catalog.CollectionID(c.Name), c.NextIndex
	docs, err := p.Catalog.Documents(ctx, id)
	if err != nil {
		return err
	}
	var done, total, failed int64
	for _, d := range docs {
		if d.State == ingestv1.Document_STATE_DELETED || catalog.Placement(d, c.Index) == nil && catalog.Placement(d, next) == nil {
			continue // gone, or still before its first placement: that one will be in both
		}
		total++
		if s := catalog.Placement(d, next); s != nil && (s.Indexed || s.Error != "") {
			done++
			if s.Error != "" {
				failed++
			}
		}
	}
	if done < total {
		p.Jobs.Progress(c.NextJob, moved(c, done, total, failed))
		return nil
	}
	how, err := p.Models.Cutting(ctx, c.NextModel)
	if err != nil {
		return err
	}
	job, switched := "", false
	current, err := p.Catalog.ModifyCollection(ctx, id, func(c *ingestv1.Collection) error {
		switched = c.NextIndex == next && !c.Deleted
		if !switched {
			return events.Unchanged
		}
		job = c.NextJob
		c.Retired = append(c.Retired, &ingestv1.Retired{Index: c.Index, Time: timestamppb.Now()})
		c.Index, c.Model, c.Memory, c.PassageTokens = next, c.NextModel, how.Memory, int32(how.Limit)
		c.NextIndex, c.NextModel, c.NextJob = "", "", ""
		return nil
	})
	if err != nil || !switched {
		return ignoreNotFound(err)
	}
	for _, d := range docs {
		if s := catalog.Placement(d, next); s != nil && d.State != ingestv1.Document_STATE_DELETED {
			if _, _, err := p.Catalog.ModifyDocument(ctx, d.Name, d.Revision, func(d *ingestv1.Document) error {
				s := catalog.Placement(d, next)
				switch {
				case s == nil || unread(d):
					return events.Unchanged // it will have its state from what is read
				case d.Error != "" && !refused(d, c.Index):
					d.PassageCount = s.Passages // its newest file could not be read, which no index mends
				default:
					settle(d, s)
				}
				return nil
			}); err != nil {
				return err
			}
		}
	}
	p.Log.Info("collection moved", "collection", id, "index", next)
	return p.Jobs.Item(ctx, job, moved(current, done, total, failed))
}
