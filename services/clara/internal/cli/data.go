package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/dataset"
	"github.com/clara-suite/clara/libs/llm"
	"github.com/clara-suite/clara/proto/gen/clara/generator/v1/generatorv1connect"
	"github.com/clara-suite/clara/services/ingest"
	"github.com/clara-suite/clara/services/synthesis"
)

// Data makes, checks and shows training files, without any service running.
type Data struct {
	Build      DataBuild      `cmd:"" help:"Make the training files of all stages from a folder of raw files."`
	Describe   DataDescribe   `cmd:"" help:"Describe pictures: stand-alone ones and those of extracted documents."`
	Synthesize DataSynthesize `cmd:"" help:"Make the training files from extracted documents or a text file."`
	Candidates DataCandidates `cmd:"" help:"Choose the documents of questions anew."`
	Check      DataCheck      `cmd:"" help:"Check training files line by line."`
	Stats      DataStats      `cmd:"" help:"Count what training files hold."`
	Split      DataSplit      `cmd:"" help:"Cut a training file into train and dev, by document."`
	Clean      DataClean      `cmd:"" help:"Remove picture marks and stale pictures that an older pipeline has left."`
	Show       DataShow       `cmd:"" help:"Show samples so that a person can read them."`
}

// Making is how training files are made, in one go or by steps.
type Making struct {
	synthesis.ModelsConfig
	Endpoint     string  `help:"Name of the endpoint in the file of endpoints, or clara for the suite's own generator." placeholder:"NAME"`
	ChunkSize    int     `help:"Characters of a chunk." default:"1000" aliases:"chunk_size"`
	TopK         int     `help:"Documents of a question, 1 to 20." default:"5" env:"TARGET_TOP_K" aliases:"target_top_k,target-top-k"`
	Negatives    string  `help:"How wrong documents are chosen: random, bm25, the default, or embedding." enum:",random,bm25,embedding" default:""`
	UseEmbedding bool    `name:"use-embeddings" help:"Older name of --negatives embedding." env:"USE_EMBEDDINGS" aliases:"use_embeddings"`
	Seed         int64   `help:"Chooses what is left to chance." default:"42"`
	MultiHop     int     `help:"Questions over two chunks, for so many percent of chunks." placeholder:"PERCENT"`
	Unanswerable int     `help:"Questions that the documents do not answer, for so many percent of chunks." placeholder:"PERCENT"`
	Judge        bool    `help:"Have a model judge every answer too."`
	Budget       float64 `help:"Most that may be spent in this run, in the currency of the prices." placeholder:"SUM"`
	MiniLM       string  `name:"minilm" help:"Folder of the MiniLM model." env:"CLARA_MINILM" placeholder:"DIR"`
}

// recipe is what the flags say. Invalid. A recipe's 0 means the default, but here the defaults are the flags' own: a 0 is
// somebody's.
func (m Making) recipe() (synthesis.Recipe, error) {
	if m.TopK == 0 || m.ChunkSize == 0 {
		return synthesis.Recipe{}, clara.Errorf(clara.Invalid, "--top-k (TARGET_TOP_K) and --chunk-size must be more than 0")
	}
	r := synthesis.Recipe{ChunkChars: m.ChunkSize, TopK: m.TopK, Seed: m.Seed, MultiHop: m.MultiHop, Unanswerable: m.Unanswerable, Judge: m.Judge}
	switch {
	case m.Negatives == "embedding" || m.Negatives == "" && m.UseEmbedding:
		r.Negatives = synthesis.Embedding
	case m.Negatives == "random":
		r.Negatives = synthesis.Random
	case m.Negatives == "bm25":
		r.Negatives = synthesis.BM25
	}
	return r, r.Check()
}

// maker is what the steps of making share.
type maker struct {
	env     *Env
	recipe  synthesis.Recipe
	models  *synthesis.Models
	use     synthesis.Use
	meter   *meter
	results *synthesis.Results
}

// open prepares the work on files beside out.
func (m Making) open(e *Env, out string) (*maker, error) {
	recipe, err := m.recipe()
	if err != nil {
		return nil, err
	}
	var generator generatorv1connect.GeneratorServiceClient
	if m.Provider == "clara" || m.Endpoint == "clara" {
		if generator, err = e.generator(); err != nil {
			return nil, err
		}
	}
	log := slog.New(slog.NewTextHandler(e.Err, &slog.HandlerOptions{Level: slog.LevelError}))
	models, err := synthesis.OpenModels(m.ModelsConfig, generator, log)
	if err != nil {
		return nil, err
	}
	dir := workDir(out)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, clara.Errorf(clara.Unavailable, "make %s: %w", dir, err)
	}
	results, err := synthesis.OpenResults(filepath.Join(dir, "results.jsonl"))
	if err != nil {
		return nil, err
	}
	if err := removeUnfinished(filepath.Dir(out)); err != nil {
		return nil, errors.Join(err, results.Close())
	}
	return &maker{
		env: e, recipe: recipe, models: models, meter: newMeter(e), results: results,
		use: synthesis.Use{Endpoint: m.Endpoint, Meter: llm.NewMeter(m.Budget, llm.Usage{}), MiniLM: m.MiniLM},
	}, nil
}

