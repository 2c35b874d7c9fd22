package pdf_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/pdf"
)

// endless is a file with a page that nobody lives to see drawn: forms that each
// draw the next one ten times, thirty deep. The other pages are sound.
func endless(pages, bad int) []byte {
	w := &writer{}
	for i := range pages {
		w.page()
		w.paragraph(1, 10, 72, 300, fmt.Sprintf("Sheet %d is sound.", i+1))
		if i == bad {
			w.raw("/X0 Do")
		}
	}
	const depth = 30
	for i := range depth {
		draw := strings.Repeat(fmt.Sprintf("/X%d Do ", i+1), 10)
		if i == depth-1 {
			draw = "0 0 9 9 re f"
		}
		w.forms = append(w.forms, draw)
	}
	return w.bytes()
}

// TestPageWithoutEnd gives the page less time than pdfium needs to fill its
// memory with it, which ends it too.
func TestPageWithoutEnd(t *testing.T) {
	r := newReader(t, pdf.Config{})
	d := read(t, r, endless(1, 0), doc.Options{Limits: doc.Limits{PageTimeout: 200 * time.Millisecond}})
	require.Len(t, d.Pages, 1)
	assert.Contains(t, d.Pages[0].Err, "not read within")
	assert.Equal(t, doc.ByNone, d.Pages[0].ReadBy)
	assert.Zero(t, r.Live())
}

// TestPagesBesideABrokenOne: whether time or memory ends the bad page, depends
// on the machine; its neighbours are read on every one.
func TestPagesBesideABrokenOne(t *testing.T) {
	r := newReader(t, pdf.Config{})
	d := read(t, r, endless(3, 1), doc.Options{Limits: doc.Limits{PageTimeout: 5 * time.Second}})
	require.Len(t, d.Pages, 3)
	assert.Equal(t, doc.Partial, d.State())
	assert.NotEmpty(t, d.Pages[1].Err)
	assert.Equal(t, doc.ByNone, d.Pages[1].ReadBy)
	assert.Equal(t, "Sheet 1 is sound.", d.Pages[0].Markdown)
	assert.Equal(t, "Sheet 3 is sound.", d.Pages[2].Markdown)
	assert.Zero(t, r.Live())
}

// TestStress reads many documents at once with few places, some of which break
// their instance and some of which are given up at any point. All must end, and
// no place may be lost.
func TestStress(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r := newReader(t, pdf.Config{Workers: 2})
	long := &writer{}
	for range 30 {
		long.page()
		long.paragraph(1, 10, 72, 300, prose...)
	}
	short := &writer{}
	short.page()
	short.paragraph(1, 10, 72, 300, prose...)
	files := [][]byte{long.bytes(), short.bytes(), endless(20, 7), []byte("no pdf at all")}
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(7, uint64(i)))
			data := files[i%len(files)]
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			giveUp := -1
			switch i % 5 {
			case 1:
				giveUp = rnd.IntN(20)
			case 2: // while it waits for a place, or soon after
				var others sync.WaitGroup
				defer others.Wait()
				others.Go(func() {
					for range rnd.IntN(200) {
						_, err := r.Read(ctx, bytes.NewReader(nil), 0, doc.Options{})
						assert.Error(t, err)
					}
					cancel()
				})
			}
			kind := i % len(files)
			var limits doc.Limits
			if kind == 2 {
				limits.PageTimeout = 100 * time.Millisecond
			}
			d, err := r.Read(ctx, bytes.NewReader(data), int64(len(data)), doc.Options{
				Limits: limits,
				Progress: func(n, _ int) {
					if n == giveUp {
						cancel()
					}
				},
			})
			// The time limit of the third kind may strike a sound page on a busy machine.
			if ctx.Err() == nil && kind < 2 && assert.NoError(t, err) {
				assert.NotEmpty(t, d.Pages)
			}
		})
	}
	wg.Wait()
	require.NoError(t, ctx.Err(), "a reading did not end")
	assert.Zero(t, r.Live(), "instances were left behind")
	for range 2 {
		d, err := r.Read(ctx, bytes.NewReader(files[0]), int64(len(files[0])), doc.Options{})
		require.NoError(t, err)
		assert.Equal(t, doc.Done, d.State())
	}
}

func TestCloseWhileReading(t *testing.T) {
	w := &writer{}
	for range 60 {
		w.page()
		w.paragraph(1, 10, 72, 300, prose...)
	}
	data := w.bytes()
	r := pdf.New(pdf.Config{Workers: 2})
	var once sync.Once
	begun := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			_, err := r.Read(context.Background(), bytes.NewReader(data), int64(len(data)), doc.Options{Progress: func(int, int) {
				once.Do(func() { close(begun) })
			}})
			if err != nil { // else it was faster
				assert.Equal(t, clara.State, clara.KindOf(err))
			}
		})
	}
	<-begun
	assert.NoError(t, r.Close())
	wg.Wait()
	_, err := r.Read(context.Background(), bytes.NewReader(data), int64(len(data)), doc.Options{})
	assert.Equal(t, clara.State, clara.KindOf(err))
	assert.Zero(t, r.Live())
}

// Rows of two pieces whose gaps agree nowhere are tried as tables again and again, within bounds: the page is read whole.
func TestRaggedRows(t *testing.T) {
	w := &writer{}
	w.page()
	const rows = 230
	for i := range rows {
		gap := 60 + float64(i*7919%300)
		w.text(1, 2, 20, 20+float64(i)*3, strings.Repeat("left ", int(gap/9)))
		w.text(1, 2, 20+gap, 20+float64(i)*3, fmt.Sprintf("right%d", i))
	}
	text := read(t, newReader(t, pdf.Config{}), w.bytes(), doc.Options{}).Markdown()
	for i := range rows {
		assert.Contains(t, text, fmt.Sprintf("right%d", i))
	}
}
