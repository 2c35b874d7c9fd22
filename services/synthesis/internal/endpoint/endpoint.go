// Package endpoint is which language models there are to ask: one endpoint from
// settings that users already have in their environment, more from a file, and the
// suite's own generator.
package endpoint

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/config"
	"github.com/clara-suite/clara/libs/llm"
)

// Config is the settings of models. Keys stay out of everything that is printed.
type Config struct {
	Provider          string        `help:"Whose API it is, which sets the address: openai, dashscope, deepseek, openrouter, vllm, ollama, or clara, the suite's own generator." enum:",openai,dashscope,deepseek,openrouter,vllm,ollama,clara" default:"" env:"CLARA_LLM_PROVIDER"`
	BaseURL           string        `name:"base-url" aliases:"base_url" help:"Address of an OpenAI-compatible API, with its version." env:"CLARA_LLM_BASE_URL,BASE_URL,OPENAI_BASE_URL" placeholder:"URL"`
	APIKey            config.Secret `name:"api-key" aliases:"api_key" help:"Key of the API." env:"CLARA_LLM_API_KEY,OPENAI_API_KEY"`
	Model             string        `help:"Model that writes summaries and questions." env:"CLARA_LLM_MODEL,MODEL"`
	VisionModel       string        `help:"Model that describes pictures; empty: their text is read, if it can be." env:"CLARA_LLM_VISION_MODEL,VISION_MODEL"`
	EmbeddingModel    string        `help:"Model of embeddings at the endpoint; empty: MiniLM in this process." env:"CLARA_LLM_EMBEDDING_MODEL,EMBEDDING_MODEL"`
	JudgeModel        string        `help:"Model that judges answers, where that is asked for; empty: the one that writes." env:"CLARA_LLM_JUDGE_MODEL,JUDGE_MODEL"`
	VisionEndpoint    string        `help:"Endpoint of the vision model, where it is another." env:"CLARA_LLM_VISION_ENDPOINT" placeholder:"NAME"`
	EmbeddingEndpoint string        `help:"Endpoint of the embedding model, where it is another." env:"CLARA_LLM_EMBEDDING_ENDPOINT" placeholder:"NAME"`
	JudgeEndpoint     string        `help:"Endpoint of the judge, where it is another." env:"CLARA_LLM_JUDGE_ENDPOINT" placeholder:"NAME"`
	File              string        `name:"endpoints" help:"YAML file of more endpoints." env:"CLARA_LLM_ENDPOINTS" placeholder:"FILE" type:"path"`
	AllowPrivate      bool          `help:"Allow endpoints at private addresses." env:"CLARA_LLM_ALLOW_PRIVATE"`
	AllowLoopback     bool          `help:"Allow endpoints on this machine." env:"CLARA_LLM_ALLOW_LOOPBACK" default:"true" negatable:""`
	Concurrency       int           `help:"Most requests at once; how many are made is found out." env:"CLARA_LLM_CONCURRENCY" default:"16"`
	RequestsPerMinute int           `help:"Limit of the endpoint; 0: not known." env:"CLARA_LLM_RPM"`
	TokensPerMinute   int           `help:"Limit of the endpoint; 0: not known." env:"CLARA_LLM_TPM"`
	PriceIn           float64       `help:"Price of a million prompt tokens." env:"CLARA_LLM_PRICE_IN"`
	PriceOut          float64       `help:"Price of a million generated tokens." env:"CLARA_LLM_PRICE_OUT"`
	Timeout           time.Duration `help:"Longest time for one request; one that runs out of it is tried once more." env:"CLARA_LLM_TIMEOUT" default:"3m"`
	IdleTimeout       time.Duration `help:"Longest silence within an answer that has begun." env:"CLARA_LLM_IDLE_TIMEOUT" default:"1m"`
	Backoff           time.Duration `help:"Pause before a request is tried again the first time; it doubles from there." env:"CLARA_LLM_BACKOFF" default:"500ms"`
	Tries             int           `help:"Times a request is tried." env:"CLARA_LLM_TRIES" default:"6"`
}

// Validate gathers what is wrong with the settings in themselves.
func (c Config) Validate() error {
	var faults []error
	if c.Concurrency <= 0 || c.Tries <= 0 || c.Timeout <= 0 {
		faults = append(faults, errors.New("concurrency, tries and timeout must be positive"))
	}
	if c.IdleTimeout < 0 {
		faults = append(faults, errors.New("idle-timeout must not be negative"))
	}
	if c.RequestsPerMinute < 0 || c.TokensPerMinute < 0 || c.PriceIn < 0 || c.PriceOut < 0 {
		faults = append(faults, errors.New("limits per minute and prices must not be negative"))
	}
	return errors.Join(faults...)
}

// Clara is the name of the suite's own generator as an endpoint.
const Clara = "clara"

