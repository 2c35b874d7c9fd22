// Package calibrate runs the layers of a model over texts, one layer at a time, and
// says what each matrix of it meets there, so that weights can be rounded with
// regard to it (modelpkg.ImportOptions.Calibrate, quant.RoundWith).
//
// It takes embeddings [S, T, H] of S sequences of T tokens, and keeps no more than
// one layer's weights and the sequences. Text returns texts of several kinds for who
// has none.
//
// Errors: those of package ort. Not safe for concurrent use.
package calibrate

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"math"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/infer/ort"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/onnx/decoder"
)

//go:embed text.md
var text string

// Text is written for this purpose: instructions, tables, dialogue, code and figures, in several languages.
func Text() string { return text }

// Run is a pass through a model's layers. It implements modelpkg.Calibration.
type Run struct {
	m       arch.Model
	runtime ort.Options
	x       []float32 // [S, T, H]: what the next layer gets
	S, T    int
}

// Start begins with embeddings [S, T, H], which it takes over.
func Start(m arch.Model, embeddings []float32, T int, runtime ort.Options) *Run {
	return &Run{m: m, runtime: runtime, x: embeddings, S: len(embeddings) / T / m.Hidden, T: T}
}

// With returns Start as modelpkg.Import takes it.
func With(runtime ort.Options) func(arch.Model, []float32, int) modelpkg.Calibration {
	return func(m arch.Model, embeddings []float32, T int) modelpkg.Calibration {
		return Start(m, embeddings, T, runtime)
	}
}

// Grams returns, by the name of a decoder.Slot, the sum of x x^T [In, In] over the inputs that the slot's matrices meet in a
// layer with these weights (Hugging Face names).
func (r *Run) Grams(ctx context.Context, layer int, weights map[string][]float32) (map[string][]float32, error) {
	sums := map[string][]float32{}
	err := r.run(ctx, layer, weights, true, func(out map[string][]float32, _ int) {
		for name, g := range out {
			if sums[name] == nil {
				sums[name] = make([]float32, len(g))
			}
			for i, v := range g {
				sums[name][i] += v
			}
		}
	})
	return sums, err
}

// Advance goes on to what the next layer gets from a layer with these weights.
func (r *Run) Advance(ctx context.Context, layer int, weights map[string][]float32) error {
	next := make([]float32, len(r.x))
	err := r.run(ctx, layer, weights, false, func(out map[string][]float32, at int) { copy(next[at:], out[decoder.Hidden]) })
	r.x = next
	return err
}

// States returns what the next layer gets, [S, T, H]: after the last one, what the final norm gets. Do not change it.
func (r *Run) States() []float32 { return r.x }

// batch is how many sequences run at once.
const batch = 4

// run runs a layer over all sequences and hands out what comes out of each batch, of the sequence that begins at a place of x.
func (r *Run) run(ctx context.Context, layer int, weights map[string][]float32, grams bool, got func(out map[string][]float32, at int)) (err error) {
	g, err := decoder.BuildBlock(r.m, layer, grams)
	if err != nil {
		return err
	}
	var model bytes.Buffer
	if _, err := g.WriteTo(&model); err != nil {
		return err
	}
	s, err := ort.OpenBytes(model.Bytes(), r.runtime)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	shared, err := r.inputs(s, layer, weights)
	if err != nil {
		return err
	}
	H := r.m.Hidden
	for from := 0; from < r.S; from += batch {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(batch, r.S-from)
		if err := r.runBatch(s, shared, r.x[from*r.T*H:(from+n)*r.T*H], n, grams, func(out map[string][]float32) { got(out, from*r.T*H) }); err != nil {
			return fmt.Errorf("calibrate layer %d: %w", layer, err)
		}
	}
	return nil
}

// inputs are those that do not depend on the sequences.
func (r *Run) inputs(s *ort.Session, layer int, weights map[string][]float32) (map[string]ort.Tensor, error) {
	rope := r.m.LayerRope(layer)
	inv, scale := rope.Frequencies(r.T)
	width := decoder.RotaryWidth(rope) / 2
	cos, sin := make([]float32, r.T*width), make([]float32, r.T*width)
	for p := range r.T {
		for i, f := range inv {
			angle := float64(float32(p) * f)
			cos[p*width+i], sin[p*width+i] = scale*float32(math.Cos(angle)), scale*float32(math.Sin(angle))
		}
	}
	in := map[string]ort.Tensor{decoder.Longest: ort.Of([]int32{int32(r.T)}, 1)}
	for _, x := range s.Inputs() {
		switch x.Name {
		case decoder.Cos, decoder.CosLocal:
			in[x.Name] = ort.Of(cos, int64(r.T), int64(width))
		case decoder.Sin, decoder.SinLocal:
			in[x.Name] = ort.Of(sin, int64(r.T), int64(width))
		}
		if w, ok := weights[x.Name]; ok {
			in[x.Name] = ort.Of(w, x.Shape...)
		}
	}
	return in, nil
}

// runBatch runs n sequences x [n, T, H].
func (r *Run) runBatch(s *ort.Session, shared map[string]ort.Tensor, x []float32, n int, grams bool, got func(map[string][]float32)) error {
	b, err := s.Bind()
	if err != nil {
		return err
	}
	defer b.Close()
	var held []*ort.Value
	defer func() {
		for _, v := range held {
			v.Close()
		}
	}()
	bind := func(name string, t ort.Tensor, to func(string, *ort.Value) error) error {
		v, err := ort.NewValue(t)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		held = append(held, v)
		return to(name, v)
	}
	lengths := make([]int32, n)
	for i := range lengths {
		lengths[i] = int32(r.T - 1)
	}
	n64, H := int64(n), int64(r.m.Hidden)
	empty := ort.Of([]float32{}, n64, int64(r.m.KVHeads), 0, int64(decoder.HeadWidth(r.m)))
	for _, in := range s.Inputs() {
		t, ok := shared[in.Name]
		switch {
		case ok:
		case in.Name == decoder.Embeddings:
			t = ort.Of(x, n64, int64(r.T), H)
		case in.Name == decoder.Lengths:
			t = ort.Of(lengths, n64)
		default: // the cache, or a weight that is missing, which then has the wrong shape
			t = empty
		}
		if err := bind(in.Name, t, b.In); err != nil {
			return err
		}
	}
	out := map[string][]float32{}
	for _, o := range s.Outputs() {
		if grams == (o.Name == decoder.Hidden) || o.Type != "f32" || len(o.Shape) == 4 {
			continue
		}
		shape := o.Shape
		if o.Name == decoder.Hidden {
			shape = []int64{n64, int64(r.T), H}
		}
		size := int64(1)
		for _, d := range shape {
			size *= d
		}
		out[o.Name] = make([]float32, size)
		if err := bind(o.Name, ort.Of(out[o.Name], shape...), b.Out); err != nil {
			return err
		}
	}
	if err := b.Run(); err != nil {
		return err
	}
	got(out)
	return nil
}
