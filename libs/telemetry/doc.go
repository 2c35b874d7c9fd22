// Package telemetry sets up logs, traces and metrics of a process.
//
// Logs are slog: text on a terminal, JSON elsewhere, or as asked; records carry
// the ids of the trace they belong to. Traces go to an OTLP collector when
// OTEL_EXPORTER_OTLP_ENDPOINT is set (the SDK's other OTEL_ variables work too)
// and are not recorded otherwise. Metrics are always kept, for Handler to show
// in the Prometheus format, and go to the collector as well when there is one.
//
// Nothing is global: what Start returns is handed to those who need it. Install
// makes it the process default for libraries that know no other way.
package telemetry
