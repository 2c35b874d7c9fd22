package golden

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/trainer/torch/internal/model"
	"github.com/clara-suite/clara/services/trainer/torch/internal/net"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

func (v *verifier) allCurves(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(v.g.Curves)) {
		if strings.HasSuffix(name, "_as_written") {
			v.r.skip("curves."+name, "records that the reference's warm-up trains nothing by mistake")
			continue
		}
		if why := v.computable("curves."+name+".", v.g.Curves[name].Stage, "stage", "micro_batch", "accumulation", "lr", "betas", "eps", "weight_decay", "max_norm", "mse_weight", "loss"); why != "" {
			v.r.skip("curves."+name, why)
			continue
		}
		if err := v.open(ctx, func(s scope, o *net.Opened) error { return v.curve(s, o, name) }); err != nil {
			v.r.fail("curves."+name, err)
		}
	}
	return nil
}

// curve trains in file order and compares every step. Each micro batch weighs the same within a step here, as in the
// reference; a real run weighs it by its target tokens (spec §4), which differs only where micro batches are accumulated.
func (v *verifier) curve(s scope, o *net.Opened, name string) error {
	c, at := v.g.Curves[name], "curves."+name+"."
	stage := c.Stage
	samples, _ := v.data(stage)
	samples = samples[:min(8, len(samples))]
	if c.MicroBatch < 1 || c.MicroBatch > len(samples) || c.Accumulation < 1 || len(c.Betas) != 2 {
		return clara.Errorf(clara.Corrupt, "micro batches of %d out of %d samples, %d of them a step, %d betas", c.MicroBatch, len(samples), c.Accumulation, len(c.Betas))
	}
	t := train(s, o, stage, c.MemoryRows)
	before := make([][]float32, len(t.params))
	for i, p := range t.params {
		before[i] = p.Float32s()
	}
	opt := torchx.NewAdamW(s, t.params, c.Betas[0], c.Betas[1], c.Eps, c.Decay)
	tolerance := func(i int, early, late float64) float64 {
		if i < 4 {
			return early
		}
		return late
	}
	var losses, mses []float64
	for i := range c.Loss {
		var got step
		first := i % ((len(samples) + c.MicroBatch - 1) / c.MicroBatch) * c.MicroBatch // an epoch's last batch may be smaller
		err := torchx.Do(func(inner scope) (err error) {
			got, err = v.run(inner, o, stage, samples[first:min(first+c.MicroBatch, len(samples))], c.MSEWeight, c.Accumulation)
			return err
		})
		if err != nil {
			return err
		}
		losses, mses = append(losses, got.loss), append(mses, got.mse)
		tol := tolerance(i, 1e-4, 2e-3)
		v.r.relativeOrAbs(fmt.Sprintf("%sloss[%d]", at, i), got.loss, c.Loss[i], tol)
		if i < len(c.MSE) {
			v.r.relativeOrAbs(fmt.Sprintf("%smse_loss[%d]", at, i), got.mse, c.MSE[i], tol)
		}
		if i < len(c.Total) {
			v.r.relativeOrAbs(fmt.Sprintf("%stotal_loss[%d]", at, i), got.total, c.Total[i], tol)
		}
		if (i+1)%c.Accumulation != 0 {
			continue
		}
		n := torchx.ClipGradNorm(t.params, c.MaxNorm)
		if k := i / c.Accumulation; k < len(c.GradNorm) {
			v.r.relative(fmt.Sprintf("%sgrad_norm_before_clip[%d]", at, k), n, c.GradNorm[k], tolerance(i, 1e-3, 5e-2))
		}
		opt.Step(c.Rate)
		torchx.ZeroGrads(t.params)
		o.SyncMemory()
	}
	last := func(x []float64) float64 {
		sum := 0.0
		for _, y := range x[max(0, len(x)-c.Accumulation):] {
			sum += y
		}
		return sum / float64(c.Accumulation)
	}
	for key, got := range map[string]float64{"loss": last(losses), "mse_loss": last(mses)} {
		if want, ok := c.Logged[key]; ok {
			v.r.relativeOrAbs(at+"logged."+key, got, want, 2e-3)
		} else {
			v.r.skip(at+"logged."+key, "the folder does not hold it")
		}
	}
	if want, ok := c.Logged["lr"]; ok {
		v.r.relative(at+"logged.lr", c.Rate, want, 1e-9)
	}
	if _, ok := c.Logged["retrieval_recall_1"]; ok {
		v.r.skip(at+"logged.retrieval_*", "the reference logs zeros while it trains; retrieval figures are compared under extras and topk_idx")
	}
	v.after(s, o, name, t, before)
	return nil
}

// tensorChange is how far a tensor may be from its figure, in parts of how far it moved. The manifest names no tolerance for it:
// where a gradient is rounding noise, Adam's first steps go by its sign, so it is wider than that of the norms.
const tensorChange = 0.1

// after compares the weights that a curve ends with.
func (v *verifier) after(s scope, o *net.Opened, name string, t trained, before [][]float32) {
	c, at := v.g.Curves[name], "curves."+name+".after."
	moved := map[string]float64{model.Encoder: 0, model.Decoder: 0, model.Reasoner: 0}
	compared := 0
	for group, index := range t.groups {
		for _, i := range index {
			now := t.params[i].Float32s()
			change, sum := 0.0, 0.0
			for j, x := range now {
				d := float64(x) - float64(before[i][j])
				change += d * d
				sum += float64(x)
			}
			moved[group] += change
			change = math.Sqrt(change)
			if want, ok := c.After.Params[t.names[i]]; ok {
				compared++
				v.r.relative(at+"params."+t.names[i]+" norm", norm(now), want[0], 1e-3)
				v.r.relative(at+"params."+t.names[i]+" change", change, want[2], 2e-2)
				// A sum moves by no more than the weights do.
				v.r.within(at+"params."+t.names[i]+" sum", "absolute difference", math.Abs(sum-want[1]), 2e-2*want[2]*math.Sqrt(float64(len(now))))
			}
			key := "after/" + name + "/" + t.names[i]
			if strings.HasPrefix(group, "base/") {
				key = "after/" + name + "/embed[mem_rows]"
			}
			if want := v.tensor(key); want != nil && len(want) == len(now) {
				d := 0.0
				for j := range now {
					x := float64(now[j]) - float64(want[j])
					d += x * x
				}
				v.r.within(key, "norm of the difference over the norm of the change", math.Sqrt(d)/math.Max(change, 1e-12), tensorChange)
			}
		}
	}
	v.r.exact(at+"params: number compared", compared, len(c.After.Params))
	for _, a := range slices.Sorted(maps.Keys(c.Moved)) {
		v.r.relativeOrAbs("curves."+name+".adapter_moved_l2."+a, math.Sqrt(moved[a]), c.Moved[a], 2e-2*math.Max(c.Moved[a], 1e-9))
	}
	table, _ := o.Tables()
	rows := s.Rows(table, s.Ints(o.MemoryIDs(), o.Device)).Float32s()
	sum := 0.0
	for _, x := range rows {
		sum += float64(x)
	}
	v.r.relative("curves."+name+".mem_rows_after.norm", norm(rows), c.MemoryAfter.Norm, 1e-3)
	v.r.relativeOrAbs("curves."+name+".mem_rows_after.sum", sum, c.MemoryAfter.Sum, 2e-3)
}
