package modelpkg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/checkpoint"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/onnx/decoder"
	"github.com/clara-suite/clara/libs/safetensors"
	"github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/libs/tokenizer"
	"github.com/clara-suite/clara/libs/weights"
)

// ImportOptions says what to import. Base is required.
type ImportOptions struct {
	// Base is a Hugging Face folder or a GGUF file.
	Base string
	// Checkpoint is a CLaRa checkpoint folder on that base; empty: a package without adapters.
	Checkpoint string
	// Name of the package; empty: the last part of Checkpoint's or Base's path.
	Name string
	// CompressRate, if given, must be the checkpoint's.
	CompressRate int
	// Precision of each role; empty ones: for a base whose matrices are in blocks (a quantised GGUF file) its blocks
	// as they are, multiplied with float32, for others float32.
	Precision Precisions
	// Rounding is how floats become blocks of 4 bits: RTN, the default, or GPTQ, which needs Calibrate and Calibration, a
	// text like those that the model will read.
	Rounding    Rounding
	Calibration string
	Calibrate   func(m arch.Model, embeddings []float32, T int) Calibration
	// Progress, if given, is told what is being done, after how many steps of how many.
	Progress func(done, total int, step string)
}

const (
	embeddingFile = "embedding.safetensors"
	vocabFile     = "tokenizer_vocab.json"
)

func graphOf(p Precision) string { return "graph." + string(p) + ".onnx" }

// weightsOf is the file of a precision's weights, where they are not the base's own files.
func weightsOf(p Precision) string {
	if p == FP32 {
		return "weights.safetensors"
	}
	return "weights." + string(p) + ".safetensors"
}

// Import writes the package dir, replacing one that is there in one step, and returns its manifest.
// Whoever looks sees the old package or the whole new one.
func Import(ctx context.Context, dir string, o ImportOptions) (*Manifest, error) {
	if o.Progress == nil {
		o.Progress = func(int, int, string) {}
	}
	src, err := weights.Open(o.Base)
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", o.Base, err)
	}
	defer src.Close()
	im := &importer{ImportOptions: o, ctx: ctx, src: src}
	if err := im.read(); err != nil {
		return nil, fmt.Errorf("import %s: %w", o.Base, err)
	}
	if err := checkpoint.SaveDir(dir, im.write); err != nil {
		return nil, fmt.Errorf("import %s into %s: %w", o.Base, dir, err)
	}
	return im.m, nil
}

type importer struct {
	ImportOptions
	ctx context.Context
	src weights.Source
	ck  *checkpoint.Checkpoint // nil without one
	m   *Manifest
	dir string
	// steps is how many there are, begun how many have begun.
	steps, begun int
	// files are the safetensors files of the package in which weights are looked for, the first first.
	files []*safetensors.File
	// of are the files of a precision's weights.
	of map[Precision][]*safetensors.File
	// round: floats are rounded to the precision asked for.
	round bool
	// rounded are matrices that GPTQ has made, by file.
	rounded []*safetensors.File
}

// read opens the checkpoint and fills in what the manifest says of both.
func (im *importer) read() error {
	a := im.src.Arch()
	im.m = &Manifest{Format: Format, Name: im.Name, Arch: a, Vocab: a.Vocab, H: a.Hidden, Graphs: map[Precision]string{}}
	im.of = map[Precision][]*safetensors.File{}
	if err := im.choosePrecisions(); err != nil {
		return err
	}
	if err := im.checkRounding(); err != nil {
		return err
	}
	if im.m.Name == "" {
		im.m.Name = baseName(im.Base)
		if im.Checkpoint != "" {
			im.m.Name = baseName(im.Checkpoint)
		}
	}
	for _, id := range a.EOS {
		im.m.EOS = append(im.m.EOS, int32(id))
	}
	if im.Checkpoint == "" {
		return nil
	}
	ck, err := checkpoint.Open(im.Checkpoint)
	if err != nil {
		return err
	}
	if err := ck.Config.CheckRate(im.CompressRate); err != nil {
		return err
	}
	im.ck = ck
	im.m.M, im.m.DocMaxLength, im.m.CompressRate = ck.Config.M(), ck.Config.DocMaxLength, ck.Config.CompressRate
	im.m.GenerationTopK, im.m.DifferentMemTokens = ck.Config.GenerationTopK, ck.Config.DifferentMemTokens
	im.m.TrainingStage, im.m.Warnings = ck.Config.TrainingStage, ck.Config.Warnings()
	return nil
}

