package events

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// bucket is records under keys, laid out as NATS's own key-value store is, so that its tools read it. Reads ask the leader
// of the stream, never a copy: copies lag behind, and a record that was just written, or deleted, must be seen as it is.
type bucket struct {
	conn    *Conn
	name    string
	stream  jetstream.Stream
	watches jetstream.KeyValue
}

// Headers of NATS's key-value store.
const (
	headerOperation = "KV-Operation"
	headerMarker    = "Nats-Marker-Reason" // of a deletion that the server made
	headerRollup    = "Nats-Rollup"
	headerTTL       = "Nats-TTL"
	headerExpected  = "Nats-Expected-Last-Subject-Sequence"
	opPurge         = "PURGE"
)

// openBucket opens a bucket, making it if it is not there. ttl forgets records that long after their last change; 0: never.
func (c *Conn) openBucket(ctx context.Context, name, description string, ttl time.Duration) (*bucket, error) {
	const window = 2 * time.Minute // in which a write that is sent again is known; longer than persistFor
	stream, err := c.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: "KV_" + name, Description: description, Subjects: []string{"$KV." + name + ".>"}, Storage: jetstream.FileStorage, Replicas: c.replicas,
		MaxMsgsPerSubject: 1, MaxMsgs: -1, MaxBytes: -1, MaxMsgSize: -1, MaxConsumers: -1, MaxAge: ttl, Discard: jetstream.DiscardNew, Duplicates: window,
		AllowRollup: true, DenyDelete: true, AllowMsgTTL: true, SubjectDeleteMarkerTTL: markerKept,
		AllowDirect: c.replicas == 1, // direct reads are the fastest, but any copy answers them
	})
	if err != nil {
		return nil, c.wrapDeclared(ctx, err, "open records %s", name)
	}
	watches, err := c.js.KeyValue(ctx, name)
	if err != nil {
		return nil, wrap(ctx, err, "open records %s", name)
	}
	return &bucket{conn: c, name: name, stream: stream, watches: watches}, nil
}

func (b *bucket) subject(key string) string { return "$KV." + b.name + "." + key }

// last returns the newest message under a key, or below a pattern; ErrMsgNotFound.
func (b *bucket) last(ctx context.Context, key string) (m *jetstream.RawStreamMsg, err error) {
	err = b.conn.persist(ctx, func(ctx context.Context) (err error) {
		m, err = b.stream.GetLastMsgForSubject(ctx, b.subject(key))
		if errors.Is(err, nats.ErrNoResponders) {
			_, _ = b.stream.Info(ctx) // somebody may have added copies, which ends direct reads: the next try knows
		}
		return err
	})
	return m, err
}

// deleted reports whether a message says that its record is gone.
func deleted(m *jetstream.RawStreamMsg) bool {
	return m.Header.Get(headerOperation) != "" || m.Header.Get(headerMarker) != ""
}

// get returns a record's newest message. ErrMsgNotFound, also for one that was deleted.
func (b *bucket) get(ctx context.Context, key string) (*jetstream.RawStreamMsg, error) {
	m, err := b.last(ctx, key)
	if err == nil && deleted(m) {
		return nil, jetstream.ErrMsgNotFound
	}
	return m, err
}

// anyRevision is what a write expects that replaces whatever is there.
const anyRevision = -1

// put stores a record if the newest revision of its key is the expected one; 0: there is none. errChanged.
func (b *bucket) put(ctx context.Context, key string, data []byte, expected int64) (uint64, error) {
	return b.write(ctx, &nats.Msg{Subject: b.subject(key), Data: data, Header: nats.Header{}}, expected)
}

// remove deletes a record; watchers see the deletion for the time of markerKept. errChanged.
func (b *bucket) remove(ctx context.Context, key string, expected int64) error {
	_, err := b.write(ctx, &nats.Msg{Subject: b.subject(key), Header: nats.Header{
		headerOperation: {opPurge}, headerRollup: {"sub"}, headerTTL: {markerKept.String()},
	}}, expected)
	return err
}

