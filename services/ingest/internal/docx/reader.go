package docx

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

// Reader reads DOCX files. It is safe for concurrent use.
type Reader struct{}

var _ doc.Reader = Reader{}

// Read reads a document. Errors: Corrupt (no archive, no document part),
// Invalid (over a limit, a zip or XML bomb), or a context that ended.
func (Reader) Read(ctx context.Context, r io.ReaderAt, size int64, opts doc.Options) (*doc.Document, error) {
	pkg, err := ooxml.Open(r, size, opts.Limits)
	if err != nil {
		return nil, err
	}
	opts.Limits = opts.Limits.WithDefaults()
	d := &doc.Document{Format: doc.DOCX, Title: pkg.Property("title"), Language: pkg.Property("language")}
	rd := &reader{
		ctx: ctx, pkg: pkg, opts: opts, doc: d, part: pkg.Main("word/document.xml"),
		pictures: &ooxml.Pictures{Package: pkg, Document: d, Options: opts},
	}
	rd.style = readStyles(rd.related("styles"))
	rd.lists = readNumbering(rd.related("numbering"), rd.style)
	if err := rd.body(); err != nil {
		return nil, err
	}
	rd.notes()
	d.Pages = []doc.Page{{Number: 1, Markdown: rd.w.String(), ReadBy: doc.ByText}}
	if len(d.Problems) > 0 {
		d.Pages[0].Err = d.Problems[0].Reason
	}
	if opts.Progress != nil {
		opts.Progress(1, 1)
	}
	return d, nil
}

// reader is the state of one reading.
type reader struct {
	ctx      context.Context
	pkg      *ooxml.Package
	opts     doc.Options
	doc      *doc.Document
	part     string // the part that relationships are looked up in
	style    styles
	lists    numbering
	pictures *ooxml.Pictures

	w      markup.Writer
	titled bool     // a title came before the first heading, which is then of level 2
	code   []string // lines of program text, not yet written
	fields []field
	// carry is text of a paragraph whose mark was deleted: it goes on in the next.
	carry markup.Line
	boxes []*ooxml.Node
	depth int

	noted    []note
	noteOf   map[string]int
	comments []note
}

// note is a note in order of its reference.
type note struct{ kind, id string }

// maxDepth bounds tables in tables and text boxes in text boxes.
const maxDepth = 40

// maxProblems is how many problems are told apart.
const maxProblems = 500

// related returns the tree of the part that the document is related to, nil if
// there is none; one that can't be read is a problem.
func (r *reader) related(typ string) *ooxml.Node {
	part := r.pkg.First(r.part, typ)
	if part == "" || !r.pkg.Has(part) {
		return nil
	}
	n, err := r.pkg.Tree(part)
	if err != nil {
		r.doc.AddProblem(0, err.Error())
		return nil
	}
	return n
}

// body writes the document's blocks. What can't be read after the first block
// is a problem, not an error: what was read stays.
func (r *reader) body() error {
	part, err := r.pkg.Open(r.part)
	if err != nil {
		if clara.KindOf(err) == clara.NotFound {
			return clara.Errorf(clara.Corrupt, "read the document: the archive has no part %q", r.part)
		}
		return err
	}
	defer part.Close()
	dec := ooxml.NewDecoder(part)
	ok, err := dec.Enter("w:document", "w:body")
	if err != nil {
		return err
	}
	if !ok {
		return clara.Errorf(clara.Corrupt, "read the document: part %q has no body", r.part)
	}
	for {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		n, err := dec.Next()
		if err != nil {
			if r.w.Len() == 0 || clara.IsContext(err) {
				return err
			}
			r.doc.AddProblem(0, "the document breaks off: "+err.Error())
			break
		}
		if n == nil {
			break
		}
		for _, k := range ooxml.Resolve([]*ooxml.Node{n}) {
			r.block(k)
		}
		if int64(r.w.Len()) > r.opts.Limits.MaxText {
			return clara.Errorf(clara.Invalid, "read the document: its text is larger than the limit of %d bytes", r.opts.Limits.MaxText)
		}
	}
	r.flushCode()
	if !r.carry.Blank() {
		r.w.Block(r.carry.Paragraph())
	}
	return nil
}

// blocks writes each of the elements.
func (r *reader) blocks(kids []*ooxml.Node) {
	r.depth++
	defer func() { r.depth-- }()
	if r.depth > maxDepth {
		r.problem("tables or text boxes are nested deeper than %d", maxDepth)
		return
	}
	for _, k := range ooxml.Resolve(kids) {
		r.block(k)
	}
}

