package html

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"image"
	_ "image/gif"  // sizes of pictures
	_ "image/jpeg" // sizes of pictures
	_ "image/png"  // sizes of pictures
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/html"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/markup"
)

// converter writes a tree as Markdown.
type converter struct {
	ctx  context.Context
	doc  *doc.Document
	opts doc.Options
	w    markup.Writer
	line markup.Line
	// space: the line ends in white space, further such is not to be added.
	space bool
	style markup.Style
	lists int
	depth int
	// item is the open list item, of which the first line is not yet written.
	item *item
	err  error
}

type item struct {
	list   string
	level  int
	marker string
	begun  bool
}

// flush writes the line as a paragraph, or as (a part of) the open list item.
func (c *converter) flush() {
	line := c.line
	c.line, c.space = markup.Line{}, true
	if line.Blank() {
		return
	}
	if it := c.item; it != nil {
		if !it.begun {
			it.begun = true
			c.w.Item(it.list, it.level, it.marker, line.Inline())
			return
		}
		c.w.Continue(line.Paragraph())
		return
	}
	c.block(line.Paragraph())
}

// block writes a finished block where the text stands.
func (c *converter) block(md string) {
	if it := c.item; it != nil {
		if !it.begun && strings.TrimSpace(md) != "" {
			it.begun = true
			c.w.Item(it.list, it.level, it.marker, md)
			return
		}
		c.w.Continue(md)
		return
	}
	c.w.Block(md)
	if c.err == nil && int64(c.w.Len()) > c.opts.Limits.MaxText {
		c.err = clara.Errorf(clara.Invalid, "read the page: its text is larger than the limit of %d bytes", c.opts.Limits.MaxText)
	}
}

func (c *converter) children(n *html.Node) {
	c.depth++
	defer func() { c.depth-- }()
	if c.depth > maxDepth || c.err != nil {
		return
	}
	if err := c.ctx.Err(); err != nil {
		c.err = err
		return
	}
	for k := n.FirstChild; k != nil; k = k.NextSibling {
		c.node(k)
	}
}

func (c *converter) node(n *html.Node) {
	if n.Type == html.TextNode {
		c.text(n.Data)
		return
	}
	if n.Type != html.ElementNode {
		return
	}
	if n.Data == "script" && strings.HasPrefix(attr(n, "type"), "math/tex") && n.FirstChild != nil {
		c.formula(n.FirstChild.Data, strings.Contains(attr(n, "type"), "display"))
		return
	}
	if skipped(n) {
		return
	}
	switch n.Data {
	case "h1", "h2", "h3", "h4", "h5", "h6":
		c.heading(n)
	case "p", "div", "section", "article", "main", "header", "footer", "figure", "figcaption", "address", "details", "summary",
		"fieldset", "form", "legend", "center", "body", "hgroup", "nav", "aside", "dialog", "search", "caption", "tr", "tbody", "thead", "td", "th":
		c.flush()
		c.children(n)
		c.flush()
	case "br":
		c.line.Add("\n", c.style)
		c.space = true
	case "hr":
		c.flush()
	case "ul", "ol", "menu", "dir":
		c.list(n)
	case "li": // outside of a list
		c.flush()
		c.children(n)
		c.flush()
	case "dl":
		c.definitions(n)
	case "blockquote":
		c.quote(n)
	case "pre", "listing", "xmp":
		c.pre(n)
	case "table":
		c.table(n)
	case "img":
		c.image(n)
	case "math":
		c.math(n)
	case "a":
		c.styled(n, func(s *markup.Style) { s.Link = markup.Link(attr(n, "href"), true) })
	case "b", "strong":
		c.styled(n, func(s *markup.Style) { s.Bold = true })
	case "i", "em", "cite", "dfn", "var":
		c.styled(n, func(s *markup.Style) { s.Italic = true })
	case "s", "strike", "del":
		c.styled(n, func(s *markup.Style) { s.Strike = true })
	case "code", "kbd", "samp", "tt":
		c.styled(n, func(s *markup.Style) { s.Code = true })
	case "sup":
		c.styled(n, func(s *markup.Style) { s.Script = 1 })
	case "sub":
		c.styled(n, func(s *markup.Style) { s.Script = -1 })
	case "q":
		c.line.Add("“", c.style)
		c.space = false
		c.children(n)
		c.line.Add("”", c.style)
		c.space = false
	case "rt", "rp":
	default:
		c.children(n)
	}
}

