// Package xlsx reads Excel workbooks: each visible sheet is a heading, its
// tables, which blank rows and columns part, and what is drawn on it: charts as
// tables, text boxes and pictures. Values are as the sheet shows them; of
// formulas that is the last result. Comments are left out unless asked for.
package xlsx

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/xuri/excelize/v2"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/markup"
	"github.com/clara-suite/clara/services/ingest/internal/ooxml"
)

// Reader reads XLSX files. It is safe for concurrent use.
type Reader struct{}

var _ doc.Reader = Reader{}

const (
	// maxUnpacked is the size of all parts: the library holds them in memory.
	maxUnpacked = 512 << 20
	maxSheet    = 256 << 20
)

// Read reads a workbook, one page a sheet. Errors: Corrupt, Invalid (over a
// limit, a zip bomb, no sheets), or a context that ended.
func (Reader) Read(ctx context.Context, r io.ReaderAt, size int64, opts doc.Options) (*doc.Document, error) {
	limits := opts.Limits.WithDefaults()
	bounds := limits
	bounds.MaxExpanded = min(limits.MaxExpanded, maxUnpacked)
	pkg, err := ooxml.Open(r, size, bounds) // bombs are refused before the library sees them
	if err != nil {
		return nil, err
	}
	f, err := excelize.OpenReader(io.NewSectionReader(r, 0, size), excelize.Options{
		UnzipSizeLimit: bounds.MaxExpanded, UnzipXMLSizeLimit: min(maxSheet, bounds.MaxExpanded),
	})
	if err != nil {
		return nil, clara.Errorf(clara.Corrupt, "read the workbook: %w", err)
	}
	defer f.Close()
	d := &doc.Document{Format: doc.XLSX, Title: pkg.Property("title"), Language: pkg.Property("language")}
	sheets := f.GetSheetList()
	if len(sheets) == 0 {
		return nil, clara.Errorf(clara.Invalid, "read the workbook: it has no sheets")
	}
	drawn := newDrawings(ctx, pkg, d, opts)
	var text int64
	for i, name := range sheets {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if visible, err := f.GetSheetVisible(name); err == nil && !visible {
			continue
		}
		page := doc.Page{Number: i + 1, ReadBy: doc.ByText}
		var w markup.Writer
		var title markup.Line
		title.Add(name, markup.Style{})
		w.Heading(2, title.Heading())
		err = nil
		if !drawn.charts[name] {
			err = sheet(ctx, &w, f, name, limits.MaxText-text)
		}
		if err == nil {
			err = drawn.write(&w, name, i+1)
		}
		page.Markdown = w.String()
		if err != nil {
			if clara.IsContext(err) || clara.KindOf(err) == clara.Invalid {
				return nil, err
			}
			page.ReadBy, page.Err = doc.ByNone, err.Error()
			d.AddProblem(i+1, fmt.Sprintf("sheet %q: %v", name, err))
		}
		text += int64(len(page.Markdown))
		d.Pages = append(d.Pages, page)
		if opts.Progress != nil {
			opts.Progress(i+1, len(sheets))
		}
	}
	if d.State() == doc.Failed {
		reason := "it has no visible sheets"
		if len(d.Problems) > 0 {
			reason = d.Problems[0].Reason
		}
		return nil, clara.Errorf(clara.Corrupt, "read the workbook: %s", reason)
	}
	return d, nil
}

// sheet writes the cells of a sheet, at most limit bytes.
func sheet(ctx context.Context, w *markup.Writer, f *excelize.File, name string, limit int64) error {
	merged, err := merges(f, name)
	if err != nil {
		return err
	}
	rows, err := f.Rows(name)
	if err != nil {
		return err
	}
	defer rows.Close()
	var table [][]string
	for n := 1; rows.Next(); n++ {
		if n%256 == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		cells, err := rows.Columns()
		if err != nil {
			return err
		}
		cells = merged.apply(n, cells)
		blank := true
		for i, v := range cells {
			cells[i] = escape(v)
			blank = blank && cells[i] == ""
		}
		if blank {
			block(w, table)
			table = nil
			continue
		}
		table = append(table, cells)
		for _, v := range cells {
			limit -= int64(len(v)) + 3
		}
		if limit < 0 {
			return clara.Errorf(clara.Invalid, "sheet %q: the text of the workbook is larger than the limit", name)
		}
	}
	block(w, table)
	return rows.Error()
}

func escape(v string) string {
	if strings.TrimSpace(v) == "" {
		return ""
	}
	var l markup.Line
	l.Add(v, markup.Style{})
	return strings.Join(strings.Fields(l.Inline()), " ")
}

