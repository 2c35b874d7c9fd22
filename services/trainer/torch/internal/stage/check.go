package stage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/trainplan"
	"github.com/clara-suite/clara/services/trainer/torch/internal/net"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

// prepared is all that is known of a run before any weight is read: what the files say, and that they fit together.
type prepared struct {
	*net.Described
	data, eval *Data
	limits     limits
	load       trainplan.Load
	estimate   trainplan.Estimate
}

// on is the plan on a device: what was left open is settled.
func on(p trainplan.Plan, d torchx.Device) trainplan.Plan {
	if p.BF16Auto && d == torchx.CPU {
		p.BF16 = false
	}
	p.BF16Auto = false
	return p
}

// config is how a plan's model is opened.
func config(p trainplan.Plan, device torchx.Device) net.Config {
	dtype := torchx.Float32
	if p.BF16 {
		dtype = torchx.BFloat16
	}
	return net.Config{
		Base: p.Model, Checkpoint: p.Checkpoint, DocMaxLength: p.DocMaxLength, CompressRate: p.CompressRate, Rank: p.LoraRank,
		FreshDecoder: p.Stage == trainplan.Stage12, Dropout: p.Dropout, DType: dtype, Device: device, Bits: p.Bits(), Seed: p.Seed, MaxLen: p.MaxLen,
	}
}

// prepare reads the files of a plan and checks that it can work. What was read is returned beside the faults of the whole, and
// must be closed.
func prepare(ctx context.Context, p trainplan.Plan, c net.Config, env Env, phase func(string)) (*prepared, error) {
	phase("reading the model's settings")
	d, err := net.Describe(ctx, c)
	if err != nil {
		return nil, err
	}
	q := &prepared{Described: d, limits: limits{doc: d.Settings.DocMaxLength, k: p.TopK, maxLen: p.MaxLen}}
	phase("tokenizing the data")
	var faults []error
	if q.data, err = readData(p, p.Data, d.Writer, q.limits, p.Seed); err != nil {
		faults = append(faults, err)
	}
	if p.EvalData != "" {
		all := p
		all.MaxSamples = 0
		if q.eval, err = readData(all, []trainplan.Dataset{{Path: p.EvalData}}, d.Writer, q.limits, p.Seed); err != nil {
			faults = append(faults, err)
		}
	}
	if len(faults) > 0 {
		return q, errors.Join(faults...)
	}
	q.load = q.data.load(d.Memories)
	q.load.Fresh = d.Fresh && p.Stage == trainplan.Stage1
	machine := trainplan.Machine{Memory: env.FreeMemory, FLOPS: speed(p, c, d.Source.Arch(), q.load)}
	q.estimate, err = p.Preflight(d.Source.Arch(), q.load, d.Settings.LoraR, machine)
	return q, err
}

// warnings are what a user should know of the data.
func (q *prepared) warnings() []string {
	const most = 20
	out := slices.Clone(q.Settings.Warnings())
	list := func(all []string, rest string) {
		for i, s := range all {
			if i == most {
				out = append(out, fmt.Sprintf("and %d more %s", len(all)-i, rest))
				break
			}
			out = append(out, s)
		}
	}
	list(q.data.Skipped, "samples left out")
	list(q.data.Cut, "answers cut")
	return out
}

// summary is what is told of a run before it begins. trained is the number of parameters that are.
func (q *prepared) summary(p trainplan.Plan, env Env) trainplan.Summary {
	c := config(p, env.Device)
	attention := "scaled_dot_product_attention: flash where it applies, else math"
	if !p.FlashAttention {
		attention = "scaled_dot_product_attention: math"
	}
	return trainplan.Summary{
		Stage: p.Stage, Model: q.BasePath, Family: q.Source.Arch().Family, Parameters: q.Source.Arch().Parameters(), Trained: q.estimate.Trained,
		Samples: len(q.data.Samples), Skipped: len(q.data.Skipped), Cut: len(q.data.Cut), Documents: len(q.data.Docs), Steps: q.estimate.Steps, Memories: q.Memories,
		Device: env.Device.String(), DType: c.DType.String(), Attention: attention, Threads: torchx.Threads(), World: max(1, p.World),
		Free: env.FreeMemory, Estimate: q.estimate,
	}
}

