package rpc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"connectrpc.com/otelconnect"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/clara-suite/clara/libs/clara"
)

// Config is the part of a service's settings that says how it is reached.
type Config struct {
	Listen       string        `help:"Address to listen on, host:port; empty: not at all (only within the process)." env:"CLARA_LISTEN" default:"${listen}"`
	Insecure     bool          `help:"Allow listening beyond loopback without tokens and without TLS." env:"CLARA_INSECURE"`
	AllowHosts   []string      `help:"Names that this server may be called by without tokens and TLS, besides localhost; with --insecure: by its addresses too, and by any name if this is empty." env:"CLARA_ALLOW_HOSTS"`
	TLSCert      string        `name:"tls-cert" help:"Certificate of the server, PEM." env:"CLARA_TLS_CERT" placeholder:"FILE"`
	TLSKey       string        `name:"tls-key" help:"Key of the certificate, PEM." env:"CLARA_TLS_KEY" placeholder:"FILE"`
	TLSClientCA  string        `name:"tls-client-ca" help:"Authority that client certificates must come from, PEM (mTLS)." env:"CLARA_TLS_CLIENT_CA" placeholder:"FILE"`
	TokenFile    string        `help:"File of accepted tokens, one a line: SHA-256 in hex, collections or *, name." env:"CLARA_TOKEN_FILE" placeholder:"FILE"`
	GRPCWeb      bool          `name:"grpc-web" help:"Also answer gRPC-Web." env:"CLARA_GRPC_WEB"`
	AllowOrigins []string      `help:"Origins of web pages that may call (CORS), such as https://app.example.com." env:"CLARA_ALLOW_ORIGINS"`
	MaxMessage   int           `help:"Largest request message, in MiB." default:"64" env:"CLARA_MAX_MESSAGE_MIB"`
	MaxTime      time.Duration `help:"Longest time for a call that brings no deadline of its own and is no stream." default:"10m" env:"CLARA_MAX_TIME"`
}

// Validate gathers what is wrong with the settings in themselves.
func (c Config) Validate() error {
	var faults []error
	if (c.TLSCert == "") != (c.TLSKey == "") {
		faults = append(faults, errors.New("tls-cert and tls-key go together: only one is set"))
	}
	if c.TLSClientCA != "" && c.TLSCert == "" {
		faults = append(faults, errors.New("tls-client-ca needs tls-cert and tls-key"))
	}
	if c.Listen != "" {
		if _, _, err := net.SplitHostPort(c.Listen); err != nil {
			faults = append(faults, fmt.Errorf("listen %q: must be host:port", c.Listen))
		}
	}
	if c.MaxMessage < 0 {
		faults = append(faults, fmt.Errorf("max-message %d: must not be negative", c.MaxMessage))
	}
	return errors.Join(faults...)
}

// Options is what a Server is made from besides its settings. All are optional.
type Options struct {
	Log        *slog.Logger
	Tracer     trace.TracerProvider
	Meter      metric.MeterProvider
	Propagator propagation.TextMapPropagator
	Metrics    http.Handler // served at /metrics
	Readiness  Readiness
	// ListenFlag names the setting in messages about the address. "": --listen.
	ListenFlag string
	// Lists are procedures ("/clara.ingest.v1.IngestService/ListCollections") that name no collection and whose
	// handlers show each caller only what CallerOf allows. Others that name none need a token for all.
	Lists []string
}

// Server serves Connect handlers on one port and in memory.
type Server struct {
	cfg      Config
	opts     Options
	log      *slog.Logger
	tls      *tls.Config
	auth     *authorize // nil: no tokens
	mux      *http.ServeMux
	handlers []connect.HandlerOption
	memory   *memoryListener
	draining context.Context // ends when Drain begins
	drain    context.CancelCauseFunc

	http   *http.Server
	listen net.Listener // nil: in memory only

	mu       sync.Mutex
	services []string
}

// compressFrom is how many bytes a message has that is worth compressing: the pieces of an answer are not.
const compressFrom = 1 << 10

