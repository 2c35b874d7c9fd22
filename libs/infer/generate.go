package infer

import (
	"context"
	"strings"
	"time"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/grammar"
	"github.com/clara-suite/clara/libs/prompt"
)

// Prompt is the input of the decoder: token ids, and memories whose vectors take the place of the
// embeddings of their slot's memory tokens (spec clara-model §4).
type Prompt struct {
	IDs   []int32
	Slots []Slot
	// Batch is the length of the batch of training that the prompt is taken out of: models with rotary tables for long
	// sequences take those for all of it. 0: the prompt stands alone.
	Batch int
}

// Slot puts Memory.M vectors at positions At, At+1, ...
type Slot struct {
	At     int
	Memory clara.Memory
}

// Fill puts memories into the slots of a written prompt, in order. It returns an Invalid error
// if they are not as many as the slots, or not as wide.
func Fill(e prompt.Encoded, memories []clara.Memory) (Prompt, error) {
	p := Prompt{IDs: e.IDs}
	if len(e.Slots) != len(memories) {
		return p, clara.Errorf(clara.Invalid, "fill prompt: %d memories for %d slots", len(memories), len(e.Slots))
	}
	for i, s := range e.Slots {
		if memories[i].M != s.Len {
			return p, clara.Errorf(clara.State, "fill prompt: memory %d has %d vectors, a slot takes %d: it was made by another model", i, memories[i].M, s.Len)
		}
		p.Slots = append(p.Slots, Slot{At: s.Start, Memory: memories[i]})
	}
	return p, nil
}

// Request asks for an answer.
type Request struct {
	Prompt Prompt
	// Adapter turns the decoder adapter on: for prompts with memories. Off is the base model.
	Adapter  bool
	Sampling Sampling
	// MaxTokens ends the answer; 0: 128 (spec clara-model §6). The context may end it before.
	MaxTokens int
	// StopIDs end the answer and are not part of it; nil: the model's. Empty, not nil: none.
	StopIDs []int32
	// Stop are texts that end the answer and are not part of it.
	Stop []string
	// Patient requests wait their turn as long as it takes, after those that are not: for batches. Others are refused
	// as Busy where those running would hold them up too long (Options.Slowdown).
	Patient bool
	// Place, if it is one of this engine, is the request's admission (Engine.Reserve).
	Place *Place
	// Output is the form that the answer is held to; nil: none. An answer that MaxTokens ends is a beginning of it.
	Output *grammar.Grammar
	// KeepSpecial leaves the text of special tokens in the answer's text.
	KeepSpecial bool
}

// Token is a piece of an answer.
type Token struct {
	// ID is the token; -1 where only text that was held back is handed out, at the end.
	ID int32
	// Text is what is now certain of the answer's text; often empty (an unfinished rune, the possible beginning of a stop text).
	Text string
}

// Finish says why an answer ended.
type Finish string

// The reasons.
const (
	FinishStop   Finish = "stop"   // a stop id or stop text
	FinishLength Finish = "length" // MaxTokens or the end of the context
)

// Stats tells how a request went.
type Stats struct {
	PromptTokens int
	Reused       int           // of them, beginning like earlier prompts: not computed again
	Tokens       int           // generated, the stop id not counted
	Queue        time.Duration // from the call until the prompt was begun
	Prefill      time.Duration // from there to the first token
	Decode       time.Duration // from the first token to the last
	Finish       Finish
}

// TokensPerSecond is the rate after the first token, 0 for fewer than two.
func (s Stats) TokensPerSecond() float64 {
	if s.Tokens < 2 || s.Decode <= 0 {
		return 0
	}
	return float64(s.Tokens-1) / s.Decode.Seconds()
}

// Generate answers a prompt, calling yield for each token in the caller's goroutine. It returns when
// the answer is complete, when yield returns an error, which it hands on, or when ctx ends; the
// request's place is then free at once. Errors are those of the package.
func (e *Engine) Generate(ctx context.Context, r Request, yield func(Token) error) (Stats, error) {
	s, err := e.newStream(r)
	if err != nil {
		return Stats{}, err
	}
	stats := Stats{PromptTokens: len(r.Prompt.IDs)}
	if err := e.sched.submit(ctx, s); err != nil {
		return stats, err
	}
	defer e.sched.cancel(s)
	text := &textStream{stops: r.Stop}
	stream := e.pkg.Tokenizer.NewStream(!r.KeepSpecial)
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return stats, ctx.Err()
		case ev := <-s.events:
			if !ev.token {
				if ev.err != nil {
					return stats, ev.err
				}
				stats.Finish = ev.finish
				if rest, stopped := text.push(stream.Flush()); stopped {
					stats.Finish = FinishStop
					return stats, hand(yield, -1, rest)
				} else {
					return stats, hand(yield, -1, rest+text.flush())
				}
			}
			if stats.Tokens == 0 {
				stats.Reused = s.reused
				stats.Queue, stats.Prefill = s.began.Sub(s.asked), ev.at.Sub(s.began)
				last = ev.at
			}
			stats.Tokens++
			stats.Decode = ev.at.Sub(last)
			piece, stopped := text.push(stream.Push(ev.id))
			if err := yield(Token{ev.id, piece}); err != nil {
				return stats, err
			}
			if stopped {
				stats.Finish = FinishStop
				return stats, nil
			}
		}
	}
}

