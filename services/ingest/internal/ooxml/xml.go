package ooxml

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"

	"golang.org/x/net/html/charset"

	"github.com/clara-suite/clara/libs/clara"
)

const (
	maxDepth = 256
	maxNodes = 1_000_000
)

// Node is an element. Names carry the usual prefix of their namespace ("w:p",
// "a:blip") whatever prefix the file chose, in both the transitional and the
// strict namespaces; names of other namespaces carry "?:".
type Node struct {
	Name  string
	Attrs []Attr
	Kids  []*Node
	// Text is the character data directly within, joined.
	Text string
}

// Attr is an attribute; unqualified names have no prefix.
type Attr struct{ Name, Value string }

// Attr returns the value of the attribute, or "".
func (n *Node) Attr(name string) string {
	if n == nil {
		return ""
	}
	for _, a := range n.Attrs {
		if a.Name == name {
			return a.Value
		}
	}
	return ""
}

// Has reports whether the attribute is there.
func (n *Node) Has(name string) bool {
	if n != nil {
		for _, a := range n.Attrs {
			if a.Name == name {
				return true
			}
		}
	}
	return false
}

// Kid returns the first child along the path of names, or nil.
func (n *Node) Kid(names ...string) *Node {
	for _, name := range names {
		if n == nil {
			return nil
		}
		var next *Node
		for _, k := range n.Kids {
			if k.Name == name {
				next = k
				break
			}
		}
		n = next
	}
	return n
}

// Find returns the first descendant of the name in document order, or nil.
func (n *Node) Find(name string) *Node {
	if n == nil {
		return nil
	}
	for _, k := range n.Kids {
		if k.Name == name {
			return k
		}
		if f := k.Find(name); f != nil {
			return f
		}
	}
	return nil
}

// All calls f for every descendant of the name, not within another such one.
func (n *Node) All(name string, f func(*Node)) {
	if n == nil {
		return
	}
	for _, k := range n.Kids {
		if k.Name == name {
			f(k)
			continue
		}
		k.All(name, f)
	}
}

// Val returns the value of the attribute w:val, m:val or val of the first
// child along the path, and whether that child exists.
func (n *Node) Val(names ...string) (string, bool) {
	k := n.Kid(names...)
	if k == nil {
		return "", false
	}
	for _, a := range k.Attrs {
		if a.Name == "val" || strings.HasSuffix(a.Name, ":val") {
			return a.Value, true
		}
	}
	return "", true
}

// On reports whether the switch along the path is there and not turned off.
func (n *Node) On(names ...string) bool {
	v, ok := n.Val(names...)
	return ok && v != "0" && v != "false" && v != "off" && v != "none"
}

