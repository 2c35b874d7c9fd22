package checkpoint

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/libs/torchpickle"
)

// Files of a checkpoint folder.
const (
	AdaptersFile  = "adapters.pth"
	FirstLastFile = "decoder_first_last_layers.pth"
	ConfigFile    = "config.json"
)

// Names of the adapters (spec clara-model §1).
const (
	Encoder       = "encoder_adapter"
	Decoder       = "decoder_adapter"
	QueryReasoner = "query_reasoner_adapter"
)

// Adapter is the LoRA weights of one role.
type Adapter struct {
	Name string
	Rank int // r
	// Tensors holds A [r, In] and B [Out, r] by the reference's keys.
	Tensors map[string]tensor.View
}

// Scale returns alpha / r, which is 2 for every CLaRa checkpoint: alpha = 2r.
func (a Adapter) Scale() float64 { return 2 }

// AKey and BKey return the keys of a linear's two matrices; linear is a name of
// arch.Model.Linears.
func AKey(layer int, linear string) string { return arch.LayerName(layer, linear+".lora_A.weight") }

// BKey is AKey for B.
func BKey(layer int, linear string) string { return arch.LayerName(layer, linear+".lora_B.weight") }

// Checkpoint is a checkpoint folder in memory.
type Checkpoint struct {
	Dir      string
	Config   Config
	Adapters map[string]Adapter
	// Embedding is the resized table [V', H]; Head, if not nil, the resized head. Complete fills them in where the folder holds
	// the rows of the added tokens only.
	Embedding tensor.View
	Head      *tensor.View

	added map[string]tensor.View // by the table's name
}

// Open reads a checkpoint folder. It does not need the base: see Complete and Validate.
func Open(dir string) (*Checkpoint, error) {
	raw, err := os.ReadFile(filepath.Join(dir, ConfigFile))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, clara.Errorf(clara.NotFound, "open checkpoint %s: %s is missing", dir, ConfigFile)
		}
		return nil, clara.Errorf(clara.Invalid, "open checkpoint: %w", err)
	}
	c := &Checkpoint{Dir: dir, Adapters: map[string]Adapter{}}
	if c.Config, err = ParseConfig(raw); err != nil {
		return nil, clara.Errorf(clara.KindOf(err), "open checkpoint %s: %w", dir, err)
	}
	adapters, err := torchpickle.Load(filepath.Join(dir, AdaptersFile))
	if err != nil {
		return nil, err
	}
	for _, name := range adapters.Keys() {
		d, ok := adapters.Dict(name)
		if !ok {
			return nil, clara.Errorf(clara.Corrupt, "open checkpoint %s: %q in %s is not an adapter", dir, name, AdaptersFile)
		}
		a, err := readAdapter(name, d)
		if err != nil {
			return nil, clara.Errorf(clara.KindOf(err), "open checkpoint %s: %w", dir, err)
		}
		c.Adapters[name] = a
	}
	if len(c.Adapters) == 0 {
		return nil, clara.Errorf(clara.NotFound, "open checkpoint %s: %s holds no adapters", dir, AdaptersFile)
	}
	return c, c.openTables()
}

// readAdapter takes the LoRA pairs of a dictionary. Copies of the embedding and
// the head, which stage-1 and stage-2 files hold, are left out.
func readAdapter(name string, d *torchpickle.Dict) (Adapter, error) {
	a := Adapter{Name: name, Tensors: map[string]tensor.View{}}
	for _, raw := range d.Keys() {
		key := strings.TrimPrefix(raw, "base_model.model.")
		key = strings.Replace(key, "."+name+".", ".", 1)
		if key == arch.Embedding || key == arch.Head {
			continue
		}
		v, ok := d.Tensor(raw)
		isA, isB := strings.HasSuffix(key, ".lora_A.weight"), strings.HasSuffix(key, ".lora_B.weight")
		if !ok || !isA && !isB || len(v.Shape) != 2 || !v.DType.IsFloat() {
			return Adapter{}, clara.Errorf(clara.Corrupt, "adapter %s: %q is not a LoRA matrix", name, raw)
		}
		rank := v.Shape[0]
		if isB {
			rank = v.Shape[1]
		}
		if a.Rank == 0 {
			a.Rank = rank
		}
		if rank != a.Rank || rank == 0 {
			return Adapter{}, clara.Errorf(clara.Corrupt, "adapter %s: %s has shape %s in an adapter of rank %d", name, key, v.Shape, a.Rank)
		}
		v.Name = key
		a.Tensors[key] = v
	}
	if a.Rank == 0 {
		return Adapter{}, clara.Errorf(clara.Corrupt, "adapter %s: it holds no LoRA matrices", name)
	}
	return a, nil
}

