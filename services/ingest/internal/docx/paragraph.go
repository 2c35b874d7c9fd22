package docx

import (
	"strconv"
	"strings"

	"github.com/clara-suite/clara/services/ingest/internal/markup"
	"github.com/clara-suite/clara/services/ingest/internal/ooxml"
)

// para is a paragraph as read.
type para struct {
	line  markup.Line
	level int    // outline level, titleLevel or bodyLevel
	list  string // id of the list, "" if it is no item
	depth int    // the item's level
	label string // its number as written, "" for a bullet
	code  bool
	// display are formulas that stand alone, after the text.
	display []*ooxml.Node
	// joined: the mark was deleted, the text goes on in the next paragraph.
	joined bool
}

// maxHeading is the length of a heading in bytes; what is longer and only
// outlined is a paragraph.
const maxHeading = 400

// read reads a paragraph and counts it in its list.
func (r *reader) read(n *ooxml.Node) para {
	pPr := n.Kid("w:pPr")
	style, ok := pPr.Val("w:pStyle")
	if !ok || r.style.byID[style] == nil {
		style = r.style.paragraph
	}
	p := para{level: r.style.heading(style), code: r.style.code(style)}
	if v, ok := pPr.Val("w:outlineLvl"); ok {
		if l, err := strconv.Atoi(v); err == nil && l >= 0 && l <= bodyLevel && p.level != titleLevel {
			p.level = l
		}
	}
	p.line.Append(r.carry)
	r.carry.Reset()
	in := inline{r: r, line: &p.line, para: &p}
	in.kids(n.Kids)
	in.end()
	if pPr.Kid("w:rPr", "w:del") != nil {
		r.carry, p.line, p.joined = p.line, markup.Line{}, true
		return p
	}
	if all, _ := p.line.Weight(); all > maxHeading {
		p.level = max(p.level, bodyLevel)
	}
	r.number(&p, pPr, style)
	return p
}

// number finds the paragraph's list and counts it.
func (r *reader) number(p *para, pPr *ooxml.Node, style string) {
	num, lvl, from := r.style.numbering(style)
	if direct := pPr.Kid("w:numPr"); direct != nil {
		if v, ok := direct.Val("w:numId"); ok {
			num, from = v, ""
		}
		if v, ok := direct.Val("w:ilvl"); ok {
			lvl, _ = strconv.Atoi(v)
		}
	}
	l := r.lists[num]
	if l == nil {
		return
	}
	if lvl < 0 {
		lvl = 0
		if from != "" {
			lvl = l.levelOf(from)
		}
	}
	lvl = min(max(lvl, 0), levels-1)
	p.list, p.depth, p.label = num, lvl, l.next(lvl)
}

// field is a field of which the end has not come.
type field struct {
	code   strings.Builder
	result bool // the code is over, what follows is the result
	drop   bool
	link   string
}

// inline reads the content of a paragraph into a line.
type inline struct {
	r    *reader
	line *markup.Line
	para *para
	link string
	// base is what the character style of a paragraph adds.
	depth int
}

func (in *inline) kids(kids []*ooxml.Node) {
	in.depth++
	defer func() { in.depth-- }()
	if in.depth > 2*maxDepth {
		return
	}
	for _, k := range ooxml.Resolve(kids) {
		in.element(k)
	}
}

func (in *inline) element(n *ooxml.Node) {
	switch n.Name {
	case "w:r":
		in.run(n)
	case "w:hyperlink":
		old := in.link
		if rel, ok := in.r.pkg.Rels(in.r.part)[n.Attr("r:id")]; ok && rel.External {
			in.link = markup.Link(withAnchor(rel.Target, n.Attr("w:anchor")), false)
		}
		in.kids(n.Kids)
		in.link = old
	case "w:fldSimple":
		in.begin()
		in.top().code.WriteString(n.Attr("w:instr"))
		in.separate()
		in.kids(n.Kids)
		in.endField()
	case "w:sdt":
		in.kids(n.Kid("w:sdtContent").KidsOf())
	case "w:ins", "w:moveTo", "w:smartTag", "w:customXml", "w:dir", "w:bdo":
		in.kids(n.Kids)
	case "m:oMathPara":
		in.display(n)
	case "m:oMath":
		if tex := ooxml.LaTeX(n); tex != "" {
			in.line.AddRaw("$" + tex + "$")
		}
	case "w:p": // broken nesting: its text is not to be lost
		in.kids(n.Kids)
	}
}