func baseName(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		abs = path
	}
	name := filepath.Base(abs)
	if ext := filepath.Ext(name); strings.EqualFold(ext, ".gguf") {
		return strings.TrimSuffix(name, ext) // names like "Mistral-7B-v0.2" keep what follows the dot
	}
	return name
}

func (im *importer) write(dir string) error {
	im.dir = dir
	defer im.closeFiles()
	defer im.dropRounded()
	steps := []struct {
		name string
		do   func() error
	}{
		{"tokenizer", im.writeTokenizer}, {"embedding", im.writeEmbedding}, {"weights", im.writeWeights},
		{"adapters", im.writeAdapters}, {"graph", im.writeGraph}, {"hashes", im.listFiles},
	}
	im.steps = len(steps)
	if im.Rounding == GPTQ {
		im.steps += im.m.Arch.Layers
	}
	for _, step := range steps {
		if err := im.ctx.Err(); err != nil {
			return err
		}
		im.begin(step.name)
		if err := step.do(); err != nil {
			return err
		}
	}
	if err := im.hashes(); err != nil {
		return err
	}
	return im.storeManifest()
}

// begin tells that the next step begins.
func (im *importer) begin(step string) {
	im.Progress(im.begun, im.steps, step)
	im.begun++
}

func (im *importer) closeFiles() {
	for _, f := range im.files {
		f.Close()
	}
}

// writeTokenizer stores the tokenizer and checks that the checkpoint belongs to it.
func (im *importer) writeTokenizer() error {
	base := im.Base
	if v, ok, err := ggufVocab(im.src); err != nil {
		return err
	} else if ok {
		im.m.TokenizerVocab = vocabFile
		raw, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode tokenizer: %w", err)
		}
		if err := im.writeFile(vocabFile, raw); err != nil {
			return err
		}
	} else {
		for _, name := range append(checkpoint.TokenizerFiles(), "config.json") {
			raw, err := os.ReadFile(filepath.Join(base, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return clara.Errorf(clara.Unavailable, "read tokenizer: %w", err)
			}
			if err := im.writeFile(name, raw); err != nil {
				return err
			}
		}
	}
	t, err := openTokenizer(im.dir, im.m)
	if err != nil {
		return err
	}
	if len(im.m.EOS) == 0 && t.EOS() != tokenizer.None {
		im.m.EOS = []int32{t.EOS()}
	}
	w, err := prompts(t, im.m) // refuses a base without chat template
	if err != nil || im.ck == nil {
		return err
	}
	tokens := w.Tokenizer().Len()
	if err := im.ck.Complete(im.src, tokens); err != nil {
		return err
	}
	im.m.Vocab, im.m.Arch.Vocab = tokens, tokens
	return im.ck.Validate(im.src.Arch(), tokens)
}

// writeEmbedding stores the checkpoint's table and head (spec clara-model §2, §7).
func (im *importer) writeEmbedding() error {
	if im.ck == nil {
		return nil
	}
	var list []tensor.View
	table, err := im.ck.Embedding.Convert(tensor.F32)
	if err != nil {
		return err
	}
	table.Name = arch.Embedding
	list = append(list, table)
	if !im.m.Arch.TieEmbeddings {
		head, err := im.ck.Head.Convert(tensor.F32)
		if err != nil {
			return err
		}
		head.Name = arch.Head
		list = append(list, head)
	}
	return im.writeTensors(embeddingFile, list)
}

