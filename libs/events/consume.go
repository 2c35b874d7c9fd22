package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/clara-suite/clara/libs/clara"
)

// Handler does the work of one kind of event. Handle is idempotent: it may see an event again, even while an
// earlier delivery is still at work. ctx ends when the process stops.
type Handler[T proto.Message] interface {
	Handle(ctx context.Context, event T) error
}

// Parker is a Handler that is told when an event is given up, before it is parked, so that it can end the
// job the event belongs to. It may be told more than once. If it fails, the event stays and is tried again.
type Parker[T proto.Message] interface {
	Parked(ctx context.Context, event T, reason error) error
}

// HandlerFunc is a function that is a Handler.
type HandlerFunc[T proto.Message] func(ctx context.Context, event T) error

// Handle calls the function.
func (f HandlerFunc[T]) Handle(ctx context.Context, event T) error { return f(ctx, event) }

// ConsumerOptions set how much a consumer does at once and how long it tries. Zero values are the defaults.
type ConsumerOptions struct {
	Concurrency int           // events at work at once; 1
	MaxAttempts int           // starts of an event before it is given up; 5
	MaxWait     time.Duration // time an event may wait for what it needs, from its first start; 24 h
	BackoffMin  time.Duration // first delay; 1 s
	BackoffMax  time.Duration // 2 min
}

// Consumer takes one service's events of one kind from the stream. Run it as a unit of lifecycle.
type Consumer struct {
	conn    *Conn
	durable Durable
	opts    ConsumerOptions
	log     *slog.Logger
	handle  func(ctx context.Context, m proto.Message) error
	parked  func(ctx context.Context, m proto.Message, reason error) error
	decode  func(data []byte) (proto.Message, error)

	handled metric.Int64Counter
	seconds metric.Float64Histogram

	slots    chan struct{} // one for each event at work
	draining chan struct{}
	drain    sync.Once
	starting sync.Mutex     // orders begin and Drain
	idle     sync.WaitGroup // the fetch loop and the events at work
}

// NewConsumer makes a consumer of the events of type T for a service. The topology must have it; Internal if not.
func NewConsumer[T proto.Message](conn *Conn, service string, h Handler[T], opts ConsumerOptions) (*Consumer, error) {
	name := newMessage[T]().ProtoReflect().Descriptor().FullName()
	c := &Consumer{conn: conn, opts: opts, draining: make(chan struct{})}
	for _, e := range conn.topology.Events {
		for _, d := range conn.topology.Durables {
			if e.Message.ProtoReflect().Descriptor().FullName() == name && d.Subject == e.Subject && d.Service == service {
				c.durable = d
			}
		}
	}
	if c.durable.Subject == "" {
		return nil, clara.Errorf(clara.Internal, "the topology has no consumer of %s for %s", name, service)
	}
	if c.opts.Concurrency <= 0 {
		c.opts.Concurrency = 1
	}
	if c.opts.MaxAttempts <= 0 {
		c.opts.MaxAttempts = 5
	}
	if c.opts.MaxWait <= 0 {
		c.opts.MaxWait = 24 * time.Hour
	}
	if c.opts.BackoffMin <= 0 {
		c.opts.BackoffMin = time.Second
	}
	if c.opts.BackoffMax <= 0 {
		c.opts.BackoffMax = 2 * time.Minute
	}
	c.slots = make(chan struct{}, c.opts.Concurrency)
	c.log = conn.log.With("consumer", c.durable.name())
	c.decode = func(data []byte) (proto.Message, error) {
		m := newMessage[T]()
		return m, protojson.Unmarshal(data, m)
	}
	c.handle = func(ctx context.Context, m proto.Message) error { return h.Handle(ctx, m.(T)) }
	c.parked = func(context.Context, proto.Message, error) error { return nil }
	if p, ok := h.(Parker[T]); ok {
		c.parked = func(ctx context.Context, m proto.Message, reason error) error { return p.Parked(ctx, m.(T), reason) }
	}
	var err, err2 error
	c.handled, err = conn.meter.Int64Counter("clara_events_handled", metric.WithDescription("Events by consumer and result."))
	c.seconds, err2 = conn.meter.Float64Histogram("clara_events_seconds", metric.WithDescription("Time at work on an event."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600))
	return c, errors.Join(err, err2)
}

// fetchWait is how long the server keeps a request for events open, and so the longest that events can come after a drain.
const fetchWait = time.Second

// begin counts Run among what a drain waits for, unless the drain was first: a process that stops right after it
// has started drains consumers whose Run has not begun.
func (c *Consumer) begin() bool {
	c.starting.Lock()
	defer c.starting.Unlock()
	if c.isDraining() {
		return false
	}
	c.idle.Add(1)
	return true
}

