package cli

import (
	"bytes"
	"fmt"
	"html"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"math"
	"strings"

	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"
	"golang.org/x/image/vector"
)

// Series is a curve: Y over X, in the order of X.
type Series struct {
	Label string
	X, Y  []float64
}

// Plot is a picture of curves. Each is drawn twice where it is smoothed: as it is, pale, and smoothed.
type Plot struct {
	Title, X string
	Series   []Series
	Smooth   float64 // weight of the past, 0 to 1; 0: not smoothed
	Log      bool    // logarithmic Y; values that are not positive are left out
}

// Size of a picture, in pixels, and its margins.
const (
	plotWidth, plotHeight                            = 900, 520
	marginLeft, marginRight, marginTop, marginBottom = 70, 20, 40, 50
)

// palette tells up to eight curves apart, for colour-blind readers too.
var palette = [...]color.RGBA{
	{0x00, 0x72, 0xb2, 0xff}, {0xd5, 0x5e, 0x00, 0xff}, {0x00, 0x9e, 0x73, 0xff}, {0xcc, 0x79, 0xa7, 0xff},
	{0xe6, 0x9f, 0x00, 0xff}, {0x56, 0xb4, 0xe9, 0xff}, {0x66, 0x66, 0x66, 0xff}, {0x99, 0x33, 0x33, 0xff},
}

// frame maps values to pixels.
type frame struct{ x0, x1, y0, y1 float64 }

func (p Plot) value(y float64) float64 {
	if p.Log {
		return math.Log10(y)
	}
	return y
}

func (p Plot) usable(y float64) bool {
	return !math.IsNaN(y) && !math.IsInf(y, 0) && (!p.Log || y > 0)
}

func (p Plot) frame() frame {
	f := frame{math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)}
	for _, s := range p.Series {
		for i, y := range s.Y {
			if p.usable(y) {
				f.x0, f.x1 = min(f.x0, s.X[i]), max(f.x1, s.X[i])
				f.y0, f.y1 = min(f.y0, p.value(y)), max(f.y1, p.value(y))
			}
		}
	}
	if f.x0 > f.x1 {
		f = frame{0, 1, 0, 1}
	}
	if f.x1 == f.x0 {
		f.x1 = f.x0 + 1
	}
	if f.y1-f.y0 < 1e-9 {
		f.y0, f.y1 = f.y0-0.5, f.y1+0.5
	}
	pad := 0.05 * (f.y1 - f.y0)
	f.y0, f.y1 = f.y0-pad, f.y1+pad
	return f
}

func (f frame) at(x, y float64) (float64, float64) {
	return marginLeft + (x-f.x0)/(f.x1-f.x0)*(plotWidth-marginLeft-marginRight),
		plotHeight - marginBottom - (y-f.y0)/(f.y1-f.y0)*(plotHeight-marginTop-marginBottom)
}

// ticks are round numbers between two, about six of them, at least least apart.
func ticks(low, high, least float64) []float64 {
	step := math.Pow(10, math.Floor(math.Log10((high-low)/6)))
	for _, m := range []float64{1, 2, 5, 10} {
		if (high-low)/(step*m) <= 7 {
			step *= m
			break
		}
	}
	step = max(step, least)
	var out []float64
	for v := math.Ceil(low/step) * step; v <= high+step*1e-9; v += step {
		out = append(out, v)
	}
	return out
}

func (p Plot) label(y float64) string {
	if p.Log {
		y = math.Pow(10, y)
	}
	return fmt.Sprintf("%.3g", y)
}

// curve is a polyline in pixels.
type curve struct {
	points [][2]float64
	color  color.RGBA
	pale   bool
}

func (p Plot) curves(f frame) []curve {
	var out []curve
	for i, s := range p.Series {
		c := palette[i%len(palette)]
		raw := curve{color: c, pale: p.Smooth > 0}
		smooth := curve{color: c}
		mean, weight := 0.0, 0.0
		for j, y := range s.Y {
			if !p.usable(y) {
				continue
			}
			px, py := f.at(s.X[j], p.value(y))
			raw.points = append(raw.points, [2]float64{px, py})
			// Divided by the weights so far, so that the beginning is not drawn to zero.
			mean, weight = p.Smooth*mean+(1-p.Smooth)*y, p.Smooth*weight+(1-p.Smooth)
			px, py = f.at(s.X[j], p.value(mean/weight))
			smooth.points = append(smooth.points, [2]float64{px, py})
		}
		out = append(out, raw)
		if p.Smooth > 0 {
			out = append(out, smooth)
		}
	}
	return out
}