// prefixes are the namespaces that readers look at.
var prefixes = map[string]string{
	"http://schemas.openxmlformats.org/wordprocessingml/2006/main":            "w",
	"http://purl.oclc.org/ooxml/wordprocessingml/main":                        "w",
	"http://schemas.openxmlformats.org/drawingml/2006/main":                   "a",
	"http://purl.oclc.org/ooxml/drawingml/main":                               "a",
	"http://schemas.openxmlformats.org/presentationml/2006/main":              "p",
	"http://purl.oclc.org/ooxml/presentationml/main":                          "p",
	"http://schemas.openxmlformats.org/officeDocument/2006/relationships":     "r",
	"http://purl.oclc.org/ooxml/officeDocument/relationships":                 "r",
	"http://schemas.openxmlformats.org/officeDocument/2006/math":              "m",
	"http://purl.oclc.org/ooxml/officeDocument/math":                          "m",
	"http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing":  "wp",
	"http://purl.oclc.org/ooxml/drawingml/wordprocessingDrawing":              "wp",
	"http://schemas.openxmlformats.org/drawingml/2006/picture":                "pic",
	"http://purl.oclc.org/ooxml/drawingml/picture":                            "pic",
	"http://schemas.openxmlformats.org/drawingml/2006/chart":                  "c",
	"http://purl.oclc.org/ooxml/drawingml/chart":                              "c",
	"http://schemas.openxmlformats.org/drawingml/2006/diagram":                "dgm",
	"http://purl.oclc.org/ooxml/drawingml/diagram":                            "dgm",
	"http://schemas.openxmlformats.org/drawingml/2006/spreadsheetDrawing":     "xdr",
	"http://purl.oclc.org/ooxml/drawingml/spreadsheetDrawing":                 "xdr",
	"http://schemas.openxmlformats.org/spreadsheetml/2006/main":               "x",
	"http://purl.oclc.org/ooxml/spreadsheetml/main":                           "x",
	"http://schemas.microsoft.com/office/spreadsheetml/2018/threadedcomments": "xtc",
	"http://schemas.openxmlformats.org/markup-compatibility/2006":             "mc",
	"http://schemas.microsoft.com/office/word/2010/wordprocessingShape":       "wps",
	"http://schemas.microsoft.com/office/word/2010/wordprocessingGroup":       "wpg",
	"http://schemas.microsoft.com/office/word/2010/wordprocessingCanvas":      "wpc",
	"http://schemas.microsoft.com/office/word/2010/wordml":                    "w14",
	"http://schemas.microsoft.com/office/drawing/2010/main":                   "a14",
	"http://schemas.microsoft.com/office/drawing/2014/chartex":                "cx",
	"http://schemas.microsoft.com/office/drawing/2016/SVG/main":               "asvg",
	"urn:schemas-microsoft-com:vml":                                           "v",
	"urn:schemas-microsoft-com:office:office":                                 "o",
	"http://purl.org/dc/elements/1.1/":                                        "dc",
	"http://schemas.openxmlformats.org/package/2006/relationships":            "rel",
	"http://www.w3.org/XML/1998/namespace":                                    "xml",
	"http://schemas.microsoft.com/office/powerpoint/2010/main":                "p14",
}

func qualified(n xml.Name) string {
	if n.Space == "" {
		return n.Local
	}
	if p, ok := prefixes[n.Space]; ok {
		return p + ":" + n.Local
	}
	return "?:" + n.Local
}

// Decoder reads XML as a stream of subtrees, so that a large part never is in
// memory as a whole.
type Decoder struct {
	d *xml.Decoder
	// names are interned: a document has few of them, very often.
	names map[xml.Name]string
	nodes int
	depth int
}

// NewDecoder reads from r. Errors of its methods: Invalid (a document type, too
// deep, too many elements), Corrupt.
func NewDecoder(r io.Reader) *Decoder {
	d := xml.NewDecoder(r)
	d.CharsetReader = charset.NewReaderLabel
	return &Decoder{d: d, names: map[xml.Name]string{}}
}

func (d *Decoder) name(n xml.Name) string {
	s, ok := d.names[n]
	if !ok {
		s = qualified(n)
		if len(d.names) < 10_000 {
			d.names[n] = s
		}
	}
	return s
}

