package verify

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/prompt"
	"github.com/clara-suite/clara/libs/score"
	"github.com/clara-suite/clara/libs/tokenizer"
	"github.com/clara-suite/clara/libs/topk"
)

// Figure is one comparison.
type Figure struct {
	Key       string  `json:"key"`
	Kind      string  `json:"kind"`      // "exact", "abs" or "relative"
	Compared  int     `json:"compared"`  // values or cases
	Value     float64 `json:"value"`     // largest difference, or number of mismatches
	Tolerance float64 `json:"tolerance"` // 0 for exact
	Pass      bool    `json:"pass"`
	Note      string  `json:"note,omitempty"` // the first mismatch, or what differs on purpose
}

// Report is what came of a folder.
type Report struct {
	Dir     string   `json:"dir"`
	Figures []Figure `json:"figures"`
	// Left are the figures of the folder that belong to `clara-train verify`, with the reason.
	Left []string `json:"left"`
	// Lacking are figures that folders hold and this one does not.
	Lacking []string `json:"lacking,omitempty"`
}

// Pass reports whether every figure holds, and there are some.
func (r *Report) Pass() bool {
	return len(r.Figures) > 0 && !slices.ContainsFunc(r.Figures, func(f Figure) bool { return !f.Pass })
}

// Run compares the suite with the golden folder dir. Differences are in the report; an error says
// why it could not be made: NotFound or Corrupt for the folder, and those of importing and running the model.
func Run(ctx context.Context, dir string, o infer.Options) (*Report, error) {
	f, err := openFolder(dir)
	if err != nil {
		return nil, err
	}
	defer f.tensors.Close()
	work, err := os.MkdirTemp("", "clara-verify-*")
	if err != nil {
		return nil, clara.Errorf(clara.Unavailable, "make a folder for the model: %w", err)
	}
	defer os.RemoveAll(work)
	pkg := filepath.Join(work, "model")
	if _, err := modelpkg.Import(ctx, pkg, modelpkg.ImportOptions{Base: filepath.Join(dir, "base"), Checkpoint: filepath.Join(dir, "clara")}); err != nil {
		return nil, err
	}
	o.Slowdown = alone
	e, err := infer.Open(ctx, pkg, o)
	if err != nil {
		return nil, err
	}
	v := &verifier{folder: f, ctx: ctx, e: e, tok: e.Clara(), w: e.Prompts(), report: &Report{Dir: dir}}
	err = v.run()
	if cerr := e.Close(context.WithoutCancel(ctx)); err == nil {
		err = cerr
	}
	return v.report, err
}

type verifier struct {
	*folder
	ctx    context.Context
	e      *infer.Engine
	tok    *tokenizer.Clara
	w      *prompt.Writer
	report *Report
}

func (v *verifier) run() error {
	v.tokenizer()
	v.topK()
	v.answers()
	for _, step := range []struct {
		part string
		run  func() error
	}{
		{"documents and questions", v.inputs}, {"samples", v.samples}, {"prompts", v.prompts}, {"clara_stage1", v.package1},
		{"compress", v.compress}, {"stages", v.stages}, {"generate", v.generate},
	} {
		if err := whole(step.run); v.ctx.Err() != nil {
			return v.ctx.Err()
		} else if err != nil { // the other parts may hold
			v.report.Figures = append(v.report.Figures, Figure{Key: step.part, Kind: "exact", Note: err.Error()})
		}
	}
	v.left()
	return nil
}

// whole runs a part. Figures index each other (rows, positions, lengths): where a damaged folder's do not fit, that is its fault
// and no reason to stop.
func whole(part func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = clara.Errorf(clara.Corrupt, "golden.json contradicts itself: %v", p)
		}
	}()
	return part()
}

// exact counts mismatches.
type exact struct {
	n, bad int
	note   string
}

func check[T any](x *exact, name string, want, got []T, equal func(a, b T) bool) {
	x.n++
	if !slices.EqualFunc(want, got, equal) {
		x.miss("%s: expected %v, got %v", name, want, got)
	}
}

func (x *exact) ids(name string, want, got []int32) {
	check(x, name, want, got, func(a, b int32) bool { return a == b })
}

