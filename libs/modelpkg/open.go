package modelpkg

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/prompt"
	"github.com/clara-suite/clara/libs/quant"
	"github.com/clara-suite/clara/libs/safetensors"
	"github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/libs/tokenizer"
)

// Package is an open model package. It is safe for concurrent use.
type Package struct {
	Dir      string
	Manifest *Manifest
	// Tokenizer is the base's, or the extended one where there are adapters.
	Tokenizer *tokenizer.Tokenizer
	// Clara is the tokenizer with memory tokens; nil without adapters.
	Clara *tokenizer.Clara
	// Prompts writes the model's inputs. Without adapters only those without document slots can be used.
	Prompts *prompt.Writer

	table  *safetensors.File
	rows   []float32    // the embedding table in float32,
	halves tensor.View  // in one of the halves,
	blocks quant.Matrix // or in blocks
	read   atomic.Int64 // rows of the table, since its memory was last given back
}

// Open opens a package for use. Sizes of files are checked; contents are by Verify.
func Open(dir string) (*Package, error) {
	m, err := ReadManifest(dir)
	if err != nil {
		return nil, err
	}
	if m.Format != Format {
		return nil, clara.Errorf(clara.Unsupported, "open model package %s: it has format %d, this program opens %d: import the model again, under the same name", dir, m.Format, Format)
	}
	for _, f := range m.Files {
		info, err := os.Stat(filepath.Join(dir, f.Path))
		if err != nil || info.Size() != f.Size {
			return nil, clara.Errorf(clara.Corrupt, "open model package %s: %s of %d bytes is missing or has another size; import the model again", dir, f.Path, f.Size)
		}
	}
	p := &Package{Dir: dir, Manifest: m}
	if p.Tokenizer, err = openTokenizer(dir, m); err != nil {
		return nil, fmt.Errorf("open model package %s: %w", dir, err)
	}
	if p.Prompts, err = prompts(p.Tokenizer, m); err != nil {
		return nil, fmt.Errorf("open model package %s: %w", dir, err)
	}
	if m.HasAdapters() {
		p.Clara = p.Prompts.Tokenizer()
		p.Tokenizer = p.Clara.Tokenizer
	}
	if p.table, err = safetensors.Open(filepath.Join(dir, m.Table)); err != nil {
		return nil, fmt.Errorf("open model package %s: %w", dir, err)
	}
	err = p.openTable()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open model package %s: %w", dir, err), p.Close())
	}
	return p, nil
}

func (p *Package) openTable() error {
	m := p.Manifest
	if b, ok := blocksIn(p.table, arch.Embedding, m.H); ok && b.Out == m.Vocab {
		p.blocks = b
		return nil
	}
	v, err := p.table.Tensor(arch.Embedding)
	if err != nil {
		return err
	}
	if len(v.Shape) != 2 || v.Shape[0] != m.Vocab || v.Shape[1] != m.H {
		return clara.Errorf(clara.Corrupt, "embedding table is %s, the manifest says [%d, %d]", v.Shape, m.Vocab, m.H)
	}
	if v.DType != tensor.F32 {
		p.halves = v
		return nil
	}
	p.rows, err = v.Float32()
	return err
}

// Graph returns the path of the graph of a precision; Unsupported if the package has none.
func (p *Package) Graph(precision Precision) (string, error) {
	name, ok := p.Manifest.Graphs[precision]
	if !ok {
		return "", clara.Errorf(clara.Unsupported, "model package %s has no graph of precision %q", p.Dir, precision)
	}
	return filepath.Join(p.Dir, name), nil
}

// Embed writes the rows of the embedding table [Vocab, H] of the ids to dst [len(ids), H], until Close. The table
// is mapped, so that only rows in use take memory, and that is given back now and then: a row that is read brings
// its neighbours along. Ids must be below Vocab.
func (p *Package) Embed(dst []float32, ids []int32) {
	H := p.Manifest.H
	for i, id := range ids {
		row := dst[i*H : (i+1)*H]
		switch {
		case p.rows != nil:
			copy(row, p.rows[int(id)*H:])
		case p.halves.DType == tensor.F16:
			tensor.DecodeF16(row, p.halves.Data[2*H*int(id):2*H*(int(id)+1)])
		case p.halves.DType == tensor.BF16:
			tensor.DecodeBF16(row, p.halves.Data[2*H*int(id):2*H*(int(id)+1)])
		default:
			p.blocks.Row(row, int(id))
		}
	}
	if p.read.Add(int64(len(ids))) > rowsHeld {
		p.read.Store(0)
		p.table.Release()
	}
}

// rowsHeld is how many rows are read before the table's memory is given back.
const rowsHeld = 64

// TableBytes is the size of the embedding table in its file.
func (p *Package) TableBytes() int64 {
	return 4*int64(len(p.rows)+len(p.blocks.Scale)+len(p.blocks.Shift)) + int64(len(p.blocks.Codes)+len(p.halves.Data))
}

// Adapter opens the weights of a role's adapter; NotFound if the package has none.
func (p *Package) Adapter(r Role) (*safetensors.File, error) {
	name, ok := p.Manifest.Adapters[r]
	if !ok {
		return nil, clara.Errorf(clara.NotFound, "model package %s has no %s adapter: it was imported without a CLaRa checkpoint", p.Manifest.Name, r)
	}
	return safetensors.Open(filepath.Join(p.Dir, name))
}

// Close releases the table.
func (p *Package) Close() error {
	p.rows, p.halves, p.blocks = nil, tensor.View{}, quant.Matrix{}
	return p.table.Close()
}

// prompts joins tokenizer and chat template. A package without adapters gets one memory token that
// no prompt uses.
func prompts(base *tokenizer.Tokenizer, m *Manifest) (*prompt.Writer, error) {
	c, err := tokenizer.NewClara(base, max(m.M, 1), m.DifferentMemTokens)
	if err != nil {
		return nil, err
	}
	tmpl, err := prompt.NewTemplate(base.ChatTemplate(), nil)
	if err != nil {
		return nil, err
	}
	return prompt.New(c, tmpl), nil
}

func openTokenizer(dir string, m *Manifest) (*tokenizer.Tokenizer, error) {
	if m.TokenizerVocab == "" {
		return tokenizer.Load(dir)
	}
	raw, err := os.ReadFile(filepath.Join(dir, m.TokenizerVocab))
	if err != nil {
		return nil, clara.Errorf(clara.NotFound, "open tokenizer: %w", err)
	}
	var v tokenizer.Vocab
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, clara.Errorf(clara.Corrupt, "parse %s: %w", m.TokenizerVocab, err)
	}
	return tokenizer.FromVocab(v)
}
