package pptx

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/markup"
	"github.com/clara-suite/clara/services/ingest/internal/ooxml"
)

// Reader reads PPTX files. It is safe for concurrent use.
type Reader struct{}

var _ doc.Reader = Reader{}

// Read reads a presentation, one page a slide. Errors: Corrupt (no archive, no
// presentation, no slide that can be read), Invalid (over a limit, a zip or XML
// bomb, no slides), or a context that ended. A slide that can't be read is a
// problem.
func (Reader) Read(ctx context.Context, r io.ReaderAt, size int64, opts doc.Options) (*doc.Document, error) {
	pkg, err := ooxml.Open(r, size, opts.Limits)
	if err != nil {
		return nil, err
	}
	opts.Limits = opts.Limits.WithDefaults()
	main := pkg.Main("ppt/presentation.xml")
	root, err := pkg.Tree(main)
	if err != nil {
		if clara.KindOf(err) == clara.NotFound {
			return nil, clara.Errorf(clara.Corrupt, "read the presentation: the archive has no part %q", main)
		}
		return nil, err
	}
	d := &doc.Document{Format: doc.PPTX, Title: pkg.Property("title"), Language: pkg.Property("language")}
	p := &presentation{
		ctx: ctx, pkg: pkg, opts: opts, doc: d, defaults: root.Kid("p:defaultTextStyle"), sheets: map[string]*sheet{},
		pictures: &ooxml.Pictures{Package: pkg, Document: d, Options: opts},
	}
	ids := root.Kid("p:sldIdLst").KidsOf()
	if len(ids) == 0 {
		return nil, clara.Errorf(clara.Invalid, "read the presentation: it has no slides")
	}
	rels := pkg.Rels(main)
	total := min(len(ids), opts.Limits.MaxPages)
	if len(ids) > total {
		d.AddProblem(0, fmt.Sprintf("the presentation has %d slides, only the first %d are read", len(ids), total))
	}
	var text int64
	var first error
	for i, id := range ids[:total] {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		page := doc.Page{Number: i + 1, ReadBy: doc.ByText}
		page.Markdown, err = p.slide(rels[id.Attr("r:id")].Target, i+1)
		if err != nil {
			if first == nil {
				first = err
			}
			page.ReadBy, page.Err = doc.ByNone, err.Error()
			d.AddProblem(i+1, err.Error())
		}
		if text += int64(len(page.Markdown)); text > opts.Limits.MaxText {
			return nil, clara.Errorf(clara.Invalid, "read the presentation: its text is larger than the limit of %d bytes", opts.Limits.MaxText)
		}
		d.Pages = append(d.Pages, page)
		if opts.Progress != nil {
			opts.Progress(i+1, total)
		}
	}
	if d.State() == doc.Failed && first != nil {
		return nil, first
	}
	return d, nil
}

// presentation is the state of one reading.
type presentation struct {
	ctx      context.Context
	pkg      *ooxml.Package
	opts     doc.Options
	doc      *doc.Document
	defaults *ooxml.Node
	sheets   map[string]*sheet
	pictures *ooxml.Pictures
}

// maxDepth bounds groups within groups.
const maxDepth = 64

// slide returns the Markdown of one slide and its notes.
func (p *presentation) slide(part string, number int) (string, error) {
	if part == "" {
		return "", clara.Errorf(clara.Corrupt, "slide %d is listed but not in the file", number)
	}
	root, err := p.pkg.Tree(part)
	if err != nil {
		return "", err
	}
	s := &slide{p: p, part: part, number: number, layout: p.sheet(p.pkg.First(part, "slideLayout"))}
	s.tree(root.Kid("p:cSld", "p:spTree"))
	if notes := p.pkg.First(part, "notesSlide"); notes != "" {
		if err := s.notes(notes); err != nil {
			p.doc.AddProblem(number, "speaker notes: "+err.Error())
		}
	}
	if p.opts.Comments {
		s.comments()
	}
	return s.w.String(), nil
}

// slide is the state of one slide.
type slide struct {
	p      *presentation
	part   string
	number int
	layout *sheet
	w      markup.Writer
	lists  int
}

// tree writes the shapes of a slide, the title first.
func (s *slide) tree(tree *ooxml.Node) {
	if tree == nil {
		return
	}
	shapes := s.collect(tree.Kids, identity, 0)
	order(shapes)
	for _, sh := range shapes {
		s.shape(sh)
	}
}

func (s *slide) shape(sh shape) {
	n := sh.node
	switch n.Name {
	case "p:pic":
		s.picture(n)
	case "p:graphicFrame":
		s.frame(n)
	default:
		if sh.title() {
			s.heading(n)
			return
		}
		s.text(sh)
		if id := n.Kid("p:spPr", "a:blipFill", "a:blip").Attr("r:embed"); id != "" {
			s.w.Block(s.mark(id, n))
		}
	}
}