func (x *exact) is(ok bool, format string, args ...any) {
	x.n++
	if !ok {
		x.miss(format, args...)
	}
}

func (x *exact) miss(format string, args ...any) {
	if x.bad++; x.bad == 1 {
		x.note = fmt.Sprintf(format, args...)
		if r := []rune(x.note); len(r) > 600 {
			x.note = string(r[:600]) + "..."
		}
	}
}

func (v *verifier) exact(key string, x exact) {
	if x.n == 0 {
		v.report.Lacking = append(v.report.Lacking, key)
		return
	}
	v.report.Figures = append(v.report.Figures, Figure{Key: key, Kind: "exact", Compared: x.n, Value: float64(x.bad), Pass: x.bad == 0, Note: x.note})
}

// near keeps the largest difference.
type near struct {
	n        int
	worst    float64
	relative bool
}

func (d *near) add(want, got float64) {
	d.n++
	diff := math.Abs(want - got)
	if d.relative {
		diff /= max(math.Abs(want), 1e-30)
	}
	if !(diff <= d.worst) { // NaN is worst
		d.worst = diff
	}
}

func (d *near) all(want, got []float32) {
	if len(want) != len(got) {
		d.worst = math.Inf(1)
	}
	for i := range min(len(want), len(got)) {
		d.add(float64(want[i]), float64(got[i]))
	}
}

func (v *verifier) near(key string, d near, limit float64) {
	if d.n == 0 && d.worst == 0 {
		v.report.Lacking = append(v.report.Lacking, key)
		return
	}
	kind := "abs"
	if d.relative {
		kind = "relative"
	}
	v.report.Figures = append(v.report.Figures, Figure{Key: key, Kind: kind, Compared: d.n, Value: d.worst, Tolerance: limit, Pass: d.worst <= limit})
}

func (v *verifier) tokenizer() {
	s, c := v.golden.Tokenizer.Special, v.tok
	var x exact
	x.ids("special ids", []int32{s.BOSID, s.EOSID, s.PadID, s.EncID, s.AEID, s.SepID}, []int32{c.BOSID, c.EOSID, c.PadID, c.Enc, c.AE, c.Sep})
	x.ids("memory tokens", s.MemIDs, c.Mem)
	x.is(s.BOS == c.BOSName && s.EOS == c.EOSName, "bos and eos: expected %q, %q, got %q, %q", s.BOS, s.EOS, c.BOSName, c.EOSName)
	x.is(s.Length == c.Len(), "length: expected %d, got %d", s.Length, c.Len())
	v.exact("tokenizer.special", x)
	x = exact{}
	for _, k := range v.golden.Tokenizer.Cases {
		ids := c.EncodeTrusted(k.Text)
		x.ids(k.Text, k.IDs, ids)
		x.ids(k.Text, k.WithSpecial, c.AddSpecials(ids))
		x.is(k.Decoded == c.Decode(k.IDs, false), "decode %v: expected %q, got %q", k.IDs, k.Decoded, c.Decode(k.IDs, false))
		x.is(k.Skipped == c.Decode(k.IDs, true), "decode %v without specials: expected %q, got %q", k.IDs, k.Skipped, c.Decode(k.IDs, true))
	}
	v.exact("tokenizer.cases", x)
}

// inputs are the encoder inputs of documents and questions (spec clara-model §3).
func (v *verifier) inputs() error {
	limit := v.e.Manifest().DocMaxLength
	for key, list := range map[string][]padded{"documents": v.golden.Documents, "questions_inference": v.golden.Questions} {
		var x exact
		for _, d := range list {
			x.ids(d.Text, d.real(), v.w.Encoder(d.Text, limit))
		}
		v.exact(key, x)
	}
	return nil
}