// block writes rows without a blank one between them. Tables that stand side by
// side, a blank column between them, are parted: they do where one begins lower
// than the other, or where two columns and more are blank. Tables that begin in
// the same row with one column between them may as well be the parts of a form.
func block(w *markup.Writer, rows [][]string) {
	wide := 0
	for _, r := range rows {
		wide = max(wide, len(r))
	}
	if wide > maxParted {
		flush(w, rows)
		return
	}
	used := make([]bool, wide)
	for _, r := range rows {
		for i, v := range r {
			used[i] = used[i] || v != ""
		}
	}
	for at := 1; at < wide; at++ {
		if used[at] || !used[at-1] {
			continue
		}
		end := at
		for end < wide && !used[end] {
			end++
		}
		left, right := columns(rows, 0, at), columns(rows, end, wide)
		l, r := extent(left), extent(right)
		if l.rows() < 2 || r.rows() < 2 || l.cols() < 2 || r.cols() < 2 || l.top == r.top && end-at < 2 {
			continue
		}
		blocks(w, left)
		blocks(w, right)
		return
	}
	flush(w, rows)
}

// maxParted is how many columns a block may have to be looked at for tables
// side by side: every gap costs a look at all cells.
const maxParted = 64

// blocks writes rows that may have blank ones between them.
func blocks(w *markup.Writer, rows [][]string) {
	start := 0
	for i, r := range rows {
		if !slices.ContainsFunc(r, func(v string) bool { return v != "" }) {
			block(w, rows[start:i])
			start = i + 1
		}
	}
	block(w, rows[start:])
}

// columns returns the cells of the columns from left to before right.
func columns(rows [][]string, left, right int) [][]string {
	out := make([][]string, len(rows))
	for i, r := range rows {
		out[i] = r[min(left, len(r)):min(right, len(r))]
	}
	return out
}

// span is the smallest rectangle around all values; ends are one behind.
type span struct{ top, bottom, left, right int }

func (s span) rows() int { return s.bottom - s.top }
func (s span) cols() int { return s.right - s.left }

func extent(rows [][]string) span {
	s := span{top: -1}
	for y, r := range rows {
		for x, v := range r {
			if v == "" {
				continue
			}
			if s.top < 0 {
				s = span{y, y + 1, x, x + 1}
			}
			s.bottom, s.left, s.right = y+1, min(s.left, x), max(s.right, x+1)
		}
	}
	s.top = max(s.top, 0)
	return s
}

// flush writes rows as a table without empty columns at its sides; what has a
// single cell is a line of text above it.
func flush(w *markup.Writer, rows [][]string) {
	s := extent(rows)
	if s.rows() == 0 {
		return
	}
	rows = columns(rows[s.top:s.bottom], s.left, s.right)
	if s.cols() == 1 {
		for _, r := range rows {
			if len(r) > 0 {
				w.Block(doc.Escape(r[0]))
			}
		}
		return
	}
	for len(rows) > 1 && single(rows[0]) >= 0 { // a caption
		w.Block(doc.Escape(rows[0][single(rows[0])]))
		rows = rows[1:]
	}
	w.Table(rows)
}

// single returns the place of a row's only value, -1 if it has more or none.
func single(r []string) int {
	at := -1
	for i, v := range r {
		if v == "" {
			continue
		}
		if at >= 0 {
			return -1
		}
		at = i
	}
	return at
}

// areas are the merged cells of a sheet, by the row they begin in.
type areas struct {
	byTop map[int][]area
	// open are those that the row before was in.
	open []area
}

type area struct {
	left, top, right, bottom int
	value                    string
}

const (
	maxAreas = 100_000
	// A cell merged over more than that is a decoration of the sheet.
	maxWide, maxTall = 200, 10_000
)

func merges(f *excelize.File, name string) (*areas, error) {
	cells, err := f.GetMergeCells(name)
	if err != nil {
		return nil, err
	}
	a := &areas{byTop: map[int][]area{}}
	for _, m := range cells[:min(len(cells), maxAreas)] {
		left, top, err1 := excelize.CellNameToCoordinates(m.GetStartAxis())
		right, bottom, err2 := excelize.CellNameToCoordinates(m.GetEndAxis())
		if err1 != nil || err2 != nil || right-left > maxWide || bottom-top > maxTall || m.GetCellValue() == "" {
			continue
		}
		a.byTop[top] = append(a.byTop[top], area{left, top, right, bottom, m.GetCellValue()})
	}
	return a, nil
}

// apply puts the value of merged cells into every cell of row n that they
// cover; rows come in order. A title merged across the sheet stays one value.
func (a *areas) apply(n int, cells []string) []string {
	open := a.open[:0]
	for _, m := range a.open {
		if m.bottom >= n {
			open = append(open, m)
		}
	}
	a.open = append(open, a.byTop[n]...)
	for _, m := range a.open {
		if m.top == m.bottom && alone(cells, m) {
			continue
		}
		for len(cells) < m.right {
			cells = append(cells, "")
		}
		for c := m.left; c <= m.right; c++ {
			cells[c-1] = m.value
		}
	}
	return cells
}

// alone reports whether the row has no value but that of the merged cell.
func alone(cells []string, m area) bool {
	for i, v := range cells {
		if v != "" && (i+1 < m.left || i+1 > m.right) {
			return false
		}
	}
	return true
}
