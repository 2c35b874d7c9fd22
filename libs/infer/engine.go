package infer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/grammar"
	"github.com/clara-suite/clara/libs/infer/ort"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/prompt"
	"github.com/clara-suite/clara/libs/tokenizer"
)

// Role is what a pass through the model is for.
type Role = modelpkg.Role

// The roles.
const (
	Base     = modelpkg.Base
	Encoder  = modelpkg.Encoder
	Reasoner = modelpkg.Reasoner
	Decoder  = modelpkg.Decoder
)

// Options of an engine; the zero value is good.
type Options struct {
	// Context is C, the most tokens of a prompt and its answer together; 0: 4096 or what the model was trained for, if less.
	Context int
	// Streams is how many requests generate at once; 0: 8, fewer if CacheBytes holds fewer.
	Streams int
	// CacheBytes bounds the cache of keys and values; 0: 2 GiB. One stream is always held.
	CacheBytes int64
	// BatchTokens is how many tokens, padding included, a run over texts may have; 0: 2048. One text is always taken.
	BatchTokens int
	// QueueTokens bounds what waits: tokens of prompts with their answers, and of texts, each; 0: 64 times BatchTokens.
	// A request that finds nothing waiting is always taken.
	QueueTokens int
	// Stall is how long a piece of a prompt, or a batch of texts, may hold up running answers; 0: 150 ms.
	Stall time.Duration
	// Slowdown is how many times longer than alone a request may take beside the others: one that would take longer
	// is refused as Busy, unless it is patient; 0: 2. All Streams are always given out within a second after a quiet moment.
	Slowdown float64
	// PrefixBytes bounds the memory for keys and values of what prompts begin with in common; 0: 128 MiB.
	PrefixBytes int64
	// Precision runs all roles in one of the package's precisions; empty: each in the one that its manifest says.
	Precision modelpkg.Precision
	// Runtime chooses library, threads and device.
	Runtime ort.Options

	// deviceCache takes the way of a GPU on the CPU: keys and values in memory of the runtime's device. Tests set it.
	deviceCache bool
}

func (o *Options) defaults(p *modelpkg.Package, c precisions) {
	if o.Context <= 0 {
		o.Context = min(4096, p.Manifest.Arch.MaxPositions)
	}
	if o.Streams <= 0 {
		o.Streams = 8
	}
	if o.CacheBytes <= 0 {
		o.CacheBytes = 2 << 30
	}
	if o.BatchTokens <= 0 {
		o.BatchTokens = 2048
	}
	if o.QueueTokens <= 0 {
		o.QueueTokens = 64 * o.BatchTokens
	}
	if o.Stall <= 0 {
		o.Stall = 150 * time.Millisecond
	}
	if o.Slowdown <= 0 {
		o.Slowdown = 2
	}
	if o.PrefixBytes <= 0 {
		o.PrefixBytes = 128 << 20
	}
	row := bytesPerToken(p.Manifest.Arch, dtypeOf(c.of[Decoder])) * int64(o.Context)
	o.Streams = int(max(1, min(int64(o.Streams), o.CacheBytes/row)))
}

// Engine runs one model package.
type Engine struct {
	pkg   *modelpkg.Package
	opts  Options
	model *model
	sched *scheduler

	words  sync.Once
	tokens *grammar.Vocabulary
}

// Open loads the package in dir. Its weights are read once; loading a model takes a second per few hundred megabytes.
// Errors: those of modelpkg.Open and ort.Open.
func Open(ctx context.Context, dir string, o Options) (*Engine, error) {
	pkg, err := modelpkg.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		pkg.Close()
		return nil, err
	}
	m, o, err := load(pkg, o)
	if err != nil {
		pkg.Close()
		return nil, fmt.Errorf("load model package %s: %w", dir, err)
	}
	e := &Engine{pkg: pkg, opts: o, model: m, sched: newScheduler(m, o)}
	go e.sched.loop()
	return e, nil
}

