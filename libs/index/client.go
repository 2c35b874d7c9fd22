package index

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/index/internal/dialect"
)

// maxMessage bounds what one reply may hold; replies are asked for in pieces far below it.
const maxMessage = 64 << 20

// Options say where the server is.
type Options struct {
	// Addr is host:port of the gRPC endpoint; Qdrant's is port 6334.
	Addr string
	// Dial connects to a server in the same process, in place of Addr, which then only names it in errors.
	Dial func(ctx context.Context) (net.Conn, error)
	// TLS turns transport security on; nil is plain text.
	TLS *tls.Config
	// APIKey is sent with every call if not empty.
	APIKey string
	// Conns is how many connections share the calls; 0 is 2.
	Conns int
	// Timeout bounds the first contact in Open; 0 is 5 s.
	Timeout time.Duration
}

// Client is a connection to a server that holds indexes.
type Client struct {
	q    *qdrant.Client
	addr string
	// nibbles: the server can compare int4 codes as such.
	nibbles bool
}

// Open connects and asks the server for its health.
// It fails with Unavailable, naming the address, if the server can't be
// reached; with Invalid if the address is malformed or is that of Qdrant's HTTP
// port; with Unsupported if the server is older than [MinVersion]; with State
// if it refuses the API key.
func Open(ctx context.Context, o Options) (*Client, error) {
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Conns == 0 {
		o.Conns = 2
	}
	config := &qdrant.Config{
		SkipCompatibilityCheck: true, // it writes to the default logger; the version is checked below
		PoolSize:               uint(o.Conns),
		UseTLS:                 o.TLS != nil,
		TLSConfig:              o.TLS,
		GrpcOptions: []grpc.DialOption{
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		},
	}
	addr := o.Addr
	if o.Dial != nil {
		if addr == "" {
			addr = "the index in this process"
		}
		config.Host, config.Port = "passthrough:///in-process", 1
		config.GrpcOptions = append(config.GrpcOptions,
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return o.Dial(ctx) }))
	} else {
		host, port, err := splitAddr(addr)
		if err != nil {
			return nil, err
		}
		config.Host, config.Port = host, port
	}
	if o.APIKey != "" {
		config.GrpcOptions = append(config.GrpcOptions, grpc.WithChainUnaryInterceptor(
			func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				return next(metadata.AppendToOutgoingContext(ctx, "api-key", o.APIKey), method, req, reply, cc, opts...)
			}))
	}
	q, err := qdrant.NewClient(config)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "index at %s: %w", addr, err)
	}
	c := &Client{q: q, addr: addr}
	if err := c.firstContact(ctx, o); err != nil {
		return nil, errors.Join(err, q.Close())
	}
	return c, nil
}

func splitAddr(addr string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, clara.Errorf(clara.Invalid, "index address %q: %w; give host:port, as in localhost:6334", addr, err)
	}
	if port, err = strconv.Atoi(p); err != nil || port < 1 || port > 65535 {
		return "", 0, clara.Errorf(clara.Invalid, "index address %q: port %q is not a number from 1 to 65535", addr, p)
	}
	if host == "" {
		host = "localhost"
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host, port, nil
}

// MinVersion is the oldest Qdrant that keeps what this package writes: from it
// on, a collection has metadata, where the schema is.
const MinVersion = "1.16.0"

func (c *Client) firstContact(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	reply, err := c.q.HealthCheck(ctx)
	if err != nil {
		if o.Dial == nil && answersHTTP(ctx, o) {
			return clara.Errorf(clara.Invalid, "index at %s: this port speaks HTTP, not gRPC; Qdrant's gRPC port is 6334 (6333 is its HTTP port)", c.addr)
		}
		if status.Code(err) == codes.DeadlineExceeded && ctx.Err() != nil && context.Cause(ctx) == context.DeadlineExceeded {
			return clara.Errorf(clara.Unavailable, "index at %s: no answer within %s", c.addr, o.Timeout)
		}
		return c.fault("connect", "", err)
	}
	c.nibbles = reply.GetTitle() == dialect.Title
	if older(reply.GetVersion(), MinVersion) {
		return clara.Errorf(clara.Unsupported, "index at %s is Qdrant %s: version %s or newer is needed", c.addr, reply.GetVersion(), MinVersion)
	}
	return nil
}

// older reports whether version a is before b; a version that can't be read is not.
func older(a, b string) bool {
	var x, y [3]int
	if n, _ := fmt.Sscanf(a, "%d.%d.%d", &x[0], &x[1], &x[2]); n < 2 {
		return false
	}
	if n, _ := fmt.Sscanf(b, "%d.%d.%d", &y[0], &y[1], &y[2]); n < 2 {
		return false
	}
	for i := range x {
		if x[i] != y[i] {
			return x[i] < y[i]
		}
	}
	return false
}

// answersHTTP reports whether a plain GET of the address gets an HTTP answer that a gRPC endpoint would not give.
func answersHTTP(ctx context.Context, o Options) bool {
	// The call may have used up ctx; the probe has its own short limit.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	scheme := "http"
	if o.TLS != nil {
		scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+o.Addr+"/", nil)
	if err != nil {
		return false
	}
	transport := &http.Transport{TLSClientConfig: o.TLS, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	reply, err := transport.RoundTrip(req)
	if err != nil {
		return false
	}
	defer func() { _ = reply.Body.Close() }() // nothing of it is used
	return !strings.HasPrefix(reply.Header.Get("Content-Type"), "application/grpc")
}

// Addr names the server, for messages.
func (c *Client) Addr() string { return c.addr }

// Health returns nil if the server answers; Unavailable if it does not.
func (c *Client) Health(ctx context.Context) error {
	_, err := c.q.HealthCheck(ctx)
	return c.fault("health", "", err)
}

// Close ends the connections.
func (c *Client) Close() error { return c.q.Close() }

// fault turns what a call returned into a domain error; nil stays nil.
func (c *Client) fault(what, index string, err error) error {
	if err == nil {
		return nil
	}
	where := c.addr
	if index != "" {
		where = index + " at " + c.addr
	}
	var exhausted *qdrant.QdrantResourceExhaustedError
	if errors.As(err, &exhausted) {
		return clara.BusyError(time.Duration(exhausted.RetryAfterS)*time.Second, "index %s: %s: %w", where, what, err)
	}
	kind := clara.Internal
	var st interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &st) {
		return clara.Errorf(kind, "index %s: %s: %w", where, what, err)
	}
	text := st.GRPCStatus().Message()
	switch st.GRPCStatus().Code() {
	case codes.Canceled:
		return fmt.Errorf("index %s: %s: %w", where, what, context.Canceled)
	case codes.DeadlineExceeded:
		return fmt.Errorf("index %s: %s: %w", where, what, context.DeadlineExceeded)
	case codes.NotFound:
		kind = clara.NotFound
	case codes.AlreadyExists:
		kind = clara.Exists
	case codes.InvalidArgument, codes.OutOfRange:
		kind = clara.Invalid
	case codes.Unavailable:
		kind = clara.Unavailable
	case codes.ResourceExhausted:
		kind = clara.Busy
	case codes.Unimplemented:
		kind = clara.Unsupported
	case codes.DataLoss:
		kind = clara.Corrupt
	case codes.FailedPrecondition, codes.Unauthenticated, codes.PermissionDenied:
		kind = clara.State
	case codes.Aborted:
		kind = clara.Conflict
	}
	return clara.Errorf(kind, "index %s: %s: %s", where, what, text)
}
