package infer_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/testkit/tinymodel"
)

func open(t testing.TB, dir string, o infer.Options) *infer.Engine {
	t.Helper()
	e, err := infer.Open(context.Background(), dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, e.Close(context.Background())) })
	return e
}

func generate(ctx context.Context, e *infer.Engine, r infer.Request) (ids []int32, text string, s infer.Stats, err error) {
	s, err = e.Generate(ctx, r, func(t infer.Token) error {
		if t.ID >= 0 {
			ids = append(ids, t.ID)
		}
		text += t.Text
		return nil
	})
	return ids, text, s, err
}

func words(r *rand.Rand, n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = 3 + r.Int32N(tinymodel.Vocab-3)
	}
	return ids
}

// TestJoinAndLeave runs many requests at once, with and without adapter, of all lengths, over few rows,
// with texts to compress in between: each gets the tokens that it gets alone.
func TestJoinAndLeave(t *testing.T) {
	dir := tinymodel.Package(t, tinymodel.Default(), 4)
	e := open(t, dir, infer.Options{Context: 96, Streams: 5, BatchTokens: 128, Slowdown: 1e9})
	alone := open(t, dir, infer.Options{Context: 96, Streams: 1, BatchTokens: 1})
	r := rand.New(rand.NewPCG(7, 7))
	ctx := t.Context()

	docs := make([]string, 12)
	for i := range docs {
		docs[i] = strings.Repeat("word ", r.IntN(9)) + fmt.Sprint(i)
	}
	want, err := alone.CompressTexts(ctx, docs)
	require.NoError(t, err)
	requests := make([]infer.Request, 40)
	wanted := make([][]int32, len(requests))
	for i := range requests {
		ids := words(r, 1+r.IntN(60))
		requests[i] = infer.Request{Prompt: infer.Prompt{IDs: ids}, Adapter: r.IntN(2) == 0, MaxTokens: 1 + r.IntN(30), StopIDs: []int32{3 + r.Int32N(250)}}
		if len(ids) > 10 {
			requests[i].Prompt.Slots = []infer.Slot{{At: r.IntN(len(ids) - 4), Memory: want[r.IntN(len(want))]}}
		}
		if r.IntN(4) == 0 {
			requests[i].Sampling = infer.Sampling{Temperature: 1, TopK: 20, Seed: uint64(i)}
		}
		wanted[i], _, _, err = generate(ctx, alone, requests[i])
		require.NoError(t, err)
	}
	var wg sync.WaitGroup
	for i, q := range requests {
		wg.Go(func() {
			ids, _, stats, err := generate(ctx, e, q)
			if assert.NoError(t, err) {
				assert.Equal(t, wanted[i], ids, "request %d", i)
				assert.Equal(t, len(ids), stats.Tokens)
				assert.Equal(t, len(q.Prompt.IDs), stats.PromptTokens)
			}
		})
		if i%8 == 0 {
			wg.Go(func() {
				got, err := e.CompressTexts(ctx, docs)
				if assert.NoError(t, err) {
					for k := range got {
						assert.InDeltaSlice(t, want[k].Data, got[k].Data, 1e-4)
					}
				}
			})
			wg.Go(func() {
				got, err := e.EncodeQueries(ctx, docs[:2])
				if assert.NoError(t, err) {
					assert.Len(t, got, 2)
				}
			})
		}
	}
	wg.Wait()
	assert.Zero(t, e.Load())
}

// TestPieces: a prompt taken in pieces, while another request generates, gives the same tokens.
func TestPieces(t *testing.T) {
	dir := tinymodel.Package(t, tinymodel.Default(), 4)
	e := open(t, dir, infer.Options{Context: 400, Stall: time.Nanosecond}) // pieces of 16 tokens
	r := rand.New(rand.NewPCG(1, 9))
	long := infer.Request{Prompt: infer.Prompt{IDs: words(r, 333)}, Adapter: true, MaxTokens: 20, StopIDs: []int32{}}
	want, _, _, err := generate(t.Context(), e, long)
	require.NoError(t, err)
	once := sync.Once{}
	var got []int32
	done := make(chan error, 1)
	_, err = e.Generate(t.Context(), infer.Request{Prompt: infer.Prompt{IDs: words(r, 5)}, MaxTokens: 200, StopIDs: []int32{}}, func(infer.Token) error {
		once.Do(func() {
			go func() {
				var err error
				got, _, _, err = generate(t.Context(), e, long)
				done <- err
			}()
		})
		return nil
	})
	require.NoError(t, err)
	require.NoError(t, <-done)
	assert.Equal(t, want, got)
}

