package pdf

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/clara-suite/clara/services/ingest/internal/doc"
)

// table is a grid of cells. A merged cell stands in each place that it covers.
type table struct {
	box  box
	rows [][]string
	// look is how most of its characters look, chars how many there are.
	look  style
	chars int
}

// measure notes how the words of the table look.
func (t *table) measure(words []word) {
	var looks weights[string]
	styles := map[string]style{}
	for i := range words {
		w := &words[i]
		if !t.box.contains(w.box.midX(), w.box.midY()) {
			continue
		}
		n := utf8.RuneCountInString(w.text)
		key := w.style.font + "\x00" + formatSize(w.style.size)
		looks.add(key, n)
		styles[key] = w.style
		t.chars += n
	}
	t.look = styles[looks.top()]
}

// stroke is a rule as a position and an extent along its direction.
type stroke struct{ at, from, to float64 }

const (
	touch    = 3.0 // rules nearer than this meet
	maxCells = 20_000
)

// ruledTables finds tables by their lines: closed grids, and rows between
// horizontal lines of the same length. Words turned sideways belong to cells of
// closed grids alone.
func ruledTables(s *source, words, turned []word) []*table {
	hs, vs := strokes(s.rules)
	if len(hs) == 0 {
		return nil
	}
	var out []*table
	used := make([]bool, len(hs))
	for _, c := range components(hs, vs) {
		if len(c.vs) < 2 || len(c.hs) < 2 {
			continue
		}
		t := gridTable(withShades(hs, vs, &c, s.fills), vs, c, words, turned)
		if t == nil {
			continue
		}
		for _, h := range c.hs {
			if h < len(used) {
				used[h] = true
			}
		}
		out = append(out, t)
	}
	var rest []stroke
	for i, h := range hs {
		if used[i] || slices.ContainsFunc(out, func(t *table) bool { return t.box.contains((h.from+h.to)/2, h.at) }) {
			continue
		}
		rest = append(rest, h)
	}
	for _, t := range lineTables(rest, words) {
		if !slices.ContainsFunc(out, func(o *table) bool { return o.box.overlap(t.box) > 0 }) {
			out = append(out, t)
		}
	}
	slices.SortStableFunc(out, func(a, b *table) int { return cmp.Compare(a.box.y0, b.box.y0) })
	// A table within another's box is a part of it.
	var top []*table
	for i, t := range out {
		inner := false
		for k, o := range out {
			if k != i && o.box.overlap(t.box) > 0.9*t.box.width()*t.box.height() && o.box.width()*o.box.height() > t.box.width()*t.box.height() {
				inner = true
			}
		}
		if !inner {
			top = append(top, t)
		}
	}
	return top
}

// strokes joins rules that lie on one line and touch.
func strokes(rules []rule) (hs, vs []stroke) {
	for _, r := range rules {
		if r.horizontal {
			hs = append(hs, stroke{r.box.midY(), r.box.x0, r.box.x1})
		} else {
			vs = append(vs, stroke{r.box.midX(), r.box.y0, r.box.y1})
		}
	}
	return joinStrokes(hs), joinStrokes(vs)
}

func joinStrokes(ss []stroke) []stroke {
	slices.SortFunc(ss, func(a, b stroke) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.from, b.from)) })
	var out []stroke
	for i := 0; i < len(ss); {
		j := i + 1
		for j < len(ss) && ss[j].at-ss[i].at < 2 {
			j++
		}
		group := slices.Clone(ss[i:j])
		slices.SortFunc(group, func(a, b stroke) int { return cmp.Compare(a.from, b.from) })
		cur := group[0]
		for _, g := range group[1:] {
			if g.from <= cur.to+touch {
				cur.to = max(cur.to, g.to)
			} else {
				out = append(out, cur)
				cur = g
			}
		}
		out = append(out, cur)
		i = j
	}
	return slices.DeleteFunc(out, func(s stroke) bool { return s.to-s.from < 5 })
}

// component is a set of lines that meet.
type component struct{ hs, vs []int }

func components(hs, vs []stroke) []component {
	parent := make([]int, len(hs)+len(vs))
	for i := range parent {
		parent[i] = i
	}
	var root func(int) int
	root = func(i int) int {
		for parent[i] != i {
			parent[i] = parent[parent[i]]
			i = parent[i]
		}
		return i
	}
	for j, v := range vs {
		lo, _ := slices.BinarySearchFunc(hs, v.from-touch, func(h stroke, y float64) int { return cmp.Compare(h.at, y) })
		for i := lo; i < len(hs) && hs[i].at <= v.to+touch; i++ {
			if v.at >= hs[i].from-touch && v.at <= hs[i].to+touch {
				parent[root(i)] = root(len(hs) + j)
			}
		}
	}
	byRoot := map[int]int{}
	var out []component
	for i := range parent {
		r := root(i)
		k, ok := byRoot[r]
		if !ok {
			k = len(out)
			byRoot[r] = k
			out = append(out, component{})
		}
		if i < len(hs) {
			out[k].hs = append(out[k].hs, i)
		} else {
			out[k].vs = append(out[k].vs, i-len(hs))
		}
	}
	return out
}