// NewServer reads tokens and certificates and makes a server that does not listen yet. Errors are Invalid.
func NewServer(cfg Config, opts Options) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, clara.Errorf(clara.Invalid, "%w", err)
	}
	if opts.ListenFlag == "" {
		opts.ListenFlag = "--listen"
	}
	s := &Server{cfg: cfg, opts: opts, log: opts.Log, mux: http.NewServeMux(), memory: newMemoryListener()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.draining, s.drain = context.WithCancelCause(context.Background())
	if cfg.TLSCert != "" {
		cert, err := tls.LoadX509KeyPair(cfg.TLSCert, cfg.TLSKey)
		if err != nil {
			return nil, clara.Errorf(clara.Invalid, "read certificate %s: %w", cfg.TLSCert, err)
		}
		s.tls = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
		if cfg.TLSClientCA != "" {
			pool, err := readCA(cfg.TLSClientCA)
			if err != nil {
				return nil, err
			}
			s.tls.ClientCAs, s.tls.ClientAuth = pool, tls.RequireAndVerifyClientCert
		}
	}
	if cfg.TokenFile != "" {
		tokens, err := ReadTokens(cfg.TokenFile)
		if err != nil {
			return nil, err
		}
		s.auth = newAuthorize(tokens, opts.Lists)
	}
	otel, err := otelconnect.NewInterceptor(append(otelOptions(opts.Tracer, opts.Meter, opts.Propagator), otelconnect.WithTrustRemote())...)
	if err != nil {
		return nil, fmt.Errorf("make telemetry of the server: %w", err)
	}
	maxBytes := cfg.MaxMessage << 20
	if maxBytes == 0 {
		maxBytes = 64 << 20
	}
	limits := connect.WithReadMaxBytes(maxBytes)
	// From the outside in: telemetry sees codes, errors sees everything that fails further in.
	chain := []connect.Interceptor{otel, serverErrors{s.log}, bounds{max: cfg.MaxTime, draining: s.draining}}
	if s.auth != nil {
		chain = append(chain, unlessLocal{s.auth})
	}
	recovery := connect.WithRecover(recovered(s.log))
	s.handlers = []connect.HandlerOption{connect.WithInterceptors(chain...), recovery, limits, connect.WithCompressMinBytes(compressFrom)}

	h := health{ready: opts.Readiness, services: s.Services}
	h.register(s.mux, connect.WithInterceptors(serverErrors{slog.New(slog.DiscardHandler)}, bounds{draining: s.draining}), recovery, limits)
	reflector := grpcreflect.NewReflector(namer{s})
	path, handler := grpcreflect.NewHandlerV1(reflector, s.reflectionOptions()...)
	s.mux.Handle(path, handler)
	path, handler = grpcreflect.NewHandlerV1Alpha(reflector, s.reflectionOptions()...)
	s.mux.Handle(path, handler)
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	s.mux.HandleFunc("GET /readyz", h.readyz)
	if opts.Metrics != nil {
		s.mux.Handle("GET /metrics", opts.Metrics)
	}
	return s, nil
}

// reflectionOptions let every holder of a token read the contracts.
func (s *Server) reflectionOptions() []connect.HandlerOption {
	chain := []connect.Interceptor{serverErrors{slog.New(slog.DiscardHandler)}, bounds{draining: s.draining}}
	if s.auth != nil {
		chain = append(chain, unlessLocal{known{s.auth}})
	}
	return []connect.HandlerOption{connect.WithInterceptors(chain...)}
}

// HandlerOptions are what generated NewXxxHandler functions take.
func (s *Server) HandlerOptions() []connect.HandlerOption { return slices.Clone(s.handlers) }

// Handle adds a Connect service, as generated NewXxxHandler functions return it. The service then shows in
// reflection and health.
func (s *Server) Handle(path string, h http.Handler) {
	s.mu.Lock()
	s.services = append(s.services, strings.Trim(path, "/"))
	s.mu.Unlock()
	s.mux.Handle(path, h)
}

// HandleHTTP adds a plain HTTP handler, with a pattern of http.ServeMux. With public false, callers need a
// token where the server has tokens; the handler itself checks collections with CallerOf.
func (s *Server) HandleHTTP(pattern string, h http.Handler, public bool) {
	if s.auth != nil && !public {
		h = s.auth.plain(h)
	}
	s.mux.Handle(pattern, h)
}

// Services returns the names of the services added so far.
func (s *Server) Services() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.services)
}