// SVG is the picture as SVG.
func (p Plot) SVG() []byte {
	f := p.frame()
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="#fff"/><text x="%d" y="24" font-size="16">%s</text>`+"\n", marginLeft, html.EscapeString(p.Title))
	for _, t := range ticks(f.y0, f.y1, 0) {
		_, y := f.at(f.x0, t)
		fmt.Fprintf(&b, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", marginLeft, y, plotWidth-marginRight, marginLeft-8, y+4, p.label(t))
	}
	for _, t := range ticks(f.x0, f.x1, 1) {
		x, _ := f.at(t, f.y0)
		fmt.Fprintf(&b, `<path d="M%.1f %dV%d" stroke="#eee"/><text x="%.1f" y="%d" text-anchor="middle">%.6g</text>`+"\n", x, marginTop, plotHeight-marginBottom, x, plotHeight-marginBottom+18, t)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", plotWidth/2, plotHeight-10, html.EscapeString(p.X))
	for _, c := range p.curves(f) {
		opacity := 1.0
		if c.pale {
			opacity = 0.25
		}
		fmt.Fprintf(&b, `<polyline fill="none" stroke="#%02x%02x%02x" stroke-width="1.5" opacity="%g" points="`, c.color.R, c.color.G, c.color.B, opacity)
		for _, q := range c.points {
			fmt.Fprintf(&b, "%.1f,%.1f ", q[0], q[1])
		}
		b.WriteString("\"/>\n")
	}
	for i, s := range p.Series {
		c := palette[i%len(palette)]
		y := marginTop + 8 + 18*i
		fmt.Fprintf(&b, `<path d="M%d %dh20" stroke="#%02x%02x%02x" stroke-width="3"/><text x="%d" y="%d">%s</text>`+"\n", plotWidth-230, y, c.R, c.G, c.B, plotWidth-202, y+4, html.EscapeString(s.Label))
	}
	b.WriteString("</svg>\n")
	return []byte(b.String())
}

// PNG is the picture as PNG.
func (p Plot) PNG() ([]byte, error) {
	f := p.frame()
	img := image.NewRGBA(image.Rect(0, 0, plotWidth, plotHeight))
	draw.Draw(img, img.Bounds(), image.White, image.Point{}, draw.Src)
	grey := color.RGBA{0xdd, 0xdd, 0xdd, 0xff}
	for _, t := range ticks(f.y0, f.y1, 0) {
		_, y := f.at(f.x0, t)
		stroke(img, [][2]float64{{marginLeft, y}, {plotWidth - marginRight, y}}, 1, grey)
		write(img, marginLeft-8-7*len(p.label(t)), int(y)+4, p.label(t))
	}
	for _, t := range ticks(f.x0, f.x1, 1) {
		x, _ := f.at(t, f.y0)
		stroke(img, [][2]float64{{x, marginTop}, {x, plotHeight - marginBottom}}, 1, grey)
		s := fmt.Sprintf("%.6g", t)
		write(img, int(x)-len(s)*7/2, plotHeight-marginBottom+18, s)
	}
	write(img, marginLeft, 24, p.Title)
	write(img, plotWidth/2, plotHeight-10, p.X)
	for _, c := range p.curves(f) {
		k := c.color
		if c.pale {
			k = color.RGBA{k.R / 4, k.G / 4, k.B / 4, 0x40}
		}
		stroke(img, c.points, 1.5, k)
	}
	for i, s := range p.Series {
		y := marginTop + 8 + 18*i
		stroke(img, [][2]float64{{plotWidth - 230, float64(y)}, {plotWidth - 210, float64(y)}}, 3, palette[i%len(palette)])
		write(img, plotWidth-202, y+4, s.Label)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		return nil, fmt.Errorf("encode plot: %w", err)
	}
	return b.Bytes(), nil
}

// stroke draws a polyline, each piece as a thin rectangle.
func stroke(img *image.RGBA, points [][2]float64, width float64, c color.Color) {
	r := vector.NewRasterizer(plotWidth, plotHeight)
	if len(points) == 1 { // a point is a short line
		points = [][2]float64{{points[0][0] - 2, points[0][1]}, {points[0][0] + 2, points[0][1]}}
	}
	for i := 1; i < len(points); i++ {
		a, b := points[i-1], points[i]
		dx, dy := b[0]-a[0], b[1]-a[1]
		n := math.Hypot(dx, dy)
		if n == 0 {
			continue
		}
		nx, ny := -dy/n*width/2, dx/n*width/2
		r.MoveTo(float32(a[0]+nx), float32(a[1]+ny))
		r.LineTo(float32(b[0]+nx), float32(b[1]+ny))
		r.LineTo(float32(b[0]-nx), float32(b[1]-ny))
		r.LineTo(float32(a[0]-nx), float32(a[1]-ny))
		r.ClosePath()
	}
	r.Draw(img, img.Bounds(), image.NewUniform(c), image.Point{})
}

func write(img *image.RGBA, x, y int, s string) {
	d := font.Drawer{Dst: img, Src: image.Black, Face: basicfont.Face7x13, Dot: fixed.P(x, y)}
	d.DrawString(s)
}
