package golden

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/dataset"
	"github.com/clara-suite/clara/libs/prompt"
	"github.com/clara-suite/clara/libs/safetensors"
	"github.com/clara-suite/clara/libs/score"
	"github.com/clara-suite/clara/services/trainer/torch/internal/model"
	"github.com/clara-suite/clara/services/trainer/torch/internal/net"
	"github.com/clara-suite/clara/services/trainer/torch/internal/schedule"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

type (
	scope  = *torchx.Scope
	tensor = *torchx.Tensor
)

// verifier holds a golden folder and the model under test.
type verifier struct {
	dir     string
	r       *Report
	g       *figures
	f       *safetensors.File
	maxLen  int
	k       int
	unknown []string        // keys of golden.json that no field stands for
	seen    map[string]bool // tensors of golden.safetensors that were looked at
	samples map[string][]dataset.Sample
	unread  map[string]error // of the same files
}

// Files of a golden folder's data.
const (
	pretrainFile    = "pretrain_data.jsonl"
	instructionFile = "instruction_data.jsonl"
	endToEndFile    = "end_to_end_data.jsonl"
)

// Folders returns the golden folders at dir: itself, or those right below it if it is none and they are.
func Folders(dir string) []string {
	if _, err := os.Stat(filepath.Join(dir, "golden.json")); err == nil {
		return []string{dir}
	}
	below, err := filepath.Glob(filepath.Join(dir, "*", "golden.json"))
	if err != nil || len(below) == 0 {
		return []string{dir}
	}
	for i := range below {
		below[i] = filepath.Dir(below[i])
	}
	return below
}

// Verify compares every figure of the folder, and lists what the folder lacks. The error, NotFound or Corrupt, is for a folder
// that cannot be read; differences, and parts that cannot be computed, are in the report.
func Verify(ctx context.Context, dir string) (*Report, error) {
	v := &verifier{dir: dir, r: &Report{Dir: dir}, g: &figures{}, seen: map[string]bool{}}
	if err := v.read(); err != nil {
		return nil, err
	}
	defer v.f.Close()
	for _, part := range []struct {
		name string
		run  func(ctx context.Context) error
	}{
		{"clara_stage1", v.stage1Checkpoint},
		{"tokenizer and prompts", v.texts},
		{"compress", v.compress},
		{"stages", v.allStages},
		{"curves", v.allCurves},
		{"generate", v.generate},
		{"differentiable_topk", v.topk},
		{"extras", v.extras},
	} {
		if err := part.run(ctx); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			v.r.fail(part.name, err)
		}
	}
	v.leftOut()
	return v.r, nil
}

// leftOut lists what the folder holds and nothing above compared, so that no figure goes by in silence.
func (v *verifier) leftOut() {
	for _, name := range v.f.Names() {
		if !v.seen[name] {
			v.r.skip(name, "not known to this version")
		}
	}
	for _, name := range v.unknown {
		why := "not known to this version"
		for end, reason := range withoutField() {
			if strings.HasSuffix("."+name, "."+end) {
				why = reason
			}
		}
		v.r.skip(name, why)
	}
}

// withoutField are keys of golden.json that are not compared, by how their path ends, and why.
func withoutField() map[string]string {
	return map[string]string{
		"max_abs_batch_vs_single":              "the reference's own rounding, not a figure of the model",
		"max_abs_padded_vs_unpadded":           "the reference's own rounding, not a figure of the model",
		"smallest_gap_between_sorted_scores":   "says how safe the ranking is; the ranking is compared",
		"after.columns":                        "names of columns",
		"order":                                "says how the figure was made",
		"note":                                 "says how the figure was made",
		"data_type":                            "part of the data, which is read",
		"seconds_per_micro_step":               "time, not a figure of the model",
		"prompt_width":                         "sequences are packed, never padded; their lengths are compared",
		"enc_width":                            "sequences are packed, never padded; their ids are compared",
		"query_width":                          "sequences are packed, never padded; their ids are compared",
		"special.generation_pad":               "sequences are packed, never padded",
		"special.padding_side":                 "sequences are packed, never padded",
		"special.truncation_side":              "prompts that are cut are compared",
		"stages.*.params_with_grad_as_written": "records that the reference's warm-up trains nothing by mistake",
	}
}

