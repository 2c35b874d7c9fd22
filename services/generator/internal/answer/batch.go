package answer

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/infer/models"
	"github.com/clara-suite/clara/libs/prompt"
	"github.com/clara-suite/clara/libs/topk"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
)

// Generate answers each question from what is given with it (spec clara-model §6: generate_from_text,
// generate_from_compressed_documents_and_questions). Kinds: Invalid, naming the item; NotFound for a point that is
// not there; State for memories that the model does not make or read; Busy.
func (a *Answerer) Generate(ctx context.Context, r *generatorv1.GenerateRequest) (*generatorv1.GenerateResponse, error) {
	begin := time.Now()
	if err := a.checkBatch(len(r.Items), r.MaxTokens); err != nil {
		return nil, err
	}
	if err := checkSampling(r.Sampling); err != nil {
		return nil, err
	}
	if _, ok := generatorv1.Context_name[int32(r.Context)]; !ok {
		return nil, clara.Errorf(clara.Invalid, "context %d is none that there is", r.Context)
	}
	form, err := a.forms.get(r.JsonSchema)
	if err != nil {
		return nil, err
	}
	lease, err := a.Models.Acquire(ctx, r.Model)
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	kind := r.Context
	switch {
	case kind == generatorv1.Context_CONTEXT_UNSPECIFIED && lease.HasRole(infer.Decoder):
		kind = generatorv1.Context_CONTEXT_MEMORY
	case kind == generatorv1.Context_CONTEXT_UNSPECIFIED:
		kind = generatorv1.Context_CONTEXT_TEXT
	}
	var place *infer.Place
	if len(r.Items) == 1 { // it does not wait, so who is refused is refused before passages are read or compressed
		item := r.Items[0]
		given := len(item.Passages) + len(item.Memories) + len(item.Points)
		if place, err = lease.Reserve(given*(lease.Manifest().M+1), tokens(r.MaxTokens)); err != nil {
			return nil, err
		}
		defer place.Release()
	}
	inputs := make([]input, len(r.Items))
	for i, item := range r.Items {
		inputs[i] = input{question: item.Question, kind: kind}
		if err := a.gather(ctx, r.Index, item, &inputs[i]); err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
	}
	if err := a.compressMissing(ctx, lease, inputs); err != nil {
		return nil, err
	}
	requests := make([]infer.Request, len(inputs))
	for i, in := range inputs {
		p, kept, err := write(lease, in, tokens(r.MaxTokens))
		if err == nil && kept < max(len(in.passages), len(in.memories)) && kind != generatorv1.Context_CONTEXT_NONE {
			// What is given is to be read, all of it.
			err = clara.Errorf(clara.Invalid, "%d of %d passages fit in the context of %d tokens: give fewer", kept, max(len(in.passages), len(in.memories)), lease.Options().Context)
		}
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		requests[i] = infer.Request{Prompt: p, Adapter: in.adapter(), Sampling: sampling(r.Sampling), Stop: r.Sampling.GetStop(), MaxTokens: tokens(r.MaxTokens), Output: form, Place: place}
	}
	outputs, err := a.run(ctx, lease, requests, begin)
	return &generatorv1.GenerateResponse{Outputs: outputs, Model: lease.Name}, err
}

