package pptx

import (
	"sort"
	"strconv"

	"github.com/clara-suite/clara/services/ingest/internal/ooxml"
)

// shape is a shape with its place on the slide, in EMU (914,400 an inch).
type shape struct {
	node       *ooxml.Node
	ph         *placeholder
	x, y, w, h float64
	placed     bool
}

// placeholder is the slot of the layout that a shape fills.
type placeholder struct{ typ, idx string }

func (s shape) title() bool {
	return s.ph != nil && (s.ph.typ == "title" || s.ph.typ == "ctrTitle")
}

// transform maps a group's own coordinates to the slide's.
type transform struct{ sx, sy, dx, dy float64 }

var identity = transform{1, 1, 0, 0}

// collect lists the shapes that show something, those of groups in the place
// of the group. Dates, footers and slide numbers are not among them.
func (s *slide) collect(kids []*ooxml.Node, t transform, depth int) []shape {
	var out []shape
	if depth > maxDepth {
		return nil
	}
	for _, n := range ooxml.Resolve(kids) {
		switch n.Name {
		case "p:grpSp":
			if hidden(n) {
				continue
			}
			out = append(out, s.collect(n.Kids, groupTransform(n, t), depth+1)...)
		case "p:sp", "p:pic", "p:graphicFrame", "p:cxnSp":
			if hidden(n) {
				continue
			}
			sh := shape{node: n, ph: readPlaceholder(n)}
			if sh.ph != nil {
				switch sh.ph.typ {
				case "dt", "ftr", "sldNum", "hdr", "sldImg":
					continue
				}
			}
			xfrm := n.Kid("p:spPr", "a:xfrm")
			if n.Name == "p:graphicFrame" {
				xfrm = n.Kid("p:xfrm")
			}
			if xfrm == nil && sh.ph != nil && s.layout != nil {
				xfrm = s.layout.place(*sh.ph)
			}
			if off := xfrm.Kid("a:off"); off != nil {
				ext := xfrm.Kid("a:ext")
				sh.x, sh.y = t.dx+t.sx*float(off, "x"), t.dy+t.sy*float(off, "y")
				sh.w, sh.h = t.sx*float(ext, "cx"), t.sy*float(ext, "cy")
				sh.placed = true
			}
			out = append(out, sh)
		}
	}
	return out
}

func groupTransform(n *ooxml.Node, t transform) transform {
	x := n.Kid("p:grpSpPr", "a:xfrm")
	off, ext, chOff, chExt := x.Kid("a:off"), x.Kid("a:ext"), x.Kid("a:chOff"), x.Kid("a:chExt")
	if off == nil || chOff == nil {
		return t
	}
	sx, sy := 1.0, 1.0
	if w := float(chExt, "cx"); w > 0 {
		sx = float(ext, "cx") / w
	}
	if h := float(chExt, "cy"); h > 0 {
		sy = float(ext, "cy") / h
	}
	// slide = t(off + s*(p - chOff))
	return transform{
		sx: t.sx * sx, sy: t.sy * sy,
		dx: t.dx + t.sx*(float(off, "x")-sx*float(chOff, "x")),
		dy: t.dy + t.sy*(float(off, "y")-sy*float(chOff, "y")),
	}
}

func hidden(n *ooxml.Node) bool {
	for _, k := range n.Kids {
		if c := k.Kid("p:cNvPr"); c != nil {
			return on(c, "hidden")
		}
	}
	return false
}

func readPlaceholder(n *ooxml.Node) *placeholder {
	for _, k := range n.Kids {
		if ph := k.Kid("p:nvPr", "p:ph"); ph != nil {
			p := &placeholder{typ: ph.Attr("type"), idx: ph.Attr("idx")}
			if p.typ == "" {
				p.typ = "obj"
			}
			return p
		}
	}
	return nil
}

// near is how far the tops of shapes on one line may be apart: a quarter inch.
const near = 228_600

// order sorts shapes as they are read: the title, then line by line, each from
// left to right. Shapes without a place keep theirs in the file.
func order(shapes []shape) {
	left, top := 0.0, 0.0
	for i := range shapes { // a shape without a place stays after the one before it
		if shapes[i].placed {
			left, top = shapes[i].x, shapes[i].y
		} else {
			shapes[i].x, shapes[i].y = left, top
		}
	}
	sort.SliceStable(shapes, func(i, j int) bool {
		if a, b := shapes[i].title(), shapes[j].title(); a != b {
			return a
		}
		return shapes[i].y < shapes[j].y
	})
	for start := 0; start < len(shapes); {
		end := start + 1
		for end < len(shapes) && shapes[end].title() == shapes[start].title() && shapes[end].y-shapes[start].y < near {
			end++
		}
		line := shapes[start:end]
		sort.SliceStable(line, func(i, j int) bool { return line[i].x < line[j].x })
		start = end
	}
}

func float(n *ooxml.Node, name string) float64 {
	f, _ := strconv.ParseFloat(n.Attr(name), 64)
	return f
}

func number(n *ooxml.Node, name string) int {
	i, _ := strconv.Atoi(n.Attr(name))
	return i
}

func on(n *ooxml.Node, name string) bool {
	v := n.Attr(name)
	return v == "1" || v == "true"
}

// sheet is a layout or a master: what slides inherit from.
type sheet struct {
	shapes []*ooxml.Node
	phs    []placeholder
	// styles are the master's text styles, nil for a layout.
	styles *ooxml.Node
	parent *sheet
}

// sheet reads a layout or master once. A broken one is as good as none.
func (p *presentation) sheet(part string) *sheet {
	if part == "" {
		return nil
	}
	if s, ok := p.sheets[part]; ok {
		return s
	}
	p.sheets[part] = nil // a ring of layouts ends here
	root, err := p.pkg.Tree(part)
	if err != nil {
		return nil
	}
	s := &sheet{styles: root.Kid("p:txStyles")}
	for _, n := range ooxml.Resolve(root.Kid("p:cSld", "p:spTree").KidsOf()) {
		if ph := readPlaceholder(n); ph != nil {
			s.shapes, s.phs = append(s.shapes, n), append(s.phs, *ph)
		}
	}
	if s.styles == nil {
		s.parent = p.sheet(p.pkg.First(part, "slideMaster"))
	}
	p.sheets[part] = s
	return s
}

// match returns the sheet's shape for a placeholder: by index on a layout,
// by type on a master.
func (s *sheet) match(ph placeholder) *ooxml.Node {
	if s.styles == nil {
		for i, p := range s.phs {
			if kin(p.typ) == kin(ph.typ) && (index(p.idx) == index(ph.idx) || kin(p.typ) == "title") {
				return s.shapes[i]
			}
		}
		return nil
	}
	for i, p := range s.phs {
		if p.typ == ph.typ || kin(p.typ) == kin(ph.typ) {
			return s.shapes[i]
		}
	}
	return nil
}

// index is a placeholder's index; none is 0.
func index(s string) string {
	if s == "" {
		return "0"
	}
	return s
}

// kin is the kind of the master's placeholder that a type inherits from.
func kin(typ string) string {
	switch typ {
	case "ctrTitle", "title":
		return "title"
	case "dt", "ftr", "sldNum", "hdr":
		return typ
	}
	return "body"
}

// place returns the position that a placeholder inherits.
func (s *sheet) place(ph placeholder) *ooxml.Node {
	for range 2 {
		if s == nil {
			return nil
		}
		if n := s.match(ph); n != nil {
			if x := n.Kid("p:spPr", "a:xfrm"); x != nil {
				return x
			}
		}
		s = s.parent
	}
	return nil
}
