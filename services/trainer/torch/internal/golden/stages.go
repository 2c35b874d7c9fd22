package golden

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/dataset"
	"github.com/clara-suite/clara/libs/prompt"
	"github.com/clara-suite/clara/services/trainer/torch/internal/model"
	"github.com/clara-suite/clara/services/trainer/torch/internal/net"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

// step is the result of one forward and backward pass over a batch.
type step struct {
	loss, mse, total float64
	each             []float64
	ranked           []net.Ranking
	d                []tensor // candidates' memories, stage 3
	c                net.Compressed
	inputs           []prompt.Encoded
	docs             [][]int32
	queries          [][]int32
}

// base returns the stage behind the name of a figure.
func base(stage string) string { return strings.TrimSuffix(stage, "_memrows") }

// data returns the samples of a stage and how its decoder inputs are written.
func (v *verifier) data(stage string) ([]dataset.Sample, promptCases) {
	switch base(stage) {
	case "stage1":
		return v.samples[pretrainFile], v.g.Prompts.Stage1
	case "stage1_2":
		return v.samples[instructionFile], v.g.Prompts.Stage12
	}
	return v.samples[endToEndFile], v.g.Prompts.Stage2
}

// computable returns why a stage or curve cannot be computed from what the folder holds, "" if it can. at is its path, needs
// are the keys below it that it is made from.
func (v *verifier) computable(at, stage string, needs ...string) string {
	section := map[string]string{"stage1": "prompts.stage1", "stage1_2": "prompts.stage1_2"}[base(stage)]
	if section == "" {
		section = "prompts.stage2"
	}
	for _, key := range []string{"max_len", "top_k", "paraphrase_instruction_index"} {
		if v.r.lacks(section + "." + key) {
			return fmt.Sprintf("the folder does not hold %s.%s, by which its samples are written", section, key)
		}
	}
	for _, key := range needs {
		if v.r.lacks(at + key) {
			return fmt.Sprintf("the folder does not hold %s%s, which it is made from", at, key)
		}
	}
	return ""
}

// run computes loss and gradients of samples as the stage does. divide is the number of micro batches that share a step.
func (v *verifier) run(s scope, o *net.Opened, stage string, samples []dataset.Sample, mseWeight float64, divide int) (r step, err error) {
	kind := base(stage)
	_, c := v.data(stage)
	for _, x := range samples {
		e, err := encode(o.Prompts, kind, x, c)
		if err != nil {
			return r, err
		}
		r.inputs = append(r.inputs, e)
		docs := x.Docs
		if kind == "stage1" || kind == "stage1_2" {
			if len(docs) < c.TopK {
				return r, clara.Errorf(clara.Corrupt, "%s:%d has %d documents, a sample of %s has %d", x.File, x.Line, len(docs), stage, c.TopK)
			}
			docs = docs[:c.TopK]
		}
		for _, d := range docs {
			r.docs = append(r.docs, o.Prompts.Encoder(d, o.Settings.DocMaxLength))
		}
		r.queries = append(r.queries, o.Prompts.Encoder(x.Question(), c.MaxLen))
	}
	pass := func(a *model.Adapter) model.Pass { return model.Pass{Adapter: a, Train: true} }
	var ce net.Loss
	var total tensor
	switch kind {
	case "stage1", "stage1_2":
		if ce, r.c, err = o.Read(s, r.docs, r.inputs, pass(o.Encoder), pass(o.Decoder), true); err != nil {
			return r, err
		}
		r.loss = ce.Sum.Float() / float64(count(r.inputs))
		total = s.Add(s.Times(ce.Sum, 1/float64(count(r.inputs))), s.Times(r.c.MSE, mseWeight/float64(len(r.docs))))
	default:
		torchx.NoGrad(func() { r.c = o.Compress(s, r.docs, pass(o.Encoder), true) })
		at := int64(0)
		for _, x := range samples {
			n := int64(len(x.Docs))
			r.d = append(r.d, s.Reshape(s.Narrow(r.c.Memory, 0, at*int64(o.M), n*int64(o.M)), n, -1))
			at += n
		}
		if r.ranked, err = o.Rank(s, r.queries, r.d, c.TopK, pass(o.Reasoner)); err != nil {
			return r, err
		}
		if kind == "stage2" {
			if ce, err = o.Decode(s, r.inputs, o.Slots(s, r.ranked, r.d), pass(o.Decoder)); err != nil {
				return r, err
			}
			total = s.Times(ce.Sum, 1/float64(count(r.inputs)))
		} else {
			n := 0
			for i, x := range samples {
				if len(x.PosIndex) == 0 {
					continue
				}
				one := net.RetrievalLoss(s, r.ranked[i].Scores, x.PosIndex, net.Tau)
				if n++; total == nil {
					total = one
				} else {
					total = s.Add(total, one)
				}
			}
			if n == 0 {
				return r, clara.Errorf(clara.Corrupt, "no sample of a batch of %s has positives", stage)
			}
			total = s.Times(total, 1/float64(n))
		}
		r.loss = total.Float()
	}
	if ce.Sum != nil {
		r.each = ce.Each()
	}
	r.mse, r.total = r.c.MSE.Float()/float64(len(r.docs)), total.Float()
	if total.Info().RequiresGrad {
		torchx.Backward([]tensor{s.Times(total, 1/float64(divide))}, nil)
	}
	return r, nil
}

