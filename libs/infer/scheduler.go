package infer

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/grammar"
)

// stream is a request for an answer on its way.
type stream struct {
	prompt     Prompt
	adapter    bool
	long       bool
	limit      int // tokens of the answer at most
	stop       []int32
	sampler    *sampler
	form       *grammar.Matcher // nil: free
	wantLogits bool
	patient    bool
	place      *Place
	counted    bool      // among those that run; guarded by scheduler.mu
	logits     []float32 // before the final event, if wanted

	events   chan event // holds a whole answer
	canceled atomic.Bool
	asked    time.Time
	began    time.Time // before the first event

	// The rest belongs to the engine's goroutine.
	row, group int
	cached     int // tokens in the cache
	reused     int // of them, those that were not computed for this request
	last       int32
	made       int
}

// tokens is what the request counts for in the queue.
func (s *stream) tokens() int { return len(s.prompt.IDs) + s.limit }

// home is the group of rows that the request generates in.
func (s *stream) home() int {
	if s.long {
		return long
	}
	return short
}

// event is a token, or the end.
type event struct {
	token  bool
	id     int32
	at     time.Time
	finish Finish
	err    error
}

// texts is a call for memories on its way.
type texts struct {
	role     Role
	ids      [][]int32
	mse      bool
	memories []clara.Memory
	errors   []float64 // MSE of each
	left     int
	err      error
	canceled atomic.Bool
	done     chan struct{}
}

// text is one of them.
type text struct {
	*texts
	i    int
	long bool
}

func (t text) tokens() int { return len(t.ids[t.i]) }

// scheduler owns the model: its loop is the only one to run it.
type scheduler struct {
	model *model
	opts  Options
	wake  chan struct{} // holds one
	done  chan struct{} // closed when the loop has ended

	mu            sync.Mutex
	waiting       []*stream // for one of the rows
	patient       []*stream // the same, after those
	waitingTokens int       // of both
	queues        [3][]text // by priority
	textTokens    [3]int    // in each
	runningTexts  int       // tokens of texts in the present run, for callers that wait
	running       int
	hurried       int       // of running, those that are not patient
	reserved      int       // places of requests that are to come
	quiet         time.Time // when there was last room without end
	refused       time.Time // when a request was last refused for what it would take
	hurry         time.Time // when the last request came that is not patient
	closing       bool
	abort         bool
	pace          pace
	busy          time.Duration // in the model

	// The rest belongs to the loop.
	rows      *layout
	prefills  []*stream    // in order of arrival; their rows are the layout's last group
	textsFree [3]time.Time // when running answers have made up for the last batch of texts
	prefixes  *prefixes
}

// Priorities of texts: questions go before all else, then come answers, then texts that a caller waits for,
// and last those that are indexed.
const (
	question = iota
	asked
	calm
)

// share is how long answers run for each second of texts, while there are answers.
var share = [3]time.Duration{asked: 1, calm: 4}

const (
	// grace is what an answer may be held up in any case, and half of it a text.
	grace = 500 * time.Millisecond
	// burst is how long after a quiet moment all rows are given out, whatever that makes of them. Not while load lasts: there are
	// quiet moments then too, between what was admitted.
	burst = time.Second
	// lasting is how long load is taken to last after a request was refused.
	lasting = 30 * time.Second
	// spread is how much longer than expected the slowest of a hundred requests is held up: what is expected is a mean.
	spread = 1.3
	// attentive is how long after a request patient ones leave room for the next.
	attentive = 30 * time.Second
)

func newScheduler(m *model, o Options) *scheduler {
	return &scheduler{
		model: m, opts: o, wake: make(chan struct{}, 1), done: make(chan struct{}),
		rows: newLayout(o.Streams, m.cache), pace: newPace(o.Streams),
		prefixes: newPrefixes(m.cache, m.cache.tokenBytes(), o.PrefixBytes),
	}
}

