package events

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/clara-suite/clara/libs/clara"
)

// Config is the part of a service's settings that says how NATS is reached.
type Config struct {
	URL      string        `help:"NATS servers, comma separated." default:"nats://127.0.0.1:4222" env:"CLARA_NATS_URL,NATS_URL"`
	Creds    string        `help:"NATS credentials file." env:"CLARA_NATS_CREDS" placeholder:"FILE"`
	User     string        `help:"NATS user." env:"CLARA_NATS_USER"`
	Password string        `help:"NATS password." env:"CLARA_NATS_PASSWORD" secret:"" json:"-"`
	TLSCA    string        `name:"tls-ca" help:"Authority of the NATS servers' certificates, PEM." env:"CLARA_NATS_TLS_CA" placeholder:"FILE"`
	TLSCert  string        `name:"tls-cert" help:"Client certificate for NATS, PEM." env:"CLARA_NATS_TLS_CERT" placeholder:"FILE"`
	TLSKey   string        `name:"tls-key" help:"Key of the client certificate, PEM." env:"CLARA_NATS_TLS_KEY" placeholder:"FILE"`
	Replicas int           `help:"Copies of streams and records in a NATS cluster: 1, 3 or 5." default:"1" env:"CLARA_NATS_REPLICAS"`
	Wait     time.Duration `help:"How long to wait for NATS at start." default:"30s" env:"CLARA_NATS_WAIT"`
}

// Validate gathers what is wrong with the settings in themselves.
func (c Config) Validate() error {
	var faults []error
	if (c.TLSCert == "") != (c.TLSKey == "") {
		faults = append(faults, errors.New("nats: tls-cert and tls-key go together: only one is set"))
	}
	if c.Replicas != 0 && c.Replicas != 1 && c.Replicas != 3 && c.Replicas != 5 {
		faults = append(faults, fmt.Errorf("nats: replicas %d: must be 1, 3 or 5", c.Replicas))
	}
	return errors.Join(faults...)
}

// InProcess is a NATS server within the process; *server.Server of nats-server is one.
type InProcess interface {
	InProcessConn() (net.Conn, error)
}

// Options is what a Conn is made from besides its settings. All are optional.
type Options struct {
	Name       string    // shown by NATS's monitoring
	InProcess  InProcess // used instead of Config.URL
	Log        *slog.Logger
	Tracer     trace.TracerProvider
	Meter      metric.MeterProvider
	Propagator propagation.TextMapPropagator
	Topology   *Topology // nil: Suite
	// OnState is told when the connection is lost (with the reason) and when it is back (nil).
	OnState func(error)
}

// Conn is a connection to NATS on which streams and consumers exist. Safe for concurrent use.
type Conn struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	log      *slog.Logger
	tracer   trace.Tracer
	meter    metric.Meter
	prop     propagation.TextMapPropagator
	topology Topology
	replicas int
	wait     time.Duration // for a server that is not there yet
	attempts *bucket
	batches  bool // the server stores batches in one step
}

// Connect connects, waiting for the server as long as the settings say, and declares the topology.
// Errors are Unavailable, or Invalid for settings.
func Connect(ctx context.Context, cfg Config, opts Options) (*Conn, error) {
	if err := cfg.Validate(); err != nil {
		return nil, clara.Errorf(clara.Invalid, "%w", err)
	}
	c := &Conn{log: opts.Log, prop: opts.Propagator, replicas: max(cfg.Replicas, 1)}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.prop == nil {
		c.prop = propagation.TraceContext{}
	}
	var tracer trace.TracerProvider = tracenoop.NewTracerProvider()
	if opts.Tracer != nil {
		tracer = opts.Tracer
	}
	var meter metric.MeterProvider = metricnoop.NewMeterProvider()
	if opts.Meter != nil {
		meter = opts.Meter
	}
	const scope = "github.com/clara-suite/clara/libs/events"
	c.tracer, c.meter = tracer.Tracer(scope), meter.Meter(scope)
	c.topology = Suite()
	if opts.Topology != nil {
		c.topology = *opts.Topology
	}
	if err := c.dial(ctx, cfg, opts); err != nil {
		return nil, err
	}
	js, err := jetstream.New(c.nc, jetstream.WithPublishAsyncMaxPending(maxPending), jetstream.WithPublishAsyncTimeout(tryFor), jetstream.WithDefaultTimeout(10*time.Second))
	if err != nil {
		c.nc.Close()
		return nil, clara.Errorf(clara.Internal, "open JetStream: %w", err)
	}
	c.js = js
	c.wait = cfg.Wait
	if err := c.patiently(ctx, func() error { return c.declare(ctx) }); err != nil {
		c.nc.Close()
		return nil, err
	}
	return c, nil
}