// cluster returns the distinct positions, those nearer than tol as one.
func cluster(v []float64, tol float64) []float64 {
	slices.Sort(v)
	var out []float64
	n := 0
	for _, x := range v {
		if k := len(out); k > 0 && x-out[k-1] < tol {
			out[k-1] += (x - out[k-1]) / float64(n+1)
			n++
			continue
		}
		out = append(out, x)
		n = 1
	}
	return out
}

// withShades returns the strokes and those that the upper and lower edges of
// shaded cells make within the component, of which they become part: a row that
// is shaded needs no line below it. Shades that end beside its vertical lines,
// such as behind words, are none.
func withShades(hs, vs []stroke, c *component, fills []box) []stroke {
	at := func(x float64) bool {
		return slices.ContainsFunc(c.vs, func(i int) bool { return math.Abs(vs[i].at-x) < touch }) ||
			slices.ContainsFunc(c.hs, func(i int) bool { return math.Abs(hs[i].from-x) < touch || math.Abs(hs[i].to-x) < touch })
	}
	top, foot := math.Inf(1), math.Inf(-1)
	for _, i := range c.vs {
		top, foot = min(top, vs[i].from), max(foot, vs[i].to)
	}
	for _, i := range c.hs {
		top, foot = min(top, hs[i].at), max(foot, hs[i].at)
	}
	grown := false
	for _, f := range fills {
		if f.y0 < top-touch || f.y1 > foot+touch || f.height() < 6 || !at(f.x0) || !at(f.x1) {
			continue
		}
		if !grown {
			hs, grown = slices.Clone(hs), true
		}
		for _, y := range []float64{f.y0, f.y1} {
			c.hs = append(c.hs, len(hs))
			hs = append(hs, stroke{y, f.x0, f.x1})
		}
		if len(c.hs) > maxShades {
			break
		}
	}
	return hs
}

// maxShades bounds how many lines one grid may have with the edges of shades.
const maxShades = 2_000

// gridTable reads a closed grid; cells without a line between them are one.
func gridTable(hs, vs []stroke, c component, words, turned []word) *table {
	var xs, ys []float64
	lo, hi, top, foot := math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
	for _, i := range c.vs {
		xs = append(xs, vs[i].at)
		top, foot = min(top, vs[i].from), max(foot, vs[i].to)
	}
	for _, i := range c.hs {
		ys = append(ys, hs[i].at)
		lo, hi = min(lo, hs[i].from), max(hi, hs[i].to)
	}
	xs, ys = cluster(xs, 4), cluster(ys, 4)
	// Open sides end where the lines across them end.
	if lo < xs[0]-8 {
		xs = slices.Insert(xs, 0, lo)
	}
	if hi > xs[len(xs)-1]+8 {
		xs = append(xs, hi)
	}
	if top < ys[0]-8 {
		ys = slices.Insert(ys, 0, top)
	}
	if foot > ys[len(ys)-1]+8 {
		ys = append(ys, foot)
	}
	nx, ny := len(xs)-1, len(ys)-1
	if nx < 1 || ny < 1 || nx*ny > maxCells || nx*ny < 2 {
		return nil
	}
	bounds := box{xs[0], ys[0], xs[nx], ys[ny]}
	cell := func(i, j int) int { return i*nx + j }
	parent := make([]int, nx*ny)
	for i := range parent {
		parent[i] = i
	}
	var root func(int) int
	root = func(i int) int {
		for parent[i] != i {
			parent[i] = parent[parent[i]]
			i = parent[i]
		}
		return i
	}
	for i := range ny {
		for j := range nx {
			if j+1 < nx && !crossed(vs, c.vs, xs[j+1], ys[i], ys[i+1]) {
				parent[root(cell(i, j))] = root(cell(i, j+1))
			}
			if i+1 < ny && !crossed(hs, c.hs, ys[i+1], xs[j], xs[j+1]) {
				parent[root(cell(i, j))] = root(cell(i+1, j))
			}
		}
	}
	// Words by merged cell.
	into := func(words []word) (held map[int][]word, total int) {
		held = make(map[int][]word)
		for _, w := range words {
			x, y := w.box.midX(), w.box.midY()
			if !bounds.contains(x, y) {
				continue
			}
			j, _ := slices.BinarySearch(xs, x)
			i, _ := slices.BinarySearch(ys, y)
			k := root(cell(min(max(i-1, 0), ny-1), min(max(j-1, 0), nx-1)))
			held[k] = append(held[k], w)
			total++
		}
		return held, total
	}
	held, total := into(words)
	if len(held) < 2 {
		return nil
	}
	most := 0
	for _, ws := range held {
		most = max(most, len(ws))
	}
	if most > 80 && most*10 > total*8 {
		return nil // a frame round text
	}
	inColumns, single := 0, 0
	for i := range ny {
		if k := root(cell(i, 0)); k == root(cell(i, nx-1)) && holdsTable(held[k]) {
			return nil // a frame of boxes, one of them with a table of its own
		}
	}
	for _, ws := range held {
		switch {
		case len(ws) > 15 && parted(ws):
			inColumns += len(ws)
		case len(ws) <= 40:
			single += len(ws)
		}
	}
	if inColumns > single {
		return nil // frames round columns of text, or round tables of their own
	}
	g := grid{bounds: bounds, xs: xs, ys: ys, root: func(i, j int) int { return root(cell(i, j)) }, held: held}
	g.turned, _ = into(turned)
	return g.table()
}

