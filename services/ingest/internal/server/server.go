// Package server is the RPC side of ingest: it checks requests, asks the catalog
// and the pipeline, and answers.
package server

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"path"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/clara-suite/clara/libs/blob"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	"github.com/clara-suite/clara/libs/passageset"
	compressorv1 "github.com/clara-suite/clara/proto/gen/clara/compressor/v1"
	"github.com/clara-suite/clara/proto/gen/clara/compressor/v1/compressorv1connect"
	eventv1 "github.com/clara-suite/clara/proto/gen/clara/event/v1"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	modelv1 "github.com/clara-suite/clara/proto/gen/clara/model/v1"
	"github.com/clara-suite/clara/proto/gen/clara/model/v1/modelv1connect"
	"github.com/clara-suite/clara/services/ingest/internal/catalog"
	"github.com/clara-suite/clara/services/ingest/internal/pipeline"
	"github.com/clara-suite/clara/services/ingest/internal/sniff"
)

// Jobs is what the server needs of jobs.
type Jobs interface {
	Start(ctx context.Context, job *jobv1.Job) (*jobv1.Job, error)
	Item(ctx context.Context, job string, item *jobv1.Item) error
	// Seal says that no more items will come: the job ends with the last of them.
	Seal(ctx context.Context, job string) error
	Get(ctx context.Context, job string) (*jobv1.Job, error)
}

// Server implements clara.ingest.v1.IngestService. Safe for concurrent use.
type Server struct {
	Log        *slog.Logger
	Catalog    *catalog.Catalog
	Pipeline   *pipeline.Pipeline
	Sweeper    pipeline.Sweeper
	Files      *blob.Bucket
	Jobs       Jobs
	Models     modelv1connect.ModelServiceClient
	Compressor compressorv1connect.CompressorServiceClient
	MaxBytes   int64
	// Precision is how new collections keep memories.
	Precision ingestv1.MemoryPrecision
	// Publish sends an event; the same id is sent once.
	Publish func(ctx context.Context, id string, events ...proto.Message) error
	// MoveJob is the type of jobs that move collections.
	MoveJob string
	// May reports whether the caller may see a collection.
	May func(ctx context.Context, collection string) bool
}

const (
	defaultPage = 100
	maxPage     = 1000
)

// page cuts a sorted list at a token, which is the number of the first element.
func page[T any](list []T, size int32, token string) ([]T, string, error) {
	n := int(size)
	if n <= 0 {
		n = defaultPage
	}
	n = min(n, maxPage)
	start := 0
	if token != "" {
		var err error
		if start, err = strconv.Atoi(token); err != nil || start < 0 {
			return nil, "", clara.Errorf(clara.Invalid, "page_token %q is not one that was given out", token)
		}
	}
	start = min(start, len(list))
	end := min(start+n, len(list))
	next := ""
	if end < len(list) {
		next = strconv.Itoa(end)
	}
	return list[start:end], next, nil
}

// CreateCollection makes a collection.
func (s *Server) CreateCollection(ctx context.Context, r *ingestv1.CreateCollectionRequest) (*ingestv1.Collection, error) {
	id, err := catalog.ParseCollection(r.GetCollection().GetName())
	if err != nil {
		return nil, err
	}
	if old, err := s.Catalog.Collection(ctx, id); err == nil && old.Deleted {
		// A deletion that was not finished is finished first: nothing of the old one may show up in the new one.
		if err := s.Sweeper.Purge(ctx, old); err != nil {
			return nil, err
		}
	}
	c, err := s.newCollection(ctx, id, r.Collection.DisplayName, r.Collection.Model)
	if err != nil {
		return nil, err
	}
	if c.MemoryPrecision = r.Collection.MemoryPrecision; c.MemoryPrecision == 0 {
		c.MemoryPrecision = s.Precision
	}
	if err := checkPrecision(c.MemoryPrecision); err != nil {
		return nil, err
	}
	return c, s.create(ctx, c)
}

