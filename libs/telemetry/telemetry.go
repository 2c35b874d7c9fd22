package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"strings"

	"github.com/mattn/go-isatty"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/clara-suite/clara/libs/clara"
)

// Config is the part of a program's settings that this package reads.
type Config struct {
	LogLevel  string `help:"Least level that is logged: ${enum}." enum:"debug,info,warn,error" default:"info" env:"CLARA_LOG_LEVEL,LOG_LEVEL"`
	LogFormat string `help:"Form of the log: ${enum}; auto is text on a terminal and json elsewhere." enum:"auto,text,json" default:"auto" env:"CLARA_LOG_FORMAT"`
	// OTLPEndpoint is read by the SDK itself; it is here to be seen, checked and set by YAML.
	OTLPEndpoint string `help:"OTLP collector over gRPC, such as http://localhost:4317; empty: traces are not recorded." env:"OTEL_EXPORTER_OTLP_ENDPOINT" placeholder:"URL"`
}

// Telemetry is what a process reports with.
type Telemetry struct {
	Log        *slog.Logger
	Tracer     trace.TracerProvider
	Meter      metric.MeterProvider
	Propagator propagation.TextMapPropagator
	// Handler shows the metrics in the Prometheus format.
	Handler http.Handler

	shutdown []func(context.Context) error
}

// Start sets up the telemetry of the named service. Logs go to w. Errors are Invalid.
func Start(ctx context.Context, service, version string, cfg Config, w io.Writer) (*Telemetry, error) {
	log, err := newLogger(cfg, w)
	if err != nil {
		return nil, err
	}
	res, err := resource.Merge(resource.Default(), resource.NewSchemaless(
		attribute.String("service.name", service), attribute.String("service.version", version)))
	if err != nil && !errors.Is(err, resource.ErrPartialResource) && !errors.Is(err, resource.ErrSchemaURLConflict) {
		return nil, fmt.Errorf("describe this process: %w", err)
	}
	t := &Telemetry{
		Log: log.With("service", service),
		// Without a collector nothing is recorded, but calls still have trace ids for logs and errors.
		Tracer:     sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample())),
		Propagator: propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
	}

	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo(service, version))
	t.Handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{Registry: registry})
	prom, err := otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithoutScopeInfo())
	if err != nil {
		return nil, fmt.Errorf("start metrics: %w", err)
	}
	metrics := []sdkmetric.Option{sdkmetric.WithResource(res), sdkmetric.WithReader(prom)}

	if cfg.OTLPEndpoint != "" {
		if p := os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL"); p != "" && p != "grpc" {
			return nil, clara.Errorf(clara.Invalid, "OTEL_EXPORTER_OTLP_PROTOCOL %q: only grpc is built in; use the collector's gRPC port (usually 4317)", p)
		}
		if !strings.HasPrefix(cfg.OTLPEndpoint, "http://") && !strings.HasPrefix(cfg.OTLPEndpoint, "https://") {
			return nil, clara.Errorf(clara.Invalid, "OTLP endpoint %q: must be http://host:port or https://host:port", cfg.OTLPEndpoint)
		}
		spans, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(cfg.OTLPEndpoint))
		if err != nil {
			return nil, clara.Errorf(clara.Invalid, "open OTLP traces at %s: %w", cfg.OTLPEndpoint, err)
		}
		tp := sdktrace.NewTracerProvider(sdktrace.WithBatcher(spans), sdktrace.WithResource(res))
		t.Tracer = tp
		t.shutdown = append(t.shutdown, tp.Shutdown)
		points, err := otlpmetricgrpc.New(ctx, otlpmetricgrpc.WithEndpointURL(cfg.OTLPEndpoint))
		if err != nil {
			return nil, errors.Join(clara.Errorf(clara.Invalid, "open OTLP metrics at %s: %w", cfg.OTLPEndpoint, err), t.Shutdown(ctx))
		}
		metrics = append(metrics, sdkmetric.WithReader(sdkmetric.NewPeriodicReader(points)))
	}
	mp := sdkmetric.NewMeterProvider(metrics...)
	t.Meter = mp
	t.shutdown = append(t.shutdown, mp.Shutdown)
	return t, nil
}

// Install makes these the process-wide defaults of OpenTelemetry, for libraries that use those, and logs
// what the SDK itself has to say.
func (t *Telemetry) Install() {
	otel.SetTracerProvider(t.Tracer)
	otel.SetMeterProvider(t.Meter)
	otel.SetTextMapPropagator(t.Propagator)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { t.Log.Warn("telemetry", "err", err) }))
}

// Shutdown sends what is left and stops. It returns when ctx ends at the latest.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	var faults []error
	for _, f := range t.shutdown {
		faults = append(faults, f(ctx))
	}
	t.shutdown = nil
	return errors.Join(faults...)
}

// newLogger makes the log that the settings ask for.
func newLogger(cfg Config, w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if cfg.LogLevel != "" {
		if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
			return nil, clara.Errorf(clara.Invalid, "log level: %w", err)
		}
	}
	format := cfg.LogFormat
	if format == "" || format == "auto" {
		format = "json"
		if f, ok := w.(*os.File); ok && isatty.IsTerminal(f.Fd()) {
			format = "text"
		}
	}
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration { // JSON would show bare nanoseconds
			a.Value = slog.StringValue(a.Value.Duration().String())
		}
		return a
	}}
	switch format {
	case "text":
		return slog.New(traceHandler{slog.NewTextHandler(w, opts)}), nil
	case "json":
		return slog.New(traceHandler{slog.NewJSONHandler(w, opts)}), nil
	}
	return nil, clara.Errorf(clara.Invalid, "log format %q: must be auto, text or json", format)
}

// traceHandler adds the ids of the span in ctx to each record.
type traceHandler struct{ slog.Handler }

// Handle adds trace_id and span_id.
func (h traceHandler) Handle(ctx context.Context, r slog.Record) error {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		r = r.Clone()
		r.AddAttrs(slog.String("trace_id", sc.TraceID().String()), slog.String("span_id", sc.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs keeps the ids in derived loggers.
func (h traceHandler) WithAttrs(a []slog.Attr) slog.Handler {
	return traceHandler{h.Handler.WithAttrs(a)}
}

// WithGroup keeps the ids in derived loggers.
func (h traceHandler) WithGroup(name string) slog.Handler {
	return traceHandler{h.Handler.WithGroup(name)}
}

// buildInfo is the constant metric that says which build runs.
func buildInfo(service, version string) prometheus.Collector {
	labels := prometheus.Labels{"service": service, "version": version, "revision": Revision(), "go": ""}
	if info, ok := debug.ReadBuildInfo(); ok {
		labels["go"] = info.GoVersion
	}
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "clara_build_info", Help: "Which build runs: always 1.", ConstLabels: labels},
		func() float64 { return 1 })
}

// Revision returns the source revision this program was built from, with "+changes" if the tree had
// any; "unknown" if the build did not record it.
func Revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	revision, changed := "unknown", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = "+changes"
		}
	}
	return revision + changed
}

// TraceID returns the id of the trace that ctx belongs to, "" if there is none.
func TraceID(ctx context.Context) string {
	if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
		return sc.TraceID().String()
	}
	return ""
}