// gather takes what an item gives: passages, memories or points.
func (a *Answerer) gather(ctx context.Context, indexName string, item *generatorv1.GenerateRequest_Item, in *input) error {
	if err := check(item.Question, 0); err != nil {
		return err
	}
	given := 0
	for _, n := range []int{len(item.Passages), len(item.Memories), len(item.Points)} {
		if n > 0 {
			given++
		}
	}
	if in.kind == generatorv1.Context_CONTEXT_NONE {
		return nil
	}
	if given != 1 {
		return clara.Errorf(clara.Invalid, "give passages, memories or points, one of the three, or ask with context none")
	}
	switch {
	case len(item.Memories) > 0:
		if in.kind != generatorv1.Context_CONTEXT_MEMORY {
			return clara.Errorf(clara.Invalid, "memories hold no text: give passages or points, or ask with context memory")
		}
		for i, p := range item.Memories {
			m, err := models.FromProto(p)
			if err != nil {
				return fmt.Errorf("memory %d: %w", i, err)
			}
			in.memories = append(in.memories, m)
		}
	case len(item.Points) > 0:
		if indexName == "" {
			return clara.Errorf(clara.Invalid, "points are given, but no index that they belong to")
		}
		x, err := a.index(ctx, indexName)
		if err != nil {
			return err
		}
		if in.adapter() {
			if in.memories, err = a.memories(ctx, indexName, item.Points); err != nil {
				return err
			}
		}
		if in.kind != generatorv1.Context_CONTEXT_MEMORY {
			stored, err := x.Get(ctx, item.Points)
			if err != nil {
				return err
			}
			for _, s := range stored {
				in.passages = append(in.passages, s.Passage.Text)
			}
		}
	default:
		in.passages = item.Passages
	}
	return nil
}

// compressMissing has the passages compressed of inputs that read memories and have none yet, all in one go.
func (a *Answerer) compressMissing(ctx context.Context, lease models.Lease, inputs []input) error {
	var texts []string
	for _, in := range inputs {
		if in.adapter() && len(in.memories) == 0 {
			texts = append(texts, in.passages...)
		}
	}
	if len(texts) == 0 {
		return nil
	}
	memories, err := a.compress(ctx, lease, texts)
	if err != nil {
		return err
	}
	for i, in := range inputs {
		if in.adapter() && len(in.memories) == 0 {
			n := len(in.passages)
			inputs[i].memories, memories = memories[:n:n], memories[n:]
		}
	}
	return nil
}

func (a *Answerer) compress(ctx context.Context, lease models.Lease, texts []string) ([]clara.Memory, error) {
	m := lease.Manifest()
	if !m.HasAdapters() {
		return nil, noAdapters(lease)
	}
	return models.Compress(ctx, a.Compressor, lease.Name, texts, 4*m.M*m.H)
}

func noAdapters(lease models.Lease) error {
	return clara.Errorf(clara.State, "model %s has no adapters, so it neither makes nor reads memories: use context text, or import it with a CLaRa checkpoint (clara models import --checkpoint)", lease.Name)
}

// Paraphrase tells what the memory of each document says (spec clara-model §6: generate_from_paraphrase).
func (a *Answerer) Paraphrase(ctx context.Context, r *generatorv1.ParaphraseRequest) (*generatorv1.ParaphraseResponse, error) {
	begin := time.Now()
	if err := a.checkBatch(len(r.Documents), r.MaxTokens); err != nil {
		return nil, err
	}
	lease, err := a.Models.Acquire(ctx, r.Model)
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	memories, err := a.compress(ctx, lease, r.Documents)
	if err != nil {
		return nil, err
	}
	requests := make([]infer.Request, len(memories))
	for i, m := range memories {
		e, err := lease.Prompts().Paraphrase(prompt.DrawParaphrase(uint64(r.Seed), uint64(i)), 1, 0)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i, err)
		}
		p, err := infer.Fill(e, []clara.Memory{m})
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i, err)
		}
		requests[i] = infer.Request{Prompt: p, Adapter: true, MaxTokens: tokens(r.MaxTokens)}
	}
	outputs, err := a.run(ctx, lease, requests, begin)
	return &generatorv1.ParaphraseResponse{Outputs: outputs, Model: lease.Name}, err
}

