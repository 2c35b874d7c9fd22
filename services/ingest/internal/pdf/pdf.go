package pdf

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"unicode"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
)

// Config is how a Reader works.
type Config struct {
	// CacheDir keeps pdfium's compiled code between processes, so that only
	// the first one on a machine waits for it. Empty is $CLARA_CACHE/wasm, in
	// the user's cache folder if that is unset.
	CacheDir string
	// Workers is how many pages are read at once, over all documents; 0 is
	// one a processor.
	Workers int
	// MaxMemory is what the work on one page may take, in bytes, besides the
	// file: 64 MiB to 4 GiB; 0 is 1 GiB. A page that wants more is not read.
	MaxMemory int64
	// OCR reads pages without text; nil reports them as not read.
	OCR Recognizer
}

// Reader reads PDF files. It is safe for concurrent use.
type Reader struct {
	engine *engine
	ocr    Recognizer
}

// New makes a reader; pdfium is loaded at the first Read. Close frees it.
func New(cfg Config) *Reader {
	if cfg.CacheDir == "" {
		cfg.CacheDir = defaultCacheDir()
	}
	if cfg.Workers <= 0 {
		cfg.Workers = runtime.NumCPU()
	}
	if cfg.MaxMemory == 0 {
		cfg.MaxMemory = 1 << 30
	}
	cfg.MaxMemory = min(max(cfg.MaxMemory, 64<<20), 4<<30)
	return &Reader{engine: newEngine(cfg), ocr: cfg.OCR}
}

// Close ends the readings under way with a State error, waits for them and
// frees pdfium.
func (r *Reader) Close() error { return r.engine.close() }

var _ doc.Reader = (*Reader)(nil)

// Read reads a PDF file; see doc.Reader.
func (r *Reader) Read(ctx context.Context, f io.ReaderAt, size int64, opts doc.Options) (*doc.Document, error) {
	opts.Limits = opts.Limits.WithDefaults()
	if opts.OCR == "" {
		opts.OCR = doc.OCRAuto
	}
	if size == 0 {
		return nil, clara.Errorf(clara.Invalid, "open pdf: the file is empty")
	}
	if size > opts.Limits.MaxBytes || size >= 1<<32 {
		return nil, clara.Errorf(clara.Invalid, "open pdf: the file has %d bytes, the limit is %d", size, min(opts.Limits.MaxBytes, 1<<32-1))
	}
	rd := &reading{Reader: r, file: f, size: size, opts: opts, out: &doc.Document{Format: doc.PDF},
		refs: map[[sha256.Size]byte]string{}, shown: map[[sha256.Size]byte]int{}}
	return rd.run(ctx)
}

// reading is the state of one Read.
type reading struct {
	*Reader
	file io.ReaderAt
	size int64
	opts doc.Options
	out  *doc.Document

	outline map[string]int
	layouts []*layout
	// refs and shown say of each stored picture where it is and how often it comes.
	refs  map[[sha256.Size]byte]string
	shown map[[sha256.Size]byte]int
	full  bool // no more pictures are taken
	// helpers counts the workers besides the first.
	helpers atomic.Int32
}

// task is one page on its way through a worker.
type task struct {
	index  int
	done   chan struct{}
	layout *layout
	images []imageData
	err    error
}

// giveUpAfter is how many pages in a row may break pdfium before the rest of
// the document is left unread.
const giveUpAfter = 8

// pagesPerWorker is how many pages must be left for a further worker: opening
// the document once more costs about as much as reading some of them.
const pagesPerWorker = 8

func (rd *reading) run(ctx context.Context) (*doc.Document, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(rd.engine.closed, func() { cancel(errClosed) })()
	if err := rd.engine.gate.enter(ctx); err != nil {
		return nil, err
	}
	first, err := rd.openInstance(ctx)
	if err != nil {
		return nil, err
	}
	pages := 0
	first.guard(ctx, rd.opts.Limits.PageTimeout, func() { pages = rd.facts(first) })
	if err := first.err; err != nil {
		first.close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, clara.Errorf(clara.Corrupt, "open pdf: %w", err)
	}
	if pages == 0 {
		first.close()
		return nil, clara.Errorf(clara.Corrupt, "open pdf: the file has no pages")
	}
	n := min(pages, rd.opts.Limits.MaxPages)
	rd.layouts = make([]*layout, n)
	rd.out.Pages = make([]doc.Page, n)

	jobs := make(chan *task)
	// The window bounds how far the workers run ahead of what is taken over.
	window := make(chan *task, 16)
	go func() {
		defer close(window)
		defer close(jobs)
		for i := range n {
			t := &task{index: i, done: make(chan struct{})}
			select {
			case window <- t:
			case <-ctx.Done():
				return
			}
			select {
			case jobs <- t:
			case <-ctx.Done():
				return
			}
		}
	}()
	var wg sync.WaitGroup
	wg.Go(func() {
		w := &worker{reading: rd, ctx: ctx, in: first}
		w.run(jobs, func(index int) bool {
			// Further workers only as long as places are free: nobody waits
			// for a second place while he holds one.
			for helpers := int(rd.helpers.Load()); n-index > pagesPerWorker*(helpers+1) && rd.engine.gate.tryEnter(); helpers++ {
				rd.helpers.Add(1)
				wg.Go(func() {
					defer rd.helpers.Add(-1)
					w := &worker{reading: rd, ctx: ctx, placed: true}
					w.run(jobs, func(int) bool { return !rd.engine.gate.crowded() })
				})
			}
			return true
		})
	})
	err = rd.collect(ctx, window, n)
	cancel(nil) // workers still waiting for an instance have nothing to do
	wg.Wait()
	if err != nil {
		return nil, err
	}
	if pages > n {
		rd.out.AddProblem(0, fmt.Sprintf("the file has %d pages, only the first %d were read (the limit)", pages, n))
	}
	rd.write()
	return rd.out, nil
}

