package prompt

import (
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tokenizer"
)

// Masked is the label of a token that is no target.
const Masked int32 = -100

// Slot is where the memory vectors of one document go: the ids at [Start, Start+Len) are its memory tokens.
type Slot struct{ Start, Len int }

// Encoded is a decoder input.
type Encoded struct {
	IDs   []int32 // [T]
	Slots []Slot  // in the order of the documents
	// PromptLen is the number of ids of the prompt with the generation prompt; the rest are the answer's.
	PromptLen int
	// Labels, [T], are nil in a prompt for inference.
	Labels []int32
	// Targets is the number of labels that are not Masked. A training sample with none was cut before its
	// answer or has an empty one: it is to be skipped and counted.
	Targets int
	// Cut is set if ids were cut away on the right.
	Cut bool
}

// Instructions of spec clara-model §4. They are part of the model: a checkpoint was trained on them.
const (
	SystemQA         = "You are a helpful assistant. Given a document, your task is to generate some single questions to cover all key information of the document and answer them sequentially."
	SystemParaphrase = "You are a helpful assistant. Your task is follow the instructions to paraphrase the background information."
	SystemAnswer     = "You are a helpful assistant. Your task is to extract relevant information from provided documents and to answer to questions as briefly as possible."
)

// paraphrase are the 13 paraphrase instructions; {docs} is the place of the document.
var paraphrase = [...]string{
	"Background: {docs} means the same as",
	"Background: {docs} Can you put the above sentences in your own terms?",
	"Background: {docs} Please provide a reinterpretation of the preceding background text.",
	"These two expressions are equivalent in essence:\n(1) {docs}\n(2)",
	"Background: {docs} is a paraphrase of what?",
	"Background: {docs} Could you give me a different version of the background sentences above?",
	"In other words, background: {docs} is just another way of saying:",
	"You're getting across the same point whether you say background: {docs} or",
	"Background: {docs} After unpacking the ideas in the background information above, we got:",
	"Background: {docs} Please offer a restatement of the background sentences I've just read.",
	"Background: {docs}, which also means:",
	"Strip away the mystery, and you'll find background: {docs} is simply another rendition of:",
	"The essence of background: {docs} is captured again in the following statement:",
}

// ParaphraseInstructions is the number of paraphrase instructions.
const ParaphraseInstructions = len(paraphrase)

// DrawParaphrase returns the index of the paraphrase instruction of sample n of a run with this seed: the same
// for the same two numbers, evenly spread.
func DrawParaphrase(seed, n uint64) int {
	return rand.New(rand.NewPCG(seed, n)).IntN(ParaphraseInstructions)
}

// Writer writes a model's inputs. It is safe for concurrent use.
type Writer struct {
	tok  *tokenizer.Clara
	tmpl *Template
	slot string
}

// New joins a tokenizer and a template.
func New(tok *tokenizer.Clara, tmpl *Template) *Writer {
	return &Writer{tok, tmpl, tok.SlotText()}
}

// Tokenizer returns the writer's tokenizer.
func (w *Writer) Tokenizer() *tokenizer.Clara { return w.tok }

// Encoder returns the encoder input of a document or a question (spec §3): `<ENC>`, bos, the text, eos, cut on the
// right to limit+3 tokens, then the m memory tokens. limit is `doc_max_length`, or `max_len` for a question in training.
// The memory vectors are at the last m positions.
func (w *Writer) Encoder(text string, limit int) []int32 {
	// Texts have fewer tokens than bytes, nearly always; limit may be far above both.
	ids := make([]int32, 0, max(min(limit, len(text)), 0)+3+len(w.tok.Mem))
	// The whole is one text to the tokenizer, so that a prefix mark goes where it went in training.
	lead := w.tok.Name(w.tok.Enc) + w.tok.BOSName
	breaks := w.tok.Breaks(strings.ToValidUTF8(text, "\uFFFD"))
	for i := range breaks {
		breaks[i] += len(lead)
	}
	ids = append(ids, w.tok.EncodeMixed(lead+strings.ToValidUTF8(text, "\uFFFD")+w.tok.EOSName, breaks)...)
	return append(ids[:min(len(ids), max(limit, 0)+3)], w.tok.Mem...)
}