// samples are training samples and their labels (spec clara-model §4).
func (v *verifier) samples() error {
	type pretrain struct {
		DataType string   `json:"data_type"`
		Question []string `json:"question"`
		Answers  []string `json:"answers"`
	}
	p := v.golden.Prompts.Stage1
	list, err := lines[pretrain](v.folder, "pretrain_data.jsonl", len(p.Samples))
	if err != nil {
		return err
	}
	compare := func(x *exact, name string, p stagePrompts, i int, e prompt.Encoded, err error) {
		want := p.Samples[i]
		if err != nil {
			x.is(false, "%s: %v", name, err)
			return
		}
		x.ids(name+" ids", want.IDs, e.IDs)
		x.ids(name+" labels", want.Labels, e.Labels)
		x.is(want.PromptLen == e.PromptLen, "%s: prompt of %d tokens, expected %d", name, e.PromptLen, want.PromptLen)
	}
	var x exact
	for i, s := range list {
		name := fmt.Sprintf("sample %d", i)
		var e prompt.Encoded
		if s.DataType == "qa" {
			e, err = v.w.TrainQA(name, s.Question, s.Answers, p.TopK, p.MaxLen)
		} else {
			e, err = v.w.TrainParaphrase(name, p.Instruction, s.Answers[0], p.TopK, p.MaxLen)
		}
		compare(&x, name, p, i, e, err)
	}
	v.exact("prompts.stage1", x)
	type qa struct {
		Question string `json:"question"`
		Answer   string `json:"answer"`
	}
	for _, s := range []struct {
		key, file string
		p         stagePrompts
	}{{"prompts.stage1_2", "instruction_data.jsonl", v.golden.Prompts.Stage1_2}, {"prompts.stage2", "end_to_end_data.jsonl", v.golden.Prompts.Stage2}} {
		list, err := lines[qa](v.folder, s.file, len(s.p.Samples))
		if err != nil {
			return err
		}
		var x exact
		for i, l := range list {
			name := fmt.Sprintf("sample %d", i)
			e, err := v.w.TrainAnswer(name, l.Question, l.Answer, s.p.TopK, s.p.MaxLen)
			compare(&x, name, s.p, i, e, err)
		}
		v.exact(s.key, x)
	}
	x = exact{}
	for _, c := range v.golden.Extras.Mask.Cases {
		labels := slices.Clone(c.IDs)
		v.w.MaskInformationIDs(c.IDs, labels)
		x.ids(c.Text, c.Labels, labels)
	}
	v.exact("extras.information_mask", x)
	return nil
}

// prompts are those of inference (spec clara-model §4).
func (v *verifier) prompts() error {
	p := v.golden.Prompts
	var x exact
	for _, k := range p.ParaphraseAll {
		name := fmt.Sprintf("instruction %d", k.Index)
		e, err := v.w.Paraphrase(k.Index, 1, 0)
		if err != nil {
			return err
		}
		x.ids(name, v.tok.EncodeTrusted(k.Prompt), e.IDs)
		x.is(k.PromptLen == e.PromptLen, "%s: prompt of %d tokens, expected %d", name, e.PromptLen, k.PromptLen)
		if e, err = v.w.TrainParaphrase(name, k.Index, "An answer.", 1, 0); err != nil {
			return err
		}
		x.ids(name+" with answer", v.tok.EncodeTrusted(k.WithAnswer), e.IDs)
	}
	v.exact("prompts.paraphrase_all", x)
	x = exact{}
	for _, k := range p.Inference {
		e, err := v.w.Answer(k.Question, p.Stage1_2.TopK, 0)
		if err != nil {
			return err
		}
		x.ids(k.Question, k.IDs, e.IDs)
	}
	v.exact("prompts.inference_stage1_2", x)

	if p.NoSystem.Template == "" {
		v.exact("prompts.template_without_system_role", exact{})
		return nil
	}
	tmpl, err := prompt.NewTemplate(p.NoSystem.Template, nil)
	if err != nil {
		return err
	}
	x = exact{}
	const docs = "<DOCS>"
	for _, k := range []struct {
		name, system, user, answer string
		want                       noSystem
	}{
		{"standard", prompt.SystemAnswer, "Background:\n" + docs + "\n\nQuestion:A question?", "An answer.", p.NoSystem.Standard},
		{"qa", prompt.SystemQA, "Background:\n" + docs, "Question: q1\nAnswer: a1\nQuestion: q2\nAnswer: a2", p.NoSystem.QA},
	} {
		messages := []prompt.Message{
			{Role: "system", Content: []prompt.Part{prompt.Trusted(k.system)}}, {Role: "user", Content: []prompt.Part{prompt.Trusted(k.user)}},
			{Role: "assistant", Content: []prompt.Part{prompt.Plain(k.answer)}},
		}
		vars := prompt.Vars{BOS: v.tok.BOSName, EOS: v.tok.EOSName}
		r, err := tmpl.Render(messages, vars, v.tok)
		if err != nil {
			return err
		}
		x.is(r.Text == k.want.Text, "%s: expected %q, got %q", k.name, k.want.Text, r.Text)
		vars.AddGenerationPrompt = true
		if r, err = tmpl.Render(messages[:2], vars, v.tok); err != nil {
			return err
		}
		n := len(v.tok.EncodeMixed(r.Text, r.Breaks))
		x.is(n == k.want.PromptLen, "%s: prompt of %d tokens, expected %d", k.name, n, k.want.PromptLen)
	}
	v.exact("prompts.template_without_system_role", x)
	return nil
}