// removeUnfinished deletes what a build that was killed was writing. The results are locked: no other build is at work.
func removeUnfinished(dir string) error {
	for _, name := range []string{
		knowledgeFile, synthesis.PretrainFile, synthesis.InstructionFile, synthesis.EndToEndFile, synthesis.TrainingFile, synthesis.CardFile, "data_card.md",
	} {
		left, err := filepath.Glob(filepath.Join(dir, "."+name+".*"))
		if err != nil {
			continue // a folder with signs of patterns in its name: its unfinished files stay
		}
		for _, path := range left {
			if err := os.Remove(path); err != nil {
				return clara.Errorf(clara.Unavailable, "remove an unfinished file: %w", err)
			}
		}
	}
	return nil
}

func (m *maker) close() {
	m.meter.end()
	m.models.Close()
	_ = m.results.Close() // every result is on disk already
}

// spent is the end of a line of progress.
func spent(u llm.Usage) string {
	s := fmt.Sprintf(", %d tokens", u.PromptTokens+u.CompletionTokens)
	if u.Cost > 0 {
		s += fmt.Sprintf(", cost %.4f", u.Cost)
	}
	if u.Retries > 0 {
		s += fmt.Sprintf(", %d retries", u.Retries)
	}
	return s
}

// reader recognises text in pictures with the extractor's OCR. Unsupported where it cannot.
func reader(x *ingest.Extractor) synthesis.ReadPicture {
	return func(ctx context.Context, img image.Image) (string, error) {
		var buf bytes.Buffer
		if err := png.Encode(&buf, img); err != nil {
			return "", clara.Errorf(clara.Corrupt, "encode picture: %w", err)
		}
		doc, err := x.Extract(ctx, "picture.png", bytes.NewReader(buf.Bytes()), int64(buf.Len()), ingest.ExtractOptions{Name: "picture.png"})
		if err != nil {
			return "", err
		}
		if len(doc.Problems) > 0 {
			return "", clara.Errorf(clara.Unsupported, "no vision model is set (VISION_MODEL), and its text could not be read: %s", doc.Problems[0].Reason)
		}
		return strings.TrimSpace(doc.Markdown()), nil
	}
}

// describe describes the stand-alone pictures among files and those that documents name, and returns their lines. roots
// are folders that pictures of documents may lie in.
func (m *maker) describe(ctx context.Context, files []file, docs []dataset.Document, x *ingest.Extractor, roots []string) ([]dataset.Document, []synthesis.Description, error) {
	var list []synthesis.Picture
	seen := map[string]bool{}
	add := func(path, language string, load func(context.Context) ([]byte, error)) {
		if path = filepath.ToSlash(filepath.Clean(path)); !seen[path] {
			seen[path] = true
			list = append(list, synthesis.Picture{Path: path, Language: language, Load: load})
		}
	}
	for _, f := range files {
		if isPicture(f.path) {
			add(f.path, "", loadPicture(f.path))
		}
	}
	done := map[string]bool{}
	for _, d := range docs {
		if d.SourceType == dataset.SourceImage {
			done[filepath.ToSlash(filepath.Clean(d.FilePath))] = true
		}
	}
	for _, d := range docs {
		for _, ref := range synthesis.ImageRefs(d) {
			path := filepath.FromSlash(ref)
			load := loadPicture(path)
			if !below(path, roots) {
				load = func(context.Context) ([]byte, error) {
					return nil, clara.Errorf(clara.Denied, "it lies outside of %s", strings.Join(roots, ", "))
				}
			}
			add(path, synthesis.Language(d.Content), load)
		}
	}
	list = slices.DeleteFunc(list, func(p synthesis.Picture) bool { return done[p.Path] })
	use := m.use
	use.Read = reader(x)
	var mu sync.Mutex
	n := 0
	described, err := m.models.Describe(ctx, use, m.results, list, func() {
		mu.Lock()
		defer mu.Unlock()
		n++
		m.meter.show("pictures", n, len(list), "pictures", spent(m.use.Meter.Usage()))
	})
	var over *llm.OverBudget
	if errors.As(err, &over) {
		fmt.Fprintln(m.env.Err, "pictures:", err)
		err = nil
	}
	return synthesis.DescribedDocuments(described, list), described, err
}