// writeWeights writes the weights of each precision, floats first.
func (im *importer) writeWeights() error {
	if err := im.calibrate(); err != nil {
		return err
	}
	for _, p := range im.Precision.list() {
		before := len(im.files)
		write := im.writeBlocks
		if p.bits() == 0 {
			write = im.writeFloats
		}
		if err := write(p); err != nil {
			return err
		}
		im.of[p] = im.files[before:len(im.files):len(im.files)]
	}
	return nil
}

// writeFloats links the base's files where all that is needed lies in them in the precision's type, else
// converts what is needed. Vectors, which are small, are float32 or as they are: graphs take them in any type.
func (im *importer) writeFloats(p Precision) error {
	have := im.floats(p)
	direct := true
	paths := map[string]bool{}
	for _, w := range im.m.Arch.Weights() {
		if located(have, w.Name) != nil {
			continue
		}
		path, _, ok := im.src.Location(w.Name)
		v, err := im.src.Tensor(w.Name)
		if err != nil {
			return err
		}
		direct = direct && ok && filepath.Ext(path) == ".safetensors" && (v.DType == p.dtype() || p.Half() && len(w.Shape) == 1)
		paths[path] = true
		if err := im.ctx.Err(); err != nil {
			return err
		}
		if !direct {
			break
		}
	}
	if direct {
		for _, path := range sortedKeys(paths) {
			if err := im.link(path); err != nil {
				return err
			}
		}
		return nil
	}
	var entries []safetensors.Entry
	types := map[string]tensor.DType{}
	for _, w := range im.m.Arch.Weights() {
		if located(have, w.Name) != nil {
			continue
		}
		types[w.Name] = tensor.F32
		if len(w.Shape) > 1 {
			types[w.Name] = p.dtype()
		}
		entries = append(entries, safetensors.Entry{Name: w.Name, DType: types[w.Name], Shape: w.Shape})
	}
	return im.stream(weightsOf(p), entries, func(name string) (tensor.View, error) {
		if err := im.ctx.Err(); err != nil {
			return tensor.View{}, err
		}
		v, err := im.src.Tensor(name)
		if err != nil {
			return tensor.View{}, err
		}
		if types[name] == tensor.F16 && v.DType != tensor.F16 {
			if err := fitsHalf(v); err != nil {
				return tensor.View{}, err
			}
		}
		return v.Convert(types[name])
	})
}

// fitsHalf refuses weights that Float16 has no numbers for.
func fitsHalf(v tensor.View) error {
	values, err := v.Float32()
	if err != nil {
		return err
	}
	for _, x := range values {
		if x > 65504 || x < -65504 {
			return clara.Errorf(clara.Unsupported, "weight %s holds %g, more than fp16 can (65504): choose bf16", v.Name, x)
		}
	}
	return nil
}

// floats are the files in which the weights that are floats of a precision's graph are looked for, the first first.
// Nothing but the checkpoint's table is shared with halves: other precisions would get their rounded numbers.
func (im *importer) floats(p Precision) []*safetensors.File {
	var list []*safetensors.File
	for _, f := range im.files {
		of := FP32
		for _, half := range []Precision{BF16, FP16} {
			if slices.Contains(im.of[half], f) {
				of = half
			}
		}
		if of == p || !p.Half() && of == FP32 || filepath.Base(f.Path()) == embeddingFile {
			list = append(list, f)
		}
	}
	return list
}

// writeAdapters stores each adapter once; a reasoner that is the encoder's copy is the encoder's file.
func (im *importer) writeAdapters() error {
	if im.ck == nil {
		return nil
	}
	im.m.Adapters = map[Role]string{}
	for _, x := range []struct {
		role Role
		name string
	}{{Encoder, checkpoint.Encoder}, {Reasoner, checkpoint.QueryReasoner}, {Decoder, checkpoint.Decoder}} {
		if _, own := im.ck.Adapters[x.name]; !own && x.role == Reasoner {
			im.m.Adapters[Reasoner] = im.m.Adapters[Encoder]
			continue
		}
		a, err := im.ck.Adapter(x.name)
		if err != nil {
			return err
		}
		var list []tensor.View
		for _, key := range sortedKeys(a.Tensors) {
			v, err := a.Tensors[key].Convert(tensor.F32)
			if err != nil {
				return err
			}
			list = append(list, v)
		}
		file := string(x.role) + ".safetensors"
		if err := im.writeTensors(file, list); err != nil {
			return err
		}
		im.m.Adapters[x.role], im.m.LoRAScale = file, a.Scale()
	}
	return nil
}