// Start listens. Errors are Invalid and name the address and the setting.
func (s *Server) Start(ctx context.Context) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{
		Handler:           s.guard(s.mux),
		Protocols:         protocols,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if _, ok := c.(memoryConn); ok {
				return context.WithValue(ctx, localKey{}, true)
			}
			return ctx
		},
	}
	if s.cfg.Listen == "" {
		return nil
	}
	if s.auth == nil && s.tls == nil && !s.cfg.Insecure && !isLoopback(ctx, s.cfg.Listen) {
		return clara.Errorf(clara.Invalid, "%s %s can be reached from other machines, but neither tokens nor TLS are set: "+
			"set a token file or a certificate, listen on 127.0.0.1, or allow it with --insecure", s.opts.ListenFlag, s.cfg.Listen)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", s.cfg.Listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return clara.Errorf(clara.Invalid, "listen on %s: the port is in use by another program; stop it or choose another port with %s", s.cfg.Listen, s.opts.ListenFlag)
	}
	if err != nil {
		return clara.Errorf(clara.Invalid, "listen on %s (%s): %w", s.cfg.Listen, s.opts.ListenFlag, err)
	}
	if s.tls != nil {
		conf := s.tls.Clone()
		conf.NextProtos = []string{"h2", "http/1.1"}
		s.listen = tls.NewListener(l, conf)
	} else {
		s.listen = l
	}
	s.log.Info("listening", "addr", l.Addr().String(), "tls", s.tls != nil, "tokens", s.auth != nil)
	return nil
}

// Run serves until ctx ends or Drain is called.
func (s *Server) Run(ctx context.Context) error {
	listeners := []net.Listener{s.memory}
	if s.listen != nil {
		listeners = append(listeners, s.listen)
	}
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { failed <- s.http.Serve(l) }()
	}
	select {
	case err := <-failed:
		if errors.Is(err, http.ErrServerClosed) {
			<-ctx.Done() // draining: calls in hand go on
			return nil
		}
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
		return nil
	}
}

// Drain takes no more calls and waits for those in hand; streams of methods named Watch.. end at once.
func (s *Server) Drain(ctx context.Context) error {
	s.drain(clara.Errorf(clara.Unavailable, "the server is stopping"))
	if s.http == nil {
		return nil
	}
	return s.http.Shutdown(ctx)
}

// Stop cuts what is still open.
func (s *Server) Stop(context.Context) error {
	s.drain(clara.Errorf(clara.Unavailable, "the server is stopping"))
	_ = s.memory.Close()
	if s.http == nil {
		return nil
	}
	return s.http.Close()
}

// Addr returns the address listened on, with the port that was chosen; "" if there is none.
func (s *Server) Addr() string {
	if s.listen == nil {
		return ""
	}
	return s.listen.Addr().String()
}

// ServeHTTP serves one request as the server would, for tests and for mounting.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.guard(s.mux).ServeHTTP(w, r) }

type localKey struct{}

// isLocal reports whether the call came through the in-memory listener.
func isLocal(ctx context.Context) bool {
	local, _ := ctx.Value(localKey{}).(bool)
	return local
}

// guard is what every request passes: gRPC-Web and CORS as configured, and no web page of another
// origin may use a server that protects itself by listening on loopback only.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isLocal(r.Context()) {
			next.ServeHTTP(w, r)
			return
		}
		if s.auth == nil && s.tls == nil && !s.mayBeCalled(r.Host) {
			http.Error(w, fmt.Sprintf("host %q is not this machine: without tokens and TLS only localhost is served, and what --allow-hosts lists", r.Host), http.StatusForbidden)
			return
		}
		if origin := r.Header.Get("Origin"); origin != "" {
			same := strings.TrimPrefix(strings.TrimPrefix(origin, "http://"), "https://") == r.Host
			allowed := slices.Contains(s.cfg.AllowOrigins, origin) || slices.Contains(s.cfg.AllowOrigins, "*")
			if !same && !allowed {
				http.Error(w, fmt.Sprintf("origin %s is not allowed; --allow-origins lists those that are", origin), http.StatusForbidden)
				return
			}
			if !same {
				h := w.Header()
				h.Set("Access-Control-Allow-Origin", origin)
				h.Add("Vary", "Origin")
				h.Set("Access-Control-Expose-Headers", "Grpc-Status, Grpc-Message, Grpc-Status-Details-Bin, Retry-After")
				if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
					h.Set("Access-Control-Allow-Methods", "GET, POST")
					h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Connect-Protocol-Version, Connect-Timeout-Ms, Grpc-Timeout, X-Grpc-Web, X-User-Agent")
					h.Set("Access-Control-Max-Age", "7200")
					w.WriteHeader(http.StatusNoContent)
					return
				}
			}
		}
		if !s.cfg.GRPCWeb && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc-web") {
			http.Error(w, "gRPC-Web is off; --grpc-web turns it on", http.StatusUnsupportedMediaType)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// mayBeCalled reports whether a Host header names this server: a web page whose name was bent to a loopback address
