package checkpoint

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/libs/torchpickle"
)

// Write writes the checkpoint's three files into dir, which exists, in the
// reference's layout: keys in its order, tensors in the types they have. It
// validates against the model first. Call it inside SaveDir.
func (c *Checkpoint) Write(dir string, model arch.Model) error {
	if err := c.Validate(model, 0); err != nil {
		return err
	}
	config, err := c.Config.JSON()
	if err != nil {
		return err
	}
	if err := c.writeAdapters(dir, model, func(_ string, v tensor.View) (tensor.View, error) { return v, nil }); err != nil {
		return err
	}
	layers := torchpickle.NewDict()
	layers.Set(arch.Embedding, torchpickle.Parameter{View: c.Embedding})
	if c.Head != nil {
		layers.Set(arch.Head, torchpickle.Parameter{View: *c.Head})
	}
	if err := torchpickle.Save(filepath.Join(dir, FirstLastFile), layers); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, ConfigFile), config, 0o644); err != nil {
		return clara.Errorf(clara.Unavailable, "write checkpoint: %w", err)
	}
	return nil
}

// writeAdapters writes adapters.pth: keys in the reference's order, each tensor as convert gives it.
func (c *Checkpoint) writeAdapters(dir string, model arch.Model, convert func(name string, v tensor.View) (tensor.View, error)) error {
	adapters := torchpickle.NewDict()
	for _, name := range []string{Decoder, Encoder, QueryReasoner} {
		a, ok := c.Adapters[name]
		if !ok {
			continue
		}
		d := torchpickle.NewDict()
		for layer := range model.Layers {
			for _, l := range model.Linears() {
				for _, key := range []string{AKey(layer, l.Name), BKey(layer, l.Name)} {
					v, err := convert(name+"/"+key, a.Tensors[key])
					if err != nil {
						return err
					}
					d.Set(key, v)
				}
			}
		}
		adapters.Set(name, d)
	}
	return torchpickle.Save(filepath.Join(dir, AdaptersFile), adapters)
}

// TokenizerFiles are the files that make up a base's tokenizer and chat
// template, as far as it has them.
func TokenizerFiles() []string {
	return []string{"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
		"vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json", "generation_config.json"}
}

// CopyTokenizer copies the base's tokenizer files into a checkpoint folder, as
// the reference does.
func CopyTokenizer(base, dir string) error {
	for _, name := range TokenizerFiles() {
		if name == "generation_config.json" {
			continue // belongs to the base; checkpoints of the reference have none
		}
		if err := copyFile(filepath.Join(base, name), filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return clara.Errorf(clara.Unavailable, "copy tokenizer: %w", err)
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
