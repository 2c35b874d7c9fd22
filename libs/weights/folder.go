package weights

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/safetensors"
	"github.com/clara-suite/clara/libs/tensor"
)

// folder is a Hugging Face folder.
type folder struct {
	model arch.Model
	files *safetensors.Folder
}

func openFolder(dir string) (Source, error) {
	configPath := filepath.Join(dir, "config.json")
	config, err := os.ReadFile(configPath)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "open model: %w", err)
	}
	generation, err := os.ReadFile(filepath.Join(dir, "generation_config.json"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, clara.Errorf(clara.Invalid, "open model: %w", err)
	}
	model, err := arch.FromHF(config, generation)
	if err != nil {
		return nil, clara.Errorf(clara.KindOf(err), "open model %s: %w", dir, err)
	}
	files, err := safetensors.OpenFolder(dir)
	if err != nil {
		return nil, err
	}
	return &folder{model: model, files: files}, nil
}

func (f *folder) Arch() arch.Model { return f.model }

func (f *folder) Has(name string) bool { return f.files.Has(f.stored(name)) }

// stored returns the name in the files: a base model saved without its head
// (AutoModel) lacks the "model." prefix.
func (f *folder) stored(name string) string {
	const prefix = "model."
	if !f.files.Has(name) && len(name) > len(prefix) && name[:len(prefix)] == prefix && f.files.Has(name[len(prefix):]) {
		return name[len(prefix):]
	}
	return name
}

func (f *folder) Tensor(name string) (tensor.View, error) {
	v, err := f.files.Tensor(f.stored(name))
	v.Name = name
	return v, err
}

func (f *folder) shape(name string) (tensor.Shape, bool) {
	v, err := f.Tensor(name)
	return v.Shape, err == nil
}

func (f *folder) Location(name string) (string, int64, bool) { return f.files.Location(f.stored(name)) }

func (f *folder) Blocks(string) (Blocks, bool, error) { return Blocks{}, false, nil }

func (f *folder) Files() []string {
	var paths []string
	for _, file := range f.files.Files() {
		paths = append(paths, file.Path())
	}
	return paths
}

func (f *folder) Close() error { return f.files.Close() }
