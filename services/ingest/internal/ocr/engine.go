package ocr

import (
	"context"
	"image"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer/ort"
)

// maxRuns bounds the memory of recognition: a run takes up to 150 MB.
const maxRuns = 8

// The model files of a folder, as the package that ships them names them.
const (
	detFile = "*det*.onnx"
	recFile = "*rec*.onnx"
	clsFile = "*cls*.onnx"
)

// Line is one line of text found in a picture.
type Line struct {
	Text string
	// Corners are the line's corners, clockwise from where its text begins at the top.
	Corners [4]Point
	// Score is the mean probability of its characters, 0 to 1.
	Score float64
}

// Point is a place in a picture, in pixels.
type Point struct{ X, Y float64 }

// Config is how an Engine works.
type Config struct {
	// Dir holds the models; empty is rapidocr-3.10.0 in the project's cache
	// ($CLARA_CACHE, else the user's cache folder).
	Dir string
	// Threads that work at once on a picture, 0 for one a core.
	Threads int
	// MinScore drops lines read with less certainty; 0 is 0.5.
	MinScore float64
}

// Engine reads text in pictures. It is safe for concurrent use; two pictures
// are read at once and others wait: while one is in the models, which use all
// threads, the other is cut into lines or its letters are looked up.
type Engine struct {
	cfg Config

	once          sync.Once
	err           error
	places        chan struct{}
	runs          chan struct{} // of recognition, over all pictures
	det, rec, cls *ort.Session
	charset       []string
}

// New makes an engine; models are loaded at the first use.
func New(cfg Config) *Engine {
	if cfg.Dir == "" {
		cfg.Dir = defaultDir()
	}
	if cfg.MinScore == 0 {
		cfg.MinScore = 0.5
	}
	if cfg.Threads == 0 {
		cfg.Threads = runtime.NumCPU()
	}
	return &Engine{cfg: cfg, places: make(chan struct{}, 2), runs: make(chan struct{}, min(cfg.Threads, maxRuns))}
}

func defaultDir() string {
	cache := os.Getenv("CLARA_CACHE")
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return ""
		}
		cache = filepath.Join(base, "clara")
	}
	return filepath.Join(cache, "rapidocr-3.10.0")
}

// Ready loads the models. It returns a State error that says what to install
// if a part is missing.
func (e *Engine) Ready() error {
	e.once.Do(func() { e.err = e.load() })
	return e.err
}

func (e *Engine) load() error {
	open := func(pattern string, threads int) (*ort.Session, error) {
		files, err := filepath.Glob(filepath.Join(e.cfg.Dir, pattern))
		if err != nil || len(files) == 0 {
			return nil, clara.Errorf(clara.State, "load OCR: no %s in %s; run `scripts/deps.sh ocr`", pattern, e.cfg.Dir)
		}
		return ort.Open(files[0], ort.Options{Threads: threads, Provider: ort.CPU})
	}
	var err error
	if e.det, err = open(detFile, e.cfg.Threads); err != nil {
		return err
	}
	// Lines are many: several runs of one thread each cost two thirds of one run after another with all threads, which wait
	// for each other in every layer.
	if e.rec, err = open(recFile, 1); err != nil {
		return err
	}
	if e.cls, err = open(clsFile, e.cfg.Threads); err != nil {
		return err
	}
	chars, ok, err := e.rec.Metadata("character")
	if err != nil {
		return clara.Errorf(clara.Corrupt, "load OCR: %w", err)
	}
	if !ok {
		return clara.Errorf(clara.Corrupt, "load OCR: the recognition model in %s lists no characters", e.cfg.Dir)
	}
	// Class 0 is the blank of CTC, the last one the space.
	e.charset = append([]string{""}, strings.Split(strings.TrimRight(chars, "\n"), "\n")...)
	e.charset = append(e.charset, " ")
	return nil
}

// Close frees the models. No run may be under way.
func (e *Engine) Close() error {
	e.once.Do(func() { e.err = clara.Errorf(clara.State, "ocr engine is closed") })
	for _, s := range []*ort.Session{e.det, e.rec, e.cls} {
		if s != nil {
			_ = s.Close()
		}
	}
	return nil
}

// Recognize returns the lines of text of a picture, from top to bottom. It
// returns a State error if the models or ONNX Runtime are not installed, and
// the context's error if that ends while it waits or between two steps.
func (e *Engine) Recognize(ctx context.Context, img image.Image) ([]Line, error) {
	if err := e.Ready(); err != nil {
		return nil, err
	}
	select {
	case e.places <- struct{}{}:
		defer func() { <-e.places }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	p := newPixmap(img)
	if p.w < 4 || p.h < 4 {
		return nil, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	quads, err := e.detect(p)
	if err != nil || len(quads) == 0 {
		return nil, err
	}
	v := view{p, quads, func(q Point) Point { return q }}
	if lying(quads) {
		// The page lies on its side: turn it, and the corners back at the end.
		if v, err = e.quarter(v); err != nil {
			return nil, err
		}
	}
	down, err := e.upsideDown(v.p, v.quads)
	if err != nil {
		return nil, err
	}
	if down {
		if v, err = e.half(v); err != nil {
			return nil, err
		}
	}
	lines, err := e.read(ctx, v.p, v.quads)
	if err != nil {
		return nil, err
	}
	if doubtful(lines, len(v.quads)) {
		// The classifier errs on long lines: the other way up may read better.
		other, err := e.half(v)
		if err != nil {
			return nil, err
		}
		again, err := e.read(ctx, other.p, other.quads)
		if err != nil {
			return nil, err
		}
		if worth(again) > worth(lines) {
			v, lines = other, again
		}
	}
	slices.SortStableFunc(lines, func(a, b Line) int {
		if a.Corners[0].Y < b.Corners[0].Y {
			return -1
		}
		if a.Corners[0].Y > b.Corners[0].Y {
			return 1
		}
		return 0
	})
	for i := range lines {
		for k, c := range lines[i].Corners {
			lines[i].Corners[k] = v.back(c)
		}
	}
	return lines, nil
}

// view is a picture turned some way, the lines' places on it, and the way back
// to the places on the picture as it came.
type view struct {
	p     *pixmap
	quads []quad
	back  func(Point) Point
}

// quarter turns the view a quarter.
func (e *Engine) quarter(v view) (view, error) {
	w := float64(v.p.w)
	p := v.p.turned()
	quads, err := e.detect(p)
	return view{p, quads, func(q Point) Point { return v.back(Point{w - q.Y, q.X}) }}, err
}

// half turns the view upside down.
func (e *Engine) half(v view) (view, error) {
	w, h := float64(v.p.w), float64(v.p.h)
	p := v.p.turned().turned()
	quads, err := e.detect(p)
	return view{p, quads, func(q Point) Point { return v.back(Point{w - q.X, h - q.Y}) }}, err
}

// sure is the mean score from which on text was read the right way up.
const sure = 0.85

// doubtful reports lines read so badly that they may stand on their heads.
func doubtful(lines []Line, places int) bool {
	runes := 0
	for i := range lines {
		runes += utf8.RuneCountInString(lines[i].Text)
	}
	return len(lines)*10 < places*6 || worth(lines) < sure*float64(runes)
}

// worth is the number of characters read, each by its line's score.
func worth(lines []Line) float64 {
	sum := 0.0
	for i := range lines {
		sum += lines[i].Score * float64(utf8.RuneCountInString(lines[i].Text))
	}
	return sum
}