// collect takes the pages over in order.
func (rd *reading) collect(ctx context.Context, window <-chan *task, n int) error {
	broken := 0
	for range n {
		var t *task
		select {
		case t = <-window:
		case <-ctx.Done():
		}
		if t != nil {
			select {
			case <-t.done:
			case <-ctx.Done():
				t = nil
			}
		}
		if t == nil || ctx.Err() != nil {
			return context.Cause(ctx)
		}
		page := &rd.out.Pages[t.index]
		page.Number = t.index + 1
		page.ReadBy = doc.ByText
		if t.err != nil {
			page.ReadBy = doc.ByNone
			page.Err = t.err.Error()
			rd.out.AddProblem(page.Number, page.Err)
			if broken++; broken >= giveUpAfter {
				rd.giveUp(t.index+1, n)
				return nil
			}
		} else {
			broken = 0
			rd.take(ctx, t)
		}
		if rd.opts.Progress != nil {
			rd.opts.Progress(t.index+1, n)
		}
	}
	return nil
}

// giveUp marks the pages from index on as not read.
func (rd *reading) giveUp(index, n int) {
	for i := index; i < n; i++ {
		rd.out.Pages[i] = doc.Page{Number: i + 1, ReadBy: doc.ByNone, Err: "not read: too many pages before it failed"}
	}
	if index < n {
		rd.out.AddProblem(index+1, fmt.Sprintf("pages %d to %d were not read: the %d pages before them failed", index+1, n, giveUpAfter))
	}
}

// take stores what a worker has read of one page.
func (rd *reading) take(ctx context.Context, t *task) {
	page := &rd.out.Pages[t.index]
	rd.layouts[t.index] = t.layout
	if t.layout.readBy != "" {
		page.ReadBy = t.layout.readBy
	}
	if t.layout.problem != "" {
		page.Err = t.layout.problem
		rd.out.AddProblem(page.Number, page.Err)
	}
	rd.storeImages(ctx, t)
}

// write makes the Markdown of all pages.
func (rd *reading) write() {
	dropFurniture(rd.layouts)
	rd.dropLogos()
	pages := make([][]block, len(rd.layouts))
	for i, l := range rd.layouts {
		if l != nil {
			pages[i] = blocks(l)
			rd.layouts[i] = nil
		}
	}
	learnWords(pages)
	headings(pages, rd.outline)
	joinPages(pages)
	left := rd.opts.Limits.MaxText
	for i := range pages {
		text := render(pages[i])
		pages[i] = nil
		if left -= int64(len(text)); left < 0 {
			for k := i; k < len(pages); k++ {
				rd.out.Pages[k].ReadBy, rd.out.Pages[k].Err = doc.ByNone, "not kept: the document's text is over its limit"
			}
			rd.out.AddProblem(i+1, fmt.Sprintf("the text from page %d on is over the limit of %d bytes", i+1, rd.opts.Limits.MaxText))
			return
		}
		rd.out.Pages[i].Markdown = text
	}
}

// openInstance opens the document for a caller that holds a place in the gate.
// The place goes with the instance, and is given back without one.
func (rd *reading) openInstance(ctx context.Context) (*instance, error) {
	in, err := rd.engine.instance(ctx)
	if err != nil {
		return nil, err
	}
	limit := rd.opts.Limits.PageTimeout
	in.guard(ctx, limit, func() { err = in.open(rd.file, rd.size, rd.opts.Password) })
	if in.err != nil {
		err = in.err
	}
	if err != nil {
		in.close()
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, context.DeadlineExceeded):
			return nil, clara.Errorf(clara.Corrupt, "open pdf: pdfium did not end within %s", limit)
		case clara.KindOf(err) == clara.Internal:
			return nil, clara.Errorf(clara.Corrupt, "open pdf: pdfium failed: %s", firstLine(err.Error()))
		}
		return nil, err
	}
	return in, nil
}

