package pptx_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
	. "github.com/clara-suite/clara/services/ingest/internal/ooxml/ooxmltest"
	"github.com/clara-suite/clara/services/ingest/internal/pptx"
)

const styles = `<p:titleStyle><a:lvl1pPr><a:buNone/></a:lvl1pPr></p:titleStyle>` +
	`<p:bodyStyle><a:lvl1pPr><a:buChar char="•"/></a:lvl1pPr><a:lvl2pPr><a:buChar char="–"/></a:lvl2pPr><a:lvl3pPr><a:buAutoNum type="arabicPeriod"/></a:lvl3pPr></p:bodyStyle><p:otherStyle/>`

const layout = `<p:sp><p:nvSpPr><p:nvPr><p:ph type="title"/></p:nvPr></p:nvSpPr><p:spPr><a:xfrm><a:off x="0" y="9000000"/><a:ext cx="1" cy="1"/></a:xfrm></p:spPr></p:sp>` +
	`<p:sp><p:nvSpPr><p:nvPr><p:ph type="body" idx="7"/></p:nvPr></p:nvSpPr><p:spPr/><p:txBody><a:lstStyle><a:lvl1pPr><a:buNone/></a:lvl1pPr></a:lstStyle></p:txBody></p:sp>`

// sp is a shape with a text at a place in inches; ph may be "".
func sp(ph string, x, y int, paras ...string) string {
	if ph != "" {
		ph = "<p:ph " + ph + "/>"
	}
	xfrm := fmt.Sprintf(`<a:xfrm><a:off x="%d" y="%d"/><a:ext cx="914400" cy="914400"/></a:xfrm>`, x*914400, y*914400)
	return `<p:sp><p:nvSpPr><p:cNvPr id="1" name="x"/><p:nvPr>` + ph + `</p:nvPr></p:nvSpPr><p:spPr>` + xfrm + `</p:spPr><p:txBody>` + strings.Join(paras, "") + `</p:txBody></p:sp>`
}

func par(props, text string) string {
	return `<a:p>` + props + `<a:r><a:t>` + text + `</a:t></a:r></a:p>`
}

func read(t *testing.T, file []byte, opts doc.Options) *doc.Document {
	t.Helper()
	d, err := pptx.Reader{}.Read(context.Background(), bytes.NewReader(file), int64(len(file)), opts)
	require.NoError(t, err)
	return d
}

