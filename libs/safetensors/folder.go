package safetensors

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tensor"
)

// The names that Hugging Face folders use.
const (
	SingleFile = "model.safetensors"
	IndexFile  = "model.safetensors.index.json"
)

// Folder is the set of safetensors files (shards) of a Hugging Face model.
type Folder struct {
	files []*File
	of    map[string]*File
}

// OpenFolder opens model.safetensors, or the shards that
// model.safetensors.index.json names. Every tensor of the index must be in its
// shard; shards must lie in the folder itself.
func OpenFolder(dir string) (*Folder, error) {
	indexPath := filepath.Join(dir, IndexFile)
	raw, err := os.ReadFile(indexPath)
	if errors.Is(err, fs.ErrNotExist) {
		f, err := Open(filepath.Join(dir, SingleFile))
		if clara.KindOf(err) == clara.NotFound {
			return nil, clara.Errorf(clara.NotFound, "open model %s: neither %s nor %s is in it", dir, SingleFile, IndexFile)
		}
		if err != nil {
			return nil, err
		}
		s := &Folder{of: map[string]*File{}}
		return s, s.add(f, f.Names())
	}
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "open model: %w", err)
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, clara.Errorf(clara.Corrupt, "parse %s: %w", indexPath, err)
	}
	byShard := map[string][]string{}
	for name, shard := range index.WeightMap {
		byShard[shard] = append(byShard[shard], name)
	}
	shards := make([]string, 0, len(byShard))
	for shard := range byShard {
		if shard == "" || shard == ".." || filepath.Base(shard) != shard {
			return nil, clara.Errorf(clara.Corrupt, "read %s: the shard %q is not a file of the folder", indexPath, shard)
		}
		shards = append(shards, shard)
	}
	if len(shards) == 0 {
		return nil, clara.Errorf(clara.Corrupt, "read %s: it names no shards", indexPath)
	}
	slices.Sort(shards)
	s := &Folder{of: map[string]*File{}}
	for _, shard := range shards {
		f, err := Open(filepath.Join(dir, shard))
		if err == nil {
			names := byShard[shard]
			slices.Sort(names)
			err = s.add(f, names)
		}
		if err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

func (s *Folder) add(f *File, names []string) error {
	s.files = append(s.files, f)
	for _, name := range names {
		if !f.Has(name) {
			return clara.Errorf(clara.Corrupt, "read %s: the index puts tensor %q there, but it is not in it", f.path, name)
		}
		s.of[name] = f
	}
	return nil
}

// Files returns the files in the order of their names.
func (s *Folder) Files() []*File { return slices.Clone(s.files) }

// Names returns all tensors' names, sorted.
func (s *Folder) Names() []string {
	names := make([]string, 0, len(s.of))
	for name := range s.of {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Has reports whether the model holds the tensor.
func (s *Folder) Has(name string) bool { return s.of[name] != nil }

// Tensor returns a tensor of whichever shard holds it; NotFound if none does.
func (s *Folder) Tensor(name string) (tensor.View, error) {
	f := s.of[name]
	if f == nil {
		return tensor.View{}, clara.Errorf(clara.NotFound, "read model: no tensor %q in its safetensors files", name)
	}
	return f.Tensor(name)
}

// Location returns the file that holds the tensor and where its bytes begin in it.
func (s *Folder) Location(name string) (path string, offset int64, ok bool) {
	f := s.of[name]
	if f == nil {
		return "", 0, false
	}
	offset, ok = f.Offset(name)
	return f.path, offset, ok
}

// Close unmaps all files.
func (s *Folder) Close() error {
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
