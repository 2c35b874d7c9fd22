package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/index/embedded"
	"github.com/clara-suite/clara/libs/infer/models"
	compressorv1 "github.com/clara-suite/clara/proto/gen/clara/compressor/v1"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
)

// precision is how the protocol calls a way of keeping memories; "" is unspecified.
func precision(s string) ingestv1.MemoryPrecision {
	return ingestv1.MemoryPrecision(ingestv1.MemoryPrecision_value["MEMORY_PRECISION_"+strings.ToUpper(s)])
}

// kept is precision the other way round; a collection from before there was a choice keeps fp16.
func kept(c *ingestv1.Collection) string {
	if c.MemoryPrecision == 0 {
		return index.FP16.String()
	}
	return strings.ToLower(strings.TrimPrefix(c.MemoryPrecision.String(), "MEMORY_PRECISION_"))
}

// CollectionsMove makes a collection's memories anew in another precision.
type CollectionsMove struct {
	Collection string `arg:""`
	Memories   string `help:"How memories are kept from then on: ${enum}." enum:"fp16,int8,int4" required:""`
	Detach     bool   `help:"Do not wait for the job."`
}

// Run starts the move and follows it.
func (c *CollectionsMove) Run(ctx context.Context, e *Env) error {
	client, err := e.ingest()
	if err != nil {
		return err
	}
	job, err := client.UpdateCollection(ctx, &ingestv1.UpdateCollectionRequest{Collection: &ingestv1.Collection{
		Name: collection(c.Collection), MemoryPrecision: precision(c.Memories),
	}})
	if err != nil {
		return err
	}
	return e.follow(ctx, job, c.Detach, nil)
}

// CollectionsCompare shows what each way of keeping memories costs.
type CollectionsCompare struct {
	Collection string   `arg:""`
	Passages   int      `help:"Passages to compare by, drawn from the collection." default:"300"`
	Question   []string `help:"Question to compare by; may be given again. Default: the first sentences of some passages." short:"q"`
	Questions  string   `help:"File of questions, one a line." placeholder:"FILE"`
	Count      int      `help:"First sentences taken as questions where none are given." default:"10"`
	TopK       int      `help:"Passages found for a question, and read for its answer." default:"5"`
	MaxTokens  int32    `help:"Tokens of an answer at most; 0: no answers are compared." default:"32"`
}

// compared is what one precision costs.
type compared struct {
	Precision     string  `json:"precision"`
	InUse         bool    `json:"in_use"`
	Bytes         int     `json:"bytes_per_passage"`
	CosineMean    float64 `json:"cosine_mean"`
	CosineMin     float64 `json:"cosine_min"`
	SlotCosineMin float64 `json:"slot_cosine_min"`
	Recall        float64 `json:"recall"`
	// Of the answers, compared with those from memories in float32; -1: not compared.
	SameAnswers   float64 `json:"same_answers"`
	SameBeginning float64 `json:"same_beginning"`
}

// Run compares every precision with float32, and prints a row for each.
func (c *CollectionsCompare) Run(ctx context.Context, e *Env) error {
	if c.Passages < 1 || c.TopK < 1 || c.Count < 1 || c.MaxTokens < 0 {
		return clara.Errorf(clara.Invalid, "passages, top-k and count must be 1 or more, max-tokens not negative")
	}
	client, err := e.ingest()
	if err != nil {
		return err
	}
	r, err := client.GetCollection(ctx, &ingestv1.GetCollectionRequest{Name: collection(c.Collection)})
	if err != nil {
		return err
	}
	if !r.Memory {
		return clara.Errorf(clara.State, "%s keeps no memories: its model has no adapters", r.Name)
	}
	s, err := c.sample(ctx, e, r)
	if err != nil {
		return err
	}
	var want []string
	if c.MaxTokens > 0 {
		if want, err = s.answers(ctx, e, s.memories, c.MaxTokens); err != nil {
			return err
		}
	}
	var all []compared
	for _, p := range index.Precisions() {
		x, memories, err := s.compare(ctx, p)
		if err != nil {
			return err
		}
		x.InUse = p.String() == kept(r)
		x.SameAnswers, x.SameBeginning = -1, -1
		if c.MaxTokens > 0 {
			got, err := s.answers(ctx, e, memories, c.MaxTokens)
			if err != nil {
				return err
			}
			x.SameAnswers, x.SameBeginning = agreement(want, got)
		}
		all = append(all, x)
	}
	return e.printData(map[string]any{"collection": r.Name, "model": r.Model, "passages": len(s.texts), "questions": len(s.questions), "top_k": s.k, "precisions": all},
		func(w io.Writer) { s.show(w, r, all) })
}

// sampled is what precisions are compared by.
type sampled struct {
	model     string
	texts     []string
	memories  []clara.Memory // of texts
	questions []string
	queries   []clara.Memory
	k         int
	best      [][]int // by question: the k best texts by brute force in float32, best first
	own       bool    // the questions were given
}