// providers are the addresses of well-known APIs.
var providers = map[string]string{
	"openai":     "https://api.openai.com/v1",
	"dashscope":  "https://dashscope.aliyuncs.com/compatible-mode/v1",
	"deepseek":   "https://api.deepseek.com/v1",
	"openrouter": "https://openrouter.ai/api/v1",
	"vllm":       "http://127.0.0.1:8000/v1",
	"ollama":     "http://127.0.0.1:11434/v1",
}

// Endpoint is a place to ask, and what to ask for there.
type Endpoint struct {
	Name string
	URL  string // for people
	// Chat answers; Embedder is nil where there are no embeddings.
	Chat                                           llm.Model
	Embedder                                       *llm.Client
	Model, VisionModel, EmbeddingModel, JudgeModel string
	Concurrency                                    int // most requests at once
}

// Set is all endpoints, the default one first.
type Set struct {
	list    []Endpoint
	clients []*llm.Client
	// elsewhere are the endpoints of single tasks, where they are not those of the rest.
	elsewhere map[Task]string
}

// Task is what a model is asked to do.
type Task string

// Tasks beside writing.
const (
	Vision     Task = "vision"
	Embeddings Task = "embeddings"
	Judging    Task = "judging"
)

// Open makes the endpoints; nothing is connected yet. generator is the suite's own, or nil. Invalid.
func Open(c Config, generator llm.Model, log *slog.Logger) (*Set, error) {
	s := &Set{elsewhere: map[Task]string{Vision: c.VisionEndpoint, Embeddings: c.EmbeddingEndpoint, Judging: c.JudgeEndpoint}}
	if c.Provider == Clara {
		if generator == nil {
			return nil, clara.Errorf(clara.Invalid, "provider clara: there is no generator here")
		}
		s.list = append(s.list, own(generator, c.Model))
	} else if c.Provider != "" || c.BaseURL != "" || c.APIKey != "" {
		url := c.BaseURL
		switch known := providers[c.Provider]; {
		case url == "":
			url = known
		case known != "" && strings.TrimRight(url, "/") != known:
			// One of them may come from a .env file that was forgotten: documents must not go where they were not meant to.
			return nil, clara.Errorf(clara.Invalid, "provider %s is at %s, but BASE_URL (--base-url) says %s: leave one of them out", c.Provider, known, llm.Endpoint{BaseURL: url}.PublicURL())
		}
		if url == "" {
			url = providers["openai"]
		}
		name := c.Provider
		if name == "" {
			name = "default"
		}
		err := s.add(llm.Endpoint{
			Name: name, BaseURL: url, APIKey: c.APIKey.Reveal(),
			Settings:     llm.Settings{Key: "OPENAI_API_KEY (--api-key)", URL: "BASE_URL (--base-url)", Model: "MODEL, VISION_MODEL or EMBEDDING_MODEL (--model, ..)", Private: "--allow-private or --allow-loopback"},
			AllowPrivate: c.AllowPrivate, AllowLoopback: c.AllowLoopback, Timeout: c.Timeout, IdleTimeout: c.IdleTimeout, Tries: c.Tries, BackoffMin: c.Backoff, Concurrency: c.Concurrency,
			RequestsPerMinute: c.RequestsPerMinute, TokensPerMinute: c.TokensPerMinute, PriceIn: c.PriceIn, PriceOut: c.PriceOut,
		}, Endpoint{Model: c.Model, VisionModel: c.VisionModel, EmbeddingModel: c.EmbeddingModel, JudgeModel: c.JudgeModel}, log)
		if err != nil {
			return nil, err
		}
	}
	if c.File != "" {
		if err := s.read(c, log); err != nil {
			return nil, err
		}
	}
	if generator != nil && c.Provider != Clara {
		s.list = append(s.list, own(generator, ""))
	}
	for task, name := range s.elsewhere {
		if name == "" {
			continue
		}
		if _, err := s.Get(name); err != nil {
			return nil, clara.Errorf(clara.Invalid, "endpoint of %s: %w", task, err)
		}
	}
	return s, nil
}

func own(generator llm.Model, model string) Endpoint {
	if model == "" {
		model = "active"
	}
	return Endpoint{Name: Clara, URL: "the suite's generator", Chat: generator, Model: model, Concurrency: streams}
}

func (s *Set) add(e llm.Endpoint, what Endpoint, log *slog.Logger) error {
	for _, old := range s.list {
		if old.Name == e.Name {
			return clara.Errorf(clara.Invalid, "two endpoints are called %q", e.Name)
		}
	}
	client, err := llm.New(e, log)
	if err != nil {
		return err
	}
	what.Name, what.URL, what.Chat, what.Embedder, what.Concurrency = e.Name, e.PublicURL(), client, client, client.Endpoint().Concurrency
	s.list = append(s.list, what)
	s.clients = append(s.clients, client)
	return nil
}