func count(inputs []prompt.Encoded) int {
	n := 0
	for _, e := range inputs {
		n += targetsOf(e)
	}
	return n
}

// trained are the parameters of a stage, by the names of the figures.
type trained struct {
	names  []string
	params []tensor
	groups map[string][]int
}

func train(s scope, o *net.Opened, stage string, memory bool) trained {
	t := trained{groups: map[string][]int{}}
	add := func(group, name string, p tensor) {
		t.groups[group] = append(t.groups[group], len(t.params))
		t.names, t.params = append(t.names, group+"/"+name), append(t.params, p)
	}
	var adapters []*model.Adapter
	switch base(stage) {
	case "stage1", "stage1_2":
		adapters = []*model.Adapter{o.Encoder, o.Decoder}
	case "stage2":
		adapters = []*model.Adapter{o.Reasoner, o.Decoder}
	default:
		adapters = []*model.Adapter{o.Reasoner}
	}
	for _, a := range adapters {
		for i, p := range a.Train() {
			add(a.Name, a.Names[i], p)
		}
	}
	if memory {
		add("base/model.embed_tokens.weight", "", o.TrainMemory(s, o.MemoryIDs()))
		t.names[len(t.names)-1] = "base/model.embed_tokens.weight"
	}
	return t
}

func (v *verifier) allStages(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(v.g.Stages)) {
		if why := v.computable("stages."+name+".", name, "batch.dec_input_ids", "batch.dec_attention_mask", "mse_weight"); why != "" {
			v.r.skip("stages."+name, why)
			continue
		}
		if err := v.open(ctx, func(s scope, o *net.Opened) error { return v.stage(s, o, name) }); err != nil {
			v.r.fail("stages."+name, err)
		}
	}
	return nil
}

