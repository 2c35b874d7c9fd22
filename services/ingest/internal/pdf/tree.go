package pdf

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// roles is what the structure tree says of one page's marked content, by its identity.
type roles struct {
	heading map[int]int    // level, from 1
	alt     map[int]string // descriptions of figures
	element map[int]int    // the paragraph, from 1
	item    map[int]int    // the list item, from 1
	tables  []*taggedTable
	// left bounds how many elements are looked at.
	left, elements, items int
}

// taggedTable is a table of the structure tree.
type taggedTable struct {
	cells []taggedCell
	cell  map[int]int // by marked content
	rows  int
}

// taggedCell is a cell at the place of its first row and column.
type taggedCell struct{ row, col, rowSpan, colSpan int }

const (
	maxTreeDepth = 40
	maxTreeNodes = 20_000
	maxSpan      = 200
	// maxCellText is more than a cell holds: tables with longer ones lay out pages.
	maxCellText = 2_000
)

// readTree reads the page's part of the structure tree, nil if there is none.
func (r *pageReader) readTree(page uint64) *roles {
	if !r.tagged {
		return nil
	}
	tree := r.call(fnTreePage, page)
	if tree == 0 {
		return nil
	}
	defer r.call(fnTreeClose, tree)
	out := &roles{heading: map[int]int{}, alt: map[int]string{}, element: map[int]int{}, item: map[int]int{}, left: maxTreeNodes}
	n := r.callInt(fnTreeCount, tree)
	for i := 0; i < n && out.left > 0 && r.err == nil; i++ {
		r.element(r.call(fnTreeChild, tree, uint64(i)), out, role{cell: -1}, 0)
	}
	return out
}

// role is what holds for all that is inside an element.
type role struct {
	heading       int
	alt           string
	element, item int
	table         *taggedTable
	cell          int // in table, -1 for none
}

// element notes the marked content below a structure element.
func (r *pageReader) element(e uint64, out *roles, in role, depth int) {
	if out.left--; e == 0 || depth > maxTreeDepth || out.left <= 0 {
		return
	}
	kind := r.text(fnElemType, e)
	switch {
	case kind == "Title":
		in.heading = 1
	case len(kind) == 2 && kind[0] == 'H' && kind[1] >= '1' && kind[1] <= '6':
		in.heading = int(kind[1] - '0')
	case kind == "Figure":
		in.alt = strings.Join(strings.Fields(r.text(fnElemAlt, e)), " ")
	case kind == "TOC":
		in.heading = 0
	case kind == "LI":
		out.items++
		in.item = out.items
	case kind == "Table":
		in.heading = 0
		if in.table == nil { // a table within a cell is the cell's text
			in.table = &taggedTable{cell: map[int]int{}}
			out.tables = append(out.tables, in.table)
		}
	case kind == "TR" && in.table != nil && in.cell < 0:
		r.tableRow(e, out, in, depth)
		return
	}
	switch kind {
	case "P", "LBody", "Caption", "Note", "BlockQuote", "TOCI":
		out.elements++
		in.element = out.elements
	}
	n := r.callInt(fnElemCount, e)
	for i := 0; i < n && out.left > 0 && r.err == nil; i++ {
		if id := r.callInt(fnElemChildMCID, e, uint64(i)); id >= 0 {
			out.note(id, in)
			continue
		}
		r.element(r.call(fnElemChild, e, uint64(i)), out, in, depth+1)
	}
}

// tableRow gives the cells of a row their places.
func (r *pageReader) tableRow(e uint64, out *roles, in role, depth int) {
	t := in.table
	row := t.rows
	t.rows++
	taken := func(col int) bool {
		return slices.ContainsFunc(t.cells, func(c taggedCell) bool {
			return row >= c.row && row < c.row+c.rowSpan && col >= c.col && col < c.col+c.colSpan
		})
	}
	col := 0
	n := min(r.callInt(fnElemCount, e), maxSpan)
	for i := 0; i < n && out.left > 0 && r.err == nil; i++ {
		if id := r.callInt(fnElemChildMCID, e, uint64(i)); id >= 0 {
			continue
		}
		for taken(col) {
			col++
		}
		c := taggedCell{row, col, 1, 1}
		// A cell without content on the page has no element here.
		child := r.call(fnElemChild, e, uint64(i))
		if child != 0 {
			c.rowSpan, c.colSpan = r.spans(child)
		}
		t.cells = append(t.cells, c)
		col += c.colSpan
		if child != 0 {
			in.cell = len(t.cells) - 1
			r.element(child, out, in, depth+1)
		}
	}
}

