package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/clara-suite/clara/libs/clara"
)

// How long a request waits for its answer before it is sent again, and for how long it is sent again. A server that dies
// takes requests with it, and a cluster needs 4 to 9 s to choose another leader, twice that if votes are split.
const (
	tryFor     = 5 * time.Second
	persistFor = 30 * time.Second
)

// persist does something that may be done twice, again as long as what keeps it from succeeding passes by itself: no
// leader, no answer, a connection that comes back. ctx of do ends with one try.
func (c *Conn) persist(ctx context.Context, do func(context.Context) error) error {
	deadline, pause := time.Now().Add(persistFor), 50*time.Millisecond
	for {
		try, cancel := context.WithTimeout(ctx, tryFor)
		err := do(try)
		cancel()
		if err == nil || ctx.Err() != nil || !c.transient(err) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w (tried for %s)", err, persistFor)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
		pause = min(2*pause, time.Second)
	}
}

// transient reports whether a request that failed may succeed when it is sent again.
func (c *Conn) transient(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode {
		case beingStored:
			return true
		case storeFailed:
			return false // its disk is full, or broken
		case insufficientResources:
			return c.replicas > 1 // the one server that has room is not there; a single one is full
		}
		return api.Code >= 500
	}
	return clara.IsContext(err) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrDisconnected) ||
		errors.Is(err, nats.ErrConnectionReconnecting) || errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, jetstream.ErrAsyncPublishTimeout) ||
		errors.Is(err, jetstream.ErrJetStreamNotEnabled)
}