// sample draws passages and has them and the questions compressed.
func (c *CollectionsCompare) sample(ctx context.Context, e *Env, r *ingestv1.Collection) (*sampled, error) {
	texts, err := c.draw(ctx, e, r.Name)
	if err != nil {
		return nil, err
	}
	if len(texts) == 0 {
		return nil, clara.Errorf(clara.State, "%s holds no passages yet", r.Name)
	}
	s := &sampled{model: r.Model, texts: texts, k: min(c.TopK, len(texts)), questions: c.Question}
	if c.Questions != "" {
		more, err := readLines(c.Questions)
		if err != nil {
			return nil, err
		}
		s.questions = append(slices.Clone(s.questions), more...)
	}
	if s.own = len(s.questions) > 0; !s.own {
		for _, t := range texts[:min(c.Count, len(texts))] {
			s.questions = append(s.questions, firstSentence(t))
		}
	}
	fmt.Fprintf(e.Err, "comparing by %d passages and %d questions\n", len(s.texts), len(s.questions))
	if s.memories, err = e.compress(ctx, r.Model, texts, false); err != nil {
		return nil, err
	}
	if s.queries, err = e.compress(ctx, r.Model, s.questions, true); err != nil {
		return nil, err
	}
	for _, q := range s.queries {
		scores, err := models.Scores(q, s.memories)
		if err != nil {
			return nil, err
		}
		order := make([]int, len(scores))
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(scores[b], scores[a]) })
		s.best = append(s.best, order[:s.k])
	}
	return s, nil
}

// draw returns the texts of passages of a collection, each as likely as any other, the same each time.
func (c *CollectionsCompare) draw(ctx context.Context, e *Env, name string) ([]string, error) {
	client, err := e.ingest()
	if err != nil {
		return nil, err
	}
	var documents []string
	err = pages(ctx, func(token string) (string, error) {
		r, err := client.ListDocuments(ctx, &ingestv1.ListDocumentsRequest{Parent: name, PageToken: token})
		if err != nil {
			return "", err
		}
		for _, d := range r.Documents {
			if d.State == ingestv1.Document_STATE_READY || d.State == ingestv1.Document_STATE_PARTIAL {
				documents = append(documents, d.Name)
			}
		}
		return r.NextPageToken, nil
	})
	if err != nil {
		return nil, err
	}
	var texts []string
	seen := 0
	rng := rand.New(rand.NewPCG(1, 2))
	for _, d := range documents {
		err := pages(ctx, func(token string) (string, error) {
			r, err := client.ListPassages(ctx, &ingestv1.ListPassagesRequest{Parent: d, PageToken: token})
			if err != nil {
				return "", err
			}
			for _, p := range r.Passages {
				seen++
				if len(texts) < c.Passages {
					texts = append(texts, p.Text)
				} else if at := rng.IntN(seen); at < c.Passages {
					texts[at] = p.Text
				}
			}
			return r.NextPageToken, nil
		})
		if err != nil && clara.KindOf(err) != clara.NotFound { // deleted meanwhile
			return nil, err
		}
	}
	rng.Shuffle(len(texts), func(i, j int) { texts[i], texts[j] = texts[j], texts[i] })
	return texts, nil
}

// compress has texts compressed, in calls that other work fits between.
func (e *Env) compress(ctx context.Context, model string, texts []string, query bool) ([]clara.Memory, error) {
	client, err := e.compressor()
	if err != nil {
		return nil, err
	}
	out := make([]clara.Memory, 0, len(texts))
	for some := range slices.Chunk(texts, 16) {
		r := &compressorv1.CompressRequest{Model: model, Texts: some, Query: query}
		reply, err := client.Compress(ctx, r)
		for models.Wait(ctx, err) {
			reply, err = client.Compress(ctx, r)
		}
		if err != nil {
			return nil, err
		}
		for _, p := range reply.Memories {
			m, err := models.FromProto(p)
			if err != nil {
				return nil, err
			}
			out = append(out, m)
		}
	}
	return out, nil
}