// holdsTable reports words of one cell that are a table of three columns or more.
func holdsTable(words []word) bool {
	if len(words) <= 15 {
		return false
	}
	rows := buildRows(words)
	return len(rows) >= 5 && len(columnEdges(rows, bodySize(words))) >= 2
}

// parted reports words of one cell that stand in columns of their own: rows of
// several entries, or a strip that no word crosses between lines that are not
// level.
func parted(words []word) bool {
	if rows := buildRows(words); len(rows) >= 5 && len(columnEdges(rows, bodySize(words))) > 0 {
		return true
	}
	ws := slices.Clone(words)
	slices.SortFunc(ws, func(a, b word) int { return cmp.Compare(a.box.x0, b.box.x0) })
	least := 1.5 * bodySize(words)
	columns, from, end := 0, 0, ws[0].box.x1
	for i := 1; i <= len(ws); i++ {
		if i < len(ws) && ws[i].box.x0-end < least {
			end = max(end, ws[i].box.x1)
			continue
		}
		if i-from >= 8 && len(buildRows(ws[from:i])) >= 3 {
			columns++
		}
		if i < len(ws) {
			from, end = i, ws[i].box.x1
		}
	}
	return columns >= 2
}

// crossed reports whether one of the strokes separates what lies on both
// sides of position at, between from and to.
func crossed(ss []stroke, idx []int, at, from, to float64) bool {
	covered := 0.0
	for _, i := range idx {
		if s := ss[i]; math.Abs(s.at-at) < 4 {
			covered += max(0, min(s.to, to)-max(s.from, from))
		}
	}
	return covered >= 0.5*(to-from)
}

// grid is a table's cells by position, with the words that each holds.
type grid struct {
	bounds box
	xs, ys []float64
	root   func(i, j int) int
	held   map[int][]word
	turned map[int][]word // those that read upwards or downwards
}

func (g *grid) table() *table {
	nx, ny := len(g.xs)-1, len(g.ys)-1
	t := &table{box: g.bounds}
	texts := make(map[int]string, len(g.held))
	for k, ws := range g.held {
		texts[k] = cellText(ws)
	}
	for k, ws := range g.turned {
		texts[k] = strings.TrimSpace(texts[k] + " " + cellText(levelled(ws)))
	}
	// Leave out the rows and columns that hold nothing of their own.
	colUsed := make([]bool, nx)
	owner := func(i, j int) bool { // the cell's first place
		r := g.root(i, j)
		return (i == 0 || g.root(i-1, j) != r) && (j == 0 || g.root(i, j-1) != r)
	}
	narrow := make([]bool, nx)
	for j := range nx {
		narrow[j] = g.xs[j+1]-g.xs[j] < 6
		for i := range ny {
			if owner(i, j) && texts[g.root(i, j)] != "" {
				colUsed[j] = true
			}
		}
	}
	keptCols := 0
	for j := range nx {
		// An empty column of some width is part of the form.
		if !colUsed[j] && !narrow[j] && ny > 1 && g.emptyColumn(j) {
			colUsed[j] = true
		}
		if colUsed[j] {
			keptCols++
		}
	}
	for i := range ny {
		if g.ys[i+1]-g.ys[i] < 4 {
			continue
		}
		var r []string
		used := false
		for j := range nx {
			if !colUsed[j] {
				continue
			}
			k := g.root(i, j)
			r = append(r, texts[k])
			used = used || texts[k] != "" && (i == 0 || g.root(i-1, j) != k)
		}
		if !used {
			continue
		}
		if split := g.splitRow(i, colUsed); split != nil {
			t.rows = append(t.rows, split...)
			continue
		}
		t.rows = append(t.rows, r)
	}
	if len(t.rows) == 0 || keptCols < 1 || len(t.rows) < 2 && keptCols < 2 {
		return nil
	}
	if keptCols == 1 {
		// One column: a frame with lines, unless spacing shows more.
		var ws []word
		for _, h := range g.held {
			ws = append(ws, h...)
		}
		return spacedTable(ws, g.bounds, g.ys, cellTexts{})
	}
	return t
}

func (g *grid) emptyColumn(j int) bool {
	n := 0
	for i := range len(g.ys) - 1 {
		if (j == 0 || g.root(i, j-1) != g.root(i, j)) && (j+2 >= len(g.xs) || g.root(i, j+1) != g.root(i, j)) {
			n++
		}
	}
	return n*2 > len(g.ys)-1
}

