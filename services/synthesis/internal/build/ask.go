package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/llm"
	"github.com/clara-suite/clara/services/synthesis/internal/describe"
	"github.com/clara-suite/clara/services/synthesis/internal/pair"
	"github.com/clara-suite/clara/services/synthesis/internal/prompt"
	"github.com/clara-suite/clara/services/synthesis/internal/text"
)

// answer is what is stored of a task.
type answer struct {
	Written pair.Written `json:"written"`
	Model   string       `json:"model"` // as the endpoint names it
	Asked   int          `json:"asked"` // times
	Usage   llm.Usage    `json:"usage"`
}

const (
	// maxAsked is how often a model is asked for one thing.
	maxAsked = 3
	// leastPairs and mostPairs are how many pairs of a chunk are wanted.
	leastPairs, mostPairs = 3, 5
	// repeated bounds what of an unusable answer is shown to the model again.
	repeated = 6000
)

// ask gets a task's answer from the store, or from the model.
func (b *builder) ask(ctx context.Context, t *task) error {
	if value, ok, err := b.Store.Get(ctx, t.key); err != nil {
		return err
	} else if ok {
		var a answer
		if json.Unmarshal(value, &a) == nil {
			t.answer = &a
			return nil
		}
	}
	a, err := b.write(ctx, t)
	if err != nil {
		return err
	}
	value, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	// What was paid for is kept, even if the build is being stopped.
	if err := b.Store.Put(context.WithoutCancel(ctx), t.key, value); err != nil {
		return err
	}
	t.answer = a
	return nil
}

// write asks until the answer can be used, and returns the best one. An answer whose pairs were all refused is one too:
// what was refused is counted, and the next build does not ask for it again.
func (b *builder) write(ctx context.Context, t *task) (*answer, error) {
	var (
		best  *answer
		most  = -1
		used  llm.Usage
		last  error
		turns = t.messages
	)
	tokens := 2048 + 2*utf8.RuneCountInString(t.check.Text)
	for asked := 1; asked <= maxAsked; asked++ {
		res, err := b.Chat.Chat(ctx, llm.Request{Model: b.Model, Messages: turns, Schema: t.schema, MaxTokens: tokens, Temperature: 0.3, Seed: b.Recipe.Seed + int64(asked), Meter: b.Meter})
		used.Requests++
		used.PromptTokens += res.Usage.PromptTokens
		used.CompletionTokens += res.Usage.CompletionTokens
		used.Cost += res.Usage.Cost
		if err != nil {
			if most > 0 && !describe.Final(err) {
				break // what there is will do
			}
			return nil, err
		}
		w, err := pair.Parse(res.Text)
		if err == nil {
			var worth int
			worth, err = t.usable(&w, asked == 1)
			if err == nil || worth > most {
				best, most = &answer{Written: w, Model: res.Model}, worth
			}
			if err == nil {
				break
			}
		}
		last = err
		if res.Finish == "length" {
			tokens *= 2
		}
		said := res.Text
		if len(said) > repeated {
			said = "" // a model that rambles would only go on
		}
		turns = prompt.Again(t.messages, said, err.Error())
		b.mu.Lock()
		b.retried++
		b.mu.Unlock()
	}
	if best == nil {
		return nil, clara.Errorf(clara.Corrupt, "asked %d times, no usable answer: %w", maxAsked, last)
	}
	best.Asked, best.Usage = int(used.Requests), used
	return best, nil
}

