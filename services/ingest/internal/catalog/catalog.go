// Package catalog keeps the records of collections and documents: what they are,
// which physical indexes hold them, and which events they still owe. All state
// of ingest is here and in the blob store; everything else can be lost at any
// moment.
//
// A document's revision grows with every change and never comes back, not even
// after the document was deleted and made again: late work for an older one is
// told apart by it.
package catalog

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	eventv1 "github.com/clara-suite/clara/proto/gen/clara/event/v1"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
)

// Catalog is the records of ingest. Safe for concurrent use, by several replicas.
type Catalog struct {
	collections *events.Store[*ingestv1.Collection]
	documents   *events.Outbox[*ingestv1.Document]

	mu     sync.Mutex
	counts map[string]map[string]int64 // collection -> document -> passages, of live documents; follows the records
}

// Open opens the records.
func Open(ctx context.Context, c *events.Conn) (*Catalog, error) {
	collections, err := events.OpenStore[*ingestv1.Collection](ctx, c, "collections", 0)
	if err != nil {
		return nil, err
	}
	documents, err := events.OpenStore[*ingestv1.Document](ctx, c, "documents", 0)
	if err != nil {
		return nil, err
	}
	return &Catalog{
		collections: collections,
		documents:   events.NewOutbox(c, documents, owed, func(d *ingestv1.Document) { d.Owed = nil }),
		counts:      map[string]map[string]int64{},
	}, nil
}

// owed lists the events that a document owes.
func owed(d *ingestv1.Document) []proto.Message {
	var out []proto.Message
	for _, o := range d.Owed {
		switch e := o.Event.(type) {
		case *ingestv1.Owed_IngestRequested:
			out = append(out, e.IngestRequested)
		case *ingestv1.Owed_DocumentReady:
			out = append(out, e.DocumentReady)
		case *ingestv1.Owed_DocumentDeleted:
			out = append(out, e.DocumentDeleted)
		}
	}
	return out
}

// Owe adds an event that the record will publish once it is stored.
func Owe(d *ingestv1.Document, event proto.Message) {
	o := &ingestv1.Owed{}
	switch e := event.(type) {
	case *eventv1.IngestRequested:
		o.Event = &ingestv1.Owed_IngestRequested{IngestRequested: e}
	case *eventv1.DocumentReady:
		o.Event = &ingestv1.Owed_DocumentReady{DocumentReady: e}
	case *eventv1.DocumentDeleted:
		o.Event = &ingestv1.Owed_DocumentDeleted{DocumentDeleted: e}
	}
	d.Owed = append(d.Owed, o)
}