// keys compares the keys of a JSON object with the fields of into, at any depth: unknown are those that no field stands for,
// lacking the fields without a key. A field tagged golden:"some" is one that not every object has.
func keys(raw []byte, into any) (unknown, lacking []string) {
	var all any
	if json.Unmarshal(raw, &all) != nil {
		return nil, nil
	}
	w := walker{}
	w.walk("", "", all, reflect.TypeOf(into).Elem())
	slices.Sort(w.unknown)
	slices.Sort(w.lacking)
	return slices.Compact(w.unknown), w.lacking
}

type walker struct{ unknown, lacking []string }

// walk goes down; kind is the path with [] and * for places and names, at the path itself.
func (w *walker) walk(kind, at string, x any, t reflect.Type) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	join := func(path, key string) string { return strings.TrimPrefix(path+"."+key, ".") }
	switch x := x.(type) {
	case []any:
		if t.Kind() == reflect.Slice || t.Kind() == reflect.Array {
			for i, e := range x {
				w.walk(kind+"[]", fmt.Sprintf("%s[%d]", at, i), e, t.Elem())
			}
		}
	case map[string]any:
		switch t.Kind() {
		case reflect.Map:
			for k, e := range x {
				if !strings.HasSuffix(k, "_as_written") {
					w.walk(kind+".*", join(at, k), e, t.Elem())
				}
			}
		case reflect.Struct:
			known := map[string]bool{}
			for i := range t.NumField() {
				f := t.Field(i)
				k := f.Tag.Get("json")
				known[k] = true
				if e := x[k]; e != nil {
					w.walk(join(kind, k), join(at, k), e, f.Type)
				} else if f.Tag.Get("golden") == "" {
					w.lacking = append(w.lacking, join(at, k))
				}
			}
			for k := range x {
				if !known[k] {
					w.unknown = append(w.unknown, join(kind, k))
				}
			}
		}
	}
}

func (v *verifier) read() error {
	var manifest struct {
		Config struct {
			MaxLen int `json:"max_len"`
			K      int `json:"generation_top_k"`
		}
	}
	for name, into := range map[string]any{"golden.json": v.g, "manifest.json": &manifest} {
		raw, err := os.ReadFile(filepath.Join(v.dir, name))
		if err != nil {
			return clara.Errorf(clara.NotFound, "open golden folder: %w", err)
		}
		if err := json.Unmarshal(raw, into); err != nil {
			return clara.Errorf(clara.Corrupt, "parse %s: %w", filepath.Join(v.dir, name), err)
		}
		if name == "golden.json" {
			v.unknown, v.r.lacking = keys(raw, v.g)
		}
	}
	v.maxLen, v.k = manifest.Config.MaxLen, manifest.Config.K
	for _, path := range v.r.lacking {
		v.r.skip(path, "the folder does not hold it")
	}
	for section, names := range map[string][]string{
		"stages": {"stage1", "stage1_2", "stage1_2_memrows", "stage2", "stage2_pretrain_retrieval"},
		"curves": {"stage1", "stage1_accum2", "stage1_2", "stage1_2_memrows", "stage2", "stage2_pretrain_retrieval"},
	} {
		for _, name := range names {
			_, stage := v.g.Stages[name]
			_, curve := v.g.Curves[name]
			if section == "stages" && !stage || section == "curves" && !curve {
				v.r.skip(section+"."+name, "the folder does not hold it")
			}
		}
	}
	var err error
	if v.f, err = safetensors.Open(filepath.Join(v.dir, "golden.safetensors")); err != nil {
		return err
	}
	v.samples, v.unread = map[string][]dataset.Sample{}, map[string]error{}
	for file, kind := range map[string]dataset.Kind{pretrainFile: dataset.Pretrain, instructionFile: dataset.Instruction, endToEndFile: dataset.EndToEnd} {
		if v.samples[file], err = dataset.ReadFiles(kind, filepath.Join(v.dir, "data", file)); err != nil {
			v.unread[file] = err
			v.r.fail("data/"+file, err)
		}
	}
	return nil
}

// open runs f with the checkpoint of the folder, dropout off.
func (v *verifier) open(ctx context.Context, f func(s scope, o *net.Opened) error) error {
	return torchx.Do(func(s scope) error {
		o, err := net.Open(ctx, s, net.Config{
			Base: filepath.Join(v.dir, "base"), Checkpoint: filepath.Join(v.dir, "clara"),
			DType: torchx.Float32, Device: torchx.CPU, MaxLen: 4096,
		})
		if err != nil {
			return err
		}
		defer o.Close()
		return f(s, o)
	})
}

