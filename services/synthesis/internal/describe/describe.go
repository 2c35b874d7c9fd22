// Package describe has pictures described by a vision model, or reads their text
// where there is none. Safe for concurrent use.
package describe

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"image"
	"strings"
	"sync"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/llm"
	"github.com/clara-suite/clara/services/synthesis/internal/picture"
	"github.com/clara-suite/clara/services/synthesis/internal/prompt"
	"github.com/clara-suite/clara/services/synthesis/internal/results"
	"github.com/clara-suite/clara/services/synthesis/internal/text"
)

// Picture is one to be described.
type Picture struct {
	Path string // as documents name it
	// Load returns the file. It is called once, when the picture's turn comes.
	Load     func(ctx context.Context) ([]byte, error)
	Language string // of the description, such as "zh"; "": that of the text in the picture, else English
}

// Who can say what is in a picture.
const (
	ByModel = "model"
	ByOCR   = "ocr"
)

// Result is what became of a picture.
type Result struct {
	Path string
	Text string
	By   string // ByModel, ByOCR
	// Skipped says why the picture needs no description; Err why it has none.
	Skipped string
	Err     error
	Key     string // of the stored result
}

// Describer describes. Model or Read may be nil, not both.
type Describer struct {
	Chat        llm.Model
	Model       string
	Concurrency int
	// Read recognises text in a picture: a hint for the model, and what there is without one. Unsupported says that it
	// cannot.
	Read  func(ctx context.Context, img image.Image) (string, error)
	Store results.Store
	Meter *llm.Meter
}

// maxDescription is the length of a description in tokens.
const maxDescription = 2048

// answer is what is stored.
type answer struct {
	Text  string    `json:"text"`
	By    string    `json:"by"`
	Usage llm.Usage `json:"usage"`
}

