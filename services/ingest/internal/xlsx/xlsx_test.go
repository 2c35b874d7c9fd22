package xlsx_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/xuri/excelize/v2"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/ooxml/ooxmltest"
	"github.com/clara-suite/clara/services/ingest/internal/xlsx"
)

func workbook(t testing.TB) []byte {
	t.Helper()
	f := excelize.NewFile()
	set := func(sheet string, cells map[string]any) {
		for c, v := range cells {
			require.NoError(t, f.SetCellValue(sheet, c, v))
		}
	}
	require.NoError(t, f.SetSheetName("Sheet1", "Yield"))
	set("Yield", map[string]any{
		"B1": "Honey by year", "B2": "Year", "C2": "Stand", "D2": "kg", "B3": 2024, "C3": "South | East", "D3": 31.5, "C4": "North", "D4": 12,
		"B7": "A note below", "B9": "x", "C9": "y",
	})
	require.NoError(t, f.MergeCell("Yield", "B3", "B4"))
	require.NoError(t, f.MergeCell("Yield", "B1", "D1"))
	_, err := f.NewSheet("Secret")
	require.NoError(t, err)
	set("Secret", map[string]any{"A1": "hidden"})
	require.NoError(t, f.SetSheetVisible("Secret", false))
	_, err = f.NewSheet("空")
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, f.Write(&b))
	return b.Bytes()
}

func TestRead(t *testing.T) {
	file := workbook(t)
	d, err := xlsx.Reader{}.Read(context.Background(), bytes.NewReader(file), int64(len(file)), doc.Options{})
	require.NoError(t, err)
	assert.Equal(t, doc.Done, d.State(), d.Problems)
	assert.Equal(t, "## Yield\n\nHoney by year\n\n| Year | Stand | kg |\n| --- | --- | --- |\n| 2024 | South \\| East | 31.5 |\n| 2024 | North | 12 |\n\nA note below\n\n| x | y |\n| --- | --- |\n\n## 空\n", d.Markdown())
}

func TestSideBySide(t *testing.T) {
	f := excelize.NewFile()
	for cell, row := range map[string][]any{
		"A1": {"a", "b"}, "A2": {1, 2}, "A3": {3, 4}, "D3": {"c", "d"}, "D4": {5, 6}, // the right one begins lower
		"A7": {"e", nil, "f"}, "A8": {7, nil, 8}, "A9": {9, nil, 10}, // a column of a form without values
		"A12": {"g", "h", nil, nil, "i", "j"}, "A13": {11, 12, nil, nil, 13, 14},
	} {
		require.NoError(t, f.SetSheetRow("Sheet1", cell, &row))
	}
	var b bytes.Buffer
	require.NoError(t, f.Write(&b))
	d, err := xlsx.Reader{}.Read(context.Background(), bytes.NewReader(b.Bytes()), int64(b.Len()), doc.Options{})
	require.NoError(t, err)
	assert.Equal(t, "## Sheet1\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |\n\n| c | d |\n| --- | --- |\n| 5 | 6 |\n\n"+
		"| e | | f |\n| --- | --- | --- |\n| 7 | | 8 |\n| 9 | | 10 |\n\n| g | h |\n| --- | --- |\n| 11 | 12 |\n\n| i | j |\n| --- | --- |\n| 13 | 14 |\n", d.Markdown())
}

func TestDrawings(t *testing.T) {
	f := excelize.NewFile()
	for cell, row := range map[string][]any{"A1": {"Year", "kg"}, "A2": {"2024", 31}, "A3": {"2025", 28}} {
		require.NoError(t, f.SetSheetRow("Sheet1", cell, &row))
	}
	chart := &excelize.Chart{Type: excelize.Line, Title: excelize.ChartTitle{Paragraph: []excelize.RichTextRun{{Text: "Honey"}}},
		Series: []excelize.ChartSeries{{Name: "Sheet1!$B$1", Categories: "Sheet1!$A$2:$A$3", Values: "Sheet1!$B$2:$B$3"}}}
	require.NoError(t, f.AddChart("Sheet1", "D2", chart))
	chart.Type = excelize.Pie
	require.NoError(t, f.AddChartSheet("Drawn", chart))
	require.NoError(t, f.AddShape("Sheet1", &excelize.Shape{Cell: "D20", Type: "rect", Paragraph: []excelize.RichTextRun{{Text: "see # 1"}}}))
	require.NoError(t, f.AddComment("Sheet1", excelize.Comment{Cell: "B2", Author: "Ann", Text: "why so much?"}))
	var b bytes.Buffer
	require.NoError(t, f.Write(&b))
	read := func(opts doc.Options) string {
		d, err := xlsx.Reader{}.Read(context.Background(), bytes.NewReader(b.Bytes()), int64(b.Len()), opts)
		require.NoError(t, err)
		assert.Empty(t, d.Problems)
		return d.Markdown()
	}
	cells := "## Sheet1\n\n| Year | kg |\n| --- | --- |\n| 2024 | 31 |\n| 2025 | 28 |\n\n"
	assert.Equal(t, cells+"Honey\n\nLine chart\n\nsee # 1\n\n## Drawn\n\nHoney\n\nPie chart\n", read(doc.Options{}))
	assert.Contains(t, read(doc.Options{Comments: true}), "Comment at B2: ")
}