func (c *converter) styled(n *html.Node, set func(*markup.Style)) {
	old := c.style
	set(&c.style)
	c.children(n)
	c.style = old
}

// text adds text with its white space collapsed, as a browser shows it.
func (c *converter) text(s string) {
	var b strings.Builder
	for _, r := range s {
		switch r {
		case ' ', '\t', '\n', '\r', '\f':
			if !c.space {
				b.WriteByte(' ')
				c.space = true
			}
		default:
			b.WriteRune(r)
			c.space = false
		}
	}
	c.line.Add(b.String(), c.style)
}

func (c *converter) heading(n *html.Node) {
	c.flush()
	old := c.style
	c.style = markup.Style{}
	c.children(n)
	c.style = old
	line := c.line
	c.line, c.space = markup.Line{}, true
	text := line.Heading()
	switch {
	case text == "":
	case c.item != nil: // a heading within a list item is its text
		c.block("**" + text + "**")
	default:
		c.w.Heading(int(n.Data[1]-'0'), text)
	}
}

func (c *converter) list(n *html.Node) {
	c.flush()
	outer := c.item
	if outer != nil && !outer.begun {
		// A list directly within an item that has no text takes its place.
		outer.begun = true
	}
	level := 0
	if outer != nil {
		level = outer.level + 1
	}
	c.lists++
	id := strconv.Itoa(c.lists)
	num, step := 1, 1
	if v, err := strconv.Atoi(attr(n, "start")); err == nil {
		num = v
	}
	if has(n, "reversed") {
		step = -1
		if attr(n, "start") == "" {
			num = 0
			for k := n.FirstChild; k != nil; k = k.NextSibling {
				if k.Data == "li" {
					num++
				}
			}
		}
	}
	for k := n.FirstChild; k != nil; k = k.NextSibling {
		if k.Type != html.ElementNode || skipped(k) {
			continue
		}
		marker := markup.Bullet
		if n.Data == "ol" && k.Data == "li" {
			if v, err := strconv.Atoi(attr(k, "value")); err == nil {
				num = v
			}
			marker = markup.Marker(ordinal(num, attr(n, "type")))
			num += step
		}
		c.item = &item{list: id, level: level, marker: marker}
		if k.Data == "ul" || k.Data == "ol" { // a list that is wrongly a child of a list
			c.item = &item{list: id, level: level, begun: true}
		}
		c.node2(k)
		c.flush()
	}
	c.item = outer
}

// node2 converts a child of a list: items are entered, all else is content.
func (c *converter) node2(k *html.Node) {
	if k.Data == "li" {
		c.children(k)
		return
	}
	c.node(k)
}

func ordinal(n int, typ string) string {
	switch typ {
	case "a", "A":
		if n >= 1 && n <= 26 {
			return string(rune(typ[0])+rune(n-1)) + "."
		}
	}
	return strconv.Itoa(n) + "."
}

func (c *converter) definitions(n *html.Node) {
	c.flush()
	outer := c.item
	level := 0
	if outer != nil {
		level = outer.level + 1
	}
	c.lists++
	id := strconv.Itoa(c.lists)
	var walk func(n *html.Node)
	walk = func(n *html.Node) {
		for k := n.FirstChild; k != nil; k = k.NextSibling {
			switch {
			case k.Type != html.ElementNode || skipped(k):
			case k.Data == "dt":
				c.item = &item{list: id, level: level, marker: markup.Bullet}
				c.children(k)
				c.flush()
			case k.Data == "dd":
				c.item = &item{list: id, level: level + 1, marker: markup.Bullet}
				c.children(k)
				c.flush()
			case k.Data == "div":
				walk(k)
			}
		}
	}
	walk(n)
	c.item = outer
}

// apart converts the children of n on their own and returns their Markdown.
func (c *converter) apart(n *html.Node) string {
	sub := &converter{ctx: c.ctx, doc: c.doc, opts: c.opts, depth: c.depth, space: true}
	sub.children(n)
	sub.flush()
	if sub.err != nil {
		c.err = sub.err
	}
	return sub.w.String()
}