func TestSlides(t *testing.T) {
	tc := func(attrs, text string) string {
		return `<a:tc ` + attrs + `><a:txBody>` + par("", text) + `</a:txBody></a:tc>`
	}
	for _, c := range []struct{ name, shapes, want string }{
		{"title first, then by place", sp("", 5, 2, par("", "right")) + sp("", 1, 2, par("", "left")) + sp("", 0, 1, par("", "top")) + sp(`type="title"`, 0, 9, par("", "The title")),
			"# The title\n\ntop\n\nleft\n\nright\n"},
		{"inherited bullets", sp(`type="body" idx="3"`, 0, 0, par("", "a"), par(`<a:pPr lvl="1"/>`, "b"), par(`<a:pPr><a:buNone/></a:pPr>`, "plain"), par("", "c")),
			"- a\n    - b\n\nplain\n\n- c\n"},
		{"layout turns bullets off", sp(`type="body" idx="7"`, 0, 0, par("", "a")), "a\n"},
		{"inherited numbers", sp(`type="body"`, 0, 0, par(`<a:pPr lvl="2"/>`, "a"), par(`<a:pPr lvl="2"/>`, "b")), "1. a\n2. b\n"},
		{"numbers", sp("", 0, 0, par(`<a:pPr><a:buAutoNum type="alphaLcParenR" startAt="2"/></a:pPr>`, "a"), par(`<a:pPr><a:buAutoNum type="alphaLcParenR" startAt="2"/></a:pPr>`, "b")), "- b) a\n- c) b\n"},
		{"feet are left out", sp(`type="ftr"`, 0, 0, par("", "Confidential")) + sp(`type="sldNum"`, 0, 0, par("", "7")) + sp(`type="dt"`, 0, 0, par("", "Monday")) + sp("", 0, 0, par("", "text")), "text\n"},
		{"group", `<p:grpSp><p:grpSpPr><a:xfrm><a:off x="0" y="4572000"/><a:ext cx="100" cy="100"/><a:chOff x="0" y="0"/><a:chExt cx="100" cy="100"/></a:xfrm></p:grpSpPr>` + sp("", 0, 0, par("", "in group")) + `</p:grpSp>` + sp("", 0, 2, par("", "above")),
			"above\n\nin group\n"},
		{"table", `<p:graphicFrame><a:graphic><a:graphicData><a:tbl><a:tr>` + tc(`gridSpan="2"`, "wide") + tc(`hMerge="1"`, "") + tc(`rowSpan="2"`, "tall") + `</a:tr><a:tr>` + tc("", "1") + tc("", "2") + tc(`vMerge="1"`, "") + `</a:tr></a:tbl></a:graphicData></a:graphic></p:graphicFrame>`,
			"| wide | wide | tall |\n| --- | --- | --- |\n| 1 | 2 | tall |\n"},
		{"emphasis and breaks", sp("", 0, 0, `<a:p><a:r><a:rPr b="1"/><a:t>Big</a:t></a:r><a:br/><a:r><a:t>small</a:t></a:r></a:p>`), "**Big**\nsmall\n"},
		{"escaped control characters", sp("", 0, 0, par("", "a_x000B_b_x0041_c_x000")), "a\nb_x0041_c_x000\n"},
		{"shape without a place", sp("", 1, 1, par("", "first")) + `<p:sp><p:spPr/><p:txBody>` + par("", "second") + `</p:txBody></p:sp>` + sp("", 0, 5, par("", "third")), "first\n\nsecond\n\nthird\n"},
		{"hidden shape", strings.Replace(sp("", 0, 0, par("", "x")), `name="x"`, `name="x" hidden="1"`, 1), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, c.want, read(t, Pptx([]Slide{{Shapes: c.shapes}}, layout, "", styles), doc.Options{}).Markdown())
		})
	}
}

func TestPagesNotesPictures(t *testing.T) {
	slides := []Slide{
		{Shapes: sp(`type="ctrTitle"`, 0, 0, par("", "One")), Notes: sp(`type="body"`, 0, 0, par("", "say hello"), par("", "and wave")) + sp(`type="sldNum"`, 0, 0, par("", "1"))},
		{Shapes: `<p:pic><p:nvPicPr><p:cNvPr id="2" name="p" descr="a cat"/></p:nvPicPr><p:blipFill><a:blip r:embed="i"/></p:blipFill></p:pic>`, Rels: []Rel{{"i", "image", "../media/c.png"}}},
		{},
	}
	file := Pptx(slides, layout, "", styles, Part{"ppt/media/c.png", "\x89PNG\r\n\x1a\n"})
	var alt string
	d := read(t, file, doc.Options{Images: func(_ context.Context, img doc.Image, _ []byte) (string, error) {
		alt = img.Alt
		return img.Name, nil
	}})
	require.Len(t, d.Pages, 3)
	assert.Equal(t, "One", d.Title)
	assert.Equal(t, "# One\n\nNotes: say hello\n\nand wave", d.Pages[0].Markdown)
	assert.Equal(t, "[IMAGE_REF: p2-1.png]", d.Pages[1].Markdown)
	assert.Empty(t, d.Pages[2].Markdown)
	assert.Equal(t, "a cat", alt)
	assert.Equal(t, doc.Done, d.State())
}

