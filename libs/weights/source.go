package weights

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tensor"
)

// Source is an open base model.
type Source interface {
	// Arch returns the architecture.
	Arch() arch.Model
	// Has reports whether the model holds the tensor of that Hugging Face name.
	Has(name string) bool
	// Tensor returns a tensor of F32, F16 or BF16; quantised ones as F32. It is
	// a NotFound error if the model does not hold it.
	Tensor(name string) (tensor.View, error)
	// Location returns the file that holds the tensor exactly as Tensor returns
	// it, and where its bytes begin; ok is false where it lies otherwise.
	Location(name string) (path string, offset int64, ok bool)
	// Blocks returns the quantised blocks of a tensor; ok is false if it is not quantised.
	Blocks(name string) (b Blocks, ok bool, err error)
	// Files returns the weight files.
	Files() []string
	// Close releases the files; views handed out must no longer be used.
	Close() error
}

// Open opens a Hugging Face folder or a GGUF file, and checks that all weights
// of its architecture are there. A folder without config.json that holds one
// GGUF file is that file.
func Open(path string) (Source, error) {
	info, err := os.Stat(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, clara.Errorf(clara.NotFound, "open model %s: no such file or folder", path)
		}
		return nil, clara.Errorf(clara.Invalid, "open model: %w", err)
	}
	s, err := open(path, info.IsDir())
	if err != nil {
		return nil, err
	}
	if err := check(path, s); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func open(path string, dir bool) (Source, error) {
	if !dir {
		if !strings.EqualFold(filepath.Ext(path), ".gguf") {
			return nil, clara.Errorf(clara.Invalid, "open model %s: neither a folder nor a .gguf file", path)
		}
		return openGGUF(path)
	}
	_, err := os.Stat(filepath.Join(path, "config.json"))
	if err == nil {
		return openFolder(path)
	}
	files, globErr := filepath.Glob(filepath.Join(escapeGlob(path), "*.gguf"))
	if globErr == nil && len(files) == 1 {
		return openGGUF(files[0])
	}
	if len(files) > 1 {
		return nil, clara.Errorf(clara.Invalid, "open model %s: it holds %d GGUF files, name one of them", path, len(files))
	}
	return nil, clara.Errorf(clara.NotFound, "open model %s: it holds neither config.json nor a .gguf file", path)
}

// escapeGlob quotes what filepath.Glob would take as a pattern.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// sized is a source that knows shapes without converting anything.
type sized interface {
	shape(name string) (tensor.Shape, bool)
}

// check compares the source with what its architecture asks for.
func check(path string, s Source) error {
	var errs []error
	for _, w := range s.Arch().Weights() {
		shape, ok := s.(sized).shape(w.Name)
		switch {
		case !ok:
			errs = append(errs, clara.Errorf(clara.NotFound, "open model %s: tensor %s %s is missing", path, w.Name, w.Shape))
		case !shape.Equal(w.Shape):
			errs = append(errs, clara.Errorf(clara.Corrupt, "open model %s: tensor %s is %s where its config asks for %s", path, w.Name, shape, w.Shape))
		}
		if len(errs) == 10 {
			break
		}
	}
	return errors.Join(errs...)
}