// usable counts what passes all checks that can be made here, pairs and summary, and says, in words for the model, what
// it should do better. The first time that includes the kinds of questions: a model that leaves one out again has tried.
func (t *task) usable(w *pair.Written, first bool) (int, error) {
	reasons, types := map[pair.Reason]bool{}, map[string]bool{}
	good := 0
	for i := range w.Pairs {
		t.label(&w.Pairs[i])
		if r := t.check.Check(w.Pairs[i]); r != "" {
			reasons[r] = true
			continue
		}
		types[w.Pairs[i].Type] = true
		good++
	}
	switch t.kind {
	case pair.MultiHop:
		if len(w.Pairs) > 0 && good == 0 {
			return 0, errors.New(wishes(reasons))
		}
		return good, nil // an empty list says that there is nothing to ask
	case pair.Unanswerable:
		if good == 0 {
			return 0, errors.New("it needs one question. " + wishes(reasons))
		}
		return good, nil
	}
	var faults []string
	worth := good
	switch t.check.CheckSummary(w.Summary) {
	case "":
		worth++
	case pair.Empty:
		faults = append(faults, `"dense_summary" is missing`)
	case pair.SummaryLength:
		faults = append(faults, `"dense_summary" must have 50 to 80 percent of the passage's length`)
	case pair.WrongLanguage:
		faults = append(faults, `"dense_summary" must be in the passage's language`)
	default:
		faults = append(faults, `"dense_summary" must say what the passage says, nothing else, and name no files or pictures`)
	}
	if good < leastPairs {
		faults = append(faults, fmt.Sprintf(`only %d of the "qa_pairs" can be used, 3 to 5 are wanted. %s`, good, wishes(reasons)))
	} else if first && !types[pair.CrossLingual] {
		faults = append(faults, `none of the questions is in the other language, as "cross_lingual" asks for`)
	}
	if len(faults) > 0 {
		return worth, errors.New(strings.Join(faults, "; "))
	}
	return worth, nil
}

// label sets the type that a pair really has: models mix them up, and checks depend on it.
func (t *task) label(p *pair.Pair) {
	switch {
	case t.kind != "chunk":
		p.Type = t.kind
	case pair.Crosses(p.Question, t.check.Language()):
		p.Type = pair.CrossLingual
	case p.Type != pair.Fact && p.Type != pair.Reasoning:
		p.Type = pair.Fact
	}
}

// wishes says what pairs that were refused for these reasons should have been.
func wishes(reasons map[pair.Reason]bool) string {
	var out []string
	for _, r := range []struct {
		reason pair.Reason
		wish   string
	}{
		{pair.NotAnswerable, "Answers must follow from the passage, in its words and numbers."},
		{pair.NotAlone, `Questions must stand alone and never say "the passage" or the like.`},
		{pair.WrongLanguage, "Questions must be in English or Chinese, answers in the passage's language."},
		{pair.Leak, "Name no files, paths or pictures."},
		{pair.TooLong, "Be shorter."},
		{pair.Empty, "No question and no answer may be empty."},
	} {
		if reasons[r.reason] {
			out = append(out, r.wish)
		}
	}
	return strings.Join(out, " ")
}

// judgeAll has a model judge the pairs that passed the other checks.
func (b *builder) judgeAll(ctx context.Context, tasks []*task) error {
	var judges []*task
	type judged struct {
		task  *task
		pairs []int // that are judged, by place in the task's answer
	}
	of := map[*task]judged{}
	for _, t := range tasks {
		if t.answer == nil || t.kind == pair.Unanswerable {
			continue
		}
		var texts []string
		var pairs []prompt.Pair
		var places []int
		parts := []string{"judge", prompt.Version, b.JudgeModel}
		for _, c := range t.chunks {
			texts, parts = append(texts, b.texts[c]), append(parts, b.texts[c])
		}
		for i, p := range t.answer.Written.Pairs {
			t.label(&p)
			if t.check.Check(p) == "" {
				places = append(places, i)
				pairs, parts = append(pairs, prompt.Pair{Question: p.Question, Answer: p.Answer}), append(parts, p.Question, p.Answer)
			}
		}
		if len(pairs) == 0 {
			continue
		}
		messages, schema := prompt.Judge(texts, pairs)
		j := &task{kind: "judge", key: digest(parts...), item: t.item + ", judge", messages: messages, schema: schema}
		judges, of[j] = append(judges, j), judged{t, places}
	}
	err := b.each(ctx, "judging", judges, func(ctx context.Context, j *task) error {
		t := of[j].task
		verdicts, err := b.judge(ctx, j, len(of[j].pairs))
		if err != nil {
			return err
		}
		t.wrong = make([]bool, len(t.answer.Written.Pairs))
		for i, right := range verdicts {
			t.wrong[of[j].pairs[i]] = !right
		}
		return nil
	})
	for _, j := range judges { // in their order: sums of fractions depend on it
		b.card.Usage.add(j.judged)
	}
	return err
}