// Run takes events until Drain is called or ctx ends, and returns when none is at work any more.
func (c *Consumer) Run(ctx context.Context) error {
	if !c.begin() {
		return nil
	}
	defer c.idle.Done()
	defer c.awaitSlots()
	var durable jetstream.Consumer
	for failures := 0; ctx.Err() == nil && !c.isDraining(); {
		var err error
		if durable == nil {
			durable, err = c.conn.js.Consumer(ctx, c.conn.topology.Stream, c.durable.name())
		}
		if err == nil {
			err = c.fetch(ctx, durable)
		}
		if err == nil || ctx.Err() != nil {
			failures = 0
			continue
		}
		if failures++; failures == 1 {
			c.log.Warn("cannot take events; trying on", "err", err)
		}
		durable = nil
		c.pause(ctx, min(time.Duration(failures)*200*time.Millisecond, 5*time.Second))
	}
	return nil
}

// Queued reports whether events wait for this consumer, or are at work in any of its replicas. Unavailable.
func (c *Consumer) Queued(ctx context.Context) (bool, error) {
	durable, err := c.conn.js.Consumer(ctx, c.conn.topology.Stream, c.durable.name())
	if err != nil {
		return false, wrap(ctx, err, "look up consumer %s", c.durable.name())
	}
	info, err := durable.Info(ctx)
	if err != nil {
		return false, wrap(ctx, err, "look up consumer %s", c.durable.name())
	}
	return info.NumPending > 0 || info.NumAckPending > 0, nil
}

// fetch takes as many events as there are free slots, waiting for the first slot and for a while for
// events, and starts work on each. Nothing is taken that cannot be worked on at once: it would be
// another replica's to do.
func (c *Consumer) fetch(ctx context.Context, durable jetstream.Consumer) error {
	select {
	case c.slots <- struct{}{}:
	case <-c.draining:
		return nil
	case <-ctx.Done():
		return nil
	}
	free := 1
	for free < c.opts.Concurrency {
		select {
		case c.slots <- struct{}{}:
			free++
			continue
		default:
		}
		break
	}
	defer func() {
		for range free {
			<-c.slots
		}
	}()
	batch, err := durable.Fetch(free, jetstream.FetchMaxWait(fetchWait))
	if err != nil {
		return err
	}
	msgs := batch.Messages()
	for {
		select {
		case msg, ok := <-msgs:
			if !ok {
				return batch.Error()
			}
			free--
			c.idle.Add(1)
			go func() {
				defer c.idle.Done()
				defer func() { <-c.slots }()
				c.work(ctx, msg)
			}()
		case <-c.draining:
			go giveBack(msgs)
			return nil
		case <-ctx.Done():
			go giveBack(msgs)
			return nil
		}
	}
}

// giveBack returns what a fetch still brings after the consumer has stopped taking, until the fetch ends.
func giveBack(msgs <-chan jetstream.Msg) {
	for msg := range msgs {
		_ = msg.Nak() // if the connection is gone too, the ack wait gives it back
	}
}

// Drain stops taking events and waits for those at work, as long as ctx allows.
func (c *Consumer) Drain(ctx context.Context) error {
	c.drain.Do(func() {
		c.starting.Lock()
		close(c.draining)
		c.starting.Unlock()
	})
	done := make(chan struct{})
	go func() { c.idle.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Consumer) isDraining() bool {
	select {
	case <-c.draining:
		return true
	default:
		return false
	}
}

// awaitSlots returns when no event is at work.
func (c *Consumer) awaitSlots() {
	for range c.opts.Concurrency {
		c.slots <- struct{}{}
	}
	for range c.opts.Concurrency {
		<-c.slots
	}
}

func (c *Consumer) pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-c.draining:
	case <-ctx.Done():
	}
}

// record is what is stored of the attempts at an event, under durable and stream sequence.
type record struct {
	Attempts int       `json:"attempts"` // starts that count
	Waits    int       `json:"waits"`    // starts that ended for want of something, in a row
	First    time.Time `json:"first"`
}

type idKey struct{}

// ID names the event that a handler's ctx is of: the same for every delivery of it, and no other's.
func ID(ctx context.Context) string {
	id, _ := ctx.Value(idKey{}).(string)
	return id
}

// attemptsKept is how long records of attempts live after their last change; longer than any MaxWait of use.
const attemptsKept = 7 * 24 * time.Hour