// splitRow cuts a row of the grid into rows of text where only the columns
// have lines between them: many short entries, on shared baselines.
func (g *grid) splitRow(i int, colUsed []bool) [][]string {
	var ws []word
	for j, used := range colUsed {
		if !used {
			continue
		}
		k := g.root(i, j)
		if len(g.turned[k]) > 0 || i > 0 && g.root(i-1, j) == k || i+2 < len(g.ys) && g.root(i+1, j) == k || j > 0 && g.root(i, j-1) == k {
			return nil
		}
		ws = append(ws, g.held[k]...)
	}
	rows := buildRows(ws)
	if len(rows) < 3 {
		return nil
	}
	var out [][]string
	filled, total, wide := 0, 0, 0
	for r := range rows {
		var cells []string
		for j, used := range colUsed {
			if !used {
				continue
			}
			var in []word
			for _, w := range rows[r].words {
				if w.box.midX() >= g.xs[j] && w.box.midX() < g.xs[j+1] {
					in = append(in, w)
				}
			}
			total++
			text := cellText(in)
			cells = append(cells, text)
			if text != "" {
				filled++
				if in[len(in)-1].box.x1-in[0].box.x0 > 0.75*(g.xs[j+1]-g.xs[j]) {
					wide++
				}
			}
		}
		out = append(out, cells)
	}
	if filled*10 < total*7 || wide*3 > filled {
		return nil
	}
	return out
}

// cellText returns the words of a cell as one line of Markdown.
func cellText(ws []word) string {
	if len(ws) == 0 {
		return ""
	}
	rows := buildRows(ws)
	b := block{lines: make([]*line, len(rows))}
	for i := range rows {
		l := makeLine(&rows[i])
		b.lines[i] = &l
	}
	return b.joined(doc.EscapeInline)
}

// cellTexts holds texts of cells: the same rows are tried as parts of many tables.
type cellTexts map[cellWords]string

// cellWords are the words of a cell: their first, last, number, and sum of places.
type cellWords struct{ first, last, n, sum int }

// of is cellText.
func (known cellTexts) of(ws []word) string {
	if len(ws) == 0 {
		return ""
	}
	key := cellWords{first: ws[0].id, last: ws[len(ws)-1].id, n: len(ws)}
	for i := range ws {
		key.sum += ws[i].id
	}
	text, ok := known[key]
	if !ok {
		text = cellText(ws)
		known[key] = text
	}
	return text
}

// withoutTables returns the words that no table holds.
func withoutTables(words []word, tables []*table) []word {
	if len(tables) == 0 {
		return words
	}
	out := words[:0:0]
	for _, w := range words {
		if !slices.ContainsFunc(tables, func(t *table) bool { return t.box.contains(w.box.midX(), w.box.midY()) }) {
			out = append(out, w)
		}
	}
	return out
}

// lineTables finds tables set between horizontal lines alone.
func lineTables(hs []stroke, words []word) []*table {
	var out []*table
	known := cellTexts{}
	taken := make([]bool, len(hs))
	for i := range hs {
		if taken[i] || hs[i].to-hs[i].from < 60 {
			continue
		}
		group := []int{i}
		for k := i + 1; k < len(hs); k++ {
			if !taken[k] && math.Abs(hs[k].from-hs[i].from) < 6 && math.Abs(hs[k].to-hs[i].to) < 6 {
				group = append(group, k)
			}
		}
		// The longest prefix of lines that bounds a table.
		for len(group) >= 2 {
			last := group[len(group)-1]
			b := box{hs[i].from - 2, hs[i].at, hs[i].to + 2, hs[last].at}
			ys := make([]float64, len(group))
			for k, g := range group {
				ys[k] = hs[g].at
			}
			var in []word
			for _, w := range words {
				if b.contains(w.box.midX(), w.box.midY()) {
					in = append(in, w)
				}
			}
			if t := spacedTable(in, b, ys, known); t != nil {
				out = append(out, t)
				for _, g := range group {
					taken[g] = true
				}
				break
			}
			group = group[:len(group)-1]
		}
	}
	return out
}