// All describes pictures, identical ones once, and returns the results in their order. done is called after each. What
// stops all, such as a refused key or a spent budget, is returned as the error; the results until then are good.
func (d Describer) All(ctx context.Context, pictures []Picture, done func()) ([]Result, error) {
	out := make([]Result, len(pictures))
	for i, p := range pictures {
		out[i] = Result{Path: p.Path, Err: clara.Errorf(clara.State, "not reached")}
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var (
		workers sync.WaitGroup
		mu      sync.Mutex
		inWork  = map[string]chan struct{}{} // by key: identical pictures wait for the first
	)
	// Decoding takes memory for every pixel: only a few at once, however many requests are under way.
	decoding := make(chan struct{}, 2)
	next := make(chan int)
	for range max(1, d.Concurrency) {
		workers.Go(func() {
			for i := range next {
				out[i] = d.one(ctx, pictures[i], &mu, inWork, decoding)
				if Final(out[i].Err) {
					stop(out[i].Err)
				}
				if done != nil {
					done()
				}
			}
		})
	}
feed:
	for i := range pictures {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	workers.Wait()
	if err := ctx.Err(); err != nil {
		return out, context.Cause(ctx)
	}
	return out, nil
}

// Final reports whether an error would be that of every other request too.
func Final(err error) bool {
	var over *llm.OverBudget
	if err == nil {
		return false
	}
	switch clara.KindOf(err) {
	case clara.Denied, clara.Unauthenticated, clara.NotFound, clara.State:
		return true
	}
	return errors.As(err, &over) || clara.IsContext(err)
}

func (d Describer) one(ctx context.Context, p Picture, mu *sync.Mutex, inWork map[string]chan struct{}, decoding chan struct{}) Result {
	r := Result{Path: p.Path}
	data, err := p.Load(ctx)
	if err != nil {
		if clara.IsContext(err) {
			r.Err = err
			return r
		}
		r.Skipped = "cannot be opened: " + err.Error()
		return r
	}
	if err := picture.Check(data); err != nil {
		r.Skipped = err.Error()
		return r
	}
	if d.Chat == nil && d.Read == nil {
		return d.judged(r)
	}
	sum := sha256.Sum256(data)
	r.Key = d.key(hex.EncodeToString(sum[:]), p.Language)
	for {
		if a, ok, err := d.stored(ctx, r.Key); ok || err != nil {
			r.Text, r.By, r.Err = a.Text, a.By, err
			return d.judged(r)
		}
		mu.Lock()
		busy, ok := inWork[r.Key]
		if !ok {
			mine := make(chan struct{})
			inWork[r.Key] = mine
			mu.Unlock()
			defer func() {
				mu.Lock()
				delete(inWork, r.Key)
				mu.Unlock()
				close(mine)
			}()
			break
		}
		mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			r.Err = context.Cause(ctx)
			return r
		}
	}
	jpeg, hint, err := d.prepare(ctx, data, decoding)
	if k := clara.KindOf(err); err != nil && (k == clara.Corrupt || k == clara.Unsupported) {
		r.Skipped = err.Error()
		return r
	}
	a := answer{Text: hint, By: ByOCR}
	if err == nil && d.Chat != nil {
		a, err = d.ask(ctx, jpeg, p.Language, hint)
	}
	if err != nil {
		r.Err = err
		return r
	}
	// That there is no text in a picture is a result; that a model said nothing is asked about again.
	if a.Text != "" || a.By == ByOCR {
		value, merr := json.Marshal(a)
		if err = merr; err == nil {
			err = d.Store.Put(context.WithoutCancel(ctx), r.Key, value) // what was paid for is kept
		}
	}
	r.Text, r.By, r.Err = a.Text, a.By, err
	return d.judged(r)
}

// judged turns a picture without anything to say into a skipped one.
func (d Describer) judged(r Result) Result {
	if r.Err == nil && r.Text == "" {
		r.Skipped = "no vision model is set (VISION_MODEL), and there is no text in it"
		if d.Chat != nil {
			r.Skipped = "the model said nothing about it"
		}
	}
	return r
}

func (d Describer) key(content, language string) string {
	model := d.Model
	if d.Chat == nil {
		model = "ocr"
	}
	sum := sha256.Sum256([]byte("picture\x00" + prompt.Version + "\x00" + model + "\x00" + language + "\x00" + content))
	return keyPrefix + hex.EncodeToString(sum[:])
}

// keyPrefix is no hexadecimal digit: keys of other results do not start with it.
const keyPrefix = "p"

// IsKey reports whether a stored result is that of a picture.
func IsKey(key string) bool { return strings.HasPrefix(key, keyPrefix) }

func (d Describer) stored(ctx context.Context, key string) (answer, bool, error) {
	var a answer
	value, ok, err := d.Store.Get(ctx, key)
	if err != nil || !ok {
		return a, false, err
	}
	if err := json.Unmarshal(value, &a); err != nil {
		return a, false, nil // of another form: asked again
	}
	return a, true, nil
}

// prepare makes what is sent of a picture: JPEG and the text recognised in it.
func (d Describer) prepare(ctx context.Context, data []byte, decoding chan struct{}) (jpeg []byte, hint string, err error) {
	select {
	case decoding <- struct{}{}:
		defer func() { <-decoding }()
	case <-ctx.Done():
		return nil, "", context.Cause(ctx)
	}
	img, err := picture.Open(data)
	if err != nil {
		return nil, "", err
	}
	if d.Read != nil {
		// With a model the text is only a hint, and its lack no fault.
		if hint, err = d.Read(ctx, img); err != nil && d.Chat == nil {
			return nil, "", err
		}
	}
	if d.Chat == nil {
		return nil, hint, nil
	}
	jpeg, err = picture.JPEG(img)
	return jpeg, hint, err
}

func (d Describer) ask(ctx context.Context, jpeg []byte, language, hint string) (answer, error) {
	if language == "" && hint != "" {
		language = text.Language(hint)
	}
	res, err := d.Chat.Chat(ctx, llm.Request{
		Model: d.Model, Messages: prompt.Picture(llm.Image{MIME: "image/jpeg", Data: jpeg}, language, hint), MaxTokens: maxDescription, Meter: d.Meter,
	})
	return answer{Text: strings.TrimSpace(res.Text), By: ByModel, Usage: res.Usage}, err
}