// Adapter returns an adapter by name. Where the checkpoint has no query
// reasoner, the reasoner is a copy of the encoder (spec clara-model §1). It is
// a NotFound error for any other that is missing.
func (c *Checkpoint) Adapter(name string) (Adapter, error) {
	a, ok := c.Adapters[name]
	if !ok && name == QueryReasoner {
		a, ok = c.Adapters[Encoder]
		a.Name, a.Tensors = QueryReasoner, maps.Clone(a.Tensors)
	}
	if !ok {
		return Adapter{}, clara.Errorf(clara.NotFound, "checkpoint %s: adapter %s is missing; it holds %s", c.Dir, name, strings.Join(slices.Sorted(maps.Keys(c.Adapters)), ", "))
	}
	return a, nil
}

// Validate checks the checkpoint against its base model: encoder and decoder
// are there, every adapter has a pair of the right shapes for every linear and
// none beyond, and embedding and head have H columns and as many rows as the
// extended tokenizer has tokens (tokens = base tokenizer + Config.AddedTokens;
// 0 leaves the rows unchecked). Errors: NotFound for a missing adapter or
// matrix, Invalid for a checkpoint of another base, both by name.
func (c *Checkpoint) Validate(model arch.Model, tokens int) error {
	if err := c.validateTable(arch.Embedding, c.Embedding, model, tokens); err != nil {
		return err
	}
	if c.Head != nil {
		if err := c.validateTable(arch.Head, *c.Head, model, c.Embedding.Shape[0]); err != nil {
			return err
		}
	} else if !model.TieEmbeddings {
		return clara.Errorf(clara.NotFound, "checkpoint %s: %s lacks %s, and the head of base %s is not tied", c.Dir, FirstLastFile, arch.Head, c.Config.DecoderModelName)
	}
	for _, name := range []string{Encoder, Decoder} {
		if _, err := c.Adapter(name); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Adapters)) {
		if err := c.Adapters[name].Validate(model); err != nil {
			return clara.Errorf(clara.KindOf(err), "checkpoint %s, base %s: %w", c.Dir, c.Config.DecoderModelName, err)
		}
		if r := c.Adapters[name].Rank; r != c.Config.LoraR {
			return clara.Errorf(clara.Corrupt, "checkpoint %s: adapter %s has rank %d where config.json has lora_r %d", c.Dir, name, r, c.Config.LoraR)
		}
	}
	return nil
}

func (c *Checkpoint) validateTable(name string, v tensor.View, model arch.Model, rows int) error {
	if len(v.Shape) != 2 || !v.DType.IsFloat() || v.Shape[1] != model.Hidden {
		return clara.Errorf(clara.Invalid, "checkpoint %s: %s is %s %s where base %s has hidden size %d: it was trained on another base", c.Dir, name, v.DType, v.Shape, c.Config.DecoderModelName, model.Hidden)
	}
	if rows != 0 && v.Shape[0] != rows {
		return clara.Errorf(clara.Invalid, "checkpoint %s: %s has %d rows where base tokenizer and %d added tokens (m = %d) make %d: it belongs to another base or compress rate", c.Dir, name, v.Shape[0], c.Config.AddedTokens(), c.Config.M(), rows)
	}
	return nil
}

// Validate checks the adapter's pairs against the linears of a model.
func (a Adapter) Validate(model arch.Model) error {
	wanted := 0
	for layer := range model.Layers {
		for _, l := range model.Linears() {
			for _, w := range []struct {
				key   string
				shape tensor.Shape
			}{{AKey(layer, l.Name), tensor.Shape{a.Rank, l.In}}, {BKey(layer, l.Name), tensor.Shape{l.Out, a.Rank}}} {
				v, ok := a.Tensors[w.key]
				if !ok {
					return clara.Errorf(clara.NotFound, "adapter %s lacks %s %s", a.Name, w.key, w.shape)
				}
				if !v.Shape.Equal(w.shape) {
					return clara.Errorf(clara.Invalid, "adapter %s: %s is %s where the base needs %s: it was trained on another base", a.Name, w.key, v.Shape, w.shape)
				}
				wanted++
			}
		}
	}
	if len(a.Tensors) == wanted {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(a.Tensors)) {
		if !knownKey(key, model) {
			return clara.Errorf(clara.Invalid, "adapter %s holds %s, for which the base has no layer: it was trained on another base", a.Name, key)
		}
	}
	return nil
}

func knownKey(key string, model arch.Model) bool {
	for layer := range model.Layers {
		for _, l := range model.Linears() {
			if key == AKey(layer, l.Name) || key == BKey(layer, l.Name) {
				return true
			}
		}
	}
	return false
}