// below reports whether a path lies in one of the folders, links followed: what a document's text names is not for the
// document to choose. A path that is not there lies nowhere.
func below(path string, roots []string) bool {
	real, err := resolved(path)
	if err != nil {
		return false
	}
	for _, root := range roots {
		top, err := resolved(root)
		if err != nil {
			continue
		}
		if rel, err := filepath.Rel(top, real); err == nil && filepath.IsLocal(rel) {
			return true
		}
	}
	return false
}

// resolved is the absolute path without links.
func resolved(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	return filepath.Abs(real)
}

// maxPicture bounds a picture file.
const maxPicture = 64 << 20

func loadPicture(path string) func(context.Context) ([]byte, error) {
	return func(context.Context) ([]byte, error) {
		if !isPicture(path) {
			return nil, clara.Errorf(clara.Unsupported, "pictures of this format are not read: %q", strings.ToLower(filepath.Ext(path)))
		}
		info, err := os.Lstat(path)
		if err != nil {
			return nil, clara.Errorf(clara.NotFound, "%w", errors.Unwrap(err))
		}
		if !info.Mode().IsRegular() {
			return nil, clara.Errorf(clara.Unsupported, "not a regular file")
		}
		if info.Size() > maxPicture {
			return nil, clara.Errorf(clara.Unsupported, "%d bytes: more than %d", info.Size(), maxPicture)
		}
		return os.ReadFile(path)
	}
}

// tell prints what became of pictures that have no description.
func (m *maker) tell(described []synthesis.Description) (failed bool) {
	m.meter.end()
	var rows [][]string
	for _, d := range described {
		switch {
		case d.Err != nil:
			failed = true
			rows = append(rows, []string{d.Path, "failed", d.Err.Error()})
		case d.Skipped != "":
			rows = append(rows, []string{d.Path, "skipped", d.Skipped})
		}
	}
	if len(rows) > 0 {
		table(m.env.Err, []string{"PICTURE", "RESULT", "REASON"}, rows)
	}
	return failed
}

// build makes the files in dir and prints the card's figures.
func (m *maker) build(ctx context.Context, docs []dataset.Document, described []synthesis.Description, dir string) (*synthesis.Card, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, clara.Errorf(clara.Unavailable, "make %s: %w", dir, err)
	}
	card, err := m.models.Build(ctx, synthesis.Build{
		Documents: docs, Recipe: m.recipe, Use: m.use, Store: m.results, Described: described, Dir: dir,
		Progress: func(p synthesis.Progress) { m.meter.show(p.Stage, p.Done, p.Total, p.Unit, spent(p.Usage)) },
	})
	m.meter.end()
	if err != nil {
		if ctx.Err() != nil {
			fmt.Fprintln(m.env.Err, "stopped; the same command goes on where this has stopped")
		}
		return card, err
	}
	for _, f := range card.Failures {
		fmt.Fprintf(m.env.Err, "%s: %s\n", f.Item, f.Reason)
	}
	if card.Stopped != "" {
		fmt.Fprintln(m.env.Err, card.Stopped)
	}
	return card, m.env.printData(card, func(w io.Writer) { printCard(w, card, dir, m.use.Meter.Usage()) })
}

func printCard(w io.Writer, c *synthesis.Card, dir string, now llm.Usage) {
	var rows [][]string
	for _, f := range c.Files {
		rows = append(rows, []string{filepath.Join(dir, f.Name), fmt.Sprint(f.Samples), fmt.Sprint(f.Bytes)})
	}
	table(w, []string{"FILE", "SAMPLES", "BYTES"}, rows)
	refused := 0
	for _, n := range c.Refused {
		refused += n
	}
	fmt.Fprintf(w, "\n%d documents, %d of %d chunks done, %d pairs, %d refused, %d summaries\n", c.Documents, c.Chunks.Done, c.Chunks.Total, c.PairCount(), refused, c.Summaries)
	fmt.Fprintf(w, "this run: %d requests, %d tokens in, %d out, cost %.4f; data card: %s\n", now.Requests, now.PromptTokens, now.CompletionTokens, now.Cost, filepath.Join(dir, "data_card.md"))
}