func hand(yield func(Token) error, id int32, text string) error {
	if text == "" {
		return nil
	}
	return yield(Token{id, text})
}

// Logits returns the logits [V] of the token that would follow the prompt.
func (e *Engine) Logits(ctx context.Context, p Prompt, adapter bool) ([]float32, error) {
	s, err := e.newStream(Request{Prompt: p, Adapter: adapter, MaxTokens: 1, StopIDs: []int32{}})
	if err != nil {
		return nil, err
	}
	s.wantLogits = true
	if err := e.sched.submit(ctx, s); err != nil {
		return nil, err
	}
	defer e.sched.cancel(s)
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case ev := <-s.events:
			if ev.err != nil {
				return nil, ev.err
			}
			if !ev.token {
				return s.logits, nil
			}
		}
	}
}

// newStream checks a request and prepares its run.
func (e *Engine) newStream(r Request) (*stream, error) {
	C, n := e.opts.Context, len(r.Prompt.IDs)
	switch {
	case n == 0:
		return nil, clara.Errorf(clara.Invalid, "generate: the prompt is empty")
	case n >= C:
		return nil, clara.Errorf(clara.Invalid, "generate: the prompt has %d tokens, the context holds %d with the answer: give fewer passages or a larger context", n, C)
	case r.MaxTokens < 0:
		return nil, clara.Errorf(clara.Invalid, "generate: max tokens is %d", r.MaxTokens)
	}
	if err := r.Sampling.Check(); err != nil {
		return nil, err
	}
	if r.Adapter {
		if err := e.role(Decoder); err != nil {
			return nil, err
		}
	}
	if err := e.model.checkIDs(r.Prompt.IDs); err != nil {
		return nil, err
	}
	for i, slot := range r.Prompt.Slots {
		if err := slot.Memory.Check(); err != nil {
			return nil, err
		}
		if slot.Memory.H != e.model.arch.Hidden {
			return nil, clara.Errorf(clara.State, "generate: memory %d has vectors of %d numbers, model %s takes %d: it was made by another model", i, slot.Memory.H, e.pkg.Manifest.Name, e.model.arch.Hidden)
		}
		if slot.At < 0 || slot.At+slot.Memory.M > n {
			return nil, clara.Errorf(clara.Invalid, "generate: slot %d at %d of %d vectors leaves the prompt of %d tokens", i, slot.At, slot.Memory.M, n)
		}
	}
	if r.MaxTokens == 0 {
		r.MaxTokens = 128
	}
	s := &stream{prompt: r.Prompt, adapter: r.Adapter, limit: min(r.MaxTokens, C-n), stop: r.StopIDs, sampler: newSampler(r.Sampling), patient: r.Patient, place: r.Place, row: -1}
	if s.stop == nil {
		s.stop = e.pkg.Manifest.EOS
	}
	if r.Output != nil {
		s.form = e.vocabulary().Matcher(r.Output)
	}
	s.long = e.model.isLong(max(n, r.Prompt.Batch))
	s.events = make(chan event, s.limit+1) // never blocks the engine
	return s, nil
}

// vocabulary is the tokenizer's tokens for requests that ask for a form. It is made at the first of them.
func (e *Engine) vocabulary() *grammar.Vocabulary {
	e.words.Do(func() { e.tokens = grammar.NewVocabulary(e.pkg.Tokenizer.Len(), e.pkg.Tokenizer.Bytes) })
	return e.tokens
}

// textStream holds back what may be the beginning of a stop text.
type textStream struct {
	stops []string
	held  string
}

// push adds text and returns what is certain, and whether a stop text was met; what follows it is dropped.
func (t *textStream) push(text string) (certain string, stopped bool) {
	t.held += text
	at := -1
	for _, stop := range t.stops {
		if i := strings.Index(t.held, stop); stop != "" && i >= 0 && (at < 0 || i < at) {
			at = i
		}
	}
	if at >= 0 {
		certain, t.held = t.held[:at], ""
		return certain, true
	}
	keep := 0
	for _, stop := range t.stops {
		for n := min(len(stop)-1, len(t.held)); n > keep; n-- {
			if strings.HasSuffix(t.held, stop[:n]) {
				keep = n
				break
			}
		}
	}
	certain, t.held = t.held[:len(t.held)-keep], t.held[len(t.held)-keep:]
	return certain, false
}

// flush returns what was held back.
func (t *textStream) flush() string {
	held := t.held
	t.held = ""
	return held
}