// Select chooses the best k of the candidates given with each question and answers from them (spec clara-model §6:
// generate_from_questions). Asking for more than there are is Invalid; the model's own k is cut to what there is.
func (a *Answerer) Select(ctx context.Context, r *generatorv1.SelectRequest) (*generatorv1.SelectResponse, error) {
	begin := time.Now()
	if err := a.checkBatch(len(r.Items), r.MaxTokens); err != nil {
		return nil, err
	}
	if r.TopK < 0 {
		return nil, clara.Errorf(clara.Invalid, "top_k %d is negative", r.TopK)
	}
	questions, texts := make([]string, len(r.Items)), []string(nil)
	for i, item := range r.Items {
		if err := check(item.Question, 0); err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		if n := len(item.Candidates); n == 0 || int(r.TopK) > n {
			return nil, clara.Errorf(clara.Invalid, "item %d: it has %d candidates, %d are to be chosen", i, n, max(r.TopK, 1))
		}
		questions[i] = item.Question
		texts = append(texts, item.Candidates...)
	}
	lease, err := a.Models.Acquire(ctx, r.Model)
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	memories, err := a.compress(ctx, lease, texts)
	if err != nil {
		return nil, err
	}
	queries, err := lease.EncodeQueries(ctx, questions)
	if err != nil {
		return nil, err
	}
	out := &generatorv1.SelectResponse{Model: lease.Name}
	requests := make([]infer.Request, len(r.Items))
	for i, item := range r.Items {
		n := len(item.Candidates)
		chosen, s, err := pick(queries[i], memories[:n], int(r.TopK), lease.Manifest().GenerationTopK)
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		memories = memories[n:]
		out.Selections = append(out.Selections, s)
		e, err := lease.Prompts().Answer(item.Question, len(chosen), 0)
		if err == nil {
			requests[i].Prompt, err = infer.Fill(e, chosen)
		}
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		requests[i].Adapter, requests[i].MaxTokens = true, tokens(r.MaxTokens)
	}
	outputs, err := a.run(ctx, lease, requests, begin)
	if err != nil {
		return nil, err
	}
	for i, o := range outputs {
		out.Selections[i].Output = o
	}
	return out, nil
}

// pick chooses memories for a question, best first.
func pick(query clara.Memory, from []clara.Memory, k, usual int) ([]clara.Memory, *generatorv1.SelectResponse_Selection, error) {
	scores, err := models.Scores(query, from)
	if err != nil {
		return nil, nil, err
	}
	if k == 0 {
		k = min(max(usual, 1), len(from))
	}
	best, err := topk.Select(scores, k)
	if err != nil {
		return nil, nil, err
	}
	s := &generatorv1.SelectResponse_Selection{}
	var chosen []clara.Memory
	for _, i := range best {
		chosen = append(chosen, from[i])
		s.Indices = append(s.Indices, int32(i))
		s.Scores = append(s.Scores, scores[i])
	}
	return chosen, s, nil
}

// run generates for all requests, as many at once as the engine batches, in their order.
func (a *Answerer) run(ctx context.Context, lease models.Lease, requests []infer.Request, begin time.Time) ([]*generatorv1.Output, error) {
	out := make([]*generatorv1.Output, len(requests))
	group, ctx := errgroup.WithContext(ctx)
	// Twice the rows of the batch: a request waits where another leaves.
	group.SetLimit(2 * lease.Options().Streams)
	var under atomic.Bool // some of the batch is done: then the rest waits rather than fails
	for i, r := range requests {
		r.Patient = len(requests) > 1
		group.Go(func() error {
			for {
				o, err := a.generate(ctx, lease, r, begin, nil)
				if err == nil {
					under.Store(true)
					out[i] = o
					return nil
				}
				if !under.Load() || !models.Wait(ctx, err) {
					return itemError(i, err)
				}
			}
		})
	}
	return out, group.Wait()
}

func itemError(i int, err error) error {
	if clara.KindOf(err) == clara.Invalid {
		return fmt.Errorf("item %d: %w", i, err)
	}
	return err
}

func (a *Answerer) checkBatch(n int, maxTokens int32) error {
	if n == 0 {
		return clara.Errorf(clara.Invalid, "the batch is empty")
	}
	if n > a.MaxItems {
		return clara.Errorf(clara.Invalid, "a batch of %d: the limit is %d (--max-items)", n, a.MaxItems)
	}
	return checkTokens(maxTokens)
}
