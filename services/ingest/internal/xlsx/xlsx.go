// Package xlsx reads Excel workbooks: each visible sheet is a heading and its
// tables, which blank rows part. Values are as the sheet shows them; of
// formulas that is the last result.
package xlsx

import (
	"context"
	"fmt"
	"io"
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
	var text int64
	for i, name := range sheets {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if visible, err := f.GetSheetVisible(name); err == nil && !visible {
			continue
		}
		page := doc.Page{Number: i + 1, ReadBy: doc.ByText}
		page.Markdown, err = sheet(ctx, f, name, limits.MaxText-text)
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

// sheet returns a sheet as Markdown of at most limit bytes.
func sheet(ctx context.Context, f *excelize.File, name string, limit int64) (string, error) {
	merged, err := merges(f, name)
	if err != nil {
		return "", err
	}
	rows, err := f.Rows(name)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	var w markup.Writer
	var title markup.Line
	title.Add(name, markup.Style{})
	w.Heading(2, title.Heading())
	var table [][]string
	for n := 1; rows.Next(); n++ {
		if n%256 == 0 {
			if err := ctx.Err(); err != nil {
				return "", err
			}
		}
		cells, err := rows.Columns()
		if err != nil {
			return w.String(), err
		}
		cells = merged.apply(n, cells)
		blank := true
		for i, v := range cells {
			cells[i] = escape(v)
			blank = blank && cells[i] == ""
		}
		if blank {
			flush(&w, table)
			table = nil
			continue
		}
		table = append(table, cells)
		for _, v := range cells {
			limit -= int64(len(v)) + 3
		}
		if limit < 0 {
			return "", clara.Errorf(clara.Invalid, "sheet %q: the text of the workbook is larger than the limit", name)
		}
	}
	flush(&w, table)
	if err := rows.Error(); err != nil {
		return w.String(), err
	}
	return w.String(), nil
}

func escape(v string) string {
	if strings.TrimSpace(v) == "" {
		return ""
	}
	var l markup.Line
	l.Add(v, markup.Style{})
	return strings.Join(strings.Fields(l.Inline()), " ")
}

// flush writes rows as a table without empty columns at its sides; what has a
// single cell is a line of text above it.
func flush(w *markup.Writer, rows [][]string) {
	left, right := -1, 0
	for _, r := range rows {
		for i, v := range r {
			if v != "" {
				if left < 0 || i < left {
					left = i
				}
				right = max(right, i+1)
			}
		}
	}
	if left < 0 {
		return
	}
	if right-left == 1 {
		for _, r := range rows {
			if len(r) > left && r[left] != "" {
				w.Block(doc.Escape(r[left]))
			}
		}
		return
	}
	for len(rows) > 1 && single(rows[0]) >= 0 { // a caption
		w.Block(doc.Escape(rows[0][single(rows[0])]))
		rows = rows[1:]
	}
	out := make([][]string, len(rows))
	for i, r := range rows {
		out[i] = r[min(left, len(r)):min(right, len(r))]
	}
	w.Table(out)
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
