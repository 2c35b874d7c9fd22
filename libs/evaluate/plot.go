package evaluate

import (
	"bytes"
	"fmt"
	"html"
	"math"
)

// plot is a histogram.
type plot struct {
	title, unit string
	low, high   float64
	bars        []int
}

// distances is how the distances of memories from their texts are spread.
func distances(name string, list []Prediction) plot {
	p := plot{title: "distance of memories from their texts: " + name, unit: "mean squared difference", bars: make([]int, 24), low: math.Inf(1), high: math.Inf(-1)}
	for _, x := range list {
		p.low, p.high = min(p.low, x.Distance), max(p.high, x.Distance)
	}
	if len(list) == 0 || p.high == p.low {
		p.low, p.high = 0, max(1e-9, 2*p.high)
	}
	for _, x := range list {
		p.bars[min(len(p.bars)-1, int(float64(len(p.bars))*(x.Distance-p.low)/(p.high-p.low)))]++
	}
	return p
}

func plotFile(i int) string { return fmt.Sprintf("distance-%d.svg", i+1) }

func (p plot) svg() []byte {
	const width, height, left, bottom, top = 640, 280, 50, 40, 30
	most := 1
	for _, n := range p.bars {
		most = max(most, n)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" font-family="sans-serif" font-size="12"><rect width="100%%" height="100%%" fill="#fff"/>`, width, height, width)
	fmt.Fprintf(&b, `<text x="%d" y="18" font-size="14">%s</text><text x="%d" y="%d" text-anchor="end">%d</text><text x="%d" y="%d" text-anchor="end">0</text>`,
		left, html.EscapeString(p.title), left-6, top+10, most, left-6, height-bottom)
	wide := float64(width-left-10) / float64(len(p.bars))
	for i, n := range p.bars {
		tall := float64(height-bottom-top) * float64(n) / float64(most)
		fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="#0072b2"/>`, left+float64(i)*wide, float64(height-bottom)-tall, wide-1, tall)
	}
	for i := range 5 {
		v := p.low + (p.high-p.low)*float64(i)/4
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%.3g</text>`, left+float64(i)/4*float64(width-left-10), height-bottom+16, v)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">%s</text></svg>`+"\n", (left+width)/2, height-8, html.EscapeString(p.unit))
	return b.Bytes()
}
