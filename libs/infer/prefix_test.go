package infer

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/clara-suite/clara/libs/clara"
)

// tape is a cache that notes what is read and written.
type tape struct {
	fakeCache
	wrote []int
}

func (c *tape) read(_, tokens int) []float32            { return make([]float32, tokens) }
func (c *tape) write(_, tokens int, _ []float32, _ int) { c.wrote = append(c.wrote, tokens) }

func numbers(from, n int32) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = from + int32(i)
	}
	return ids
}

func TestPrefixes(t *testing.T) {
	c := &tape{}
	p := newPrefixes(c, 1, 60)
	request := func(adapter bool, parts ...[]int32) *stream {
		s := &stream{adapter: adapter}
		for _, x := range parts {
			s.prompt.IDs = append(s.prompt.IDs, x...)
		}
		return s
	}
	ask := func(s *stream) int {
		n := p.fill(s)
		p.learn(s)
		return n
	}
	head := numbers(0, 20)
	assert.Zero(t, ask(request(true, head, numbers(100, 9))))
	assert.Zero(t, ask(request(true, head, numbers(200, 9))), "what it shares is known only now")
	assert.Equal(t, 20, ask(request(true, head, numbers(300, 9))))
	assert.Equal(t, 12, ask(request(true, head[:12], numbers(300, 9))), "a part of what is kept")
	assert.Zero(t, ask(request(false, head, numbers(300, 9))), "without the adapter keys and values are others")
	assert.Equal(t, 19, ask(request(true, head)), "the last token is run for its logits")
	assert.Zero(t, ask(request(true, head[:7], numbers(300, 9))), "too short to be worth it")

	slot := request(true, head, numbers(300, 9))
	slot.prompt.Slots = []Slot{{At: 10, Memory: clara.Memory{M: 2}}}
	assert.Equal(t, 10, ask(slot), "memories are no text")

	longer := append(numbers(0, 20), numbers(400, 15)...)
	assert.Equal(t, 20, ask(request(true, longer, numbers(500, 3))))
	assert.Equal(t, 20, ask(request(true, longer, numbers(600, 3))))
	assert.Equal(t, 35, ask(request(true, longer, numbers(700, 3))))
	assert.Equal(t, 20, ask(request(true, head, numbers(800, 3))), "the longer one holds the shorter one")
	assert.Len(t, p.kept, 1)

	other := numbers(1000, 40)
	ask(request(true, other, numbers(1, 1)))
	ask(request(true, other, numbers(2, 1)))
	assert.Len(t, p.kept, 1, "there is room for 60 tokens")
	assert.Equal(t, 40, ask(request(true, other, numbers(3, 1))))
	assert.Equal(t, []int{20, 12, 19, 10, 20, 20, 35, 20, 40}, c.wrote)

	huge := numbers(2000, 500)
	ask(request(true, huge))
	ask(request(true, huge))
	assert.Equal(t, 60, ask(request(true, huge)), "as much as there is room for")
}
