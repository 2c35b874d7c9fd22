package docx_test

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/docx"
	. "github.com/clara-suite/clara/services/ingest/internal/ooxml/ooxmltest"
)

var update = flag.Bool("update", false, "write the golden files")

const styles = `<w:styles ` + Namespaces + `>
<w:style w:type="paragraph" w:default="1" w:styleId="N"><w:name w:val="Normal"/></w:style>
<w:style w:type="paragraph" w:styleId="T"><w:name w:val="Title"/><w:basedOn w:val="N"/></w:style>
<w:style w:type="paragraph" w:styleId="berschrift1"><w:name w:val="heading 1"/><w:basedOn w:val="N"/><w:pPr><w:outlineLvl w:val="0"/></w:pPr></w:style>
<w:style w:type="paragraph" w:styleId="H2"><w:name w:val="heading 2"/><w:basedOn w:val="N"/><w:pPr><w:numPr><w:ilvl w:val="1"/><w:numId w:val="3"/></w:numPr><w:outlineLvl w:val="1"/></w:pPr></w:style>
<w:style w:type="paragraph" w:styleId="Own"><w:name w:val="My Heading"/><w:basedOn w:val="H3"/></w:style>
<w:style w:type="paragraph" w:styleId="H3"><w:name w:val="heading 3"/><w:basedOn w:val="Ring"/></w:style>
<w:style w:type="paragraph" w:styleId="Ring"><w:name w:val="ring"/><w:basedOn w:val="Ring"/></w:style>
<w:style w:type="paragraph" w:styleId="LB"><w:name w:val="List Bullet"/><w:pPr><w:numPr><w:numId w:val="1"/></w:numPr></w:pPr></w:style>
<w:style w:type="paragraph" w:styleId="Src"><w:name w:val="Source Code"/></w:style>
<w:style w:type="character" w:styleId="Strong"><w:name w:val="Strong"/><w:rPr><w:b/></w:rPr></w:style>
<w:style w:type="character" w:styleId="VC"><w:name w:val="Verbatim Char"/></w:style>
</w:styles>`

const numbering = `<w:numbering ` + Namespaces + `>
<w:abstractNum w:abstractNumId="1"><w:lvl w:ilvl="0"><w:numFmt w:val="bullet"/><w:lvlText w:val="•"/></w:lvl><w:lvl w:ilvl="1"><w:numFmt w:val="bullet"/><w:lvlText w:val="o"/></w:lvl></w:abstractNum>
<w:abstractNum w:abstractNumId="2"><w:lvl w:ilvl="0"><w:start w:val="1"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1."/></w:lvl><w:lvl w:ilvl="1"><w:start w:val="1"/><w:numFmt w:val="lowerLetter"/><w:lvlText w:val="(%2)"/></w:lvl><w:lvl w:ilvl="2"><w:start w:val="1"/><w:numFmt w:val="lowerRoman"/><w:lvlText w:val="%1.%2.%3"/><w:isLgl/></w:lvl></w:abstractNum>
<w:abstractNum w:abstractNumId="3"><w:lvl w:ilvl="0"><w:start w:val="4"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1"/></w:lvl><w:lvl w:ilvl="1"><w:start w:val="1"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1.%2"/></w:lvl></w:abstractNum>
<w:num w:numId="1"><w:abstractNumId w:val="1"/></w:num>
<w:num w:numId="2"><w:abstractNumId w:val="2"/></w:num>
<w:num w:numId="3"><w:abstractNumId w:val="3"/></w:num>
<w:num w:numId="4"><w:abstractNumId w:val="2"/><w:lvlOverride w:ilvl="0"><w:startOverride w:val="7"/></w:lvlOverride></w:num>
</w:numbering>`

// p is a paragraph of one run.
func p(props, text string) string {
	return `<w:p><w:pPr>` + props + `</w:pPr><w:r><w:t xml:space="preserve">` + text + `</w:t></w:r></w:p>`
}

