package pdf_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/klippa-app/go-pdfium"
	"github.com/klippa-app/go-pdfium/requests"
	"github.com/klippa-app/go-pdfium/webassembly"
	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/pdf"
)

// BenchmarkRead compares Read with pdfium's own text extraction in the same
// process, in pages a second, one page at a time. CLARA_BENCH_PDF names other
// files than the samples (a glob).
func BenchmarkRead(b *testing.B) {
	files := map[string][]byte{}
	if glob := os.Getenv("CLARA_BENCH_PDF"); glob != "" {
		names, err := filepath.Glob(glob)
		require.NoError(b, err)
		for _, n := range names {
			data, err := os.ReadFile(n)
			require.NoError(b, err)
			files[filepath.Base(n)] = data
		}
	} else {
		w := &writer{}
		for range 60 {
			w.page()
			w.paragraph(1, 10, 60, 90, prose...)
			w.paragraph(1, 10, 320, 90, prose...)
			w.paragraph(1, 10, 60, 300, prose...)
			w.paragraph(1, 10, 320, 300, prose...)
		}
		files["columns"] = w.bytes()
	}
	r := newReader(b, pdf.Config{Workers: 1})
	pool, err := webassembly.Init(webassembly.Config{
		MaxTotal: 1, FSConfig: wazero.NewFSConfig(),
		RuntimeConfig: wazero.NewRuntimeConfig().WithCoreFeatures(api.CoreFeaturesV2 | experimental.CoreFeaturesExceptionHandling),
	})
	require.NoError(b, err)
	b.Cleanup(func() { _ = pool.Close() })
	for name, data := range files {
		b.Run(name+"/bare", func(b *testing.B) {
			pages := 0
			for b.Loop() {
				in, err := pool.GetInstanceWithContext(context.Background())
				require.NoError(b, err)
				pages += bare(b, in, data)
				require.NoError(b, in.Close())
			}
			b.ReportMetric(float64(pages)/b.Elapsed().Seconds(), "pages/s")
		})
		b.Run(name+"/read", func(b *testing.B) {
			// Loading pdfium is not measured on either side.
			_, err := r.Read(context.Background(), bytes.NewReader(data), int64(len(data)), doc.Options{OCR: doc.OCRNever})
			require.NoError(b, err)
			pages := 0
			for b.Loop() {
				d, err := r.Read(context.Background(), bytes.NewReader(data), int64(len(data)), doc.Options{OCR: doc.OCRNever})
				require.NoError(b, err)
				pages += len(d.Pages)
			}
			b.ReportMetric(float64(pages)/b.Elapsed().Seconds(), "pages/s")
		})
	}
}

// bare reads the text of all pages as pdfium gives it.
func bare(b *testing.B, in pdfium.Pdfium, data []byte) int {
	d, err := in.OpenDocument(&requests.OpenDocument{File: &data})
	require.NoError(b, err)
	n, err := in.FPDF_GetPageCount(&requests.FPDF_GetPageCount{Document: d.Document})
	require.NoError(b, err)
	for i := range n.PageCount {
		_, err := in.GetPageText(&requests.GetPageText{Page: requests.Page{ByIndex: &requests.PageByIndex{Document: d.Document, Index: i}}})
		require.NoError(b, err)
	}
	return n.PageCount
}