// EncoderPositions returns the number of tokens of a text in the encoder before it is cut, less the three around it.
// A text fits if it is not above `doc_max_length`.
func (w *Writer) EncoderPositions(text string) int {
	return len(w.Encoder(text, 1<<30)) - 3 - len(w.tok.Mem)
}

// Answer is the prompt of stages 2 and 3 with k document slots. It is cut to maxLen ids on the right, 0 for not at all.
func (w *Writer) Answer(question string, k, maxLen int) (Encoded, error) {
	return w.prompt("question "+quote(question), answerMessages(Trusted(w.slots(k)), question), k, maxLen)
}

// AnswerText is the same prompt with passages as text in the place of the slots, for the base model without adapters.
// Passages are joined by newlines.
func (w *Writer) AnswerText(question string, passages []string, maxLen int) (Encoded, error) {
	return w.prompt("question "+quote(question), answerMessages(Plain(strings.Join(passages, "\n")), question), 0, maxLen)
}

// AnswerMixed is the same prompt with k document slots, then passages as text.
func (w *Writer) AnswerMixed(question string, k int, passages []string, maxLen int) (Encoded, error) {
	m := answerMessages(Trusted(w.slots(k)), question)
	if len(passages) > 0 {
		user := m[1].Content
		m[1].Content = slices.Insert(user, 2, Trusted("\n"), Plain(strings.Join(passages, "\n")))
	}
	return w.prompt("question "+quote(question), m, k, maxLen)
}

// Paraphrase is the stage-1 prompt with paraphrase instruction number instruction and k document slots.
func (w *Writer) Paraphrase(instruction, k, maxLen int) (Encoded, error) {
	m, err := w.paraphraseMessages(instruction, k)
	if err != nil {
		return Encoded{}, err
	}
	return w.prompt("paraphrase", m, k, maxLen)
}

// Chat is the prompt of a conversation that is not about documents: every text is plain.
func (w *Writer) Chat(messages []Message, maxLen int) (Encoded, error) {
	return w.prompt("conversation", messages, 0, maxLen)
}

// TrainQA is a stage-1 sample: k document slots (1), and every question with its answer as the target.
// name names the sample in errors.
func (w *Writer) TrainQA(name string, questions, answers []string, k, maxLen int) (Encoded, error) {
	if len(questions) != len(answers) {
		return Encoded{}, clara.Errorf(clara.Invalid, "encode sample %s: %d questions, %d answers", name, len(questions), len(answers))
	}
	var target []Part
	for i := range questions {
		sep := ""
		if i > 0 {
			sep = "\n"
		}
		target = append(target, Trusted(sep+"Question: "), Plain(questions[i]), Trusted("\nAnswer: "), Plain(answers[i]))
	}
	m := []Message{{"system", []Part{Trusted(SystemQA)}}, {"user", []Part{Trusted("Background:\n" + w.slots(k))}}}
	return w.train(name, m, target, k, maxLen)
}

// TrainParaphrase is a stage-1 sample with paraphrase instruction number instruction.
func (w *Writer) TrainParaphrase(name string, instruction int, answer string, k, maxLen int) (Encoded, error) {
	m, err := w.paraphraseMessages(instruction, k)
	if err != nil {
		return Encoded{}, err
	}
	return w.train(name, m, []Part{Plain(answer)}, k, maxLen)
}

// TrainAnswer is a sample of stages 2 and 3.
func (w *Writer) TrainAnswer(name, question, answer string, k, maxLen int) (Encoded, error) {
	return w.train(name, answerMessages(Trusted(w.slots(k)), question), []Part{Plain(answer)}, k, maxLen)
}

// reasoningTag are the tags of a reasoning answer. They are structure, not text: where the tokenizer has an added
// token for one (Qwen has `<think>`) it is used.
var reasoningTag = regexp.MustCompile(`</?(?:think|search|information|answer)>`)

