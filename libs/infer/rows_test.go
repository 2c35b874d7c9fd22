package infer

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fakeCache is a cache whose rows hold the request they belong to.
type fakeCache struct {
	owner []*stream
	aside *stream
	moves int
}

func (f *fakeCache) move(from, to, tokens int) {
	f.owner[to] = f.owner[from]
	f.moves++
	if tokens != f.owner[from].cached {
		panic("wrong number of tokens")
	}
}
func (f *fakeCache) save(row, _ int) { f.aside = f.owner[row] }
func (f *fakeCache) restore(row int) { f.owner[row] = f.aside }

func (f *fakeCache) read(row, tokens int) []float32            { return nil }
func (f *fakeCache) write(row, tokens int, _ []float32, _ int) {}

// TestLayout lets requests come, change group and go at random: rows of a group stay together, every
// request keeps its cache, and no step moves more rows than there are groups.
func TestLayout(t *testing.T) {
	const n = 9
	r := rand.New(rand.NewPCG(1, 1))
	c := &fakeCache{owner: make([]*stream, n)}
	l := newLayout(n, c)
	live := map[*stream]bool{}
	pick := func() *stream {
		k := r.IntN(len(live))
		for row := range l.used() {
			if k == 0 {
				return l.rows[row]
			}
			k--
		}
		return nil
	}
	for range 20000 {
		c.moves = 0
		switch op := r.IntN(3); {
		case op == 0 && l.free() > 0:
			s := &stream{cached: r.IntN(100)}
			l.add(s, r.IntN(groups))
			c.owner[s.row] = s
			live[s] = true
		case op == 1 && len(live) > 0:
			s := pick()
			l.remove(s)
			delete(live, s)
			assert.Equal(t, -1, s.row)
		case op == 2 && len(live) > 0:
			if s := pick(); s.group > 0 {
				l.change(s, r.IntN(s.group))
			}
		}
		require.LessOrEqual(t, c.moves, groups)
		require.Equal(t, len(live), l.used())
		for g := range groups {
			list, row := l.group(g)
			for i, s := range list {
				require.True(t, live[s])
				require.Equal(t, row+i, s.row)
				require.Equal(t, g, s.group)
				require.Same(t, s, c.owner[s.row], "cache of another request")
			}
		}
	}
}