// token returns the next start or end of an element, or text.
func (d *Decoder) token() (xml.Token, error) {
	for {
		t, err := d.d.Token()
		if err != nil {
			if err == io.EOF || clara.KindOf(err) != clara.Internal {
				return nil, err
			}
			var syntax *xml.SyntaxError
			if errors.As(err, &syntax) {
				return nil, clara.Errorf(clara.Corrupt, "xml line %d: %s", syntax.Line, short(syntax.Msg))
			}
			return nil, clara.Errorf(clara.Corrupt, "xml: %w", err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			d.depth++
			if d.depth > maxDepth {
				return nil, clara.Errorf(clara.Invalid, "xml: elements are nested deeper than %d", maxDepth)
			}
			return t, nil
		case xml.EndElement:
			d.depth--
			return t, nil
		case xml.CharData:
			return t, nil
		case xml.Directive:
			if bytes.HasPrefix(bytes.ToUpper(bytes.TrimSpace(t)), []byte("DOCTYPE")) {
				return nil, clara.Errorf(clara.Invalid, "xml: it declares a document type, which office files must not (entities could be expanded without bound)")
			}
		}
	}
}

// Enter moves to the first element along the path of names, from the root, and
// reports whether it is there. The elements passed by are skipped.
func (d *Decoder) Enter(names ...string) (bool, error) {
	for _, want := range names {
		for {
			t, err := d.token()
			if err == io.EOF {
				return false, nil
			}
			if err != nil {
				return false, err
			}
			if s, ok := t.(xml.StartElement); ok {
				if d.name(s.Name) == want {
					break
				}
				if err := d.skip(); err != nil {
					return false, err
				}
			}
			if _, ok := t.(xml.EndElement); ok {
				return false, nil
			}
		}
	}
	return true, nil
}

func (d *Decoder) skip() error {
	for depth := 1; depth > 0; {
		t, err := d.token()
		if err != nil {
			return unexpected(err)
		}
		switch t.(type) {
		case xml.StartElement:
			depth++
		case xml.EndElement:
			depth--
		}
	}
	return nil
}

// Next returns the next child of the element that was entered, nil after the last.
func (d *Decoder) Next() (*Node, error) {
	for {
		t, err := d.token()
		if err != nil {
			return nil, unexpected(err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			d.nodes = 0
			return d.tree(t)
		case xml.EndElement:
			return nil, nil
		}
	}
}

func unexpected(err error) error {
	if err == io.EOF {
		return clara.Errorf(clara.Corrupt, "xml: it ends in the middle")
	}
	return err
}

func (d *Decoder) tree(s xml.StartElement) (*Node, error) {
	d.nodes++
	if d.nodes > maxNodes {
		return nil, clara.Errorf(clara.Invalid, "xml: more than %d elements in one piece", maxNodes)
	}
	n := &Node{Name: d.name(s.Name)}
	for _, a := range s.Attr {
		if a.Name.Space == "xmlns" || a.Name.Local == "xmlns" {
			continue
		}
		n.Attrs = append(n.Attrs, Attr{d.name(a.Name), a.Value})
	}
	var text []byte
	for {
		t, err := d.token()
		if err != nil {
			return nil, unexpected(err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			k, err := d.tree(t)
			if err != nil {
				return nil, err
			}
			n.Kids = append(n.Kids, k)
		case xml.CharData:
			text = append(text, t...)
		case xml.EndElement:
			if len(n.Kids) == 0 || len(bytes.TrimSpace(text)) > 0 {
				n.Text = string(text)
			}
			return n, nil
		}
	}
}

// Parse reads a whole document as a tree.
func Parse(r io.Reader) (*Node, error) {
	d := NewDecoder(r)
	for {
		t, err := d.token()
		if err != nil {
			return nil, unexpected(err)
		}
		if s, ok := t.(xml.StartElement); ok {
			return d.tree(s)
		}
	}
}

// Resolve returns the children of an element with every mc:AlternateContent
// replaced by the alternative that readers understand.
func Resolve(kids []*Node) []*Node {
	plain := true
	for _, k := range kids {
		if k.Name == "mc:AlternateContent" {
			plain = false
			break
		}
	}
	if plain {
		return kids
	}
	var out []*Node
	for _, k := range kids {
		if k.Name != "mc:AlternateContent" {
			out = append(out, k)
			continue
		}
		out = append(out, Resolve(alternative(k).Kids)...)
	}
	return out
}

// alternative picks the first choice in a namespace that readers know.
func alternative(n *Node) *Node {
	for _, k := range n.Kids {
		if k.Name != "mc:Choice" {
			continue
		}
		switch k.Attr("Requires") {
		case "wps", "wpg", "wpc", "a14", "p14", "w14", "wp14", "c14", "w15", "w16":
			return k
		}
	}
	if f := n.Kid("mc:Fallback"); f != nil {
		return f
	}
	return &Node{}
}

// KidsOf returns the children, none of a nil element.
func (n *Node) KidsOf() []*Node {
	if n == nil {
		return nil
	}
	return n.Kids
}