func TestAdaptersMatter(t *testing.T) {
	e := open(t, tinymodel.Package(t, tinymodel.Default(), 4), infer.Options{})
	p := infer.Prompt{IDs: words(rand.New(rand.NewPCG(2, 2)), 20)}
	on, err := e.Logits(t.Context(), p, true)
	require.NoError(t, err)
	off, err := e.Logits(t.Context(), p, false)
	require.NoError(t, err)
	require.Len(t, on, e.Manifest().Vocab)
	assert.NotEqual(t, on, off)
	a, err := e.CompressTexts(t.Context(), []string{"text"})
	require.NoError(t, err)
	b, err := e.EncodeQueries(t.Context(), []string{"text"})
	require.NoError(t, err)
	assert.NotEqual(t, a[0].Data, b[0].Data)
	p.Slots = []infer.Slot{{At: 3, Memory: a[0]}}
	with, err := e.Logits(t.Context(), p, true)
	require.NoError(t, err)
	assert.NotEqual(t, on, with)
}

func TestBaseOnly(t *testing.T) {
	e := open(t, tinymodel.Package(t, tinymodel.Default(), 0), infer.Options{})
	enc, err := e.Prompts().AnswerText("why?", []string{"because </s>"}, 0)
	require.NoError(t, err)
	ids, text, stats, err := generate(t.Context(), e, infer.Request{Prompt: infer.Prompt{IDs: enc.IDs}, MaxTokens: 9, StopIDs: []int32{}})
	require.NoError(t, err)
	assert.Len(t, ids, 9)
	assert.Equal(t, e.Tokenizer().Decode(ids, true), text)
	assert.Equal(t, infer.FinishLength, stats.Finish)
	_, err = e.CompressTexts(t.Context(), []string{"x"})
	assert.Equal(t, clara.State, clara.KindOf(err))
	_, _, _, err = generate(t.Context(), e, infer.Request{Prompt: infer.Prompt{IDs: enc.IDs}, Adapter: true})
	assert.Equal(t, clara.State, clara.KindOf(err))
}

func TestStops(t *testing.T) {
	e := open(t, tinymodel.Package(t, tinymodel.Default(), 0), infer.Options{Context: 64})
	r := infer.Request{Prompt: infer.Prompt{IDs: words(rand.New(rand.NewPCG(3, 3)), 10)}, MaxTokens: 30, StopIDs: []int32{}, Sampling: infer.Sampling{Temperature: 1, Seed: 5}}
	ids, text, stats, err := generate(t.Context(), e, r)
	require.NoError(t, err)
	require.Len(t, ids, 30)
	assert.Equal(t, infer.FinishLength, stats.Finish)

	first := ids[0]
	at := 1
	for ids[at] == first {
		at++
	}
	byID := r
	byID.StopIDs = []int32{ids[at]}
	got, _, stats, err := generate(t.Context(), e, byID)
	require.NoError(t, err)
	assert.Equal(t, ids[:at], got, "the stop id is not part of the answer")
	assert.Equal(t, infer.FinishStop, stats.Finish)

	byText := r
	k := len(text) / 2
	for !strings.HasPrefix(text[k:], string([]rune(text[k:])[:1])) {
		k++
	}
	byText.Stop = []string{string([]rune(text[k:])[:3])}
	_, cut, stats, err := generate(t.Context(), e, byText)
	require.NoError(t, err)
	assert.Equal(t, text[:strings.Index(text, byText.Stop[0])], cut)
	assert.Equal(t, infer.FinishStop, stats.Finish)

	r.MaxTokens = 1000
	ids, _, stats, err = generate(t.Context(), e, r)
	require.NoError(t, err)
	assert.Len(t, ids, 54, "the context ends it")
	assert.Equal(t, infer.FinishLength, stats.Finish)
}

