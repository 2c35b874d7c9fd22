package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	_ "image/gif"  // formats of pictures in documents
	_ "image/jpeg" //
	"image/png"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/dataset"
	"github.com/clara-suite/clara/services/ingest"
	"github.com/clara-suite/clara/services/synthesis"
)

// Extract reads files without any service running.
type Extract struct {
	Path     []string `arg:"" optional:"" help:"Files and folders; folders with all below them, hidden files left out."`
	Out      string   `help:"File of JSON lines to write, a line a document." placeholder:"FILE" aliases:"output_file,output-file"`
	Markdown string   `help:"Folder to write to instead: NAME.md for each file." placeholder:"DIR"`
	InputDir string   `help:"Folder of raw files, as an older name of PATH." aliases:"input_dir" placeholder:"DIR" env:"RAW_DATA_DIR"`
	Extraction
}

// Extraction is how files are read.
type Extraction struct {
	ImageDir    string `name:"image-dir" help:"Folder for pictures of documents; default: extracted_assets beside the output." placeholder:"DIR" aliases:"image_output_dir,image-output-dir"`
	ImageMode   string `help:"Where pictures are marked: ${enum}; dict marks them in place, markdown lists them at the end." enum:"dict,markdown" default:"dict" env:"EXTRACTION_MODE" aliases:"image_mode"`
	Password    string `help:"Password of encrypted files."`
	OCR         string `name:"ocr" help:"Reading text in pictures of pages: ${enum}; auto where a page has no text." enum:"auto,never,always" default:"auto"`
	ReadWorkers int    `help:"Files read at once; their pages run in parallel anyway." default:"2"`
}

// knowledgeFile is the name that the file of extracted documents has by default.
const knowledgeFile = "raw_knowledge.jsonl"

// Run writes what it has read and tells what could not be read; exit status 3 if there is any such.
func (x *Extract) Run(ctx context.Context, e *Env) error {
	paths := x.Path
	if len(paths) == 0 && x.InputDir != "" {
		paths = []string{x.InputDir}
	}
	if len(paths) == 0 {
		return clara.Errorf(clara.Invalid, "name a file or a folder to read")
	}
	files, err := listFiles(paths)
	if err != nil {
		return err
	}
	if x.Markdown != "" && x.Out != "" {
		return clara.Errorf(clara.Invalid, "give --out or --markdown, not both")
	}
	w := newWork(e, x.Extraction)
	defer w.close()
	if x.Markdown != "" {
		return w.markdown(ctx, files, x.Markdown)
	}
	out := x.Out
	if out == "" {
		out = knowledgeFile
	}
	if _, err := w.extract(ctx, files, out); err != nil {
		return err
	}
	return w.verdict()
}

// pictures are stand-alone pictures: they are described, not extracted.
var pictures = []string{".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp"}

func isPicture(path string) bool {
	return slices.Contains(pictures, strings.ToLower(filepath.Ext(path)))
}

// work is a run of extraction.
type work struct {
	env       *Env
	opts      Extraction
	extractor *ingest.Extractor
	meter     *meter

	mu          sync.Mutex
	failures    []failure
	partial     []failure
	recognised  []failure       // files with pages that were read by OCR, and which
	done, total int             // files
	used        map[string]bool // keys of what was read, now or before
}

func newWork(e *Env, o Extraction) *work {
	return &work{env: e, opts: o, extractor: ingest.NewExtractor(ingest.ExtractorOptions{}), meter: newMeter(e), used: map[string]bool{}}
}

func (w *work) close() { _ = w.extractor.Close() } // frees readers only

