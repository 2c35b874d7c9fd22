package golden

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/clara-suite/clara/libs/prompt"
	"github.com/clara-suite/clara/services/trainer/torch/internal/model"
	"github.com/clara-suite/clara/services/trainer/torch/internal/net"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

func (v *verifier) generate(ctx context.Context) error {
	return v.open(ctx, func(s scope, o *net.Opened) (err error) {
		torchx.NoGrad(func() { err = v.generations(s, o) })
		return err
	})
}

func (v *verifier) generations(s scope, o *net.Opened) error {
	g := v.g.Generate
	for _, c := range []struct {
		name string
		want *generated
	}{{"paraphrase", g.Paraphrase}, {"paraphrase_three_docs", g.ParaphraseThree}} {
		if c.want == nil {
			continue
		}
		var inputs []prompt.Encoded
		for _, docs := range c.want.Documents {
			e, err := o.Prompts.Paraphrase(c.want.Instruction, len(docs), 1024)
			if err != nil {
				return err
			}
			inputs = append(inputs, e)
		}
		if len(inputs) == 0 {
			v.r.skip("generate."+c.name, "the folder does not hold its documents")
			continue
		}
		v.generation(s, o, c.name, inputs, v.memories(s, o, c.want.Documents), c.want, o.EOS())
	}
	for _, c := range []struct {
		name string
		want *generated
	}{{"text", g.Text}, {"text_extra_eos", g.TextExtraEOS}, {"compressed", g.Compressed}} {
		if c.want == nil {
			continue
		}
		if g.Text == nil || len(g.Text.Questions) == 0 || len(g.Text.Questions) != len(g.Text.Documents) {
			v.r.skip("generate."+c.name, "its inputs are those of generate.text, which the folder does not hold")
			continue
		}
		docs, eos := g.Text.Documents, o.EOS()
		if c.want.EOS != nil {
			eos = c.want.EOS
		}
		inputs, err := answers(o, g.Text.Questions, len(docs[0]))
		if err != nil {
			return err
		}
		memory := v.memories(s, o, docs)
		if c.name == "compressed" {
			given := v.tensor("generate/compressed/memory")
			if given == nil {
				v.r.skip("generate.compressed", "the folder does not hold its memories")
				continue
			}
			v.r.maxAbs("generate/compressed/memory", memory.Float32s(), given, 1e-4)
			memory = s.Floats(given, o.Device, int64(len(given)/o.Arch.Hidden), int64(o.Arch.Hidden))
			var all [][]int32
			for _, row := range docs {
				for _, d := range row {
					all = append(all, o.Prompts.Encoder(d, o.Settings.DocMaxLength))
				}
			}
			mse := o.Compress(s, all, model.Pass{Adapter: o.Encoder}, true).MSE.Float() / float64(len(all))
			v.r.relative("generate.compressed.mse_loss", mse, c.want.MSE, 1e-5)
		}
		v.generation(s, o, c.name, inputs, memory, c.want, eos)
	}
	if err := v.questions(s, o, "questions", g.Questions, false); err != nil {
		return err
	}
	return v.questions(s, o, "questions_mips", g.MIPS, true)
}

func answers(o *net.Opened, questions []string, k int) ([]prompt.Encoded, error) {
	var inputs []prompt.Encoded
	for _, q := range questions {
		e, err := o.Prompts.Answer(q, k, 1024)
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, e)
	}
	return inputs, nil
}

// memories compresses rows of documents: [all * m, H].
func (v *verifier) memories(s scope, o *net.Opened, docs [][]string) tensor {
	var in [][]int32
	for _, row := range docs {
		for _, d := range row {
			in = append(in, o.Prompts.Encoder(d, o.Settings.DocMaxLength))
		}
	}
	return o.Compress(s, in, model.Pass{Adapter: o.Encoder}, false).Memory
}