func (c *converter) quote(n *html.Node) {
	c.flush()
	md := c.apart(n)
	if md == "" {
		return
	}
	c.block("> " + strings.ReplaceAll(strings.ReplaceAll(md, "\n", "\n> "), "\n> \n", "\n>\n"))
}

func (c *converter) pre(n *html.Node) {
	c.flush()
	lang := ""
	for _, e := range []*html.Node{n, find(n, func(k *html.Node) bool { return k.Data == "code" })} {
		if e == nil {
			continue
		}
		for class := range strings.FieldsSeq(attr(e, "class")) {
			for _, p := range []string{"language-", "lang-", "highlight-source-"} {
				if l, ok := strings.CutPrefix(class, p); ok && lang == "" {
					lang = l
				}
			}
		}
	}
	var sub markup.Writer
	sub.CodeBlock(lang, preText(n))
	c.block(sub.String())
}

func preText(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		} else if d.Data == "br" {
			b.WriteByte('\n')
		}
	}
	return strings.ReplaceAll(b.String(), "\u00a0", " ")
}

func (c *converter) image(n *html.Node) {
	src, alt := attr(n, "src"), strings.Join(strings.Fields(attr(n, "alt")), " ")
	if strings.HasPrefix(src, "data:") {
		if mark := c.embedded(src, alt); mark != "" {
			c.line.AddRaw(mark)
			c.space = false
		}
		return
	}
	if alt == "" {
		return
	}
	if target := markup.Link(src, true); target != "" {
		c.line.AddRaw("![" + strings.NewReplacer("[", "", "]", "").Replace(alt) + "](" + strings.NewReplacer(" ", "%20", "(", "%28", ")", "%29", "\n", "").Replace(target) + ")")
		c.space = false
	}
}

// embedded stores a picture that is part of the page and returns its mark.
func (c *converter) embedded(src, alt string) string {
	if c.opts.Images == nil || len(c.doc.Images) >= c.opts.Limits.MaxImages {
		return ""
	}
	head, body, ok := strings.Cut(strings.TrimPrefix(src, "data:"), ",")
	if !ok {
		return ""
	}
	var data []byte
	var err error
	if strings.HasSuffix(head, ";base64") {
		data, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(body), ""))
	} else {
		var s string
		s, err = url.PathUnescape(body)
		data = []byte(s)
	}
	if err != nil {
		c.doc.AddProblem(1, "picture in the page: "+err.Error())
		return ""
	}
	mime, _, _ := strings.Cut(head, ";")
	ext := map[string]string{"image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/webp": ".webp", "image/svg+xml": ".svg"}[mime]
	if ext == "" {
		return ""
	}
	img := doc.Image{Name: fmt.Sprintf("p1-%d%s", len(c.doc.Images)+1, ext), Page: 1, MIME: mime, Alt: alt}
	if cfg, _, err := image.DecodeConfig(bytes.NewReader(data)); err == nil {
		img.Width, img.Height = cfg.Width, cfg.Height
	}
	if img.Ref, err = c.opts.Images(c.ctx, img, data); err != nil {
		c.doc.AddProblem(1, "picture "+img.Name+": "+err.Error())
		return ""
	}
	c.doc.Images = append(c.doc.Images, img)
	return doc.ImageMark(img.Ref)
}

// math writes a MathML formula by the TeX that pages keep beside it, else by its text.
func (c *converter) math(n *html.Node) {
	tex := ""
	if a := find(n, func(k *html.Node) bool { return k.Data == "annotation" && strings.Contains(attr(k, "encoding"), "tex") }); a != nil {
		tex = textOf(a)
	} else if tex = attr(n, "alttext"); tex == "" {
		c.text(textOf(n))
		return
	}
	c.formula(tex, attr(n, "display") == "block")
}

func (c *converter) formula(tex string, display bool) {
	if tex = strings.Join(strings.Fields(tex), " "); tex == "" {
		return
	}
	if display && c.line.Blank() {
		c.flush()
		c.block("$$" + tex + "$$")
		return
	}
	c.line.AddRaw("$" + tex + "$")
	c.space = false
}

func has(n *html.Node, name string) bool {
	for _, a := range n.Attr {
		if a.Key == name {
			return true
		}
	}
	return false
}
