// Package gateway is one address for services that run as containers: it hands
// each call to the service it belongs to, so that `clara` and chat clients need
// to know one address, as with `clara up`. Tokens are checked by the services.
package gateway

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"

	"github.com/clara-suite/clara/libs/app"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/lifecycle"
	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/libs/telemetry"
)

// Cmd is the command and its settings.
type Cmd struct {
	Telemetry telemetry.Config `embed:""`
	Server    rpc.Config       `embed:""`
	Client    rpc.ClientConfig `embed:"" prefix:"client-"`
	Peers     app.Peers        `embed:"" prefix:"to-"`
	Synthesis string           `name:"to-synthesis-addr" help:"Address of synthesis." env:"CLARA_SYNTHESIS_ADDR" default:"http://127.0.0.1:7412"`
}

// Serve runs the gateway until a signal. It returns the exit code.
func (c *Cmd) Serve() (int, error) {
	a, err := app.New(context.Background(), "clara-gateway", c.Telemetry, c.Server, os.Stderr)
	if err != nil {
		return 0, err
	}
	for _, r := range []struct{ prefix, addr string }{
		{"/clara.ingest.v1.IngestService/", c.Peers.IngestAddr},
		{"/clara.job.v1.JobService/", c.Peers.IngestAddr},
		{"/clara.synthesis.v1.SynthesisService/", c.Synthesis},
		{"/clara.compressor.v1.CompressorService/", c.Peers.CompressorAddr},
		{"/clara.reranker.v1.RerankerService/", c.Peers.RerankerAddr},
		{"/clara.generator.v1.GeneratorService/", c.Peers.GeneratorAddr},
		{"/v1/", c.Peers.GeneratorAddr},
		{"/clara.model.v1.ModelService/", c.Peers.TrainerAddr},
		{"/clara.trainer.v1.TrainerService/", c.Peers.TrainerAddr},
	} {
		client, err := rpc.Dial(r.addr, c.Client, rpc.ClientOptions{})
		if err != nil {
			return 0, err
		}
		to, err := url.Parse(client.URL)
		if err != nil {
			return 0, clara.Errorf(clara.Invalid, "address %q of %s: %w", r.addr, r.prefix, err)
		}
		proxy := newProxy(to, client.HTTP.Transport, a.Log)
		if r.prefix == "/v1/" {
			a.Server.HandleHTTP(r.prefix, proxy, true)
		} else {
			a.Server.Handle(r.prefix, proxy) // shows in reflection, as with clara up
		}
	}
	return a.Run(context.Background(), 0, []lifecycle.Unit{}), nil
}

func newProxy(to *url.URL, transport http.RoundTripper, log *slog.Logger) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.SetXForwarded()
			// The gateway has let the page call; to a service, whose name is another, it would look foreign.
			r.Out.Header.Del("Origin")
		},
		Transport:     transport,
		FlushInterval: -1, // streams go through piece by piece
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			log.WarnContext(r.Context(), "service can't be reached", "service", to.Host, "err", err)
			// What Connect and gRPC clients both read as unavailable.
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"code":"unavailable","message":"service ` + to.Host + ` can't be reached"}`))
		},
	}
}