// spans returns how many rows and columns a cell covers.
func (r *pageReader) spans(cell uint64) (rows, cols int) {
	rows, cols = 1, 1
	n := min(r.callInt(fnElemAttrCount, cell), 16)
	for i := range n {
		attr := r.call(fnElemAttr, cell, uint64(i))
		if attr == 0 {
			continue
		}
		for name, into := range map[string]*int{"RowSpan": &rows, "ColSpan": &cols} {
			key := r.cstring(name)
			value := r.call(fnAttrValue, attr, key)
			if value != 0 && r.callOK(fnAttrNumber, value, r.outAt(0)) {
				*into = min(max(int(r.float(0)), 1), maxSpan)
			}
			_ = r.impl.Free(key)
		}
	}
	return rows, cols
}

func (o *roles) note(id int, in role) {
	if in.heading > 0 {
		o.heading[id] = in.heading
	}
	if in.alt != "" {
		o.alt[id] = in.alt
	}
	o.element[id], o.item[id] = in.element, in.item
	if in.table != nil && in.cell >= 0 {
		in.table.cell[id] = in.cell
	}
}

// apply gives words and pictures what the tree says of them. Where most of
// the page would be headings the tree is wrong and is not used.
func (o *roles) apply(s *source) {
	if o == nil {
		return
	}
	s.tagged = o.tables
	total, titled := 0, 0
	for i := range s.words {
		n := utf8.RuneCountInString(s.words[i].text)
		total += n
		if o.heading[s.words[i].mcid] > 0 {
			titled += n
		}
	}
	for i := range s.words {
		w := &s.words[i]
		w.element, w.listItem = o.element[w.mcid], o.item[w.mcid]
		if titled*10 <= total*4 {
			w.heading = o.heading[w.mcid]
		}
	}
	for i := range s.pictures {
		s.pictures[i].alt = o.alt[s.pictures[i].mcid]
	}
}

// taggedTables makes the tables that the structure tree has, as far as what
// stands on the page agrees with it.
func taggedTables(s *source, words []word) []*table {
	var out []*table
	for _, t := range s.tagged {
		if m := t.table(words); m != nil && !slices.ContainsFunc(out, func(o *table) bool { return o.box.overlap(m.box) > 0 }) {
			out = append(out, m)
		}
	}
	return out
}

func (t *taggedTable) table(words []word) *table {
	held := map[int][]word{}
	bounds := box{math.Inf(1), math.Inf(1), math.Inf(-1), math.Inf(-1)}
	in := 0
	for _, w := range words {
		if k, ok := t.cell[w.mcid]; ok && w.mcid >= 0 {
			held[k] = append(held[k], w)
			bounds = bounds.union(w.box)
			in++
		}
	}
	if len(held) < 3 {
		return nil
	}
	strangers := 0
	for i := range words {
		if _, ok := t.cell[words[i].mcid]; !ok && bounds.contains(words[i].box.midX(), words[i].box.midY()) {
			strangers++
		}
	}
	if strangers*10 > in {
		return nil
	}
	cols := 0
	rowUsed, colUsed := map[int]bool{}, map[int]bool{}
	tops := map[int]float64{}    // of the rows
	lefts := map[int][]float64{} // of the columns' cells
	for k, ws := range held {
		c := t.cells[k]
		rowUsed[c.row], colUsed[c.col] = true, true
		for _, w := range ws {
			if y, ok := tops[c.row]; !ok || w.box.y0 < y {
				tops[c.row] = w.box.y0
			}
		}
		left := ws[0].box.x0
		for _, w := range ws {
			left = min(left, w.box.x0)
		}
		lefts[c.col] = append(lefts[c.col], left)
	}
	for _, c := range t.cells {
		cols = max(cols, c.col+c.colSpan)
	}
	if len(rowUsed) < 2 || len(colUsed) < 2 || t.rows*cols > maxCells {
		return nil
	}
	var order []int
	for r := range rowUsed {
		order = append(order, r)
	}
	slices.Sort(order)
	if !slices.IsSortedFunc(order, func(a, b int) int { return cmp.Compare(tops[a], tops[b]) }) {
		return nil // the rows are no rows
	}
	var xs []float64
	for j := range cols {
		if len(lefts[j]) > 0 {
			xs = append(xs, median(lefts[j]))
		}
	}
	if !slices.IsSorted(xs) {
		if slices.Reverse(xs); !slices.IsSorted(xs) { // as they are from right to left
			return nil
		}
	}
	grid := make([][]string, t.rows)
	for i := range grid {
		grid[i] = make([]string, cols)
	}
	for k, ws := range held {
		c := t.cells[k]
		text := cellText(ws)
		if len(text) > maxCellText {
			return nil
		}
		for i := c.row; i < min(c.row+c.rowSpan, t.rows); i++ {
			for j := c.col; j < c.col+c.colSpan; j++ {
				grid[i][j] = text
			}
		}
	}
	m := &table{box: bounds}
	full := 0
	for _, row := range order {
		var cells []string
		for j, text := range grid[row] {
			if colUsed[j] {
				cells = append(cells, text)
			}
		}
		if filled(cells) >= 2 {
			full++
		}
		m.rows = append(m.rows, cells)
	}
	if full*5 < len(order)*3 {
		return nil // a page laid out by a table
	}
	return m
}