func checkPrecision(p ingestv1.MemoryPrecision) error {
	if _, ok := ingestv1.MemoryPrecision_name[int32(p)]; !ok {
		return clara.Errorf(clara.Invalid, "memory_precision %d is none that there is", p)
	}
	return nil
}

// UpdateCollection changes how a collection keeps its memories, by the way that a model's activation takes: the
// memories are made anew in a second index, and queries move over when all are there.
func (s *Server) UpdateCollection(ctx context.Context, r *ingestv1.UpdateCollectionRequest) (*jobv1.Job, error) {
	id, err := catalog.ParseCollection(r.GetCollection().GetName())
	if err != nil {
		return nil, err
	}
	p := r.Collection.MemoryPrecision
	if err := checkPrecision(p); err != nil {
		return nil, err
	}
	if p == 0 {
		return nil, clara.Errorf(clara.Invalid, "update collection %s: memory_precision is not given", id)
	}
	c, err := s.Catalog.LiveCollection(ctx, id)
	if err != nil {
		return nil, err
	}
	if c.Model == "" {
		return nil, clara.Errorf(clara.State, "collection %s has no model, so it keeps no memories: activate one first (clara models activate)", id)
	}
	kept := strings.ToLower(strings.TrimPrefix(p.String(), "MEMORY_PRECISION_"))
	job, err := s.Jobs.Start(ctx, &jobv1.Job{Type: s.MoveJob, Target: c.Name, Detail: "memories of " + id + " move to " + kept, RequestId: r.RequestId,
		Progress: &jobv1.Progress{Unit: "collections"}})
	if err != nil {
		return nil, err
	}
	// The name of an index says how it keeps memories, so nothing changes in the one in use.
	c, err = s.Catalog.ModifyCollection(ctx, id, func(c *ingestv1.Collection) error {
		if c.Deleted {
			return clara.Errorf(clara.NotFound, "%s does not exist", c.Name)
		}
		c.MemoryPrecision = p
		return nil
	})
	if err != nil {
		return nil, err
	}
	model := c.Model
	if c.NextModel != "" {
		model = c.NextModel // a move that is under way begins anew
	}
	e := &eventv1.ModelActivated{Model: model, Collections: []string{id}, Job: job.Name, Generation: c.Activation}
	return job, s.Publish(ctx, job.Name, e)
}

func (s *Server) create(ctx context.Context, c *ingestv1.Collection) error {
	if err := s.Catalog.CreateCollection(ctx, c); err != nil {
		return err
	}
	// The index name holds the uid, which CreateCollection made.
	id := catalog.CollectionID(c.Name)
	how, err := s.Pipeline.Models.Cutting(ctx, c.Model)
	if err != nil {
		return err
	}
	stored, err := s.Catalog.ModifyCollection(ctx, id, func(c *ingestv1.Collection) error {
		if c.Index != "" {
			return events.Unchanged
		}
		c.Index, c.Memory, c.PassageTokens = how.Index(id, c.Uid, c.MemoryPrecision), how.Memory, int32(how.Limit)
		return nil
	})
	if err == nil {
		c.Index, c.Memory, c.PassageTokens = stored.Index, stored.Memory, stored.PassageTokens
	}
	return err
}

func (s *Server) newCollection(ctx context.Context, id, display, model string) (*ingestv1.Collection, error) {
	c := &ingestv1.Collection{Name: catalog.CollectionName(id), DisplayName: display, Model: model, Pinned: model != ""}
	name := model
	if name == "" {
		name = "models/active"
	}
	m, err := s.Models.GetModel(ctx, &modelv1.GetModelRequest{Name: name})
	switch {
	case err == nil:
		c.Model = m.Name
	case clara.KindOf(err) == clara.NotFound && model == "":
		// No model yet: text is searched by words until one is activated.
	default:
		return nil, fmt.Errorf("create collection %s: %w", id, err)
	}
	return c, nil
}