func styled(id, text string) string { return p(`<w:pStyle w:val="`+id+`"/>`, text) }

func num(id, lvl, text string) string {
	return p(`<w:numPr><w:ilvl w:val="`+lvl+`"/><w:numId w:val="`+id+`"/></w:numPr>`, text)
}

func tc(props, content string) string {
	return `<w:tc><w:tcPr>` + props + `</w:tcPr>` + content + `</w:tc>`
}

func read(t *testing.T, file []byte, opts doc.Options) *doc.Document {
	t.Helper()
	d, err := docx.Reader{}.Read(context.Background(), bytes.NewReader(file), int64(len(file)), opts)
	require.NoError(t, err)
	return d
}

func markdown(t *testing.T, body string, parts ...Part) string {
	t.Helper()
	return read(t, Docx(body, nil, append(parts, Part{"word/styles.xml", styles}, Part{"word/numbering.xml", numbering})...), doc.Options{}).Markdown()
}

func TestBlocks(t *testing.T) {
	for _, c := range []struct{ name, body, want string }{
		{"headings", styled("T", "Book") + styled("berschrift1", "One") + styled("Own", "Deep") + p(`<w:outlineLvl w:val="1"/>`, "Outlined") + styled("berschrift1", " "),
			"# Book\n\n## One\n\n#### Deep\n\n### Outlined\n"},
		{"no title", styled("berschrift1", "One"), "# One\n"},
		{"numbered heading", styled("H2", "First") + styled("H2", "Second"), "## 4.1 First\n\n## 4.2 Second\n"},
		{"nested list", num("1", "0", "a") + num("1", "1", "b") + num("1", "0", "c"), "- a\n    - b\n- c\n"},
		{"style list", styled("LB", "a") + styled("LB", "b"), "- a\n- b\n"},
		{"numbers", num("2", "0", "a") + num("2", "1", "b") + num("2", "1", "c") + num("2", "2", "d") + num("2", "0", "e") + num("2", "1", "f"),
			"1. a\n    - (a) b\n    - (b) c\n        - 1.2.1 d\n2. e\n    - (a) f\n"},
		{"restart", num("2", "0", "a") + num("4", "0", "b") + num("4", "0", "c"), "1. a\n\n7. b\n8. c\n"},
		{"list without", p(`<w:pStyle w:val="LB"/><w:numPr><w:numId w:val="0"/></w:numPr>`, "plain"), "plain\n"},
		{"escaped", p("", "# not a heading") + p("", "1. not an item") + p("", "a*b*c"), "\\# not a heading\n\n1\\. not an item\n\na\\*b\\*c\n"},
		{"code", styled("Src", "if x {") + styled("Src", "  y()") + styled("Src", "}"), "```\nif x {\n  y()\n}\n```\n"},
		{"tracked", `<w:p><w:r><w:t>a</w:t></w:r><w:ins><w:r><w:t>b</w:t></w:r></w:ins><w:del><w:r><w:delText>c</w:delText></w:r></w:del><w:moveFrom><w:r><w:t>d</w:t></w:r></w:moveFrom><w:moveTo><w:r><w:t>e</w:t></w:r></w:moveTo></w:p>`, "abe\n"},
		{"deleted mark", `<w:p><w:pPr><w:rPr><w:del/></w:rPr></w:pPr><w:r><w:t>one </w:t></w:r></w:p>` + p("", "two"), "one two\n"},
		{"hidden", `<w:p><w:r><w:rPr><w:vanish/></w:rPr><w:t>x</w:t></w:r><w:r><w:t>y</w:t></w:r></w:p>`, "y\n"},
		{"emphasis", `<w:p><w:r><w:rPr><w:b/></w:rPr><w:t xml:space="preserve">bold </w:t></w:r><w:r><w:rPr><w:b/></w:rPr><w:t>too</w:t></w:r><w:r><w:rPr><w:rStyle w:val="Strong"/><w:i/></w:rPr><w:t xml:space="preserve"> both </w:t></w:r><w:r><w:rPr><w:rStyle w:val="Strong"/><w:b w:val="0"/></w:rPr><w:t>none </w:t></w:r><w:r><w:rPr><w:rStyle w:val="VC"/></w:rPr><w:t>f(x)</w:t></w:r></w:p>`,
			"**bold too** ***both*** none `f(x)`\n"},
		{"scripts", `<w:p><w:r><w:t>H</w:t></w:r><w:r><w:rPr><w:vertAlign w:val="subscript"/></w:rPr><w:t>2</w:t></w:r><w:r><w:t>O</w:t></w:r></w:p>`, "H₂O\n"},
		{"fields", `<w:p><w:r><w:fldChar w:fldCharType="begin"/></w:r><w:r><w:instrText> HYPERLINK "https://a.example/x" </w:instrText></w:r><w:r><w:fldChar w:fldCharType="separate"/></w:r><w:r><w:t>here</w:t></w:r><w:r><w:fldChar w:fldCharType="end"/></w:r>` +
			`<w:fldSimple w:instr="PAGE"><w:r><w:t>17</w:t></w:r></w:fldSimple><w:fldSimple w:instr="SEQ Figure"><w:r><w:t> 3</w:t></w:r></w:fldSimple></w:p>`, "[here](https://a.example/x) 3\n"},
		{"field without end", `<w:p><w:r><w:fldChar w:fldCharType="begin"/></w:r><w:r><w:t>lost</w:t></w:r></w:p>` + p("", "kept"), "kept\n"},
		{"table", `<w:tbl><w:tr>` + tc(`<w:gridSpan w:val="2"/>`, p("", "wide")) + tc(`<w:vMerge w:val="restart"/>`, p("", "tall")) + `</w:tr><w:tr>` +
			tc("", p("", "a|b")) + tc("", num("2", "0", "x")+num("2", "0", "y")) + tc(`<w:vMerge/>`, p("", "")) + `</w:tr><w:tr><w:trPr><w:del/></w:trPr>` + tc("", p("", "gone")) + `</w:tr></w:tbl>`,
			"| wide | wide | tall |\n| --- | --- | --- |\n| a\\|b | 1. x 2. y | tall |\n"},
		{"nested table", `<w:tbl><w:tr>` + tc("", p("", "h")) + tc("", `<w:tbl><w:tr>`+tc("", p("", "1"))+tc("", p("", "2"))+`</w:tr><w:tr>`+tc("", p("", "3"))+tc("", p("", "4"))+`</w:tr></w:tbl>`) + `</w:tr></w:tbl>`,
			"| h | 1, 2; 3, 4 |\n| --- | --- |\n"},
		{"frame", `<w:tbl><w:tr>` + tc("", styled("berschrift1", "In")+p("", "text")) + `</w:tr></w:tbl>`, "# In\n\ntext\n"},
		{"text box once", `<w:p><w:r><w:t>anchor</w:t></w:r><w:r><mc:AlternateContent><mc:Choice Requires="wps"><w:drawing><wps:txbx><w:txbxContent>` + p("", "boxed") +
			`</w:txbxContent></wps:txbx></w:drawing></mc:Choice><mc:Fallback><w:pict><v:textbox><w:txbxContent>` + p("", "boxed") + `</w:txbxContent></v:textbox></w:pict></mc:Fallback></mc:AlternateContent></w:r></w:p>`, "anchor\n\nboxed\n"},
		{"content control", `<w:sdt><w:sdtContent>` + p("", "inside") + `</w:sdtContent></w:sdt>`, "inside\n"},
		{"check boxes", p("", "☒ done") + p("", "☐ to do") + `<w:tbl><w:tr>` + tc("", p("", "☑ a")+p("", "☐ b")) + tc("", p("", "☒ yes ☐ no")) + `</w:tr></w:tbl>`,
			"- [x] done\n- [ ] to do\n\n| - [x] a - [ ] b | ☒ yes ☐ no |\n| --- | --- |\n"},
		{"formulas", `<w:p><w:r><w:t xml:space="preserve">so </w:t></w:r><m:oMath><m:f><m:num><m:r><m:t>1</m:t></m:r></m:num><m:den><m:r><m:t>π</m:t></m:r></m:den></m:f></m:oMath></w:p><w:p><m:oMathPara><m:oMath><m:rad><m:radPr><m:degHide m:val="1"/></m:radPr><m:deg/><m:e><m:r><m:t>x</m:t></m:r></m:e></m:rad></m:oMath></m:oMathPara></w:p>`,
			"so $\\frac{1}{\\pi}$\n\n$$\\sqrt{x}$$\n"},
		{"symbol", `<w:p><w:r><w:sym w:font="Wingdings" w:char="F0FC"/></w:r><w:r><w:t> done</w:t></w:r></w:p>`, "✓ done\n"},
		{"right to left", p("", "مرحبا بالعالم"), "مرحبا بالعالم\n"},
	} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.want, markdown(t, c.body)) })
	}
}