func (s *scheduler) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// submit queues a request, or refuses it.
func (s *scheduler) submit(ctx context.Context, r *stream) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return errClosing()
	}
	now := time.Now()
	if err := s.queueable(r.tokens()); err != nil {
		return err
	}
	s.noteQuiet(now)
	r.asked = now
	if r.patient {
		s.patient = append(s.patient, r)
	} else {
		if !s.admitted(r.place) {
			if err := s.room(len(r.prompt.IDs), r.limit, now); err != nil {
				return err
			}
		}
		s.hurry = now
		s.waiting = append(s.waiting, r)
	}
	s.waitingTokens += r.tokens()
	s.signal()
	return nil
}

// queueable refuses a request of so many tokens that the queue does not hold. The caller holds the lock.
func (s *scheduler) queueable(tokens int) error {
	waiting := len(s.waiting) + len(s.patient)
	if waiting == 0 || s.waitingTokens+tokens <= s.opts.QueueTokens {
		return nil
	}
	return clara.BusyError(s.drain(s.waitingTokens),
		"generate: %d requests of %d tokens are waiting, the queue holds %d tokens", waiting, s.waitingTokens, s.opts.QueueTokens)
}

// room refuses a request that would be held up by others beyond measure. The caller holds the lock.
func (s *scheduler) room(prompt, limit int, now time.Time) error {
	waiting := len(s.waiting) + s.reserved
	others := s.hurried + waiting
	if others == 0 || others < s.opts.Streams && now.Sub(s.quiet) < burst && now.Sub(s.refused) > lasting {
		return nil
	}
	alone, beside := s.pace.expect(prompt, limit, s.running, waiting, s.opts.Streams)
	held := time.Duration(spread * float64(beside-alone))
	if held <= max(grace, time.Duration((s.opts.Slowdown-1)*float64(alone))) {
		return nil
	}
	s.refused = now
	return clara.BusyError(min(max(beside/time.Duration(s.opts.Streams), 100*time.Millisecond), time.Minute),
		"generate: %d requests are running and %d waiting; an answer would take up to %.1f times as long as alone, the limit is %g",
		s.running, waiting, float64(alone+held)/float64(alone), s.opts.Slowdown)
}

// drain estimates when half of so many waiting tokens will be done.
func (s *scheduler) drain(tokens int) time.Duration {
	step := s.pace.step(s.opts.Streams)
	if step == 0 {
		return time.Second
	}
	return wait(tokens, float64(s.opts.Streams)/step)
}

// submitTexts queues texts, or refuses them.
func (s *scheduler) submitTexts(ctx context.Context, t *texts, priority int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	list, tokens := make([]text, len(t.ids)), 0
	for i, ids := range t.ids {
		list[i] = text{t, i, s.model.isLong(len(ids))}
		tokens += len(ids)
	}
	slices.SortStableFunc(list, func(a, b text) int { return b.tokens() - a.tokens() })
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return errClosing()
	}
	if waiting := s.textTokens[priority]; waiting > 0 && waiting+tokens > s.opts.QueueTokens {
		return clara.BusyError(wait(waiting, s.pace.prompts),
			"compress: texts of %d tokens are waiting, the queue holds %d tokens", waiting, s.opts.QueueTokens)
	}
	if before := s.textTokens[asked] + s.runningTexts; priority == asked && before > 0 {
		own, held := float64(tokens)*s.pace.token(), float64(before)*s.pace.token()
		if held > max(grace.Seconds()/2, (s.opts.Slowdown-1)*own) {
			return clara.BusyError(min(max(seconds(held), 100*time.Millisecond), time.Minute),
				"compress: texts of %d tokens go before; these would take %.1f times as long as alone, the limit is %g", before, (own+held)/own, s.opts.Slowdown)
		}
	}
	s.textTokens[priority] += tokens
	s.queues[priority] = append(s.queues[priority], list...)
	s.signal()
	return nil
}