// entry is an endpoint in the file. Keys are named by variable or file, so that the file can be kept anywhere.
type entry struct {
	Name              string        `yaml:"name"`
	Provider          string        `yaml:"provider"`
	BaseURL           string        `yaml:"base_url"`
	APIKeyEnv         string        `yaml:"api_key_env"`
	APIKeyFile        string        `yaml:"api_key_file"`
	Model             string        `yaml:"model"`
	VisionModel       string        `yaml:"vision_model"`
	EmbeddingModel    string        `yaml:"embedding_model"`
	JudgeModel        string        `yaml:"judge_model"`
	AllowPrivate      bool          `yaml:"allow_private"`
	Concurrency       int           `yaml:"concurrency"`
	RequestsPerMinute int           `yaml:"requests_per_minute"`
	TokensPerMinute   int           `yaml:"tokens_per_minute"`
	PriceIn           float64       `yaml:"price_in"`
	PriceOut          float64       `yaml:"price_out"`
	Timeout           time.Duration `yaml:"timeout"`
}

func (s *Set) read(c Config, log *slog.Logger) error {
	data, err := os.ReadFile(c.File)
	if err != nil {
		return clara.Errorf(clara.Invalid, "read endpoints: %w", err)
	}
	var file struct {
		Endpoints []entry `yaml:"endpoints"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return clara.Errorf(clara.Invalid, "endpoints file %s: %w", c.File, err)
	}
	for i, e := range file.Endpoints {
		where := fmt.Sprintf("endpoint %d (%s) of %s", i+1, e.Name, c.File)
		if e.Name == "" || e.Name == Clara {
			return clara.Errorf(clara.Invalid, "%s: it needs a name, which is not %q", where, Clara)
		}
		url := e.BaseURL
		if url == "" {
			url = providers[e.Provider]
		}
		if url == "" {
			return clara.Errorf(clara.Invalid, "%s: it needs a base_url or a known provider", where)
		}
		key, setting := "", "api_key_env or api_key_file of "+where
		switch {
		case e.APIKeyEnv != "":
			key, setting = os.Getenv(e.APIKeyEnv), e.APIKeyEnv
		case e.APIKeyFile != "":
			b, err := os.ReadFile(e.APIKeyFile)
			if err != nil {
				return clara.Errorf(clara.Invalid, "%s: read key: %w", where, err)
			}
			key, setting = strings.TrimSpace(string(b)), e.APIKeyFile
		}
		if e.Timeout == 0 {
			e.Timeout = c.Timeout
		}
		err := s.add(llm.Endpoint{
			Name: e.Name, BaseURL: url, APIKey: key,
			Settings:     llm.Settings{Key: setting, URL: "base_url of " + where, Model: "the models of " + where, Private: "allow_private of " + where},
			AllowPrivate: e.AllowPrivate || c.AllowPrivate, AllowLoopback: c.AllowLoopback, Timeout: e.Timeout, IdleTimeout: c.IdleTimeout, Tries: c.Tries, BackoffMin: c.Backoff, Concurrency: e.Concurrency,
			RequestsPerMinute: e.RequestsPerMinute, TokensPerMinute: e.TokensPerMinute, PriceIn: e.PriceIn, PriceOut: e.PriceOut,
		}, Endpoint{Model: e.Model, VisionModel: e.VisionModel, EmbeddingModel: e.EmbeddingModel, JudgeModel: e.JudgeModel}, log)
		if err != nil {
			return err
		}
	}
	return nil
}

// Get returns an endpoint by name, the first one for "". State if there is none at all, NotFound.
func (s *Set) Get(name string) (Endpoint, error) {
	if len(s.list) == 0 {
		return Endpoint{}, clara.Errorf(clara.State, "no endpoint of a language model is configured: set OPENAI_API_KEY and MODEL, with BASE_URL for another provider than OpenAI")
	}
	if name == "" {
		return s.list[0], nil
	}
	var have []string
	for _, e := range s.list {
		if e.Name == name {
			return e, nil
		}
		have = append(have, e.Name)
	}
	return Endpoint{}, clara.Errorf(clara.NotFound, "no endpoint %q; there are: %s", name, strings.Join(have, ", "))
}

// For returns the endpoint of a task: its own where the settings name one, else the one by this name, as Get.
func (s *Set) For(task Task, name string) (Endpoint, error) {
	if own := s.elsewhere[task]; own != "" {
		name = own
	}
	return s.Get(name)
}

// List returns all endpoints.
func (s *Set) List() []Endpoint { return s.list }

// Close closes idle connections.
func (s *Set) Close() {
	for _, c := range s.clients {
		c.Close()
	}
}
