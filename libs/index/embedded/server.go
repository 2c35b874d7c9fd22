package embedded

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/clara-suite/clara/libs/index/internal/dialect"
	"google.golang.org/grpc/test/bufconn"
)

const (
	// protocol is the version of Qdrant whose protocol this is.
	protocol = "1.17.0"
	// maxMessage bounds a request and a reply.
	maxMessage = 64 << 20
	// inProcessBuffer is what a connection within the process holds each way.
	inProcessBuffer = 1 << 20
)

// Options of a server.
type Options struct {
	// Dir is the data folder; it is made if it does not exist.
	Dir string
	// Log takes what an operator should know: torn records cut off, compactions. Nil is silence.
	Log *slog.Logger
}

// Server keeps collections in a folder and serves them.
type Server struct {
	store *store
	inner *grpc.Server // connections within the process
	local *bufconn.Listener

	mu     sync.Mutex
	outer  []*grpc.Server
	closed bool
	wg     sync.WaitGroup
}

// Open opens the data folder. It fails with State if another server has it
// open, with Corrupt, naming the file and place, if what was acknowledged does
// not read back.
func Open(o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	st, err := openStore(o.Dir, o.Log)
	if err != nil {
		return nil, err
	}
	s := &Server{store: st, local: bufconn.Listen(inProcessBuffer)}
	s.inner = s.newGRPC()
	s.wg.Go(func() { _ = s.inner.Serve(s.local) }) // ends with nil when stopped
	return s, nil
}

// Dial connects to the server within the process.
func (s *Server) Dial(ctx context.Context) (net.Conn, error) { return s.local.DialContext(ctx) }

// ServeOptions protect a listener.
type ServeOptions struct {
	TLS    *tls.Config // nil: plain text
	APIKey string      // empty: none asked for
}

// Serve answers on a listener until ctx ends or the server is closed, then
// closes it. Calls under way when ctx ends are let finish for up to ten seconds.
func (s *Server) Serve(ctx context.Context, l net.Listener, o ServeOptions) error {
	var options []grpc.ServerOption
	if o.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(o.TLS)))
	}
	if o.APIKey != "" {
		options = append(options, grpc.ChainUnaryInterceptor(wantKey(o.APIKey)))
	}
	g := s.newGRPC(options...)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errors.Join(errors.New("index server is closed"), l.Close())
	}
	s.outer = append(s.outer, g)
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { drain(g) })
	defer stop()
	return g.Serve(l)
}

func drain(g *grpc.Server) {
	late := time.AfterFunc(10*time.Second, g.Stop)
	g.GracefulStop()
	late.Stop()
}

// Close ends all connections, waits for calls under way, and gives the folder free.
func (s *Server) Close() error {
	s.mu.Lock()
	outer := s.outer
	s.closed = true
	s.mu.Unlock()
	for _, g := range outer {
		g.Stop()
	}
	s.inner.Stop()
	s.wg.Wait()
	return s.store.close()
}

func (s *Server) newGRPC(options ...grpc.ServerOption) *grpc.Server {
	g := grpc.NewServer(append(options,
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.WaitForHandlers(true),
		grpc.ChainUnaryInterceptor(nameUnimplemented),
		// Qdrant's client pings every 10 s, also without calls.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			method, _ := grpc.MethodFromServerStream(stream)
			return unimplemented(method)
		}),
	)...)
	qdrant.RegisterQdrantServer(g, health{})
	qdrant.RegisterCollectionsServer(g, &collections{store: s.store})
	qdrant.RegisterPointsServer(g, &points{store: s.store})
	return g
}

func unimplemented(what string) error {
	return status.Errorf(codes.Unimplemented, "%s: the embedded index does not do this; use a Qdrant server", what)
}

// nameUnimplemented replaces the generated answer to calls that the server does not do.
func nameUnimplemented(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	reply, err := next(ctx, req)
	if status.Code(err) == codes.Unimplemented && strings.HasPrefix(status.Convert(err).Message(), "method ") {
		return nil, unimplemented(info.FullMethod)
	}
	return reply, err
}

func wantKey(key string) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		given := md.Get("api-key")
		if len(given) != 1 || subtle.ConstantTimeCompare([]byte(given[0]), []byte(key)) != 1 {
			return nil, status.Error(codes.Unauthenticated, "the API key is missing or wrong")
		}
		return next(ctx, req)
	}
}

type health struct {
	qdrant.UnimplementedQdrantServer
}

// HealthCheck answers while the server runs.
func (health) HealthCheck(context.Context, *qdrant.HealthCheckRequest) (*qdrant.HealthCheckReply, error) {
	return &qdrant.HealthCheckReply{Title: dialect.Title, Version: protocol}, nil
}
