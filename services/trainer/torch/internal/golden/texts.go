package golden

import (
	"context"
	"fmt"
	"strings"

	"github.com/clara-suite/clara/libs/dataset"
	"github.com/clara-suite/clara/libs/prompt"
	"github.com/clara-suite/clara/services/trainer/torch/internal/net"
)

// texts compares everything that is token ids.
func (v *verifier) texts(ctx context.Context) error {
	return v.open(ctx, func(_ scope, o *net.Opened) error {
		v.tokenizer(o)
		limit := o.Settings.DocMaxLength
		for i, d := range v.g.Documents {
			v.r.exact(fmt.Sprintf("documents[%d].input_ids", i), o.Prompts.Encoder(d.Text, limit), d.unpadded())
		}
		for i, q := range v.g.Questions {
			v.r.exact(fmt.Sprintf("questions_inference[%d].input_ids", i), o.Prompts.Encoder(q.Text, limit), q.unpadded())
		}
		v.r.skip("documents[], questions_inference[]: padding", "sequences are packed, never padded; their real tokens are compared")
		p := v.g.Prompts
		v.prompts("stage1", p.Stage1, v.samples[pretrainFile], o.Prompts)
		v.prompts("stage1_2", p.Stage12, v.samples[instructionFile], o.Prompts)
		v.prompts("stage2", p.Stage2, v.samples[endToEndFile], o.Prompts)
		tok := o.Prompts.Tokenizer()
		for _, x := range p.ParaphraseAll {
			name := fmt.Sprintf("prompts.paraphrase_all[%d]", x.Index)
			e, err := o.Prompts.Paraphrase(x.Index, 1, 0)
			if err != nil {
				return err
			}
			v.r.exact(name+".prompt", e.IDs, tok.EncodeTrusted(x.Prompt))
			v.r.exact(name+".prompt_len", e.PromptLen, x.PromptLen)
			if e, err = o.Prompts.TrainParaphrase(name, x.Index, "An answer.", 1, 0); err != nil {
				return err
			}
			v.r.exact(name+".with_answer", e.IDs, tok.EncodeTrusted(x.WithAnswer))
		}
		k := p.Stage12.TopK
		if k == 0 {
			k = v.k
		}
		for i, x := range p.Inference {
			e, err := o.Prompts.Answer(x.Question, k, 1024)
			if err != nil {
				return err
			}
			v.r.exact(fmt.Sprintf("prompts.inference_stage1_2[%d].input_ids", i), e.IDs, x.InputIDs)
			v.r.exact(fmt.Sprintf("prompts.inference_stage1_2[%d].prompt", i), e.IDs, tok.EncodeTrusted(x.Prompt))
		}
		if !v.r.lacks("prompts.template_without_system_role.chat_template") {
			if err := v.noSystem(o); err != nil {
				return err
			}
		}
		info := v.g.Extras.Information
		v.r.exact("extras.information_mask.open_pattern", tok.EncodeTrusted("<information>"), info.Open)
		v.r.exact("extras.information_mask.close_pattern", tok.EncodeTrusted("</information>"), info.Close)
		for i, c := range info.Cases {
			name := fmt.Sprintf("extras.information_mask.cases[%d]", i)
			v.r.exact(name+".ids", tok.EncodeTrusted(c.Text), c.IDs)
			labels := append([]int32{}, c.IDs...)
			o.Prompts.MaskInformationIDs(c.IDs, labels)
			v.r.exact(name+".labels", labels, c.Labels)
		}
		return nil
	})
}

func (v *verifier) tokenizer(o *net.Opened) {
	tok, want := o.Prompts.Tokenizer(), v.g.Tokenizer.Special
	for _, c := range []struct {
		name      string
		got, want any
	}{
		{"bos", tok.BOSName, want.BOS}, {"eos", tok.EOSName, want.EOS},
		{"bos_id", tok.BOSID, want.BOSID}, {"eos_id", tok.EOSID, want.EOSID}, {"pad_id", tok.PadID, want.PadID},
		{"enc_id", tok.Enc, want.EncID}, {"ae_id", tok.AE, want.AEID}, {"sep_id", tok.Sep, want.SepID},
		{"mem_ids", tok.Mem, want.MemIDs}, {"length", tok.Len(), want.Length}, {"pad", tok.Name(tok.PadID), want.Pad},
		{"generation_eos", o.EOS(), numbers(want.Generation)},
	} {
		v.r.exact("tokenizer.special."+c.name, c.got, c.want)
	}
	for i, c := range v.g.Tokenizer.Cases {
		name := fmt.Sprintf("tokenizer.cases[%d]", i)
		ids := tok.EncodeTrusted(c.Text)
		v.r.exact(name+".ids", append([]int32{}, ids...), c.IDs)
		v.r.exact(name+".ids_with_special", append([]int32{}, tok.AddSpecials(ids)...), c.WithSpecial)
		v.r.exact(name+".decoded", tok.Decode(ids, false), c.Decoded)
		v.r.exact(name+".decoded_skip_special", tok.Decode(ids, true), c.DecodedSkipSpecial)
	}
}

