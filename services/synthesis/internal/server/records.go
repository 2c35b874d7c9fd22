package server

import (
	"context"
	"regexp"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	synthesisv1 "github.com/clara-suite/clara/proto/gen/clara/synthesis/v1"
)

// Records are the stored data sets. Safe for concurrent use.
type Records struct {
	store *events.Store[*synthesisv1.Dataset]
}

// OpenRecords opens the store. Unavailable.
func OpenRecords(ctx context.Context, conn *events.Conn) (*Records, error) {
	store, err := events.OpenStore[*synthesisv1.Dataset](ctx, conn, "clara_datasets", 0)
	if err != nil {
		return nil, err
	}
	return &Records{store}, nil
}

var idForm = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

func checkID(what, id string) error {
	if !idForm.MatchString(id) {
		return clara.Errorf(clara.Invalid, "%s %q must be 1 to 63 lower-case letters, digits, '-' and '_', starting with a letter or digit", what, id)
	}
	return nil
}

// Name is the resource name of a data set.
func Name(collection, dataset string) string {
	return "collections/" + collection + "/datasets/" + dataset
}

// ParseName returns the parts of a resource name. Invalid.
func ParseName(name string) (collection, dataset string, err error) {
	parts := strings.Split(name, "/")
	if len(parts) != 4 || parts[0] != "collections" || parts[2] != "datasets" {
		return "", "", clara.Errorf(clara.Invalid, "name %q: want collections/COLLECTION/datasets/DATASET", name)
	}
	if err := checkID("collection", parts[1]); err != nil {
		return "", "", err
	}
	return parts[1], parts[3], checkID("data set", parts[3])
}

func parseCollection(name string) (string, error) {
	id, ok := strings.CutPrefix(name, "collections/")
	if !ok {
		return "", clara.Errorf(clara.Invalid, "parent %q: want collections/COLLECTION", name)
	}
	return id, checkID("collection", id)
}

func key(collection, dataset string) string { return collection + "." + dataset }

// Get returns a data set. NotFound.
func (r *Records) Get(ctx context.Context, name string) (*synthesisv1.Dataset, error) {
	c, d, err := ParseName(name)
	if err != nil {
		return nil, err
	}
	e, err := r.store.Get(ctx, key(c, d))
	if clara.KindOf(err) == clara.NotFound || err == nil && e.Value.Deleted {
		return nil, clara.Errorf(clara.NotFound, "no data set %s", name)
	}
	return e.Value, err
}

// Create stores a new one, in place of a deleted one. Exists.
func (r *Records) Create(ctx context.Context, d *synthesisv1.Dataset) error {
	c, id, err := ParseName(d.Name)
	if err != nil {
		return err
	}
	_, err = r.store.Create(ctx, key(c, id), d)
	if clara.KindOf(err) != clara.Exists {
		return err
	}
	old, gerr := r.store.Get(ctx, key(c, id))
	if gerr != nil || !old.Value.Deleted {
		return err
	}
	_, err = r.store.Update(ctx, key(c, id), d, old.Revision)
	return err
}

// Modify changes one; change may return events.Unchanged. NotFound.
func (r *Records) Modify(ctx context.Context, name string, change func(*synthesisv1.Dataset) error) (*synthesisv1.Dataset, error) {
	c, id, err := ParseName(name)
	if err != nil {
		return nil, err
	}
	e, err := r.store.Modify(ctx, key(c, id), func(d *synthesisv1.Dataset) error {
		if d.Deleted {
			return clara.Errorf(clara.NotFound, "no data set %s", name)
		}
		return change(d)
	})
	if clara.KindOf(err) == clara.NotFound {
		return nil, clara.Errorf(clara.NotFound, "no data set %s", name)
	}
	return e.Value, err
}

// List returns the data sets of a collection, or of all for "", sorted by name.
func (r *Records) List(ctx context.Context, collection string) ([]*synthesisv1.Dataset, error) {
	prefix := ""
	if collection != "" {
		prefix = collection + "."
	}
	entries, err := r.store.List(ctx, prefix)
	if err != nil {
		return nil, err
	}
	var out []*synthesisv1.Dataset
	for _, e := range entries {
		if !e.Value.Deleted {
			out = append(out, e.Value)
		}
	}
	return out, nil
}

// Forget removes the record of a deleted data set.
func (r *Records) Forget(ctx context.Context, name string) error {
	c, id, err := ParseName(name)
	if err != nil {
		return err
	}
	return r.store.Delete(ctx, key(c, id), 0)
}
