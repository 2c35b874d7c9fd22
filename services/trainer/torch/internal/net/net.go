// Package net is CLaRa on a base model (spec clara-model §1 to §5): documents become memory vectors, questions query
// vectors, a differentiable top-k chooses documents, and the decoder reads their memories in the slots of its prompt.
//
// Token ids come from libs/prompt. Tensors are packed, as in package model: B questions, N candidates, k kept, m memory
// tokens, H hidden size. A Net is for one goroutine.
package net

import (
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/prompt"
	"github.com/clara-suite/clara/services/trainer/torch/internal/model"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

type (
	scope  = *torchx.Scope
	tensor = *torchx.Tensor
)

// Net is a base model with CLaRa's adapters and tokens.
type Net struct {
	*model.Model
	M                          int // memory tokens a document
	Encoder, Decoder, Reasoner *model.Adapter
}

// Compressed is what an encoder pass gives.
type Compressed struct {
	Memory tensor // [n * m, H], the memory vectors of n texts one after another
	// MSE is the sum over the texts of the mean squared difference between the mean state of the memory positions and that of
	// all others; nil if it was not asked for. Divided by n it is the loss term of spec §3.
	MSE tensor
}

// Compress runs encoder inputs (prompt.Writer.Encoder), n of them, through the adapter of p.
func (n *Net) Compress(s scope, inputs [][]int32, p model.Pass, mse bool) Compressed {
	ids, lens := pack(inputs)
	h := n.Hidden(s, n.Embed(s, ids), lens, p)
	var rows []int64 // the last m positions of each text
	end := int64(0)
	for _, l := range lens {
		end += l
		for i := end - int64(n.M); i < end; i++ {
			rows = append(rows, i)
		}
	}
	at := s.Ints(rows, n.Device)
	if !mse {
		return Compressed{Memory: p.Tape.Cut(n.Norm(s, s.Rows(h, at)))}
	}
	h = p.Tape.Cut(n.Norm(s, h)) // memories and MSE both come from it
	return Compressed{Memory: s.Rows(h, at), MSE: n.distance(s, h, lens)}
}

// distance is the sum over texts of mean((mean memory state - mean other state)^2), h [T, H].
func (n *Net) distance(s scope, h tensor, lens []int64) tensor {
	total := h.Dim(0)
	// One row a text: its memory positions weigh 1/m, its others -1/(length - m).
	w := make([]float32, int64(len(lens))*total)
	at := int64(0)
	for i, l := range lens {
		row := w[int64(i)*total:]
		for p := range l {
			if p < l-int64(n.M) {
				row[at+p] = -1 / float32(l-int64(n.M))
			} else {
				row[at+p] = 1 / float32(n.M)
			}
		}
		at += l
	}
	d := s.MatMul(s.Floats(w, n.Device, int64(len(lens)), total), s.To(h, torchx.Float32))
	return s.Times(s.Sum(s.Mul(d, d)), 1/float64(n.Arch.Hidden))
}

// Prompts embeds decoder inputs and puts the memory vectors of memory [slots * m, H] into their slots, in order:
// -> [T, H] and the lengths.
func (n *Net) Prompts(s scope, inputs []prompt.Encoded, memory tensor) (x tensor, lens []int64) {
	var ids []int64
	var rows []int64
	for _, e := range inputs {
		at := int64(len(ids))
		for _, slot := range e.Slots {
			for i := range slot.Len {
				rows = append(rows, at+int64(slot.Start+i))
			}
		}
		for _, id := range e.IDs {
			ids = append(ids, int64(id))
		}
		lens = append(lens, int64(len(e.IDs)))
	}
	x = n.Embed(s, ids)
	if len(rows) > 0 {
		x = s.WithRows(x, s.Ints(rows, n.Device), s.To(memory, n.DType))
	}
	return x, lens
}

// Loss is the cross-entropy of a decoder pass.
type Loss struct {
	Sum tensor // over all targets
	// Each is the sum over the targets of each sample; they need no device to be waited for until read.
	each    tensor
	targets []int
}

// Each returns the cross-entropy summed over the targets of each sample.
func (l Loss) Each() []float64 {
	v, out := l.each.Float32s(), make([]float64, len(l.targets))
	at := 0
	for i, n := range l.targets {
		for range n {
			out[i] += float64(v[at])
			at++
		}
	}
	return out
}

// Targets is the number of all targets.
func (l Loss) Targets() (n int) {
	for _, k := range l.targets {
		n += k
	}
	return n
}

// Decode is the cross-entropy of training samples given the memories of their slots. Logits exist at target positions only.
func (n *Net) Decode(s scope, inputs []prompt.Encoded, memory tensor, p model.Pass) (Loss, error) {
	x, lens := n.Prompts(s, inputs, memory)
	h := n.Hidden(s, x, lens, p)
	rows, labels, l := targets(inputs)
	if len(rows) == 0 {
		return Loss{}, clara.Errorf(clara.Invalid, "a batch without a single target")
	}
	h = n.Norm(s, s.Rows(h, s.Ints(rows, n.Device)))
	l.Sum, l.each = n.CrossEntropy(s, h, labels)
	return l, nil
}

// targets lists the packed rows whose logits predict a target, and the targets.
func targets(inputs []prompt.Encoded) (rows, labels []int64, l Loss) {
	at := int64(0)
	for _, e := range inputs {
		count := 0
		for i := 1; i < len(e.Labels); i++ {
			if e.Labels[i] != prompt.Masked {
				rows, labels = append(rows, at+int64(i)-1), append(labels, int64(e.Labels[i]))
				count++
			}
		}
		at += int64(len(e.IDs))
		l.targets = append(l.targets, count)
	}
	return rows, labels, l
}

// Targets is the number of positions of a sample that Decode predicts.
func Targets(e prompt.Encoded) int {
	n := 0
	for i := 1; i < len(e.Labels); i++ {
		if e.Labels[i] != prompt.Masked {
			n++
		}
	}
	return n
}

// Generate answers prompts given the memories of their slots, greedily.
func (n *Net) Generate(s scope, inputs []prompt.Encoded, memory tensor, limit int, eos []int) []model.Generation {
	var out []model.Generation
	torchx.NoGrad(func() {
		x, lens := n.Prompts(s, inputs, memory)
		out = n.Model.Generate(s, x, lens, n.Decoder, limit, eos)
	})
	return out
}

// pack joins id sequences into one and gives their lengths.
func pack(inputs [][]int32) (ids, lens []int64) {
	for _, in := range inputs {
		for _, id := range in {
			ids = append(ids, int64(id))
		}
		lens = append(lens, int64(len(in)))
	}
	return ids, lens
}
