package docx

import (
	"strconv"
	"strings"

	"github.com/clara-suite/clara/services/ingest/internal/markup"
	"github.com/clara-suite/clara/services/ingest/internal/ooxml"
)

// cell is a cell as it stands in its row.
type cell struct {
	node *ooxml.Node
	cols int
	// merge is "restart" or "continue" for a cell merged with those below or above.
	merge string
	text  string
}

type row struct {
	before, after int
	cells         []cell
}

// table writes a table. One of a single cell is a frame: its content is
// written as it would be without it.
func (r *reader) table(n *ooxml.Node) {
	rows := r.rows(n)
	if len(rows) == 1 && len(rows[0].cells) == 1 {
		r.blocks(rows[0].cells[0].node.Kids)
		return
	}
	r.depth++
	defer func() { r.depth-- }()
	if r.depth > maxDepth {
		r.problem("tables or text boxes are nested deeper than %d", maxDepth)
		return
	}
	r.w.Table(r.grid(rows))
}

// rows collects the rows without those that a tracked change deleted.
func (r *reader) rows(n *ooxml.Node) []row {
	var out []row
	var walk func(kids []*ooxml.Node, depth int)
	walk = func(kids []*ooxml.Node, depth int) {
		for _, k := range ooxml.Resolve(kids) {
			switch k.Name {
			case "w:tr":
				trPr := k.Kid("w:trPr")
				if trPr.Kid("w:del") != nil {
					continue
				}
				rw := row{before: count(trPr, "w:gridBefore"), after: count(trPr, "w:gridAfter")}
				r.cells(&rw, k.Kids, 0)
				out = append(out, rw)
			case "w:sdt":
				if depth < maxDepth {
					walk(k.Kid("w:sdtContent").KidsOf(), depth+1)
				}
			case "w:customXml", "w:ins", "w:moveTo":
				if depth < maxDepth {
					walk(k.Kids, depth+1)
				}
			}
		}
	}
	walk(n.Kids, 0)
	return out
}

func (r *reader) cells(rw *row, kids []*ooxml.Node, depth int) {
	for _, k := range ooxml.Resolve(kids) {
		switch k.Name {
		case "w:tc":
			pr := k.Kid("w:tcPr")
			c := cell{node: k, cols: max(count(pr, "w:gridSpan"), 1)}
			if v, ok := pr.Val("w:vMerge"); ok {
				if c.merge = v; v == "" {
					c.merge = "continue"
				}
			}
			if v, ok := pr.Val("w:hMerge"); ok && v != "restart" && len(rw.cells) > 0 {
				rw.cells[len(rw.cells)-1].cols++ // merged with the cell before it, the old way
				continue
			}
			rw.cells = append(rw.cells, c)
		case "w:sdt":
			if depth < maxDepth {
				r.cells(rw, k.Kid("w:sdtContent").KidsOf(), depth+1)
			}
		case "w:customXml", "w:ins", "w:moveTo":
			if depth < maxDepth {
				r.cells(rw, k.Kids, depth+1)
			}
		}
	}
}

// count returns the value of a number below the element, 0 if there is none.
func count(n *ooxml.Node, name string) int {
	v, _ := n.Val(name)
	i, err := strconv.Atoi(v)
	if err != nil {
		return 0
	}
	return min(max(i, 0), 1000)
}

// grid lays the rows out; a cell that goes on from above has the text of the
// one that began it.
func (r *reader) grid(rows []row) [][]string {
	var g markup.Grid
	above := map[int]string{}
	for _, rw := range rows {
		g.Row()
		g.Skip(rw.before)
		col := rw.before
		now := map[int]string{}
		for _, c := range rw.cells {
			text := ""
			if up, ok := above[col]; c.merge == "continue" && ok {
				text = up
			} else {
				text = r.cell(c.node)
			}
			if c.merge != "" {
				now[col] = text
			}
			g.Cell(text, c.cols, 1)
			col += c.cols
		}
		g.Skip(rw.after)
		above = now
	}
	return g.Rows()
}

// cell returns what a cell, or a note, holds as one line of Markdown.
func (r *reader) cell(n *ooxml.Node) string {
	r.depth++
	defer func() { r.depth-- }()
	if r.depth > maxDepth {
		r.problem("tables or text boxes are nested deeper than %d", maxDepth)
		return ""
	}
	var parts []string
	add := func(s string) {
		if s = strings.Join(strings.Fields(s), " "); s != "" {
			parts = append(parts, s)
		}
	}
	var walk func(kids []*ooxml.Node, depth int)
	walk = func(kids []*ooxml.Node, depth int) {
		if depth > maxDepth {
			return
		}
		for _, k := range ooxml.Resolve(kids) {
			switch k.Name {
			case "w:p":
				p := r.read(k)
				boxes := r.boxes
				r.boxes = nil
				task := p.line.Task()
				text := p.line.Inline()
				switch {
				case text == "":
				case p.list != "" && p.label != "":
					text = p.label + " " + task + text
				case p.list != "" || task != "":
					text = "- " + task + text
				}
				add(text)
				for _, f := range p.display {
					add("$" + ooxml.LaTeX(f) + "$")
				}
				for _, b := range boxes {
					walk(b.Kids, depth+1)
				}
			case "w:tbl":
				add(r.nested(k))
			case "w:sdt":
				walk(k.Kid("w:sdtContent").KidsOf(), depth+1)
			case "w:customXml", "w:ins", "w:moveTo", "w:smartTag":
				walk(k.Kids, depth+1)
			case "m:oMathPara", "m:oMath":
				add("$" + ooxml.LaTeX(k) + "$")
			}
		}
	}
	walk(n.Kids, 0)
	return strings.Join(parts, " ")
}

// nested writes a table within a cell, where Markdown has no place for one:
// its rows one after the other.
func (r *reader) nested(n *ooxml.Node) string {
	var rows []string
	for _, rw := range r.rows(n) {
		var cells []string
		for _, c := range rw.cells {
			if c.merge == "continue" {
				continue
			}
			if t := r.cell(c.node); t != "" {
				cells = append(cells, t)
			}
		}
		if len(cells) > 0 {
			rows = append(rows, strings.Join(cells, ", "))
		}
	}
	return strings.Join(rows, "; ")
}