// create stores a record if there is none, or none any more. errChanged.
func (b *bucket) create(ctx context.Context, key string, data []byte) (uint64, error) {
	rev, err := b.put(ctx, key, data, 0)
	if !errors.Is(err, errChanged) {
		return rev, err
	}
	m, lerr := b.last(ctx, key)
	switch {
	case errors.Is(lerr, jetstream.ErrMsgNotFound):
		return b.put(ctx, key, data, 0) // it has gone meanwhile
	case lerr != nil:
		return 0, lerr
	case deleted(m):
		return b.put(ctx, key, data, int64(m.Sequence))
	}
	return 0, err
}

// errChanged says that a record is not in the revision that a write expected.
var errChanged = errors.New("changed since")

// write stores a message once, however often it has to be sent: its id tells the server.
func (b *bucket) write(ctx context.Context, m *nats.Msg, expected int64) (rev uint64, err error) {
	m.Header.Set(headerID, uuid.NewString())
	if expected != anyRevision {
		m.Header.Set(headerExpected, strconv.FormatInt(expected, 10))
	}
	err = b.conn.persist(ctx, func(ctx context.Context) error {
		ack, err := b.conn.js.PublishMsg(ctx, m)
		if err == nil {
			rev = ack.Sequence
		}
		return err
	})
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.ErrorCode == wrongSequence || api.ErrorCode == wrongSequenceCluster) {
		err = errChanged
	}
	return rev, err
}

// watch follows the records that a pattern matches: all there are, an entry that is nil, and every change.
func (b *bucket) watch(ctx context.Context, pattern string) (w jetstream.KeyWatcher, err error) {
	err = b.conn.persist(ctx, func(context.Context) (err error) {
		w, err = b.watches.Watch(ctx, pattern) // a watch ends with its context
		return err
	})
	return w, err
}

// newest returns the revision of the last change below a pattern, 0 if there was none. Watches look at any copy: this is how
// far it must have come.
func (b *bucket) newest(ctx context.Context, pattern string) (uint64, error) {
	m, err := b.last(ctx, pattern)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return m.Sequence, nil
}

// scan calls f with every record that a pattern matches, in the order of their last change, until f returns false. With
// one copy a record that changes meanwhile may come twice.
func (b *bucket) scan(ctx context.Context, pattern string, f func(jetstream.KeyValueEntry) bool) error {
	live := func(e jetstream.KeyValueEntry) bool { return e.Operation() != jetstream.KeyValuePut || f(e) }
	if b.conn.replicas == 1 {
		return b.conn.persist(ctx, func(context.Context) error { return b.scanTo(ctx, pattern, 0, live) })
	}
	// A copy that lags shows records as they were, and what became of them only then: the last word counts.
	var last map[string]jetstream.KeyValueEntry
	err := b.conn.persist(ctx, func(try context.Context) error {
		last = map[string]jetstream.KeyValueEntry{}
		target, err := b.newest(try, pattern)
		if err != nil {
			return err
		}
		return b.scanTo(ctx, pattern, target, func(e jetstream.KeyValueEntry) bool { last[e.Key()] = e; return true })
	})
	if err != nil {
		return err
	}
	byRevision := func(a, b jetstream.KeyValueEntry) int { return cmp.Compare(a.Revision(), b.Revision()) }
	for _, e := range slices.SortedFunc(maps.Values(last), byRevision) {
		if !live(e) {
			break
		}
	}
	return nil
}

// scanTo calls f with what a watch shows, deletions among it, and goes at least as far as a revision.
func (b *bucket) scanTo(ctx context.Context, pattern string, target uint64, f func(jetstream.KeyValueEntry) bool) error {
	w, err := b.watches.Watch(ctx, pattern)
	if err != nil {
		return err
	}
	defer func() { _ = w.Stop() }()
	silence := time.NewTimer(tryFor)
	defer silence.Stop()
	whole, seen := false, uint64(0)
	for !whole || seen < target {
		silence.Reset(tryFor)
		select {
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return nats.ErrDisconnected
			case e == nil:
				whole = true // all that this copy held when the watch began
			default:
				if seen = max(seen, e.Revision()); !f(e) {
					return nil
				}
			}
		case <-silence.C:
			// Its server is gone, or the last change has been forgotten since.
			if !whole {
				return nats.ErrTimeout
			}
			if now, err := b.newest(ctx, pattern); err != nil || now > seen {
				return errors.Join(nats.ErrTimeout, err)
			}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