// Collection returns a live collection with its index, making it with defaults if it is not there.
func (s *Server) Collection(ctx context.Context, id string) (*ingestv1.Collection, error) {
	if err := catalog.CheckCollection(id); err != nil {
		return nil, err
	}
	c, err := s.Catalog.Collection(ctx, id)
	if err == nil && !c.Deleted && c.Index != "" {
		return c, nil
	}
	if err == nil && !c.Deleted {
		return c, s.create(ctx, c) // a crash came between the two steps of create
	}
	if err != nil && clara.KindOf(err) != clara.NotFound {
		return nil, err
	}
	c, err = s.CreateCollection(ctx, &ingestv1.CreateCollectionRequest{Collection: &ingestv1.Collection{Name: catalog.CollectionName(id)}})
	if clara.KindOf(err) == clara.Exists {
		return s.Catalog.LiveCollection(ctx, id)
	}
	return c, err
}

// GetCollection returns a collection.
func (s *Server) GetCollection(ctx context.Context, r *ingestv1.GetCollectionRequest) (*ingestv1.Collection, error) {
	id, err := catalog.ParseCollection(r.Name)
	if err != nil {
		return nil, err
	}
	return s.Catalog.LiveCollection(ctx, id)
}

// ListCollections lists those that the caller may see.
func (s *Server) ListCollections(ctx context.Context, r *ingestv1.ListCollectionsRequest) (*ingestv1.ListCollectionsResponse, error) {
	all, err := s.Catalog.Collections(ctx)
	if err != nil {
		return nil, err
	}
	live := all[:0]
	for _, c := range all {
		if !c.Deleted && s.May(ctx, catalog.CollectionID(c.Name)) {
			live = append(live, c)
		}
	}
	list, next, err := page(live, r.PageSize, r.PageToken)
	return &ingestv1.ListCollectionsResponse{Collections: list, NextPageToken: next}, err
}

// DeleteCollection hides a collection at once and then removes what it holds.
func (s *Server) DeleteCollection(ctx context.Context, r *ingestv1.DeleteCollectionRequest) (*ingestv1.DeleteCollectionResponse, error) {
	id, err := catalog.ParseCollection(r.Name)
	if err != nil {
		return nil, err
	}
	c, err := s.Catalog.ModifyCollection(ctx, id, func(c *ingestv1.Collection) error {
		if c.Deleted {
			return events.Unchanged
		}
		c.Deleted = true
		return nil
	})
	if clara.KindOf(err) == clara.NotFound {
		return nil, clara.Errorf(clara.NotFound, "no collection %q", id)
	}
	if err != nil {
		return nil, err
	}
	if err := s.Sweeper.Purge(ctx, c); err != nil {
		s.Log.WarnContext(ctx, "collection is deleted, its data will go later", "collection", id, "err", err)
	}
	return &ingestv1.DeleteCollectionResponse{}, nil
}

// StartIngest makes a job for files to come.
func (s *Server) StartIngest(ctx context.Context, r *ingestv1.StartIngestRequest) (*jobv1.Job, error) {
	id, err := catalog.ParseCollection(r.Parent)
	if err != nil {
		return nil, err
	}
	if _, err := s.Collection(ctx, id); err != nil {
		return nil, err
	}
	return s.Jobs.Start(ctx, &jobv1.Job{Type: "ingest", Target: r.Parent, Detail: r.Label, RequestId: r.RequestId})
}

// FinishIngest says that no more files will come.
func (s *Server) FinishIngest(ctx context.Context, r *ingestv1.FinishIngestRequest) (*jobv1.Job, error) {
	return s.seal(ctx, r.Name)
}

func (s *Server) seal(ctx context.Context, job string) (*jobv1.Job, error) {
	if err := s.Jobs.Seal(ctx, job); err != nil {
		return nil, err
	}
	return s.Jobs.Get(ctx, job)
}