// Run publishes what records owe and follows the records, until ctx ends.
func (c *Catalog) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- c.documents.Run(ctx) }()
	for ctx.Err() == nil {
		for e, err := range c.documents.Watch(ctx, "") {
			if err != nil {
				break // the connection was lost: watch again from the start
			}
			c.count(e)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return <-done
}

func (c *Catalog) count(e events.Entry[*ingestv1.Document]) {
	collection, document, ok := strings.Cut(e.Key, ".")
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Deleted || e.Value.State == ingestv1.Document_STATE_DELETED {
		delete(c.counts[collection], document)
		return
	}
	if c.counts[collection] == nil {
		c.counts[collection] = map[string]int64{}
	}
	c.counts[collection][document] = int64(e.Value.PassageCount)
}

// fill adds the counts of documents to a collection.
func (c *Catalog) fill(r *ingestv1.Collection) *ingestv1.Collection {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.DocumentCount, r.PassageCount = 0, 0
	for _, n := range c.counts[CollectionID(r.Name)] {
		r.DocumentCount++
		r.PassageCount += n
	}
	return r
}

var collectionForm = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// CheckCollection refuses ids that can't be a collection's.
func CheckCollection(id string) error {
	if !collectionForm.MatchString(id) {
		return clara.Errorf(clara.Invalid, "collection %q: 1 to 63 lower-case letters, digits, '-' and '_', starting with a letter or digit", id)
	}
	return nil
}

// CollectionID returns the id in collections/{id} or in anything below it.
func CollectionID(name string) string {
	rest := strings.TrimPrefix(name, "collections/")
	id, _, _ := strings.Cut(rest, "/")
	return id
}

// ParseCollection returns the id in collections/{id}. Invalid.
func ParseCollection(name string) (string, error) {
	id, ok := strings.CutPrefix(name, "collections/")
	if !ok {
		return "", clara.Errorf(clara.Invalid, "collection name %q: want collections/NAME", name)
	}
	return id, CheckCollection(id)
}

// ParseDocument returns both ids in collections/{collection}/documents/{document}. Invalid.
func ParseDocument(name string) (collection, document string, err error) {
	p := strings.Split(name, "/")
	if len(p) != 4 || p[0] != "collections" || p[2] != "documents" || !documentForm.MatchString(p[3]) {
		return "", "", clara.Errorf(clara.Invalid, "document name %q: want collections/NAME/documents/ID, with an ID that clara docs list shows", name)
	}
	return p[1], p[3], CheckCollection(p[1])
}

var documentForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// CollectionName makes a resource name.
func CollectionName(id string) string { return "collections/" + id }

// DocumentName makes a resource name.
func DocumentName(collection, document string) string {
	return "collections/" + collection + "/documents/" + document
}

// DocumentID is the id of what lies at uri: the same place is the same document.
func DocumentID(collection, uri string) string {
	sum := sha256.Sum256([]byte(collection + "\x00" + uri))
	return hex.EncodeToString(sum[:8])
}

// Key of a document's record.
func Key(name string) string {
	collection, document, err := ParseDocument(name)
	if err != nil {
		return ""
	}
	return collection + "." + document
}

// NextRevision is later than every revision that this document ever had.
func NextRevision(previous int64) int64 { return max(previous+1, time.Now().UnixMilli()) }

// CreateCollection stores a new collection. Exists.
func (c *Catalog) CreateCollection(ctx context.Context, r *ingestv1.Collection) error {
	var uid [5]byte
	if _, err := rand.Read(uid[:]); err != nil {
		return err
	}
	r.Uid = hex.EncodeToString(uid[:])
	r.CreateTime = timestamppb.Now()
	r.UpdateTime = r.CreateTime
	_, err := c.collections.Create(ctx, CollectionID(r.Name), r)
	if clara.KindOf(err) == clara.Exists {
		return clara.Errorf(clara.Exists, "%s exists already", r.Name)
	}
	return err
}

// Collection returns a collection, a deleted one included. NotFound.
func (c *Catalog) Collection(ctx context.Context, id string) (*ingestv1.Collection, error) {
	e, err := c.collections.Get(ctx, id)
	if clara.KindOf(err) == clara.NotFound {
		return nil, clara.Errorf(clara.NotFound, "no collection %q; clara collections list shows what there is", id)
	}
	if err != nil {
		return nil, err
	}
	return c.fill(e.Value), nil
}

// LiveCollection is Collection without the deleted ones.
func (c *Catalog) LiveCollection(ctx context.Context, id string) (*ingestv1.Collection, error) {
	r, err := c.Collection(ctx, id)
	if err == nil && r.Deleted {
		return nil, clara.Errorf(clara.NotFound, "collection %q was deleted", id)
	}
	return r, err
}

// Collections returns all collections by name, deleted ones included.
func (c *Catalog) Collections(ctx context.Context) ([]*ingestv1.Collection, error) {
	list, err := c.collections.List(ctx, "")
	if err != nil {
		return nil, err
	}
	out := make([]*ingestv1.Collection, len(list))
	for i, e := range list {
		out[i] = c.fill(e.Value)
	}
	return out, nil
}

// ModifyCollection changes a collection; see events.Store.Modify.
func (c *Catalog) ModifyCollection(ctx context.Context, id string, change func(*ingestv1.Collection) error) (*ingestv1.Collection, error) {
	e, err := c.collections.Modify(ctx, id, func(r *ingestv1.Collection) error {
		if err := change(r); err != nil {
			return err
		}
		r.UpdateTime = timestamppb.Now()
		return nil
	})
	return e.Value, err
}

// RemoveCollection removes the record of a deleted collection, with those of its documents. It does nothing to another
// collection that was made under the same name meanwhile, which has another uid.
func (c *Catalog) RemoveCollection(ctx context.Context, id, uid string) error {
	for {
		// Listed before the collection is looked at: what is listed was put into this one, not into its successor.
		documents, err := c.documents.List(ctx, id+".")
		if err != nil {
			return err
		}
		e, err := c.collections.Get(ctx, id)
		if clara.KindOf(err) == clara.NotFound {
			return nil
		}
		if err != nil {
			return err
		}
		if !e.Value.Deleted || e.Value.Uid != uid {
			return nil
		}
		changed := false
		for _, d := range documents {
			err := c.documents.Delete(ctx, d.Key, d.Revision)
			switch clara.KindOf(err) {
			case clara.Conflict: // late work has changed it
				changed = true
			case clara.NotFound:
			default:
				if err != nil {
					return err
				}
			}
		}
		if changed {
			continue
		}
		if err := c.collections.Delete(ctx, id, e.Revision); clara.KindOf(err) != clara.Conflict {
			return err
		}
	}
}

// Document returns a document's record, a deleted one included. NotFound.
func (c *Catalog) Document(ctx context.Context, name string) (*ingestv1.Document, error) {
	key := Key(name)
	if key == "" {
		_, _, err := ParseDocument(name)
		return nil, err
	}
	e, err := c.documents.Get(ctx, key)
	if clara.KindOf(err) == clara.NotFound {
		return nil, clara.Errorf(clara.NotFound, "no document %s; clara docs list shows what there is", name)
	}
	return e.Value, err
}

// LiveDocument is Document without the deleted ones.
func (c *Catalog) LiveDocument(ctx context.Context, name string) (*ingestv1.Document, error) {
	d, err := c.Document(ctx, name)
	if err == nil && d.State == ingestv1.Document_STATE_DELETED {
		return nil, clara.Errorf(clara.NotFound, "document %s was deleted", name)
	}
	return d, err
}

// Documents returns the records of a collection's documents, deleted ones included, by name.
func (c *Catalog) Documents(ctx context.Context, collection string) ([]*ingestv1.Document, error) {
	list, err := c.documents.List(ctx, collection+".")
	if err != nil {
		return nil, err
	}
	out := make([]*ingestv1.Document, len(list))
	for i, e := range list {
		out[i] = e.Value
	}
	return out, nil
}

// PutDocument stores a new revision of a document, made by change from the record that is there, or from an
// empty one of that name. It publishes what the record owes.
func (c *Catalog) PutDocument(ctx context.Context, name string, change func(d *ingestv1.Document) error) (*ingestv1.Document, error) {
	for {
		d, err := c.modify(ctx, name, change)
		if clara.KindOf(err) != clara.NotFound {
			return d, err
		}
		d = &ingestv1.Document{Name: name, CreateTime: timestamppb.Now()}
		if err := change(d); err != nil {
			return d, err
		}
		d.UpdateTime = timestamppb.Now()
		if _, err = c.documents.Create(ctx, Key(name), d); clara.KindOf(err) != clara.Exists {
			return d, err
		}
	}
}

// ModifyDocument changes a document that is there and still at the revision. Otherwise, and for one that is
// gone, it does nothing and returns false: the work was for something that is no more.
func (c *Catalog) ModifyDocument(ctx context.Context, name string, revision int64, change func(*ingestv1.Document) error) (*ingestv1.Document, bool, error) {
	current := true
	d, err := c.modify(ctx, name, func(d *ingestv1.Document) error {
		if d.Revision != revision || d.State == ingestv1.Document_STATE_DELETED {
			current = false
			return events.Unchanged
		}
		current = true
		return change(d)
	})
	if clara.KindOf(err) == clara.NotFound {
		return nil, false, nil
	}
	return d, current && err == nil, err
}

func (c *Catalog) modify(ctx context.Context, name string, change func(*ingestv1.Document) error) (*ingestv1.Document, error) {
	e, err := c.documents.Modify(ctx, Key(name), func(d *ingestv1.Document) error {
		if err := change(d); err != nil {
			return err
		}
		d.UpdateTime = timestamppb.Now()
		return nil
	})
	return e.Value, err
}

// RemoveDocument removes the record of a deleted document that has not come back meanwhile.
func (c *Catalog) RemoveDocument(ctx context.Context, name string) error {
	e, err := c.documents.Get(ctx, Key(name))
	if err != nil || e.Value.State != ingestv1.Document_STATE_DELETED {
		if clara.KindOf(err) == clara.NotFound {
			return nil
		}
		return err
	}
	if err := c.documents.Delete(ctx, e.Key, e.Revision); clara.KindOf(err) != clara.Conflict {
		return err
	}
	return nil
}

// Placement returns a document's placement in an index, nil if there is none.
func Placement(d *ingestv1.Document, index string) *ingestv1.Placement {
	for _, p := range d.Placements {
		if p.Index == index {
			return p
		}
	}
	return nil
}

// Indexes are the physical indexes that may hold points of a document.
func Indexes(d *ingestv1.Document) []string {
	var out []string
	for _, p := range d.Placements {
		out = append(out, p.Index)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// CollectionIndexes are all physical indexes of a collection: the one in use, the next, and the retired.
func CollectionIndexes(r *ingestv1.Collection) []string {
	var out []string
	for _, i := range []string{r.Index, r.NextIndex} {
		if i != "" {
			out = append(out, i)
		}
	}
	for _, x := range r.Retired {
		out = append(out, x.Index)
	}
	return out
}
