package modelpkg

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/checkpoint"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/onnx/decoder"
	"github.com/clara-suite/clara/libs/quant"
	"github.com/clara-suite/clara/libs/safetensors"
	"github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/libs/weights"
)

// Spread makes the package to of the package dir, with the weights of its blocks spread out to float32: the same
// numbers in another form, to compare with. Files that both need are linked.
// Errors: those of Open, Unavailable (the disk).
func Spread(ctx context.Context, dir, to string) error {
	m, err := ReadManifest(dir)
	if err != nil {
		return err
	}
	src := &packed{m: m}
	for _, f := range m.Files {
		if !strings.HasSuffix(f.Path, ".safetensors") || isAdapter(m, f.Path) {
			continue
		}
		file, err := safetensors.Open(filepath.Join(dir, f.Path))
		if err != nil {
			return errors.Join(err, src.Close())
		}
		src.files = append(src.files, file)
	}
	out := *m
	out.Files, out.Graphs, out.Precisions = nil, map[Precision]string{}, nil
	im := &importer{ctx: ctx, src: src, m: &out, of: map[Precision][]*safetensors.File{}}
	im.Precision = Precisions{FP32, FP32, FP32}
	err = checkpoint.SaveDir(to, func(tmp string) error {
		im.dir = tmp
		defer im.closeFiles()
		for _, f := range m.Files {
			if strings.HasPrefix(f.Path, "weights.") || strings.HasSuffix(f.Path, ".onnx") {
				continue
			}
			if err := linkFile(filepath.Join(dir, f.Path), filepath.Join(tmp, f.Path)); err != nil {
				return diskError("copy package", err)
			}
			if f.Path == embeddingFile {
				if err := im.open(filepath.Join(tmp, f.Path)); err != nil {
					return err
				}
			}
		}
		for _, step := range []func() error{im.writeWeights, im.writeGraph, im.listFiles, im.storeManifest} {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("spread out model package %s: %w", dir, err)
	}
	return errors.Join(err, src.Close())
}

func isAdapter(m *Manifest, file string) bool {
	for f := range maps.Values(m.Adapters) {
		if f == file {
			return true
		}
	}
	return false
}

// packed reads the weights of a package as a source.
type packed struct {
	m     *Manifest
	files []*safetensors.File
}

// Arch implements weights.Source.
func (p *packed) Arch() arch.Model { return p.m.Arch }

// Has implements weights.Source.
func (p *packed) Has(name string) bool { _, err := p.Tensor(name); return err == nil }

// Location implements weights.Source: all is written anew.
func (p *packed) Location(string) (string, int64, bool) { return "", 0, false }

// Blocks implements weights.Source.
func (p *packed) Blocks(string) (weights.Blocks, bool, error) { return weights.Blocks{}, false, nil }

// Files implements weights.Source.
func (p *packed) Files() []string { return nil }

// Close implements weights.Source.
func (p *packed) Close() error {
	var errs []error
	for _, f := range p.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Tensor implements weights.Source.
func (p *packed) Tensor(name string) (tensor.View, error) {
	for _, f := range p.files {
		if stored := storedName(f, name); f.Has(stored) {
			return f.Tensor(stored)
		}
	}
	for _, w := range p.m.Arch.Weights() {
		if w.Name != name || len(w.Shape) != 2 {
			continue
		}
		if m, ok := p.matrix(name, w.Shape[1]); ok {
			return spread(name, m, 0, m.Out), nil
		}
	}
	for _, slot := range decoder.Adapters(p.m.Arch) {
		row := 0
		for _, part := range slot.Parts {
			if part.Name+".weight" == name {
				if m, ok := p.matrix(slot.Name, slot.In); ok {
					return spread(name, m, row, row+part.Out), nil
				}
			}
			row += part.Out
		}
	}
	return tensor.View{}, clara.Errorf(clara.NotFound, "no file holds %s", name)
}

func (p *packed) matrix(name string, in int) (quant.Matrix, bool) {
	for _, f := range p.files {
		if m, ok := blocksIn(f, name, in); ok {
			return m, true
		}
	}
	return quant.Matrix{}, false
}

// spread is rows [from, to) as floats.
func spread(name string, m quant.Matrix, from, to int) tensor.View {
	values := make([]float32, (to-from)*m.In)
	for n := from; n < to; n++ {
		m.Row(values[(n-from)*m.In:(n-from+1)*m.In], n)
	}
	return tensor.FromFloat32(name, tensor.Shape{to - from, m.In}, values)
}