// UploadDocument stores a file and accepts it.
func (s *Server) UploadDocument(ctx context.Context, stream *connect.ClientStream[ingestv1.UploadDocumentRequest]) (*ingestv1.Document, error) {
	if !stream.Receive() {
		if err := stream.Err(); err != nil {
			return nil, err
		}
		return nil, clara.Errorf(clara.Invalid, "upload: the stream is empty; the first message is the header")
	}
	h := stream.Msg().GetHeader()
	if h == nil {
		return nil, clara.Errorf(clara.Invalid, "upload: the first message is not the header")
	}
	id, err := catalog.ParseCollection(h.Parent)
	if err != nil {
		return nil, err
	}
	if h.File == "" {
		return nil, clara.Errorf(clara.Invalid, "upload: the header names no file")
	}
	if _, err := s.Collection(ctx, id); err != nil {
		return nil, err
	}
	uri := h.Uri
	if uri == "" {
		uri = "upload:" + h.File
	}
	name := catalog.DocumentName(id, catalog.DocumentID(id, uri))
	d, err := s.upload(ctx, stream, h, name, uri)
	if err != nil && h.Job != "" && !clara.IsContext(err) {
		// What was refused is shown with the rest of the job.
		if jobErr := s.Jobs.Item(context.WithoutCancel(ctx), h.Job, &jobv1.Item{Name: name, Label: h.File, State: jobv1.Job_STATE_FAILED, Error: err.Error()}); jobErr != nil {
			s.Log.WarnContext(ctx, "record refused upload", "job", h.Job, "err", jobErr)
		}
	}
	return d, err
}

func (s *Server) upload(ctx context.Context, stream *connect.ClientStream[ingestv1.UploadDocumentRequest], h *ingestv1.UploadDocumentRequest_Header, name, uri string) (*ingestv1.Document, error) {
	if h.SizeBytes > s.MaxBytes {
		return nil, clara.Errorf(clara.Invalid, "%s has %d bytes: the limit for one file is %d (--ingest-max-file-bytes)", h.File, h.SizeBytes, s.MaxBytes)
	}
	body := &uploadReader{stream: stream}
	// The beginning says what it is: what no reader takes is refused before the rest has travelled.
	head := make([]byte, 64<<10)
	n, err := io.ReadFull(body, head)
	whole := err == io.EOF || err == io.ErrUnexpectedEOF
	if err != nil && !whole {
		return nil, err
	}
	head = head[:n]
	if n == 0 {
		return nil, clara.Errorf(clara.Invalid, "%s is empty", h.File)
	}
	// The kind of an archive shows only when it is whole.
	if whole || !bytes.HasPrefix(head, []byte("PK")) && !bytes.HasPrefix(head, []byte("\xd0\xcf\x11\xe0")) {
		kind, err := sniff.Detect(h.File, bytes.NewReader(head), int64(n))
		if err != nil {
			return nil, err
		}
		if kind.Format == "" && !kind.Encrypted {
			return nil, clara.Errorf(clara.Unsupported, "%s: this is %s, which is not read: %s", h.File, kind.Name, kind.Hint)
		}
	}
	_, hash, size, err := s.Files.PutContent(ctx, "files", io.MultiReader(bytes.NewReader(head), body), s.MaxBytes)
	if err != nil {
		return nil, err
	}
	if h.SizeBytes > 0 && size != h.SizeBytes {
		return nil, clara.Errorf(clara.Invalid, "%s: %d bytes came of the %d announced; the file changed while it was read, or the upload was cut off", h.File, size, h.SizeBytes)
	}
	return shown(s.Pipeline.Accept(ctx, pipeline.File{Document: name, Name: h.File, URI: uri, Hash: hash, Size: size, Job: h.Job, Password: h.Password}, h.Password != ""))
}