// work handles one delivery from its first heartbeat to its acknowledgement.
func (c *Consumer) work(ctx context.Context, msg jetstream.Msg) {
	begin := time.Now()
	stop := c.heartbeat(msg)
	defer stop()
	meta, err := msg.Metadata()
	if err != nil {
		c.log.Error("delivery without metadata", "subject", msg.Subject(), "err", err)
		_ = msg.Term()
		return
	}
	ctx = c.conn.prop.Extract(ctx, carrier(msg.Headers()))
	ctx, span := c.conn.tracer.Start(ctx, "process "+c.durable.Subject, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.String("messaging.system", "nats"), attribute.String("messaging.consumer.group.name", c.durable.Service),
		attribute.Int64("clara.event.sequence", int64(meta.Sequence.Stream))))
	defer span.End()

	ctx = context.WithValue(ctx, idKey{}, strconv.FormatUint(meta.Sequence.Stream, 10))
	key := c.durable.name() + "." + ID(ctx)
	rec, err := c.attempt(ctx, key)
	if err != nil {
		c.finish(ctx, msg, "postponed", msg.NakWithDelay(c.opts.BackoffMin), begin, err)
		return
	}
	event, err := c.decode(msg.Data())
	switch {
	case err != nil:
		event, err = nil, clara.Errorf(clara.Invalid, "decode event: %w", err)
	case rec.Attempts > c.opts.MaxAttempts:
		// The last attempt never came back: it took the process with it, or its answer was lost.
		err = clara.Errorf(clara.Internal, "given up after %d attempts, the last of which did not end", c.opts.MaxAttempts)
	default:
		err = c.call(ctx, event)
	}
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	c.settle(ctx, msg, key, rec, event, err, begin)
}

// settle acknowledges by what the handler returned.
func (c *Consumer) settle(ctx context.Context, msg jetstream.Msg, key string, rec record, event proto.Message, err error, begin time.Time) {
	if err == nil {
		c.finish(ctx, msg, "done", msg.Ack(), begin, nil)
		return
	}
	kind := clara.KindOf(err)
	if kind == clara.Internal && clara.IsContext(err) && ctx.Err() != nil {
		// The process stops: another takes the event at once, and this attempt does not count.
		rec.Attempts--
		c.store(ctx, key, rec)
		c.finish(ctx, msg, "returned", msg.Nak(), begin, err)
		return
	}
	var delay time.Duration
	switch kind {
	case clara.Exists, clara.NotFound:
		c.finish(ctx, msg, "done", msg.Ack(), begin, err)
		return
	case clara.Invalid, clara.Unsupported, clara.Corrupt, clara.Denied, clara.Unauthenticated:
		c.park(ctx, msg, key, rec, event, err, begin)
		return
	case clara.State, clara.Conflict, clara.Busy, clara.Unavailable:
		if time.Since(rec.First) > c.opts.MaxWait {
			c.park(ctx, msg, key, rec, event, fmt.Errorf("given up after waiting %s: %w", c.opts.MaxWait, err), begin)
			return
		}
		rec.Attempts--
		rec.Waits++
		c.store(ctx, key, rec)
		delay = c.backoff(rec.Waits)
		if after := clara.RetryAfter(err); after > 0 {
			delay = max(after, c.opts.BackoffMin)
		}
		c.finish(ctx, msg, "waiting", msg.NakWithDelay(delay), begin, err)
		return
	}
	if rec.Attempts >= c.opts.MaxAttempts {
		c.park(ctx, msg, key, rec, event, err, begin)
		return
	}
	delay = c.backoff(rec.Attempts)
	c.finish(ctx, msg, "failed", msg.NakWithDelay(delay), begin, err)
}

// park tells the handler, stores the event in the dead-letter stream and takes it out of its own, in this order.
func (c *Consumer) park(ctx context.Context, msg jetstream.Msg, key string, rec record, event proto.Message, reason error, begin time.Time) {
	if event != nil {
		if err := c.callParked(ctx, event, reason); err != nil {
			rec.Waits++
			c.store(ctx, key, rec)
			c.finish(ctx, msg, "failed", msg.NakWithDelay(c.backoff(rec.Waits)), begin, fmt.Errorf("give up event (%w): %w", reason, err))
			return
		}
	}
	subject := strings.TrimPrefix(msg.Subject(), retryPrefix+c.durable.Service+".")
	data, err := withoutSecrets(event, msg.Data())
	if err != nil {
		c.log.WarnContext(ctx, "dead letter keeps its secrets", "subject", subject, "err", err)
	}
	dead := &nats.Msg{Subject: deadPrefix + c.durable.Service + "." + subject, Data: data, Header: nats.Header{}}
	for k, v := range msg.Headers() {
		if !strings.HasPrefix(k, "Nats-") {
			dead.Header[k] = v
		}
	}
	dead.Header.Set(headerID, "dead."+key)
	dead.Header.Set(headerService, c.durable.Service)
	dead.Header.Set(headerSubject, subject)
	dead.Header.Set(headerReason, oneLine(reason.Error()))
	dead.Header.Set(headerKind, clara.KindOf(reason).String())
	dead.Header.Set(headerAttempts, strconv.Itoa(min(rec.Attempts, c.opts.MaxAttempts)))
	if err := c.conn.publishAll(ctx, []*nats.Msg{dead}); err != nil {
		c.finish(ctx, msg, "failed", msg.NakWithDelay(c.backoff(rec.Attempts)), begin, fmt.Errorf("park event (%w): %w", reason, err))
		return
	}
	c.finish(ctx, msg, "parked", msg.TermWithReason(clara.KindOf(reason).String()), begin, reason)
}

