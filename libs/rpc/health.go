package rpc

import (
	"context"
	"net/http"
	"strings"

	"connectrpc.com/connect"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/clara-suite/clara/libs/clara"
)

// Readiness is what health answers from; lifecycle.Readiness is one. The name "" stands for all conditions.
type Readiness interface {
	Err(name string) error
	Known(name string) bool
	Names() []string
	Changed() <-chan struct{}
}

// health serves grpc.health.v1 with grpc's own messages. A service's name answers for the whole server, the
// name of a condition ("model/smollm2") for itself.
type health struct {
	ready    Readiness
	services func() []string
}

func (h health) status(name string) (healthv1.HealthCheckResponse_ServingStatus, bool) {
	known := name == ""
	for _, s := range h.services() {
		known = known || s == name
	}
	condition := ""
	if !known && h.ready != nil && h.ready.Known(name) {
		known, condition = true, name
	}
	if !known {
		return healthv1.HealthCheckResponse_SERVICE_UNKNOWN, false
	}
	if h.ready != nil && h.ready.Err(condition) != nil {
		return healthv1.HealthCheckResponse_NOT_SERVING, true
	}
	return healthv1.HealthCheckResponse_SERVING, true
}

func (h health) check(_ context.Context, req *connect.Request[healthv1.HealthCheckRequest]) (*connect.Response[healthv1.HealthCheckResponse], error) {
	status, known := h.status(req.Msg.GetService())
	if !known {
		return nil, clara.Errorf(clara.NotFound, "no service or condition %q", req.Msg.GetService())
	}
	return connect.NewResponse(&healthv1.HealthCheckResponse{Status: status}), nil
}

func (h health) list(context.Context, *connect.Request[healthv1.HealthListRequest]) (*connect.Response[healthv1.HealthListResponse], error) {
	names := append([]string{""}, h.services()...)
	if h.ready != nil {
		names = append(names, h.ready.Names()...)
	}
	out := map[string]*healthv1.HealthCheckResponse{}
	for _, n := range names {
		status, _ := h.status(n)
		out[n] = &healthv1.HealthCheckResponse{Status: status}
	}
	return connect.NewResponse(&healthv1.HealthListResponse{Statuses: out}), nil
}

func (h health) watch(ctx context.Context, req *connect.Request[healthv1.HealthCheckRequest], stream *connect.ServerStream[healthv1.HealthCheckResponse]) error {
	last := healthv1.HealthCheckResponse_ServingStatus(-1)
	for {
		var changed <-chan struct{}
		if h.ready != nil {
			changed = h.ready.Changed()
		}
		if status, _ := h.status(req.Msg.GetService()); status != last {
			if err := stream.Send(&healthv1.HealthCheckResponse{Status: status}); err != nil {
				return err
			}
			last = status
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

const healthService = "grpc.health.v1.Health"

// register adds the three methods to the mux.
func (h health) register(mux *http.ServeMux, opts ...connect.HandlerOption) {
	path := "/" + healthService + "/"
	mux.Handle(path+"Check", connect.NewUnaryHandler(path+"Check", h.check, opts...))
	mux.Handle(path+"List", connect.NewUnaryHandler(path+"List", h.list, opts...))
	mux.Handle(path+"Watch", connect.NewServerStreamHandler(path+"Watch", h.watch, opts...))
}

// readyz answers 200 or 503 with the reasons, one a line.
func (h health) readyz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if h.ready != nil {
		if err := h.ready.Err(""); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(strings.TrimSpace(err.Error()) + "\n"))
			return
		}
	}
	_, _ = w.Write([]byte("ready\n"))
}