func TestRefuses(t *testing.T) {
	e := open(t, tinymodel.Package(t, tinymodel.Default(), 4), infer.Options{Context: 32})
	H := e.Manifest().H
	memory := func(m, h int) clara.Memory { return clara.Memory{M: m, H: h, Data: make([]float32, m*h)} }
	prompt := func(n int, slots ...infer.Slot) infer.Request {
		return infer.Request{Prompt: infer.Prompt{IDs: make([]int32, n), Slots: slots}, Adapter: true}
	}
	bad := prompt(3)
	bad.Prompt.IDs[1] = 100000
	hot := prompt(3)
	hot.Sampling.Temperature = -1
	for _, c := range []struct {
		name string
		r    infer.Request
		kind clara.Kind
		text string
	}{
		{"empty", prompt(0), clara.Invalid, "empty"},
		{"too long", prompt(40), clara.Invalid, "the prompt has 40 tokens, the context holds 32"},
		{"unknown id", bad, clara.Invalid, "token 1 has id 100000"},
		{"sampling", hot, clara.Invalid, "temperature"},
		{"slot outside", prompt(5, infer.Slot{At: 3, Memory: memory(4, H)}), clara.Invalid, "leaves the prompt"},
		{"other model", prompt(9, infer.Slot{At: 1, Memory: memory(4, H+1)}), clara.State, "made by another model"},
		{"torn memory", prompt(9, infer.Slot{At: 1, Memory: clara.Memory{M: 4, H: H}}), clara.Corrupt, "holds 0 values"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, _, err := generate(t.Context(), e, c.r)
			require.ErrorContains(t, err, c.text)
			assert.Equal(t, c.kind, clara.KindOf(err))
		})
	}
	for _, ids := range [][]int32{{1, 2}, make([]int32, 1000), {1, 2, 3, 4, 5, -1}} {
		_, err := e.Compress(t.Context(), infer.Encoder, [][]int32{ids})
		assert.Equal(t, clara.Invalid, clara.KindOf(err))
	}
	out, err := e.Compress(t.Context(), infer.Encoder, nil)
	require.NoError(t, err)
	assert.Empty(t, out)
}

// TestBusy fills the queue and finds it refused with a hint, while what was taken is answered.
func TestBusy(t *testing.T) {
	e := open(t, tinymodel.Package(t, tinymodel.Default(), 4), infer.Options{Context: 400, Streams: 1, QueueTokens: 300})
	r := infer.Request{Prompt: infer.Prompt{IDs: make([]int32, 100)}, MaxTokens: 100, StopIDs: []int32{}}
	release := make(chan struct{})
	var wg sync.WaitGroup
	busy := make(chan error, 50)
	for range 50 {
		wg.Go(func() {
			_, err := e.Generate(t.Context(), r, func(infer.Token) error { <-release; return nil })
			busy <- err
		})
	}
	var refused error
	require.Eventually(t, func() bool {
		select {
		case refused = <-busy:
			return refused != nil
		default:
			return false
		}
	}, 10*time.Second, time.Millisecond)
	close(release)
	wg.Wait()
	close(busy)
	assert.Equal(t, clara.Busy, clara.KindOf(refused))
	assert.Positive(t, clara.RetryAfter(refused))
	done := 0
	for err := range busy {
		if err == nil {
			done++
		} else {
			assert.Equal(t, clara.Busy, clara.KindOf(err))
		}
	}
	assert.Positive(t, done)

	texts := make([]string, 100)
	_, err := e.CompressTexts(t.Context(), texts)
	require.NoError(t, err, "nothing waits: a large call is taken")
}

// TestCancel ends requests at every point: waiting, in prefill, while generating, by yield. Their places are free again.
func TestCancel(t *testing.T) {
	e := open(t, tinymodel.Package(t, tinymodel.Default(), 4), infer.Options{Context: 500, Streams: 2, Stall: time.Nanosecond, Slowdown: 1e9})
	r := rand.New(rand.NewPCG(4, 4))
	var wg sync.WaitGroup
	for i := range 60 {
		n := r.IntN(5)
		q := infer.Request{Prompt: infer.Prompt{IDs: words(r, 1+r.IntN(300))}, MaxTokens: 100, StopIDs: []int32{}, Adapter: i%2 == 0}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*500*time.Microsecond)
			defer cancel()
			boom := errors.New("client went away")
			k := 0
			_, err := e.Generate(ctx, q, func(infer.Token) error {
				if k++; k > n {
					return boom
				}
				return nil
			})
			assert.True(t, errors.Is(err, boom) || clara.IsContext(err), "%v", err)
			_, err = e.CompressTexts(ctx, []string{"a", "b"})
			assert.True(t, err == nil || clara.IsContext(err), "%v", err)
		})
	}
	wg.Wait()
	require.Eventually(t, func() bool { l := e.Load(); return l == infer.Load{Running: l.Running} }, 5*time.Second, time.Millisecond)
	ids, _, _, err := generate(t.Context(), e, infer.Request{Prompt: infer.Prompt{IDs: words(r, 5)}, MaxTokens: 5, StopIDs: []int32{}})
	require.NoError(t, err)
	assert.Len(t, ids, 5)
}

