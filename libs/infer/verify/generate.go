package verify

import (
	"encoding/json"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/prompt"
	"github.com/clara-suite/clara/libs/topk"
)

// generate runs every entry point (spec clara-model §6). The rows of a call run at once, so they join
// and leave one batch.
func (v *verifier) generate() error {
	for _, name := range sortedKeys(v.golden.Generate) {
		raw := v.golden.Generate[name]
		if len(raw) > 0 && raw[0] == '[' { // one call after the other: single rows
			var rows []struct {
				IDs  []int32 `json:"ids"`
				Text string  `json:"text"`
				TopK []int   `json:"topk_idx"`
			}
			if err := json.Unmarshal(raw, &rows); err != nil {
				return clara.Errorf(clara.Corrupt, "parse generate.%s: %w", name, err)
			}
			var all generation
			if err := json.Unmarshal(v.golden.Generate["questions"], &all); err != nil {
				return clara.Errorf(clara.Corrupt, "parse generate.questions: %w", err)
			}
			g := generation{Questions: all.Questions, Documents: all.Documents, Steps: all.Steps}
			for _, r := range rows {
				g.IDs, g.Text, g.TopK = append(g.IDs, r.IDs), append(g.Text, r.Text), append(g.TopK, r.TopK)
			}
			if err := v.call(name, g, false); err != nil {
				return err
			}
			continue
		}
		var g generation
		if err := json.Unmarshal(raw, &g); err != nil {
			return clara.Errorf(clara.Corrupt, "parse generate.%s: %w", name, err)
		}
		if len(g.Questions)+len(g.Documents) == 0 { // "same inputs as text"
			var text generation
			if err := json.Unmarshal(v.golden.Generate["text"], &text); err != nil {
				return clara.Errorf(clara.Corrupt, "parse generate.text: %w", err)
			}
			g.Questions, g.Documents = text.Questions, text.Documents
		}
		if err := v.call(name, g, name == "questions_mips"); err != nil {
			return err
		}
	}
	return nil
}

// call runs one entry point. With inner, candidates are picked by inner product, as the reference's
// index does, and those of "questions" stand for the index.
func (v *verifier) call(name string, g generation, inner bool) error {
	key := "generate." + name
	prompts, err := v.callPrompts(key, g, inner)
	if err != nil {
		return err
	}
	stop := g.EOS
	if stop == nil {
		stop = v.e.Manifest().EOS
	}
	ids := make([][]int32, len(prompts))
	group, ctx := errgroup.WithContext(v.ctx)
	for i, p := range prompts {
		group.Go(func() error {
			_, err := v.e.Generate(ctx, infer.Request{Prompt: p, Adapter: true, MaxTokens: g.Steps, StopIDs: stop}, func(t infer.Token) error {
				if t.ID >= 0 {
					ids[i] = append(ids[i], t.ID)
				}
				return nil
			})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var x exact
	for i, want := range g.IDs {
		var last []int32
		if end := slices.IndexFunc(want, func(id int32) bool { return slices.Contains(stop, id) }); end >= 0 {
			want, last = want[:end], want[end:end+1] // the reference keeps the stop id, in its text too, and pads after it
		}
		x.ids(fmt.Sprintf("row %d", i), want, ids[i])
		if i < len(g.Text) {
			text := v.tok.Decode(append(slices.Clone(ids[i]), last...), true)
			x.is(g.Text[i] == text, "text of row %d: expected %q, got %q", i, g.Text[i], text)
		}
	}
	v.exact(key, x)

	tensor := "generate/" + name + "/first_step_logits"
	if !v.tensors.Has(tensor) {
		return nil
	}
	want, shape, err := v.tensor(tensor)
	if err != nil {
		return err
	}
	var d near
	for i, p := range prompts {
		got, err := v.e.Logits(v.ctx, p, true)
		if err != nil {
			return err
		}
		d.all(want[i*shape[1]:(i+1)*shape[1]], got)
	}
	v.near(tensor, d, v.limit("logits", 2e-4))
	return nil
}

// callPrompts writes the prompts of a call.
func (v *verifier) callPrompts(key string, g generation, inner bool) ([]infer.Prompt, error) {
	var prompts []infer.Prompt
	add := func(e prompt.Encoded, err error, memories []clara.Memory) error {
		if err != nil {
			return err
		}
		p, err := infer.Fill(e, memories)
		prompts = append(prompts, p)
		return err
	}
	switch {
	case len(g.Questions) == 0: // paraphrase
		for _, docs := range g.Documents {
			memories, err := v.e.CompressTexts(v.ctx, docs)
			if err != nil {
				return nil, err
			}
			e, err := v.w.Paraphrase(g.Instruction, len(docs), 0)
			if err := add(e, err, memories); err != nil {
				return nil, err
			}
		}
	case len(g.TopK) > 0: // questions: the reasoner picks
		queries, err := v.e.EncodeQueries(v.ctx, g.Questions)
		if err != nil {
			return nil, err
		}
		documents := g.Documents
		if len(documents) == 0 {
			var all generation
			if err := json.Unmarshal(v.golden.Generate["questions"], &all); err != nil {
				return nil, clara.Errorf(clara.Corrupt, "parse generate.questions: %w", err)
			}
			documents = all.Documents
		}
		var x exact
		for i, q := range g.Questions {
			docs, err := v.e.CompressTexts(v.ctx, documents[i])
			if err != nil {
				return nil, err
			}
			s := scores(queries[i], docs)
			if inner {
				s = products(queries[i], docs)
			}
			picks, err := topk.Select(s, len(g.TopK[i]))
			if err != nil {
				return nil, err
			}
			check(&x, q, g.TopK[i], picks, func(a, b int) bool { return a == b })
			var chosen []clara.Memory
			for _, k := range picks {
				chosen = append(chosen, docs[k])
			}
			e, err := v.w.Answer(q, len(chosen), 0)
			if err := add(e, err, chosen); err != nil {
				return nil, err
			}
		}
		v.exact(key+".topk_idx", x)
	case len(g.Documents) > 0: // text
		for i, q := range g.Questions {
			memories, err := v.e.CompressTexts(v.ctx, g.Documents[i])
			if err != nil {
				return nil, err
			}
			e, err := v.w.Answer(q, len(memories), 0)
			if err := add(e, err, memories); err != nil {
				return nil, err
			}
		}
	default: // the memories are given, or are those of "text"
		memories, err := v.givenMemories()
		if err != nil {
			return nil, err
		}
		k := len(memories) / len(g.Questions)
		for i, q := range g.Questions {
			e, err := v.w.Answer(q, k, 0)
			if err := add(e, err, memories[i*k:(i+1)*k]); err != nil {
				return nil, err
			}
		}
	}
	return prompts, nil
}

// givenMemories is the input of generate_from_compressed_documents_and_questions.
func (v *verifier) givenMemories() ([]clara.Memory, error) {
	data, shape, err := v.tensor("generate/compressed/memory")
	if err != nil {
		return nil, err
	}
	var list []clara.Memory
	size := shape[1] * shape[2]
	for i := range shape[0] {
		list = append(list, clara.Memory{M: shape[1], H: shape[2], Data: data[i*size : (i+1)*size]})
	}
	return list, nil
}

func products(q clara.Memory, docs []clara.Memory) []float64 {
	out := make([]float64, len(docs))
	for i, d := range docs {
		for j, x := range d.Data {
			out[i] += float64(q.Data[j]) * float64(x)
		}
	}
	return out
}