// tensor returns a tensor of golden.safetensors, nil where there is none; one that cannot be read fails.
func (v *verifier) tensor(name string) []float32 {
	v.seen[name] = true
	if !v.f.Has(name) {
		return nil
	}
	t, err := v.f.Tensor(name)
	if err == nil {
		var x []float32
		if x, err = t.Float32(); err == nil {
			return x
		}
	}
	v.r.fail(name, err)
	return nil
}

// compare checks a tensor of golden.safetensors.
func (v *verifier) compare(name string, got []float32, tolerance float64) {
	if want := v.tensor(name); want != nil {
		v.r.maxAbs(name, got, want, tolerance)
	} else if !v.f.Has(name) {
		v.r.skip(name, "the folder does not hold it")
	}
}

// stage1Checkpoint opens the two-adapter checkpoint of a fresh stage 1, which some folders hold: its reasoner begins as the encoder.
func (v *verifier) stage1Checkpoint(ctx context.Context) error {
	dir := filepath.Join(v.dir, "clara_stage1")
	if _, err := os.Stat(dir); err != nil {
		return nil
	}
	return torchx.Do(func(s scope) error {
		o, err := net.Open(ctx, s, net.Config{Base: filepath.Join(v.dir, "base"), Checkpoint: dir, DType: torchx.Float32, Device: torchx.CPU, MaxLen: 64})
		if err != nil {
			return err
		}
		defer o.Close()
		v.r.exact("clara_stage1: tensors of the adapters", o.Encoder.Names, o.Decoder.Names)
		same := true
		for i, p := range o.Encoder.Params {
			same = same && slices.Equal(p.Float32s(), o.Reasoner.Params[i].Float32s())
		}
		v.r.exact("clara_stage1: the query reasoner is the encoder's copy", same, true)
		return nil
	})
}

func (v *verifier) compress(ctx context.Context) error {
	if len(v.g.Documents) == 0 {
		v.r.skip("compress", "it is of documents, which the folder does not hold")
		return nil
	}
	return v.open(ctx, func(s scope, o *net.Opened) error {
		torchx.NoGrad(func() {
			limit := o.Settings.DocMaxLength
			var docs [][]int32
			for _, d := range v.g.Documents {
				docs = append(docs, o.Prompts.Encoder(d.Text, limit))
			}
			c := o.Compress(s, docs, model.Pass{Adapter: o.Encoder}, true)
			v.compare("compress/memory", c.Memory.Float32s(), 1e-4)
			v.r.relative("compress.mse_loss_of_the_whole_batch", c.MSE.Float()/float64(len(docs)), v.g.Compress.Whole, 1e-5)
			for i, want := range v.g.Compress.Each[:min(len(docs), len(v.g.Compress.Each))] {
				one := o.Compress(s, docs[i:i+1], model.Pass{Adapter: o.Encoder}, true)
				v.r.relative(fmt.Sprintf("compress.mse_loss_each[%d]", i), one.MSE.Float(), want, 1e-5)
			}
			m := c.Memory.Float32s()
			sum := 0.0
			for _, x := range m {
				sum += float64(x) * float64(x)
			}
			v.r.relative("compress.memory_rms", math.Sqrt(sum/float64(len(m))), v.g.Compress.RMS, 1e-5)
			if at := v.g.Compress.Debug; !v.r.lacks("compress.debug_document") && at >= 0 && at < len(docs) {
				v.debugStates(s, o, docs[at])
			}
			if len(v.g.Questions) == 0 {
				return
			}
			var qs [][]int32
			for _, q := range v.g.Questions {
				qs = append(qs, o.Prompts.Encoder(q.Text, limit))
			}
			q := o.Compress(s, qs, model.Pass{Adapter: o.Reasoner}, false)
			v.compare("query/vectors", q.Memory.Float32s(), 1e-4)
		})
		return nil
	})
}

