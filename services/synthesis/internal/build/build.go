// Package build turns documents into the training files of all stages: it cuts
// them into chunks, has a model write summaries and questions, checks what comes
// back, chooses candidates, and writes the files with a data card.
//
// What a model has answered is stored as it comes; a build that was stopped, killed
// or started again asks only for what is missing. Files are written whole at the end,
// byte for byte the same for equal stored results and seed.
package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/dataset"
	"github.com/clara-suite/clara/libs/llm"
	"github.com/clara-suite/clara/services/synthesis/internal/candidate"
	"github.com/clara-suite/clara/services/synthesis/internal/describe"
	"github.com/clara-suite/clara/services/synthesis/internal/pair"
	"github.com/clara-suite/clara/services/synthesis/internal/prompt"
	"github.com/clara-suite/clara/services/synthesis/internal/results"
	"github.com/clara-suite/clara/services/synthesis/internal/text"
)

// Negatives is how wrong candidates are chosen.
type Negatives string

// The ways.
const (
	Random    Negatives = "random"
	BM25      Negatives = "bm25"
	Embedding Negatives = "embedding"
)

// Recipe is how a data set is made.
type Recipe struct {
	ChunkChars   int       `json:"chunk_chars"`
	TopK         int       `json:"top_k"`
	Negatives    Negatives `json:"negatives"`
	Seed         int64     `json:"seed"`
	MultiHop     int       `json:"multi_hop_percent"`
	Unanswerable int       `json:"unanswerable_percent"`
	Judge        bool      `json:"judge"`
}

// MaxTopK is the most candidates of a question.
const MaxTopK = 20

// WithDefaults fills zero values.
func (r Recipe) WithDefaults() Recipe {
	if r.ChunkChars == 0 {
		r.ChunkChars = text.DefaultChunk
	}
	if r.TopK == 0 {
		r.TopK = 5
	}
	if r.Negatives == "" {
		r.Negatives = BM25
	}
	return r
}

// Check reports what is wrong with a recipe. Invalid.
func (r Recipe) Check() error {
	r = r.WithDefaults()
	switch {
	case r.ChunkChars < 100 || r.ChunkChars > 20_000:
		return clara.Errorf(clara.Invalid, "chunk size %d: must be 100 to 20000 characters", r.ChunkChars)
	case r.TopK < 1 || r.TopK > MaxTopK:
		return clara.Errorf(clara.Invalid, "top k %d: must be 1 to %d", r.TopK, MaxTopK)
	case r.MultiHop < 0 || r.MultiHop > 100 || r.Unanswerable < 0 || r.Unanswerable > 100:
		return clara.Errorf(clara.Invalid, "shares of multi-hop and unanswerable questions must be 0 to 100 percent")
	case r.Negatives != Random && r.Negatives != BM25 && r.Negatives != Embedding:
		return clara.Errorf(clara.Invalid, "negatives %q: must be random, bm25 or embedding", r.Negatives)
	case r.TopK == 1 && r.MultiHop > 0:
		return clara.Errorf(clara.Invalid, "multi-hop questions have two positives: top k must be at least 2")
	}
	return nil
}

// Options are what a build is made from.
type Options struct {
	// Documents are lines of raw_knowledge.jsonl, descriptions of pictures among them.
	Documents []dataset.Document
	Recipe    Recipe

	Chat        llm.Model
	Model       string
	Endpoint    string // name, for the card
	Concurrency int
	Meter       *llm.Meter
	// JudgeChat and JudgeModel judge where the recipe says so; nil and "": what writes judges too.
	JudgeChat  llm.Model
	JudgeModel string
	// Embed is asked for one vector a chunk for Negatives Embedding; EmbeddingModel names it for the card.
	Embed          func(ctx context.Context, texts []string) ([][]float32, error)
	EmbeddingModel string

	Store results.Store
	// Keys are stored results that others still need; KeepPictures keeps those of all pictures.
	Keys         map[string]bool
	KeepPictures bool
	// Dir is where the files go.
	Dir string
	// Pictures is what the card says of them.
	Pictures Pictures
	// Progress is called from several goroutines, one at a time.
	Progress func(Progress)
}

// Progress says how far a build is.
type Progress struct {
	Stage       string
	Done, Total int
	Unit        string
	Usage       llm.Usage
}

// Failure is a part that was not done.
type Failure struct {
	Item   string `json:"item"`
	Reason string `json:"reason"`
}

