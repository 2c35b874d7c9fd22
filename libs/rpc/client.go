package rpc

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/otelconnect"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/clara-suite/clara/libs/clara"
)

// ClientConfig is the part of a program's settings that says how it calls others.
type ClientConfig struct {
	Token   string        `help:"Token to call other services with." env:"CLARA_TOKEN" secret:"" json:"-"`
	TLSCA   string        `name:"tls-ca" help:"Authority of the servers' certificates, PEM; empty: the system's." env:"CLARA_TLS_CA" placeholder:"FILE"`
	TLSCert string        `name:"tls-cert" help:"Client certificate, PEM (mTLS)." env:"CLARA_CLIENT_TLS_CERT" placeholder:"FILE"`
	TLSKey  string        `name:"tls-key" help:"Key of the client certificate, PEM." env:"CLARA_CLIENT_TLS_KEY" placeholder:"FILE"`
	Timeout time.Duration `help:"Time for a call that is no stream; 0: none." default:"5m" env:"CLARA_TIMEOUT"`
}

// ClientOptions is what a Client is made from besides its settings. All are optional.
type ClientOptions struct {
	Tracer     trace.TracerProvider
	Meter      metric.MeterProvider
	Propagator propagation.TextMapPropagator
	// Lookup finds the addresses of a server's name; nil: the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Interceptors run inside those of this package.
	Interceptors []connect.Interceptor
}

// Client is what generated NewXxxClient functions take: NewXxxClient(c.HTTP, c.URL, c.Options()...).
// Safe for concurrent use.
type Client struct {
	HTTP *http.Client
	URL  string

	options []connect.ClientOption
}

// Options are the client options of generated constructors.
func (c *Client) Options() []connect.ClientOption { return slices.Clone(c.options) }

// Close closes idle connections.
func (c *Client) Close() { c.HTTP.CloseIdleConnections() }

// Dial makes a client of the server at an address: host:port, http://host:port or https://host:port. It does
// not connect yet. Where the name has several addresses, calls are spread over them. Errors are Invalid.
func Dial(address string, cfg ClientConfig, opts ClientOptions) (*Client, error) {
	if !strings.Contains(address, "://") {
		scheme := "http://"
		if cfg.TLSCA != "" || cfg.TLSCert != "" {
			scheme = "https://"
		}
		address = scheme + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, clara.Errorf(clara.Invalid, "address %q: must be host:port, http://host:port or https://host:port", address)
	}
	transport := newTransport()
	if u.Scheme == "https" {
		transport.Protocols.SetHTTP2(true)
		transport.Protocols.SetUnencryptedHTTP2(false)
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if cfg.TLSCA != "" {
			if transport.TLSClientConfig.RootCAs, err = readCA(cfg.TLSCA); err != nil {
				return nil, err
			}
		}
		if cfg.TLSCert != "" {
			cert, err := tls.LoadX509KeyPair(cfg.TLSCert, cfg.TLSKey)
			if err != nil {
				return nil, clara.Errorf(clara.Invalid, "read client certificate %s: %w", cfg.TLSCert, err)
			}
			transport.TLSClientConfig.Certificates = []tls.Certificate{cert}
		}
	}
	transport.DialContext = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	var sender http.RoundTripper = transport
	if _, err := netip.ParseAddr(u.Hostname()); err != nil {
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
		}
		sender = newReplicas(transport, u.Hostname(), port, opts.Lookup)
	}
	return newClient(&http.Client{Transport: sender}, strings.TrimSuffix(u.String(), "/"), cfg, opts)
}

// Client returns a client that reaches the server in memory. Such calls need no token.
func (s *Server) Client(cfg ClientConfig, opts ClientOptions) (*Client, error) {
	transport := newTransport()
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return s.memory.dial(ctx) }
	return newClient(&http.Client{Transport: transport}, "http://memory", cfg, opts)
}

// newTransport speaks HTTP/2 without TLS: streams in both directions, and many calls on one connection.
func newTransport() *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{
		Protocols:          protocols,
		DisableCompression: true, // connect does its own
		IdleConnTimeout:    90 * time.Second,
		// A peer that vanished is noticed by ping rather than by the next call's timeout.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
}

func newClient(h *http.Client, base string, cfg ClientConfig, opts ClientOptions) (*Client, error) {
	otel, err := otelconnect.NewInterceptor(otelOptions(opts.Tracer, opts.Meter, opts.Propagator)...)
	if err != nil {
		return nil, fmt.Errorf("make telemetry of the client: %w", err)
	}
	chain := []connect.Interceptor{clientErrors{cfg.Timeout}, otel}
	if cfg.Token != "" {
		chain = append(chain, bearer{cfg.Token})
	}
	chain = append(chain, opts.Interceptors...)
	return &Client{HTTP: h, URL: base, options: []connect.ClientOption{connect.WithInterceptors(chain...)}}, nil
}

// bearer adds the token to every call.
type bearer struct{ token string }

// WrapUnary adds the token.
func (b bearer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		req.Header().Set("Authorization", "Bearer "+b.token)
		return next(ctx, req)
	}
}

// WrapStreamingClient adds the token.
func (b bearer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		conn.RequestHeader().Set("Authorization", "Bearer "+b.token)
		return conn
	}
}

// WrapStreamingHandler leaves handlers alone.
func (b bearer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}