// Check finds out, before any of the work, what plans of one run need and whether each can work: settings, model, checkpoint,
// every line of the data, folders, memory. A plan may start from the checkpoint that one before it is going to write. It
// returns a summary of each plan, as far as it got, and all faults together.
func Check(ctx context.Context, plans []trainplan.Plan, env Env, tell func(trainplan.Summary) error) error {
	var faults []error
	made := map[string]net.Config{} // of the checkpoints that plans write
	kind := clara.Invalid
	for _, p := range plans {
		err := check(ctx, p, env, made, tell)
		if err == nil {
			continue
		}
		if clara.IsContext(err) {
			return err
		}
		if len(plans) > 1 {
			err = fmt.Errorf("%s: %w", p.Stage, err)
		}
		if len(faults) == 0 {
			kind = clara.KindOf(err)
		}
		faults = append(faults, err)
	}
	if len(faults) > 0 {
		return clara.Errorf(kind, "%w", errors.Join(faults...))
	}
	return nil
}

func check(ctx context.Context, p trainplan.Plan, env Env, made map[string]net.Config, tell func(trainplan.Summary) error) error {
	if err := p.Validate(); err != nil {
		return err
	}
	if err := free(p); err != nil {
		return err
	}
	p = on(p, env.Device)
	from, ok := made[filepath.Clean(p.Checkpoint)]
	made[filepath.Clean(p.SavePath)] = net.Config{} // until more is known
	c := config(p, env.Device)
	if ok && p.Checkpoint != "" {
		if from.Base == "" {
			return nil // its fault was told
		}
		c.Base, c.Checkpoint, c.DocMaxLength, c.CompressRate, c.Rank = from.Base, "", from.DocMaxLength, from.CompressRate, from.Rank
	}
	q, err := prepare(ctx, p, c, env, func(string) {})
	if q == nil {
		return err
	}
	made[filepath.Clean(p.SavePath)] = net.Config{Base: q.BasePath, DocMaxLength: q.Settings.DocMaxLength, CompressRate: q.Settings.CompressRate, Rank: q.Settings.LoraR}
	if err == nil {
		_, err = newest(p, q.data.Hash)
	}
	if q.load.Samples > 0 {
		s := q.summary(p, env)
		s.Warnings = q.warnings()
		err = errors.Join(err, tell(s))
	}
	return errors.Join(err, q.Close())
}

// free reports what of a plan's folders is in its way: another run at work in one, or checkpoints of an earlier one.
func free(p trainplan.Plan) error {
	if _, err := os.Stat(p.RunDir); err != nil {
		return nil // it will be made
	}
	f, err := lock(p.RunDir)
	if err != nil {
		return err
	}
	defer f.Close()
	return fresh(p)
}

// fresh refuses a folder that holds checkpoints, unless the plan goes on from them.
func fresh(p trainplan.Plan) error {
	if all := Checkpoints(p.RunDir); len(all) > 0 && !p.Resume {
		return clara.Errorf(clara.Exists, "%s holds checkpoints of a run: set load_checkpoint to go on from %s, or give another ckpt_path", p.RunDir, filepath.Base(all[len(all)-1]))
	}
	return nil
}

// share is how much of the rate of one large matrix product a whole training step reaches: the rest of its time goes into
// norms, attention, dropout, adapters and the optimizer. Measured steps lie at 0.55 to 0.75 of it.
const share = 0.65

// speed is the FLOP/s that a step of the plan can be expected to reach: measured in about a quarter of a second on products of
// the model's own shapes, type and quantization.
func speed(p trainplan.Plan, c net.Config, a arch.Model, l trainplan.Load) (flops float64) {
	rows := int64(math.Max(16, math.Min(2048, math.Max(l.GradTokens*float64(p.MicroBatchSize), float64(l.MaxGradTokens)))))
	in, out := int64(a.Hidden), int64(a.Intermediate)
	err := torchx.Do(func(s scope) error {
		x := s.To(s.Uniform(1, c.Device, rows, in), c.DType)
		w := torchx.Weight{W: s.To(s.Uniform(1, c.Device, out, in), c.DType)}
		if c.Bits > 0 {
			w = s.Quantize(w.W, c.Bits)
		}
		product := func() {
			torchx.NoGrad(func() { s.Sub(func(s scope) tensor { return s.Linear(x, w, nil) }) })
		}
		once := func(n int) float64 {
			began := time.Now()
			for range n {
				product()
			}
			torchx.Sync(c.Device)
			return time.Since(began).Seconds()
		}
		once(1) // threads and work space
		n := int(math.Max(1, math.Min(1000, 0.1/math.Max(1e-6, once(1)))))
		flops = 2 * float64(rows) * float64(in) * float64(out) * float64(n) / math.Min(once(n), once(n))
		return nil
	})
	if err != nil {
		return 0 // a type that the device has no product for: the run itself says so
	}
	return share * flops
}
