package llm

import (
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/clara-suite/clara/libs/clara"
)

// Endpoint is a server of the OpenAI-compatible API and how it may be used. Zero values are the defaults.
type Endpoint struct {
	Name    string
	BaseURL string // with version: https://api.openai.com/v1
	APIKey  string `json:"-"`

	// Settings names what a person has to mend, for errors.
	Settings Settings

	// AllowPrivate lets the address be one of a private network, AllowLoopback of this machine.
	AllowPrivate, AllowLoopback bool

	Timeout     time.Duration // of one try; 3 min
	IdleTimeout time.Duration // between two pieces of an answer; 1 min
	Tries       int           // 6; of them, two may end by time
	BackoffMin  time.Duration // 500 ms
	BackoffMax  time.Duration // 1 min
	// RetryAfterMax is the longest Retry-After that is waited for; 10 min.
	RetryAfterMax time.Duration

	Concurrency       int // most requests at once; 16
	RequestsPerMinute int // 0: no limit known
	TokensPerMinute   int // 0: no limit known

	// PriceIn and PriceOut are per million tokens, in any currency.
	PriceIn, PriceOut float64
}

// Settings are names of settings as a person knows them.
type Settings struct {
	Key, URL, Model, Private string
}

// LogValue leaves the key out.
func (e Endpoint) LogValue() slog.Value {
	return slog.GroupValue(slog.String("name", e.Name), slog.String("base_url", e.PublicURL()))
}

// Format leaves the key out, whatever the verb.
func (e Endpoint) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "%s (%s)", e.Name, e.PublicURL()) }

// PublicURL is the address without user information, query and fragment, which may hold secrets.
func (e Endpoint) PublicURL() string {
	u, err := url.Parse(e.BaseURL)
	if err != nil {
		return "an address that is no URL"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// withDefaults fills zero values and checks the address. Invalid.
func (e Endpoint) withDefaults() (Endpoint, *url.URL, error) {
	set := func(s *string, name string) {
		if *s == "" {
			*s = name
		}
	}
	set(&e.Settings.Key, "the API key")
	set(&e.Settings.URL, "the base URL")
	set(&e.Settings.Model, "the model")
	set(&e.Settings.Private, "the setting that allows private addresses")
	set(&e.Name, "endpoint")
	u, err := url.Parse(strings.TrimRight(e.BaseURL, "/"))
	if err != nil {
		return e, nil, clara.Errorf(clara.Invalid, "endpoint %s: the address is no URL: check %s", e.Name, e.Settings.URL)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return e, nil, clara.Errorf(clara.Invalid, "endpoint %s: address %q: want https://host/v1: check %s", e.Name, e.PublicURL(), e.Settings.URL)
	}
	duration := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	duration(&e.Timeout, 3*time.Minute)
	duration(&e.IdleTimeout, time.Minute)
	duration(&e.BackoffMin, 500*time.Millisecond)
	duration(&e.BackoffMax, time.Minute)
	duration(&e.RetryAfterMax, 10*time.Minute)
	if e.Tries <= 0 {
		e.Tries = 6
	}
	if e.Concurrency <= 0 {
		e.Concurrency = 16
	}
	return e, u, nil
}

// cost of tokens at the endpoint's prices.
func (e Endpoint) cost(prompt, completion int64) float64 {
	return (float64(prompt)*e.PriceIn + float64(completion)*e.PriceOut) / 1e6
}
