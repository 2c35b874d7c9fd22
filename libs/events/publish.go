package events

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/clara-suite/clara/libs/clara"
)

// header names of events
const (
	headerID       = nats.MsgIdHdr
	headerService  = "Clara-Service"
	headerSubject  = "Clara-Subject"
	headerReason   = "Clara-Reason"
	headerKind     = "Clara-Kind"
	headerAttempts = "Clara-Attempts"
)

// Publish stores events in the stream and returns when all are on disk. Several are stored in one step, with
// one sync to disk: a batch costs little more than one. id makes the publish itself repeatable: the same id
// within ten minutes is stored once; several events get the id with their number. "" is a fresh one.
// Errors are Invalid (nothing was published) or Unavailable (some may have been).
func (c *Conn) Publish(ctx context.Context, id string, events ...proto.Message) error {
	msgs := make([]*nats.Msg, len(events))
	for i, e := range events {
		subject, err := c.topology.subjectOf(e)
		if err != nil {
			return err
		}
		data, err := protojson.Marshal(e)
		if err != nil {
			return clara.Errorf(clara.Invalid, "encode %s: %w", e.ProtoReflect().Descriptor().Name(), err)
		}
		msgs[i] = &nats.Msg{Subject: subject, Data: data, Header: nats.Header{}}
		switch {
		case id == "":
			msgs[i].Header.Set(headerID, uuid.NewString())
		case len(events) > 1:
			msgs[i].Header.Set(headerID, id+"."+itoa(i))
		default:
			msgs[i].Header.Set(headerID, id)
		}
	}
	return c.send(ctx, msgs)
}

// PublishJSON publishes an event given as JSON on a subject, with or without its collection. The event
// is checked first. Errors are as in Publish.
func (c *Conn) PublishJSON(ctx context.Context, subject string, data []byte) error {
	event, ok := c.topology.eventOf(subject)
	if !ok {
		var known []string
		for _, e := range c.topology.Events {
			known = append(known, e.Subject)
		}
		return clara.Errorf(clara.Invalid, "subject %q is none of the suite's: %s", subject, strings.Join(known, ", "))
	}
	m := event.Message.ProtoReflect().New().Interface()
	if err := protojson.Unmarshal(data, m); err != nil {
		return clara.Errorf(clara.Invalid, "event for %s: %w", subject, err)
	}
	full, err := c.topology.subjectOf(m)
	if err != nil {
		return err
	}
	if subject != event.Subject && subject != full {
		return clara.Errorf(clara.Invalid, "subject %s does not end in the event's collection: it would be %s", subject, full)
	}
	return c.Publish(ctx, "", m)
}

// send publishes prepared messages and waits for all acknowledgements.
func (c *Conn) send(ctx context.Context, msgs []*nats.Msg) error {
	if len(msgs) == 0 {
		return nil
	}
	ctx, span := c.tracer.Start(ctx, "publish "+stem(msgs[0].Subject), trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(attribute.String("messaging.system", "nats"), attribute.Int("messaging.batch.message_count", len(msgs))))
	defer span.End()
	for _, m := range msgs {
		c.prop.Inject(ctx, carrier(m.Header))
	}
	err := c.publishAll(ctx, msgs)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	return err
}

// publishAll stores messages, each of which has an id: whatever has to be sent again is stored once.
func (c *Conn) publishAll(ctx context.Context, msgs []*nats.Msg) error {
	if len(msgs) == 1 {
		err := c.persist(ctx, func(ctx context.Context) error {
			_, err := c.js.PublishMsg(ctx, msgs[0])
			return err
		})
		return wrap(ctx, err, "publish %s", msgs[0].Subject)
	}
	if c.batches {
		var rest []*nats.Msg
		for chunk := range slices.Chunk(msgs, maxBatch) {
			stored := false
			err := c.persist(ctx, func(ctx context.Context) (err error) {
				stored, err = c.publishBatch(ctx, chunk)
				return err
			})
			if err != nil {
				return wrap(ctx, err, "publish %d events", len(chunk))
			}
			if !stored {
				rest = append(rest, chunk...)
			}
		}
		if msgs = rest; len(msgs) == 0 {
			return nil
		}
	}
	all := len(msgs)
	err := c.persist(ctx, func(ctx context.Context) (err error) {
		msgs, err = c.publishEach(ctx, msgs)
		return err
	})
	if err != nil {
		return wrap(ctx, err, "publish %d of %d events", len(msgs), all)
	}
	return nil
}