// generation compares greedy decoding. The figures fill a row with pad after its end, and hold the end token.
func (v *verifier) generation(s scope, o *net.Opened, name string, inputs []prompt.Encoded, memory tensor, want *generated, eos []int) []model.Generation {
	out := o.Net.Generate(s, inputs, memory, want.Steps, eos)
	at := "generate." + name + "."
	var first []float32
	margin := math.Inf(1)
	for i, got := range out {
		var ids []int64
		if i < len(want.IDs) {
			ids = want.IDs[i]
		}
		if end := slices.IndexFunc(ids, func(id int64) bool { return slices.Contains(eos, int(id)) }); end >= 0 {
			ids = ids[:end]
		}
		v.r.exact(fmt.Sprintf("%sids[%d]", at, i), append([]int64{}, got.IDs...), append([]int64{}, ids...))
		said := narrow(got.IDs)
		if got.End >= 0 { // the figures' texts are of all ids, an end token that is not special included
			said = append(said, int32(got.End))
		}
		if i < len(want.Text) {
			v.r.exact(fmt.Sprintf("%stext[%d]", at, i), o.Prompts.Tokenizer().Decode(said, true), want.Text[i])
		}
		if i < len(want.Lengths) {
			v.r.exact(fmt.Sprintf("%sprompt_lengths[%d]", at, i), len(inputs[i].IDs), want.Lengths[i])
		}
		first = append(first, got.First...)
		margin = math.Min(margin, got.Margin)
	}
	if key := "generate/" + name + "/first_step_logits"; v.f.Has(key) { // a question alone has none: the batch has them
		v.compare(key, first, 2e-4)
	}
	// Rows that ended are stepped on with padding in the reference, so its margin may come from a step that is not taken here.
	v.r.within(at+"min_margin", "by how much ours is smaller", math.Max(0, want.Margin-margin), 4e-4)
	return out
}

func narrow(ids []int64) []int32 {
	out := make([]int32, len(ids))
	for i, id := range ids {
		out[i] = int32(id)
	}
	return out
}

// questions compares the way from questions and candidates to answers. With inner, candidates are scored by inner product,
// as the reference does with an index.
func (v *verifier) questions(s scope, o *net.Opened, name string, want *generated, inner bool) error {
	if want == nil {
		return nil
	}
	docs := want.Documents
	if docs == nil && v.g.Generate.Questions != nil {
		docs = v.g.Generate.Questions.Documents
	}
	if len(want.Questions) == 0 || len(docs) != len(want.Questions) {
		v.r.skip("generate."+name, "the folder does not hold its questions and documents")
		return nil
	}
	k := v.k
	if len(want.TopK) > 0 {
		k = len(want.TopK[0])
	} else {
		v.r.skip("generate."+name+".topk_idx", "the folder does not hold it")
	}
	inputs, err := answers(o, want.Questions, k)
	if err != nil {
		return err
	}
	var queries [][]int32
	for _, q := range want.Questions {
		queries = append(queries, o.Prompts.Encoder(q, o.Settings.DocMaxLength))
	}
	all, at := v.memories(s, o, docs), int64(0)
	var d []tensor
	for _, row := range docs {
		n := int64(len(row))
		d = append(d, s.Reshape(s.Narrow(all, 0, at*int64(o.M), n*int64(o.M)), n, -1))
		at += n
	}
	ranked, err := o.Rank(s, queries, d, k, model.Pass{Adapter: o.Reasoner})
	if err != nil {
		return err
	}
	var slots []tensor
	for i := range ranked {
		index := ranked[i].Index
		if inner {
			index = byProduct(s.Reshape(s.MatMul(d[i], s.Transpose(ranked[i].Query, 0, 1)), -1).Float32s(), k)
		}
		if i < len(want.TopK) {
			v.r.exact(fmt.Sprintf("generate.%s.topk_idx[%d]", name, i), index, want.TopK[i])
		}
		rows := make([]int64, k)
		for j, x := range index {
			rows[j] = int64(x)
		}
		slots = append(slots, s.Reshape(s.Rows(d[i], s.Ints(rows, o.Device)), -1, int64(o.Arch.Hidden)))
	}
	v.generation(s, o, name, inputs, s.Cat(0, slots...), want, o.EOS())
	if inner {
		return nil
	}
	for i, one := range v.g.Generate.OneByOne[:min(len(v.g.Generate.OneByOne), len(ranked))] {
		v.r.exact(fmt.Sprintf("generate.questions_one_by_one[%d].topk_idx", i), ranked[i].Index, one.TopK)
		v.generation(s, o, fmt.Sprintf("questions_one_by_one[%d]", i), inputs[i:i+1], slots[i],
			&generated{Text: []string{one.Text}, IDs: [][]int64{one.IDs}, Margin: one.Margin, Steps: want.Steps}, o.EOS())
	}
	return nil
}

func byProduct(scores []float32, k int) []int {
	index := make([]int, len(scores))
	for i := range index {
		index[i] = i
	}
	sort.SliceStable(index, func(a, b int) bool { return scores[index[a]] > scores[index[b]] })
	return index[:k]
}