func (im *importer) writeGraph() error {
	im.m.Precisions = map[Role]Precision{Base: im.Precision.Decoder}
	for r := range im.m.Adapters {
		im.m.Precisions[r] = im.Precision.of(r)
	}
	for _, p := range im.Precision.list() {
		w := packageWeights{importer: im, floats: im.floats(p)}
		if p.bits() != 0 {
			w.blocks = im.of[p][0]
		}
		b, err := decoder.Build(im.m.Arch, w, decoder.Options{Adapters: im.m.HasAdapters(), Exact: p.exact(), Type: p.graphType()})
		if err != nil {
			return err
		}
		f, err := os.Create(filepath.Join(im.dir, graphOf(p)))
		if err != nil {
			return clara.Errorf(clara.Unavailable, "write graph: %w", err)
		}
		if _, err := b.WriteTo(f); err != nil {
			f.Close()
			return clara.Errorf(clara.Unavailable, "write graph: %w", err)
		}
		if err := f.Close(); err != nil {
			return clara.Errorf(clara.Unavailable, "write graph: %w", err)
		}
		im.m.Graphs[p] = graphOf(p)
	}
	table := im.located(arch.Embedding)
	for _, f := range im.files {
		if table == nil && f.Has(arch.Embedding+codesSuffix) {
			table = f
		}
	}
	if table == nil { // halves alone
		table = located(im.files, arch.Embedding)
	}
	if table == nil {
		return clara.Errorf(clara.Corrupt, "no file holds %s", arch.Embedding)
	}
	im.m.Table = filepath.Base(table.Path())
	return nil
}

// located is the file that holds a weight in float32, or as the checkpoint has it; nil if none does.
func (im *importer) located(name string) *safetensors.File { return located(im.floats(FP32), name) }

func located(files []*safetensors.File, name string) *safetensors.File {
	for _, f := range files {
		if f.Has(storedName(f, name)) {
			return f
		}
	}
	return nil
}

// storedName is the name in the file: a base saved without its head lacks the first part.
func storedName(f *safetensors.File, name string) string {
	if short := strings.TrimPrefix(name, "model."); !f.Has(name) && f.Has(short) {
		return short
	}
	return name
}

// listFiles puts every file with its hash into the manifest.
func (im *importer) listFiles() error {
	entries, err := os.ReadDir(im.dir)
	if err != nil {
		return clara.Errorf(clara.Unavailable, "list package: %w", err)
	}
	for _, e := range entries { // by name
		if err := im.ctx.Err(); err != nil {
			return err
		}
		size, sum, err := hashFile(filepath.Join(im.dir, e.Name()))
		if err != nil {
			return clara.Errorf(clara.Unavailable, "hash package: %w", err)
		}
		im.m.Files = append(im.m.Files, File{e.Name(), size, sum})
	}
	return nil
}

func (im *importer) storeManifest() error {
	raw, err := im.m.encode()
	if err != nil {
		return err
	}
	if err := im.writeFile(ManifestFile, raw); err != nil {
		return err
	}
	return im.m.check()
}