// chunk is a piece of a source.
type chunk struct {
	source int
	text   string
	hash   string
}

type builder struct {
	Options
	sources []text.Source
	chunks  []chunk
	texts   []string

	mu       sync.Mutex
	failures []Failure
	keys     map[string]bool
	retried  int // answers that had to be asked for again
	card     *Card
}

// Run builds. The card is there even when an error says why the build stopped early; files are written unless the error
// would have left them without a single sample. A build that has failures or was stopped by its budget returns no error
// of its own for that: Card.Complete says so.
func Run(ctx context.Context, o Options) (*Card, error) {
	o.Recipe = o.Recipe.WithDefaults()
	if err := o.Recipe.Check(); err != nil {
		return nil, err
	}
	if o.JudgeChat == nil {
		o.JudgeChat = o.Chat
	}
	if o.JudgeModel == "" {
		o.JudgeModel = o.Model
	}
	b := &builder{Options: o, keys: map[string]bool{}}
	for k := range o.Keys {
		b.keys[k] = true
	}
	b.sources = text.Resolve(o.Documents)
	duplicates := b.cut()
	if len(b.chunks) == 0 {
		return nil, clara.Errorf(clara.Invalid, "no chunk of more than 50 characters in %d documents: there is nothing to ask about", len(o.Documents))
	}
	b.card = newCard(b, duplicates)

	tasks := b.chunkTasks()
	stopped := b.askAll(ctx, "synthesis", tasks)
	if err := ctx.Err(); err != nil {
		return b.card, context.Cause(ctx)
	}
	search := candidate.NewBM25(b.texts)
	extra := b.multiHopTasks()
	if stopped == nil {
		stopped = b.askAll(ctx, "multi-hop questions", extra)
	}
	none := b.unanswerableTasks()
	if stopped == nil {
		stopped = b.askAll(ctx, "unanswerable questions", none)
	}
	if err := ctx.Err(); err != nil {
		return b.card, context.Cause(ctx)
	}
	all := slices.Concat(tasks, extra, none)
	if o.Recipe.Judge && stopped == nil {
		stopped = b.judgeAll(ctx, all)
	}
	if err := ctx.Err(); err != nil {
		return b.card, context.Cause(ctx)
	}
	return b.finish(ctx, all, search, stopped)
}

// cut makes the chunks of all sources. A chunk that was there before, word for word, is left out.
func (b *builder) cut() (duplicates int) {
	seen := map[string]bool{}
	for i, s := range b.sources {
		for _, t := range text.Chunks(s.Text, b.Recipe.ChunkChars) {
			key := text.Normal(t)
			if seen[key] {
				duplicates++
				continue
			}
			seen[key] = true
			b.chunks = append(b.chunks, chunk{i, t, digest(t)})
			b.texts = append(b.texts, t)
		}
	}
	return duplicates
}

func digest(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:])
}

// task is one thing to ask a model.
type task struct {
	kind   string // "chunk", "multi_hop", "unanswerable"
	id     string // of the samples made of it
	key    string // of the stored result
	item   string // for people
	chunks []int

	messages []llm.Message
	schema   *llm.Schema
	check    *pair.Chunk

	answer *answer   // nil: not there
	wrong  []bool    // by pair: the judge's refusals
	judged llm.Usage // of a judge's task
}

func (b *builder) task(kind string, messages []llm.Message, schema *llm.Schema, chunks ...int) *task {
	t := &task{kind: kind, chunks: chunks, messages: messages, schema: schema}
	parts := []string{kind, prompt.Version, b.Model}
	var files, texts []string
	for _, c := range chunks {
		s := b.sources[b.chunks[c].source]
		parts, texts = append(parts, b.texts[c]), append(texts, b.texts[c])
		files = append(files, s.Name, s.Path)
	}
	t.key = digest(parts...)
	t.id = "p" + prompt.Version + "-" + digest(append([]string{kind}, texts...)...)[:12]
	t.check = pair.NewChunk(files, texts...)
	first := b.sources[b.chunks[chunks[0]].source]
	t.item = fmt.Sprintf("%s, chunk %d", first.Name, b.number(chunks[0]))
	if kind != "chunk" {
		t.item += ", " + kind
	}
	return t
}

