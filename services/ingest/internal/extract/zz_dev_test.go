package extract_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/extract"
)

func TestDev(t *testing.T) {
	e := extract.New(extract.Config{})
	for _, p := range strings.Split(os.Getenv("DEV_FILES"), ":") {
		f, err := os.Open(p)
		if err != nil {
			t.Fatal(err)
		}
		st, _ := f.Stat()
		start := time.Now()
		n := 0
		d, err := e.Extract(context.Background(), filepath.Base(p), f, st.Size(), doc.Options{Images: func(ctx context.Context, img doc.Image, data []byte) (string, error) {
			n++
			return "assets/" + img.Name, nil
		}})
		if err != nil {
			fmt.Println("ERR", err)
			continue
		}
		fmt.Println(filepath.Base(p), d.Format, d.State(), len(d.Pages), n, time.Since(start).Round(time.Millisecond), d.Problems)
		os.WriteFile(filepath.Join(os.Getenv("DEV_OUT"), filepath.Base(p)+".md"), []byte(d.Markdown()), 0o644)
	}
}