// verdict tells what was not read, or read in part.
func (w *work) verdict() error {
	w.meter.end()
	slices.SortFunc(w.recognised, func(a, b failure) int { return strings.Compare(a.label, b.label) })
	for _, f := range w.recognised {
		fmt.Fprintf(w.env.Err, "%s: %s\n", f.label, f.reason)
	}
	var rows [][]string
	for _, f := range w.failures {
		rows = append(rows, []string{f.label, "failed", f.reason})
	}
	for _, f := range w.partial {
		rows = append(rows, []string{f.label, "in part", f.reason})
	}
	if len(rows) == 0 {
		return nil
	}
	slices.SortFunc(rows, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	table(w.env.Err, []string{"FILE", "RESULT", "REASON"}, rows)
	return ErrPartial
}

// assets is the folder of pictures for an output file.
func (w *work) assets(out string) string {
	if w.opts.ImageDir != "" {
		return w.opts.ImageDir
	}
	return filepath.Join(filepath.Dir(out), "extracted_assets")
}

// show tells how many files are done.
func (w *work) show(more string) {
	w.mu.Lock()
	done, total := w.done, w.total
	w.mu.Unlock()
	w.meter.show("extraction", done, total, "files", more)
}

func (w *work) fail(f file, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failures = append(w.failures, failure{f.label, err.Error()})
}

// read extracts one file with a sink for its pictures, which may be nil.
func (w *work) read(ctx context.Context, f file, sink func(context.Context, ingest.Image, []byte) (string, error)) (*ingest.Document, error) {
	in, err := os.Open(f.path)
	if err != nil {
		return nil, clara.Errorf(clara.NotFound, "open: %w", err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "stat: %w", err)
	}
	o := ingest.ExtractOptions{Name: filepath.Base(f.path), Password: w.opts.Password, Images: sink, Progress: func(page, pages int) {
		more := fmt.Sprintf(", %s: page %d", f.label, page)
		if pages > 0 {
			more += fmt.Sprintf(" of %d", pages)
		}
		w.show(more)
	}}
	switch w.opts.OCR {
	case "never":
		o.OCR = "never"
	case "always":
		o.OCR = "always"
	}
	doc, err := w.extractor.Extract(ctx, filepath.Base(f.path), in, info.Size(), o)
	if err != nil {
		return nil, err
	}
	if len(doc.Problems) > 0 {
		var why []string
		for _, p := range doc.Problems {
			why = append(why, unread(p.Page, p.Reason))
		}
		w.mu.Lock()
		w.partial = append(w.partial, failure{f.label, strings.Join(why, "; ")})
		w.mu.Unlock()
	}
	if pages := byOCR(doc); len(pages) > 0 && len(doc.Pages) > 1 {
		w.mu.Lock()
		w.recognised = append(w.recognised, failure{f.label, fmt.Sprintf("%d of %d pages were read by OCR", len(pages), len(doc.Pages))})
		w.mu.Unlock()
	}
	return doc, nil
}

// byOCR lists the pages of a document that were read by OCR, from 1.
func byOCR(d *ingest.Document) []int {
	var out []int
	for _, p := range d.Pages {
		if p.ReadBy == ingest.ByOCR {
			out = append(out, p.Number)
		}
	}
	return out
}

// unread says what was not read; page 0 is the whole file.
func unread(page int, reason string) string {
	if page == 0 {
		return reason
	}
	return fmt.Sprintf("page %d: %s", page, reason)
}

// markdown writes NAME.md for each file.
func (w *work) markdown(ctx context.Context, files []file, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return clara.Errorf(clara.Invalid, "make %s: %w", dir, err)
	}
	assets := w.assets(filepath.Join(dir, knowledgeFile))
	names := uniqueNames(files)
	err := w.each(ctx, files, func(ctx context.Context, i int) error {
		f := files[i]
		doc, err := w.read(ctx, f, w.sink(assets, names[i]))
		if err != nil {
			return err
		}
		path := filepath.Join(dir, names[i]+".md")
		_, err = synthesis.WriteFile(path, func(out io.Writer) error { _, err := io.WriteString(out, doc.Markdown()); return err })
		return err
	})
	if err != nil {
		return err
	}
	return w.verdict()
}

// each calls do for all files, some at once. What fails is noted; a context that ended or a full disk ends all.
func (w *work) each(ctx context.Context, files []file, do func(ctx context.Context, i int) error) error {
	w.done, w.total = 0, len(files)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, w.opts.ReadWorkers))
	for i := range files {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			err := do(ctx, i)
			w.mu.Lock()
			w.done++
			w.mu.Unlock()
			w.show("")
			if err == nil {
				return nil
			}
			if clara.IsContext(err) && ctx.Err() != nil || clara.KindOf(err) == clara.Unavailable {
				return err
			}
			w.fail(files[i], err)
			return nil
		})
	}
	return g.Wait()
}