func TestNotes(t *testing.T) {
	ref := func(kind, id string) string {
		return `<w:r><w:` + kind + `Reference w:id="` + id + `"/></w:r>`
	}
	body := `<w:p><w:r><w:t>a</w:t></w:r>` + ref("endnote", "9") + `<w:r><w:t>b</w:t></w:r>` + ref("footnote", "2") + ref("footnote", "2") + ref("comment", "1") + `</w:p>`
	parts := []Part{
		{"word/footnotes.xml", `<w:footnotes ` + Namespaces + `><w:footnote w:id="0">` + p("", "separator") + `</w:footnote><w:footnote w:id="2">` + p("", "the foot") + `</w:footnote></w:footnotes>`},
		{"word/endnotes.xml", `<w:endnotes ` + Namespaces + `><w:endnote w:id="9">` + p("", "the end") + `</w:endnote></w:endnotes>`},
		{"word/comments.xml", `<w:comments ` + Namespaces + `><w:comment w:id="1" w:author="Ann">` + p("", "why?") + `</w:comment></w:comments>`},
	}
	file := Docx(body, nil, parts...)
	assert.Equal(t, "a[^1]b[^2][^2]\n\n[^1]: the end\n\n[^2]: the foot\n", read(t, file, doc.Options{}).Markdown())
	assert.Equal(t, "a[^1]b[^2][^2][^3]\n\n[^1]: the end\n\n[^2]: the foot\n\n[^3]: Ann: why?\n", read(t, file, doc.Options{Comments: true}).Markdown())
}