// TrainReasoning is a sample of the reasoning stage: the answer holds `<think>`, `<search>`, `<information>` and
// `<answer>` spans, and what stands in `<information>` spans, their tags included, is no target: a search writes it,
// not the model. A span that is never closed reaches to the end.
func (w *Writer) TrainReasoning(name, question, answer string, k, maxLen int) (Encoded, error) {
	var target []Part
	at := 0
	for _, tag := range reasoningTag.FindAllStringIndex(answer, -1) {
		target = append(target, Plain(answer[at:tag[0]]), Trusted(answer[tag[0]:tag[1]]))
		at = tag[1]
	}
	target = append(target, Plain(answer[at:]))
	m := answerMessages(Trusted(w.slots(k)), question)
	e, r, err := w.trainRendered(name, m, target, k, maxLen)
	if err != nil {
		return Encoded{}, err
	}
	maskInformation(&e, r, w.tok)
	return e, nil
}

// maskInformation masks every token that has a byte of an `<information>` span of the answer.
func maskInformation(e *Encoded, r Rendered, tok *tokenizer.Clara) {
	const open, closing = "<information>", "</information>"
	tokens := tok.EncodeMixedOffsets(r.Text, r.Breaks)
	from := len(r.Text)
	if e.PromptLen < len(tokens) {
		from = tokens[e.PromptLen].Start
	}
	for {
		k := strings.Index(r.Text[from:], open)
		if k < 0 {
			break
		}
		start, end := from+k, len(r.Text)
		if k := strings.Index(r.Text[start:], closing); k >= 0 {
			end = start + k + len(closing)
		}
		for i := e.PromptLen; i < len(e.Labels); i++ {
			if t := tokens[i]; t.Start < end && t.End > start {
				e.Labels[i] = Masked
			}
		}
		from = end
	}
	e.Targets = countTargets(e.Labels)
}

// MaskInformationIDs masks the labels of `<information>` spans found by their ids alone, tags included, as the
// reference's figures do: a tag that is tokenized otherwise amid a word is not found, and a span whose end is not
// found reaches to the end of labels. TrainReasoning goes by the text instead and has no such gaps.
func (w *Writer) MaskInformationIDs(ids, labels []int32) {
	open, closing := w.tok.EncodeTrusted("<information>"), w.tok.EncodeTrusted("</information>")
	for i := 0; i < len(ids); {
		k := indexOf(ids[i:], open)
		if k < 0 {
			return
		}
		start, end := i+k, len(ids)
		if k := indexOf(ids[start+len(open):], closing); k >= 0 {
			end = start + len(open) + k + len(closing)
		}
		for j := start; j < end; j++ {
			labels[j] = Masked
		}
		i = end
	}
}

func indexOf(ids, pattern []int32) int {
	for i := 0; i+len(pattern) <= len(ids); i++ {
		if slices.Equal(ids[i:i+len(pattern)], pattern) {
			return i
		}
	}
	return -1
}

func (w *Writer) slots(k int) string { return strings.Repeat(w.slot, max(k, 0)) }

func answerMessages(docs Part, question string) []Message {
	return []Message{
		{"system", []Part{Trusted(SystemAnswer)}},
		{"user", []Part{Trusted("Background:\n"), docs, Trusted("\n\nQuestion:"), Plain(question)}},
	}
}

func (w *Writer) paraphraseMessages(instruction, k int) ([]Message, error) {
	if instruction < 0 || instruction >= ParaphraseInstructions {
		return nil, clara.Errorf(clara.Invalid, "write paraphrase prompt: instruction %d of %d", instruction, ParaphraseInstructions)
	}
	text := strings.Replace(paraphrase[instruction], "{docs}", w.slots(k), 1)
	return []Message{{"system", []Part{Trusted(SystemParaphrase)}}, {"user", []Part{Trusted(text)}}}, nil
}

func (w *Writer) vars(generate bool) Vars {
	return Vars{BOS: w.tok.BOSName, EOS: w.tok.EOSName, AddGenerationPrompt: generate}
}

// prompt renders and tokenizes messages with the generation prompt.
func (w *Writer) prompt(name string, messages []Message, k, maxLen int) (Encoded, error) {
	r, err := w.tmpl.Render(messages, w.vars(true), w.tok)
	if err != nil {
		return Encoded{}, err
	}
	e := Encoded{IDs: w.tok.EncodeMixed(r.Text, r.Breaks)}
	if e.Slots, err = w.find(name, e.IDs, k); err != nil {
		return Encoded{}, err
	}
	e.PromptLen = len(e.IDs)
	return e, w.cut(name, &e, maxLen)
}