// uniqueNames are names for what is made of files: the file's own, or with a number where another has it.
func uniqueNames(files []file) []string {
	out := make([]string, len(files))
	seen := map[string]bool{}
	for i, f := range files {
		base := filepath.Base(f.path)
		name := base
		for n := 2; seen[strings.ToLower(name)]; n++ {
			name = fmt.Sprintf("%s_%d", base, n)
		}
		seen[strings.ToLower(name)] = true
		out[i] = name
	}
	return out
}

// sink saves pictures of a document as DIR/STEM_img_N.png and returns their paths.
func (w *work) sink(dir, name string) func(context.Context, ingest.Image, []byte) (string, error) {
	stem := strings.TrimSuffix(name, filepath.Ext(name))
	if ext := filepath.Ext(name); strings.Contains(ext, "_") { // NAME.pdf_2: the number belongs to the stem
		stem = strings.ReplaceAll(name, ".", "_")
	}
	n := 0
	return func(_ context.Context, img ingest.Image, data []byte) (string, error) {
		n++
		at := filepath.Join(dir, fmt.Sprintf("%s_img_%d.png", stem, n))
		if img.MIME != "image/png" {
			decoded, _, err := image.Decode(bytes.NewReader(data))
			if err != nil {
				// Kept as it is, under its own name: describing it says what is wrong with it.
				at = strings.TrimSuffix(at, ".png") + extensionOf(img)
			} else {
				var buf bytes.Buffer
				enc := png.Encoder{CompressionLevel: png.BestSpeed}
				if err := enc.Encode(&buf, decoded); err != nil {
					return "", clara.Errorf(clara.Corrupt, "picture %s: %w", img.Name, err)
				}
				data = buf.Bytes()
			}
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", clara.Errorf(clara.Unavailable, "make %s: %w", dir, err)
		}
		_, err := synthesis.WriteFile(at, func(out io.Writer) error { _, err := out.Write(data); return err })
		return filepath.ToSlash(at), err
	}
}

func extensionOf(img ingest.Image) string {
	if ext := path.Ext(img.Name); ext != "" {
		return ext
	}
	return ".bin"
}

// extracted is a document in the work folder: what need not be read again.
type extracted struct {
	Line     dataset.Document `json:"line"`
	Problems string           `json:"problems,omitempty"`
}

// workDir is where a pipeline keeps what it has done, beside what it makes.
func workDir(out string) string { return filepath.Join(filepath.Dir(out), ".clara") }

var marks = regexp.MustCompile(`[ \t]*\[IMAGE_REF:[^\]\n]*\]`)

