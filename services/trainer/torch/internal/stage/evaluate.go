package stage

import (
	"fmt"
	"math"
	"time"

	"github.com/clara-suite/clara/libs/prompt"
	"github.com/clara-suite/clara/libs/score"
	"github.com/clara-suite/clara/libs/trainplan"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

// answerLimit is how many tokens an answer may have when it is scored.
const answerLimit = 128

// evaluate measures the loss over the evaluation data and, with do_eval_gen, scores greedy answers. All ranks take part.
func (r *Run) evaluate(f forward) error {
	saved := r.now
	defer func() { r.now = saved }()
	r.clock.to("evaluate")
	defer r.clock.to("other")
	all := make([]int, len(r.eval.Samples))
	targets, docs := 0.0, 0.0
	for i := range all {
		all[i] = i
		targets += float64(r.eval.Samples[i].Targets)
		docs += float64(len(r.eval.Samples[i].Docs))
	}
	r.now = stepState{batch: all, targets: targets, docs: docs}
	var em, cover, f1, scored float64
	for _, b := range r.cut(r.eval, r.evalMem, r.eval.deal(all, r.rank(), r.world()), false) {
		err := torchx.Do(func(s scope) (err error) {
			torchx.NoGrad(func() {
				var out result
				if out, err = f(s, b, nil); err != nil {
					return
				}
				r.gather(b, out)
				if r.plan.EvalGeneration && out.memory != nil {
					err = r.answers(s, b, out.memory, func(a score.Answer) {
						scored++
						f1 += a.F1
						if a.EM {
							em++
						}
						if a.Cover {
							cover++
						}
					})
				}
			})
			return err
		})
		if err != nil {
			return fmt.Errorf("evaluate: %w", err)
		}
	}
	if err := r.Settle(); err != nil {
		return err
	}
	x := &r.now.sums
	sums := []float64{x.ce, x.loss, x.recall5, x.positives, em, cover, f1, scored}
	if g := r.env.Group; g != nil {
		if err := g.Sum(sums); err != nil {
			return err
		}
	}
	e := trainplan.Evaluation{Step: r.step, Samples: len(all), Loss: sums[1] / math.Max(1, float64(len(all)))}
	if r.plan.Stage != trainplan.Retrieval {
		e.Loss = sums[0] / math.Max(1, targets)
	}
	if sums[3] > 0 {
		e.Recall = sums[2] / sums[3]
	}
	if sums[7] > 0 {
		e.EM, e.Cover, e.F1 = sums[4]/sums[7], sums[5]/sums[7], sums[6]/sums[7]
	}
	r.emit(trainplan.Event{Kind: trainplan.Evaluated, Evaluation: &e})
	if r.board != nil {
		return r.board.Add(time.Now(), int64(e.Step), e.Scalars()...)
	}
	return nil
}

// answers scores greedy answers to the questions of a micro batch, given the memories of its slots. Pretraining samples have
// no question of their own and are not scored.
func (r *Run) answers(s scope, b batch, memory tensor, add func(score.Answer)) error {
	var prompts []prompt.Encoded
	var err error
	b.each(func(x *Sample) {
		if x.Question == "" || err != nil {
			return
		}
		var e prompt.Encoded
		e, err = r.Prompts.Answer(x.Question, len(x.Input.Slots), r.plan.MaxLen)
		prompts = append(prompts, e)
	})
	if err != nil || len(prompts) < len(b.samples) {
		return err
	}
	for i, g := range r.Generate(s, prompts, memory, answerLimit, r.EOS()) {
		ids := make([]int32, len(g.IDs))
		for j, id := range g.IDs {
			ids[j] = int32(id)
		}
		text := r.Prompts.Tokenizer().Decode(ids, true)
		if a, _, ok := score.Best(text, b.data.Samples[b.samples[i]].Golds); ok {
			add(a)
		}
	}
	return nil
}