func (v *verifier) debugStates(s scope, o *net.Opened, doc []int32) {
	ids := make([]int64, len(doc))
	for i, id := range doc {
		ids[i] = int64(id)
	}
	x := o.Embed(s, ids)
	name := func(i int) string { return fmt.Sprintf("compress/debug_hidden_states/%d", i) }
	v.compare(name(0), x.Float32s(), 1e-4)
	o.Hidden(s, x, []int64{int64(len(ids))}, model.Pass{Adapter: o.Encoder, Watch: func(layer int, x tensor) {
		if layer == o.Arch.Layers-1 {
			x = o.Norm(s, x)
		}
		v.compare(name(layer+1), x.Float32s(), 1e-4)
	}})
}

func (v *verifier) topk(context.Context) error {
	for i, c := range v.g.TopK {
		for row := range min(len(c.Scores), len(c.R), len(c.Index), len(c.W), len(c.Grad)) {
			name := fmt.Sprintf("differentiable_topk[%d][%d]", i, row)
			err := torchx.Do(func(s scope) error {
				n := int64(len(c.Scores[row]))
				scores := s.Floats(c.Scores[row], torchx.CPU, n)
				scores.RequireGrad()
				t, err := net.Choose(s, scores, c.K, c.Tau)
				if err != nil {
					return err
				}
				v.r.exact(name+".topk_idx", t.Index, c.Index[row])
				v.r.exact(name+".W", t.W.Float32s(), slices.Concat(c.W[row]...))
				r := s.Floats(slices.Concat(c.R[row]...), torchx.CPU, int64(c.K), n)
				torchx.Backward([]tensor{s.Sum(s.Mul(t.W, r))}, nil)
				v.r.maxAbs(name+".grad_of_sum_W_times_R", s.Grad(scores).Float32s(), c.Grad[row], 1e-4*max(1, norm(c.Grad[row])))
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (v *verifier) extras(context.Context) error {
	e := v.g.Extras
	for i, a := range e.Answers {
		name := fmt.Sprintf("extras.answers[%d]", i)
		got := score.One(a.Prediction, a.Gold)
		v.r.exact(name+".em", got.EM, a.EM)
		v.r.exact(name+".cover_em", got.Cover, a.Cover)
		v.r.relativeOrAbs(name+".f1", got.F1, a.F1, 1e-8)
		v.r.exact(name+".normalized_prediction", score.Normalize(a.Prediction), a.NormalizedPrediction)
		v.r.exact(name+".normalized_gold", score.Normalize(a.Gold), a.NormalizedGold)
	}
	for i, c := range e.Retrieval {
		valid := 0
		sums := map[string]float64{}
		for j, pos := range c.Pos {
			if len(pos) == 0 || j >= len(c.TopK) {
				continue
			}
			valid++
			for _, k := range []int{1, 3, 5} {
				rec, prec := score.At(k, c.TopK[j], pos)
				sums[fmt.Sprintf("recall_%d", k)] += rec
				sums[fmt.Sprintf("precision_%d", k)] += prec
			}
		}
		v.r.exact(fmt.Sprintf("extras.retrieval[%d].valid_samples", i), valid, c.Valid)
		for _, k := range slices.Sorted(maps.Keys(c.Metrics)) {
			v.r.relativeOrAbs(fmt.Sprintf("extras.retrieval[%d].%s", i, k), sums[k]/math.Max(1, float64(valid)), c.Metrics[k], 1e-8)
		}
	}
	for i, c := range e.Sampler {
		name := fmt.Sprintf("extras.sampler[%d]", i)
		order := torchx.RandPerm(int64(c.Seed+c.Epoch), c.N)
		for r, want := range c.ByRank {
			var got []int64
			for at := r; at < len(order) && len(got) < len(want); at += c.Replicas {
				got = append(got, order[at])
			}
			v.r.exact(fmt.Sprintf("%s rank %d", name, r), got, want)
		}
	}
	for i, c := range e.Schedule {
		s := schedule.Schedule{Name: c.Name, Rate: c.Base, Floor: c.Min / c.Base, Warmup: c.Warmup, Steps: c.Total}
		worst := 0.0
		for step, want := range c.At {
			worst = math.Max(worst, math.Abs(s.At(step)-want))
		}
		v.r.within(fmt.Sprintf("extras.lr_schedule[%d]", i), "largest absolute difference over the base rate", worst/c.Base, 1e-7)
	}
	return nil
}

func norm(x []float32) float64 {
	s := 0.0
	for _, v := range x {
		s += float64(v) * float64(v)
	}
	return math.Sqrt(s)
}

// targetsOf counts what a sample is trained on.
func targetsOf(e prompt.Encoded) int { return net.Targets(e) }
