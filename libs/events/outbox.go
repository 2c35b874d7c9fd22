package events

import (
	"context"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/clara-suite/clara/libs/clara"
)

// Outbox is a Store whose records carry the events that they still owe. State and debt are stored in one
// step; then the events are published; then the debt is struck out. Whatever happens in between, Run
// publishes what is owed, so an event may come twice and never not at all.
//
// Safe for concurrent use, and by several replicas.
type Outbox[T proto.Message] struct {
	*Store[T]
	conn  *Conn
	owed  func(T) []proto.Message
	clear func(T)

	mu    sync.Mutex
	debts map[string]bool // keys whose publishing failed
}

// NewOutbox makes an outbox of a store: owed reads the events that a record owes, clear strikes them out.
func NewOutbox[T proto.Message](c *Conn, s *Store[T], owed func(T) []proto.Message, clear func(T)) *Outbox[T] {
	return &Outbox[T]{Store: s, conn: c, owed: owed, clear: clear, debts: map[string]bool{}}
}

// Create stores a new record and publishes what it owes. It returns the revision after that and leaves v without
// debts. Once the record is stored there is no error: what cannot be published now is published later.
func (o *Outbox[T]) Create(ctx context.Context, key string, v T) (uint64, error) {
	rev, err := o.Store.Create(ctx, key, v)
	if err != nil {
		o.doubt(key, err)
		return 0, err
	}
	return o.pay(ctx, key, v, rev), nil
}

// Update replaces the record of that revision and publishes what it owes, as Create does. Conflict if it has
// changed since.
func (o *Outbox[T]) Update(ctx context.Context, key string, v T, revision uint64) (uint64, error) {
	rev, err := o.Store.Update(ctx, key, v, revision)
	if err != nil {
		o.doubt(key, err)
		return 0, err
	}
	return o.pay(ctx, key, v, rev), nil
}

// Modify is Store.Modify that publishes what the changed record owes.
func (o *Outbox[T]) Modify(ctx context.Context, key string, change func(T) error) (Entry[T], error) {
	stored := false
	e, err := o.Store.Modify(ctx, key, func(v T) error {
		err := change(v)
		stored = err == nil
		return err
	})
	if err != nil || !stored {
		o.doubt(key, err)
		return e, err
	}
	e.Revision = o.pay(ctx, key, e.Value, e.Revision)
	return e, nil
}

// Put is Store.Put that publishes what the record owes.
func (o *Outbox[T]) Put(ctx context.Context, key string, v T) (uint64, error) {
	rev, err := o.Store.Put(ctx, key, v)
	if err != nil {
		o.doubt(key, err)
		return 0, err
	}
	return o.pay(ctx, key, v, rev), nil
}

// pay publishes what the record of that revision owes and strikes it out. It returns the revision in which
// the record is now, as far as we know.
func (o *Outbox[T]) pay(ctx context.Context, key string, v T, rev uint64) uint64 {
	owed := o.owed(v)
	if len(owed) == 0 {
		return rev
	}
	// A caller that goes away must not turn a stored debt into one that waits for the next scan.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := o.conn.Publish(ctx, o.b.name+"."+key+"."+strconv.FormatUint(rev, 10), owed...); err != nil {
		o.conn.log.WarnContext(ctx, "event not published yet; it stays owed", "record", o.b.name+"/"+key, "err", err)
		o.remember(key)
		return rev
	}
	paid := proto.Clone(v).(T)
	o.clear(paid)
	next, err := o.Store.Update(ctx, key, paid, rev)
	switch {
	case err == nil:
		o.clear(v)
		return next
	case clara.KindOf(err) == clara.Conflict:
		// Whoever changed the record read the debt with it and pays again; consumers are idempotent.
	default:
		o.remember(key)
	}
	return rev
}

// doubt has a record looked at whose write did not answer: it may be stored, with debts that nobody pays before the next scan.
func (o *Outbox[T]) doubt(key string, err error) {
	if clara.KindOf(err) == clara.Unavailable || clara.IsContext(err) {
		o.remember(key)
	}
}

func (o *Outbox[T]) remember(key string) {
	o.mu.Lock()
	o.debts[key] = true
	o.mu.Unlock()
}

// scanEvery is how often Run looks for debts that a replica left behind when it died.
const scanEvery = 5 * time.Minute

// Run publishes what records owe: at the start everything, then what could not be published, and from time
// to time what others left. It ends with ctx.
func (o *Outbox[T]) Run(ctx context.Context) error {
	scan, retry := time.NewTicker(scanEvery), time.NewTicker(time.Second)
	defer scan.Stop()
	defer retry.Stop()
	o.Recover(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-scan.C:
			o.Recover(ctx)
		case <-retry.C:
			o.settle(ctx)
		}
	}
}

// Recover publishes what all records owe now. What fails is tried again by Run.
func (o *Outbox[T]) Recover(ctx context.Context) {
	for e, err := range o.Scan(ctx, "") {
		if err != nil {
			if ctx.Err() == nil {
				o.conn.log.WarnContext(ctx, "look for owed events", "records", o.b.name, "err", err)
			}
			return
		}
		if len(o.owed(e.Value)) > 0 {
			o.pay(ctx, e.Key, e.Value, e.Revision)
		}
	}
}

// settle tries the remembered debts again.
func (o *Outbox[T]) settle(ctx context.Context) {
	o.mu.Lock()
	debts := o.debts
	o.debts = map[string]bool{}
	o.mu.Unlock()
	for key := range debts {
		e, err := o.Get(ctx, key)
		switch {
		case err == nil:
			o.pay(ctx, key, e.Value, e.Revision)
		case clara.KindOf(err) != clara.NotFound:
			o.remember(key)
		}
	}
}
