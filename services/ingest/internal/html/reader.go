package html

import (
	"bytes"
	"context"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	readability "codeberg.org/readeck/go-readability/v2"
	"golang.org/x/net/html"
	"golang.org/x/net/html/charset"
	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/transform"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/text"
)

// Reader reads HTML. It is safe for concurrent use.
type Reader struct{}

var _ doc.Reader = Reader{}

const (
	// maxPage is the size of a page in bytes: its tree takes many times that.
	maxPage = 64 << 20
	// maxReadable is the size up to which the main content is looked for by
	// the density of text, which takes time.
	maxReadable = 4 << 20
	maxElements = 50_000
)

// Read reads a page as a document of one page. Errors: Invalid (over a limit,
// nested too deeply, nothing to read), Unavailable, or a context that ended.
func (Reader) Read(ctx context.Context, r io.ReaderAt, size int64, opts doc.Options) (*doc.Document, error) {
	if size > maxPage {
		return nil, clara.Errorf(clara.Invalid, "read the page: its %d bytes are more than the limit of %d", size, maxPage)
	}
	raw := make([]byte, size)
	if n, err := r.ReadAt(raw, 0); err != nil && err != io.EOF {
		return nil, clara.Errorf(clara.Unavailable, "read the page at byte %d: %w", n, err)
	}
	page, err := decode(raw)
	if err != nil {
		return nil, err
	}
	opts.Limits = opts.Limits.WithDefaults()
	tree, err := html.Parse(bytes.NewReader(page))
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "read the page: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d := &doc.Document{Format: doc.HTML}
	if n := find(tree, func(n *html.Node) bool { return n.Data == "title" }); n != nil {
		d.Title = strings.Join(strings.Fields(textOf(n)), " ")
	}
	if n := find(tree, func(n *html.Node) bool { return n.Data == "html" }); n != nil {
		d.Language = attr(n, "lang")
	}
	main := content(tree)
	if len(page) <= maxReadable {
		main = readable(main)
	}
	c := &converter{ctx: ctx, doc: d, opts: opts}
	c.children(main)
	c.flush()
	if c.err != nil {
		return nil, c.err
	}
	md := c.w.String()
	if strings.TrimSpace(md) == "" {
		return nil, clara.Errorf(clara.Invalid, "read the page: it holds no text (pages that scripts fill in a browser are to be saved from there)")
	}
	d.Pages = []doc.Page{{Number: 1, Markdown: md, ReadBy: doc.ByText}}
	if len(d.Problems) > 0 {
		d.Pages[0].Err = d.Problems[0].Reason
	}
	if opts.Progress != nil {
		opts.Progress(1, 1)
	}
	return d, nil
}

// decode returns the page as UTF-8. What the page says of its encoding counts
// unless the bytes contradict it.
func decode(raw []byte) ([]byte, error) {
	enc, name, certain := charset.DetermineEncoding(raw[:min(len(raw), 1024)], "")
	if !certain {
		// A declaration is not certain either; these two are also what is
		// returned where there is none.
		declared := name != "windows-1252" && name != "utf-8" || name == "utf-8" && utf8.Valid(raw) || declares1252(raw)
		if declared {
			if out, err := enc.NewDecoder().Bytes(raw); err != nil || 50*bytes.Count(out, []byte("\ufffd")) > len(out) {
				declared = false
			}
		}
		if !declared {
			var err error
			if name, enc, err = text.Detect(bytes.NewReader(raw), int64(len(raw))); err != nil {
				return nil, err
			}
			if enc == nil {
				enc = encoding.Nop
			}
		}
	}
	if name == "gbk" || name == "gb2312" {
		if e, err := htmlindex.Get("gb18030"); err == nil {
			enc = e
		}
	}
	out, _, err := transform.Bytes(enc.NewDecoder(), raw)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "read the page: decode %s: %w", name, err)
	}
	return bytes.ToValidUTF8(out, []byte("\ufffd")), nil
}

// declares1252 reports whether the page names a Western encoding.
func declares1252(raw []byte) bool {
	head := bytes.ToLower(raw[:min(len(raw), 1024)])
	for _, n := range []string{"windows-1252", "iso-8859-1", "latin1", "us-ascii"} {
		if bytes.Contains(head, []byte(n)) {
			return true
		}
	}
	return false
}

// content returns the part of the page that holds the text: the main element
// if most of it is there, the only article, else the body.
func content(tree *html.Node) *html.Node {
	body := find(tree, func(n *html.Node) bool { return n.Data == "body" })
	if body == nil {
		return tree
	}
	prune(body, 0)
	all := len(textOf(body))
	for _, is := range []func(*html.Node) bool{
		func(n *html.Node) bool { return n.Data == "main" || attr(n, "role") == "main" },
		func(n *html.Node) bool { return n.Data == "article" },
	} {
		if n := find(body, is); n != nil && 2*len(textOf(n)) > all {
			return n
		}
	}
	return body
}

// prune drops what is not content: menus, the site's head and foot, side bars.
// A page that is nothing but such parts is left as it is.
func prune(body *html.Node, depth int) {
	var drop []*html.Node
	var walk func(n *html.Node, depth int)
	kept := 0
	walk = func(n *html.Node, depth int) {
		for k := n.FirstChild; k != nil; k = k.NextSibling {
			switch {
			case k.Type == html.TextNode:
				kept += len(strings.TrimSpace(k.Data))
			case k.Type != html.ElementNode || depth > maxDepth:
			case clutter(k):
				drop = append(drop, k)
			default:
				walk(k, depth+1)
			}
		}
	}
	walk(body, depth)
	if kept == 0 {
		return
	}
	for _, n := range drop {
		n.Parent.RemoveChild(n)
	}
}