// display is a formula on a line of its own. In the middle of text it stays there.
func (in *inline) display(n *ooxml.Node) {
	if in.para != nil && in.para.level >= bodyLevel {
		if in.line.Blank() {
			in.para.display = append(in.para.display, n)
			return
		}
	}
	if tex := ooxml.LaTeX(n); tex != "" {
		in.line.AddRaw(" $$" + tex + "$$ ")
	}
}

func withAnchor(target, anchor string) string {
	if anchor != "" && !strings.Contains(target, "#") {
		return target + "#" + anchor
	}
	return target
}

// run reads a run: text of one format, with all that may stand in it.
func (in *inline) run(n *ooxml.Node) {
	rPr := n.Kid("w:rPr")
	if rPr.On("w:vanish") || rPr.Kid("w:del") != nil {
		in.fieldChars(n) // hidden text still opens and closes fields
		return
	}
	s := in.format(rPr)
	font := rPr.Kid("w:rFonts").Attr("w:ascii")
	for _, k := range ooxml.Resolve(n.Kids) {
		switch k.Name {
		case "w:t":
			in.text(symbols(font, k.Text), s)
		case "w:tab", "w:ptab":
			in.text("\t", s)
		case "w:br", "w:cr":
			if t := k.Attr("w:type"); t == "" || t == "textWrapping" {
				in.text("\n", s)
			}
		case "w:noBreakHyphen":
			in.text("-", s)
		case "w:sym":
			in.text(symbol(k.Attr("w:font"), k.Attr("w:char")), s)
		case "w:fldChar", "w:instrText":
			in.fieldChar(k)
		case "w:footnoteReference":
			in.raw(in.r.ref("footnote", k.Attr("w:id")))
		case "w:endnoteReference":
			in.raw(in.r.ref("endnote", k.Attr("w:id")))
		case "w:commentReference":
			if in.r.opts.Comments {
				in.raw(in.r.ref("comment", k.Attr("w:id")))
			}
		case "w:drawing", "w:pict", "w:object":
			in.drawing(k)
		case "w:ruby":
			in.kids(k.Kid("w:rubyBase").KidsOf())
		case "m:oMath", "m:oMathPara":
			in.element(k)
		case "w:r":
			in.run(k)
		}
	}
}

// format returns how a run looks, by itself and by its character style: what a
// paragraph style makes of a whole paragraph is not emphasis.
func (in *inline) format(rPr *ooxml.Node) markup.Style {
	id, _ := rPr.Val("w:rStyle")
	on := func(name string) bool {
		if _, ok := rPr.Val(name); ok {
			return rPr.On(name)
		}
		set := false
		in.r.style.chain(id, func(st *style) bool {
			_, ok := st.rPr.Val(name)
			if ok && st.kind == "character" {
				set = st.rPr.On(name)
			}
			return !ok
		})
		return set
	}
	s := markup.Style{Bold: on("w:b"), Italic: on("w:i"), Strike: on("w:strike") || on("w:dstrike"), Link: in.link}
	if l := in.fieldLink(); l != "" {
		s.Link = l
	}
	switch v, _ := rPr.Val("w:vertAlign"); v {
	case "superscript":
		s.Script = 1
	case "subscript":
		s.Script = -1
	}
	if id != "" {
		in.r.style.chain(id, func(st *style) bool {
			switch st.name {
			case "verbatim char", "html code", "html typewriter", "code char", "inline code", "source code char":
				s.Code, s.Bold, s.Italic = true, false, false
			}
			return !s.Code
		})
	}
	return s
}

// text appends text unless it is part of a field's code or of a dropped result.
func (in *inline) text(t string, s markup.Style) {
	for i := range in.r.fields {
		if !in.r.fields[i].result || in.r.fields[i].drop {
			return
		}
	}
	in.line.Add(t, s)
}

func (in *inline) raw(md string) {
	for i := range in.r.fields {
		if !in.r.fields[i].result || in.r.fields[i].drop {
			return
		}
	}
	in.line.AddRaw(md)
}

func (in *inline) fieldChars(n *ooxml.Node) {
	for _, k := range n.Kids {
		if k.Name == "w:fldChar" || k.Name == "w:instrText" {
			in.fieldChar(k)
		}
	}
}