// would otherwise pass as a page of this server. It holds for published ports of containers too.
func (s *Server) mayBeCalled(host string) bool {
	if s.cfg.Insecure && len(s.cfg.AllowHosts) == 0 || isLoopbackHost(host) {
		return true
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	// An address can't be bent.
	return slices.Contains(s.cfg.AllowHosts, host) || s.cfg.Insecure && net.ParseIP(strings.Trim(host, "[]")) != nil
}

// plain admits HTTP requests that are no RPC.
func (a *authorize) plain(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isLocal(r.Context()) {
			next.ServeHTTP(w, r)
			return
		}
		c, err := a.identify(r.Header)
		if err != nil {
			w.Header().Set("WWW-Authenticate", "Bearer")
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			fault := map[string]any{"error": map[string]any{"message": err.Error(), "type": "authentication_error", "param": nil, "code": "invalid_api_key"}}
			_ = json.NewEncoder(w).Encode(fault) // a client that is gone reads nothing
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

// bounds ends unary calls after max, and watching streams when the server drains.
type bounds struct {
	max      time.Duration
	draining context.Context
}

// WrapUnary gives calls without a deadline one.
func (b bounds) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if _, ok := ctx.Deadline(); !ok && b.max > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, b.max)
			defer cancel()
		}
		return next(ctx, req)
	}
}

// WrapStreamingClient leaves clients alone.
func (b bounds) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler ends streams that only watch: they would hold up the drain for ever.
func (b bounds) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		procedure := conn.Spec().Procedure
		if !strings.HasPrefix(procedure[strings.LastIndexByte(procedure, '/')+1:], "Watch") {
			return next(ctx, conn)
		}
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(b.draining, func() { cancel(context.Cause(b.draining)) })()
		err := next(ctx, conn)
		if b.draining.Err() != nil && clara.IsContext(err) {
			return context.Cause(b.draining)
		}
		return err
	}
}

// unlessLocal applies an interceptor to calls from outside the process only.
type unlessLocal struct{ inner connect.Interceptor }

// WrapUnary skips the inner interceptor for local calls.
func (u unlessLocal) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	inner := u.inner.WrapUnary(next)
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if isLocal(ctx) {
			return next(ctx, req)
		}
		return inner(ctx, req)
	}
}

// WrapStreamingClient leaves clients alone.
func (u unlessLocal) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler skips the inner interceptor for local calls.
func (u unlessLocal) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	inner := u.inner.WrapStreamingHandler(next)
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		if isLocal(ctx) {
			return next(ctx, conn)
		}
		return inner(ctx, conn)
	}
}

// known asks for a valid token and nothing more.
type known struct{ auth *authorize }

// WrapUnary checks the token.
func (k known) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if _, err := k.auth.identify(req.Header()); err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
}

// WrapStreamingClient leaves clients alone.
func (k known) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler checks the token.
func (k known) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		if _, err := k.auth.identify(conn.RequestHeader()); err != nil {
			return err
		}
		return next(ctx, conn)
	}
}

// namer lists services for reflection as they are when asked.
type namer struct{ s *Server }

func (n namer) Names() []string { return append(n.s.Services(), healthService) }

func otelOptions(t trace.TracerProvider, m metric.MeterProvider, p propagation.TextMapPropagator) []otelconnect.Option {
	if p == nil {
		p = propagation.TraceContext{}
	}
	// Peer addresses as metric labels would grow without bound: otelconnect leaves them out unless asked.
	opts := []otelconnect.Option{otelconnect.WithPropagator(p)}
	if t != nil {
		opts = append(opts, otelconnect.WithTracerProvider(t))
	}
	if m != nil {
		opts = append(opts, otelconnect.WithMeterProvider(m))
	}
	return opts
}

func readCA(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "read certificate authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, clara.Errorf(clara.Invalid, "%s holds no PEM certificate", path)
	}
	return pool, nil
}

// isLoopback reports whether every address that the host part stands for is this machine's own.
func isLoopback(ctx context.Context, addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		return false
	}
	if ip := net.ParseIP(host); ip != nil {
		return ip.IsLoopback()
	}
	ips, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil || len(ips) == 0 {
		return false
	}
	return !slices.ContainsFunc(ips, func(a net.IPAddr) bool { return !a.IP.IsLoopback() })
}

// isLoopbackHost reports whether a Host header names this machine itself.
func isLoopbackHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// stack is the stack of the panicking goroutine, cut to what a log line can hold.
func stack() string {
	s := debug.Stack()
	return string(s[:min(len(s), 8<<10)])
}