func TestChartsDiagramsFormulas(t *testing.T) {
	frame := func(inner string) string {
		return `<p:graphicFrame><a:graphic><a:graphicData>` + inner + `</a:graphicData></a:graphic></p:graphicFrame>`
	}
	chart := `<c:chartSpace ` + Namespaces + `><c:chart><c:plotArea><c:pieChart><c:ser><c:tx><c:v>Share</c:v></c:tx><c:cat><c:strLit><c:pt idx="0"><c:v>A</c:v></c:pt></c:strLit></c:cat><c:val><c:numLit><c:pt idx="0"><c:v>40</c:v></c:pt><c:pt idx="1"><c:v>60</c:v></c:pt><c:pt idx="99999999"><c:v>1</c:v></c:pt></c:numLit></c:val></c:ser></c:pieChart></c:plotArea></c:chart></c:chartSpace>`
	topic := func(id, text string) string {
		return `<dgm:pt modelId="` + id + `"><dgm:t><a:p><a:r><a:t>` + text + `</a:t></a:r></a:p></dgm:t></dgm:pt>`
	}
	diagram := `<dgm:dataModel ` + Namespaces + `><dgm:ptLst><dgm:pt modelId="0" type="doc"/>` + topic("1", "Plan") + topic("2", "Do") + topic("3", "Step") + `</dgm:ptLst><dgm:cxnLst>` +
		`<dgm:cxn srcId="0" destId="2" srcOrd="1"/><dgm:cxn srcId="0" destId="1" srcOrd="0"/><dgm:cxn srcId="1" destId="3" srcOrd="0"/><dgm:cxn type="presOf" srcId="1" destId="2" srcOrd="0"/></dgm:cxnLst></dgm:dataModel>`
	file := Pptx([]Slide{{
		Shapes: frame(`<c:chart r:id="c"/>`) + frame(`<dgm:relIds r:dm="d"/>`) + frame(`<c:chart r:id="none"/>`),
		Rels:   []Rel{{"c", "chart", "../charts/c.xml"}, {"d", "diagramData", "../diagrams/d.xml"}},
	}}, layout, "", styles, Part{"ppt/charts/c.xml", chart}, Part{"ppt/diagrams/d.xml", diagram})
	assert.Equal(t, "Pie chart\n\n| | Share |\n| --- | --- |\n| A | 40 |\n| | 60 |\n\n- Plan\n    - Step\n- Do\n", read(t, file, doc.Options{}).Markdown())
}

func TestBroken(t *testing.T) {
	good := Pptx([]Slide{{Shapes: sp("", 0, 0, par("", "x"))}}, layout, "", styles)
	for _, c := range []struct {
		name string
		file []byte
		kind clara.Kind
	}{
		{"no slides", Pptx(nil, layout, "", styles), clara.Invalid},
		{"truncated", good[:len(good)-40], clara.Corrupt},
		{"no presentation", Zip(Part{"a", "b"}), clara.Corrupt},
		{"only slide broken", Pptx([]Slide{{Shapes: "<p:sp>"}}, layout, "", styles), clara.Corrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := pptx.Reader{}.Read(context.Background(), bytes.NewReader(c.file), int64(len(c.file)), doc.Options{})
			require.Error(t, err)
			assert.Equal(t, c.kind, clara.KindOf(err), err)
		})
	}
	d := read(t, Pptx([]Slide{{Shapes: sp("", 0, 0, par("", "x"))}, {Shapes: "<p:sp>"}}, layout, "", styles), doc.Options{})
	assert.Equal(t, doc.Partial, d.State())
	assert.Equal(t, doc.ByNone, d.Pages[1].ReadBy)
	d = read(t, Pptx(make([]Slide, 12), layout, "", styles), doc.Options{Limits: doc.Limits{MaxPages: 10}})
	assert.Len(t, d.Pages, 10)
	assert.Equal(t, doc.Partial, d.State())
}

func FuzzSlide(f *testing.F) {
	f.Add(sp(`type="title"`, 0, 0, par("", "x")))
	f.Add(`<p:grpSp><p:grpSpPr/><p:graphicFrame><a:graphic><a:graphicData><a:tbl><a:tr><a:tc gridSpan="-3" rowSpan="99999"/></a:tr></a:tbl></a:graphicData></a:graphic></p:graphicFrame></p:grpSp>`)
	f.Fuzz(func(t *testing.T, shapes string) {
		file := Pptx([]Slide{{Shapes: shapes}}, layout, "", styles)
		d, err := pptx.Reader{}.Read(context.Background(), bytes.NewReader(file), int64(len(file)), doc.Options{Limits: doc.Limits{MaxText: 1 << 20}})
		if err == nil && d == nil {
			t.Fatal("neither a document nor an error")
		}
	})
}