func (in *inline) fieldChar(k *ooxml.Node) {
	if k.Name == "w:instrText" {
		if f := in.top(); f != nil && !f.result {
			f.code.WriteString(k.Text)
		}
		return
	}
	switch k.Attr("w:fldCharType") {
	case "begin":
		in.begin()
	case "separate":
		in.separate()
	case "end":
		in.endField()
	}
}

func (in *inline) begin() {
	if len(in.r.fields) < maxDepth {
		in.r.fields = append(in.r.fields, field{})
	}
}

func (in *inline) top() *field {
	if n := len(in.r.fields); n > 0 {
		return &in.r.fields[n-1]
	}
	return nil
}

func (in *inline) separate() {
	f := in.top()
	if f == nil {
		return
	}
	f.result = true
	words := strings.Fields(f.code.String())
	if len(words) == 0 {
		return
	}
	switch strings.ToUpper(words[0]) {
	case "PAGE", "PAGEREF", "NUMPAGES", "SECTIONPAGES":
		f.drop = true // numbers of pages that the Markdown does not have
	case "HYPERLINK":
		for i, w := range words[1:] {
			if w == `\l` && i+2 < len(words) {
				break // a place in the document
			}
			if !strings.HasPrefix(w, `\`) {
				f.link = markup.Link(strings.Trim(w, `"`), false)
				break
			}
		}
	}
}

func (in *inline) endField() {
	if n := len(in.r.fields); n > 0 {
		in.r.fields = in.r.fields[:n-1]
	}
}

func (in *inline) fieldLink() string {
	for i := len(in.r.fields) - 1; i >= 0; i-- {
		if l := in.r.fields[i].link; l != "" {
			return l
		}
	}
	return ""
}

// end drops fields of which the code never ended: a broken one must not
// swallow the rest of the document.
func (in *inline) end() {
	for i := range in.r.fields {
		if !in.r.fields[i].result {
			in.r.fields = in.r.fields[:i]
			return
		}
	}
}

// drawing reads a drawing: its pictures stand in the text, its text boxes
// after the paragraph, its chart or diagram after the paragraph too.
func (in *inline) drawing(n *ooxml.Node) {
	alt := ""
	if p := n.Find("wp:docPr"); p != nil {
		if alt = p.Attr("descr"); alt == "" {
			alt = p.Attr("title")
		}
	}
	in.shapes(n, alt, 0)
}

func (in *inline) shapes(n *ooxml.Node, alt string, depth int) {
	if depth > 4*maxDepth {
		return
	}
	for _, k := range ooxml.Resolve(n.Kids) {
		switch k.Name {
		case "a:blip":
			in.picture(k.Attr("r:embed"), alt)
		case "v:imagedata":
			if a := k.Attr("o:title"); alt == "" {
				alt = a
			}
			in.picture(k.Attr("r:id"), alt)
		case "w:txbxContent":
			in.r.boxes = append(in.r.boxes, k)
		case "pic:pic":
			if a := k.Kid("pic:nvPicPr", "pic:cNvPr").Attr("descr"); a != "" {
				in.shapes(k, a, depth+1)
				continue
			}
			in.shapes(k, alt, depth+1)
		case "c:chart":
			in.chart(k.Attr("r:id"))
		case "dgm:relIds":
			in.diagram(k.Attr("r:dm"))
		default:
			in.shapes(k, alt, depth+1)
		}
	}
}

func (in *inline) picture(id, alt string) {
	in.raw(in.r.pictures.Mark(in.r.ctx, in.r.part, id, alt, 1))
}

// chart and diagram become blocks that are written like text boxes.
func (in *inline) chart(id string) {
	rel, ok := in.r.pkg.Rels(in.r.part)[id]
	if !ok || rel.External {
		return
	}
	root, err := in.r.pkg.Tree(rel.Target)
	if err != nil {
		in.r.problem("chart %s: %v", rel.Target, err)
		return
	}
	in.r.boxes = append(in.r.boxes, chartBlocks(ooxml.ReadChart(root)))
}

func (in *inline) diagram(id string) {
	rel, ok := in.r.pkg.Rels(in.r.part)[id]
	if !ok || rel.External {
		return
	}
	root, err := in.r.pkg.Tree(rel.Target)
	if err != nil {
		in.r.problem("diagram %s: %v", rel.Target, err)
		return
	}
	box := &ooxml.Node{Name: "w:txbxContent"}
	for _, t := range ooxml.ReadDiagram(root) {
		box.Kids = append(box.Kids, textParagraph(t.Text))
	}
	in.r.boxes = append(in.r.boxes, box)
}

