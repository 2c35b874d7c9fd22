package events

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/clara-suite/clara/libs/clara"
)

// DeadLetter is an event that its consumer gave up.
type DeadLetter struct {
	Sequence   uint64 // names it
	Service    string
	Subject    string // of the event, collection included
	Collection string
	Reason     string
	Kind       string
	Attempts   int
	Time       time.Time
	Data       []byte // the event, JSON
}

// Dead calls f with the parked events of a service, oldest first, until f returns an error; service "" is all.
func (c *Conn) Dead(ctx context.Context, service string, f func(DeadLetter) error) error {
	stream, err := c.js.Stream(ctx, c.topology.DeadStream)
	if err != nil {
		return wrap(ctx, err, "open dead letters")
	}
	filter := deadPrefix + ">"
	if service != "" {
		filter = deadPrefix + service + ".>"
	}
	for seq := uint64(0); ; {
		msg, err := stream.GetMsg(ctx, seq+1, jetstream.WithGetMsgSubject(filter))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return wrap(ctx, err, "read dead letter")
		}
		if err := f(deadLetter(msg)); err != nil {
			return err
		}
		seq = msg.Sequence
	}
}

func deadLetter(msg *jetstream.RawStreamMsg) DeadLetter {
	attempts, _ := strconv.Atoi(msg.Header.Get(headerAttempts)) // written by park; 0 says as much
	subject := msg.Header.Get(headerSubject)
	return DeadLetter{
		Sequence: msg.Sequence, Service: msg.Header.Get(headerService), Subject: subject,
		Collection: subject[strings.LastIndexByte(subject, '.')+1:], Reason: msg.Header.Get(headerReason),
		Kind: msg.Header.Get(headerKind), Attempts: attempts, Time: msg.Time, Data: msg.Data,
	}
}

// Replay gives a parked event back to the consumer that gave it up, with all its attempts, and takes it out of
// the dead letters. NotFound if there is no such event.
func (c *Conn) Replay(ctx context.Context, sequence uint64) error {
	stream, err := c.js.Stream(ctx, c.topology.DeadStream)
	if err != nil {
		return wrap(ctx, err, "open dead letters")
	}
	msg, err := stream.GetMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return clara.Errorf(clara.NotFound, "no event %d was given up; clara events dead lists those that were", sequence)
	}
	if err != nil {
		return wrap(ctx, err, "read dead letter %d", sequence)
	}
	letter := deadLetter(msg)
	again := &nats.Msg{Subject: retryPrefix + letter.Service + "." + letter.Subject, Data: msg.Data, Header: nats.Header{}}
	for k, v := range msg.Header {
		if !strings.HasPrefix(k, "Nats-") && !strings.HasPrefix(k, "Clara-") {
			again.Header[k] = v
		}
	}
	again.Header.Set(headerID, "replay."+strconv.FormatUint(sequence, 10))
	if err := c.publishAll(ctx, []*nats.Msg{again}); err != nil {
		return err
	}
	return c.Discard(ctx, sequence)
}

// Discard removes a parked event for good; one that is gone already is no error.
func (c *Conn) Discard(ctx context.Context, sequence uint64) error {
	stream, err := c.js.Stream(ctx, c.topology.DeadStream)
	if err != nil {
		return wrap(ctx, err, "open dead letters")
	}
	err = stream.DeleteMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		// The client hides the reason: look whether it is gone.
		if _, gerr := stream.GetMsg(ctx, sequence); errors.Is(gerr, jetstream.ErrMsgNotFound) {
			return nil
		}
	}
	return wrap(ctx, err, "discard dead letter %d", sequence)
}
