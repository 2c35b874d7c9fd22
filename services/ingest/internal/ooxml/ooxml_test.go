package ooxml_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/ooxml"
	"github.com/clara-suite/clara/services/ingest/internal/ooxml/ooxmltest"
)

func parse(t *testing.T, body string) *ooxml.Node {
	t.Helper()
	n, err := ooxml.Parse(strings.NewReader(`<x ` + ooxmltest.Namespaces + `>` + body + `</x>`))
	require.NoError(t, err)
	return n
}

func TestLaTeX(t *testing.T) {
	r := func(s string) string { return `<m:r><m:t>` + s + `</m:t></m:r>` }
	e := func(name, s string) string { return `<m:` + name + `>` + s + `</m:` + name + `>` }
	for _, c := range []struct{ name, xml, want string }{
		{"fraction", `<m:f>` + e("num", r("a")) + e("den", r("b")) + `</m:f>`, `\frac{a}{b}`},
		{"binomial", `<m:f><m:fPr><m:type m:val="noBar"/></m:fPr>` + e("num", r("n")) + e("den", r("k")) + `</m:f>`, `\genfrac{}{}{0pt}{}{n}{k}`},
		{"scripts", `<m:sSubSup>` + e("e", r("x")) + e("sub", r("i")) + e("sup", r("2")) + `</m:sSubSup>`, `x_{i}^{2}`},
		{"script on a group", `<m:sSup>` + e("e", r("ab")) + e("sup", r("2")) + `</m:sSup>`, `{ab}^{2}`},
		{"prescript", `<m:sPre>` + e("sub", r("2")) + e("sup", "") + e("e", r("F")) + `</m:sPre>`, `{}_{2}F`},
		{"root", `<m:rad>` + e("deg", r("3")) + e("e", r("x")) + `</m:rad>`, `\sqrt[3]{x}`},
		{"sum", `<m:nary><m:naryPr><m:chr m:val="∑"/></m:naryPr>` + e("sub", r("i=1")) + e("sup", r("n")) + e("e", r("i")) + `</m:nary>`, `\sum_{i=1}^{n}i`},
		{"integral", `<m:nary>` + e("sub", "") + e("sup", "") + e("e", r("xdx")) + `</m:nary>`, `\int xdx`},
		{"delimiters", `<m:d><m:dPr><m:begChr m:val="{"/><m:endChr m:val=""/></m:dPr>` + e("e", r("x")) + `</m:d>`, `\left\{x\right.`},
		{"function", `<m:func>` + e("fName", r("sin")) + e("e", r("x")) + `</m:func>`, `\sin x`},
		{"own function", `<m:func>` + e("fName", r("foo")) + e("e", r("x")) + `</m:func>`, `\operatorname{foo} x`},
		{"limit", `<m:limLow>` + e("e", r("lim")) + e("lim", r("n→∞")) + `</m:limLow>`, `\lim_{n\rightarrow\infty}`},
		{"accent", `<m:acc><m:accPr><m:chr m:val="⃗"/></m:accPr>` + e("e", r("v")) + `</m:acc>`, `\vec{v}`},
		{"brace", `<m:groupChr>` + e("e", r("x+y")) + `</m:groupChr>`, `\underbrace{x+y}`},
		{"matrix", `<m:m><m:mr>` + e("e", r("a")) + e("e", r("b")) + `</m:mr><m:mr>` + e("e", r("c")) + e("e", r("d")) + `</m:mr></m:m>`, `\begin{matrix}a & b \\ c & d\end{matrix}`},
		{"lines", `<m:eqArr>` + e("e", r("a")) + e("e", r("b")) + `</m:eqArr>`, `\begin{aligned}a \\ b\end{aligned}`},
		{"symbols", r("α≤β−1") + r("2πr"), `\alpha\leq\beta-12\pi r`},
		{"text", `<m:r><m:rPr><m:nor/></m:rPr><m:t>if x</m:t></m:r>`, `\text{if x}`},
		{"letters of mathematics", r("𝑥𝐁𝛼"), `x\mathbf{B}\alpha`},
		{"special", r("50% {a_b}"), `50\% \{a\_b\}`},
	} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.want, ooxml.LaTeX(parse(t, c.xml))) })
	}
}

func TestStrictNamespacesAndPrefixes(t *testing.T) {
	n, err := ooxml.Parse(strings.NewReader(`<q:document xmlns:q="http://purl.oclc.org/ooxml/wordprocessingml/main" q:val="1"><q:body/></q:document>`))
	require.NoError(t, err)
	assert.Equal(t, "w:document", n.Name)
	assert.Equal(t, "1", n.Attr("w:val"))
	assert.NotNil(t, n.Kid("w:body"))
}

func TestEncodings(t *testing.T) {
	n, err := ooxml.Parse(bytes.NewReader([]byte("<?xml version='1.0' encoding='ISO-8859-1'?><a>\xe9</a>")))
	require.NoError(t, err)
	assert.Equal(t, "é", n.Text)
}

func TestXMLIsBounded(t *testing.T) {
	for _, c := range []struct{ name, xml string }{
		{"document type", `<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>`},
		{"depth", strings.Repeat("<a>", 1000)},
		{"elements", "<a>" + strings.Repeat("<b/>", 1_100_000)},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ooxml.Parse(strings.NewReader(c.xml))
			assert.Equal(t, clara.Invalid, clara.KindOf(err), err)
		})
	}
	_, err := ooxml.Parse(strings.NewReader("<a><b></a>"))
	assert.Equal(t, clara.Corrupt, clara.KindOf(err))
}

func TestNamesAreNoPaths(t *testing.T) {
	file := ooxmltest.Zip(ooxmltest.Part{"../../etc/passwd", "x"}, ooxmltest.Part{`word\Document.XML`, "y"},
		ooxmltest.Rels("word/document.xml", ooxmltest.Rel{"a", "image", "../../../../etc/shadow"}, ooxmltest.Rel{"b", "image", "/media/x.png"}, ooxmltest.Rel{"c", "image", "http://h/x"}))
	p, err := ooxml.Open(bytes.NewReader(file), int64(len(file)), doc.Limits{})
	require.NoError(t, err)
	assert.True(t, p.Has("etc/passwd"), "only a name in the archive")
	assert.True(t, p.Has("word/document.xml"))
	rels := p.Rels("word/document.xml")
	assert.Equal(t, ooxml.Rel{Type: "image", Target: "etc/shadow"}, rels["a"])
	assert.Equal(t, ooxml.Rel{Type: "image", Target: "media/x.png"}, rels["b"])
	assert.True(t, rels["c"].External)
	_, err = p.Bytes("word/document.xml", 0)
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
	_, err = p.Open("missing")
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`<a xmlns="x"><b c="d">e</b></a>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := ooxml.Parse(bytes.NewReader(b)); err == nil {
			_ = ooxml.LaTeX(n)
			_ = ooxml.ReadChart(n)
			_ = ooxml.ReadDiagram(n)
		}
	})
}