func (v *verifier) stage(s scope, o *net.Opened, name string) error {
	g, at := v.g.Stages[name], "stages."+name+"."
	samples := v.batch(o, name)
	if len(samples) != len(g.Batch.DecoderIDs) {
		return clara.Errorf(clara.Corrupt, "a batch of %d samples, and the data has only %d of them", len(g.Batch.DecoderIDs), len(samples))
	}
	t := train(s, o, name, g.MemoryRows)
	r, err := v.run(s, o, name, samples, g.MSEWeight, 1)
	if err != nil {
		return err
	}
	for i, e := range r.inputs {
		want := encoderCase{InputIDs: g.Batch.DecoderIDs[i], Mask: g.Batch.DecoderMask[i]}.unpadded()
		v.r.exact(fmt.Sprintf("%sbatch.dec_input_ids[%d]", at, i), e.IDs, want)
		if i < len(g.Batch.Labels) {
			labels := g.Batch.Labels[i]
			v.r.exact(fmt.Sprintf("%sbatch.labels[%d]", at, i), e.Labels, labels[max(0, len(labels)-len(want)):])
		}
	}
	v.r.exact(at+"batch.enc_ids_unpadded", r.docs, g.Batch.Encoder)
	if g.Batch.Queries != nil {
		v.r.exact(at+"batch.query_ids_unpadded", r.queries, g.Batch.Queries)
	}
	for key, lacks := range map[string]bool{
		"batch.query_ids_unpadded": r.ranked != nil && g.Batch.Queries == nil,
		"scores":                   r.ranked != nil && g.Scores == nil,
		"topk_idx":                 r.ranked != nil && g.TopK == nil,
		"per_sample_ce_sum":        r.each != nil && g.EachSum == nil,
		"per_sample_targets":       r.each != nil && g.EachTargets == nil,
	} {
		if lacks {
			v.r.skip(at+key, "the folder does not hold it")
		}
	}
	v.r.relative(at+"loss", r.loss, g.Loss, 1e-5)
	v.r.relative(at+"mse_loss", r.mse, g.MSE, 1e-5)
	v.r.relative(at+"total_loss", r.total, g.Total, 1e-5)
	if r.each != nil {
		if g.EachSum != nil {
			v.r.exact(at+"per_sample_ce_sum: number", len(r.each), len(g.EachSum))
		}
		for i, want := range g.EachSum[:min(len(g.EachSum), len(r.each))] {
			v.r.relative(fmt.Sprintf("%sper_sample_ce_sum[%d]", at, i), r.each[i], want, 1e-5)
		}
		for i, want := range g.EachTargets[:min(len(g.EachTargets), len(r.inputs))] {
			v.r.exact(fmt.Sprintf("%sper_sample_targets[%d]", at, i), targetsOf(r.inputs[i]), want)
		}
	}
	if r.ranked != nil {
		v.ranking(s, name, r)
		for i := range r.ranked[:min(len(r.ranked), len(g.TopK))] {
			if key := fmt.Sprintf("%stopk_idx[%d]", at, i); i < len(g.Scores) && tied(r.ranked[i].Index, g.TopK[i], g.Scores[i]) {
				v.r.skip(key, "candidates tie; which of them comes first is open, here the lower index")
			} else {
				v.r.exact(key, r.ranked[i].Index, g.TopK[i])
			}
		}
	}
	v.gradients(s, name, t)
	if g.FirstTargets != nil {
		v.firstLogits(s, o, name, r)
	}
	if g.Grads.Outside != nil {
		v.r.skip(at+"grads.max_abs_grad_outside_mem_rows", "rows outside the memory tokens are no parameters here: there is no gradient")
	}
	return nil
}

// batch returns the samples of a stage's batch: those whose ids its rows hold, in order; where none does, the next sample,
// which then is the difference that is reported.
func (v *verifier) batch(o *net.Opened, name string) (out []dataset.Sample) {
	g := v.g.Stages[name].Batch
	all, c := v.data(name)
	ids := make([][]int32, len(all))
	for i, x := range all {
		if e, err := encode(o.Prompts, base(name), x, c); err == nil {
			ids[i] = e.IDs
		}
	}
	next := 0
	for row := range g.DecoderIDs {
		want := encoderCase{InputIDs: g.DecoderIDs[row], Mask: g.DecoderMask[row]}.unpadded()
		at := next + slices.IndexFunc(ids[min(next, len(ids)):], func(have []int32) bool { return slices.Equal(have, want) })
		if at < next { // none: the next one
			at = next
		}
		if at < len(all) {
			out = append(out, all[at])
		}
		next = at + 1
	}
	return out
}

func (v *verifier) ranking(s scope, name string, r step) {
	var q, scores, w, soft []float32
	for i := range r.ranked {
		q = append(q, r.ranked[i].Query.Float32s()...)
		scores = append(scores, r.ranked[i].Scores.Float32s()...)
		w = append(w, r.ranked[i].W.Float32s()...)
		soft = append(soft, r.ranked[i].Soft.Float32s()...)
	}
	v.compare(name+"/query_vectors", q, 1e-4)
	v.compare(name+"/doc_vectors", r.c.Memory.Float32s(), 1e-4)
	v.compare(name+"/scores", scores, 2e-6)
	tie := false
	for i := range r.ranked {
		f := v.g.Stages[name]
		tie = tie || i < len(f.Scores) && i < len(f.TopK) && tied(r.ranked[i].Index, f.TopK[i], f.Scores[i])
	}
	if tie {
		v.tensor(name + "/topk_W")
		v.r.skip(name+"/topk_W", "candidates tie; the scores and the soft weights are compared")
	} else {
		v.compare(name+"/topk_W", w, 0)
	}
	// A score's tolerance over tau is what a soft weight may move by.
	v.compare(name+"/topk_soft", soft, 2e-6/net.Tau)
	want := slices.Concat(v.g.Stages[name].Scores...)
	if want == nil {
		return
	}
	if len(want) != len(scores) {
		v.r.fail("stages."+name+".scores", fmt.Errorf("%d values, want %d", len(scores), len(want)))
		return
	}
	worst := 0.0
	for i := range want {
		worst = math.Max(worst, math.Abs(want[i]-float64(scores[i])))
	}
	v.r.within("stages."+name+".scores", "largest absolute difference", worst, 2e-6)
}