// finish counts and logs what became of a delivery.
func (c *Consumer) finish(ctx context.Context, msg jetstream.Msg, result string, ackErr error, begin time.Time, err error) {
	took := time.Since(begin)
	attrs := metric.WithAttributes(attribute.String("consumer", c.durable.name()), attribute.String("result", result))
	c.handled.Add(ctx, 1, attrs)
	c.seconds.Record(ctx, took.Seconds(), attrs)
	level := slog.LevelDebug
	switch result {
	case "waiting", "postponed", "returned":
		level = slog.LevelInfo
	case "failed":
		level = slog.LevelWarn
	case "parked":
		level = slog.LevelError
	}
	args := []any{"subject", msg.Subject(), "result", result, "took", took}
	if err != nil {
		args = append(args, "err", err)
	}
	c.log.Log(ctx, level, "event", args...)
	if ackErr != nil && !errors.Is(ackErr, nats.ErrConnectionClosed) {
		// The event comes again after the ack wait; handlers are idempotent.
		c.log.WarnContext(ctx, "event not acknowledged", "subject", msg.Subject(), "err", ackErr)
	}
}

// attempt counts one more attempt before it begins.
func (c *Consumer) attempt(ctx context.Context, key string) (record, error) {
	rec := record{First: time.Now()}
	m, err := c.conn.attempts.get(ctx, key)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
	case err != nil:
		return rec, wrap(ctx, err, "read attempts")
	default:
		if err := json.Unmarshal(m.Data, &rec); err != nil {
			return rec, clara.Errorf(clara.Corrupt, "read attempts %s: %w", key, err)
		}
	}
	rec.Attempts++
	data, err := json.Marshal(rec)
	if err != nil {
		return rec, fmt.Errorf("encode attempts: %w", err)
	}
	_, err = c.conn.attempts.put(ctx, key, data, anyRevision)
	return rec, wrap(ctx, err, "count attempt")
}

// store corrects the record after an attempt that does not count. If it fails, the attempt counts.
func (c *Consumer) store(ctx context.Context, key string, rec record) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	data, err := json.Marshal(rec)
	if err == nil {
		_, err = c.conn.attempts.put(ctx, key, data, anyRevision)
	}
	if err != nil {
		c.log.WarnContext(ctx, "attempt not taken back", "key", key, "err", err)
	}
}

// call runs the handler; a panic is an error like others.
func (c *Consumer) call(ctx context.Context, event proto.Message) (err error) {
	defer c.recover(ctx, &err)
	return c.handle(ctx, event)
}

func (c *Consumer) callParked(ctx context.Context, event proto.Message, reason error) (err error) {
	defer c.recover(ctx, &err)
	return c.parked(ctx, event, reason)
}

func (c *Consumer) recover(ctx context.Context, err *error) {
	if p := recover(); p != nil {
		c.log.ErrorContext(ctx, "event handler panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		*err = clara.Errorf(clara.Internal, "panic in handler of %s: %v", c.durable.Subject, p)
	}
}

// heartbeat tells the server that the event is at work, until stop.
func (c *Consumer) heartbeat(msg jetstream.Msg) (stop func()) {
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(c.conn.topology.AckWait / 4)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if err := msg.InProgress(); err != nil {
					c.log.Debug("heartbeat not sent", "err", err)
				}
			case <-done:
				return
			}
		}
	}()
	return sync.OnceFunc(func() { close(done) })
}

// backoff is the delay before start n+1: doubling, at most BackoffMax, a random quarter off so that
// events that failed together do not come back together.
func (c *Consumer) backoff(n int) time.Duration {
	d := c.opts.BackoffMax
	if shift := max(n-1, 0); shift < 30 && c.opts.BackoffMin<<shift < d {
		d = c.opts.BackoffMin << shift
	}
	return d - rand.N(d/4+1)
}

// oneLine makes a text fit for a header.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 2000 {
		s = strings.ToValidUTF8(s[:2000], "") + " .."
	}
	return s
}

func itoa(i int) string { return strconv.Itoa(i) }