func (r *reader) block(n *ooxml.Node) {
	switch n.Name {
	case "w:p":
		r.paragraph(n)
	case "w:tbl":
		r.flushCode()
		r.table(n)
	case "w:sdt":
		r.blocks(n.Kid("w:sdtContent").KidsOf())
	case "w:customXml", "w:ins", "w:moveTo", "w:smartTag":
		r.blocks(n.Kids)
	case "m:oMathPara", "m:oMath":
		r.flushCode()
		r.formula(n)
	case "w:altChunk":
		r.problem("an embedded document (altChunk) is not read")
	}
}

func (r *reader) formula(n *ooxml.Node) {
	if tex := ooxml.LaTeX(n); tex != "" {
		r.w.Block("$$" + tex + "$$")
	}
}

// paragraph writes one paragraph: heading, list item, program text or plain.
func (r *reader) paragraph(n *ooxml.Node) {
	p := r.read(n)
	boxes := r.boxes
	r.boxes = nil
	switch {
	case p.joined:
	case p.code:
		r.code = append(r.code, p.line.Text())
	case p.line.Blank() && p.display == nil:
		if len(r.code) > 0 {
			r.code = append(r.code, "")
		}
	default:
		r.flushCode()
		r.write(p)
	}
	if len(boxes) > 0 {
		r.flushCode()
	}
	for _, b := range boxes {
		r.blocks(b.Kids)
	}
}

func (r *reader) write(p para) {
	switch {
	case p.level == titleLevel:
		if !r.titled {
			r.titled = true
			if r.doc.Title == "" {
				r.doc.Title = p.line.Heading()
			}
		}
		r.w.Heading(1, p.line.Heading())
	case p.level < bodyLevel:
		text := p.line.Heading()
		if p.label != "" {
			text = p.label + " " + text
		}
		lvl := p.level + 1
		if r.titled {
			lvl++
		}
		r.w.Heading(lvl, text)
	case p.list != "":
		task := p.line.Task()
		r.w.Item(p.list, p.depth, markup.Marker(p.label), task+p.line.Inline())
	case p.line.Blank():
	default:
		if task := p.line.Task(); task != "" {
			r.w.Item("tasks", 0, markup.Bullet, task+p.line.Inline())
			break
		}
		r.w.Block(p.line.Paragraph())
	}
	for _, f := range p.display {
		r.formula(f)
	}
}

func (r *reader) flushCode() {
	if len(r.code) == 0 {
		return
	}
	r.w.CodeBlock("", strings.TrimRight(strings.Join(r.code, "\n"), "\n"))
	r.code = r.code[:0]
}

func (r *reader) problem(format string, args ...any) {
	if len(r.doc.Problems) > maxProblems {
		return
	}
	reason := fmt.Sprintf(format, args...)
	for _, p := range r.doc.Problems {
		if p.Reason == reason {
			return
		}
	}
	r.doc.AddProblem(0, reason)
}

// notes writes the notes that the text refers to, in that order.
func (r *reader) notes() {
	trees := map[string]map[string]*ooxml.Node{}
	parts := map[string]string{"footnote": "footnotes", "endnote": "endnotes", "comment": "comments"}
	main := r.part
	for i := 0; i < len(r.noted); i++ { // notes may refer to notes
		nt := r.noted[i]
		if trees[nt.kind] == nil {
			trees[nt.kind] = map[string]*ooxml.Node{}
			r.part = main
			if root := r.related(parts[nt.kind]); root != nil {
				for _, k := range root.Kids {
					trees[nt.kind][k.Attr("w:id")] = k
				}
			}
		}
		n := trees[nt.kind][nt.id]
		if n == nil {
			r.problem("%s %s is referred to but missing", nt.kind, nt.id)
			continue
		}
		r.part = r.pkg.First(main, parts[nt.kind])
		text := r.cell(n)
		if nt.kind == "comment" {
			if who := n.Attr("w:author"); who != "" {
				text = who + ": " + text
			}
		}
		if text == "" {
			continue
		}
		r.w.Block(fmt.Sprintf("[^%d]: %s", i+1, text))
	}
	r.part = main
}

// ref returns the reference of a note.
func (r *reader) ref(kind, id string) string {
	if r.noteOf == nil {
		r.noteOf = map[string]int{}
	}
	k := kind + " " + id
	if r.noteOf[k] == 0 {
		r.noted = append(r.noted, note{kind, id})
		r.noteOf[k] = len(r.noted)
	}
	return fmt.Sprintf("[^%d]", r.noteOf[k])
}