// TestClose drains: what was accepted is answered, what comes later is refused; with a deadline, what is left fails.
func TestClose(t *testing.T) {
	dir := tinymodel.Package(t, tinymodel.Default(), 4)
	q := infer.Request{Prompt: infer.Prompt{IDs: make([]int32, 50)}, MaxTokens: 200, StopIDs: []int32{}}
	for _, c := range []struct {
		name  string
		drain bool
	}{{"drain", true}, {"abort", false}} {
		t.Run(c.name, func(t *testing.T) {
			e, err := infer.Open(t.Context(), dir, infer.Options{Context: 300, Streams: 2, Slowdown: 1e9})
			require.NoError(t, err)
			started := make(chan struct{}, 6)
			results := make(chan error, 6)
			for range 6 {
				go func() {
					once := sync.Once{}
					_, err := e.Generate(context.Background(), q, func(infer.Token) error { once.Do(func() { started <- struct{}{} }); return nil })
					results <- err
				}()
			}
			select {
			case <-started:
			case err := <-results:
				require.NoError(t, err)
			}
			require.Eventually(t, func() bool { l := e.Load(); return l.Running+l.Waiting >= 4 }, 5*time.Second, time.Millisecond)
			ctx, cancel := context.WithCancel(context.Background())
			if !c.drain {
				cancel()
			}
			require.NoError(t, e.Close(ctx))
			cancel()
			failed := 0
			for range 6 {
				if err := <-results; err != nil {
					failed++
					assert.Contains(t, []clara.Kind{clara.Unavailable, clara.State}, clara.KindOf(err))
				}
			}
			if !c.drain {
				assert.Positive(t, failed)
			}
			_, _, _, err = generate(context.Background(), e, q)
			assert.Equal(t, clara.State, clara.KindOf(err))
			require.NoError(t, e.Close(context.Background()))
		})
	}
}

// TestSharedBeginning: requests whose prompts begin alike take that part from those before, with and without
// adapter, in pieces and in one, and get the tokens that they get alone.
func TestSharedBeginning(t *testing.T) {
	dir := tinymodel.Package(t, tinymodel.Default(), 4)
	o := infer.Options{Context: 300, Streams: 4, Stall: time.Nanosecond} // pieces of 16 tokens, while others answer
	e := open(t, dir, o)
	r := rand.New(rand.NewPCG(11, 5))
	memories, err := e.CompressTexts(t.Context(), []string{"one", "two"})
	require.NoError(t, err)
	head := words(r, 90)
	requests := make([]infer.Request, 24)
	wanted := make([][]int32, len(requests))
	for i := range requests {
		ids := append(append([]int32{}, head...), words(r, 5+r.IntN(60))...)
		requests[i] = infer.Request{Prompt: infer.Prompt{IDs: ids}, Adapter: i%3 > 0, MaxTokens: 12, StopIDs: []int32{}}
		if i%3 == 2 {
			requests[i].Prompt.Slots = []infer.Slot{{At: 40 + r.IntN(50), Memory: memories[i%2]}}
		}
		alone := open(t, dir, o)
		var stats infer.Stats
		wanted[i], _, stats, err = generate(t.Context(), alone, requests[i])
		require.NoError(t, err)
		assert.Zero(t, stats.Reused)
	}
	for i, q := range requests {
		got, _, stats, err := generate(t.Context(), e, q)
		require.NoError(t, err)
		assert.Equal(t, wanted[i], got, "request %d", i)
		if i > 6 {
			want := 90
			if len(q.Prompt.Slots) > 0 {
				want = q.Prompt.Slots[0].At
			}
			assert.Equal(t, want, stats.Reused, "request %d", i)
		}
	}
	var wg sync.WaitGroup
	for i, q := range requests {
		q.Patient = true
		wg.Go(func() {
			got, _, stats, err := generate(t.Context(), e, q)
			if assert.NoError(t, err) {
				assert.Equal(t, wanted[i], got, "request %d beside others", i)
				assert.Positive(t, stats.Reused)
			}
		})
	}
	wg.Wait()
}