// spacedTable reads a table whose columns only spacing shows. ys are the
// horizontal lines across it, from its top to its foot; nil if there are none.
// It returns nil if the words look like no table.
func spacedTable(words []word, bounds box, ys []float64, known cellTexts) *table {
	rows := buildRows(words)
	if len(rows) < 2 {
		return nil
	}
	body := bodySize(words)
	for len(ys) >= 3 && rows[0].box.midY() > ys[1] {
		ys = ys[1:] // nothing between the line of the page's head and the table's
		bounds.y0 = ys[0]
	}
	head := 0 // rows above the second line
	if len(ys) >= 3 {
		for head < len(rows) && rows[head].box.midY() < ys[1] {
			head++
		}
		if head > 5 || head >= len(rows) {
			head = 0
		}
	}
	if len(ys) >= 2 && rows[0].box.y0-ys[0] > 4*body {
		return nil
	}
	if mostlyLeaders(rows) {
		return nil // contents between the lines of the page's head and foot
	}
	if len(ys) >= 4 && textBetween(rows, ys, body) {
		return nil
	}
	strips := columnEdges(rows[head:], body)
	if len(strips) < 1 && head > 0 {
		strips = headEdges(rows, head, body)
	}
	if len(strips) < 1 {
		return nil
	}
	cols := make([]float64, len(strips))
	for i, s := range strips {
		cols[i] = clearest(s, rows[max(head-1, 0):head])
	}
	if isProse(rows, cols, bounds) || head > 0 && allCross(rows[:head], cols, body) {
		return nil
	}
	edges := append(append([]float64{bounds.x0}, cols...), bounds.x1)
	var cells []tableRow
	for i := range rows {
		cells = append(cells, cutRow(&rows[i], edges, body, known))
	}
	if len(ys) < 2 && len(cells) < 3 && len(cols) < 2 {
		return nil
	}
	t := &table{box: bounds}
	if len(ys) < 2 {
		t.box = rows[0].box
		for i := range rows {
			t.box = t.box.union(rows[i].box)
		}
	}
	ruled := len(ys) >= 4 && (len(ys)-1)*2 >= len(rows)-head
	t.rows = append(t.rows, headRows(cells[:head])...)
	t.rows = append(t.rows, bodyRows(rows[head:], cells[head:], edges, ys, ruled)...)
	full, places := 0, 0
	for _, r := range t.rows {
		for _, c := range r {
			places++
			if c != "" {
				full++
			}
		}
	}
	if len(t.rows) < 2 || full*100 < places*45 || len(ys) == 2 && !likelyTable(t) {
		return nil
	}
	return t
}

// textBetween reports rows between two of a table's lines that are no part of
// it, as text between two tables or above the line of the page's foot: several,
// none of them in more than one piece.
func textBetween(rows []row, ys []float64, body float64) bool {
	for k := range len(ys) - 1 {
		least := 3
		if k == len(ys)-2 {
			least = 2
		}
		n := 0
		for i := range rows {
			if y := rows[i].box.midY(); y < ys[k] || y > ys[k+1] {
				continue
			}
			parts := segments(&rows[i], body)
			if len(parts) > 1 && lonelyBullet.MatchString(parts[0].words[0].text+"x") {
				parts = parts[1:]
			}
			if len(parts) > 1 || rows[i].box.x0 > rows[0].box.x0+4*body {
				n = 0
				break
			}
			n++
		}
		if n >= least {
			return true
		}
	}
	return false
}

// clearest returns the x within the strip that the fewest words of the rows cover.
func clearest(s interval, rows []row) float64 {
	best, bestN, bestFrom, bestTo := (s.x0+s.x1)/2, math.MaxInt, 0.0, 0.0
	for x := s.x0; x <= s.x1; x++ {
		n := 0
		for i := range rows {
			for k := range rows[i].words {
				if b := rows[i].words[k].box; b.x0-0.5 < x && x < b.x1+0.5 {
					n++
				}
			}
		}
		switch {
		case n < bestN:
			bestN, bestFrom, bestTo = n, x, x
		case n == bestN && x-bestTo <= 1:
			bestTo = x
		default:
			continue
		}
		best = (bestFrom + bestTo) / 2
	}
	return best
}

// columnEdges returns the strips that nearly no row crosses.
func columnEdges(rows []row, body float64) []interval {
	lo, hi := math.Inf(1), math.Inf(-1)
	for i := range rows {
		lo, hi = min(lo, rows[i].box.x0), max(hi, rows[i].box.x1)
	}
	n := int(hi-lo) + 2
	if n < 10 || n > 20_000 {
		return nil
	}
	count := make([]int, n)
	several := 0
	for i := range rows {
		segs := segments(&rows[i], body)
		if len(segs) > 1 {
			several++
		}
		for _, s := range segs {
			for x := max(int(s.x0-lo+0.5), 0); x < min(int(s.x1-lo+0.5), n); x++ {
				count[x]++
			}
		}
	}
	if several < 2 || several*2 < len(rows) {
		return nil
	}
	spare := len(rows) / 8 // rows that may span columns
	least := max(3, int(0.45*body))
	var out []interval
	for x := 0; x < n; {
		if count[x] > spare {
			x++
			continue
		}
		e := x
		for e < n && count[e] <= spare {
			e++
		}
		if x > 0 && e < n && e-x >= least {
			out = append(out, interval{lo + float64(x), lo + float64(e)})
		}
		x = e
	}
	return out
}

