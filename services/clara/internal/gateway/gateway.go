// Package gateway is one address for services that run as containers: it hands
// each call to the service it belongs to, so that `clara` and chat clients need
// to know one address, as with `clara up`. Tokens are checked by the services. It is
// ready when all services that it was given are: until then readiness names those
// that are missing. A service is left out by an empty address.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

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

// Validate checks that the gateway has something to lead to.
func (c *Cmd) Validate() error {
	if len(c.services()) == 0 {
		return errors.New("gateway: no service has an address")
	}
	return nil
}

// service is one that calls are handed to.
type service struct {
	name, addr string
	prefixes   []string
}

// services are those that have an address.
func (c *Cmd) services() []service {
	all := []service{
		{"ingest", c.Peers.IngestAddr, []string{"/clara.ingest.v1.IngestService/", "/clara.job.v1.JobService/"}},
		{"synthesis", c.Synthesis, []string{"/clara.synthesis.v1.SynthesisService/"}},
		{"compressor", c.Peers.CompressorAddr, []string{"/clara.compressor.v1.CompressorService/"}},
		{"reranker", c.Peers.RerankerAddr, []string{"/clara.reranker.v1.RerankerService/"}},
		{"generator", c.Peers.GeneratorAddr, []string{"/clara.generator.v1.GeneratorService/", openAI}},
		{"trainer", c.Peers.TrainerAddr, []string{"/clara.model.v1.ModelService/", "/clara.trainer.v1.TrainerService/"}},
	}
	return slices.DeleteFunc(all, func(s service) bool { return s.addr == "" })
}

// openAI is where chat clients call; it is no Connect service.
const openAI = "/v1/"

// Serve runs the gateway until a signal. It returns the exit code.
func (c *Cmd) Serve() (int, error) {
	a, err := app.New(context.Background(), "clara-gateway", c.Telemetry, c.Server, os.Stderr)
	if err != nil {
		return 0, err
	}
	units, err := c.mount(a)
	if err != nil {
		return 0, err
	}
	return a.Run(context.Background(), 0, units), nil
}

// mount adds the services to the server and returns what watches over them.
func (c *Cmd) mount(a *app.App) ([]lifecycle.Unit, error) {
	var units []lifecycle.Unit
	for _, s := range c.services() {
		client, err := rpc.Dial(s.addr, c.Client, rpc.ClientOptions{})
		if err != nil {
			return nil, err
		}
		to, err := url.Parse(client.URL)
		if err != nil {
			return nil, clara.Errorf(clara.Invalid, "address %q of %s: %w", s.addr, s.name, err)
		}
		proxy := newProxy(to, client.HTTP.Transport, a.Log)
		for _, prefix := range s.prefixes {
			if prefix == openAI {
				a.Server.HandleHTTP(prefix, proxy, true)
			} else {
				a.Server.Handle(prefix, proxy) // shows in reflection, as with clara up
			}
		}
		w := watch{s.name, client.URL, &http.Client{Transport: client.HTTP.Transport, Timeout: 2 * time.Second}, a.Ready}
		a.Ready.Set(s.name, fmt.Errorf("%s has not answered yet", w.url))
		units = append(units, lifecycle.Unit{Name: "watch " + s.name, Run: w.run})
	}
	return units, nil
}

// watch tells readiness whether a service can be reached and is ready itself.
type watch struct {
	name, url string
	client    *http.Client
	ready     *lifecycle.Readiness
}

// lookEvery is the time between two looks at a service.
const lookEvery = time.Second

func (w watch) run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if err := w.look(ctx); ctx.Err() == nil {
			w.ready.Set(w.name, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// look asks the service once.
func (w watch) look(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(w.url, "/")+"/readyz", nil)
	if err != nil {
		return fmt.Errorf("%s: %w", w.url, err)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		var in *url.Error
		if errors.As(err, &in) {
			err = in.Err // without the address, which is named already
		}
		return fmt.Errorf("%s can't be reached: %w", w.url, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	reason, _ := io.ReadAll(io.LimitReader(resp.Body, 1024)) // what came of it is better than nothing
	return fmt.Errorf("%s is not ready: %s", w.url, strings.Join(strings.Fields(string(reason)), " "))
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
