package build

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/dataset"
	"github.com/clara-suite/clara/services/synthesis/internal/candidate"
	"github.com/clara-suite/clara/services/synthesis/internal/describe"
	"github.com/clara-suite/clara/services/synthesis/internal/pair"
	"github.com/clara-suite/clara/services/synthesis/internal/prompt"
)

// Names of the files.
const (
	PretrainFile    = "pretrain_data.jsonl"
	InstructionFile = "instruction_data.jsonl"
	EndToEndFile    = "end_to_end_data.jsonl"
	TrainingFile    = "clara_training_data.jsonl"
	CardFile        = "data_card.json"
	CardText        = "data_card.md"
)

// taken is a pair that goes into the files.
type taken struct {
	pair.Pair
	id        string
	positives []int
	sources   []string
}

// finish makes the samples of all answers, in the order of the documents, and writes the files.
func (b *builder) finish(ctx context.Context, tasks []*task, search *candidate.BM25, stopped error) (*Card, error) {
	var (
		set   pair.Set
		pairs []taken
		pre   []dataset.Sample
	)
	for _, t := range tasks {
		if t.answer == nil {
			if t.kind == "chunk" {
				b.card.Chunks.Failed++
			}
			continue
		}
		b.card.answered(t)
		good := b.take(t, &set)
		if t.kind == "chunk" {
			b.card.Chunks.Done++
			if len(good) == 0 {
				b.card.Chunks.WithoutPairs++
			}
			b.card.source(b.chunks[t.chunks[0]].source, len(good))
			pre = append(pre, b.pretrain(t, good)...)
		}
		pairs = append(pairs, good...)
	}
	slices.SortFunc(b.failures, func(x, y Failure) int { return strings.Compare(x.Item+"\x00"+x.Reason, y.Item+"\x00"+y.Reason) })
	b.card.Failures = b.failures
	b.card.Complete = stopped == nil && len(b.failures) == 0
	if stopped != nil {
		b.card.Stopped = stopped.Error()
	}
	if len(pairs) == 0 && len(pre) == 0 {
		if stopped == nil {
			stopped = clara.Errorf(clara.Invalid, "no chunk led to a summary or a pair that can be used: see the reasons in the data card")
		}
		return b.card, stopped
	}
	instruction, endToEnd, err := b.candidates(ctx, pairs, search)
	if err != nil {
		return b.card, err
	}
	if err := b.writeFiles(pre, instruction, endToEnd); err != nil {
		return b.card, err
	}
	if b.card.Complete {
		needed := func(key string) bool { return b.keys[key] || b.KeepPictures && describe.IsKey(key) }
		if err := b.Store.Keep(ctx, needed); err != nil {
			return b.card, err
		}
	}
	return b.card, nil
}

// take returns the pairs of a task that pass all checks; the others are counted by reason.
func (b *builder) take(t *task, set *pair.Set) []taken {
	var out []taken
	for i, p := range t.answer.Written.Pairs {
		t.label(&p)
		reason := t.check.Check(p)
		if reason == "" && i < len(t.wrong) && t.wrong[i] {
			reason = pair.Judged
		}
		if reason == "" && len(out) == mostPairs {
			reason = pair.Surplus
		}
		if reason == "" {
			reason = set.Add(p.Question)
		}
		if reason != "" {
			b.card.Refused[reason]++
			continue
		}
		b.card.Pairs[p.Type]++
		x := taken{Pair: p, id: t.id + "-" + strconv.Itoa(i+1), positives: t.chunks, sources: b.sourceIDs(t)}
		if t.kind == pair.Unanswerable {
			x.Answer, x.positives = prompt.Abstention(t.check.Language()), nil
		}
		out = append(out, x)
	}
	return out
}