// headEdges returns the strips of a table whose head, between two lines, shows
// its columns while most rows of text go on a cell: strips that no row crosses
// and that part the head in as many cells.
func headEdges(rows []row, head int, body float64) []interval {
	lo, hi := math.Inf(1), math.Inf(-1)
	for i := range rows {
		lo, hi = min(lo, rows[i].box.x0), max(hi, rows[i].box.x1)
	}
	strips := []interval{{lo, hi}}
	for i := range rows {
		var next []interval
		for _, s := range strips {
			at := s.x0
			for _, g := range segments(&rows[i], body) {
				if g.x0 > at {
					next = append(next, interval{at, min(g.x0, s.x1)})
				}
				if at = max(at, g.x1); at >= s.x1 {
					break
				}
			}
			if at < s.x1 {
				next = append(next, interval{at, s.x1})
			}
		}
		strips = slices.DeleteFunc(next, func(s interval) bool { return s.x1-s.x0 < max(3, 0.45*body) })
		if len(strips) > maxStrips {
			return nil
		}
	}
	// Each column has a cell in the head.
	inHead := func(a, b float64) bool {
		return slices.ContainsFunc(rows[:head], func(r row) bool {
			return slices.ContainsFunc(r.words, func(w word) bool { return w.box.midX() > a && w.box.midX() < b })
		})
	}
	from := lo
	inner := strips[:0]
	for _, s := range strips {
		if s.x0 <= lo || s.x1 >= hi {
			continue
		}
		if !inHead(from-1, s.x0) {
			return nil
		}
		from = s.x1
		inner = append(inner, s)
	}
	if !inHead(from, hi+1) {
		return nil
	}
	return inner
}

const maxStrips = 64

// allCross reports rows that all run over all columns: text above a table,
// between a line of the page's and the table's own.
func allCross(rows []row, cols []float64, body float64) bool {
	for i := range rows {
		g := segments(&rows[i], body)
		if len(g) != 1 || g[0].x0 > cols[0] || g[0].x1 < cols[len(cols)-1] {
			return false
		}
	}
	return true
}

// mostlyLeaders reports rows of contents: dots lead from titles to page numbers.
func mostlyLeaders(rows []row) bool {
	n := 0
	for i := range rows {
		dots := 0
		for k := range rows[i].words {
			if t := rows[i].words[k].text; strings.Trim(t, ".·…") == "" {
				dots += len(t)
			}
		}
		if dots >= 5 {
			n++
		}
	}
	return n*3 > len(rows)
}

// segment is a part of a row without a wide space.
type segment struct {
	interval
	words []word
}

func segments(r *row, body float64) []segment {
	var out []segment
	for _, w := range r.words {
		n := len(out)
		if n > 0 && w.box.x0-out[n-1].x1 < max(0.55*min(body, r.size), 3) {
			out[n-1].x1 = max(out[n-1].x1, w.box.x1)
			out[n-1].words = append(out[n-1].words, w)
			continue
		}
		out = append(out, segment{interval{w.box.x0, w.box.x1}, []word{w}})
	}
	return out
}

// isProse reports whether the would-be cells are running text in columns.
func isProse(rows []row, cols []float64, bounds box) bool {
	if len(cols) > 3 {
		return false
	}
	edges := append(append([]float64{bounds.x0}, cols...), bounds.x1)
	textual := 0
	for j := range len(edges) - 1 {
		var fill []float64
		lines, chars := 0, 0
		lo, hi := math.Inf(1), math.Inf(-1)
		type ext struct{ a, b float64 }
		var es []ext
		for i := range rows {
			e := ext{math.Inf(1), math.Inf(-1)}
			for _, w := range rows[i].words {
				if w.box.midX() >= edges[j] && w.box.midX() < edges[j+1] {
					e.a, e.b = min(e.a, w.box.x0), max(e.b, w.box.x1)
					chars += utf8.RuneCountInString(w.text) + 1
				}
			}
			if e.b > e.a {
				lines++
				lo, hi = min(lo, e.a), max(hi, e.b)
				es = append(es, e)
			}
		}
		for _, e := range es {
			fill = append(fill, (e.b-e.a)/max(hi-lo, 1))
		}
		if lines >= 4 && chars/lines >= 22 && median(fill) > 0.8 {
			textual++
		}
	}
	return textual == len(edges)-1
}

// tableRow is a row of cells; span[i] is how many columns cell i covers, 0 if
// one before it covers it.
type tableRow struct {
	cells []string
	span  []int
}

// cutRow puts the segments of a row into columns; one over several columns spans them.
func cutRow(r *row, edges []float64, body float64, known cellTexts) tableRow {
	n := len(edges) - 1
	t := tableRow{make([]string, n), make([]int, n)}
	place := func(ws []word, j, span int) {
		text := known.of(ws)
		if t.cells[j] != "" {
			text = t.cells[j] + " " + text
		}
		t.cells[j], t.span[j] = text, max(t.span[j], span)
	}
	columnOf := func(x float64) int {
		j, _ := slices.BinarySearch(edges, x)
		return min(max(j-1, 0), n-1)
	}
	for _, s := range segments(r, body) {
		// Its words may belong to several columns set close together.
		first, last := columnOf(s.x0+1), columnOf(s.x1-1)
		if first == last {
			place(s.words, first, 1)
			continue
		}
		crossing := false
		for j := first; j < last; j++ {
			for _, w := range s.words {
				if w.box.x0 < edges[j+1]-1 && w.box.x1 > edges[j+1]+1 {
					crossing = true
				}
			}
		}
		mid := columnOf((s.x0 + s.x1) / 2)
		switch {
		case crossing || len(s.words) == 1:
			if overhang := max(edges[first+1]-s.x0, 0); last == first+1 && (overhang < 0.2*(s.x1-s.x0) || s.x1-edges[last] < 0.2*(s.x1-s.x0)) {
				place(s.words, mid, 1)
			} else {
				place(s.words, first, last-first+1)
			}
		default:
			byCol := map[int][]word{}
			for _, w := range s.words {
				j := columnOf(w.box.midX())
				byCol[j] = append(byCol[j], w)
			}
			for j := first; j <= last; j++ {
				if len(byCol[j]) > 0 {
					place(byCol[j], j, 1)
				}
			}
		}
	}
	return t
}

