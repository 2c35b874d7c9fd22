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