// patiently makes streams and records, waiting as long as the settings say: a cluster that has just started answers before it
// has a leader and before all of its servers are there, and takes its time over many at once.
func (c *Conn) patiently(ctx context.Context, do func() error) error {
	deadline := time.Now().Add(c.wait)
	for waiting := false; ; waiting = true {
		err := do()
		if err == nil || clara.KindOf(err) != clara.Unavailable || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		if !waiting {
			c.log.Info("waiting for nats", "err", err)
		}
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// maxPending bounds publishes that wait for their acknowledgement.
const maxPending = 512

// dial connects and keeps trying until the wait is over.
func (c *Conn) dial(ctx context.Context, cfg Config, opts Options) error {
	state := func(err error) {
		if opts.OnState != nil {
			opts.OnState(err)
		}
	}
	options := []nats.Option{
		nats.Name(opts.Name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, time.Second),
		nats.PingInterval(10 * time.Second), // a machine that goes without a word is noticed after three
		nats.Timeout(5 * time.Second),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err == nil { // closed by this side
				state(errors.New("nats: connection closed"))
				return
			}
			c.log.Warn("nats connection lost", "err", err)
			state(fmt.Errorf("nats: %w", err))
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			c.log.Info("nats connection is back", "server", nc.ConnectedUrlRedacted())
			state(nil)
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { c.log.Warn("nats", "err", err) }),
	}
	where := redact(cfg.URL)
	if opts.InProcess != nil {
		where = "embedded server"
		options = append(options, nats.InProcessServer(opts.InProcess))
	}
	if cfg.Creds != "" {
		options = append(options, nats.UserCredentials(cfg.Creds))
	}
	if cfg.User != "" {
		options = append(options, nats.UserInfo(cfg.User, cfg.Password))
	}
	if cfg.TLSCA != "" {
		options = append(options, nats.RootCAs(cfg.TLSCA))
	}
	if cfg.TLSCert != "" {
		cert, err := tls.LoadX509KeyPair(cfg.TLSCert, cfg.TLSKey)
		if err != nil {
			return clara.Errorf(clara.Invalid, "read NATS client certificate %s: %w", cfg.TLSCert, err)
		}
		options = append(options, nats.Secure(&tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}))
	}
	deadline := time.Now().Add(cfg.Wait)
	for waiting := false; ; {
		nc, err := nats.Connect(cfg.URL, options...)
		if err == nil {
			c.nc = nc
			state(nil)
			return nil
		}
		if errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) {
			return clara.Errorf(clara.Invalid, "connect to NATS at %s: %w; check nats user, password and creds", where, err)
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return clara.Errorf(clara.Unavailable, "connect to NATS at %s: %w; is it running, and is the address (--nats-url, CLARA_NATS_URL) right?", where, err)
		}
		if !waiting {
			waiting = true
			c.log.Info("waiting for nats", "server", where, "err", err)
		}
		state(fmt.Errorf("nats: %w", err))
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// declare makes streams, consumers and the record of attempts, or brings them up to date.
func (c *Conn) declare(ctx context.Context) error {
	t := c.topology
	if err := c.keepCopies(ctx); err != nil {
		return err
	}
	stream, err := c.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: t.Stream, Description: "events of the suite", Subjects: t.subjects(),
		Retention: jetstream.InterestPolicy, Storage: jetstream.FileStorage, Replicas: c.replicas,
		Duplicates: 10 * time.Minute, AllowAtomicPublish: true,
	})
	if err != nil {
		return c.wrapDeclared(ctx, err, "declare stream %s", t.Stream)
	}
	c.batches = stream.CachedInfo().Config.AllowAtomicPublish // servers before 2.12 leave it out
	_, err = c.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: t.DeadStream, Description: "events that were given up", Subjects: []string{deadPrefix + ">"},
		Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage, Replicas: c.replicas,
		Duplicates: 24 * time.Hour,
	})
	if err != nil {
		return c.wrapDeclared(ctx, err, "declare stream %s", t.DeadStream)
	}
	if c.attempts, err = c.openBucket(ctx, "clara_attempts", "attempts at events", attemptsKept); err != nil {
		return err
	}
	for _, d := range t.Durables {
		_, err := stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
			Durable: d.name(), FilterSubjects: d.filters(), AckPolicy: jetstream.AckExplicitPolicy,
			AckWait: t.AckWait, MaxDeliver: -1, MaxAckPending: 4096, DeliverPolicy: jetstream.DeliverAllPolicy,
		})
		if err != nil {
			return wrap(ctx, err, "declare consumer %s", d.name())
		}
	}
	return nil
}

