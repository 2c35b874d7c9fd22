package ocr

import (
	"math"
	"slices"

	"github.com/clara-suite/clara/libs/infer/ort"
)

// Of detection: sides in pixels, probabilities, and how far a region is grown.
const (
	detMinSide   = 736
	detMaxSide   = 1600
	detMaxScale  = 2.0
	detThreshold = 0.3
	boxThreshold = 0.5
	unclipRatio  = 1.6
	maxRegions   = 3000
)

// detect returns the places of lines of text.
func (e *Engine) detect(p *pixmap) ([]quad, error) {
	scale := 1.0
	if m := min(p.w, p.h); m < detMinSide {
		scale = min(detMinSide/float64(m), detMaxScale)
	}
	if m := float64(max(p.w, p.h)) * scale; m > detMaxSide {
		scale *= detMaxSide / m
	}
	w := max(int(math.Round(float64(p.w)*scale/32))*32, 32)
	h := max(int(math.Round(float64(p.h)*scale/32))*32, 32)
	in := make([]float32, 3*w*h)
	full := quad{{0, 0}, {float64(p.w), 0}, {float64(p.w), float64(p.h)}, {0, float64(p.h)}}
	p.tensor(in, full, w, h, w)
	out, err := e.det.Run(map[string]ort.Tensor{e.det.Inputs()[0].Name: ort.Of(in, 1, 3, int64(h), int64(w))})
	if err != nil {
		return nil, err
	}
	prob, err := ort.Data[float32](out[e.det.Outputs()[0].Name])
	if err != nil || len(prob) != w*h {
		return nil, err
	}
	sx, sy := float64(p.w)/float64(w), float64(p.h)/float64(h)
	var quads []quad
	for _, r := range regions(prob, w, h) {
		q, ok := r.quad(prob, w, h)
		if !ok {
			continue
		}
		for i := range q {
			q[i].X = min(max(q[i].X*sx, 0), float64(p.w))
			q[i].Y = min(max(q[i].Y*sy, 0), float64(p.h))
		}
		quads = append(quads, q)
	}
	return quads, nil
}

// blob is a connected set of pixels above the threshold.
type blob struct {
	edge []Point // pixels at its border
	n    int
	sum  float64
}

// regions returns the connected parts of the map, grown by a pixel as the
// models are trained for.
func regions(prob []float32, w, h int) []blob {
	on := make([]bool, w*h)
	for y := range h {
		for x := range w {
			if prob[y*w+x] > detThreshold {
				for dy := 0; dy <= 1; dy++ {
					for dx := 0; dx <= 1; dx++ {
						if x-dx >= 0 && y-dy >= 0 {
							on[(y-dy)*w+x-dx] = true
						}
					}
				}
			}
		}
	}
	var out []blob
	var stack []int
	for start := range on {
		if !on[start] {
			continue
		}
		on[start] = false
		stack = append(stack[:0], start)
		var b blob
		rows := map[int][2]int{}
		for len(stack) > 0 {
			i := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			x, y := i%w, i/w
			b.n++
			b.sum += float64(prob[i])
			if r, ok := rows[y]; !ok {
				rows[y] = [2]int{x, x}
			} else {
				rows[y] = [2]int{min(r[0], x), max(r[1], x)}
			}
			for dy := -1; dy <= 1; dy++ {
				for dx := -1; dx <= 1; dx++ {
					nx, ny := x+dx, y+dy
					if nx >= 0 && ny >= 0 && nx < w && ny < h && on[ny*w+nx] {
						on[ny*w+nx] = false
						stack = append(stack, ny*w+nx)
					}
				}
			}
		}
		for y, r := range rows {
			b.edge = append(b.edge, Point{float64(r[0]), float64(y)}, Point{float64(r[1] + 1), float64(y)},
				Point{float64(r[0]), float64(y + 1)}, Point{float64(r[1] + 1), float64(y + 1)})
		}
		out = append(out, b)
		if len(out) == maxRegions {
			break
		}
	}
	return out
}

