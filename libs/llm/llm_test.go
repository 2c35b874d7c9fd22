package llm_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/llm"
	"github.com/clara-suite/clara/libs/testkit/llmtest"
)

const secret = "sk-not-to-be-seen"

// endpoint is one that fails fast.
func endpoint(s *llmtest.Server) llm.Endpoint {
	return llm.Endpoint{
		Name: "test", BaseURL: s.URL, APIKey: secret, AllowLoopback: true, Tries: 4, BackoffMin: time.Millisecond, BackoffMax: 5 * time.Millisecond,
		Timeout: time.Second, IdleTimeout: 300 * time.Millisecond, PriceIn: 1, PriceOut: 2,
		Settings: llm.Settings{Key: "THE_KEY", URL: "THE_URL", Model: "THE_MODEL", Private: "ALLOW"},
	}
}

func client(t *testing.T, e llm.Endpoint) *llm.Client {
	t.Helper()
	c, err := llm.New(e, nil)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func chat() llm.Request {
	return llm.Request{Model: "m", Messages: []llm.Message{{Role: "user", Text: "<passage>\nThe reactor was switched off in May.\n</passage>"}}}
}

func TestFaultsOfEndpoints(t *testing.T) {
	for _, c := range []struct {
		name   string
		fault  llmtest.Fault
		always bool // else the first two requests
		kind   clara.Kind
		says   string
		calls  int
	}{
		{"no fault", llmtest.None, true, 0, "", 1},
		{"bad key", llmtest.Unauthorized, true, clara.Denied, "set THE_KEY", 1},
		{"no model", llmtest.NotFound, true, clara.NotFound, "check THE_MODEL and THE_URL", 1},
		{"busy for a while", llmtest.Busy, false, 0, "", 3},
		{"always busy", llmtest.Busy, true, clara.Unavailable, "4 tries", 4},
		{"broken for a while", llmtest.Broken, false, 0, "", 3},
		{"quota", llmtest.Quota, true, clara.State, "no credit", 1},
		{"connection cut off for a while", llmtest.CutOff, false, 0, "", 3},
		{"no API", llmtest.HTML, true, clara.Corrupt, "no JSON", 4},
		{"no choices for a while", llmtest.NoChoices, false, 0, "", 3},
		{"redirect", llmtest.Redirect, true, clara.Invalid, "set THE_URL to the final address", 1},
		{"hangs once", llmtest.Hang, false, 0, "", 2},
		{"hangs", llmtest.Hang, true, clara.Unavailable, "no whole answer", 2},
		{"drips", llmtest.Slow, true, clara.Unavailable, "no whole answer", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := llmtest.Start(t)
			s.Faults = llmtest.Until(c.fault, c.fault)
			if c.calls == 2 {
				s.Faults = llmtest.Until(c.fault)
			}
			if c.always {
				s.Faults = llmtest.Every(c.fault)
			}
			e := endpoint(s)
			if c.fault == llmtest.Hang || c.fault == llmtest.Slow {
				e.Timeout = 150 * time.Millisecond
			}
			meter := llm.NewMeter(0, llm.Usage{})
			r := chat()
			r.Meter = meter
			res, err := client(t, e).Chat(t.Context(), r)
			assert.Len(t, s.Calls(), c.calls)
			if c.says == "" {
				require.NoError(t, err)
				assert.NotEmpty(t, res.Text)
				assert.Equal(t, int64(c.calls), meter.Usage().Requests)
				assert.Equal(t, int64(c.calls-1), meter.Usage().Retries)
				assert.Positive(t, meter.Usage().Cost)
				return
			}
			require.Error(t, err)
			assert.Equal(t, c.kind, clara.KindOf(err), err.Error())
			assert.Contains(t, err.Error(), c.says)
			assert.NotContains(t, err.Error(), secret)
		})
	}
}

func TestRetryAfterIsKept(t *testing.T) {
	s := llmtest.Start(t)
	s.RetryAfter = "0.3"
	s.Faults = llmtest.Until(llmtest.Busy)
	begin := time.Now()
	_, err := client(t, endpoint(s)).Chat(t.Context(), chat())
	require.NoError(t, err)
	assert.GreaterOrEqual(t, time.Since(begin), 300*time.Millisecond)
}

func TestRetryAfterTooLongIsAnError(t *testing.T) {
	s := llmtest.Start(t)
	s.RetryAfter = "86400"
	s.Faults = llmtest.Every(llmtest.Busy)
	_, err := client(t, endpoint(s)).Chat(t.Context(), chat())
	assert.Equal(t, clara.Unavailable, clara.KindOf(err))
	assert.Len(t, s.Calls(), 1)
}

func TestStructuredOutputFallsBack(t *testing.T) {
	for _, c := range []struct {
		name             string
		noSchema, noJSON bool
		first, second    int // requests of the first and of a later chat
	}{{"schema", false, false, 1, 1}, {"JSON mode", true, false, 2, 1}, {"text", true, true, 3, 1}} {
		t.Run(c.name, func(t *testing.T) {
			s := llmtest.Start(t)
			s.NoSchema, s.NoJSON = c.noSchema, c.noJSON
			cl := client(t, endpoint(s))
			r := chat()
			r.Schema = &llm.Schema{Name: "x", JSON: []byte(`{"type":"object"}`)}
			_, err := cl.Chat(t.Context(), r)
			require.NoError(t, err)
			assert.Len(t, s.Calls(), c.first)
			_, err = cl.Chat(t.Context(), r)
			require.NoError(t, err)
			assert.Len(t, s.Calls(), c.first+c.second)
		})
	}
}

