package infer

import (
	"context"

	"github.com/clara-suite/clara/libs/clara"
)

// Texts asks for memories of encoder inputs: <ENC>, bos, text, eos and the m memory tokens, as the
// prompt package makes them (spec clara-model §3).
type Texts struct {
	Role Role // Encoder or Reasoner
	IDs  [][]int32
	// Urgent texts go before those that are indexed: for passages that someone waits for. They are refused as Busy where
	// others would hold them up too long (Options.Slowdown). Questions go before all else in any case.
	Urgent bool
	// MSE asks for the MSE term of each text too, which costs the final norm of all positions.
	MSE bool
}

// Encoded is what comes of Texts, in their order.
type Encoded struct {
	Memories []clara.Memory // [m, H] each, after the final norm
	MSE      []float64      // spec clara-model §3; nil if not asked for
}

// Encode makes memories. It returns when all are made or ctx ends. Errors are those of the package.
func (e *Engine) Encode(ctx context.Context, t Texts) (Encoded, error) {
	if err := e.role(t.Role); err != nil {
		return Encoded{}, err
	}
	m := e.model.memory
	if m == 0 {
		return Encoded{}, clara.Errorf(clara.State, "compress: model %s has no memory tokens: import it with a CLaRa checkpoint", e.pkg.Manifest.Name)
	}
	for i, ids := range t.IDs {
		if len(ids) <= m || len(ids) > e.model.positions {
			return Encoded{}, clara.Errorf(clara.Invalid, "compress: text %d has %d tokens, the model takes %d to %d, memory tokens included", i, len(ids), m+1, e.model.positions)
		}
		if err := e.model.checkIDs(ids); err != nil {
			return Encoded{}, err
		}
	}
	if len(t.IDs) == 0 {
		return Encoded{}, nil
	}
	call := &texts{
		role: t.Role, ids: t.IDs, mse: t.MSE, left: len(t.IDs), done: make(chan struct{}),
		memories: make([]clara.Memory, len(t.IDs)), errors: make([]float64, len(t.IDs)),
	}
	priority := calm
	switch {
	case t.Role == Reasoner:
		priority = question
	case t.Urgent:
		priority = asked
	}
	if err := e.sched.submitTexts(ctx, call, priority); err != nil {
		return Encoded{}, err
	}
	select {
	case <-ctx.Done():
		e.sched.cancelTexts(call)
		return Encoded{}, ctx.Err()
	case <-call.done:
	}
	if call.err != nil {
		return Encoded{}, call.err
	}
	out := Encoded{Memories: call.memories}
	if t.MSE {
		out.MSE = call.errors
	}
	return out, nil
}

// Compress makes memories [m, H] of encoder inputs, in their order: Encode without its options.
func (e *Engine) Compress(ctx context.Context, role Role, ids [][]int32) ([]clara.Memory, error) {
	out, err := e.Encode(ctx, Texts{Role: role, IDs: ids})
	return out.Memories, err
}

// CompressTexts compresses documents with the encoder (spec clara-model §3), in their order. What is
// longer than the manifest's DocMaxLength is cut on the right, as in training: cut texts before (prompt.Writer.EncoderPositions).
func (e *Engine) CompressTexts(ctx context.Context, docs []string) ([]clara.Memory, error) {
	return e.Compress(ctx, Encoder, e.encoderInputs(docs))
}

// EncodeQueries encodes questions with the query reasoner, in their order. The flattened memory is
// the query vector.
func (e *Engine) EncodeQueries(ctx context.Context, questions []string) ([]clara.Memory, error) {
	return e.Compress(ctx, Reasoner, e.encoderInputs(questions))
}

func (e *Engine) encoderInputs(list []string) [][]int32 {
	ids := make([][]int32, len(list))
	for i, s := range list {
		ids[i] = e.pkg.Prompts.Encoder(s, e.pkg.Manifest.DocMaxLength)
	}
	return ids
}
