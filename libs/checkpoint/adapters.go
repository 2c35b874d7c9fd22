package checkpoint

import (
	"errors"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/safetensors"
	"github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/libs/torchpickle"
)

// AddedRowsFile takes the place of decoder_first_last_layers.pth in a checkpoint made to be sent around (WriteAdapters): it
// holds the rows of the added tokens alone. All others are the base's, which is needed anyway.
const AddedRowsFile = "added_rows.safetensors"

// Base gives the tables of the base model; weights.Source is one.
type Base interface {
	Tensor(name string) (tensor.View, error)
}

// WriteAdapters writes the checkpoint into dir without what the base model has already: the adapters, the rows of the added
// tokens, all as float16, and config.json, in which the base is named by the last part of its path. It is a few MB where Write
// makes hundreds. Call it inside SaveDir. Errors: Invalid for values that float16 cannot hold.
func (c *Checkpoint) WriteAdapters(dir string, model arch.Model) error {
	if err := c.Validate(model, 0); err != nil {
		return err
	}
	small := *c
	small.Config.DecoderModelName = filepath.Base(c.Config.DecoderModelName)
	small.Config.Extra = maps.Clone(c.Config.Extra)
	delete(small.Config.Extra, "compr_base_model_name") // the path once more
	config, err := small.Config.JSON()
	if err != nil {
		return err
	}
	if err := c.writeAdapters(dir, model, half); err != nil {
		return err
	}
	var rows []tensor.View
	for name, table := range c.tables() {
		v, err := half(name, table.Rows(table.Shape[0]-c.Config.AddedTokens(), table.Shape[0]))
		if err != nil {
			return err
		}
		v.Name = name
		rows = append(rows, v)
	}
	if err := safetensors.WriteFile(filepath.Join(dir, AddedRowsFile), nil, rows); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, ConfigFile), config, 0o644); err != nil {
		return clara.Errorf(clara.Unavailable, "write checkpoint: %w", err)
	}
	return nil
}

func (c *Checkpoint) tables() map[string]tensor.View {
	t := map[string]tensor.View{arch.Embedding: c.Embedding}
	if c.Head != nil {
		t[arch.Head] = *c.Head
	}
	return t
}

func half(name string, v tensor.View) (tensor.View, error) {
	values, err := v.Float32()
	if err != nil {
		return v, err
	}
	if i := slices.IndexFunc(values, func(x float32) bool { return !(math.Abs(float64(x)) <= 65504) }); i >= 0 {
		return v, clara.Errorf(clara.Invalid, "write checkpoint: %s holds %g, which float16 cannot", name, values[i])
	}
	return v.Convert(tensor.F16)
}

// openTables reads the tables, or the rows that stand for them.
func (c *Checkpoint) openTables() error {
	path := filepath.Join(c.Dir, FirstLastFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(c.Dir, AddedRowsFile)); err == nil {
			return c.openRows()
		}
	}
	layers, err := torchpickle.Load(path)
	if err != nil {
		return err
	}
	var ok bool
	if c.Embedding, ok = layers.Tensor(arch.Embedding); !ok {
		return clara.Errorf(clara.NotFound, "open checkpoint %s: %s lacks %s", c.Dir, FirstLastFile, arch.Embedding)
	}
	if head, ok := layers.Tensor(arch.Head); ok {
		c.Head = &head
	}
	return nil
}

func (c *Checkpoint) openRows() error {
	f, err := safetensors.Open(filepath.Join(c.Dir, AddedRowsFile))
	if err != nil {
		return err
	}
	defer f.Close()
	c.added = map[string]tensor.View{}
	for _, name := range f.Names() {
		v, err := f.Tensor(name)
		if err != nil {
			return err
		}
		if name != arch.Embedding && name != arch.Head || len(v.Shape) != 2 || !v.DType.IsFloat() || v.Shape[0] != c.Config.AddedTokens() {
			return clara.Errorf(clara.Corrupt, "open checkpoint %s: %s holds %s %s, expected %d rows of %s or %s", c.Dir, AddedRowsFile, name, v.Shape, c.Config.AddedTokens(), arch.Embedding, arch.Head)
		}
		v.Data = slices.Clone(v.Data) // the file is mapped
		c.added[name] = v
	}
	if _, ok := c.added[arch.Embedding]; !ok {
		return clara.Errorf(clara.Corrupt, "open checkpoint %s: %s lacks %s", c.Dir, AddedRowsFile, arch.Embedding)
	}
	return nil
}

// Complete makes Embedding, and Head where there is one, of the base's tables, if the checkpoint holds the rows of added tokens
// only; others are left as they are. tokens is the length of the extended tokenizer. Call it before Validate. Errors:
// Invalid for another base.
func (c *Checkpoint) Complete(base Base, tokens int) error {
	for name, added := range c.added {
		table, err := base.Tensor(name)
		if err != nil {
			return err
		}
		keep := tokens - added.Shape[0]
		if len(table.Shape) != 2 || keep < 0 || keep > table.Shape[0] || table.Shape[1] != added.Shape[1] {
			return clara.Errorf(clara.Invalid, "checkpoint %s: %s of the base is %s, which does not go with %d tokens and rows of %s: it was trained on another base",
				c.Dir, name, table.Shape, tokens, added.Shape)
		}
		width := added.Shape[1]
		values := make([]float32, tokens*width)
		if err := table.Rows(0, keep).CopyFloat32(values[:keep*width]); err != nil {
			return err
		}
		if err := added.CopyFloat32(values[keep*width:]); err != nil {
			return err
		}
		whole := tensor.FromFloat32(name, tensor.Shape{tokens, width}, values)
		if name == arch.Embedding {
			c.Embedding = whole
		} else {
			c.Head = &whole
		}
	}
	return nil
}