// load opens the model in the precisions that this machine has, and fills in the options.
func load(pkg *modelpkg.Package, given Options) (*model, Options, error) {
	attempt := func(lacks func() error) (*model, Options, precisions, error) {
		o := given
		c, err := choose(pkg.Manifest, o, lacks)
		if err != nil {
			return nil, o, c, err
		}
		o.defaults(pkg, c)
		m, err := newModel(pkg, o, c)
		return m, o, c, err
	}
	m, o, c, err := attempt(func() error { return ort.LacksCUDA(given.Runtime) })
	if !c.hasHalf(given) || err == nil && m.session.Provider() == ort.CUDA {
		return m, o, err
	}
	// CUDA seemed to be there but could not start: without halves.
	reason := err
	if err == nil {
		reason = errors.Join(errors.New(m.session.Note()), m.close())
	}
	m, o, _, err = attempt(func() error { return reason })
	return m, o, err
}

// Close refuses new work, waits until what is queued and running is done, or ctx ends, in which
// case it fails with Unavailable, and frees the model. Calling it again does nothing.
func (e *Engine) Close(ctx context.Context) error {
	if !e.sched.close(ctx) {
		return nil
	}
	err := e.model.close()
	if perr := e.pkg.Close(); err == nil {
		err = perr
	}
	return err
}

// Manifest describes the package.
func (e *Engine) Manifest() *modelpkg.Manifest { return e.pkg.Manifest }

// Tokenizer returns the tokenizer, memory tokens included where the package has them.
func (e *Engine) Tokenizer() *tokenizer.Tokenizer { return e.pkg.Tokenizer }

// Clara returns the tokenizer with the memory tokens; nil for a package without adapters.
func (e *Engine) Clara() *tokenizer.Clara { return e.pkg.Clara }

// Prompts writes the model's inputs: encoder inputs, prompts and their slots.
func (e *Engine) Prompts() *prompt.Writer { return e.pkg.Prompts }

// Options returns the options with the defaults filled in.
func (e *Engine) Options() Options { return e.opts }

// HasRole reports whether the package can take the role.
func (e *Engine) HasRole(r Role) bool {
	_, ok := e.pkg.Manifest.Adapters[r]
	return ok || r == Base
}

// MemoryUse is what an engine holds, in bytes.
type MemoryUse struct {
	Weights  int64 // files of weights; a packed copy of about that size is held, of blocks that precisions share one where products of ours take them
	Table    int64 // embedding table, mapped from its file
	Adapters int64
	Cache    int64 // reserved for keys and values: Streams x Context tokens; touched pages only count as resident
}

// Memory reports what the engine holds. It does not change while the engine runs.
func (e *Engine) Memory() MemoryUse {
	u := MemoryUse{Table: e.pkg.TableBytes(), Adapters: e.model.adapterBytes, Cache: e.model.cache.bytes()}
	used := map[modelpkg.Precision]bool{}
	for _, r := range []Role{Base, Encoder, Reasoner, Decoder} {
		if p := e.model.precisions.of[r]; e.HasRole(r) && !used[p] {
			used[p] = true
			u.Weights += e.pkg.Manifest.WeightBytes(p)
		}
	}
	return u
}

// Load says how busy the engine is.
type Load struct {
	Running       int // answers being generated
	Waiting       int // answers waiting for a row
	WaitingTokens int // of their prompts and answers
	Texts         int // texts waiting to be compressed or encoded
	TextTokens    int
}

// Load returns the present load, for metrics and for choosing between engines.
func (e *Engine) Load() Load { return e.sched.load() }

// Busy returns how long the model has run since the engine was opened; what a request takes beyond that is
// waiting, and the suite's own work.
func (e *Engine) Busy() time.Duration { return e.sched.busyTime() }

// Provider says what computes, and why it is not CUDA where that was expected.
func (e *Engine) Provider() (ort.Provider, string) {
	note := e.model.session.Note()
	if extra := e.model.precisions.note; extra != "" {
		note = strings.TrimPrefix(note+"; "+extra, "; ")
	}
	return e.model.session.Provider(), note
}

// role checks that the package can take it.
func (e *Engine) role(r Role) error {
	if !e.HasRole(r) {
		return clara.Errorf(clara.State, "model %s has no %s adapter: it reads text only; import it with a CLaRa checkpoint", e.pkg.Manifest.Name, r)
	}
	return nil
}