// tied reports whether two rankings differ, and only among candidates whose scores are equal but for rounding.
func tied(got, want []int, scores []float64) bool {
	if slices.Equal(got, want) || len(got) != len(want) {
		return false
	}
	for i := range got {
		if a, b := got[i], want[i]; a != b && (a >= len(scores) || b >= len(scores) || b < 0 || math.Abs(scores[a]-scores[b]) > 2e-7) {
			return false
		}
	}
	return true
}

func (v *verifier) gradients(s scope, name string, t trained) {
	g, at := v.g.Stages[name].Grads, "stages."+name+".grads."
	squares := map[string]float64{}
	all, compared := 0.0, 0
	for group, index := range t.groups {
		tolerance := 1e-4
		if group == model.Reasoner {
			tolerance = 1e-3 // 1/tau = 50 magnifies rounding
		}
		for _, i := range index {
			grad := s.Grad(t.params[i])
			if grad == nil {
				v.r.fail(at+t.names[i], fmt.Errorf("no gradient"))
				continue
			}
			got := grad.Float32s()
			n := norm(got)
			squares[group] += n * n
			if want, ok := g.Params[t.names[i]]; ok {
				v.r.relative(at+"param_norms."+t.names[i], n, want, tolerance)
				compared++
			}
			key := "grad/" + name + "/" + t.names[i]
			if strings.HasPrefix(group, "base/") {
				key = "grad/" + name + "/model.embed_tokens.weight[mem_rows]"
			}
			if want := v.tensor(key); want != nil {
				v.r.maxAbs(key, got, want, 1e-4*norm(want))
			}
		}
		all += squares[group]
		if want, ok := g.Groups[group]; ok {
			v.r.relative(at+"group_norms."+group, math.Sqrt(squares[group]), want, tolerance)
		} else {
			v.r.skip(at+"group_norms."+group, "the folder does not hold it")
		}
	}
	tolerance := 1e-4
	if _, ok := t.groups[model.Reasoner]; ok {
		tolerance = 1e-3
	}
	v.r.relative(at+"total_norm", math.Sqrt(all), g.Total, tolerance)
	v.r.exact(at+"param_norms: number compared", compared, len(g.Params))
}

// firstLogits compares the logits that predict the first answer token of each sample.
func (v *verifier) firstLogits(s scope, o *net.Opened, name string, r step) {
	memory := r.c.Memory
	if r.ranked != nil {
		memory = o.Slots(s, r.ranked, r.d)
	}
	torchx.NoGrad(func() {
		x, lens := o.Net.Prompts(s, r.inputs, memory)
		h := o.Hidden(s, x, lens, model.Pass{Adapter: o.Decoder})
		var rows []int64
		at := int64(0)
		g := v.g.Stages[name]
		begin := make([]int64, len(r.inputs))
		for i, e := range r.inputs {
			begin[i] = at
			at += int64(len(e.IDs))
		}
		for _, p := range g.FirstTargets {
			// The figure's position counts the left padding.
			pad := len(g.Batch.DecoderIDs[p[0]]) - len(r.inputs[p[0]].IDs)
			rows = append(rows, begin[p[0]]+int64(p[1]-pad))
		}
		logits := o.Logits(s, o.Norm(s, s.Rows(h, s.Ints(rows, o.Device))))
		v.compare(name+"/logits_at_first_target", logits.Float32s(), 2e-4)
	})
}