// DataBuild is the whole pipeline.
type DataBuild struct {
	RawDir     string `arg:"" optional:"" help:"Folder of raw files." env:"RAW_DATA_DIR"`
	Out        string `help:"Folder for the training files." default:"data" env:"OUTPUT_DIR" aliases:"output_dir,output-dir" placeholder:"DIR"`
	NoDescribe bool   `help:"Leave pictures out."`
	Extraction
	Making
}

// Run extracts, describes, synthesizes. Whatever was done before is not done again.
func (b *DataBuild) Run(ctx context.Context, e *Env) error {
	if b.RawDir == "" {
		return clara.Errorf(clara.Invalid, "name the folder of raw files, or set RAW_DATA_DIR")
	}
	files, err := listFiles([]string{b.RawDir})
	if err != nil {
		return err
	}
	knowledge := filepath.Join(b.Out, knowledgeFile)
	m, err := b.Making.open(e, knowledge)
	if err != nil {
		return err
	}
	defer m.close()
	if err := m.models.Check(m.use); err != nil {
		return err // before hours of reading
	}
	w := newWork(e, b.Extraction)
	defer w.close()
	docs, err := w.extract(ctx, files, knowledge)
	if err != nil {
		return err
	}
	partial := w.verdict() != nil
	var described []synthesis.Description
	if !b.NoDescribe {
		lines, all, err := m.describe(ctx, files, docs, w.extractor, []string{w.assets(knowledge)})
		if err != nil {
			return err
		}
		described = all
		partial = m.tell(described) || partial
		docs = append(docs, lines...)
		if err := writeKnowledge(knowledge, docs); err != nil {
			return err
		}
	}
	card, err := m.build(ctx, docs, described, b.Out)
	if err != nil {
		return err
	}
	if partial || !card.Complete {
		return ErrPartial
	}
	return nil
}

// DataDescribe describes pictures.
type DataDescribe struct {
	InputDir  string   `help:"Folder of raw files, for stand-alone pictures." env:"RAW_DATA_DIR" aliases:"input_dir" placeholder:"DIR"`
	Knowledge string   `help:"File of extracted documents: their pictures are described, and descriptions are added to it." default:"raw_knowledge.jsonl" aliases:"output_file,output-file" placeholder:"FILE"`
	ImageDir  string   `name:"image-dir" help:"Folder of the documents' pictures, where it is neither below the file's folder nor extracted_assets." placeholder:"DIR" aliases:"image_output_dir,image-output-dir"`
	Path      []string `arg:"" optional:"" help:"Pictures, or folders of pictures."`
	Making
}

// Run adds a line for each picture that has none yet.
func (d *DataDescribe) Run(ctx context.Context, e *Env) error {
	paths := d.Path
	if d.InputDir != "" {
		paths = append(paths, d.InputDir)
	}
	var files []file
	if len(paths) > 0 {
		var err error
		if files, err = listFiles(paths); err != nil {
			return err
		}
	}
	docs, err := readKnowledge(d.Knowledge)
	if err != nil && (clara.KindOf(err) != clara.NotFound || len(files) == 0) {
		return err
	}
	m, err := d.Making.open(e, d.Knowledge)
	if err != nil {
		return err
	}
	defer m.close()
	x := ingest.NewExtractor(ingest.ExtractorOptions{})
	defer x.Close()
	roots := []string{filepath.Dir(d.Knowledge), "extracted_assets"}
	if d.ImageDir != "" {
		roots = append(roots, d.ImageDir)
	}
	lines, described, err := m.describe(ctx, files, docs, x, roots)
	failed := m.tell(described)
	if werr := writeKnowledge(d.Knowledge, append(docs, lines...)); werr != nil {
		return werr
	}
	if err != nil {
		return err
	}
	if err := e.printData(map[string]int{"described": len(lines), "pictures": len(described)}, func(w io.Writer) {
		fmt.Fprintf(w, "%d of %d pictures described, added to %s\n", len(lines), len(described), d.Knowledge)
	}); err != nil {
		return err
	}
	if failed {
		return ErrPartial
	}
	return nil
}

// readKnowledge reads a raw_knowledge.jsonl whole. Faulty lines are Invalid.
func readKnowledge(path string) ([]dataset.Document, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, clara.Errorf(clara.NotFound, "no file %s: make it with clara extract", path)
	}
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "open: %w", err)
	}
	defer f.Close()
	var out []dataset.Document
	var faults dataset.Faults
	for d, fault := range dataset.Documents(f, path) {
		if fault != nil {
			faults.List = append(faults.List, *fault)
			continue
		}
		out = append(out, d)
	}
	if len(faults.List) > 0 {
		return nil, clara.Errorf(clara.Invalid, "%w", &faults)
	}
	return out, nil
}

