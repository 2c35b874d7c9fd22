package ocr

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/clara-suite/clara/libs/infer/ort"
)

const (
	recHeight = 48
	recBatch  = 6
	recWidest = 3200
	// recPixels bounds the width of a batch's lines together, and so the memory of its probabilities: 70 MB.
	recPixels = 8000
	clsWidth  = 192
	clsSample = 9
)

// upsideDown reports whether the longest lines stand on their heads.
func (e *Engine) upsideDown(p *pixmap, quads []quad) (bool, error) {
	qs := slices.Clone(quads)
	slices.SortFunc(qs, func(a, b quad) int { return -cmp.Compare(a.width(), b.width()) })
	qs = qs[:min(len(qs), clsSample)]
	if len(qs) == 0 {
		return false, nil
	}
	in := make([]float32, len(qs)*3*recHeight*clsWidth)
	for i, q := range qs {
		w := min(max(int(math.Ceil(recHeight*q.width()/max(q.height(), 1))), 1), clsWidth)
		p.tensor(in[i*3*recHeight*clsWidth:], q, w, recHeight, clsWidth)
	}
	out, err := e.cls.Run(map[string]ort.Tensor{e.cls.Inputs()[0].Name: ort.Of(in, int64(len(qs)), 3, recHeight, clsWidth)})
	if err != nil {
		return false, err
	}
	prob, err := ort.Data[float32](out[e.cls.Outputs()[0].Name])
	if err != nil {
		return false, err
	}
	down := 0
	for i := range qs {
		if len(prob) >= 2*i+2 && prob[2*i+1] > 0.9 {
			down++
		}
	}
	return down*3 > len(qs)*2, nil
}

// read recognises the lines, those of like width together, several batches at once.
func (e *Engine) read(ctx context.Context, p *pixmap, quads []quad) ([]Line, error) {
	width := func(q quad) int {
		return min(max(int(math.Ceil(recHeight*q.width()/max(q.height(), 1))), 16), recWidest)
	}
	qs := make([]quad, 0, len(quads))
	for _, q := range quads {
		if q.height() >= 1.5*q.width() {
			// A single line on its side: read from its foot upwards.
			q = quad{q[3], q[0], q[1], q[2]}
		}
		qs = append(qs, q)
	}
	slices.SortStableFunc(qs, func(a, b quad) int { return cmp.Compare(width(a), width(b)) })
	var batches [][]quad
	for len(qs) > 0 {
		n := 1
		for n < min(recBatch, len(qs)) && (n+1)*width(qs[n]) <= recPixels {
			n++
		}
		batches = append(batches, qs[:n])
		qs = qs[n:]
	}
	parts := make([][]Line, len(batches))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(cap(e.runs))
	for i, batch := range batches {
		g.Go(func() error {
			select {
			case e.runs <- struct{}{}:
				defer func() { <-e.runs }()
			case <-ctx.Done():
				return ctx.Err()
			}
			var err error
			parts[i], err = e.readBatch(p, batch, width)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(parts...), nil
}

// readBatch recognises some lines in one run.
func (e *Engine) readBatch(p *pixmap, batch []quad, width func(quad) int) ([]Line, error) {
	w := max(width(batch[len(batch)-1]), 320)
	in := make([]float32, len(batch)*3*recHeight*w)
	for i, q := range batch {
		p.tensor(in[i*3*recHeight*w:], q, width(q), recHeight, w)
	}
	out, err := e.rec.Run(map[string]ort.Tensor{e.rec.Inputs()[0].Name: ort.Of(in, int64(len(batch)), 3, recHeight, int64(w))})
	if err != nil {
		return nil, err
	}
	t := out[e.rec.Outputs()[0].Name]
	prob, err := ort.Data[float32](t)
	if err != nil || len(t.Shape) != 3 {
		return nil, err
	}
	var lines []Line
	steps, classes := int(t.Shape[1]), int(t.Shape[2])
	for i, q := range batch {
		text, score := e.decode(prob[i*steps*classes:(i+1)*steps*classes], classes)
		if text != "" && score >= e.cfg.MinScore {
			lines = append(lines, Line{Text: text, Corners: q, Score: score})
		}
	}
	return lines, nil
}

// decode reads the most probable path: repeats are one, blanks part them.
func (e *Engine) decode(prob []float32, classes int) (string, float64) {
	var b strings.Builder
	last, n, sum := 0, 0, 0.0
	for ; len(prob) >= classes; prob = prob[classes:] {
		best := 0
		for c := 1; c < classes; c++ {
			if prob[c] > prob[best] {
				best = c
			}
		}
		if best != 0 && best != last && best < len(e.charset) {
			b.WriteString(e.charset[best])
			sum += float64(prob[best])
			n++
		}
		last = best
	}
	if n == 0 {
		return "", 0
	}
	return strings.TrimSpace(b.String()), sum / float64(n)
}