func TestPicturesChartsDiagrams(t *testing.T) {
	pic := func(id string) string {
		return `<w:p><w:r><w:drawing><wp:inline><wp:docPr id="1" descr="a red dot"/><a:graphic><a:graphicData><pic:pic><pic:blipFill><a:blip r:embed="` + id + `"/></pic:blipFill></pic:pic></a:graphicData></a:graphic></wp:inline></w:drawing></w:r></w:p>`
	}
	frame := func(inner string) string {
		return `<w:p><w:r><w:drawing><wp:inline><a:graphic><a:graphicData>` + inner + `</a:graphicData></a:graphic></wp:inline></w:drawing></w:r></w:p>`
	}
	pts := func(vals ...string) string {
		var b strings.Builder
		for i, v := range vals {
			b.WriteString(`<c:pt idx="` + string(rune('0'+i)) + `"><c:v>` + v + `</c:v></c:pt>`)
		}
		return b.String()
	}
	chart := `<c:chartSpace ` + Namespaces + `><c:chart><c:title><c:tx><c:rich><a:p><a:r><a:t>Sales</a:t></a:r></a:p></c:rich></c:tx></c:title><c:plotArea><c:barChart><c:ser><c:tx><c:strRef><c:strCache>` + pts("2024") +
		`</c:strCache></c:strRef></c:tx><c:cat><c:strRef><c:strCache>` + pts("North", "South") + `</c:strCache></c:strRef></c:cat><c:val><c:numRef><c:numCache>` + pts("1.5", "2.10000000000000009") + `</c:numCache></c:numRef></c:val></c:ser></c:barChart></c:plotArea></c:chart></c:chartSpace>`
	diagram := `<dgm:dataModel ` + Namespaces + `><dgm:ptLst><dgm:pt modelId="0" type="doc"/><dgm:pt modelId="1"><dgm:t><a:p><a:r><a:t>Root</a:t></a:r></a:p></dgm:t></dgm:pt><dgm:pt modelId="2"><dgm:t><a:p><a:r><a:t>Leaf</a:t></a:r></a:p></dgm:t></dgm:pt></dgm:ptLst>` +
		`<dgm:cxnLst><dgm:cxn srcId="0" destId="1" srcOrd="0"/><dgm:cxn srcId="1" destId="2" srcOrd="0"/><dgm:cxn srcId="2" destId="1" srcOrd="0"/></dgm:cxnLst></dgm:dataModel>`
	file := Docx(pic("i1")+pic("i1")+pic("ext")+pic("gone")+frame(`<c:chart r:id="ch"/>`)+frame(`<dgm:relIds r:dm="dg"/>`),
		[]Rel{{"i1", "image", "media/x.png"}, {"ext", "image", "http://169.254.169.254/x.png"}, {"gone", "image", "media/../../../etc/passwd"}, {"ch", "chart", "charts/c.xml"}, {"dg", "diagramData", "diagrams/d.xml"}},
		Part{"word/media/x.png", "\x89PNG\r\n\x1a\n"}, Part{"word/charts/c.xml", chart}, Part{"word/diagrams/d.xml", diagram})
	var got []doc.Image
	d := read(t, file, doc.Options{Images: func(_ context.Context, img doc.Image, _ []byte) (string, error) {
		got = append(got, img)
		return "assets/" + img.Name, nil
	}})
	assert.Equal(t, "[IMAGE_REF: assets/p1-1.png]\n\n[IMAGE_REF: assets/p1-1.png]\n\nSales\n\nBar chart\n\n|  | 2024 |\n| --- | --- |\n| North | 1.5 |\n| South | 2.1 |\n\nRoot\n\nLeaf\n",
		strings.Replace(d.Markdown(), "| | 2024", "|  | 2024", 1))
	require.Len(t, got, 1)
	assert.Equal(t, doc.Image{Name: "p1-1.png", Page: 1, MIME: "image/png", Alt: "a red dot"}, got[0])
	assert.Equal(t, doc.Partial, d.State(), "the missing picture is a problem")
	assert.NotContains(t, read(t, file, doc.Options{}).Markdown(), "IMAGE_REF")
}