func errClosing() error {
	return clara.Errorf(clara.State, "the model is being closed: ask again, another one takes its place")
}

// wait estimates when a queue of tokens will have drained by half.
func wait(tokens int, rate float64) time.Duration {
	if rate <= 0 {
		return time.Second
	}
	d := time.Duration(float64(tokens) / rate / 2 * float64(time.Second))
	return min(max(d, 500*time.Millisecond), time.Minute)
}

// cancel takes back a request; one that has ended is not touched. Its place is free at once: who asks next need not wait
// until the present run of the model ends and the loop comes by.
func (s *scheduler) cancel(r *stream) {
	r.canceled.Store(true)
	s.mu.Lock()
	s.dropWaiting()
	s.uncount(r)
	s.mu.Unlock()
	s.signal()
}

// cancelTexts is cancel of a call for memories.
func (s *scheduler) cancelTexts(t *texts) {
	t.canceled.Store(true)
	s.mu.Lock()
	s.dropTexts()
	s.mu.Unlock()
	s.signal()
}

// dropWaiting takes canceled requests out of the queues. The caller holds the lock.
func (s *scheduler) dropWaiting() {
	for _, q := range []*[]*stream{&s.waiting, &s.patient} {
		*q = slices.DeleteFunc(*q, func(r *stream) bool {
			gone := r.canceled.Load()
			if gone {
				s.waitingTokens -= r.tokens()
			}
			return gone
		})
	}
}

// dropTexts takes canceled texts out of the queues. The caller holds the lock.
func (s *scheduler) dropTexts() {
	for i := range s.queues {
		s.queues[i] = slices.DeleteFunc(s.queues[i], func(t text) bool {
			gone := t.canceled.Load()
			if gone {
				s.textTokens[i] -= t.tokens()
			}
			return gone
		})
	}
}

// uncount takes a request out of the numbers of those that run. The caller holds the lock.
func (s *scheduler) uncount(r *stream) {
	if !r.counted {
		return
	}
	r.counted = false
	s.running--
	if !r.patient {
		s.hurried--
	}
}

func (s *scheduler) load() Load {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := Load{Running: s.running, Waiting: len(s.waiting) + len(s.patient), WaitingTokens: s.waitingTokens}
	for i, q := range s.queues {
		l.Texts += len(q)
		l.TextTokens += s.textTokens[i]
	}
	return l
}

func (s *scheduler) busyTime() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busy
}

// close ends the loop, after the work if ctx allows. It reports whether this call was the first.
func (s *scheduler) close(ctx context.Context) bool {
	s.mu.Lock()
	first := !s.closing
	s.closing = true
	s.mu.Unlock()
	s.signal()
	select {
	case <-s.done:
	case <-ctx.Done():
		s.mu.Lock()
		s.abort = true
		s.mu.Unlock()
		s.signal()
		<-s.done
	}
	return first
}

// loop runs the model until the scheduler is closed. Each turn does one piece of each kind of work
// there is, the most urgent first, so that none waits for longer than the others' pieces.
func (s *scheduler) loop() {
	defer close(s.done)
	for {
		if s.reap() {
			return
		}
		worked := s.runTexts(question)
		s.admit()
		worked = s.prefillOne() || worked
		worked = s.decodeAll() || worked
		worked = s.runTexts(asked) || worked
		worked = s.runTexts(calm) || worked
		if !worked {
			<-s.wake
		}
	}
}

