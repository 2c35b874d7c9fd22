package answer

import (
	"cmp"
	"sort"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/infer/models"
	"github.com/clara-suite/clara/libs/prompt"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
)

// input is what a prompt is written from.
type input struct {
	question string
	kind     generatorv1.Context // never unspecified
	passages []string            // best first
	memories []clara.Memory      // of the passages, for memory and mixed
	texts    int                 // passages that mixed gives as text too; 0: defaultTexts
}

// adapter reports whether the decoder adapter is on: it is for prompts with memories.
func (in input) adapter() bool {
	return in.kind == generatorv1.Context_CONTEXT_MEMORY || in.kind == generatorv1.Context_CONTEXT_MIXED
}

// write writes the prompt. Passages that do not fit are left out from the last on, whole: kept is how many are
// read. Invalid if not even the question fits.
func write(lease models.Lease, in input, limit int) (p infer.Prompt, kept int, err error) {
	w, C := lease.Prompts(), lease.Options().Context
	n := len(in.passages)
	if in.adapter() {
		n = len(in.memories)
	}
	units := n // what can be left out: passages, and before them the texts of mixed
	if in.kind == generatorv1.Context_CONTEXT_MIXED {
		texts := in.texts
		if texts == 0 {
			texts = defaultTexts
		}
		units += min(texts, len(in.passages))
	}
	try := func(units int) (prompt.Encoded, error) {
		switch in.kind {
		case generatorv1.Context_CONTEXT_MEMORY:
			return w.Answer(in.question, units, 0)
		case generatorv1.Context_CONTEXT_MIXED:
			return w.AnswerMixed(in.question, min(units, n), in.passages[:max(units-n, 0)], 0)
		case generatorv1.Context_CONTEXT_TEXT:
			return w.AnswerText(in.question, in.passages[:units], 0)
		}
		return w.Chat([]prompt.Message{{Role: "user", Content: []prompt.Part{prompt.Plain(in.question)}}}, 0)
	}
	// The answer gets the room it asked for, up to a quarter of the context.
	room := C - min(limit, C/4)
	e, err := try(units)
	if err != nil {
		return p, 0, err
	}
	if len(e.IDs) > room {
		bare, err := try(0)
		if err != nil {
			return p, 0, err
		}
		if len(bare.IDs) >= C {
			return p, 0, clara.Errorf(clara.Invalid, "the question has %d tokens with its instructions; the context of %s holds %d with the answer: ask a shorter one", len(bare.IDs), lease.Name, C)
		}
		// The longest beginning of the list that fits; nothing of it, if the question alone fills the room.
		fit := sort.Search(units, func(i int) bool {
			e, tryErr := try(i + 1)
			err = cmp.Or(err, tryErr)
			return len(e.IDs) > room
		})
		if err != nil {
			return p, 0, err
		}
		units = fit
		if e, err = try(units); err != nil {
			return p, 0, err
		}
	}
	kept = min(units, n)
	if !in.adapter() {
		return infer.Prompt{IDs: e.IDs}, kept, nil
	}
	p, err = infer.Fill(e, in.memories[:kept])
	return p, kept, err
}