func clutter(n *html.Node) bool {
	switch n.Data {
	case "nav", "aside":
		return true
	case "footer", "header":
		// Those of an article are its own.
		for p := n.Parent; p != nil; p = p.Parent {
			if p.Data == "article" || p.Data == "main" || p.Data == "section" {
				return false
			}
		}
		return n.Data == "footer" || find(n, func(k *html.Node) bool { return k.Data == "h1" }) == nil
	}
	switch attr(n, "role") {
	case "navigation", "contentinfo", "search", "complementary":
		return true
	case "banner":
		return find(n, func(k *html.Node) bool { return k.Data == "h1" }) == nil
	}
	return false
}

// mark is the attribute by which the elements of a page are found again.
const mark = "data-clara-n"

// readable looks for the main content by the density of text. What it finds
// only points at the part of the page that is then taken as it is, and only if
// nothing that matters is lost by it.
func readable(whole *html.Node) (main *html.Node) {
	defer func() {
		if recover() != nil { // the library is written for browsers' trees
			main = whole
		}
	}()
	var nodes []*html.Node
	for n := range whole.Descendants() {
		if n.Type == html.ElementNode {
			n.Attr = append(n.Attr, html.Attribute{Key: mark, Val: strconv.Itoa(len(nodes))})
			nodes = append(nodes, n)
		}
	}
	defer func() {
		for _, n := range nodes {
			n.Attr = n.Attr[:len(n.Attr)-1]
		}
	}()
	var page bytes.Buffer
	if len(nodes) > maxElements || html.Render(&page, whole) != nil {
		return whole
	}
	p := readability.NewParser()
	p.MaxElemsToParse = 2 * maxElements
	p.KeepClasses = true
	article, err := p.Parse(&page, nil)
	if err != nil || article.Node == nil {
		return whole
	}
	// The innermost element that holds all that was found.
	var at *html.Node
	var above map[*html.Node]bool
	for n := range article.Node.Descendants() {
		i, err := strconv.Atoi(attr(n, mark))
		if err != nil || i < 0 || i >= len(nodes) {
			continue
		}
		hit := nodes[i]
		for at != nil && hit != nil && !above[hit] {
			hit = hit.Parent
		}
		if hit == nil || hit == whole {
			return whole
		}
		if hit != at {
			at, above = hit, map[*html.Node]bool{}
			for p := hit; p != nil; p = p.Parent {
				above[p] = true
			}
		}
	}
	for at != nil && at != whole && !container(at) {
		at = at.Parent
	}
	if at == nil || at == whole {
		return whole
	}
	a, b := outline(whole), outline(at)
	if 20*b.text > 19*a.text {
		return whole // nothing to gain
	}
	if 2*b.text < a.text || b.tables < a.tables || b.code < a.code || 2*b.items < a.items {
		return whole
	}
	for h, n := range a.headings {
		if b.headings[h] < n {
			return whole
		}
	}
	return at
}

// container reports whether an element is a part of a page, not of its text.
func container(n *html.Node) bool {
	switch n.Data {
	case "div", "section", "article", "main":
		return true
	}
	return false
}

type shape struct {
	text, tables, code, items int
	headings                  map[string]int
}

func outline(n *html.Node) shape {
	s := shape{text: len(strings.Join(strings.Fields(textOf(n)), " ")), headings: map[string]int{}}
	var walk func(n *html.Node, depth int)
	walk = func(n *html.Node, depth int) {
		if depth > maxDepth || skipped(n) {
			return
		}
		switch n.Data {
		case "table":
			s.tables++
		case "pre":
			s.code++
		case "li":
			s.items++
		case "h1", "h2", "h3", "h4", "h5", "h6":
			s.headings[strings.Join(strings.Fields(textOf(n)), " ")]++
		}
		for k := n.FirstChild; k != nil; k = k.NextSibling {
			walk(k, depth+1)
		}
	}
	walk(n, 0)
	return s
}

// maxDepth bounds the walk through a tree; the parser has its own limit below it.
const maxDepth = 1000

func find(n *html.Node, is func(*html.Node) bool) *html.Node {
	for d := range n.Descendants() {
		if d.Type == html.ElementNode && is(d) {
			return d
		}
	}
	return nil
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return strings.TrimSpace(a.Val)
		}
	}
	return ""
}

// textOf returns the visible text below n.
func textOf(n *html.Node) string {
	var b strings.Builder
	var walk func(n *html.Node, depth int)
	walk = func(n *html.Node, depth int) {
		if depth > maxDepth {
			return
		}
		if n.Type == html.TextNode {
			b.WriteString(n.Data)
		}
		if skipped(n) {
			return
		}
		for k := n.FirstChild; k != nil; k = k.NextSibling {
			walk(k, depth+1)
		}
	}
	walk(n, 0)
	return b.String()
}

// skipped reports whether an element shows no text of the page.
func skipped(n *html.Node) bool {
	if n.Type == html.CommentNode || n.Type == html.DoctypeNode {
		return true
	}
	if n.Type != html.ElementNode {
		return false
	}
	switch n.Data {
	case "script", "style", "template", "iframe", "object", "embed", "svg", "canvas", "audio", "video", "noscript", "head",
		"select", "textarea", "button", "input", "datalist", "dialog", "map", "frameset":
		return true
	}
	for _, a := range n.Attr {
		switch a.Key {
		case "hidden":
			return a.Val != "until-found"
		case "aria-hidden":
			if a.Val == "true" && n.Data != "math" {
				return true
			}
		case "style":
			s := strings.ReplaceAll(strings.ToLower(a.Val), " ", "")
			if strings.Contains(s, "display:none") || strings.Contains(s, "visibility:hidden") {
				return true
			}
		}
	}
	return false
}
