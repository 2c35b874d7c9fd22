package stage

import "github.com/clara-suite/clara/services/trainer/torch/internal/torchx"

// shards is the optimizer, whose state lies whole on every rank or, with zero_stage 1 and 2, in parts: a parameter belongs to
// one rank, which alone keeps its moments, moves it, and gives it to the others. With 2 the other ranks drop its gradient
// before that. Parameters themselves are on all ranks; with 3 the frozen base is not (model.Options).
type shards struct {
	group  *torchx.Group
	params []tensor
	own    []bool
	opt    *torchx.AdamW // over the parameters that are its own
}

func newShards(s scope, params []tensor, group *torchx.Group, zero int, beta1, beta2, decay float64) *shards {
	x := &shards{params: params, own: make([]bool, len(params))}
	if zero > 0 {
		x.group = group
	}
	var mine []tensor
	for i, p := range params {
		if x.group == nil || i/2%x.group.World == x.group.Rank { // A and B of a layer together
			x.own[i], mine = true, append(mine, p)
		}
	}
	x.opt = torchx.NewAdamW(s, mine, beta1, beta2, 1e-8, decay)
	return x
}

// step moves the parameters; their gradients are the whole batch's, clipped. Afterwards there are none.
func (x *shards) step(rate float64) error {
	if x.group != nil {
		for i, p := range x.params {
			if !x.own[i] {
				torchx.SetGrad(p, nil)
			}
		}
	}
	x.opt.Step(rate)
	torchx.ZeroGrads(x.params)
	if x.group == nil {
		return nil
	}
	for i, p := range x.params {
		if !x.own[i] {
			p.Scale(0)
		}
	}
	return x.group.AllReduce(x.params)
}

// moments returns both moments of every parameter, gathered from the ranks, owned by s.
func (x *shards) moments(s scope) (first, second []tensor, err error) {
	k := 0
	for i, p := range x.params {
		if x.own[i] {
			first, second = append(first, x.opt.M[k]), append(second, x.opt.V[k])
			k++
			continue
		}
		in := p.Info()
		first = append(first, s.Zeros(torchx.Float32, in.Device, in.Shape...))
		second = append(second, s.Zeros(torchx.Float32, in.Device, in.Shape...))
	}
	if x.group == nil {
		return first, second, nil
	}
	// Sums go into copies: a rank's own moments must stay as they are.
	for i := range first {
		first[i], second[i] = s.Clone(first[i]), s.Clone(second[i])
	}
	if err := x.group.AllReduce(first); err != nil {
		return nil, nil, err
	}
	return first, second, x.group.AllReduce(second)
}

// each calls f for every parameter with the moments that this rank keeps of it, nil if another one does.
func (x *shards) each(f func(i int, param, first, second tensor) error) error {
	k := 0
	for i, p := range x.params {
		var m, v tensor
		if x.own[i] {
			m, v = x.opt.M[k], x.opt.V[k]
			k++
		}
		if err := f(i, p, m, v); err != nil {
			return err
		}
	}
	return nil
}