func TestBudgetIsNeverExceeded(t *testing.T) {
	s := llmtest.Start(t)
	s.Delay = 10 * time.Millisecond
	cl := client(t, endpoint(s))
	const budget = 0.003
	meter := llm.NewMeter(budget, llm.Usage{})
	var work sync.WaitGroup
	errs := make([]error, 40)
	for i := range errs {
		work.Go(func() {
			r := chat()
			r.Meter = meter
			_, errs[i] = cl.Chat(t.Context(), r)
		})
	}
	work.Wait()
	refused := 0
	for _, err := range errs {
		var over *llm.OverBudget
		if err != nil {
			require.ErrorAs(t, err, &over)
			require.Equal(t, clara.State, clara.KindOf(err))
			refused++
		}
	}
	assert.Positive(t, refused)
	assert.LessOrEqual(t, meter.Usage().Cost, budget)
}

func TestConcurrencyAdapts(t *testing.T) {
	s := llmtest.Start(t)
	s.Delay = 5 * time.Millisecond
	e := endpoint(s)
	e.Concurrency = 8
	cl := client(t, e)
	var work sync.WaitGroup
	for range 60 {
		work.Go(func() { _, _ = cl.Chat(t.Context(), chat()) })
	}
	work.Wait()
	assert.Equal(t, 8, cl.Concurrency(), "grows to the limit")
	assert.LessOrEqual(t, s.MostAtOnce(), 8)

	s2 := llmtest.Start(t)
	s2.Faults = llmtest.Until(llmtest.Busy)
	cl = client(t, endpoint(s2))
	_, err := cl.Chat(t.Context(), chat())
	require.NoError(t, err)
	assert.Less(t, cl.Concurrency(), 4, "halves when pushed back")
}

func TestTokensPerMinute(t *testing.T) {
	s := llmtest.Start(t)
	e := endpoint(s)
	e.TokensPerMinute = 1200 // one request of 1024 and its prompt now, the next when the bucket has filled
	cl := client(t, e)
	_, err := cl.Chat(t.Context(), chat())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	r := chat()
	r.MaxTokens = 4096
	_, err = cl.Chat(ctx, r)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Len(t, s.Calls(), 1)
}

func TestAddressesThatAreNotAllowed(t *testing.T) {
	s := llmtest.Start(t)
	for _, c := range []struct {
		name, url         string
		loopback, private bool
		refused           bool
	}{
		{"loopback", s.URL, false, false, true},
		{"loopback by name", strings.Replace(s.URL, "127.0.0.1", "localhost", 1), false, false, true},
		{"loopback in IPv6", "http://[::ffff:127.0.0.1]:1/v1", false, false, true},
		{"loopback allowed", s.URL, true, false, false},
		{"metadata service", "http://169.254.169.254/v1", true, true, true},
		{"private", "http://10.1.2.3/v1", true, false, true},
		{"carrier", "http://100.64.0.1/v1", true, false, true},
		{"unspecified", "http://0.0.0.0:80/v1", true, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := endpoint(s)
			e.BaseURL, e.AllowLoopback, e.AllowPrivate = c.url, c.loopback, c.private
			_, err := client(t, e).Chat(t.Context(), chat())
			if !c.refused {
				require.NoError(t, err)
				return
			}
			require.Error(t, err)
			assert.Equal(t, clara.State, clara.KindOf(err), err.Error())
			assert.Regexp(t, "ALLOW would allow it|never an endpoint's address: check THE_URL", err.Error())
		})
	}
}

func TestRedirectsAreNotFollowedElsewhere(t *testing.T) {
	reached := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	defer other.Close()
	first := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer first.Close()
	_, err := client(t, llm.Endpoint{BaseURL: first.URL, APIKey: secret, AllowLoopback: true}).Chat(t.Context(), chat())
	require.Error(t, err)
	assert.False(t, reached)
}

func TestKeysStayHidden(t *testing.T) {
	e := llm.Endpoint{Name: "x", BaseURL: "https://user:" + secret + "@example.com/v1?key=" + secret, APIKey: secret}
	for _, s := range []string{fmt.Sprintf("%v %+v %#v %s", e, e, e, e), e.LogValue().String(), e.PublicURL()} {
		assert.NotContains(t, s, secret)
	}
}

func TestEmbed(t *testing.T) {
	s := llmtest.Start(t)
	s.Faults = llmtest.Until(llmtest.Broken, llmtest.NoChoices)
	texts := make([]string, 100)
	for i := range texts {
		texts[i] = fmt.Sprint("text number ", i)
	}
	v, err := client(t, endpoint(s)).Embed(t.Context(), "e", texts, nil)
	require.NoError(t, err)
	require.Len(t, v, 100)
	assert.Len(t, v[99], llmtest.Dimensions)
}

func TestCancelledChatsEndAtOnce(t *testing.T) {
	s := llmtest.Start(t)
	s.Faults = llmtest.Every(llmtest.Hang)
	e := endpoint(s)
	e.Timeout = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { _, err := client(t, e).Chat(ctx, chat()); done <- err }()
	require.Eventually(t, func() bool { return len(s.Calls()) == 1 }, 5*time.Second, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
}

func ExampleClient_Chat() {
	c, err := llm.New(llm.Endpoint{BaseURL: "https://api.openai.com/v1", APIKey: "..", PriceIn: 0.15, PriceOut: 0.6}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	meter := llm.NewMeter(5, llm.Usage{}) // at most 5, in the currency of the prices
	ask := func(ctx context.Context) (llm.Response, error) {
		return c.Chat(ctx, llm.Request{Model: "gpt-4o-mini", Messages: []llm.Message{{Role: "user", Text: "Say hello."}}, Meter: meter})
	}
	_ = ask // needs a key
	fmt.Println(c.Endpoint().PublicURL())
	// Output: https://api.openai.com/v1
}