func (w *Writer) train(name string, messages []Message, target []Part, k, maxLen int) (Encoded, error) {
	e, _, err := w.trainRendered(name, messages, target, k, maxLen)
	return e, err
}

// trainRendered tokenizes the conversation with its answer; the length of the prompt is that of the prompt alone.
func (w *Writer) trainRendered(name string, messages []Message, target []Part, k, maxLen int) (Encoded, Rendered, error) {
	asked, err := w.tmpl.Render(messages, w.vars(true), w.tok)
	if err != nil {
		return Encoded{}, Rendered{}, err
	}
	r, err := w.tmpl.Render(append(messages, Message{"assistant", target}), w.vars(false), w.tok)
	if err != nil {
		return Encoded{}, Rendered{}, err
	}
	r = answered(asked, r)
	e := Encoded{IDs: w.tok.EncodeMixed(r.Text, r.Breaks)}
	if e.Slots, err = w.find(name, e.IDs, k); err != nil {
		return Encoded{}, Rendered{}, err
	}
	e.PromptLen = min(len(w.tok.EncodeMixed(asked.Text, asked.Breaks)), len(e.IDs))
	if err := w.cut(name, &e, maxLen); err != nil {
		return Encoded{}, Rendered{}, err
	}
	e.Labels = slices.Clone(e.IDs)
	for i := range e.PromptLen {
		e.Labels[i] = Masked
	}
	e.Targets = countTargets(e.Labels)
	return e, r, nil
}

// answered returns the whole conversation. Some templates write a prompt otherwise once an answer follows (Mistral
// v0.3 gives the system text only to the last message): then it is the prompt as it will be asked, and from the
// whole conversation what comes after it.
func answered(asked, whole Rendered) Rendered {
	if strings.HasPrefix(whole.Text, asked.Text) {
		return whole
	}
	const least, most = 6, 400 // bytes of the prompt's end that say where it is
	for n := min(len(asked.Text), most); n >= least; n-- {
		k := strings.LastIndex(whole.Text, asked.Text[len(asked.Text)-n:])
		if k < 0 {
			continue
		}
		k += n
		out := Rendered{Text: asked.Text + whole.Text[k:], Breaks: slices.Clone(asked.Breaks)}
		for _, b := range whole.Breaks {
			if b >= k {
				out.Breaks = append(out.Breaks, b-k+len(asked.Text))
			}
		}
		return out
	}
	return whole
}

func countTargets(labels []int32) int {
	n := 0
	for _, l := range labels {
		if l != Masked {
			n++
		}
	}
	return n
}

// find returns the k document slots. Plain text cannot hold a memory token, so all that there are are slots.
func (w *Writer) find(name string, ids []int32, k int) ([]Slot, error) {
	m := len(w.tok.Mem)
	var slots []Slot
	for i := 0; i+m < len(ids); i++ {
		if ids[i] == w.tok.Mem[0] && slices.Equal(ids[i:i+m], w.tok.Mem) && ids[i+m] == w.tok.Sep {
			slots = append(slots, Slot{i, m})
			i += m
		}
	}
	if len(slots) != k {
		return nil, clara.Errorf(clara.Invalid, "encode %s: the chat template left %d of %d document slots", name, len(slots), k)
	}
	return slots, nil
}

// cut cuts e to maxLen ids; a slot that would be cut is an error.
func (w *Writer) cut(name string, e *Encoded, maxLen int) error {
	if maxLen <= 0 || len(e.IDs) <= maxLen {
		return nil
	}
	if n := len(e.Slots); n > 0 {
		// `<SEP>` belongs to the slot.
		if end := e.Slots[n-1].Start + e.Slots[n-1].Len + 1; end > maxLen {
			return clara.Errorf(clara.Invalid, "encode %s: its %d document slots reach to token %d, beyond the limit of %d: use fewer documents or a larger max_len", name, n, end, maxLen)
		}
	}
	e.IDs, e.Cut = e.IDs[:maxLen], true
	e.PromptLen = min(e.PromptLen, maxLen)
	return nil
}

// quote shortens a text for an error.
func quote(s string) string {
	const most = 40
	runes := []rune(s)
	if len(runes) > most {
		return `"` + string(runes[:most]) + `..."`
	}
	return `"` + s + `"`
}
