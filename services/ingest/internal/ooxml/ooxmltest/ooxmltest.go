// Package ooxmltest makes small office files for tests.
package ooxmltest

import (
	"archive/zip"
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// Part is an entry of the archive: its name and its content.
type Part [2]string

// Zip packs parts in the given order.
func Zip(parts ...Part) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, p := range parts {
		w, err := z.Create(p[0])
		if err == nil {
			_, err = w.Write([]byte(p[1]))
		}
		if err != nil {
			panic(err) // a buffer in memory takes everything
		}
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// Namespaces are those that the bodies of parts may use.
const Namespaces = `xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" ` +
	`xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships" ` +
	`xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math" ` +
	`xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing" ` +
	`xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" ` +
	`xmlns:pic="http://schemas.openxmlformats.org/drawingml/2006/picture" ` +
	`xmlns:c="http://schemas.openxmlformats.org/drawingml/2006/chart" ` +
	`xmlns:dgm="http://schemas.openxmlformats.org/drawingml/2006/diagram" ` +
	`xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" ` +
	`xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape" ` +
	`xmlns:v="urn:schemas-microsoft-com:vml" ` +
	`xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"`

const relBase = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/"

// Rel is a relationship: its id, type and target; one with "://" is external.
type Rel [3]string

// Rels returns the part that holds the relationships of the named part.
func Rels(part string, rels ...Rel) Part {
	var b strings.Builder
	b.WriteString(`<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">`)
	for _, r := range rels {
		mode := ""
		if strings.Contains(r[2], "://") {
			mode = ` TargetMode="External"`
		}
		fmt.Fprintf(&b, `<Relationship Id="%s" Type="%s%s" Target="%s"%s/>`, r[0], relBase, r[1], r[2], mode)
	}
	b.WriteString(`</Relationships>`)
	dir, file := "", part
	if i := strings.LastIndexByte(part, '/'); i >= 0 {
		dir, file = part[:i+1], part[i+1:]
	}
	return Part{dir + "_rels/" + file + ".rels", b.String()}
}

// Docx packs a document of the given body with further parts. Relationships of
// the document are those given, besides the parts "styles" and "numbering".
func Docx(body string, rels []Rel, parts ...Part) []byte {
	all := []Part{
		{"[Content_Types].xml", `<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>`},
		Rels("", Rel{"rId1", "officeDocument", "word/document.xml"}),
		{"word/document.xml", `<?xml version="1.0"?><w:document ` + Namespaces + `><w:body>` + body + `</w:body></w:document>`},
	}
	rels = slices.Clone(rels)
	for _, p := range parts {
		for _, typ := range []string{"styles", "numbering", "footnotes", "endnotes", "comments"} {
			if p[0] == "word/"+typ+".xml" {
				rels = append(rels, Rel{"rel" + typ, typ, typ + ".xml"})
			}
		}
	}
	return Zip(append(append(all, Rels("word/document.xml", rels...)), parts...)...)
}

// Slide is a slide of a presentation: the content of its shape tree.
type Slide struct {
	Shapes string
	Rels   []Rel
	Notes  string
}

// Pptx packs slides over one layout and one master, given as shape trees; the
// master has the text styles.
func Pptx(slides []Slide, layout, master, styles string, parts ...Part) []byte {
	tree := func(root, shapes, rest string) string {
		return `<?xml version="1.0"?><p:` + root + ` ` + Namespaces + `><p:cSld><p:spTree>` + shapes + `</p:spTree></p:cSld>` + rest + `</p:` + root + `>`
	}
	var ids strings.Builder
	var rels []Rel
	all := []Part{
		{"[Content_Types].xml", `<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>`},
		Rels("", Rel{"rId1", "officeDocument", "ppt/presentation.xml"}),
	}
	for i, s := range slides {
		n := i + 1
		fmt.Fprintf(&ids, `<p:sldId id="%d" r:id="s%d"/>`, 256+i, n)
		rels = append(rels, Rel{fmt.Sprintf("s%d", n), "slide", fmt.Sprintf("slides/slide%d.xml", n)})
		part := fmt.Sprintf("ppt/slides/slide%d.xml", n)
		own := append([]Rel{{"lay", "slideLayout", "../slideLayouts/slideLayout1.xml"}}, s.Rels...)
		if s.Notes != "" {
			own = append(own, Rel{"notes", "notesSlide", fmt.Sprintf("../notesSlides/notesSlide%d.xml", n)})
			all = append(all, Part{fmt.Sprintf("ppt/notesSlides/notesSlide%d.xml", n), tree("notes", s.Notes, "")})
		}
		all = append(all, Part{part, tree("sld", s.Shapes, "")}, Rels(part, own...))
	}
	all = append(all,
		Part{"ppt/presentation.xml", `<?xml version="1.0"?><p:presentation ` + Namespaces + `><p:sldIdLst>` + ids.String() + `</p:sldIdLst></p:presentation>`},
		Rels("ppt/presentation.xml", rels...),
		Part{"ppt/slideLayouts/slideLayout1.xml", tree("sldLayout", layout, "")},
		Rels("ppt/slideLayouts/slideLayout1.xml", Rel{"m", "slideMaster", "../slideMasters/slideMaster1.xml"}),
		Part{"ppt/slideMasters/slideMaster1.xml", tree("sldMaster", master, "<p:txStyles>"+styles+"</p:txStyles>")},
	)
	return Zip(append(all, parts...)...)
}