// TestGolden reads a document of everything together.
func TestGolden(t *testing.T) {
	body, err := os.ReadFile(filepath.Join("testdata", "whole.xml"))
	require.NoError(t, err)
	got := markdown(t, string(body))
	file := filepath.Join("testdata", "whole.md")
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
}

func TestBroken(t *testing.T) {
	deep := strings.Repeat(`<w:sdt><w:sdtContent>`, 200) + p("", "x") + strings.Repeat(`</w:sdtContent></w:sdt>`, 200)
	bomb := `<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>`
	good := Docx(p("", "x"), nil)
	for _, c := range []struct {
		name string
		file []byte
		kind clara.Kind
		text string
	}{
		{"empty archive", Zip(), clara.Corrupt, "no part"},
		{"truncated", good[:len(good)/2], clara.Corrupt, "truncated"},
		{"no body", Zip(Part{"word/document.xml", `<w:document ` + Namespaces + `/>`}), clara.Corrupt, "no body"},
		{"entities", Zip(Part{"word/document.xml", bomb + `<w:document ` + Namespaces + `><w:body>&b;</w:body></w:document>`}), clara.Invalid, "document type"},
		{"nested too deep", Docx(deep, nil), clara.Invalid, "deeper"},
		{"zip bomb", Docx("", nil, Part{"word/x.xml", strings.Repeat("0", 64<<20)}), clara.Invalid, "zip bomb"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := docx.Reader{}.Read(context.Background(), bytes.NewReader(c.file), int64(len(c.file)), doc.Options{})
			require.Error(t, err)
			assert.Equal(t, c.kind, clara.KindOf(err), err)
			assert.ErrorContains(t, err, c.text)
		})
	}
	t.Run("breaks off", func(t *testing.T) {
		file := Zip(Part{"word/document.xml", `<w:document ` + Namespaces + `><w:body>` + p("", "kept") + `<w:p><w:r>`})
		d := read(t, file, doc.Options{})
		assert.Equal(t, doc.Partial, d.State())
		assert.Equal(t, "kept\n", d.Markdown())
	})
	t.Run("too much text", func(t *testing.T) {
		file := Docx(strings.Repeat(p("", strings.Repeat("a b", 400)), 100), nil)
		_, err := docx.Reader{}.Read(context.Background(), bytes.NewReader(file), int64(len(file)), doc.Options{Limits: doc.Limits{MaxText: 10_000}})
		assert.Equal(t, clara.Invalid, clara.KindOf(err))
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := docx.Reader{}.Read(ctx, bytes.NewReader(good), int64(len(good)), doc.Options{})
		assert.ErrorIs(t, err, context.Canceled)
	})
}

