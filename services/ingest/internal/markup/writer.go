package markup

import (
	"strconv"
	"strings"

	"github.com/clara-suite/clara/services/ingest/internal/doc"
)

// Writer writes blocks, a blank line between them and none between the items
// of a list. The zero value is empty and ready.
type Writer struct {
	b strings.Builder
	// levels are the source's levels of the open list, outermost first.
	levels []int
	list   string
}

// Len returns the size of what was written, in bytes.
func (w *Writer) Len() int { return w.b.Len() }

// String returns what was written, without a newline at its end.
func (w *Writer) String() string { return w.b.String() }

// Block writes Markdown as a block of its own. It ends an open list.
func (w *Writer) Block(md string) {
	md = strings.Trim(md, "\n")
	if strings.TrimSpace(md) == "" {
		return
	}
	w.levels = w.levels[:0]
	w.gap("\n\n")
	w.b.WriteString(md)
}

// Heading writes a heading of level 1 to 6; deeper ones are of level 6.
func (w *Writer) Heading(level int, text string) {
	if text == "" {
		return
	}
	w.Block(strings.Repeat("#", min(max(level, 1), 6)) + " " + text)
}

// Table writes rows as a table; a table of one cell is a paragraph.
func (w *Writer) Table(rows [][]string) {
	if len(rows) == 1 && len(rows[0]) == 1 {
		w.Block(rows[0][0])
		return
	}
	w.Block(doc.Table(rows))
}

// CodeBlock writes a fenced block.
func (w *Writer) CodeBlock(lang, text string) {
	text = strings.Trim(text, "\n")
	if strings.TrimSpace(text) == "" {
		return
	}
	fence := "```"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	w.Block(fence + lang + "\n" + text + "\n" + fence)
}

// Item writes a list item. level is the source's own level, of which only the
// order counts: a list that starts at level 3 starts at the margin. marker is
// Bullet or what Number returns. A new list id starts a new list.
func (w *Writer) Item(list string, level int, marker, text string) {
	if strings.TrimSpace(text) == "" {
		return
	}
	same := len(w.levels) > 0
	for n := len(w.levels); n > 0 && w.levels[n-1] > level; n-- {
		w.levels = w.levels[:n-1]
	}
	if n := len(w.levels); n == 0 || w.levels[n-1] < level {
		w.levels = append(w.levels, level)
	}
	if len(w.levels) == 1 && list != w.list {
		same = false
	}
	if len(w.levels) == 1 || !same {
		w.list = list
	}
	if same {
		w.gap("\n")
	} else {
		w.gap("\n\n")
	}
	indent := strings.Repeat("    ", len(w.levels)-1)
	w.b.WriteString(indent)
	w.b.WriteString(marker)
	w.b.WriteByte(' ')
	w.b.WriteString(strings.ReplaceAll(text, "\n", "\n"+indent+"    "))
}

// Continue writes a block that belongs to the last item, or an ordinary block
// where no list is open.
func (w *Writer) Continue(md string) {
	md = strings.Trim(md, "\n")
	if strings.TrimSpace(md) == "" {
		return
	}
	if len(w.levels) == 0 {
		w.Block(md)
		return
	}
	indent := strings.Repeat("    ", len(w.levels))
	w.gap("\n\n")
	for i, l := range strings.Split(md, "\n") {
		if i > 0 {
			w.b.WriteByte('\n')
		}
		if l != "" {
			w.b.WriteString(indent)
			w.b.WriteString(l)
		}
	}
}

func (w *Writer) gap(s string) {
	if w.b.Len() > 0 {
		w.b.WriteString(s)
	}
}

// Bullet marks an item of a list without numbers.
const Bullet = "-"

// Marker returns the marker for an item's own label: "3." for a plain number
// and its full stop, else a bullet before the label ("- 1.2.", "- (a)"), which
// Markdown has no marker for; "" is a bullet.
func Marker(label string) string {
	label = strings.TrimSpace(label)
	if label == "" {
		return Bullet
	}
	if n, ok := strings.CutSuffix(label, "."); ok {
		if _, err := strconv.ParseUint(n, 10, 31); err == nil {
			return label
		}
	}
	return Bullet + " " + label
}

// Grid lays out the cells of a table with merged cells. The text of a cell
// stands in every place that the cell covers.
type Grid struct {
	rows [][]string
	// owed is what a cell of a row above puts into the columns below it.
	owed []owed
	col  int
	size int
}

type owed struct {
	text string
	rows int
}

// maxSpan bounds what a single cell may cover, whatever the file says.
const (
	maxSpan    = 1000
	maxColumns = 16_384
	// maxRepeat is the size of all cells in bytes, from which on a merged cell
	// stands in its first place only.
	maxRepeat = 64 << 20
)

// Row starts a row.
func (g *Grid) Row() {
	g.endRow()
	g.rows = append(g.rows, nil)
	g.col = 0
}

// Skip leaves n columns of the row empty.
func (g *Grid) Skip(n int) {
	for range min(max(n, 0), maxSpan) {
		g.Cell("", 1, 1)
	}
}

// Cell appends a cell to the row. Spans below 1 count as 1.
func (g *Grid) Cell(text string, cols, rows int) {
	if len(g.rows) == 0 {
		g.Row()
	}
	cols, rows = min(max(cols, 1), maxSpan), min(max(rows, 1), maxSpan)
	if g.size > maxRepeat {
		cols, rows = 1, 1
	}
	g.fill()
	for range cols {
		if g.col >= maxColumns {
			return
		}
		for len(g.owed) <= g.col {
			g.owed = append(g.owed, owed{})
		}
		g.put(text)
		if g.size > maxRepeat {
			g.col++
			return
		}
		g.owed[g.col] = owed{text, rows - 1}
		g.col++
	}
}

// fill puts in what rows above owe at the present column.
func (g *Grid) fill() {
	for g.col < len(g.owed) && g.owed[g.col].rows > 0 && g.size <= maxRepeat {
		g.put(g.owed[g.col].text)
		g.owed[g.col].rows--
		g.col++
	}
}

func (g *Grid) put(text string) {
	r := &g.rows[len(g.rows)-1]
	*r = append(*r, text)
	g.size += len(text) + 8
}

// endRow pays what is owed beyond the last cell.
func (g *Grid) endRow() {
	if len(g.rows) == 0 || g.size > maxRepeat {
		return
	}
	end := 0
	for c := g.col; c < len(g.owed); c++ {
		if g.owed[c].rows > 0 {
			end = c + 1
		}
	}
	for g.col < end && g.size <= maxRepeat {
		if g.fill(); g.col < end {
			g.put("")
			g.col++
		}
	}
}

// Rows returns the finished table.
func (g *Grid) Rows() [][]string {
	g.endRow()
	return g.rows
}
