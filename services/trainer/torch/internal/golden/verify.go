package golden

import (
	"bytes"
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
	stages  []string
	unknown []string        // keys of golden.json that no field stands for
	seen    map[string]bool // tensors of golden.safetensors that were looked at
	samples struct{ pretrain, instruction, endToEnd []dataset.Sample }
}

// Verify compares every figure of the folder. The error is for a folder that cannot be read; differences are in the report.
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

// unknownKeys names the keys of a JSON object that into has no field for, at any depth.
func unknownKeys(raw []byte, into any) []string {
	d := json.NewDecoder(bytes.NewReader(raw))
	var all any
	if d.Decode(&all) != nil {
		return nil
	}
	var out []string
	walk("", all, reflect.TypeOf(into).Elem(), &out)
	slices.Sort(out)
	return slices.Compact(out)
}

func walk(path string, x any, t reflect.Type, out *[]string) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch x := x.(type) {
	case []any:
		if t.Kind() == reflect.Slice || t.Kind() == reflect.Array {
			for _, e := range x {
				walk(path+"[]", e, t.Elem(), out)
			}
		}
	case map[string]any:
		switch t.Kind() {
		case reflect.Map:
			for _, e := range x {
				walk(path+".*", e, t.Elem(), out)
			}
		case reflect.Struct:
			fields := map[string]reflect.Type{}
			for i := range t.NumField() {
				fields[t.Field(i).Tag.Get("json")] = t.Field(i).Type
			}
			for k, e := range x {
				at := strings.TrimPrefix(path+"."+k, ".")
				if f, ok := fields[k]; ok {
					walk(at, e, f, out)
				} else {
					*out = append(*out, at)
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
			v.unknown = unknownKeys(raw, v.g)
		}
	}
	v.maxLen, v.k = manifest.Config.MaxLen, manifest.Config.K
	var err error
	if v.f, err = safetensors.Open(filepath.Join(v.dir, "golden.safetensors")); err != nil {
		return err
	}
	for file, into := range map[string]*[]dataset.Sample{
		"pretrain_data.jsonl": &v.samples.pretrain, "instruction_data.jsonl": &v.samples.instruction, "end_to_end_data.jsonl": &v.samples.endToEnd,
	} {
		kind := map[string]dataset.Kind{"pretrain_data.jsonl": dataset.Pretrain, "instruction_data.jsonl": dataset.Instruction, "end_to_end_data.jsonl": dataset.EndToEnd}[file]
		if *into, err = dataset.ReadFiles(kind, filepath.Join(v.dir, "data", file)); err != nil {
			return err
		}
	}
	v.stages = slices.Sorted(maps.Keys(v.g.Stages))
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

func (v *verifier) tensor(name string) []float32 {
	v.seen[name] = true
	t, err := v.f.Tensor(name)
	if err != nil {
		return nil
	}
	x, err := t.Float32()
	if err != nil {
		return nil
	}
	return x
}

// compare checks a tensor of golden.safetensors.
func (v *verifier) compare(name string, got []float32, tolerance float64) {
	want := v.tensor(name)
	if want == nil {
		v.r.skip(name, "the folder does not hold it")
		return
	}
	v.r.maxAbs(name, got, want, tolerance)
}

func (v *verifier) compress(ctx context.Context) error {
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
			for i, want := range v.g.Compress.Each {
				one := o.Compress(s, docs[i:i+1], model.Pass{Adapter: o.Encoder}, true)
				v.r.relative(fmt.Sprintf("compress.mse_loss_each[%d]", i), one.MSE.Float(), want, 1e-5)
			}
			m := c.Memory.Float32s()
			sum := 0.0
			for _, x := range m {
				sum += float64(x) * float64(x)
			}
			v.r.relative("compress.memory_rms", math.Sqrt(sum/float64(len(m))), v.g.Compress.RMS, 1e-5)
			v.debugStates(s, o, docs[v.g.Compress.Debug])

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
		for row := range c.Scores {
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
			if len(pos) == 0 {
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