// spread repeats the text of spanning cells in every column they cover.
func (t tableRow) spread() []string {
	out := slices.Clone(t.cells)
	for j, n := range t.span {
		for k := j + 1; k < j+n && k < len(out); k++ {
			if out[k] == "" {
				out[k] = out[j]
			}
		}
	}
	return out
}

// headRows makes the table's head: one row, or two where an upper cell spans
// several lower ones; what stands in one column only is in both.
func headRows(rows []tableRow) [][]string {
	if len(rows) == 0 {
		return nil
	}
	n := len(rows[0].cells)
	lastSpan := -1
	for i, r := range rows {
		for _, s := range r.span {
			if s > 1 {
				lastSpan = i
			}
		}
	}
	join := func(rs []tableRow) []string {
		out := make([]string, n)
		for _, r := range rs {
			for j, c := range r.cells {
				out[j] = strings.TrimSpace(out[j] + " " + c)
			}
		}
		return out
	}
	if lastSpan < 0 || lastSpan == len(rows)-1 {
		out := make([]string, n)
		for _, r := range rows {
			for j, c := range r.spread() {
				out[j] = strings.TrimSpace(out[j] + " " + c)
			}
		}
		return [][]string{out}
	}
	upper, lower := make([]string, n), join(rows[lastSpan+1:])
	spanned := make([]bool, n)
	for _, r := range rows[:lastSpan+1] {
		for j, s := range r.span {
			for k := j; k < j+s && s > 1; k++ {
				spanned[k] = true
			}
		}
	}
	for _, r := range rows[:lastSpan+1] {
		for j, c := range r.spread() {
			upper[j] = strings.TrimSpace(upper[j] + " " + c)
		}
	}
	for j := range n {
		if !spanned[j] {
			both := strings.TrimSpace(upper[j] + " " + lower[j])
			upper[j], lower[j] = both, both
		}
	}
	return [][]string{upper, lower}
}

// bodyRows makes the rows below the head. Between lines all is one row if the
// table is ruled so; else a row of text is one, save for those that go on the
// row before.
func bodyRows(rows []row, cells []tableRow, edges, ys []float64, ruled bool) [][]string {
	var out [][]string
	band := func(i int) int {
		k, _ := slices.BinarySearch(ys, rows[i].box.midY())
		return k
	}
	var gaps []float64
	for i := 1; i < len(rows); i++ {
		gaps = append(gaps, rows[i].base-rows[i-1].base)
	}
	pitch := median(gaps)
	limits := columnLimits(rows, edges)
	for i, c := range cells {
		text := c.spread()
		if i > 0 && len(out) > 0 {
			last := out[len(out)-1]
			more := false
			switch {
			case ruled:
				more = band(i) == band(i-1)
			case text[0] == "" && last[0] != "":
				// Fewer cells than the row before, and close under it.
				n, m := filled(text), filled(last)
				more = n < m && rows[i].base-rows[i-1].base < 1.15*pitch && rows[i].base-rows[i-1].base < 1.6*rows[i].size &&
					goesOn(last, text) && !hadRoom(&rows[i-1], &rows[i], edges, limits)
			}
			if more {
				for j := range text {
					if text[j] != "" && text[j] != last[j] {
						last[j] = strings.TrimSpace(last[j] + " " + text[j])
					}
				}
				continue
			}
		}
		out = append(out, text)
	}
	return out
}

func filled(r []string) int {
	n := 0
	for _, c := range r {
		if c != "" {
			n++
		}
	}
	return n
}

// goesOn reports whether each cell of b has text above it in a to go on from,
// and none looks like a value of its own.
func goesOn(a, b []string) bool {
	for j, c := range b {
		if c == "" {
			continue
		}
		if a[j] == "" || !hasLetter(c) {
			return false
		}
	}
	return true
}

// inColumn returns the extent of the row's words in column j, and the width of
// the first; false if it has none.
func (r *row) inColumn(edges []float64, j int) (x0, x1, first float64, ok bool) {
	for k := range r.words {
		if w := &r.words[k]; w.box.midX() >= edges[j] && w.box.midX() < edges[j+1] {
			if !ok {
				x0, first, ok = w.box.x0, w.box.width(), true
			}
			x1 = w.box.x1
		}
	}
	return x0, x1, first, ok
}