// hashes fills in what identifies each role: all that its result depends on and nothing else, so
// that a stage that leaves the encoder as it was leaves its hash, and the index.
func (im *importer) hashes() error {
	m := im.m
	var words []string
	for _, f := range m.Files {
		if f.Path == "tokenizer.json" || f.Path == "tokenizer_config.json" || f.Path == vocabFile ||
			f.Path == "special_tokens_map.json" || f.Path == "added_tokens.json" || strings.HasPrefix(f.Path, "chat_template") {
			words = append(words, f.Path, f.SHA256)
		}
	}
	family, err := json.Marshal(im.src.Arch())
	if err != nil {
		return fmt.Errorf("encode architecture: %w", err)
	}
	base := func(p Precision) string {
		var sums []string
		for _, f := range im.of[p] { // by name
			sums = append(sums, m.file(filepath.Base(f.Path())).SHA256)
		}
		return digest(append(sums, string(family))...)
	}
	m.Hashes = Hashes{Base: base(im.Precision.list()[0]), Tokenizer: digest(words...)}
	if im.ck == nil {
		return nil
	}
	role := func(r Role) string {
		return digest(base(im.Precision.of(r)), m.Hashes.Tokenizer, m.file(embeddingFile).SHA256, m.file(m.Adapters[r]).SHA256,
			strconv.FormatFloat(m.LoRAScale, 'g', -1, 64), strconv.Itoa(m.M), strconv.Itoa(m.DocMaxLength), strconv.FormatBool(m.DifferentMemTokens))
	}
	m.Hashes.Encoder, m.Hashes.Reasoner, m.Hashes.Decoder = role(Encoder), role(Reasoner), role(Decoder)
	m.IndexKeySeed, err = strconv.ParseUint(m.Hashes.Encoder[:13], 16, 64) // 52 bits: exact as a JSON number everywhere
	return err
}

// writeTensors writes a safetensors file and adds it to those that hold weights.
func (im *importer) writeTensors(name string, list []tensor.View) error {
	entries := make([]safetensors.Entry, len(list))
	byName := map[string]tensor.View{}
	for i, v := range list {
		entries[i], byName[v.Name] = safetensors.Entry{Name: v.Name, DType: v.DType, Shape: v.Shape}, v
	}
	return im.stream(name, entries, func(name string) (tensor.View, error) { return byName[name], nil })
}

func (im *importer) stream(name string, entries []safetensors.Entry, get func(string) (tensor.View, error)) error {
	path := filepath.Join(im.dir, name)
	f, err := os.Create(path)
	if err != nil {
		return clara.Errorf(clara.Unavailable, "write weights: %w", err)
	}
	defer f.Close() // the second close after success does nothing
	w, err := safetensors.NewWriter(f, nil, entries)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	for _, e := range w.Entries() {
		v, err := get(e.Name)
		if err != nil {
			return err
		}
		v.Name = e.Name
		if err := w.Write(v); err != nil {
			return diskError("write "+name, err)
		}
	}
	if err := w.Close(); err != nil {
		return diskError("write "+name, err)
	}
	if err := f.Close(); err != nil {
		return diskError("write "+name, err)
	}
	return im.open(path)
}

func (im *importer) open(path string) error {
	f, err := safetensors.Open(path)
	if err != nil {
		return err
	}
	im.files = append(im.files, f)
	return nil
}

// link brings a weight file of the base into the package: a hard link where the file system can, else a copy.
func (im *importer) link(path string) error {
	real, err := filepath.EvalSymlinks(path) // a hub's files are links into its store
	if err != nil {
		return clara.Errorf(clara.Unavailable, "link weights: %w", err)
	}
	to := filepath.Join(im.dir, filepath.Base(path))
	if err := linkFile(real, to); err != nil {
		return diskError("copy weights", err)
	}
	return im.open(to)
}

func linkFile(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	return copyFile(from, to)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

func (im *importer) writeFile(name string, raw []byte) error {
	if err := os.WriteFile(filepath.Join(im.dir, name), raw, 0o644); err != nil {
		return diskError("write "+name, err)
	}
	return nil
}

// diskError gives faults of the file system a kind, and leaves others as they are.
func diskError(what string, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) && clara.KindOf(err) == clara.Internal {
		return clara.Errorf(clara.Unavailable, "%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