// chartBlocks writes a chart in the elements of a document, so that it goes
// the way of every other table.
func chartBlocks(c ooxml.Chart) *ooxml.Node {
	box := &ooxml.Node{Name: "w:txbxContent"}
	if c.Title != "" {
		box.Kids = append(box.Kids, textParagraph(c.Title))
	}
	if c.Kind != "" {
		box.Kids = append(box.Kids, textParagraph(c.Kind))
	}
	if len(c.Rows) > 0 {
		tbl := &ooxml.Node{Name: "w:tbl"}
		for _, row := range c.Rows {
			tr := &ooxml.Node{Name: "w:tr"}
			for _, cell := range row {
				tr.Kids = append(tr.Kids, &ooxml.Node{Name: "w:tc", Kids: []*ooxml.Node{textParagraph(cell)}})
			}
			tbl.Kids = append(tbl.Kids, tr)
		}
		box.Kids = append(box.Kids, tbl)
	}
	return box
}

func textParagraph(s string) *ooxml.Node {
	return &ooxml.Node{Name: "w:p", Kids: []*ooxml.Node{{Name: "w:r", Kids: []*ooxml.Node{{Name: "w:t", Text: s}}}}}
}

// symbols returns text of a font whose letters look like signs as those signs;
// of any other font as it is.
func symbols(font, s string) string {
	if f := strings.ToLower(font); f != "wingdings" && f != "symbol" {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		c := r
		if r > ' ' && r <= 0xff {
			c = 0xf000 + r
		}
		if t := symbol(font, strconv.FormatInt(int64(c), 16)); t != "" {
			b.WriteString(t)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// symbol returns the character of a symbol font.
func symbol(font, char string) string {
	n, err := strconv.ParseUint(char, 16, 32)
	if err != nil {
		return ""
	}
	r := rune(n)
	if r < 0xf000 || r > 0xf0ff {
		return string(r)
	}
	c := byte(r - 0xf000)
	switch f := strings.ToLower(font); {
	case strings.HasPrefix(f, "wingdings"):
		if s, ok := wingdings[c]; ok && f == "wingdings" {
			return s
		}
		return ""
	case f == "symbol":
		if s, ok := symbolFont[c]; ok {
			return s
		}
	}
	if c >= 0x20 && c < 0x7f {
		return string(rune(c))
	}
	return ""
}

var wingdings = map[byte]string{
	0x4a: "☺", 0x6c: "●", 0x6e: "■", 0x6f: "□", 0x71: "❑", 0x76: "❖", 0xa7: "▪", 0xa8: "☐", 0xd8: "➢", 0xdf: "←", 0xe0: "→",
	0xe1: "↑", 0xe2: "↓", 0xe8: "➔", 0xf0: "⇨", 0xf3: "⇔", 0xfb: "✗", 0xfc: "✓", 0xfd: "☒", 0xfe: "☑",
}

var symbolFont = map[byte]string{
	'a': "α", 'b': "β", 'c': "χ", 'd': "δ", 'e': "ε", 'f': "φ", 'g': "γ", 'h': "η", 'i': "ι", 'k': "κ", 'l': "λ", 'm': "μ",
	'n': "ν", 'o': "ο", 'p': "π", 'q': "θ", 'r': "ρ", 's': "σ", 't': "τ", 'u': "υ", 'w': "ω", 'x': "ξ", 'y': "ψ", 'z': "ζ",
	'D': "Δ", 'F': "Φ", 'G': "Γ", 'L': "Λ", 'P': "Π", 'Q': "Θ", 'S': "Σ", 'W': "Ω", 'X': "Ξ", 'Y': "Ψ",
	0xa3: "≤", 0xa5: "∞", 0xac: "←", 0xad: "↑", 0xae: "→", 0xaf: "↓", 0xb0: "°", 0xb1: "±", 0xb3: "≥", 0xb4: "×", 0xb7: "•",
	0xb9: "≠", 0xba: "≡", 0xbb: "≈", 0xd2: "®", 0xd3: "©", 0xd4: "™", 0xde: "⇒", 0xe5: "∑", 0xf2: "∫",
}