// compare keeps the memories in an index of a precision, in a folder for the time being, searches it, and returns
// the memories as they come back.
func (s *sampled) compare(ctx context.Context, p index.Precision) (out compared, stored []clara.Memory, err error) {
	dir, err := os.MkdirTemp("", "clara-compare-")
	if err != nil {
		return out, nil, clara.Errorf(clara.Unavailable, "compare: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	server, err := embedded.Open(embedded.Options{Dir: dir})
	if err != nil {
		return out, nil, err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	client, err := index.Open(ctx, index.Options{Dial: server.Dial})
	if err != nil {
		return out, nil, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	schema := index.Schema{M: s.memories[0].M, H: s.memories[0].H, Memories: p}
	x, err := client.Ensure(ctx, index.NameFor("compare", "0", p), schema)
	if err != nil {
		return out, nil, err
	}
	points := make([]index.Point, len(s.memories))
	ids := make([]string, len(s.memories))
	for i, m := range s.memories {
		passage := clara.Passage{Collection: "compare", Document: "d", Ordinal: i}
		points[i], ids[i] = index.Point{Passage: passage, Memory: m}, index.PointID(x.Name(), passage)
	}
	if err := x.Upsert(ctx, points); err != nil {
		return out, nil, err
	}
	if stored, err = x.Memories(ctx, ids); err != nil {
		return out, nil, err
	}
	out = compared{Precision: p.String(), Bytes: schema.MemoryBytes(), CosineMin: 1, SlotCosineMin: 1}
	for i, m := range s.memories {
		whole := cosine(m.Data, stored[i].Data)
		out.CosineMean += whole / float64(len(s.memories))
		out.CosineMin = min(out.CosineMin, whole)
		for j := range m.M {
			out.SlotCosineMin = min(out.SlotCosineMin, cosine(m.Row(j), stored[i].Row(j)))
		}
	}
	hits := 0
	for i, q := range s.queries {
		found, err := x.SearchMemory(ctx, q, s.k, index.Filter{})
		if err != nil {
			return out, nil, err
		}
		for _, f := range found {
			if slices.Contains(s.best[i], f.Passage.Ordinal) {
				hits++
			}
		}
	}
	out.Recall = float64(hits) / float64(len(s.queries)*s.k)
	return out, stored, nil
}

// answers has each question answered from memories of the texts that are best for it.
func (s *sampled) answers(ctx context.Context, e *Env, memories []clara.Memory, tokens int32) ([]string, error) {
	client, err := e.generator()
	if err != nil {
		return nil, err
	}
	var out []string
	for i, q := range s.questions {
		item := &generatorv1.GenerateRequest_Item{Question: q}
		for _, at := range s.best[i] {
			item.Memories = append(item.Memories, models.ToProto(memories[at]))
		}
		r := &generatorv1.GenerateRequest{Model: s.model, Items: []*generatorv1.GenerateRequest_Item{item}, Context: generatorv1.Context_CONTEXT_MEMORY, MaxTokens: tokens}
		reply, err := client.Generate(ctx, r)
		for models.Wait(ctx, err) {
			reply, err = client.Generate(ctx, r)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, reply.Outputs[0].Text)
	}
	return out, nil
}

func (s *sampled) show(w io.Writer, r *ingestv1.Collection, all []compared) {
	var rows [][]string
	percent := func(x float64) string {
		if x < 0 {
			return "-"
		}
		return fmt.Sprintf("%.1f %%", 100*x)
	}
	for _, x := range all {
		name := x.Precision
		if x.InUse {
			name += " (in use)"
		}
		rows = append(rows, []string{name, fmt.Sprint(x.Bytes), fmt.Sprintf("%.6f", x.CosineMean), fmt.Sprintf("%.6f", x.CosineMin), fmt.Sprintf("%.6f", x.SlotCosineMin),
			percent(x.Recall), percent(x.SameAnswers), percent(x.SameBeginning)})
	}
	table(w, []string{"MEMORIES", "BYTES A PASSAGE", "COSINE MEAN", "MIN", "MIN OF A SLOT", fmt.Sprintf("RECALL@%d", s.k), "SAME ANSWERS", "SAME BEGINNING"}, rows)
	from := "given"
	if !s.own {
		from = "first sentences of passages"
	}
	fmt.Fprintf(w, "compared with float32 over %d passages and %d questions (%s), greedy, %s\n", len(s.texts), len(s.questions), from, r.Model)
	if r.NextIndex == "" {
		fmt.Fprintf(w, "to change it: clara collections move %s --memories PRECISION\n", short(r.Name))
	}
}

// agreement returns which part of the answers are the same, and which part of their characters come before the
// first difference.
func agreement(want, got []string) (same, beginning float64) {
	n := float64(len(want))
	for i, w := range want {
		a, b := []rune(w), []rune(got[i])
		at := 0
		for at < len(a) && at < len(b) && a[at] == b[at] {
			at++
		}
		if at == len(a) && at == len(b) {
			same += 1 / n
		}
		if most := max(len(a), len(b)); most > 0 {
			beginning += float64(at) / float64(most) / n
		} else {
			beginning += 1 / n
		}
	}
	return same, beginning
}

func cosine(a, b []float32) float64 {
	var ab, aa, bb float64
	for i, x := range a {
		y := float64(b[i])
		ab, aa, bb = ab+float64(x)*y, aa+float64(x)*float64(x), bb+y*y
	}
	if aa == 0 || bb == 0 {
		return 1 // both say nothing
	}
	return ab / math.Sqrt(aa*bb)
}

// firstSentence returns the beginning of a text up to the end of a sentence, or a line, or 200 bytes.
func firstSentence(text string) string {
	text = strings.TrimSpace(text)
	for i, r := range text {
		next := i + utf8.RuneLen(r)
		switch {
		case r == '\n', i >= 200:
			return strings.TrimSpace(text[:i])
		case i >= 20 && (strings.ContainsRune("。！？", r) || strings.ContainsRune(".!?", r) && strings.HasPrefix(text[next:], " ")):
			return text[:next]
		}
	}
	return text
}

// readLines returns the lines of a file that hold something.
func readLines(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "open questions: %w", err)
	}
	defer f.Close()
	var out []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); line != "" {
			out = append(out, line)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, clara.Errorf(clara.Invalid, "read %s: %w", path, err)
	}
	return out, nil
}