// sourceIDs names the documents that a task is about, without telling their paths: samples of one document can be kept
// together. They stay the same when a document's text changes.
func (b *builder) sourceIDs(t *task) []string {
	var out []string
	for _, c := range t.chunks {
		s := b.sources[b.chunks[c].source]
		if id := "d-" + digest("source", s.Area, s.Name)[:12]; !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

// pretrain makes the lines of stage 1 of a chunk: its pairs together, and its summary.
func (b *builder) pretrain(t *task, pairs []taken) []dataset.Sample {
	var out []dataset.Sample
	docs, sources := []string{b.texts[t.chunks[0]]}, b.sourceIDs(t)
	if len(pairs) > 0 {
		s := dataset.Sample{Kind: dataset.Pretrain, ID: t.id, DataType: dataset.QA, Docs: docs, Sources: sources}
		for _, p := range pairs {
			s.Questions, s.Answers = append(s.Questions, p.Question), append(s.Answers, p.Answer)
		}
		out = append(out, s)
	}
	if reason := t.check.CheckSummary(t.answer.Written.Summary); reason != "" {
		b.card.RefusedSummaries[reason]++
		return out
	}
	b.card.Summaries++
	return append(out, dataset.Sample{Kind: dataset.Pretrain, ID: t.id + "-s", DataType: dataset.Paraphrase, Answers: []string{t.answer.Written.Summary}, Docs: docs, Sources: sources})
}

// candidates makes the lines of stages 2 and 3.
func (b *builder) candidates(ctx context.Context, pairs []taken, search *candidate.BM25) (instruction, endToEnd []dataset.Sample, err error) {
	ranker, err := b.ranker(ctx, search)
	if err != nil {
		return nil, nil, err
	}
	selector := candidate.NewSelector(b.texts, ranker, b.Recipe.TopK, b.Recipe.Seed)
	for i, p := range pairs {
		q := candidate.Question{ID: p.id, Text: p.Question, Answer: p.Answer, Positives: p.positives}
		if p.positives == nil {
			q.Answer = ""
		}
		c, err := selector.Choose(ctx, q)
		if err != nil {
			return nil, nil, err
		}
		b.card.Candidates.Filtered += c.Filtered
		if len(c.Chunks) < b.Recipe.TopK {
			b.card.Candidates.Short++
		}
		if len(c.Chunks) == 0 {
			continue
		}
		s := dataset.Sample{Kind: dataset.Instruction, ID: p.id, DataType: dataset.QA, Questions: []string{p.Question}, Answers: []string{p.Answer}, Sources: p.sources}
		for _, x := range c.Chunks {
			s.Docs = append(s.Docs, b.texts[x])
		}
		instruction = append(instruction, s)
		s.Kind, s.PosIndex = dataset.EndToEnd, c.Positives
		endToEnd = append(endToEnd, s)
		if i%64 == 0 {
			if err := ctx.Err(); err != nil {
				return nil, nil, context.Cause(ctx)
			}
			b.report(Progress{Stage: "candidates", Done: i, Total: len(pairs), Unit: "questions"})
		}
	}
	b.report(Progress{Stage: "candidates", Done: len(pairs), Total: len(pairs), Unit: "questions"})
	return instruction, endToEnd, nil
}

func (b *builder) ranker(ctx context.Context, search *candidate.BM25) (candidate.Ranker, error) {
	switch b.Recipe.Negatives {
	case BM25:
		return search, nil
	case Embedding:
		if b.Embed == nil {
			return nil, clara.Errorf(clara.State, "hard negatives by embedding need an embedding model: set EMBEDDING_MODEL, or get MiniLM with scripts/deps.sh minilm")
		}
		vectors, err := b.embeddings(ctx)
		if err != nil {
			return nil, err
		}
		return candidate.NewVectors(vectors), nil
	}
	return candidate.Random{N: len(b.texts), Seed: b.Recipe.Seed}, nil
}

// embedBatch is how many chunks are embedded and stored together.
const embedBatch = 64

// embeddings gets a vector for each chunk, from the store where they are.
func (b *builder) embeddings(ctx context.Context) ([][]float32, error) {
	out := make([][]float32, len(b.texts))
	var missing []int
	key := func(i int) string { return digest("embedding", b.EmbeddingModel, b.texts[i]) }
	for i := range b.texts {
		value, ok, err := b.Store.Get(ctx, key(i))
		if err != nil {
			return nil, err
		}
		if !ok || json.Unmarshal(value, &out[i]) != nil || len(out[i]) == 0 {
			missing = append(missing, i)
		}
		b.keys[key(i)] = true
	}
	for start := 0; start < len(missing); start += embedBatch {
		b.report(Progress{Stage: "embeddings", Done: start, Total: len(missing), Unit: "chunks"})
		part := missing[start:min(start+embedBatch, len(missing))]
		texts := make([]string, len(part))
		for i, x := range part {
			texts[i] = b.texts[x]
		}
		vectors, err := b.Embed(ctx, texts)
		if err != nil {
			return nil, err
		}
		var store errgroup.Group // stored together, they share the wait for the disk
		for i, x := range part {
			out[x] = vectors[i]
			store.Go(func() error {
				value, err := json.Marshal(vectors[i])
				if err != nil {
					return clara.Errorf(clara.Corrupt, "embedding of %s: %w", b.EmbeddingModel, err)
				}
				return b.Store.Put(context.WithoutCancel(ctx), key(x), value)
			})
		}
		if err := store.Wait(); err != nil {
			return nil, err
		}
	}
	for _, v := range out {
		if len(v) != len(out[0]) {
			return nil, clara.Errorf(clara.Corrupt, "the embedding model %s gives vectors of different lengths", b.EmbeddingModel)
		}
	}
	return out, nil
}

// writeFiles writes the files of the three stages, all of them in one, and the card.
func (b *builder) writeFiles(pre, instruction, endToEnd []dataset.Sample) error {
	for _, f := range []struct {
		name    string
		samples [][]dataset.Sample
	}{
		{PretrainFile, [][]dataset.Sample{pre}}, {InstructionFile, [][]dataset.Sample{instruction}}, {EndToEndFile, [][]dataset.Sample{endToEnd}},
		{TrainingFile, [][]dataset.Sample{pre, instruction, endToEnd}},
	} {
		n := 0
		file, err := WriteFile(filepath.Join(b.Dir, f.name), func(w io.Writer) error {
			out := dataset.NewWriter(w)
			for _, list := range f.samples {
				for _, s := range list {
					if err := out.Write(s); err != nil {
						return err
					}
					n++
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		file.Samples = n
		b.card.Files = append(b.card.Files, file)
	}
	data, err := json.MarshalIndent(b.card, "", "  ")
	if err != nil {
		return clara.Errorf(clara.Internal, "encode data card: %w", err)
	}
	if _, err := WriteFile(filepath.Join(b.Dir, CardFile), func(w io.Writer) error { _, err := w.Write(append(data, '\n')); return err }); err != nil {
		return err
	}
	_, err = WriteFile(filepath.Join(b.Dir, CardText), func(w io.Writer) error { _, err := io.Copy(w, bytes.NewReader(b.card.Markdown())); return err })
	return err
}

// WriteFile writes a file that appears whole, on disk, or not at all.
func WriteFile(path string, write func(io.Writer) error) (File, error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return File{}, clara.Errorf(clara.Unavailable, "write %s: %w", path, err)
	}
	defer os.Remove(tmp.Name())
	sum := &counted{hash: sha256.New()}
	buf := bufio.NewWriterSize(io.MultiWriter(tmp, sum), 1<<20)
	if err := write(buf); err != nil {
		tmp.Close()
		return File{}, err
	}
	err = errors.Join(buf.Flush(), tmp.Sync(), tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return File{}, clara.Errorf(clara.Unavailable, "write %s: %w", path, err)
	}
	return File{Name: filepath.Base(path), Bytes: sum.n, SHA256: hex.EncodeToString(sum.hash.Sum(nil))}, nil
}

type counted struct {
	hash hash.Hash
	n    int64
}

func (c *counted) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.hash.Write(p)
}
