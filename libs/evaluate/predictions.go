package evaluate

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/clara-suite/clara/libs/clara"
)

// Files of an evaluation's folder.
const (
	PredictionsFile = "predictions.jsonl"
	ReportJSON      = "report.json"
	ReportMarkdown  = "report.md"
	ReportHTML      = "report.html"
	configFile      = "evaluation.json"
)

// Prediction is a line of predictions.jsonl.
type Prediction struct {
	File     int      `json:"file"`   // of the evaluation's data, from 0
	Sample   int      `json:"sample"` // among those of the file that are used, from 0
	ID       string   `json:"id,omitempty"`
	Context  string   `json:"context"`
	Question string   `json:"question,omitempty"`
	Golds    []string `json:"golds"`
	Answer   string   `json:"answer"`
	Finish   string   `json:"finish_reason,omitempty"`
	Error    string   `json:"error,omitempty"` // why there is no answer

	// Documents are the places, in the sample, of what was read; Ranking and Scores the order of all candidates.
	Documents []int     `json:"documents,omitempty"`
	Ranking   []int     `json:"ranking,omitempty"`
	Scores    []float64 `json:"scores,omitempty"`
	Positives []int     `json:"positives,omitempty"`

	// Distance of the memory from its text, in the mse mode.
	Distance float64 `json:"distance,omitempty"`

	EM     bool    `json:"em"`
	Cover  bool    `json:"accuracy"`
	F1     float64 `json:"f1"`
	CharF1 float64 `json:"f1_by_characters"`

	PromptTokens int     `json:"prompt_tokens"`
	OutputTokens int     `json:"output_tokens"`
	FirstToken   float64 `json:"first_token_seconds"`
}

// key names a prediction in an evaluation.
type key struct {
	file, sample int
	context      string
}

func (p Prediction) key() key { return key{p.File, p.Sample, p.Context} }

// predictions is predictions.jsonl, open for more.
type predictions struct {
	all  []Prediction
	seen map[key]bool
	f    *os.File
}

// identity is evaluation.json: what makes predictions belong together.
type identity struct {
	Config
	Digest string   `json:"model_digest"`
	Files  []string `json:"data"`
	Hashes []string `json:"data_hashes"`
}

// openPredictions opens the folder's predictions to go on with, or begins with none.
func openPredictions(dir string, cfg Config, digest string, files []*file) (*predictions, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, clara.Errorf(clara.Unavailable, "make folder of the evaluation: %w", err)
	}
	id := identity{Config: cfg, Digest: digest}
	for _, f := range files {
		id.Files, id.Hashes = append(id.Files, f.Path), append(id.Hashes, f.Hash)
	}
	if err := claim(filepath.Join(dir, configFile), id); err != nil {
		return nil, err
	}
	p := &predictions{seen: map[key]bool{}}
	path := filepath.Join(dir, PredictionsFile)
	whole, err := p.load(path)
	if err != nil {
		return nil, err
	}
	if p.f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return nil, clara.Errorf(clara.Unavailable, "open predictions: %w", err)
	}
	// A line that a crash cut short is written again.
	err = p.f.Truncate(whole)
	if err == nil {
		_, err = p.f.Seek(whole, io.SeekStart)
	}
	if err != nil {
		p.f.Close()
		return nil, clara.Errorf(clara.Unavailable, "open predictions: %w", err)
	}
	return p, nil
}

// claim makes the folder this evaluation's, or checks that it is.
func claim(path string, id identity) error {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		raw, err := json.MarshalIndent(id, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, append(raw, '\n'), 0o644); err != nil {
			return clara.Errorf(clara.Unavailable, "write %s: %w", path, err)
		}
		return nil
	}
	if err != nil {
		return clara.Errorf(clara.Unavailable, "read %s: %w", path, err)
	}
	var was identity
	if err := json.Unmarshal(raw, &was); err != nil {
		return clara.Errorf(clara.Corrupt, "%s: %w; choose another output folder, or remove it", path, err)
	}
	same := was.Model == id.Model && was.Digest == id.Digest && was.Mode == id.Mode && was.Setting == id.Setting && was.TopK == id.TopK &&
		was.MaxTokens == id.MaxTokens && was.MaxSamples == id.MaxSamples && slices.Equal(was.Hashes, id.Hashes)
	if !same {
		return clara.Errorf(clara.Exists, "%s is of another evaluation (model, data or settings differ): choose another output folder, or remove it", filepath.Dir(path))
	}
	return nil
}

// load reads what is there and returns where the last whole line ends.
func (p *predictions) load(path string) (whole int64, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, clara.Errorf(clara.Unavailable, "read predictions: %w", err)
	}
	defer f.Close()
	in := bufio.NewReader(f)
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if err == io.EOF {
			return whole, nil
		}
		if err != nil {
			return 0, clara.Errorf(clara.Unavailable, "read predictions: %w", err)
		}
		var x Prediction
		if err := json.Unmarshal(bytes.TrimSpace(line), &x); err != nil {
			return 0, clara.Errorf(clara.Corrupt, "%s line %d: %w", path, n, err)
		}
		whole += int64(len(line))
		p.keep(x)
	}
}

func (p *predictions) keep(x Prediction) {
	if !p.seen[x.key()] {
		p.seen[x.key()] = true
		p.all = append(p.all, x)
	}
}

func (p *predictions) has(k key) bool { return p.seen[k] }

// add stores predictions for good.
func (p *predictions) add(list []Prediction) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for _, x := range list {
		if err := enc.Encode(x); err != nil {
			return err
		}
		p.keep(x)
	}
	_, err := p.f.Write(b.Bytes())
	if err == nil {
		err = p.f.Sync()
	}
	if err != nil {
		return clara.Errorf(clara.Unavailable, "write predictions: %w", err)
	}
	return nil
}

func (p *predictions) close() error { return p.f.Close() }
