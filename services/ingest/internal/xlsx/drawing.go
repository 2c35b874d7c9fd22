package xlsx

import (
	"context"
	"strings"

	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/markup"
	"github.com/clara-suite/clara/services/ingest/internal/ooxml"
)

// drawings writes what lies on the sheets of a workbook.
type drawings struct {
	ctx  context.Context
	pkg  *ooxml.Package
	doc  *doc.Document
	opts doc.Options
	// parts are the parts of the sheets by their names.
	parts map[string]string
	// charts are the sheets that are a chart and have no cells.
	charts   map[string]bool
	pictures ooxml.Pictures
}

func newDrawings(ctx context.Context, pkg *ooxml.Package, d *doc.Document, opts doc.Options) *drawings {
	out := &drawings{ctx: ctx, pkg: pkg, doc: d, opts: opts, parts: map[string]string{}, charts: map[string]bool{}}
	out.pictures = ooxml.Pictures{Package: pkg, Document: d, Options: opts}
	main := pkg.Main("xl/workbook.xml")
	book, err := pkg.Tree(main)
	if err != nil {
		return out // the cells are read all the same
	}
	rels := pkg.Rels(main)
	for _, s := range book.Kid("x:sheets").KidsOf() {
		if rel := rels[s.Attr("r:id")]; !rel.External {
			out.parts[s.Attr("name")] = rel.Target
			out.charts[s.Attr("name")] = rel.Type == "chartsheet"
		}
	}
	return out
}

// write writes what is drawn on a sheet, in the order of the file, and its
// comments where they are asked for. A part that can't be read is a problem.
func (d *drawings) write(w *markup.Writer, sheet string, page int) error {
	part := d.parts[sheet]
	if part == "" {
		return nil
	}
	if at := d.pkg.First(part, "drawing"); at != "" {
		root, err := d.pkg.Tree(at)
		if err != nil {
			d.doc.AddProblem(page, "drawing: "+err.Error())
		} else {
			d.shapes(w, at, root.Kids, page, 0)
		}
	}
	if d.opts.Comments {
		d.comments(w, part, page)
	}
	return d.ctx.Err()
}

// maxDepth bounds groups within groups.
const maxDepth = 64

func (d *drawings) shapes(w *markup.Writer, part string, kids []*ooxml.Node, page, depth int) {
	if depth > maxDepth {
		return
	}
	for _, n := range ooxml.Resolve(kids) {
		switch n.Name {
		case "xdr:twoCellAnchor", "xdr:oneCellAnchor", "xdr:absoluteAnchor", "xdr:grpSp":
			d.shapes(w, part, n.Kids, page, depth+1)
		case "xdr:sp":
			for _, p := range n.Kid("xdr:txBody").KidsOf() {
				if t := ooxml.DrawingText(&ooxml.Node{Kids: []*ooxml.Node{p}}); t != "" {
					w.Block(doc.Escape(t))
				}
			}
		case "xdr:pic":
			alt := ""
			if c := n.Find("xdr:cNvPr"); c != nil {
				alt = c.Attr("descr")
			}
			w.Block(d.pictures.Mark(d.ctx, part, n.Kid("xdr:blipFill", "a:blip").Attr("r:embed"), alt, page))
		case "xdr:graphicFrame":
			if c := n.Find("c:chart"); c != nil {
				d.chart(w, part, c.Attr("r:id"), page)
			}
		}
	}
}

func (d *drawings) chart(w *markup.Writer, part, id string, page int) {
	rel, ok := d.pkg.Rels(part)[id]
	if !ok || rel.External {
		return
	}
	root, err := d.pkg.Tree(rel.Target)
	if err != nil {
		d.doc.AddProblem(page, "chart: "+err.Error())
		return
	}
	c := ooxml.ReadChart(root)
	w.Block(doc.Escape(c.Title))
	w.Block(c.Kind)
	for _, row := range c.Rows {
		for i := range row {
			row[i] = escape(row[i])
		}
	}
	w.Table(c.Rows)
}

// comments writes notes and, where a sheet has them, threads of comments, of
// which the notes are then only a copy for old programs.
func (d *drawings) comments(w *markup.Writer, sheet string, page int) {
	part, list, item := d.pkg.First(sheet, "threadedComment"), "", "xtc:threadedComment"
	if part == "" {
		part, list, item = d.pkg.First(sheet, "comments"), "x:commentList", "x:comment"
	}
	if part == "" {
		return
	}
	root, err := d.pkg.Tree(part)
	if err != nil {
		d.doc.AddProblem(page, "comments: "+err.Error())
		return
	}
	if list != "" {
		root = root.Kid(list)
	}
	for _, c := range root.KidsOf() {
		if c.Name != item {
			continue
		}
		var text strings.Builder
		if t := c.Kid("xtc:text"); t != nil {
			text.WriteString(t.Text)
		}
		c.Kid("x:text").All("x:t", func(t *ooxml.Node) { text.WriteString(t.Text) })
		if s := strings.TrimSpace(text.String()); s != "" {
			where := ""
			if ref := c.Attr("ref"); ref != "" {
				where = " at " + ref
			}
			w.Block(doc.Escape("Comment" + where + ": " + strings.Join(strings.Fields(s), " ")))
		}
	}
}