// DataSynthesize makes training files from extracted documents.
type DataSynthesize struct {
	Input string `arg:"" optional:"" help:"A raw_knowledge.jsonl, or a text file."`
	File  string `name:"input-file" hidden:"" aliases:"input_file"`
	Out   string `help:"Folder for the training files." default:"data" env:"OUTPUT_DIR" aliases:"output_dir,output-dir" placeholder:"DIR"`
	Making
}

// Run writes the files.
func (s *DataSynthesize) Run(ctx context.Context, e *Env) error {
	in := s.Input
	if in == "" {
		in = s.File
	}
	if in == "" {
		in = knowledgeFile
	}
	docs, err := readInput(in)
	if err != nil {
		return err
	}
	m, err := s.Making.open(e, filepath.Join(s.Out, knowledgeFile))
	if err != nil {
		return err
	}
	defer m.close()
	card, err := m.build(ctx, docs, nil, s.Out)
	if err != nil {
		return err
	}
	if !card.Complete {
		return ErrPartial
	}
	return nil
}

// readInput reads extracted documents, or a text file as one document.
func readInput(path string) ([]dataset.Document, error) {
	if ext := strings.ToLower(filepath.Ext(path)); ext == ".jsonl" || ext == ".json" {
		return readKnowledge(path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "read: %w", err)
	}
	if !utf8.Valid(data) {
		return nil, clara.Errorf(clara.Invalid, "%s is no UTF-8 text: read it with clara extract first", path)
	}
	return []dataset.Document{{FilePath: filepath.ToSlash(path), Filename: filepath.Base(path), Content: string(data), ProductArea: filepath.Base(filepath.Dir(path))}}, nil
}

// DataCandidates chooses documents anew.
type DataCandidates struct {
	Input []string `arg:"" help:"A pretrain_data.jsonl, or files with pos_index."`
	Out   string   `help:"Folder for the files of stages 2 and 3." default:"data" env:"OUTPUT_DIR" aliases:"output_dir,output-dir" placeholder:"DIR"`
	Making
}

// Run writes instruction_data.jsonl and end_to_end_data.jsonl.
func (c *DataCandidates) Run(ctx context.Context, e *Env) error {
	recipe, err := c.recipe()
	if err != nil {
		return err
	}
	var samples []dataset.Sample
	for _, path := range c.Input {
		part, err := dataset.ReadFiles(kindOf(path), path)
		if err != nil {
			return err
		}
		samples = append(samples, part...)
	}
	models, err := synthesis.OpenModels(c.ModelsConfig, nil, nil)
	if err != nil {
		return err
	}
	defer models.Close()
	meter := newMeter(e)
	use := synthesis.Use{Endpoint: c.Endpoint, MiniLM: c.MiniLM, Meter: llm.NewMeter(c.Budget, llm.Usage{})}
	instruction, endToEnd, err := models.Candidates(ctx, use, samples, recipe, func(p synthesis.Progress) { meter.show(p.Stage, p.Done, p.Total, p.Unit, spent(p.Usage)) })
	meter.end()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return clara.Errorf(clara.Unavailable, "make %s: %w", c.Out, err)
	}
	short := 0
	for _, s := range endToEnd {
		if len(s.Docs) < c.TopK {
			short++
		}
	}
	for name, list := range map[string][]dataset.Sample{synthesis.InstructionFile: instruction, synthesis.EndToEndFile: endToEnd} {
		if err := writeSamples(filepath.Join(c.Out, name), list); err != nil {
			return err
		}
	}
	return e.printData(map[string]int{"questions": len(endToEnd), "short": short}, func(w io.Writer) {
		fmt.Fprintf(w, "%d questions, %d with %d documents each, written to %s\n", len(endToEnd), len(endToEnd)-short, c.TopK, c.Out)
		if short > 0 {
			fmt.Fprintf(w, "%d have fewer: there are not enough documents that do not answer them\n", short)
		}
	})
}

func writeSamples(path string, list []dataset.Sample) error {
	_, err := synthesis.WriteFile(path, func(out io.Writer) error {
		w := dataset.NewWriter(out)
		for _, s := range list {
			if err := w.Write(s); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// kindOf is the kind that a file's name says.
func kindOf(path string) dataset.Kind {
	name := filepath.Base(path)
	switch {
	case strings.Contains(name, "pretrain"):
		return dataset.Pretrain
	case strings.Contains(name, "instruction"):
		return dataset.Instruction
	case strings.Contains(name, "end_to_end"):
		return dataset.EndToEnd
	}
	return dataset.Any
}