// quad boxes the blob at its own angle and grows the box; false if it is too
// small or too uncertain to be text.
func (b *blob) quad(prob []float32, w, h int) (quad, bool) {
	if b.n < 6 || b.sum/float64(b.n) < boxThreshold {
		return quad{}, false
	}
	q := minRect(hull(b.edge))
	ww, hh := q.width(), q.height()
	if min(ww, hh) < 3 {
		return quad{}, false
	}
	d := ww * hh * unclipRatio / (2 * (ww + hh))
	return grow(q, d), true
}

// grow moves the sides of the rectangle outwards by d.
func grow(q quad, d float64) quad {
	w, h := max(q.width(), 1e-6), max(q.height(), 1e-6)
	u := Point{(q[1].X - q[0].X) / w * d, (q[1].Y - q[0].Y) / w * d}
	v := Point{(q[3].X - q[0].X) / h * d, (q[3].Y - q[0].Y) / h * d}
	move := func(p Point, su, sv float64) Point { return Point{p.X + su*u.X + sv*v.X, p.Y + su*u.Y + sv*v.Y} }
	return quad{move(q[0], -1, -1), move(q[1], 1, -1), move(q[2], 1, 1), move(q[3], -1, 1)}
}

// hull returns the convex hull, anticlockwise in a system with y upwards.
func hull(pts []Point) []Point {
	slices.SortFunc(pts, func(a, b Point) int {
		switch {
		case a.X < b.X || a.X == b.X && a.Y < b.Y:
			return -1
		case a == b:
			return 0
		}
		return 1
	})
	cross := func(o, a, b Point) float64 { return (a.X-o.X)*(b.Y-o.Y) - (a.Y-o.Y)*(b.X-o.X) }
	half := func(pts []Point) []Point {
		var out []Point
		for _, p := range pts {
			for len(out) >= 2 && cross(out[len(out)-2], out[len(out)-1], p) <= 0 {
				out = out[:len(out)-1]
			}
			out = append(out, p)
		}
		return out
	}
	low := half(pts)
	slices.Reverse(pts)
	high := half(pts)
	return append(low[:len(low)-1], high[:len(high)-1]...)
}

// minRect returns the smallest rectangle round a convex polygon, its corners
// clockwise from the one nearest to the top left, its first side the more level one.
func minRect(poly []Point) quad {
	var best quad
	area := math.Inf(1)
	for i := range poly {
		a, b := poly[i], poly[(i+1)%len(poly)]
		l := math.Hypot(b.X-a.X, b.Y-a.Y)
		if l == 0 {
			continue
		}
		u := Point{(b.X - a.X) / l, (b.Y - a.Y) / l}
		// Level sides: turn the axes by quarters until u points right.
		for k := 0; k < 4 && (u.X <= 0 || math.Abs(u.Y) > u.X); k++ {
			u = Point{-u.Y, u.X}
		}
		v := Point{-u.Y, u.X}
		lu, hu, lv, hv := math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
		for _, p := range poly {
			pu, pv := p.X*u.X+p.Y*u.Y, p.X*v.X+p.Y*v.Y
			lu, hu, lv, hv = min(lu, pu), max(hu, pu), min(lv, pv), max(hv, pv)
		}
		// Prefer upright boxes unless a turned one is clearly smaller.
		s := (hu - lu) * (hv - lv)
		if math.Abs(u.Y) > 0.02 {
			s *= 1.02
		}
		if s < area {
			area = s
			at := func(a, b float64) Point { return Point{a*u.X + b*v.X, a*u.Y + b*v.Y} }
			best = quad{at(lu, lv), at(hu, lv), at(hu, hv), at(lu, hv)}
		}
	}
	return best
}

// lying reports whether most lines run up or down the picture.
func lying(qs []quad) bool {
	tall, n := 0.0, 0.0
	for _, q := range qs {
		w, h := q.width(), q.height()
		if max(w, h) < 2*min(w, h) {
			continue
		}
		n += max(w, h)
		if h > w {
			tall += h
		}
	}
	return n > 0 && tall > 0.7*n
}
