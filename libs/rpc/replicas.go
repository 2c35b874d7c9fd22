package rpc

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// addressesFresh is for how long the addresses of a name are used before they are asked for again: a replica that
// was added gets its first call within this time.
const addressesFresh = 2 * time.Second

// replicas spreads calls over all addresses of a server's name. HTTP/2 puts every call to a host on one connection, so
// that without it one replica would do all the work and the others none. A call goes to the address with the
// fewest calls in hand: calls of generation differ in length by a thousand times, and taking turns would pile them up.
// A name with one address is left to the transport.
type replicas struct {
	one    *http.Transport
	host   string
	port   string
	lookup func(ctx context.Context, host string) ([]netip.Addr, error)

	mu        sync.Mutex
	asked     time.Time
	asking    bool
	addresses []netip.Addr // every address, to fall back to
	replicas  []*replica
	turn      int
}

// replica is one address, with connections of its own.
type replica struct {
	addr      netip.Addr
	transport *http.Transport
	calls     int
}

// newReplicas spreads the calls of one over the addresses of host:port.
func newReplicas(one *http.Transport, host, port string, lookup func(context.Context, string) ([]netip.Addr, error)) *replicas {
	if lookup == nil {
		lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	return &replicas{one: one, host: host, port: port, lookup: lookup}
}

// RoundTrip sends the call to the replica that has the least to do.
func (r *replicas) RoundTrip(req *http.Request) (*http.Response, error) {
	r.refresh(req.Context())
	to := r.take()
	if to == nil {
		return r.one.RoundTrip(req)
	}
	resp, err := to.transport.RoundTrip(req)
	if err != nil {
		r.done(to)
		return nil, err
	}
	resp.Body = &countedBody{ReadCloser: resp.Body, done: func() { r.done(to) }}
	return resp, nil
}

// CloseIdleConnections closes connections without a call.
func (r *replicas) CloseIdleConnections() {
	r.one.CloseIdleConnections()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.replicas {
		x.transport.CloseIdleConnections()
	}
}

// refresh asks for the addresses where they are old. Only the first call waits for the answer; a failure keeps what is known.
func (r *replicas) refresh(ctx context.Context) {
	r.mu.Lock()
	first := r.asked.IsZero()
	if r.asking && !first || time.Since(r.asked) < addressesFresh {
		r.mu.Unlock()
		return
	}
	r.asking = true
	r.mu.Unlock()
	if first {
		r.ask(ctx)
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		r.ask(ctx)
	}()
}

func (r *replicas) ask(ctx context.Context) {
	found, err := r.lookup(ctx, r.host)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asking = false
	if ctx.Err() != nil {
		return // the caller went away: the next one asks
	}
	r.asked = time.Now()
	if err != nil || len(found) == 0 {
		return
	}
	r.use(found)
}

// use makes the addresses found the replicas. One machine often has an address of either family, so that one family
// is taken, and the other only fallen back to.
func (r *replicas) use(found []netip.Addr) {
	for i := range found {
		found[i] = found[i].Unmap()
	}
	slices.SortFunc(found, netip.Addr.Compare) // IPv4 first
	found = slices.Compact(found)
	r.addresses = found
	family := found
	if n := slices.IndexFunc(found, netip.Addr.Is6); n > 0 {
		family = found[:n]
	}
	if len(family) == 1 {
		family = nil
	}
	next := make([]*replica, 0, len(family))
	for _, a := range family {
		if i := slices.IndexFunc(r.replicas, func(x *replica) bool { return x.addr == a }); i >= 0 {
			next = append(next, r.replicas[i])
			continue
		}
		t := r.one.Clone()
		t.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) { return r.dial(ctx, network, a) }
		next = append(next, &replica{addr: a, transport: t})
	}
	for _, x := range r.replicas {
		if !slices.Contains(next, x) {
			x.transport.CloseIdleConnections() // calls in hand go on
		}
	}
	r.replicas = next
}

// dial connects to an address, or to another of the same name: one that has just gone is still in the list.
func (r *replicas) dial(ctx context.Context, network string, first netip.Addr) (net.Conn, error) {
	r.mu.Lock()
	addresses := append([]netip.Addr{first}, r.addresses...)
	r.mu.Unlock()
	var errs []error
	for i, a := range addresses {
		if i > 0 && a == first {
			continue
		}
		conn, err := r.one.DialContext(ctx, network, net.JoinHostPort(a.String(), r.port))
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// take picks the replica with the fewest calls, in turn where several have as few, and counts the call; nil: there is
// one address.
func (r *replicas) take() *replica {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.replicas) == 0 {
		return nil
	}
	r.turn++
	least := r.replicas[r.turn%len(r.replicas)]
	for i := range r.replicas {
		if x := r.replicas[(r.turn+i)%len(r.replicas)]; x.calls < least.calls {
			least = x
		}
	}
	least.calls++
	return least
}

func (r *replicas) done(x *replica) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x.calls--
}

// countedBody tells once that a response has ended.
type countedBody struct {
	io.ReadCloser
	once sync.Once
	done func()
}

// Read reads, and tells of the end.
func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.once.Do(b.done)
	}
	return n, err
}

// Close closes, which is an end too.
func (b *countedBody) Close() error {
	b.once.Do(b.done)
	return b.ReadCloser.Close()
}