// package1 checks that a fresh stage-1 checkpoint of two adapters, where there is one, makes a package.
func (v *verifier) package1() error {
	dir := filepath.Join(v.dir, "clara_stage1")
	if _, err := os.Stat(dir); err != nil {
		return nil
	}
	work, err := os.MkdirTemp("", "clara-verify-*")
	if err != nil {
		return clara.Errorf(clara.Unavailable, "make a folder for the model: %w", err)
	}
	defer os.RemoveAll(work)
	m, err := modelpkg.Import(v.ctx, filepath.Join(work, "model"), modelpkg.ImportOptions{Base: filepath.Join(v.dir, "base"), Checkpoint: dir})
	var x exact
	x.is(err == nil, "import: %v", err)
	if err == nil {
		x.is(m.Adapters[modelpkg.Reasoner] == m.Adapters[modelpkg.Encoder] && m.Hashes.Reasoner == m.Hashes.Encoder, "the query reasoner is not the encoder's copy")
	}
	v.exact("clara_stage1", x)
	return nil
}

func (v *verifier) compress() error {
	memory, mse := v.limit("memory vectors", 1e-4), v.limit("losses, mse", 1e-5)
	if len(v.golden.Documents) == 0 {
		v.report.Lacking = append(v.report.Lacking, "compress")
		return nil
	}
	var ids [][]int32
	for _, d := range v.golden.Documents {
		ids = append(ids, d.real())
	}
	for _, kind := range []struct {
		key string
		mse bool
	}{{"compress/memory", false}, {"compress/memory (all positions)", true}} {
		out, err := v.e.Encode(v.ctx, infer.Texts{Role: infer.Encoder, IDs: ids, MSE: kind.mse})
		if err != nil {
			return err
		}
		if err := v.memories(kind.key, "compress/memory", out.Memories, memory); err != nil {
			return err
		}
		if !kind.mse {
			continue
		}
		each, mean := near{relative: true}, 0.0
		for i, want := range v.golden.Compress.MSEEach {
			each.add(want, out.MSE[i])
			mean += out.MSE[i] / float64(len(out.MSE))
		}
		v.near("compress.mse_loss_each", each, mse)
		batch := near{relative: true}
		if v.golden.Compress.MSE != 0 {
			batch.add(v.golden.Compress.MSE, mean)
		}
		v.near("compress.mse_loss_of_the_whole_batch", batch, mse)
	}
	if len(v.golden.Questions) == 0 {
		v.report.Lacking = append(v.report.Lacking, "query/vectors")
		return nil
	}
	ids = nil
	for _, q := range v.golden.Questions {
		ids = append(ids, q.real())
	}
	out, err := v.e.Compress(v.ctx, infer.Reasoner, ids)
	if err != nil {
		return err
	}
	return v.memories("query/vectors", "query/vectors", out, memory)
}

// memories compares memories with a tensor of as many numbers.
func (v *verifier) memories(key, tensor string, got []clara.Memory, limit float64) error {
	if !v.tensors.Has(tensor) {
		v.report.Lacking = append(v.report.Lacking, key)
		return nil
	}
	want, _, err := v.tensor(tensor)
	if err != nil {
		return err
	}
	var d near
	d.all(want, flatten(got))
	v.near(key, d, limit)
	return nil
}

func flatten(list []clara.Memory) []float32 {
	var out []float32
	for _, m := range list {
		out = append(out, m.Data...)
	}
	return out
}

