package ocr

import (
	"image"
	"math"
)

// pixmap is an RGB picture, 3 bytes a pixel.
type pixmap struct {
	w, h int
	pix  []uint8
}

func newPixmap(img image.Image) *pixmap {
	b := img.Bounds()
	p := &pixmap{b.Dx(), b.Dy(), make([]uint8, 3*b.Dx()*b.Dy())}
	switch m := img.(type) {
	case *image.RGBA:
		for y := range p.h {
			src := m.Pix[m.PixOffset(b.Min.X, b.Min.Y+y):]
			dst := p.pix[3*y*p.w:]
			for x := range p.w {
				copy(dst[3*x:3*x+3], src[4*x:4*x+3])
			}
		}
	case *image.Gray:
		for y := range p.h {
			src := m.Pix[m.PixOffset(b.Min.X, b.Min.Y+y):]
			dst := p.pix[3*y*p.w:]
			for x := range p.w {
				dst[3*x], dst[3*x+1], dst[3*x+2] = src[x], src[x], src[x]
			}
		}
	default:
		i := 0
		for y := b.Min.Y; y < b.Max.Y; y++ {
			for x := b.Min.X; x < b.Max.X; x++ {
				r, g, bl, a := img.At(x, y).RGBA()
				// On white: RGBA is premultiplied.
				white := 0xFFFF - a
				p.pix[i], p.pix[i+1], p.pix[i+2] = uint8((r+white)>>8), uint8((g+white)>>8), uint8((bl+white)>>8)
				i += 3
			}
		}
	}
	return p
}

// turned returns the picture turned a quarter anticlockwise: what was at
// (x, y) is at (y, w-x), so a place (X, Y) of the result was at (w-Y, X).
func (p *pixmap) turned() *pixmap {
	q := &pixmap{p.h, p.w, make([]uint8, len(p.pix))}
	for y := range p.h {
		for x := range p.w {
			src, dst := 3*(y*p.w+x), 3*((p.w-1-x)*q.w+y)
			copy(q.pix[dst:dst+3], p.pix[src:src+3])
		}
	}
	return q
}

// at samples between pixels, those beyond the edge as the edge, and adds the
// three colours to sum.
func (p *pixmap) at(x, y float64, sum *[3]float32) {
	x, y = min(max(x-0.5, 0), float64(p.w-1)), min(max(y-0.5, 0), float64(p.h-1))
	x0, y0 := int(x), int(y)
	x1, y1 := min(x0+1, p.w-1), min(y0+1, p.h-1)
	fx, fy := float32(x-float64(x0)), float32(y-float64(y0))
	a, b := p.pix[3*(y0*p.w+x0):][:3], p.pix[3*(y0*p.w+x1):][:3]
	c, d := p.pix[3*(y1*p.w+x0):][:3], p.pix[3*(y1*p.w+x1):][:3]
	wa, wb, wc, wd := (1-fx)*(1-fy), fx*(1-fy), (1-fx)*fy, fx*fy
	for k := range 3 {
		sum[k] += float32(a[k])*wa + float32(b[k])*wb + float32(c[k])*wc + float32(d[k])*wd
	}
}

// tensor samples the quadrilateral into out, [3, h, w] in the order blue,
// green, red, each value from -1 to 1, at width w of rows that are stride long.
// A sample covers several pixels where the picture is made smaller.
func (p *pixmap) tensor(out []float32, q quad, w, h, stride int) {
	ux, uy := (q[1].X-q[0].X)/float64(w), (q[1].Y-q[0].Y)/float64(w)
	vx, vy := (q[3].X-q[0].X)/float64(h), (q[3].Y-q[0].Y)/float64(h)
	// Points per sample in each direction.
	n := func(dx, dy float64) int { return min(max(int(math.Round(math.Hypot(dx, dy))), 1), 4) }
	nu, nv := n(ux, uy), n(vx, vy)
	scale := 1 / (127.5 * float32(nu*nv))
	for y := range h {
		for x := range w {
			var sum [3]float32
			for j := range nv {
				for i := range nu {
					u := float64(x) + (float64(i)+0.5)/float64(nu)
					v := float64(y) + (float64(j)+0.5)/float64(nv)
					p.at(q[0].X+u*ux+v*vx, q[0].Y+u*uy+v*vy, &sum)
				}
			}
			for c := range 3 {
				out[(2-c)*stride*h+y*stride+x] = sum[c]*scale - 1
			}
		}
	}
}

// quad is four corners, clockwise from the top left of its text.
type quad [4]Point

func (q quad) width() float64  { return math.Hypot(q[1].X-q[0].X, q[1].Y-q[0].Y) }
func (q quad) height() float64 { return math.Hypot(q[3].X-q[0].X, q[3].Y-q[0].Y) }
