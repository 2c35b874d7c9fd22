package infer

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
)

func TestPaceSteps(t *testing.T) {
	p := newPace(8)
	assert.Zero(t, p.step(3), "nothing is known")
	follow(&p.steps[2], 0.022)
	assert.InDelta(t, 0.020, p.step(1), 1e-9)
	assert.InDelta(t, 0.034, p.step(8), 1e-9)
	follow(&p.steps[6], 0.062)
	assert.InDelta(t, 0.042, p.step(4), 1e-9)
	assert.InDelta(t, 0.062, p.step(6), 1e-9)
	assert.Equal(t, p.step(8), p.step(20), "there are no more rows")
	p = newPace(8)
	follow(&p.steps[6], 0.03)
	assert.InDelta(t, 0.02, p.step(1), 1e-9)
}

// TestStepped: a machine that others slow down is slower for any number of streams, and the difference between numbers stays.
func TestStepped(t *testing.T) {
	p := newPace(8)
	p.stepped(1, 0.02)
	p.stepped(2, 0.03)
	assert.InDelta(t, 0.02, p.step(1), 1e-9, "the first of its kind says nothing of others")
	for range 100 {
		p.stepped(2, 0.06)
	}
	assert.InDelta(t, 0.06, p.step(2), 1e-9)
	assert.InDelta(t, 0.04, p.step(1), 1e-9)
	for range 100 {
		p.stepped(1, 0.02)
	}
	assert.InDelta(t, 0.03, p.step(2), 1e-9)
	assert.Zero(t, p.steps[8])
}

// known is a scheduler of a machine whose rates are known: alone, a request of 200 tokens that answers with 50
// takes 1.2 seconds.
func known() *scheduler {
	s := &scheduler{opts: Options{Streams: 8, Slowdown: 2, QueueTokens: 1 << 20}, pace: newPace(8)}
	s.pace.prompts, s.pace.prompt, s.pace.answer = 1000, 200, 50
	s.pace.steps[1], s.pace.steps[8] = 0.02, 0.055
	return s
}

func TestExpect(t *testing.T) {
	p := &known().pace
	var last time.Duration
	for n := range 20 {
		alone, beside := p.expect(200, 128, min(n, 8), max(n-8, 0), 8)
		assert.InDelta(t, 1.2, alone.Seconds(), 1e-6)
		assert.Greater(t, beside, last, "%d others", n)
		last = beside
	}
	alone, beside := p.expect(200, 10, 0, 0, 8)
	assert.Equal(t, alone, beside)
	assert.InDelta(t, 0.4, alone.Seconds(), 1e-6, "a short answer")
}

// TestRoom: requests are refused where others would hold them up too long, with a hint when to come again.
func TestRoom(t *testing.T) {
	at := time.Unix(1000, 0)
	for _, c := range []struct {
		name             string
		running, patient int
		waiting          int
		quiet, refused   time.Duration // ago
		prompt           int
		busy             bool
	}{
		{"alone", 0, 0, 0, time.Hour, time.Hour, 200, false},
		{"beside a few", 2, 0, 0, time.Hour, time.Hour, 200, false},
		{"beside many", 7, 0, 0, time.Hour, time.Hour, 200, true},
		{"in a burst", 7, 0, 0, time.Millisecond, time.Hour, 200, false},
		{"in a burst, no row left", 8, 0, 0, time.Millisecond, time.Hour, 200, true},
		{"after a quiet moment under load", 7, 0, 0, time.Millisecond, time.Second, 200, true},
		{"alone under load", 0, 0, 0, time.Millisecond, time.Millisecond, 200, false},
		{"others wait", 8, 0, 3, time.Hour, time.Hour, 200, true},
		{"beside patient ones only", 7, 7, 0, time.Hour, time.Hour, 200, false},
		{"a long prompt", 5, 0, 0, time.Hour, time.Hour, 4000, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := known()
			s.running, s.hurried, s.quiet = c.running, c.running-c.patient, at.Add(-c.quiet)
			s.refused = at.Add(-c.refused)
			s.waiting = make([]*stream, c.waiting)
			err := s.room(c.prompt, 128, at)
			if !c.busy {
				require.NoError(t, err)
				return
			}
			assert.Equal(t, clara.Busy, clara.KindOf(err))
			assert.Positive(t, clara.RetryAfter(err))
		})
	}
}