// facts reads what concerns the whole document and returns its number of pages.
func (rd *reading) facts(in *instance) int {
	n := in.callInt(fnGetPageCount, in.doc)
	key := in.cstring("Title")
	title := strings.TrimSpace(in.text(fnMetaText, in.doc, key))
	_ = in.impl.Free(key)
	if usableTitle(title) {
		rd.out.Title = title
	}
	rd.out.Language = in.text(fnCatalogLang, in.doc)
	rd.outline = map[string]int{}
	in.outline(rd.outline, in.call(fnBookmarkChild, in.doc, 0), 1, map[uint64]bool{})
	return max(n, 0)
}

// usableTitle refuses what programs leave in the title: file names and templates.
func usableTitle(s string) bool {
	l := strings.ToLower(s)
	for _, bad := range []string{"microsoft word", "untitled", "powerpoint", ".doc", ".tex", ".dvi", ".indd", ".pdf", "无标题"} {
		if strings.Contains(l, bad) {
			return false
		}
	}
	return strings.IndexFunc(s, unicode.IsLetter) >= 0
}

const maxBookmarks = 20_000

// outline collects the titles of the bookmarks. A loop ends at what was seen.
func (in *instance) outline(out map[string]int, b uint64, level int, seen map[uint64]bool) {
	for b != 0 && !seen[b] && len(seen) < maxBookmarks && level < 12 && in.err == nil {
		seen[b] = true
		if t := normal(in.text(fnBookmarkTitle, b)); t != "" {
			if _, ok := out[t]; !ok {
				out[t] = level
			}
		}
		in.outline(out, in.call(fnBookmarkChild, in.doc, b), level+1, seen)
		b = in.call(fnBookmarkNext, in.doc, b)
	}
}

// worker reads pages with one instance at a time.
type worker struct {
	*reading
	ctx context.Context
	// placed means that the worker holds a place in the gate without an instance.
	placed bool
	in     *instance
	pages  *pageReader
}

// ocrPatience is how many times the limit of a page recognising its text may take.
const ocrPatience = 5

// freshAfter is the memory, in bytes, with which an instance is exchanged for a
// new one: what one page took is never given back by it.
const freshAfter = 256 << 20

// run reads pages until there are none or goOn, which gets the index of each
// page before it is read, says no.
func (w *worker) run(jobs <-chan *task, goOn func(index int) bool) {
	defer w.drop()
	for {
		// An instance first, then a page: a worker that held a page while it waited for an instance would hold up
		// its document, whose other workers keep the instance that another document waits for in the same way.
		openErr := w.open()
		if openErr != nil && w.ctx.Err() != nil {
			return
		}
		t, ok := <-jobs
		if !ok {
			return
		}
		more := goOn(t.index)
		if openErr != nil {
			t.err = openErr
		} else {
			t.layout, t.images, t.err = w.read(t.index)
		}
		close(t.done)
		if !more {
			return
		}
		if w.in != nil && w.in.memory.size() > freshAfter {
			w.drop()
		}
	}
}

// open gives the worker an instance if it has none.
func (w *worker) open() (err error) {
	if w.in != nil {
		return nil
	}
	if !w.placed {
		if err := w.engine.gate.enter(w.ctx); err != nil {
			return err
		}
	}
	w.placed = false
	w.in, err = w.openInstance(w.ctx)
	return err
}

// drop closes the worker's instance if it has one.
func (w *worker) drop() {
	if w.in != nil {
		w.in.close()
		w.in, w.pages = nil, nil
	}
}

// read reads a page with the worker's instance, and drops the instance if the page broke it.
func (w *worker) read(index int) (l *layout, images []imageData, err error) {
	in := w.in
	var page uint64
	var s *source
	in.guard(w.ctx, w.opts.Limits.PageTimeout, func() {
		if w.pages == nil {
			w.pages = newPageReader(in)
		}
		var links []link
		if page, links = w.pages.load(index); page != 0 {
			s = w.pages.read(page, index+1, links)
		}
	})
	if in.err == nil && page != 0 {
		l = arrange(s)
		// Recognition has its own time: a dense page takes ten seconds of two cores, more where others work beside it.
		ctx, cancel := context.WithTimeout(w.ctx, ocrPatience*w.opts.Limits.PageTimeout)
		l, images = w.pages.finish(ctx, w.reading, page, s, l)
		cancel()
	}
	if in.err != nil {
		err := in.err
		w.drop()
		switch {
		case w.ctx.Err() != nil:
			return nil, nil, w.ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			return nil, nil, fmt.Errorf("not read within %s (the limit for a page)", w.opts.Limits.PageTimeout)
		}
		return nil, nil, fmt.Errorf("pdfium failed on the page: %s", firstLine(err.Error()))
	}
	if page == 0 {
		return nil, nil, errors.New("the page is damaged or missing")
	}
	return l, images, nil
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}