// keepCopies sees to it that a client whose settings ask for fewer copies than there are, such as a command that was given
// none, takes none away.
func (c *Conn) keepCopies(ctx context.Context) error {
	stream, err := c.js.Stream(ctx, c.topology.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return c.wrapDeclared(ctx, err, "look up stream %s", c.topology.Stream)
	}
	if n := stream.CachedInfo().Config.Replicas; n > c.replicas {
		c.log.Info("streams keep the copies that they have", "copies", n, "asked", c.replicas)
		c.replicas = n
	}
	return nil
}

// wrapDeclared is wrap that says so where there are fewer servers than copies, or too few to choose a leader.
func (c *Conn) wrapDeclared(ctx context.Context, err error, format string, args ...any) error {
	var api *jetstream.APIError
	switch {
	case !errors.As(err, &api):
	case api.ErrorCode == replicasNotSupported:
		return clara.Errorf(clara.Invalid, "%s: NATS is a single server, which keeps one copy, not %d: set CLARA_NATS_REPLICAS=1, or make it a cluster", fmt.Sprintf(format, args...), c.replicas)
	case api.ErrorCode == noSuitablePeers:
		return clara.Errorf(clara.Unavailable, "%s: the NATS cluster has fewer servers up than the %d copies of CLARA_NATS_REPLICAS (%w): start more, or set fewer", fmt.Sprintf(format, args...), c.replicas, err)
	case api.ErrorCode == noLeader:
		return clara.Errorf(clara.Unavailable, "%s: the NATS cluster has no leader (%w): the majority of its servers must run, and all of them when it starts for the first time", fmt.Sprintf(format, args...), err)
	}
	return wrap(ctx, err, format, args...)
}

// Err returns why the connection cannot be used at present, nil if it can.
func (c *Conn) Err() error {
	if !c.nc.IsConnected() {
		return clara.Errorf(clara.Unavailable, "nats: %s", strings.ToLower(c.nc.Status().String()))
	}
	return nil
}

// Close waits for what was sent to arrive, as long as ctx allows, and closes the connection.
func (c *Conn) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, persistFor) // a flush needs an end
	defer cancel()
	err := c.nc.FlushWithContext(ctx)
	c.nc.Close()
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		return wrap(ctx, err, "flush nats")
	}
	return nil
}

// redact takes passwords out of server URLs.
func redact(urls string) string {
	parts := strings.Split(urls, ",")
	for i, p := range parts {
		if scheme, rest, ok := strings.Cut(p, "://"); ok {
			if at := strings.LastIndexByte(rest, '@'); at >= 0 {
				parts[i] = scheme + "://" + rest[at+1:]
			}
		}
	}
	return strings.Join(parts, ",")
}

// wrap gives NATS's errors their kind. The caller's own end of ctx stays what it is; a time-out of the
// library's is a server that cannot be reached.
func wrap(ctx context.Context, err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf(format, args...)
	if ctx.Err() != nil && clara.IsContext(err) {
		return fmt.Errorf("%s: %w", what, err)
	}
	if clara.IsContext(err) {
		what += ": NATS does not answer; if it runs, see its log: its disk may be full, or its cluster without a leader"
	}
	return clara.Errorf(kindOf(err), "%s: %w", what, err)
}

func kindOf(err error) clara.Kind {
	var domain *clara.Error
	var api *jetstream.APIError
	switch {
	case errors.As(err, &domain):
		return domain.Kind
	case errors.Is(err, jetstream.ErrKeyNotFound), errors.Is(err, jetstream.ErrKeyDeleted), errors.Is(err, jetstream.ErrMsgNotFound):
		return clara.NotFound
	case errors.Is(err, jetstream.ErrKeyExists):
		return clara.Exists
	case errors.Is(err, nats.ErrMaxPayload):
		return clara.Invalid
	case clara.IsContext(err), errors.Is(err, nats.ErrTimeout), errors.Is(err, nats.ErrNoResponders), errors.Is(err, nats.ErrConnectionClosed),
		errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrConnectionReconnecting), errors.Is(err, jetstream.ErrNoStreamResponse),
		errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrTooManyStalledMsgs), errors.Is(err, jetstream.ErrNoHeartbeat),
		errors.Is(err, jetstream.ErrAsyncPublishTimeout):
		return clara.Unavailable
	case errors.As(err, &api) && (api.Code >= 500 || api.ErrorCode == insufficientResources || api.ErrorCode == beingStored):
		return clara.Unavailable // no leader, no space, shutting down
	}
	return clara.Internal
}

// Codes of JetStream.
const (
	insufficientResources = 10023 // storage that is used up, or servers that are away
	replicasNotSupported  = 10074 // copies in a server without a cluster
	noLeader              = 10008 // the majority of the servers is away
	noSuitablePeers       = 10005 // more copies than servers
	storeFailed           = 10077 // a write to disk that failed
	beingStored           = 10158 // a message with the same id is on its way
	wrongSequence         = 10071 // another revision than expected
	wrongSequenceCluster  = 10164 // the same, where the leader has changes that are on their way
)