// TestRoomGrace: where answers are fast a queue is no harm.
func TestRoomGrace(t *testing.T) {
	s := known()
	s.pace.prompts = 1e6
	s.pace.steps[1], s.pace.steps[8] = 1e-4, 2e-4
	s.running, s.hurried = 8, 8
	require.NoError(t, s.room(200, 128, time.Unix(1000, 0)))
	s.waiting = make([]*stream, 400)
	require.Error(t, s.room(200, 128, time.Unix(1000, 0)))
}

// TestPlace: a place counts as a request that waits, until it is taken or given back, and spares its request the question.
func TestPlace(t *testing.T) {
	s := known()
	s.wake = make(chan struct{}, 1)
	request := func(p *Place) *stream {
		return &stream{prompt: Prompt{IDs: make([]int32, 200)}, limit: 128, place: p}
	}
	var places []*Place
	for range 8 { // a burst: as many as there are rows
		p, err := s.reserve(200, 128)
		require.NoError(t, err)
		places = append(places, p)
	}
	_, err := s.reserve(200, 128)
	require.Equal(t, clara.Busy, clara.KindOf(err))
	require.Equal(t, clara.Busy, clara.KindOf(s.submit(t.Context(), request(nil))))
	require.NoError(t, s.submit(t.Context(), request(places[0])))
	assert.Equal(t, 7, s.reserved)
	require.Error(t, s.submit(t.Context(), request(places[0])), "a place is good for one request")
	require.Error(t, s.submit(t.Context(), request(&Place{known(), true})), "another engine's")

	places[0].Release()
	assert.Equal(t, 7, s.reserved, "it was taken")
	for range 2 {
		places[1].Release()
		assert.Equal(t, 6, s.reserved)
	}
	for _, p := range places[2:7] { // one is left: since one was refused, load lasts, and a burst gets no more than stays within measure
		p.Release()
	}
	_, err = s.reserve(200, 128)
	require.NoError(t, err)
	(*Place)(nil).Release()
}

// TestLeft: who goes away makes room at once, though the model is in a run and the loop has not come by.
func TestLeft(t *testing.T) {
	s := known()
	s.wake = make(chan struct{}, 1)
	cache := &fakeCache{owner: make([]*stream, 8)}
	s.rows = newLayout(8, cache)
	var all []*stream
	for i := range 30 {
		r := &stream{prompt: Prompt{IDs: make([]int32, 200)}, limit: 128, patient: i >= 20}
		all = append(all, r)
		if r.patient {
			s.patient = append(s.patient, r)
		} else {
			s.waiting = append(s.waiting, r)
		}
		s.waitingTokens += r.tokens()
	}
	s.admit()
	copy(cache.owner, s.rows.rows)
	call := &texts{ids: make([][]int32, 3)}
	for i := range call.ids {
		s.queues[asked] = append(s.queues[asked], text{call, i, false})
	}
	require.Equal(t, 8, s.running)
	require.Equal(t, clara.Busy, clara.KindOf(s.submit(t.Context(), &stream{prompt: Prompt{IDs: make([]int32, 200)}, limit: 128})))
	for _, r := range all {
		s.cancel(r)
		s.cancel(r) // as who is told of the end does as well
	}
	s.cancelTexts(call)
	assert.Equal(t, Load{}, s.load())
	assert.Zero(t, s.hurried)
	require.NoError(t, s.submit(t.Context(), &stream{prompt: Prompt{IDs: make([]int32, 200)}, limit: 128}))
	s.reap()
	assert.Zero(t, s.rows.used())
	assert.Equal(t, 1, s.load().Waiting)
}

// TestPatience: patient requests come after the others and leave room for them while there are any.
func TestPatience(t *testing.T) {
	s := known()
	s.rows = newLayout(8, &fakeCache{owner: make([]*stream, 8)})
	for range 20 {
		s.patient = append(s.patient, &stream{patient: true})
	}
	s.hurry = time.Now()
	s.admit()
	some := s.running
	assert.Greater(t, some, 1)
	assert.Less(t, some, 8)
	assert.Zero(t, s.hurried)
	s.waiting = append(s.waiting, &stream{})
	s.admit()
	assert.Equal(t, some+1, s.running)
	assert.Equal(t, 1, s.hurried)
	s.hurry = time.Time{}
	s.admit()
	assert.Equal(t, 8, s.running, "nobody else came for long")
}
