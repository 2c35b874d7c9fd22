package model

import (
	"math"
	"slices"

	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

// Generation is what greedy decoding of one prompt gave.
type Generation struct {
	IDs []int64 // new tokens; the end token is left out
	// End is the token that ended it, -1 if the limit did.
	End int64
	// First are the logits of the first new token, [V].
	First []float32
	// Margin is the smallest difference between best and second logit over all steps.
	Margin float64
}

// Generate decodes greedily from packed prompt embeddings x [T, H], with a key and value cache. It ends a sequence at any of
// the ids eos or after limit new tokens.
func (m *Model) Generate(s scope, x tensor, lens []int64, a *Adapter, limit int, eos []int) (out []Generation) {
	torchx.NoGrad(func() { out = m.generate(s, x, lens, a, limit, eos) })
	return out
}

// cache holds keys and values [room, kv heads, D] of one sequence, for every layer.
type cache struct {
	k, v []tensor
	used int64
}

func (m *Model) generate(s scope, x tensor, lens []int64, a *Adapter, limit int, eos []int) []Generation {
	n := len(lens)
	caches := make([]cache, n)
	for i := range caches {
		for range m.blocks {
			shape := []int64{lens[i] + int64(limit), int64(m.Arch.KVHeads), int64(m.Arch.HeadDim)}
			caches[i].k = append(caches[i].k, s.Zeros(m.DType, m.Device, shape...))
			caches[i].v = append(caches[i].v, s.Zeros(m.DType, m.Device, shape...))
		}
	}
	p := Pass{Adapter: a}
	// The prompt: packed attention, whose keys and values are kept.
	cos, sin := m.angles.packed(s, m, lens, nil)
	prefill := func(s scope, layer int, q, k, v tensor) tensor {
		at := int64(0)
		for i, l := range lens {
			s.Narrow(caches[i].k[layer], 0, 0, l).Copy(s.Narrow(k, 0, at, l))
			s.Narrow(caches[i].v[layer], 0, 0, l).Copy(s.Narrow(v, 0, at, l))
			at += l
		}
		return s.Attention(q, k, v, lens, m.Arch.AttentionScale, m.window(layer))
	}
	h := m.run(s, x, cos, sin, p, prefill)
	last, at := make([]int64, n), int64(0)
	for i, l := range lens {
		at += l
		last[i] = at - 1
		caches[i].used = l
	}
	h = s.Rows(h, s.Ints(last, m.Device))

	out := make([]Generation, n)
	active := make([]int, n)
	for i := range active {
		active[i] = i
		out[i].Margin, out[i].End = math.Inf(1), -1
	}
	for step := range limit {
		var next []int64
		var still []int
		logits := s.Sub(func(s scope) tensor { return s.To(m.Logits(s, m.Norm(s, h)), torchx.Float32) })
		values, v := logits.Float32s(), m.Vocab
		for row, i := range active {
			l := values[row*v : (row+1)*v]
			if step == 0 {
				out[i].First = l
			}
			best, second := top2(l)
			out[i].Margin = min(out[i].Margin, float64(l[best])-float64(l[second]))
			if slices.Contains(eos, best) {
				out[i].End = int64(best)
				continue
			}
			out[i].IDs = append(out[i].IDs, int64(best))
			next, still = append(next, int64(best)), append(still, i)
		}
		s.Free(logits, h)
		active = still
		if len(active) == 0 || step == limit-1 {
			break
		}
		h = s.Sub(func(s scope) tensor { return m.step(s, next, active, caches, p) })
	}
	return out
}

// step runs one new token of each active sequence: -> [n, H].
func (m *Model) step(s scope, ids []int64, active []int, caches []cache, p Pass) tensor {
	start, ones := make([]int64, len(active)), make([]int64, len(active))
	for row, i := range active {
		start[row], ones[row] = caches[i].used, 1
	}
	cos, sin := m.angles.packed(s, m, ones, start)
	h := m.run(s, m.Embed(s, ids), cos, sin, p, func(s scope, layer int, q, k, v tensor) tensor {
		var rows []tensor
		for row, i := range active {
			c, r := &caches[i], int64(row)
			s.Narrow(c.k[layer], 0, c.used, 1).Copy(s.Narrow(k, 0, r, 1))
			s.Narrow(c.v[layer], 0, c.used, 1).Copy(s.Narrow(v, 0, r, 1))
			from := int64(0)
			if w := m.window(layer); w > 0 {
				from = max(0, c.used+1-w)
			}
			seen := c.used + 1 - from
			rows = append(rows, s.AttendCache(s.Narrow(q, 0, r, 1), s.Narrow(c.k[layer], 0, from, seen), s.Narrow(c.v[layer], 0, from, seen), m.Arch.AttentionScale))
		}
		return s.Cat(0, rows...)
	})
	for _, i := range active {
		caches[i].used++
	}
	return h
}

// run goes through the layers with another attention than that of a batch.
func (m *Model) run(s scope, x, cos, sin tensor, p Pass, att attend) tensor {
	for i := range m.blocks {
		in := x
		x = s.Sub(func(s scope) tensor { return m.layer(s, i, in, cos, sin, p, att) })
	}
	return x
}

// top2 returns the places of the largest and the second largest value; ties go to the lower place.
func top2(l []float32) (best, second int) {
	best, second = 0, -1
	for i, x := range l[1:] {
		switch i++; {
		case x > l[best]:
			best, second = i, best
		case second < 0 || x > l[second]:
			second = i
		}
	}
	return best, max(second, 0)
}
