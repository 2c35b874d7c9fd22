package pptx

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/clara-suite/clara/services/ingest/internal/docx"
	"github.com/clara-suite/clara/services/ingest/internal/markup"
	"github.com/clara-suite/clara/services/ingest/internal/ooxml"
)

// para is a paragraph of a shape.
type para struct {
	line   markup.Line
	level  int
	bullet bool
	// auto is the kind of automatic number, "" for none.
	auto  string
	start int
}

// text writes the paragraphs of a shape.
func (s *slide) text(sh shape) {
	body := sh.node.Kid("p:txBody")
	if body == nil {
		return
	}
	s.lists++
	list := strconv.Itoa(s.lists)
	num := counter{}
	styles := s.inherited(sh)
	for _, p := range s.paragraphsOf(body, styles) {
		if p.line.Blank() {
			continue
		}
		switch {
		case p.auto != "":
			s.w.Item(fmt.Sprint(list, ".", num.run), p.level, markup.Marker(num.next(p)), p.line.Inline())
		case p.bullet:
			num.interrupt(p.level)
			s.w.Item(list, p.level, markup.Bullet, p.line.Inline())
		default:
			num.interrupt(-1)
			s.w.Block(p.line.Paragraph())
		}
	}
}

// paragraphs reads the text of a body that inherits nothing.
func (s *slide) paragraphs(body *ooxml.Node) []para { return s.paragraphsOf(body, nil) }

func (s *slide) paragraphsOf(body *ooxml.Node, styles []*ooxml.Node) []para {
	if body == nil {
		return nil
	}
	all := append([]*ooxml.Node{body.Kid("a:lstStyle")}, styles...)
	var out []para
	for _, n := range body.Kids {
		if n.Name != "a:p" {
			continue
		}
		p := para{}
		pPr := n.Kid("a:pPr")
		p.level = min(max(number(pPr, "lvl"), 0), 8)
		p.bullets(pPr, all)
		for _, k := range ooxml.Resolve(n.Kids) {
			s.run(&p.line, k)
		}
		out = append(out, p)
	}
	return out
}

// bullets finds the first statement about the paragraph's bullet.
func (p *para) bullets(pPr *ooxml.Node, styles []*ooxml.Node) {
	if p.bulletOf(pPr) {
		return
	}
	lvl := fmt.Sprintf("a:lvl%dpPr", p.level+1)
	for _, st := range styles {
		if p.bulletOf(st.Kid(lvl)) {
			return
		}
	}
}

func (p *para) bulletOf(pr *ooxml.Node) bool {
	for _, k := range pr.KidsOf() {
		switch k.Name {
		case "a:buNone":
			return true
		case "a:buChar", "a:buBlip":
			p.bullet = true
			return true
		case "a:buAutoNum":
			p.auto, p.start = k.Attr("type"), 1
			if v := number(k, "startAt"); v > 0 {
				p.start = v
			}
			return true
		}
	}
	return false
}

// inherited lists the list styles that a shape's text inherits, nearest first.
func (s *slide) inherited(sh shape) []*ooxml.Node {
	if sh.ph == nil {
		return []*ooxml.Node{s.p.defaults}
	}
	var out []*ooxml.Node
	at := s.layout
	for range 2 {
		if at == nil {
			break
		}
		if n := at.match(*sh.ph); n != nil {
			out = append(out, n.Kid("p:txBody", "a:lstStyle"))
		}
		if at.styles != nil {
			name := "p:bodyStyle"
			if kin(sh.ph.typ) == "title" {
				name = "p:titleStyle"
			}
			out = append(out, at.styles.Kid(name))
		}
		at = at.parent
	}
	return out
}

func (s *slide) run(l *markup.Line, k *ooxml.Node) {
	switch k.Name {
	case "a:r", "a:fld":
		rPr := k.Kid("a:rPr")
		if k.Name == "a:fld" && strings.HasPrefix(k.Attr("type"), "slidenum") {
			return
		}
		t := k.Kid("a:t")
		if t == nil {
			return
		}
		st := markup.Style{Bold: on(rPr, "b"), Italic: on(rPr, "i"), Strike: rPr.Has("strike") && rPr.Attr("strike") != "noStrike"}
		switch b := number(rPr, "baseline"); {
		case b > 0:
			st.Script = 1
		case b < 0:
			st.Script = -1
		}
		if id := rPr.Kid("a:hlinkClick").Attr("r:id"); id != "" {
			if rel := s.p.pkg.Rels(s.part)[id]; rel.External {
				st.Link = markup.Link(rel.Target, false)
			}
		}
		l.Add(unescape(t.Text), st)
	case "a:br":
		l.Add("\n", markup.Style{})
	case "a14:m":
		for _, m := range k.Kids {
			if tex := ooxml.LaTeX(m); tex != "" {
				l.AddRaw("$" + tex + "$")
			}
		}
	case "m:oMath", "m:oMathPara":
		if tex := ooxml.LaTeX(k); tex != "" {
			l.AddRaw("$" + tex + "$")
		}
	}
}

// unescape undoes _xHHHH_, by which the format writes control characters that
// XML has none for; all of them part lines.
func unescape(s string) string {
	if !strings.Contains(s, "_x00") {
		return s
	}
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(s, "_x00")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		s = after
		if len(after) >= 3 && after[2] == '_' {
			if n, err := strconv.ParseUint(after[:2], 16, 8); err == nil && n < ' ' {
				b.WriteByte('\n')
				s = after[3:]
				continue
			}
		}
		b.WriteString("_x00")
	}
}

// counter numbers paragraphs: a run of the same kind at a level counts on,
// deeper levels do not break it.
type counter struct {
	count [9]int
	kind  [9]string
	run   int
}

func (c *counter) next(p para) string {
	for i := p.level + 1; i < len(c.kind); i++ {
		c.kind[i] = ""
	}
	if kind := p.auto + strconv.Itoa(p.start); c.kind[p.level] != kind {
		c.kind[p.level], c.count[p.level] = kind, p.start
	} else {
		c.count[p.level]++
	}
	return label(c.count[p.level], p.auto)
}

// interrupt ends the numbering of a level and those below; -1 ends all.
func (c *counter) interrupt(level int) {
	for i := max(level, 0); i < len(c.kind); i++ {
		c.kind[i] = ""
	}
	if level < 0 {
		c.run++
	}
}

// label writes a number as ST_TextAutonumberScheme says.
func label(n int, kind string) string {
	format := "decimal"
	for _, f := range []struct{ prefix, format string }{
		{"alphaLc", "lowerLetter"}, {"alphaUc", "upperLetter"}, {"romanLc", "lowerRoman"}, {"romanUc", "upperRoman"},
		{"circleNum", "decimalEnclosedCircle"}, {"ea1Chs", "chineseCounting"}, {"ea1Cht", "chineseCounting"}, {"ea1Jpn", "chineseCounting"},
	} {
		if strings.HasPrefix(kind, f.prefix) {
			format = f.format
		}
	}
	s := docx.Number(n, format)
	switch {
	case strings.HasSuffix(kind, "ParenBoth"):
		return "(" + s + ")"
	case strings.HasSuffix(kind, "ParenR"):
		return s + ")"
	case strings.HasSuffix(kind, "Period"):
		return s + "."
	case strings.HasSuffix(kind, "Minus"):
		return s + "-"
	}
	return s
}
