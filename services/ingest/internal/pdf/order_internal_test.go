package pdf

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestOrder puts the words of lines with right-to-left text in logical order.
func TestOrder(t *testing.T) {
	type piece struct {
		text   string
		x0, x1 float64
		glued  bool
	}
	for _, c := range []struct {
		name   string
		pieces []piece // from left to right
		want   string
	}{
		{"number in parts", []piece{{"%", 10, 16, false}, {"5", 16, 22, true}, {"0", 22, 28, true}, {"אבג", 31, 50, false}}, "אבג 50 %"},
		{"number with separators", []piece{{"דה", 0, 10, false}, {"47", 13, 25, false}, {".500", 25, 45, true}, {"אבג", 48, 60, false}}, "אבג 47.500 דה"},
		{"two numbers", []piece{{"דה", 0, 10, false}, {"12", 13, 25, false}, {"34", 28, 40, false}, {"אבג", 43, 60, false}}, "אבג 34 12 דה"},
		{"glued in the file, apart in the text", []piece{{"/", 10, 14, false}, {"אב", 14, 24, true}, {"גד", 27, 37, false}}, "גד אב/"},
		{"another alphabet without a space", []piece{{"אבגדהוז", 0, 10, false}, {"ferry", 10, 40, true}, {"גד", 43, 53, false}}, "גד ferry אבגדהוז"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := row{base: 10, size: 10}
			for i, p := range c.pieces {
				r.words = append(r.words, word{id: i, text: p.text, box: box{p.x0, 0, p.x1, 10}, base: 10, glued: p.glued, style: style{size: 10}})
			}
			r.finish()
			l := makeLine(&r)
			assert.Equal(t, c.want, l.text())
		})
	}
}