// number counts a chunk within its source, from 1.
func (b *builder) number(c int) int {
	n := 1
	for i := c - 1; i >= 0 && b.chunks[i].source == b.chunks[c].source; i-- {
		n++
	}
	return n
}

func (b *builder) chunkTasks() []*task {
	out := make([]*task, len(b.chunks))
	for i, c := range b.chunks {
		messages, schema := prompt.Synthesis(c.text)
		out[i] = b.task("chunk", messages, schema, i)
	}
	return out
}

// share returns every n-th chunk, so that percent of them are chosen, spread over all documents. Which ones are chosen
// hangs on the chunk itself, so that a changed document changes no other's choice.
func (b *builder) share(percent int, what string) []int {
	var out []int
	limit := uint64(math.MaxUint32) * uint64(percent) / 100
	for i, c := range b.chunks {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%s", what, b.Recipe.Seed, c.hash))
		if uint64(sum[0])<<24|uint64(sum[1])<<16|uint64(sum[2])<<8|uint64(sum[3]) < limit {
			out = append(out, i)
		}
	}
	return out
}

// tooAlike is how alike two chunks are that say the same.
const tooAlike = 0.3

// multiHopTasks pairs chunks with those that they are most related to. A pair depends on its two chunks only: a changed
// document changes no pair of others, unless one of its own chunks is a better partner now or was the partner before.
func (b *builder) multiHopTasks() []*task {
	var out []*task
	related := candidate.NewRelated(b.texts)
	seen := map[[2]int]bool{}
	for _, i := range b.share(b.Recipe.MultiHop, "multi-hop") {
		shingles := text.Shingles(b.texts[i])
		j, ok := related.Best(i, func(j int) bool { return text.Jaccard(shingles, text.Shingles(b.texts[j])) <= tooAlike })
		if !ok {
			continue
		}
		first, second := i, j
		if b.chunks[second].hash < b.chunks[first].hash { // the same task whichever chose the other
			first, second = second, first
		}
		if seen[[2]int{first, second}] {
			continue
		}
		seen[[2]int{first, second}] = true
		messages, schema := prompt.MultiHop(b.texts[first], b.texts[second])
		out = append(out, b.task(pair.MultiHop, messages, schema, first, second))
	}
	return out
}

func (b *builder) unanswerableTasks() []*task {
	var out []*task
	for _, i := range b.share(b.Recipe.Unanswerable, "unanswerable") {
		messages, schema := prompt.Unanswerable(b.texts[i])
		out = append(out, b.task(pair.Unanswerable, messages, schema, i))
	}
	return out
}

// failAfter is how many items in a row may find the endpoint away before the build stops.
const failAfter = 5

// askAll asks for what is not stored.
func (b *builder) askAll(ctx context.Context, stage string, tasks []*task) error {
	return b.each(ctx, stage, tasks, b.ask)
}

// each does tasks, several at once. It returns what stopped it: an ended context is for the caller to look at; anything
// else would have been every other task's error too.
func (b *builder) each(ctx context.Context, stage string, tasks []*task, do func(context.Context, *task) error) error {
	if len(tasks) == 0 {
		return nil
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	p := Progress{Stage: stage, Total: len(tasks), Unit: "requests"}
	b.report(p)
	away := 0
	var last error // that halted the work without cutting it off
	var halt sync.Once
	halted := make(chan struct{})
	next := make(chan *task)
	var workers sync.WaitGroup
	for range max(1, b.Concurrency) {
		workers.Go(func() {
			for t := range next {
				err := do(ctx, t)
				var over *llm.OverBudget
				b.mu.Lock()
				p.Done++
				switch {
				case err == nil:
					b.keys[t.key] = true
					away = 0
				case ctx.Err() != nil:
				case errors.As(err, &over):
					last = err
					halt.Do(func() { close(halted) }) // what is under way is paid for: let it end
				default:
					b.failures = append(b.failures, Failure{t.item, err.Error()})
					if clara.KindOf(err) == clara.Unavailable {
						away++
					}
					if describe.Final(err) || away >= failAfter {
						stop(err)
					}
				}
				b.report(p)
				b.mu.Unlock()
			}
		})
	}
feed:
	for _, t := range tasks {
		select {
		case next <- t:
		case <-halted:
			break feed
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	workers.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return last
}

func (b *builder) report(p Progress) {
	if b.Progress != nil {
		p.Usage = b.Meter.Usage()
		b.Progress(p)
	}
}