// uploadReader is the data of an upload as a reader.
type uploadReader struct {
	stream *connect.ClientStream[ingestv1.UploadDocumentRequest]
	rest   []byte
}

func (r *uploadReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if !r.stream.Receive() {
			if err := r.stream.Err(); err != nil {
				return 0, err
			}
			return 0, io.EOF
		}
		if r.stream.Msg().GetHeader() != nil {
			return 0, clara.Errorf(clara.Invalid, "upload: a second header came; a stream holds one file")
		}
		r.rest = r.stream.Msg().GetData()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// IngestUri takes in a file below the roots.
func (s *Server) IngestUri(ctx context.Context, r *ingestv1.IngestUriRequest) (*ingestv1.Document, error) {
	id, err := catalog.ParseCollection(r.Parent)
	if err != nil {
		return nil, err
	}
	if _, err := s.Collection(ctx, id); err != nil {
		return nil, err
	}
	f, err := s.Pipeline.Roots.Open(r.Uri)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_, hash, size, err := s.Files.PutContent(ctx, "files", f, s.MaxBytes)
	if err != nil {
		return nil, err
	}
	return shown(s.Pipeline.Accept(ctx, pipeline.File{
		Document: catalog.DocumentName(id, catalog.DocumentID(id, r.Uri)), Name: path.Base(r.Uri), URI: r.Uri, Hash: hash, Size: size, Job: r.Job, Password: r.Password,
	}, r.Password != ""))
}

// GetDocument returns a document.
func (s *Server) GetDocument(ctx context.Context, r *ingestv1.GetDocumentRequest) (*ingestv1.Document, error) {
	if err := s.alive(ctx, r.Name); err != nil {
		return nil, err
	}
	return shown(s.Catalog.LiveDocument(ctx, r.Name))
}

// shown is a record without what is ingest's own.
func shown(d *ingestv1.Document, err error) (*ingestv1.Document, error) {
	if d != nil {
		d.Owed, d.PasswordKey = nil, nil
	}
	return d, err
}

// alive fails for anything in a collection that was deleted.
func (s *Server) alive(ctx context.Context, document string) error {
	id, _, err := catalog.ParseDocument(document)
	if err != nil {
		return err
	}
	_, err = s.Catalog.LiveCollection(ctx, id)
	return err
}

// BatchGetDocuments returns those of the documents that exist: what a search may show.
func (s *Server) BatchGetDocuments(ctx context.Context, r *ingestv1.BatchGetDocumentsRequest) (*ingestv1.BatchGetDocumentsResponse, error) {
	if len(r.Names) > maxPage {
		return nil, clara.Errorf(clara.Invalid, "%d names: the limit is %d", len(r.Names), maxPage)
	}
	out := &ingestv1.BatchGetDocumentsResponse{}
	deleted := map[string]bool{} // by collection
	for _, name := range r.Names {
		id, _, err := catalog.ParseDocument(name)
		if err != nil {
			return nil, err
		}
		if _, ok := deleted[id]; !ok {
			_, err := s.Catalog.LiveCollection(ctx, id)
			if err != nil && clara.KindOf(err) != clara.NotFound {
				return nil, err
			}
			deleted[id] = err != nil
		}
		if deleted[id] {
			continue
		}
		d, err := shown(s.Catalog.LiveDocument(ctx, name))
		if clara.KindOf(err) == clara.NotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		out.Documents = append(out.Documents, d)
	}
	return out, nil
}

// ListDocuments lists the documents of a collection.
func (s *Server) ListDocuments(ctx context.Context, r *ingestv1.ListDocumentsRequest) (*ingestv1.ListDocumentsResponse, error) {
	id, err := catalog.ParseCollection(r.Parent)
	if err != nil {
		return nil, err
	}
	if _, err := s.Catalog.LiveCollection(ctx, id); err != nil {
		return nil, err
	}
	all, err := s.Catalog.Documents(ctx, id)
	if err != nil {
		return nil, err
	}
	live := all[:0]
	for _, d := range all {
		if d.State != ingestv1.Document_STATE_DELETED {
			d.Owed, d.PasswordKey = nil, nil
			live = append(live, d)
		}
	}
	list, next, err := page(live, r.PageSize, r.PageToken)
	return &ingestv1.ListDocumentsResponse{Documents: list, NextPageToken: next}, err
}

// DeleteDocument hides a document at once and removes its points before it returns, or soon after if the
// compressor is away.
func (s *Server) DeleteDocument(ctx context.Context, r *ingestv1.DeleteDocumentRequest) (*ingestv1.DeleteDocumentResponse, error) {
	collection, document, err := catalog.ParseDocument(r.Name)
	if err != nil {
		return nil, err
	}
	c, err := s.Catalog.LiveCollection(ctx, collection)
	if err != nil {
		return nil, err
	}
	var job, file string
	var key []byte
	var moving bool
	var indexes []string
	d, err := s.Catalog.PutDocument(ctx, r.Name, func(d *ingestv1.Document) error {
		if d.Revision == 0 || d.State == ingestv1.Document_STATE_DELETED {
			return clara.Errorf(clara.NotFound, "no document %s", r.Name)
		}
		job, file = d.Job, d.File
		moving = d.State == ingestv1.Document_STATE_RECEIVED || d.State == ingestv1.Document_STATE_EXTRACTING || d.State == ingestv1.Document_STATE_INDEXING
		indexes = append(catalog.Indexes(d), catalog.CollectionIndexes(c)...)
		d.State, d.Revision, d.Owed = ingestv1.Document_STATE_DELETED, catalog.NextRevision(d.Revision), nil
		key, d.PasswordKey = d.PasswordKey, nil
		catalog.Owe(d, &eventv1.DocumentDeleted{Collection: collection, Document: document, Revision: d.Revision, Indexes: indexes})
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.Pipeline.Forget(ctx, key)
	if moving {
		item := &jobv1.Item{Name: r.Name, Label: file, State: jobv1.Job_STATE_CANCELLED, Error: "deleted"}
		if err := s.Jobs.Item(ctx, job, item); err != nil {
			s.Log.WarnContext(ctx, "end item of deleted document", "job", job, "err", err)
		}
	}
	// Queries ask the record, so the document is gone for them already; its points go now if they can.
	short, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := s.Compressor.DeletePoints(short, &compressorv1.DeletePointsRequest{Collection: collection, Document: document, BeforeRevision: d.Revision, Indexes: indexes}); err != nil {
		s.Log.WarnContext(ctx, "document is deleted, its points will go later", "document", r.Name, "err", err)
	}
	return &ingestv1.DeleteDocumentResponse{}, nil
}

// ReprocessDocument reads a document, or all of a collection, anew.
func (s *Server) ReprocessDocument(ctx context.Context, r *ingestv1.ReprocessDocumentRequest) (*jobv1.Job, error) {
	var names []string
	if id, err := catalog.ParseCollection(r.Name); err == nil {
		if _, err := s.Catalog.LiveCollection(ctx, id); err != nil {
			return nil, err
		}
		docs, err := s.Catalog.Documents(ctx, id)
		if err != nil {
			return nil, err
		}
		for _, d := range docs {
			if d.State != ingestv1.Document_STATE_DELETED {
				names = append(names, d.Name)
			}
		}
	} else {
		if _, err := s.GetDocument(ctx, &ingestv1.GetDocumentRequest{Name: r.Name}); err != nil {
			return nil, err
		}
		names = []string{r.Name}
	}
	job, err := s.Jobs.Start(ctx, &jobv1.Job{
		Type: "ingest", Target: catalog.CollectionName(catalog.CollectionID(r.Name)), Detail: "reprocess " + strings.TrimPrefix(r.Name, "collections/"), RequestId: r.RequestId,
	})
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, err := s.Pipeline.Again(ctx, name, job.Name, r.Password); err != nil && clara.KindOf(err) != clara.NotFound {
			return nil, err
		}
	}
	return s.seal(ctx, job.Name)
}

// GetFile streams a document's file.
func (s *Server) GetFile(ctx context.Context, r *ingestv1.GetFileRequest, stream *connect.ServerStream[ingestv1.GetFileResponse]) error {
	d, err := s.GetDocument(ctx, &ingestv1.GetDocumentRequest{Name: r.Name})
	if err != nil {
		return err
	}
	f, err := s.Files.Get(ctx, "files/"+d.ContentHash)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 256<<10)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			if err := stream.Send(&ingestv1.GetFileResponse{Data: buf[:n]}); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return clara.Errorf(clara.Unavailable, "read file of %s: %w", r.Name, err)
		}
	}
}