// extract writes a line for each file but stand-alone pictures, in the order of files, and returns the lines. What an
// earlier run has read of the same bytes is taken from the work folder; pictures that no line names any more are removed.
func (w *work) extract(ctx context.Context, files []file, out string) ([]dataset.Document, error) {
	files = slices.DeleteFunc(slices.Clone(files), func(f file) bool { return isPicture(f.path) })
	assets := w.assets(out)
	store := filepath.Join(workDir(out), "extract")
	if err := os.MkdirAll(store, 0o700); err != nil {
		return nil, clara.Errorf(clara.Unavailable, "make %s: %w", store, err)
	}
	names := uniqueNames(files)
	lines := make([]*dataset.Document, len(files))
	err := w.each(ctx, files, func(ctx context.Context, i int) error {
		var err error
		lines[i], err = w.line(ctx, files[i], names[i], assets, store)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := w.forget(store); err != nil {
		return nil, err
	}
	var docs []dataset.Document
	for _, l := range lines {
		if l != nil {
			docs = append(docs, *l)
		}
	}
	if err := removeAssets(assets, docs); err != nil {
		return nil, err
	}
	return docs, writeKnowledge(out, docs)
}

// line reads one file, or finds it read.
func (w *work) line(ctx context.Context, f file, name, assets, store string) (*dataset.Document, error) {
	key, err := w.key(f, name, assets)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.used[key] = true
	w.mu.Unlock()
	at := filepath.Join(store, key+".json")
	var x extracted
	// What was read in part is read again: a page may have failed for want of time, or of a password.
	if data, err := os.ReadFile(at); err == nil && json.Unmarshal(data, &x) == nil && x.Problems == "" && allThere(x.Line.ExtractedImages) {
		return &x.Line, nil
	}
	x = extracted{}
	var refs []string
	sink := w.sink(assets, name)
	doc, err := w.read(ctx, f, func(ctx context.Context, img ingest.Image, data []byte) (string, error) {
		ref, err := sink(ctx, img, data)
		if err == nil {
			refs = append(refs, ref)
		}
		return ref, err
	})
	if err != nil {
		return nil, err
	}
	content := doc.Markdown()
	if w.opts.ImageMode == "markdown" && len(refs) > 0 {
		content = strings.TrimSpace(marks.ReplaceAllString(content, "")) + "\n\n--- Extracted Images ---\n"
		for _, r := range refs {
			content += "[IMAGE_REF: " + r + "]\n"
		}
	}
	x.Line = dataset.Document{
		FilePath: filepath.ToSlash(f.path), Filename: filepath.Base(f.path), Content: content, ProductArea: filepath.Base(filepath.Dir(f.path)), ExtractedImages: refs,
	}
	// What a line says beyond its form: pages that were not read, or not from the text of the file.
	extra := func(key string, v any) error {
		raw, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode %s: %w", key, err)
		}
		if x.Line.Extra == nil {
			x.Line.Extra = map[string]json.RawMessage{}
		}
		x.Line.Extra[key] = raw
		return nil
	}
	if len(doc.Problems) > 0 {
		var why []string
		for _, p := range doc.Problems {
			why = append(why, unread(p.Page, p.Reason))
		}
		x.Problems = strings.Join(why, "; ")
		if err := extra("problems", why); err != nil {
			return nil, err
		}
	}
	if pages := byOCR(doc); len(pages) > 0 {
		if err := extra("read_by_ocr", pages); err != nil {
			return nil, err
		}
	}
	_, err = synthesis.WriteFile(at, func(out io.Writer) error { return json.NewEncoder(out).Encode(x) })
	return &x.Line, err
}

// forget removes what was read of files that are gone or have changed: their text shall not stay behind.
func (w *work) forget(store string) error {
	entries, err := os.ReadDir(store)
	if err != nil {
		return clara.Errorf(clara.Unavailable, "list %s: %w", store, err)
	}
	for _, e := range entries {
		key, whole := strings.CutSuffix(e.Name(), ".json") // else a run that was killed was writing it
		if !whole || !w.used[key] {
			if err := os.Remove(filepath.Join(store, e.Name())); err != nil {
				return clara.Errorf(clara.Unavailable, "remove what was read before: %w", err)
			}
		}
	}
	return nil
}

// extractVersion changes when the same file would be read otherwise than before.
const extractVersion = "2"

// key names what was read of a file's bytes in one way.
func (w *work) key(f file, name, assets string) (string, error) {
	in, err := os.Open(f.path)
	if err != nil {
		return "", clara.Errorf(clara.NotFound, "open: %w", err)
	}
	defer in.Close()
	h := sha256.New()
	if _, err := io.Copy(h, in); err != nil {
		return "", clara.Errorf(clara.Invalid, "read: %w", err)
	}
	fmt.Fprintf(h, "\x00%s\x00%s\x00%s\x00%s\x00%s\x00%s", extractVersion, f.path, name, assets, w.opts.ImageMode, w.opts.OCR)
	return hex.EncodeToString(h.Sum(nil)), nil
}

func allThere(paths []string) bool {
	for _, p := range paths {
		if _, err := os.Stat(filepath.FromSlash(p)); err != nil {
			return false
		}
	}
	return true
}

var assetName = regexp.MustCompile(`_img_\d+\.[a-zA-Z]+$`)

// removeAssets deletes the pictures that earlier runs have saved in a folder and that no document names, and nothing else.
func removeAssets(dir string, docs []dataset.Document) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return clara.Errorf(clara.Unavailable, "list %s: %w", dir, err)
	}
	named := map[string]bool{}
	for _, d := range docs {
		for _, ref := range d.ExtractedImages {
			named[path.Base(ref)] = true
		}
	}
	for _, e := range entries {
		if e.Type().IsRegular() && assetName.MatchString(e.Name()) && !named[e.Name()] {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return clara.Errorf(clara.Unavailable, "remove old pictures: %w", err)
			}
		}
	}
	return nil
}

func writeKnowledge(path string, docs []dataset.Document) error {
	_, err := synthesis.WriteFile(path, func(out io.Writer) error {
		w := dataset.NewWriter(out)
		for _, d := range docs {
			if err := w.WriteDocument(d); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}