// reap takes out what was canceled, and reports whether the loop is to end.
func (s *scheduler) reap() (end bool) {
	for _, r := range s.active() {
		if r.canceled.Load() {
			s.leave(r)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropWaiting()
	s.dropTexts()
	texts := 0
	for _, q := range s.queues {
		texts += len(q)
	}
	s.count()
	if s.abort {
		s.failAll(clara.Errorf(clara.Unavailable, "the model was closed before the work was done"))
	}
	return s.closing && len(s.waiting)+len(s.patient)+texts+s.rows.used() == 0 || s.abort
}

// count notes who runs: those that have a row and have not gone. The caller holds the lock.
func (s *scheduler) count() {
	s.running, s.hurried = 0, 0
	for _, r := range s.rows.rows[:s.rows.used()] {
		if r.counted = !r.canceled.Load(); !r.counted {
			continue
		}
		s.running++
		if !r.patient {
			s.hurried++
		}
	}
}

// failAll ends everything with an error. The caller holds the lock.
func (s *scheduler) failAll(err error) {
	for _, q := range []*[]*stream{&s.waiting, &s.patient} {
		for _, r := range *q {
			r.events <- event{err: err}
		}
		*q = nil
	}
	s.waitingTokens = 0
	for i := range s.queues {
		for _, t := range s.queues[i] {
			t.finish(err)
		}
		s.queues[i], s.textTokens[i] = nil, 0
	}
	for _, r := range s.active() {
		s.leave(r)
		r.counted = false
		r.events <- event{err: err}
	}
	s.count()
}

// active returns the requests that have a row.
func (s *scheduler) active() []*stream { return slices.Clone(s.rows.rows[:s.rows.used()]) }

// leave gives a request's row back.
func (s *scheduler) leave(r *stream) {
	s.rows.remove(r)
	s.prefills = slices.DeleteFunc(s.prefills, func(p *stream) bool { return p == r })
}

// free is leave for a request that is about to hear of its end: who asks next at once finds its row free.
func (s *scheduler) free(r *stream) {
	s.leave(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	r.counted = false
	s.count()
}

// admit gives free rows to those who wait.
func (s *scheduler) admit() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.rows.free() > 0 {
		q := &s.waiting
		if len(*q) == 0 {
			if q = &s.patient; len(*q) == 0 || s.rows.used() >= s.patientRows() {
				break
			}
		}
		r := (*q)[0]
		*q = (*q)[1:]
		s.waitingTokens -= r.tokens()
		s.rows.add(r, prefilling)
		s.prefills = append(s.prefills, r)
	}
	s.count()
}

// patientRows is how many rows may be in use when a patient request takes one: all of them, or when others come
// too, as many as leave room for one of those. The caller holds the lock.
func (s *scheduler) patientRows() int {
	if s.hurry.IsZero() || time.Since(s.hurry) > attentive {
		return s.opts.Streams
	}
	n := 1
	for n+1 < s.opts.Streams {
		alone, beside := s.pace.expect(int(s.pace.prompt), int(s.pace.answer)+1, n+1, 0, s.opts.Streams)
		if float64(beside) > s.opts.Slowdown*float64(alone) {
			break
		}
		n++
	}
	return n
}

// prefillOne runs a piece of the oldest unfinished prompt. A piece is small enough not to stall
// the answers that are being generated.
func (s *scheduler) prefillOne() bool {
	if len(s.prefills) == 0 {
		return false
	}
	r := s.prefills[0]
	if r.began.IsZero() {
		r.began = time.Now()
		if !r.wantLogits { // which are to be the same whatever ran before
			r.cached = s.prefixes.fill(r)
			r.reused = r.cached
		}
	}
	to := min(len(r.prompt.IDs), r.cached+s.piece())
	last := to == len(r.prompt.IDs)
	var logits []float32
	took, err := s.run(func() (err error) {
		logits, err = s.model.prefill(laneKey{r.row, 1, r.adapter, r.long}, r.prompt, r.cached, to, last)
		return err
	})
	if err != nil {
		s.fail([]*stream{r}, err)
		return true
	}
	s.measure(&s.pace.prompts, float64(to-r.cached)/took.Seconds())
	r.cached = to
	if last {
		s.measure(&s.pace.prompt, float64(to-r.reused))
		s.prefixes.learn(r)
		s.prefills = s.prefills[1:]
		s.rows.change(r, r.home())
		s.take(r, logits)
	}
	return true
}

// piece is how many tokens of a prompt to run at once.
func (s *scheduler) piece() int {
	if s.rows.used() == len(s.prefills) {
		return maxPiece // nobody generates
	}
	return min(max(s.stallTokens(), 16), maxPiece)
}

// stallTokens is how many tokens run within Options.Stall.
func (s *scheduler) stallTokens() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pace.prompts == 0 {
		return 128
	}
	return int(s.pace.prompts * s.opts.Stall.Seconds())
}

// decodeAll makes one token for every request that has its prompt done.
func (s *scheduler) decodeAll() bool {
	s.lengthen()
	worked := false
	for g := range prefilling {
		streams, row := s.rows.group(g)
		if len(streams) == 0 {
			continue
		}
		worked = true
		list := slices.Clone(streams)
		tokens, cached, adapted := make([]int32, len(list)), make([]int, len(list)), make([]bool, len(list))
		for i, r := range list {
			tokens[i], cached[i], adapted[i] = r.last, r.cached, r.adapter
		}
		k := laneKey{row, len(list), slices.Contains(adapted, true), g == long}
		var logits []float32
		took, err := s.run(func() (err error) {
			logits, err = s.model.decode(k, tokens, cached, adapted)
			return err
		})
		if err != nil {
			s.fail(list, err)
			continue
		}
		s.mu.Lock()
		s.pace.stepped(len(list), took.Seconds())
		s.mu.Unlock()
		V := s.model.arch.Vocab
		for _, r := range list { // before any leaves: who leaves moves another's cache
			r.cached++
		}
		for i, r := range list {
			s.take(r, logits[i*V:(i+1)*V])
		}
	}
	return worked
}

// lengthen moves answers that grow beyond the reach of short rotary tables to the long ones, from their next token on. Keys that
// are cached stay: so transformers generates from embeddings.
func (s *scheduler) lengthen() {
	streams, _ := s.rows.group(short)
	for _, r := range slices.Clone(streams) {
		if s.model.isLong(r.cached + 1) {
			r.long = true
			s.rows.change(r, r.home())
		}
	}
}

// take draws the next token of a request, hands it out, and ends the request if it is the last.
func (s *scheduler) take(r *stream, logits []float32) {
	if r.wantLogits {
		r.logits = slices.Clone(logits)
		s.free(r)
		r.events <- event{}
		return
	}
	if r.form != nil {
		if err := r.form.Filter(logits, r.stop); err != nil {
			s.fail([]*stream{r}, err)
			return
		}
	}
	id, ok := r.sampler.next(logits)
	if !ok {
		s.fail([]*stream{r}, fmt.Errorf("generate: the logits are not finite"))
		return
	}
	if slices.Contains(r.stop, id) {
		s.ended(r, FinishStop)
		return
	}
	if r.form != nil {
		if err := r.form.Accept(id); err != nil {
			s.fail([]*stream{r}, err)
			return
		}
	}
	r.last = id
	r.made++
	r.events <- event{token: true, id: id, at: time.Now()}
	switch {
	case r.form != nil && r.form.Done():
		s.ended(r, FinishStop)
	case r.made >= r.limit:
		s.ended(r, FinishLength)
	}
}

// ended takes a request out that has all its tokens.
func (s *scheduler) ended(r *stream, f Finish) {
	s.measure(&s.pace.answer, float64(r.made+1))
	s.free(r)
	r.events <- event{finish: f}
}

func (s *scheduler) fail(list []*stream, err error) {
	for _, r := range list {
		s.free(r)
		r.events <- event{err: err}
	}
}

// runTexts runs one batch of texts of a priority.
func (s *scheduler) runTexts(priority int) bool {
	answering := s.rows.used() > 0
	if answering && time.Now().Before(s.textsFree[priority]) {
		return false
	}
	budget := s.opts.BatchTokens
	if answering {
		budget = min(budget, max(s.stallTokens(), 1))
	}
	batch := s.takeTexts(priority, budget)
	if len(batch) == 0 {
		return false
	}
	ids, padded := make([][]int32, len(batch)), 0
	for i, t := range batch {
		ids[i] = t.ids[t.i]
		padded = max(padded, t.tokens()*len(batch))
	}
	head := batch[0]
	rows := s.model.memory
	if head.mse {
		rows = 0
	}
	var hidden []float32
	var width int
	took, err := s.run(func() (err error) {
		hidden, width, err = s.model.encode(head.role, head.long, ids, rows)
		return err
	})
	s.textsFree[priority] = time.Now().Add(share[priority] * took)
	if err == nil {
		s.measure(&s.pace.prompts, float64(padded)/took.Seconds())
	}
	s.mu.Lock()
	s.runningTexts = 0
	s.mu.Unlock()
	for i, t := range batch {
		if err == nil {
			size := width * s.model.arch.Hidden
			t.memories[t.i], t.errors[t.i], err = s.result(hidden[i*size:(i+1)*size:(i+1)*size], t)
		}
		t.finish(err)
	}
	return true
}

// takeTexts takes the first waiting text and those behind it that can run with it: of the same role,
// within the budget and with no more than a quarter of padding.
func (s *scheduler) takeTexts(priority, budget int) []text {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := &s.queues[priority]
	if len(*q) == 0 {
		return nil
	}
	head := (*q)[0]
	longest, sum, n := 0, 0, 0
	for _, t := range *q {
		l := max(longest, t.tokens())
		full := l * (n + 1)
		if n > 0 && (t.role != head.role || t.long != head.long || t.mse != head.mse || full > budget || 4*(full-sum-t.tokens()) > full) {
			break
		}
		longest, sum, n = l, sum+t.tokens(), n+1
	}
	batch := slices.Clone((*q)[:n])
	*q = (*q)[n:]
	s.textTokens[priority] -= sum
	if priority == asked {
		s.runningTexts = sum
	}
	return batch
}

// result is a text's memory, the last m of its hidden states, and its MSE term if all states are
// there (spec clara-model §3).
func (s *scheduler) result(hidden []float32, t text) (clara.Memory, float64, error) {
	H, m := s.model.arch.Hidden, s.model.memory
	for _, x := range hidden {
		if x-x != 0 {
			return clara.Memory{}, 0, fmt.Errorf("compress: the hidden states are not finite")
		}
	}
	if !t.mse {
		return clara.Memory{M: m, H: H, Data: hidden}, 0, nil
	}
	n := t.tokens()
	at := n - m
	mse := 0.0
	for h := range H {
		var mem, rest float64
		for i := range n {
			if i < at {
				rest += float64(hidden[i*H+h])
			} else {
				mem += float64(hidden[i*H+h])
			}
		}
		d := mem/float64(m) - rest/float64(at)
		mse += d * d
	}
	return clara.Memory{M: m, H: H, Data: slices.Clone(hidden[at*H : n*H])}, mse / float64(H), nil
}

// finish marks one text as done. It is called by the loop only.
func (t text) finish(err error) {
	if err != nil && t.err == nil {
		t.err = err
	}
	if t.left--; t.left == 0 {
		close(t.done)
	}
}

// run calls the model, times it, and turns a panic into an error.
func (s *scheduler) run(f func() error) (took time.Duration, err error) {
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("run model: panic: %v\n%s", p, debug.Stack())
		}
		took = max(time.Since(start), 1)
		s.mu.Lock()
		s.busy += took
		s.mu.Unlock()
	}()
	return 0, f()
}

// measure keeps a running mean for those who ask what to expect.
func (s *scheduler) measure(mean *float64, x float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	follow(mean, x)
}