// columnLimits returns how far to the right text of the columns can go: as far as
// any does, or near to where the next column begins.
func columnLimits(rows []row, edges []float64) []float64 {
	limits := make([]float64, len(edges)-1)
	next := math.Inf(1)
	for j := len(limits) - 1; j >= 0; j-- {
		from, size := math.Inf(1), 0.0
		limits[j] = math.Inf(-1)
		for i := range rows {
			if x0, x1, _, ok := rows[i].inColumn(edges, j); ok {
				from, limits[j], size = min(from, x0), max(limits[j], x1), max(size, rows[i].size)
			}
		}
		if !math.IsInf(next, 1) {
			limits[j] = max(limits[j], next-columnGap*size)
		}
		next = from
	}
	return limits
}

// columnGap is the space, in sizes of the font, that columns of wrapped text
// leave before the next column, at most.
const columnGap = 3

// hadRoom reports whether one of several cells of row b, which stands under row a,
// begins with a word that a's cell had room for: then b is a row of its own.
func hadRoom(a, b *row, edges, limits []float64) bool {
	cells, room := 0, false
	for j := range limits {
		_, _, first, ok := b.inColumn(edges, j)
		if !ok {
			continue
		}
		cells++
		// Lines that wrap fill most of their column, whatever comes next.
		if from, end, _, ok := a.inColumn(edges, j); ok && end+0.3*b.size+first <= limits[j] && end-from < 0.6*(limits[j]-from) {
			room = true
		}
	}
	return cells > 1 && room
}

// openTables returns the rows as items: lines, and tables that spacing alone shows.
func openTables(rows []row) []item {
	var out []item
	known, left := cellTexts{}, maxTrials
	for i := 0; i < len(rows); {
		if t, n := openTable(rows[i:], known, &left); t != nil {
			out = append(out, item{box: t.box, table: t})
			i += n
			continue
		}
		l := makeLine(&rows[i])
		out = append(out, item{box: l.box, line: &l})
		i++
	}
	return out
}

// maxTrials bounds how many rows are tried as parts of tables that only spacing
// shows, over all trials of a column: a full page of a directory takes 100,000.
const maxTrials = 200_000

// openTable reads a table that begins with the first of the rows and returns
// how many rows it takes. left is how many rows may still be tried.
func openTable(rows []row, known cellTexts, left *int) (*table, int) {
	if *left <= 0 || !tabular(&rows[0]) {
		return nil, 0
	}
	n := 1
	size := rows[0].size
	for n < len(rows) {
		r := &rows[n]
		if r.base-rows[n-1].base > 3.2*max(size, r.size) {
			break
		}
		if tabular(r) {
			n++
			continue
		}
		// A row in one column may go on a cell, if the table goes on after it.
		if n+1 < len(rows) && tabular(&rows[n+1]) && r.base-rows[n-1].base < 1.5*size && rows[n+1].base-r.base < 2.2*size && r.box.width() < 0.5*rows[n-1].box.width() {
			n += 2
			continue
		}
		break
	}
	for ; n >= 3 && *left > 0; n-- {
		*left -= n
		var ws []word
		b := rows[0].box
		for i := range n {
			ws = append(ws, rows[i].words...)
			b = b.union(rows[i].box)
		}
		t := spacedTable(ws, b, nil, known)
		if t == nil || !likelyTable(t) {
			continue
		}
		return t, n
	}
	return nil, 0
}

// tabular reports a row with a space so wide that it parts cells.
func tabular(r *row) bool {
	least := max(1.3*r.size, 9)
	end := r.words[0].box.x1
	for _, w := range r.words[1:] {
		if w.box.x0-end >= least && !strings.HasPrefix(w.text, "....") {
			return true
		}
		end = max(end, w.box.x1)
	}
	return false
}

// flowing reports columns whose cells go on in the next row, as columns of text do.
func flowing(t *table, cols int) bool {
	on, n := 0, 0
	for j := range cols {
		for i := 1; i < len(t.rows); i++ {
			a, b := t.rows[i-1][j], t.rows[i][j]
			if a == "" || b == "" {
				continue
			}
			n++
			c, _ := utf8.DecodeRuneInString(b)
			if unicode.IsLower(c) && strings.Contains(a, " ") && !strings.ContainsAny(a[len(a)-1:], ".:;!?") {
				on++
			}
		}
	}
	return n > 0 && on*10 > n*4
}

// likelyTable refuses lists and contents, which have wide spaces too.
func likelyTable(t *table) bool {
	cols := 0
	for _, r := range t.rows {
		cols = max(cols, len(r))
	}
	marks, leaders, complete := 0, 0, 0
	for _, r := range t.rows {
		if len(r) == 0 {
			continue
		}
		first := strings.TrimSpace(r[0])
		if l := (&line{spans: []span{{text: first + " x"}}}); markerOf(l) != "" || numbered.MatchString(first+" x") && utf8.RuneCountInString(first) < 8 {
			marks++
		}
		for _, c := range r {
			if strings.Contains(c, "....") || strings.Contains(c, ". . .") || strings.Contains(c, "…") {
				leaders++
				break
			}
		}
		if filled(r) >= 2 {
			complete++
		}
	}
	n := len(t.rows)
	if cols == 2 && marks*2 > n || leaders*3 > n || complete*10 < n*7 || flowing(t, cols) {
		return false
	}
	return n >= 3 || cols >= 3
}
