package html

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/html"

	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/markup"
)

// table writes a table; one that only arranges the page is written as the
// blocks in its cells.
func (c *converter) table(n *html.Node) {
	c.flush()
	rows, caption := tableRows(n)
	if layout(n, rows) {
		for _, r := range rows {
			for _, cell := range r {
				c.children(cell)
				c.flush()
			}
		}
		return
	}
	if caption != nil {
		c.children(caption)
		c.flush()
	}
	var g markup.Grid
	for _, r := range rows {
		g.Row()
		for _, cell := range r {
			cols, _ := strconv.Atoi(attr(cell, "colspan"))
			span, err := strconv.Atoi(attr(cell, "rowspan"))
			if err == nil && span == 0 {
				span = len(rows) // to the end of the table
			}
			g.Cell(c.cell(cell), cols, min(span, len(rows)))
		}
	}
	out := g.Rows()
	if len(out) > len(rows) {
		out = out[:len(rows)]
	}
	if len(out) == 1 && len(out[0]) == 1 {
		c.block(out[0][0])
		return
	}
	c.block(doc.Table(out))
}

// tableRows returns the cells of a table's own rows, head first and foot last.
func tableRows(n *html.Node) (rows [][]*html.Node, caption *html.Node) {
	var head, body, foot [][]*html.Node
	row := func(tr *html.Node) []*html.Node {
		var cells []*html.Node
		for k := tr.FirstChild; k != nil; k = k.NextSibling {
			if k.Data == "td" || k.Data == "th" {
				if !skipped(k) {
					cells = append(cells, k)
				}
			}
		}
		return cells
	}
	for k := n.FirstChild; k != nil; k = k.NextSibling {
		if k.Type != html.ElementNode || skipped(k) {
			continue
		}
		switch k.Data {
		case "caption":
			caption = k
		case "tr":
			body = append(body, row(k))
		case "thead", "tbody", "tfoot":
			for tr := k.FirstChild; tr != nil; tr = tr.NextSibling {
				if tr.Data != "tr" || skipped(tr) {
					continue
				}
				switch k.Data {
				case "thead":
					head = append(head, row(tr))
				case "tfoot":
					foot = append(foot, row(tr))
				default:
					body = append(body, row(tr))
				}
			}
		}
	}
	return append(append(head, body...), foot...), caption
}

// layout reports whether a table only arranges the page.
func layout(n *html.Node, rows [][]*html.Node) bool {
	if r := attr(n, "role"); r == "presentation" || r == "none" {
		return true
	}
	wide, heads, blocks := 0, false, false
	short := len(rows) > 1 && len(rows[0]) > 1
	for _, r := range rows {
		short = short && len(r) == len(rows[0])
		wide = max(wide, len(r))
		for _, cell := range r {
			heads = heads || cell.Data == "th"
			short = short && brief(cell)
			if !blocks && find(cell, func(k *html.Node) bool {
				switch k.Data {
				case "table", "h1", "h2", "h3", "h4", "section", "article":
					return true
				}
				return false
			}) != nil {
				blocks = true
			}
		}
	}
	return wide <= 1 && len(rows) <= 1 || blocks && !heads && !short
}

// maxBrief is the longest text of a cell, in characters, that a table with
// headings or tables in its cells may have and still be one of data.
const maxBrief = 200

// brief reports whether a cell holds no more than a value does: little text,
// one heading at most, and nothing that belongs to the page around.
func brief(cell *html.Node) bool {
	size, heads := 0, 0
	for k := range cell.Descendants() {
		if k.Type == html.TextNode {
			size += utf8.RuneCountInString(strings.TrimSpace(k.Data))
		}
		switch k.Data {
		case "h1", "h2", "h3", "h4":
			heads++
		case "section", "article", "nav", "form", "input", "main", "iframe":
			return false
		}
	}
	return size <= maxBrief && heads <= 1
}

// cell returns the content of a cell as one line.
func (c *converter) cell(n *html.Node) string {
	if t := find(n, func(k *html.Node) bool { return k.Data == "table" }); t != nil {
		return c.nested(n)
	}
	md := c.apart(n)
	var lines []string
	for l := range strings.SplitSeq(md, "\n") {
		l = strings.TrimSpace(strings.TrimLeft(strings.TrimSpace(l), "#>"))
		if l != "" && !strings.HasPrefix(l, "```") {
			lines = append(lines, l)
		}
	}
	return strings.Join(lines, " ")
}

// nested writes a cell that holds tables: their rows one after the other.
func (c *converter) nested(n *html.Node) string {
	var parts []string
	for k := n.FirstChild; k != nil; k = k.NextSibling {
		switch {
		case k.Data == "table" && k.Type == html.ElementNode:
			rows, _ := tableRows(k)
			var out []string
			for _, r := range rows {
				var cells []string
				for _, cell := range r {
					if t := c.cell(cell); t != "" {
						cells = append(cells, t)
					}
				}
				if len(cells) > 0 {
					out = append(out, strings.Join(cells, ", "))
				}
			}
			parts = append(parts, strings.Join(out, "; "))
		case k.Type == html.ElementNode && find(k, func(e *html.Node) bool { return e.Data == "table" }) != nil:
			parts = append(parts, c.nested(k))
		default:
			wrap := &html.Node{Type: html.ElementNode, Data: "span"}
			wrap.AppendChild(clone(k))
			parts = append(parts, c.apart(wrap))
		}
	}
	return strings.Join(strings.Fields(strings.Join(parts, " ")), " ")
}

func clone(n *html.Node) *html.Node {
	out := &html.Node{Type: n.Type, DataAtom: n.DataAtom, Data: n.Data, Namespace: n.Namespace, Attr: n.Attr}
	for k := n.FirstChild; k != nil; k = k.NextSibling {
		out.AppendChild(clone(k))
	}
	return out
}
