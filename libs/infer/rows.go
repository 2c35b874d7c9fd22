package infer

// layout places running requests on the rows of the cache. A run needs the rows of its group side
// by side, so groups lie one after the other, and at most one row of each later group moves when a
// request joins or leaves. The move copies that row's cache.
type layout struct {
	rows  []*stream
	start [groups + 1]int // group g holds rows [start[g], start[g+1])
	cache rowCache
}

// rowCache holds the cache of every row. move copies the first tokens of a row; save and restore
// set one row aside while others move over it. read copies the first tokens out of a row, and write copies the
// first tokens of what was read, held of them, into one.
type rowCache interface {
	move(from, to, tokens int)
	save(row, tokens int)
	restore(row int)
	read(row, tokens int) []float32
	write(row, tokens int, data []float32, held int)
}

// groups are the kinds of request that cannot share a run, and the requests still in prefill at the end. A request moves to
// earlier groups only: from prefill, and from short to long.
const (
	long = iota
	short
	prefilling
	groups
)

func newLayout(rows int, cache rowCache) *layout {
	return &layout{rows: make([]*stream, rows), cache: cache}
}

func (l *layout) used() int { return l.start[groups] }
func (l *layout) free() int { return len(l.rows) - l.used() }

// group returns the requests of group g and the row of the first.
func (l *layout) group(g int) (streams []*stream, row int) {
	return l.rows[l.start[g]:l.start[g+1]], l.start[g]
}

// add gives s a row at the end of group g. A row must be free.
func (l *layout) add(s *stream, g int) {
	hole := l.used()
	for k := groups - 1; k > g; k-- { // open a gap: the first row of each later group goes to its end
		if first := l.start[k]; first < hole {
			l.shift(first, hole)
			hole = first
		}
	}
	l.rows[hole], s.row, s.group = s, hole, g
	for k := g + 1; k <= groups; k++ {
		l.start[k]++
	}
}

// remove takes s off its row and closes the gap.
func (l *layout) remove(s *stream) {
	hole := s.row
	for k := s.group; k < groups; k++ {
		if last := l.start[k+1] - 1; last >= l.start[k] && last > hole {
			l.shift(last, hole)
			hole = last
		}
	}
	l.rows[hole] = nil
	for k := s.group + 1; k <= groups; k++ {
		l.start[k]--
	}
	s.row = -1
}

// change moves s, with its cache, to the end of an earlier group g.
func (l *layout) change(s *stream, g int) {
	hole := s.row
	for k := s.group; k > g; k-- { // the first row of each group on the way steps to that group's end
		if first := l.start[k]; first != hole {
			if hole == s.row {
				l.cache.save(hole, s.cached)
			}
			l.shift(first, hole)
			hole = first
		}
		l.start[k]++
	}
	if hole != s.row {
		l.cache.restore(hole)
	}
	l.rows[hole], s.row, s.group = s, hole, g
}

func (l *layout) shift(from, to int) {
	l.cache.move(from, to, l.rows[from].cached)
	l.rows[to], l.rows[from] = l.rows[from], nil
	l.rows[to].row = to
}
