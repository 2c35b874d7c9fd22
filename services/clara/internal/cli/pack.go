package cli

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/clara-suite/clara/libs/checkpoint"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/weights"
)

// ModelsPack writes a checkpoint's adapters to send around; no service takes part.
type ModelsPack struct {
	Checkpoint string `arg:"" help:"CLaRa checkpoint folder." placeholder:"CHECKPOINT"`
	Dir        string `arg:"" help:"Folder to write." placeholder:"DIR"`
	Base       string `help:"Base to use instead of the checkpoint's decoder_model_name." placeholder:"BASE"`
}

// Run writes the folder and prints what it weighs.
func (c *ModelsPack) Run(ctx context.Context, e *Env) error {
	ck, err := checkpoint.Open(c.Checkpoint)
	if err != nil {
		return err
	}
	base, err := checkpoint.BaseFinder{}.Find(ctx, ck.Config.DecoderModelName, c.Base, c.Checkpoint)
	if err != nil {
		return err
	}
	src, err := weights.Open(base)
	if err != nil {
		return err
	}
	defer src.Close()
	ck.Config.DecoderModelName = base // the name that is written follows the base used
	if err := checkpoint.SaveDir(c.Dir, func(dir string) error { return ck.WriteAdapters(dir, src.Arch()) }); err != nil {
		return err
	}
	total := int64(0)
	err = filepath.WalkDir(c.Dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	if err != nil {
		return clara.Errorf(clara.Unavailable, "look at %s: %w", c.Dir, err)
	}
	_, err = fmt.Fprintf(e.Out, "%s: %s; import it with: clara models import --checkpoint %s --base %s\n", c.Dir, size(total), c.Dir, base)
	return err
}
