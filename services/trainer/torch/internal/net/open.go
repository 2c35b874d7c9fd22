package net

import (
	"context"
	"errors"
	"fmt"

	"github.com/clara-suite/clara/libs/checkpoint"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/prompt"
	views "github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/libs/tokenizer"
	"github.com/clara-suite/clara/libs/weights"
	"github.com/clara-suite/clara/services/trainer/torch/internal/model"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

// Config says which model to open, and how.
type Config struct {
	// Base is a Hugging Face folder, a GGUF file or a hub id; empty: the one that Checkpoint names.
	Base string
	// Checkpoint is a CLaRa checkpoint folder; empty: fresh adapters and memory rows.
	Checkpoint string

	// Of a fresh model; with a checkpoint they must be 0 or agree with it.
	DocMaxLength, CompressRate, Rank int

	// FreshDecoder starts the decoder adapter anew, as stage 2 does with a stage-1 checkpoint.
	FreshDecoder bool
	Dropout      float64 // of adapters, in training passes
	DType        torchx.DType
	Device       torchx.Device
	Bits         int // of the frozen base: 0, 8 or 4
	Seed         int64
	MaxLen       int // of decoder inputs, for the tables of positions
	// Shards, where not nil, are the ranks over which the base's blocks are spread.
	Shards *torchx.Group
}

// Described is what the files say of a model, before any of its weights is read. Close it.
type Described struct {
	Source weights.Source
	Writer *prompt.Writer
	// Settings are what the checkpoint's config.json says or, of a fresh model, will say.
	Settings checkpoint.Config
	BasePath string
	Fresh    bool // no checkpoint: memory rows are trained in stage 1
	Memories int  // memory tokens of a document, m

	checkpoint *checkpoint.Checkpoint
}

// Close releases the base's files.
func (d *Described) Close() error { return d.Source.Close() }

// Opened is a model with everything around it. Close it after the scope that owns its tensors.
type Opened struct {
	*Net
	*Described
	Prompts *prompt.Writer // Described's
}

// Describe reads what is known without the base's weights, and checks that base, checkpoint and settings fit together.
// Errors are those of the files: NotFound, Corrupt, Invalid, Unsupported.
func Describe(ctx context.Context, c Config) (d *Described, err error) {
	var ck *checkpoint.Checkpoint
	settings := checkpoint.DefaultConfig()
	if c.Checkpoint != "" {
		if ck, err = checkpoint.Open(c.Checkpoint); err != nil {
			return nil, err
		}
		settings = ck.Config
		if err := agree(settings, c); err != nil {
			return nil, err
		}
	} else {
		settings.DecoderModelName, settings.DocMaxLength, settings.CompressRate, settings.LoraR = c.Base, c.DocMaxLength, c.CompressRate, c.Rank
		settings.Sep, settings.DifferentMemTokens, settings.OptimizeMemTokens = true, true, true
	}
	m, err := checkpoint.MemoryTokens(settings.DocMaxLength, settings.CompressRate)
	if err != nil {
		return nil, err
	}
	path, err := checkpoint.BaseFinder{}.Find(ctx, settings.DecoderModelName, c.Base, c.Checkpoint)
	if err != nil {
		return nil, err
	}
	src, err := weights.Open(path)
	if err != nil {
		return nil, err
	}
	d = &Described{Source: src, Settings: settings, BasePath: path, Fresh: ck == nil, Memories: m, checkpoint: ck}
	if d.Writer, err = writer(path, src, m, settings.DifferentMemTokens); err == nil && ck != nil {
		tokens := d.Writer.Tokenizer().Len()
		if err = ck.Complete(src, tokens); err == nil {
			err = ck.Validate(src.Arch(), tokens)
		}
	}
	if err != nil {
		return nil, errors.Join(err, src.Close())
	}
	return d, nil
}

// Open loads a model into owner. Errors are those of Describe.
func Open(ctx context.Context, owner *torchx.Scope, c Config) (*Opened, error) {
	d, err := Describe(ctx, c)
	if err != nil {
		return nil, err
	}
	o, err := d.Load(owner, c)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return o, nil
}

// Load reads the weights of a described model into owner.
func (d *Described) Load(owner *torchx.Scope, c Config) (*Opened, error) {
	opts := model.Options{DType: c.DType, Device: c.Device, Bits: c.Bits, Vocab: d.Writer.Tokenizer().Len(), Seed: c.Seed, Shards: c.Shards}
	if ck := d.checkpoint; ck != nil {
		opts.Embedding = ck.Embedding
		if ck.Head != nil {
			opts.Head = *ck.Head
		}
	}
	base, err := model.Load(owner, d.Source.Arch(), d.Source, opts)
	if err != nil {
		return nil, err
	}
	base.Reserve(owner, max(c.MaxLen, d.Settings.DocMaxLength)+3+d.Memories+answerRoom)
	o := &Opened{Net: &Net{Model: base, M: d.Memories}, Described: d, Prompts: d.Writer}
	return o, o.adapters(owner, d.checkpoint, c)
}

// answerRoom is how far a generated answer may reach beyond max_len.
const answerRoom = 256

func agree(s checkpoint.Config, c Config) error {
	var faults []error
	if err := s.CheckRate(c.CompressRate); err != nil {
		faults = append(faults, err)
	}
	if c.DocMaxLength != 0 && c.DocMaxLength != s.DocMaxLength {
		faults = append(faults, fmt.Errorf("doc_max_length is %d and the checkpoint %s was made with %d: leave it out", c.DocMaxLength, c.Checkpoint, s.DocMaxLength))
	}
	if c.Rank != 0 && c.Rank != s.LoraR {
		faults = append(faults, fmt.Errorf("lora_rank is %d and the checkpoint %s was made with %d: leave it out", c.Rank, c.Checkpoint, s.LoraR))
	}
	if len(faults) > 0 {
		return clara.Errorf(clara.Invalid, "%w", errors.Join(faults...))
	}
	return nil
}

func (o *Opened) adapters(owner *torchx.Scope, ck *checkpoint.Checkpoint, c Config) error {
	fresh := func(name string, n uint64) *model.Adapter {
		return o.NewAdapter(owner, name, o.Settings.LoraR, c.Dropout, uint64(c.Seed)*8+n)
	}
	if ck == nil {
		o.Encoder, o.Decoder = fresh(model.Encoder, 0), fresh(model.Decoder, 1)
		return nil
	}
	load := func(name string) (*model.Adapter, error) {
		a, err := ck.Adapter(name)
		if err != nil {
			return nil, err
		}
		return o.LoadAdapter(owner, name, c.Dropout, func(key string) (views.View, bool) { v, ok := a.Tensors[key]; return v, ok })
	}
	var err error
	if o.Encoder, err = load(model.Encoder); err != nil {
		return err
	}
	if c.FreshDecoder {
		o.Decoder = fresh(model.Decoder, 1)
	} else if o.Decoder, err = load(model.Decoder); err != nil {
		return err
	}
	// A checkpoint without a reasoner has it start as a copy of the encoder.
	o.Reasoner, err = load(model.Reasoner)
	return err
}

// MemoryIDs are the ids of the distinct memory tokens, ascending.
func (o *Opened) MemoryIDs() []int64 {
	var ids []int64
	for _, id := range o.Writer.Tokenizer().Mem {
		if len(ids) == 0 || ids[len(ids)-1] != int64(id) {
			ids = append(ids, int64(id))
		}
	}
	return ids
}

// EOS are the ids that end a generation: the base's, or its tokenizer's if the base names none.
func (o *Opened) EOS() []int {
	if e := o.Arch.EOS; len(e) > 0 {
		return e
	}
	return []int{int(o.Writer.Tokenizer().EOSID)}
}

// writer opens the base's tokenizer with CLaRa's tokens, and its chat template.
func writer(path string, src weights.Source, m int, different bool) (*prompt.Writer, error) {
	base, err := modelpkg.Tokenizer(src, path) // the one that serving uses
	if err != nil {
		return nil, err
	}
	tok, err := tokenizer.NewClara(base, m, different)
	if err != nil {
		return nil, err
	}
	tmpl, err := prompt.NewTemplate(base.ChatTemplate(), nil)
	if err != nil {
		return nil, err
	}
	return prompt.New(tok, tmpl), nil
}

var _ model.Source = weights.Source(nil)