func TestNumber(t *testing.T) {
	for _, c := range []struct {
		n            int
		format, want string
	}{
		{3, "decimal", "3"}, {4, "lowerRoman", "iv"}, {1999, "upperRoman", "MCMXCIX"}, {28, "lowerLetter", "bb"}, {7, "decimalZero", "07"},
		{22, "ordinal", "22nd"}, {12, "chineseCounting", "十二"}, {105, "chineseCounting", "一百零五"}, {3, "decimalEnclosedCircle", "③"}, {5, "unheard-of", "5"},
	} {
		assert.Equal(t, c.want, docx.Number(c.n, c.format))
	}
}

func FuzzBody(f *testing.F) {
	f.Add(p("", "x") + num("2", "0", "a"))
	f.Add(`<w:tbl><w:tr>` + tc(`<w:gridSpan w:val="9"/>`, p("", "x")) + `</w:tr></w:tbl>`)
	f.Add(`<w:p><m:oMath><m:sSup><m:e/><m:sup><m:r><m:t>2</m:t></m:r></m:sup></m:sSup></m:oMath><w:r><w:fldChar w:fldCharType="end"/></w:r></w:p>`)
	f.Fuzz(func(t *testing.T, body string) {
		file := Docx(body, nil, Part{"word/styles.xml", styles}, Part{"word/numbering.xml", numbering})
		d, err := docx.Reader{}.Read(context.Background(), bytes.NewReader(file), int64(len(file)), doc.Options{Limits: doc.Limits{MaxText: 1 << 20}})
		if err == nil && d == nil {
			t.Fatal("neither a document nor an error")
		}
	})
}

func FuzzFile(f *testing.F) {
	f.Add(Docx(p("", "x"), nil, Part{"word/styles.xml", styles}, Part{"word/numbering.xml", numbering}))
	f.Fuzz(func(t *testing.T, file []byte) {
		d, err := docx.Reader{}.Read(context.Background(), bytes.NewReader(file), int64(len(file)), doc.Options{Limits: doc.Limits{MaxText: 1 << 20, MaxExpanded: 8 << 20}})
		if err == nil && d == nil {
			t.Fatal("neither a document nor an error")
		}
	})
}