func (s *slide) heading(n *ooxml.Node) {
	var l markup.Line
	for i, para := range s.paragraphs(n.Kid("p:txBody")) {
		if i > 0 {
			l.Add(" ", markup.Style{})
		}
		l.Append(para.line)
	}
	if text := l.Heading(); text != "" {
		s.w.Heading(1, text)
		if s.p.doc.Title == "" && s.number == 1 {
			s.p.doc.Title = text
		}
	}
}

func (s *slide) picture(n *ooxml.Node) {
	s.w.Block(s.mark(n.Kid("p:blipFill", "a:blip").Attr("r:embed"), n))
}

// mark stores a picture and returns its mark.
func (s *slide) mark(id string, n *ooxml.Node) string {
	alt := ""
	if c := n.Find("p:cNvPr"); c != nil {
		alt = c.Attr("descr")
	}
	return s.p.pictures.Mark(s.p.ctx, s.part, id, alt, s.number)
}

// frame writes a table, chart, diagram or the picture of an embedded object.
func (s *slide) frame(n *ooxml.Node) {
	data := n.Kid("a:graphic", "a:graphicData")
	for _, k := range ooxml.Resolve(data.KidsOf()) {
		switch k.Name {
		case "a:tbl":
			s.table(k)
		case "c:chart":
			s.related(k.Attr("r:id"), "chart", func(root *ooxml.Node) {
				c := ooxml.ReadChart(root)
				s.w.Block(doc.Escape(c.Title))
				s.w.Block(c.Kind)
				for _, row := range c.Rows {
					for i := range row {
						row[i] = plain(row[i])
					}
				}
				s.w.Table(c.Rows)
			})
		case "dgm:relIds":
			s.related(k.Attr("r:dm"), "diagram", func(root *ooxml.Node) {
				s.lists++
				for _, t := range ooxml.ReadDiagram(root) {
					s.w.Item(fmt.Sprint("diagram", s.lists), t.Depth, markup.Bullet, plain(t.Text))
				}
			})
		case "p:oleObj":
			if pic := k.Find("p:pic"); pic != nil {
				s.picture(pic)
			}
		}
	}
}

// plain escapes text that does not begin a line.
func plain(s string) string {
	var l markup.Line
	l.Add(s, markup.Style{})
	return l.Inline()
}

func (s *slide) related(id, what string, f func(*ooxml.Node)) {
	rel, ok := s.p.pkg.Rels(s.part)[id]
	if !ok || rel.External {
		return
	}
	root, err := s.p.pkg.Tree(rel.Target)
	if err != nil {
		s.p.doc.AddProblem(s.number, what+": "+err.Error())
		return
	}
	f(root)
}

func (s *slide) table(n *ooxml.Node) {
	var g markup.Grid
	for _, tr := range n.Kids {
		if tr.Name != "a:tr" {
			continue
		}
		g.Row()
		for _, tc := range tr.Kids {
			if tc.Name != "a:tc" || on(tc, "hMerge") || on(tc, "vMerge") {
				continue // covered by the cell that it is merged with
			}
			g.Cell(s.cell(tc.Kid("a:txBody")), number(tc, "gridSpan"), number(tc, "rowSpan"))
		}
	}
	s.w.Table(g.Rows())
}

func (s *slide) cell(body *ooxml.Node) string {
	var parts []string
	num := counter{}
	for _, para := range s.paragraphs(body) {
		text := para.line.Inline()
		if text == "" {
			continue
		}
		switch {
		case para.auto != "":
			text = num.next(para) + " " + text
		case para.bullet:
			text = "- " + text
		}
		parts = append(parts, text)
	}
	return strings.Join(strings.Fields(strings.Join(parts, " ")), " ")
}

// notes writes what the speaker's notes say, as paragraphs after "Notes:".
func (s *slide) notes(part string) error {
	root, err := s.p.pkg.Tree(part)
	if err != nil {
		return err
	}
	old := s.part
	s.part = part
	defer func() { s.part = old }()
	var texts []string
	for _, sh := range s.collect(root.Kid("p:cSld", "p:spTree").KidsOf(), identity, 0) {
		if sh.node.Name != "p:sp" || sh.ph != nil && sh.ph.typ != "body" {
			continue
		}
		for _, para := range s.paragraphs(sh.node.Kid("p:txBody")) {
			if t := para.line.Inline(); t != "" {
				texts = append(texts, t)
			}
		}
	}
	if len(texts) > 0 {
		s.w.Block("Notes: " + strings.Join(texts, "\n\n"))
	}
	return nil
}

// comments writes review comments.
func (s *slide) comments() {
	part := s.p.pkg.First(s.part, "comments")
	if part == "" {
		return
	}
	root, err := s.p.pkg.Tree(part)
	if err != nil {
		s.p.doc.AddProblem(s.number, "comments: "+err.Error())
		return
	}
	for _, c := range root.Kids {
		text := ""
		if t := c.Kid("p:text"); t != nil {
			text = t.Text
		} else {
			text = ooxml.DrawingText(c)
		}
		if text = strings.TrimSpace(text); text != "" {
			s.w.Block("Comment: " + plain(text))
		}
	}
}