// publishEach sends messages without waiting for one before the next, and returns those that may not be stored with
// the first reason.
func (c *Conn) publishEach(ctx context.Context, msgs []*nats.Msg) (left []*nats.Msg, err error) {
	futures := make([]jetstream.PubAckFuture, len(msgs))
	for i, m := range msgs {
		if futures[i], err = c.js.PublishMsgAsync(m); err != nil {
			return msgs, err
		}
	}
	for i, f := range futures {
		var fault error
		select {
		case <-f.Ok():
			continue
		case fault = <-f.Err():
		case <-ctx.Done():
			fault = ctx.Err()
		}
		if left = append(left, msgs[i]); err == nil {
			err = fault
		}
	}
	return left, err
}

// maxBatch is the most messages that the server takes in one batch.
const maxBatch = 1000

// publishBatch stores messages of one stream in one step, with one sync to disk for all: that is what makes
// batches cheap. stored is false if the server refused the batch as a whole, as it does when one of the messages was
// stored before (a repeated publish); then nothing of it is stored, and each must be sent by itself.
func (c *Conn) publishBatch(ctx context.Context, msgs []*nats.Msg) (stored bool, err error) {
	id := uuid.NewString()
	for i, m := range msgs {
		part := &nats.Msg{Subject: m.Subject, Data: m.Data, Header: maps.Clone(m.Header)}
		part.Header.Set("Nats-Batch-Id", id)
		part.Header.Set("Nats-Batch-Sequence", itoa(i+1))
		if i < len(msgs)-1 {
			if err := c.nc.PublishMsg(part); err != nil {
				return false, err
			}
			continue
		}
		part.Header.Set("Nats-Batch-Commit", "1")
		reply, err := c.nc.RequestMsgWithContext(ctx, part)
		if err != nil {
			return false, err
		}
		var ack struct {
			Error *jetstream.APIError `json:"error"`
			Count int                 `json:"count"`
		}
		if err := json.Unmarshal(reply.Data, &ack); err != nil {
			return false, clara.Errorf(clara.Unavailable, "answer of the server: %w", err)
		}
		if ack.Error != nil {
			c.log.Debug("batch refused; events are sent one by one", "err", ack.Error)
			return false, nil
		}
		if ack.Count != len(msgs) {
			return false, clara.Errorf(clara.Unavailable, "the server counts %d", ack.Count)
		}
	}
	return true, nil
}

// Announce sends a message over plain NATS: to whoever listens now, stored nowhere. For progress.
// subject is below clara.live; parts are joined with dots.
func (c *Conn) Announce(m proto.Message, subject ...string) error {
	data, err := proto.Marshal(m)
	if err != nil {
		return clara.Errorf(clara.Invalid, "encode %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	if err := c.nc.Publish(liveSubject(subject), data); err != nil {
		return clara.Errorf(kindOf(err), "announce: %w", err)
	}
	return nil
}

// Listen calls f with each message announced on the subject, one at a time, until stop is called. "*" stands for one part.
func Listen[T proto.Message](c *Conn, f func(T), subject ...string) (stop func(), err error) {
	sub, err := c.nc.Subscribe(liveSubject(subject), func(m *nats.Msg) {
		v := newMessage[T]()
		if err := proto.Unmarshal(m.Data, v); err != nil {
			c.log.Warn("announced message does not decode", "subject", m.Subject, "err", err)
			return
		}
		f(v)
	})
	if err != nil {
		return nil, clara.Errorf(kindOf(err), "listen: %w", err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}

func liveSubject(parts []string) string { return "clara.live." + strings.Join(parts, ".") }

// withoutSecrets is an event as it may lie among the dead letters for long: without what its contract marks debug_redact,
// such as passwords. data is the event as it came; it is what is returned of one that can't be read, or has no secrets.
func withoutSecrets(event proto.Message, data []byte) ([]byte, error) {
	if event == nil {
		return data, nil
	}
	clean, found := proto.Clone(event).ProtoReflect(), false
	clean.Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if o, ok := f.Options().(*descriptorpb.FieldOptions); ok && o.GetDebugRedact() {
			clean.Clear(f)
			found = true
		}
		return true
	})
	if !found {
		return data, nil
	}
	out, err := protojson.Marshal(clean.Interface())
	if err != nil {
		return data, fmt.Errorf("encode event: %w", err)
	}
	return out, nil
}

// newMessage makes an empty message of a generated pointer type.
func newMessage[T proto.Message]() T {
	var zero T
	return zero.ProtoReflect().New().Interface().(T)
}

// stem is the subject without its last part, the collection: names of spans must be few.
func stem(subject string) string {
	if i := strings.LastIndexByte(subject, '.'); i > 0 {
		return subject[:i]
	}
	return subject
}

// carrier lets the trace context travel in headers, under the names of the W3C.
type carrier nats.Header

func (c carrier) Get(key string) string { return nats.Header(c).Get(key) }
func (c carrier) Set(key, value string) { nats.Header(c).Set(key, value) }
func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}