// verdict is what is stored of a judgement.
type verdict struct {
	Right []bool    `json:"right"`
	Usage llm.Usage `json:"usage"`
}

func (b *builder) judge(ctx context.Context, j *task, n int) ([]bool, error) {
	if value, ok, err := b.Store.Get(ctx, j.key); err != nil {
		return nil, err
	} else if ok {
		var v verdict
		if json.Unmarshal(value, &v) == nil && len(v.Right) == n {
			j.judged = v.Usage
			return v.Right, nil
		}
	}
	var v verdict
	turns := j.messages
	var last error
	for range maxAsked {
		res, err := b.JudgeChat.Chat(ctx, llm.Request{Model: b.JudgeModel, Messages: turns, Schema: j.schema, MaxTokens: 256, Meter: b.Meter})
		if err != nil {
			return nil, err
		}
		v.Usage.Requests++
		v.Usage.PromptTokens += res.Usage.PromptTokens
		v.Usage.CompletionTokens += res.Usage.CompletionTokens
		v.Usage.Cost += res.Usage.Cost
		if v.Right, last = pair.Verdicts(res.Text, n); last != nil {
			turns = prompt.Again(j.messages, res.Text[:min(len(res.Text), repeated)], last.Error())
			continue
		}
		value, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("encode verdict: %w", err)
		}
		j.judged = v.Usage
		return v.Right, b.Store.Put(context.WithoutCancel(ctx), j.key, value)
	}
	return nil, clara.Errorf(clara.Corrupt, "asked %d times, no usable verdict: %w", maxAsked, last)
}

// Written is what a model has written about a text that belongs to no data set.
type Written struct {
	Summary string
	Pairs   []pair.Pair
	Refused map[pair.Reason]int
	Err     error
}

// Write has a summary and pairs made of each text, whatever its length, and returns them in order. An error is one that
// all texts would have met; others are with their texts.
func Write(ctx context.Context, o Options, texts []string) ([]Written, error) {
	b := &builder{Options: o, keys: map[string]bool{}, sources: []text.Source{{}}}
	for _, t := range texts {
		if strings.TrimSpace(t) == "" {
			return nil, clara.Errorf(clara.Invalid, "a text is empty")
		}
		b.texts = append(b.texts, t)
		b.chunks = append(b.chunks, chunk{0, t, digest(t)})
	}
	b.card = newCard(b, 0)
	tasks := b.chunkTasks()
	out := make([]Written, len(texts))
	at := map[*task]int{}
	for i, t := range tasks {
		at[t] = i
		out[i].Err = clara.Errorf(clara.State, "not reached")
	}
	if err := b.each(ctx, "synthesis", tasks, func(ctx context.Context, t *task) error {
		out[at[t]].Err = b.ask(ctx, t)
		return out[at[t]].Err
	}); err != nil {
		return nil, err
	}
	for i, t := range tasks {
		if t.answer == nil {
			continue
		}
		out[i].Refused = map[pair.Reason]int{}
		var set pair.Set
		for _, p := range t.answer.Written.Pairs {
			t.label(&p)
			reason := t.check.Check(p)
			if reason == "" {
				reason = set.Add(p.Question)
			}
			if reason != "" {
				out[i].Refused[reason]++
				continue
			}
			out[i].Pairs = append(out[i].Pairs, p)
		}
		if reason := t.check.CheckSummary(t.answer.Written.Summary); reason != "" {
			out[i].Refused["summary_"+reason]++
			continue
		}
		out[i].Summary = t.answer.Written.Summary
	}
	return out, nil
}
