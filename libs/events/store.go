package events

import (
	"context"
	"errors"
	"iter"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/clara-suite/clara/libs/clara"
)

// Entry is a record as it was read.
type Entry[T proto.Message] struct {
	Key      string
	Value    T
	Revision uint64 // for Update and Delete
	Time     time.Time
	Deleted  bool // in Watch: the record is gone, Value is empty
}

// Store keeps protobuf records of one type under keys, on disk before a call returns. Keys are made of
// letters, digits and - _ = /, in parts joined by dots ("handbook.7f3a"). A record holds up to 1 MiB
// less a little; what is larger is a blob. Safe for concurrent use.
type Store[T proto.Message] struct{ b *bucket }

// OpenStore opens a bucket of records, making it if it is not there. name: letters, digits, - and _.
// ttl forgets records that long after their last change; 0: never.
func OpenStore[T proto.Message](ctx context.Context, c *Conn, name string, ttl time.Duration) (*Store[T], error) {
	var b *bucket
	err := c.patiently(ctx, func() (err error) {
		b, err = c.openBucket(ctx, name, string(newMessage[T]().ProtoReflect().Descriptor().FullName()), ttl)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &Store[T]{b}, nil
}

// markerKept is how long a deletion stays visible to watchers that were away.
const markerKept = time.Hour

var keyForm = regexp.MustCompile(`^[A-Za-z0-9_=/-]+(\.[A-Za-z0-9_=/-]+)*$`)

func (s *Store[T]) check(key string) error {
	if !keyForm.MatchString(key) {
		return clara.Errorf(clara.Invalid, "key %q in %s: must be parts of letters, digits and - _ = / joined by dots", key, s.b.name)
	}
	return nil
}

// Get returns the record. NotFound, Corrupt, Unavailable.
func (s *Store[T]) Get(ctx context.Context, key string) (Entry[T], error) {
	if err := s.check(key); err != nil {
		return Entry[T]{}, err
	}
	m, err := s.b.get(ctx, key)
	if err != nil {
		return Entry[T]{}, wrap(ctx, err, "read %s/%s", s.b.name, key)
	}
	return s.decode(Entry[T]{Key: key, Revision: m.Sequence, Time: m.Time}, m.Data)
}

func (s *Store[T]) entry(e jetstream.KeyValueEntry) (Entry[T], error) {
	out := Entry[T]{Key: e.Key(), Revision: e.Revision(), Time: e.Created(), Deleted: e.Operation() != jetstream.KeyValuePut}
	if out.Deleted {
		out.Value = newMessage[T]()
		return out, nil
	}
	return s.decode(out, e.Value())
}

func (s *Store[T]) decode(e Entry[T], data []byte) (Entry[T], error) {
	e.Value = newMessage[T]()
	if err := proto.Unmarshal(data, e.Value); err != nil {
		return e, clara.Errorf(clara.Corrupt, "read %s/%s: %w", s.b.name, e.Key, err)
	}
	return e, nil
}

// Create stores a new record and returns its revision. Exists if there is one.
func (s *Store[T]) Create(ctx context.Context, key string, v T) (uint64, error) {
	data, err := s.encode(key, v)
	if err != nil {
		return 0, err
	}
	rev, err := s.b.create(ctx, key, data)
	if errors.Is(err, errChanged) {
		return 0, clara.Errorf(clara.Exists, "create %s/%s: it exists", s.b.name, key)
	}
	return rev, wrap(ctx, err, "create %s/%s", s.b.name, key)
}

// Update replaces the record of that revision and returns the new one. Conflict if it has changed since.
func (s *Store[T]) Update(ctx context.Context, key string, v T, revision uint64) (uint64, error) {
	data, err := s.encode(key, v)
	if err != nil {
		return 0, err
	}
	rev, err := s.b.put(ctx, key, data, int64(revision))
	if errors.Is(err, errChanged) {
		return 0, clara.Errorf(clara.Conflict, "update %s/%s: changed since revision %d", s.b.name, key, revision)
	}
	return rev, wrap(ctx, err, "update %s/%s", s.b.name, key)
}

// Put stores the record whatever was there.
func (s *Store[T]) Put(ctx context.Context, key string, v T) (uint64, error) {
	data, err := s.encode(key, v)
	if err != nil {
		return 0, err
	}
	rev, err := s.b.put(ctx, key, data, anyRevision)
	return rev, wrap(ctx, err, "store %s/%s", s.b.name, key)
}

// Modify reads the record, lets change edit it, and stores it, again from the start if somebody else was
// faster. It returns the record as stored. If change returns an error, nothing is stored; Unchanged is
// not passed on.
func (s *Store[T]) Modify(ctx context.Context, key string, change func(T) error) (Entry[T], error) {
	for {
		e, err := s.Get(ctx, key)
		if err != nil {
			return e, err
		}
		if err := change(e.Value); err != nil {
			if errors.Is(err, Unchanged) {
				return e, nil
			}
			return e, err
		}
		rev, err := s.Update(ctx, key, e.Value, e.Revision)
		if clara.KindOf(err) == clara.Conflict && ctx.Err() == nil {
			continue
		}
		e.Revision = rev
		return e, err
	}
}

// Unchanged is what a change function of Modify returns when there is nothing to store.
var Unchanged = errors.New("unchanged") //nolint:errname,staticcheck // reads as a result, not as a fault

// Delete removes the record of that revision; 0 is any. Conflict if it has changed since; a record that is
// not there is no error.
func (s *Store[T]) Delete(ctx context.Context, key string, revision uint64) error {
	if err := s.check(key); err != nil {
		return err
	}
	expected := int64(revision)
	if revision == 0 {
		expected = anyRevision
	}
	err := s.b.remove(ctx, key, expected)
	if errors.Is(err, errChanged) {
		return clara.Errorf(clara.Conflict, "delete %s/%s: changed since revision %d", s.b.name, key, revision)
	}
	return wrap(ctx, err, "delete %s/%s", s.b.name, key)
}

// pattern turns a prefix into NATS's filter: "" is all, "handbook." the keys below it.
func (s *Store[T]) pattern(prefix string) (string, error) {
	if prefix == "" {
		return ">", nil
	}
	if !strings.HasSuffix(prefix, ".") {
		return "", clara.Errorf(clara.Invalid, "prefix %q in %s: must end with a dot", prefix, s.b.name)
	}
	return prefix + ">", s.check(strings.TrimSuffix(prefix, "."))
}

// Scan goes through the records whose keys begin with prefix ("" or ending in a dot), in order of their last
// change. A record that changes meanwhile may come twice, the later state last. The first error ends it.
func (s *Store[T]) Scan(ctx context.Context, prefix string) iter.Seq2[Entry[T], error] {
	return func(yield func(Entry[T], error) bool) {
		pattern, err := s.pattern(prefix)
		if err != nil {
			yield(Entry[T]{}, err)
			return
		}
		err = s.b.scan(ctx, pattern, func(e jetstream.KeyValueEntry) bool {
			return yield(s.entry(e))
		})
		if err != nil {
			yield(Entry[T]{}, wrap(ctx, err, "list %s", s.b.name))
		}
	}
}

// List returns the records whose keys begin with prefix, sorted by key.
func (s *Store[T]) List(ctx context.Context, prefix string) ([]Entry[T], error) {
	byKey := map[string]Entry[T]{}
	for e, err := range s.Scan(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		byKey[e.Key] = e
	}
	out := make([]Entry[T], 0, len(byKey))
	for _, e := range byKey {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Entry[T]) int { return strings.Compare(a.Key, b.Key) })
	return out, nil
}

// Watch yields the records below prefix as they are and then every change, deletions included, until ctx ends,
// which is no error. Between the two it yields one Entry with an empty Key: all there is has been seen.
func (s *Store[T]) Watch(ctx context.Context, prefix string) iter.Seq2[Entry[T], error] {
	return func(yield func(Entry[T], error) bool) {
		pattern, err := s.pattern(prefix)
		if err == nil {
			s.watch(ctx, pattern, yield)
			return
		}
		yield(Entry[T]{}, err)
	}
}

// WatchKey is Watch of one record.
func (s *Store[T]) WatchKey(ctx context.Context, key string) iter.Seq2[Entry[T], error] {
	return func(yield func(Entry[T], error) bool) {
		if err := s.check(key); err != nil {
			yield(Entry[T]{}, err)
			return
		}
		s.watch(ctx, key, yield)
	}
}

func (s *Store[T]) watch(ctx context.Context, pattern string, yield func(Entry[T], error) bool) {
	w, err := s.b.watch(ctx, pattern)
	if err != nil {
		if ctx.Err() == nil {
			yield(Entry[T]{}, wrap(ctx, err, "watch %s", s.b.name))
		}
		return
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				if ctx.Err() == nil {
					yield(Entry[T]{}, clara.Errorf(clara.Unavailable, "watch %s: nats connection lost", s.b.name))
				}
				return
			case e == nil:
				if !yield(Entry[T]{}, nil) {
					return
				}
			default:
				if !yield(s.entry(e)) {
					return
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

func (s *Store[T]) encode(key string, v T) ([]byte, error) {
	if err := s.check(key); err != nil {
		return nil, err
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(v)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "encode %s/%s: %w", s.b.name, key, err)
	}
	return data, nil
}