func TestBroken(t *testing.T) {
	good := workbook(t)
	for _, c := range []struct {
		name string
		file []byte
		kind clara.Kind
	}{
		{"truncated", good[:len(good)/2], clara.Corrupt},
		{"no workbook", ooxmltest.Zip(ooxmltest.Part{"xl/workbook.xml", "<x"}), clara.Corrupt},
		{"zip bomb", ooxmltest.Zip(ooxmltest.Part{"xl/worksheets/sheet1.xml", strings.Repeat("0", 64<<20)}), clara.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := xlsx.Reader{}.Read(context.Background(), bytes.NewReader(c.file), int64(len(c.file)), doc.Options{})
			require.Error(t, err)
			assert.Equal(t, c.kind, clara.KindOf(err), err)
		})
	}
}

func FuzzDrawing(f *testing.F) {
	f.Add(`<xdr:twoCellAnchor><xdr:sp><xdr:txBody><a:p><a:r><a:t>x</a:t></a:r></a:p></xdr:txBody></xdr:sp></xdr:twoCellAnchor>`)
	f.Add(`<xdr:oneCellAnchor><xdr:graphicFrame><a:graphic><a:graphicData><c:chart r:id="d1"/></a:graphicData></a:graphic></xdr:graphicFrame></xdr:oneCellAnchor>`)
	f.Fuzz(func(t *testing.T, shapes string) {
		file := ooxmltest.Zip(
			ooxmltest.Part{"[Content_Types].xml", `<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Override PartName="/xl/workbook.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/></Types>`},
			ooxmltest.Rels("", ooxmltest.Rel{"r1", "officeDocument", "xl/workbook.xml"}),
			ooxmltest.Part{"xl/workbook.xml", `<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"><sheets><sheet name="S" sheetId="1" r:id="s1"/></sheets></workbook>`},
			ooxmltest.Rels("xl/workbook.xml", ooxmltest.Rel{"s1", "worksheet", "worksheets/sheet1.xml"}),
			ooxmltest.Part{"xl/worksheets/sheet1.xml", `<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData><row r="1"><c r="A1" t="inlineStr"><is><t>x</t></is></c></row></sheetData></worksheet>`},
			ooxmltest.Rels("xl/worksheets/sheet1.xml", ooxmltest.Rel{"d1", "drawing", "../drawings/d.xml"}),
			ooxmltest.Rels("xl/drawings/d.xml", ooxmltest.Rel{"d1", "chart", "d.xml"}),
			ooxmltest.Part{"xl/drawings/d.xml", `<xdr:wsDr xmlns:xdr="http://schemas.openxmlformats.org/drawingml/2006/spreadsheetDrawing" ` + ooxmltest.Namespaces + `>` + shapes + `</xdr:wsDr>`},
		)
		d, err := xlsx.Reader{}.Read(context.Background(), bytes.NewReader(file), int64(len(file)), doc.Options{Comments: true, Limits: doc.Limits{MaxText: 1 << 20}})
		if err == nil && d == nil {
			t.Fatal("neither a document nor an error")
		}
	})
}

func FuzzSheet(f *testing.F) {
	f.Add(`<c r="A1" t="inlineStr"><is><t>x</t></is></c>`)
	f.Add(`<c r="ZZZ99999999" t="s"><v>-1</v></c>`)
	f.Fuzz(func(t *testing.T, cells string) {
		file := ooxmltest.Zip(
			ooxmltest.Part{"[Content_Types].xml", `<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Override PartName="/xl/workbook.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/></Types>`},
			ooxmltest.Rels("", ooxmltest.Rel{"r1", "officeDocument", "xl/workbook.xml"}),
			ooxmltest.Part{"xl/workbook.xml", `<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"><sheets><sheet name="S" sheetId="1" r:id="s1"/></sheets></workbook>`},
			ooxmltest.Rels("xl/workbook.xml", ooxmltest.Rel{"s1", "worksheet", "worksheets/sheet1.xml"}),
			ooxmltest.Part{"xl/worksheets/sheet1.xml", `<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData><row r="1">` + cells + `</row></sheetData></worksheet>`},
		)
		d, err := xlsx.Reader{}.Read(context.Background(), bytes.NewReader(file), int64(len(file)), doc.Options{Limits: doc.Limits{MaxText: 1 << 20}})
		if err == nil && d == nil {
			t.Fatal("neither a document nor an error")
		}
	})
}