// numbers reads an id or a list of them.
func numbers(x any) []int {
	switch x := x.(type) {
	case float64:
		return []int{int(x)}
	case []any:
		var out []int
		for _, e := range x {
			out = append(out, numbers(e)...)
		}
		return out
	}
	return nil
}

// encode is the decoder input of a training sample.
func encode(w *prompt.Writer, kind string, s dataset.Sample, c promptCases) (prompt.Encoded, error) {
	name := fmt.Sprintf("%s:%d", s.File, s.Line)
	switch {
	case kind == "stage1" && s.DataType == dataset.Paraphrase:
		return w.TrainParaphrase(name, c.Instruction, s.Answer(), c.TopK, c.MaxLen)
	case kind == "stage1":
		return w.TrainQA(name, s.Questions, s.Answers, c.TopK, c.MaxLen)
	}
	return w.TrainAnswer(name, s.Question(), s.Answer(), c.TopK, c.MaxLen)
}

func (v *verifier) prompts(kind string, c promptCases, samples []dataset.Sample, w *prompt.Writer) {
	if why := v.computable("", kind); why != "" && len(c.Samples) > 0 {
		v.r.skip("prompts."+kind+".samples", why)
		return
	}
	for i, want := range c.Samples {
		name := fmt.Sprintf("prompts.%s.samples[%d]", kind, i)
		if i >= len(samples) {
			v.r.fail(name, fmt.Errorf("the data has %d samples that can be read", len(samples)))
			continue
		}
		e, err := encode(w, kind, samples[i], c)
		if err != nil {
			v.r.fail(name, err)
			continue
		}
		v.r.exact(name+".input_ids", e.IDs, want.InputIDs)
		v.r.exact(name+".labels", e.Labels, want.Labels)
		v.r.exact(name+".prompt_len", e.PromptLen, want.PromptLen)
		v.r.exact(name+".n_targets", e.Targets, want.Targets)
		v.r.exact(name+".truncated", e.Cut, want.Truncated)
		full := w.Tokenizer().EncodeTrusted(want.Text)
		v.r.exact(name+".text", e.IDs, full[:min(len(full), c.MaxLen)])
	}
}

// noSystem compares the fall-back for templates that refuse a system role. The figures have the plain text <DOCS> where slots go.
func (v *verifier) noSystem(o *net.Opened) error {
	c := v.g.Prompts.NoSystem
	tmpl, err := prompt.NewTemplate(c.Template, nil)
	if err != nil {
		return err
	}
	tok := o.Prompts.Tokenizer()
	w := prompt.New(tok, tmpl)
	slots := func(s string) string { return strings.Replace(s, "<DOCS>", tok.SlotText(), 1) }
	for _, x := range []struct {
		name string
		want renderedCase
		got  func() (prompt.Encoded, error)
	}{
		{"standard", c.Standard, func() (prompt.Encoded, error) { return w.TrainAnswer("", "A question?", "An answer.", 1, 0) }},
		{"qa", c.QA, func() (prompt.Encoded, error) { return w.TrainQA("", []string{"q1", "q2"}, []string{"a1", "a2"}, 1, 0) }},
		{"paraphrase", c.Paraphrase, func() (prompt.Encoded, error) {
			return w.TrainParaphrase("", c.Paraphrase.Instruction, "para", 1, 0)
		}},
	} {
		name := "prompts.template_without_system_role." + x.name
		e, err := x.got()
		if err != nil {
			return err
		}
		v.r.exact(name+".text", e.IDs, tok.EncodeTrusted(slots(x.want.Text)))
		// The reference counted a prompt with <DOCS> in it: its text is what stands before the answer.
		head, _, _ := strings.Cut(x.want.Text, "<start_of_turn>model\n")
		head += "<start_of_turn>model\n"
		v.r.exact(name+".prompt_len", len(tok.EncodeTrusted(head)), x.want.PromptLen)
		v.r.exact(name+".prompt_len with slots", e.PromptLen, len(tok.EncodeTrusted(slots(head))))
	}
	return nil
}