// scores are the cosines of a question with its candidates, from vectors normalised in float32 (spec clara-model §5).
func scores(q clara.Memory, docs []clara.Memory) []float64 {
	unit := func(x []float32) []float32 {
		sum := 0.0
		for _, a := range x {
			sum += float64(a) * float64(a)
		}
		n := float32(max(math.Sqrt(sum), 1e-12))
		out := make([]float32, len(x))
		for i, a := range x {
			out[i] = a / n
		}
		return out
	}
	a := unit(q.Data)
	out := make([]float64, len(docs))
	for i, d := range docs {
		for j, x := range unit(d.Data) {
			out[i] += float64(a[j]) * float64(x)
		}
	}
	return out
}

// stages checks the forward passes of the training batches.
func (v *verifier) stages() error {
	memory, logits := v.limit("memory vectors", 1e-4), v.limit("logits", 2e-4)
	mse, cosine := v.limit("losses, mse", 1e-5), v.limit("cosine scores", 2e-6)
	for _, name := range sortedKeys(v.golden.Stages) {
		s := v.golden.Stages[name]
		docs, err := v.e.Encode(v.ctx, infer.Texts{Role: infer.Encoder, IDs: s.Batch.EncIDs, MSE: true})
		if err != nil {
			return err
		}
		d, mean := near{relative: true}, 0.0
		for _, x := range docs.MSE {
			mean += x / float64(len(docs.MSE))
		}
		B := len(s.Batch.DecIDs)
		chosen := make([][]clara.Memory, B) // the memories in each row's slots
		if len(s.Batch.Queries) == 0 {
			d.add(s.MSE, mean)
			v.near("stages."+name+".mse_loss", d, mse)
			k := len(docs.Memories) / B
			for b := range B {
				chosen[b] = docs.Memories[b*k : (b+1)*k]
			}
		} else {
			queries, err := v.e.Compress(v.ctx, infer.Reasoner, s.Batch.Queries)
			if err != nil {
				return err
			}
			if err := errors.Join(v.memories(name+"/query_vectors", name+"/query_vectors", queries, memory),
				v.memories(name+"/doc_vectors", name+"/doc_vectors", docs.Memories, memory)); err != nil {
				return err
			}
			var diff near
			var x exact
			N := len(docs.Memories) / B
			for b := range B {
				candidates := docs.Memories[b*N : (b+1)*N]
				got := scores(queries[b], candidates)
				for i, want := range s.Scores[b] {
					diff.add(want, got[i])
				}
				picks, err := topk.Select(got, len(s.TopK[b]))
				if err != nil {
					return err
				}
				if slices.EqualFunc(s.TopK[b], picks, func(a, b int) bool { return math.Abs(got[a]-got[b]) < 2e-7 }) {
					picks = s.TopK[b] // candidates that tie may come in any order
				}
				check(&x, fmt.Sprintf("row %d", b), s.TopK[b], picks, func(a, b int) bool { return a == b })
				for _, i := range picks {
					chosen[b] = append(chosen[b], candidates[i])
				}
			}
			v.near("stages."+name+".scores", diff, cosine)
			v.exact("stages."+name+".topk_idx", x)
		}
		if len(s.Positions) == 0 || !v.tensors.Has(name+"/logits_at_first_target") {
			continue
		}
		want, shape, err := v.tensor(name + "/logits_at_first_target")
		if err != nil {
			return err
		}
		var diff near
		for i, at := range s.Positions {
			row := at[0]
			pad := len(s.Batch.DecIDs[row]) - len(unpad(s.Batch.DecIDs[row], s.Batch.DecMask[row]))
			p, err := v.fill(s.Batch.DecIDs[row][pad:at[1]+1], chosen[row])
			if err != nil {
				return err
			}
			p.Batch = len(s.Batch.DecIDs[row])
			got, err := v.e.Logits(v.ctx, p, true)
			if err != nil {
				return err
			}
			diff.all(want[i*shape[1]:(i+1)*shape[1]], got)
		}
		v.near(name+"/logits_at_first_target", diff, logits)
	}
	return nil
}