// maxMarkdown bounds a text in one message.
const maxMarkdown = 32 << 20

// GetMarkdown returns what was read from a document's file.
func (s *Server) GetMarkdown(ctx context.Context, r *ingestv1.GetMarkdownRequest) (*ingestv1.GetMarkdownResponse, error) {
	d, err := s.GetDocument(ctx, &ingestv1.GetDocumentRequest{Name: r.Name})
	if err != nil {
		return nil, err
	}
	if d.Extract == "" {
		return nil, clara.Errorf(clara.State, "%s has not been read yet: it is %s", r.Name, strings.ToLower(strings.TrimPrefix(d.State.String(), "STATE_")))
	}
	x, err := pipeline.LoadExtract(ctx, s.Files, d.Extract)
	if err != nil {
		return nil, err
	}
	text := x.Markdown()
	if len(text) > maxMarkdown {
		return nil, clara.Errorf(clara.Unsupported, "the text of %s has %d bytes, more than the %d of one message: list its passages instead", r.Name, len(text), maxMarkdown)
	}
	return &ingestv1.GetMarkdownResponse{Markdown: text}, nil
}

// ListPassages lists the passages that the index in use holds of a document.
func (s *Server) ListPassages(ctx context.Context, r *ingestv1.ListPassagesRequest) (*ingestv1.ListPassagesResponse, error) {
	d, err := s.GetDocument(ctx, &ingestv1.GetDocumentRequest{Name: r.Parent})
	if err != nil {
		return nil, err
	}
	c, err := s.Catalog.LiveCollection(ctx, catalog.CollectionID(r.Parent))
	if err != nil {
		return nil, err
	}
	p := catalog.Placement(d, c.Index)
	if p == nil {
		return &ingestv1.ListPassagesResponse{}, nil
	}
	f, err := s.Files.Get(ctx, p.PassageSet)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	n := int(r.PageSize)
	if n <= 0 {
		n = defaultPage
	}
	n = min(n, maxPage)
	start := 0
	if r.PageToken != "" {
		if start, err = strconv.Atoi(r.PageToken); err != nil || start < 0 {
			return nil, clara.Errorf(clara.Invalid, "page_token %q is not one that was given out", r.PageToken)
		}
	}
	out := &ingestv1.ListPassagesResponse{}
	for x, err := range passageset.Read(f) {
		if err != nil {
			return nil, err
		}
		if x.Ordinal < start {
			continue
		}
		if len(out.Passages) == n {
			out.NextPageToken = strconv.Itoa(x.Ordinal)
			break
		}
		out.Passages = append(out.Passages, &ingestv1.Passage{
			Name: fmt.Sprintf("%s/passages/%d", d.Name, x.Ordinal), Ordinal: int32(x.Ordinal), Text: x.Text, Headings: x.Headings,
			PageFirst: int32(x.PageFirst), PageLast: int32(x.PageLast), Hash: x.Hash, Tokens: int32(x.Tokens),
		})
	}
	return out, nil
}