// fill finds the slots in ids and puts memories there.
func (v *verifier) fill(ids []int32, memories []clara.Memory) (infer.Prompt, error) {
	e := prompt.Encoded{IDs: ids}
	m := len(v.tok.Mem)
	for i := 0; i+m <= len(ids); i++ {
		if slices.Equal(ids[i:i+m], v.tok.Mem) {
			e.Slots = append(e.Slots, prompt.Slot{Start: i, Len: m})
			i += m
		}
	}
	return infer.Fill(e, memories)
}

// topK checks the oracle of the differentiable top-k (spec clara-model §5).
func (v *verifier) topK() {
	var x exact
	w, grad := near{}, near{}
	for c, k := range v.golden.TopK {
		for b, s := range k.Scores {
			r, err := topk.Compute(s, k.K, k.Tau)
			if err != nil {
				x.is(false, "case %d: %v", c, err)
				continue
			}
			check(&x, fmt.Sprintf("case %d row %d", c, b), k.Index[b], r.Index, func(a, b int) bool { return a == b })
			var R []float64
			got := r.W()
			for j, row := range k.W[b] {
				for i, want := range row {
					w.add(want, got[j*r.N+i])
				}
				R = append(R, k.R[b][j]...)
			}
			norm := 0.0
			for _, want := range k.Grad[b] {
				norm += want * want
			}
			// The reference's softmax is float32: 6e-8 on each probability, times R / tau, whatever the gradient's norm.
			unit := math.Sqrt(norm) + 2e-7/k.Tau/v.limit("gradient tensors", 1e-4)
			for i, g := range r.Gradient(R) {
				grad.add(k.Grad[b][i]/unit, g/unit)
			}
		}
	}
	v.exact("differentiable_topk.topk_idx", x)
	v.near("differentiable_topk.W", w, 1e-6)
	v.near("differentiable_topk.grad (share of its norm)", grad, v.limit("gradient tensors", 1e-4))
}

// answers checks the scores of answers and of retrieval (spec clara-model §8).
func (v *verifier) answers() {
	var x exact
	f1 := near{}
	for _, a := range v.golden.Extras.Answers {
		x.is(score.Normalize(a.Prediction) == a.Normalized, "normalise %q: expected %q, got %q", a.Prediction, a.Normalized, score.Normalize(a.Prediction))
		x.is(score.Normalize(a.Gold) == a.NormalGold, "normalise %q: expected %q, got %q", a.Gold, a.NormalGold, score.Normalize(a.Gold))
		s := score.One(a.Prediction, a.Gold)
		x.is(s.EM == a.EM && s.Cover == a.Cover, "%q for %q: expected EM %v, cover EM %v, got %v, %v", a.Prediction, a.Gold, a.EM, a.Cover, s.EM, s.Cover)
		f1.add(a.F1, s.F1)
	}
	v.exact("extras.answers", x)
	v.near("extras.answers.f1", f1, 1e-8)
	retrieval := near{}
	for _, c := range v.golden.Extras.Retrieval {
		sums, n := map[string]float64{}, 0
		for i, ranked := range c.TopK {
			if len(c.Positives[i]) == 0 {
				continue
			}
			n++
			for _, k := range []int{1, 3, 5} {
				recall, precision := score.At(k, ranked, c.Positives[i])
				sums[fmt.Sprintf("recall_%d", k)] += recall
				sums[fmt.Sprintf("precision_%d", k)] += precision
			}
		}
		retrieval.add(float64(c.Valid), float64(n))
		for key, want := range c.Metrics {
			retrieval.add(want, sums[key]/float64(max(n, 1)))
		}
	}
	v.near("extras.retrieval", retrieval, 1e-8)
}

// left names what the folder holds beyond inference.
func (v *verifier) left() {
	for _, name := range sortedKeys(v.golden.Stages) {
		v.report.Left = append(v.report.Left, "stages."+name+": loss, per_sample_ce_sum, grads (training)")
	}
	sort.Strings(v.curves)
	for _, name := range v.curves {
		v.report.Left = append(v.report.Left, "curves."+name+" and after/"+name+" (training)")
	}
	v.report.Left = append(v.report.Left, "compress/debug_hidden_states (layer by layer: the graph has one output)",
		"extras.lr_schedule, extras.sampler (training)", "keys named *_as_written record mistakes of the reference (spec clara-model, Ours)")
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
