package modelpkg

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
)

// Format is the version of the layout that this package writes and opens. Manifests of earlier ones are read, so that such a
// package is listed, and can be imported again under its name:
//
//	1  graphs without decoder.Adapted
const Format = 2

// ManifestFile is the name of the manifest in a package.
const ManifestFile = "manifest.json"

// Role is what a pass through the model is for; each but Base has an adapter (spec clara-model §1).
type Role string

// The roles.
const (
	Base     Role = "base" // no adapter
	Encoder  Role = "encoder"
	Reasoner Role = "query_reasoner"
	Decoder  Role = "decoder"
)

// Manifest describes a package.
type Manifest struct {
	Format int    `json:"format"`
	Name   string `json:"name"`
	// Hashes identify parts by content. Two packages with one Encoder hash make the same memories,
	// with one Reasoner hash the same query vectors.
	Hashes Hashes `json:"hashes"`

	// M memory tokens a document, each of H numbers; M is 0 without adapters.
	M int `json:"m"`
	H int `json:"h"`
	// DocMaxLength is the most tokens of a document, CompressRate DocMaxLength / M as configured.
	DocMaxLength       int  `json:"doc_max_length"`
	CompressRate       int  `json:"compress_rate"`
	GenerationTopK     int  `json:"generation_top_k"`
	DifferentMemTokens bool `json:"different_mem_tokens"`
	// Vocab is the number of rows of table and head, memory tokens included.
	Vocab int `json:"vocab"`
	// EOS ids end an answer, any of them.
	EOS []int32 `json:"eos"`
	// IndexKeySeed fixes the projection that makes search keys of memories too long to search as they are.
	IndexKeySeed uint64 `json:"index_key_seed"`
	// TrainingStage is the checkpoint's, as the reference names it.
	TrainingStage string `json:"training_stage,omitempty"`

	Arch arch.Model `json:"arch"`
	// Graphs maps a precision to its file.
	Graphs map[Precision]string `json:"graphs"`
	// Precisions is the precision of each role that the package has; without any, all are fp32.
	Precisions map[Role]Precision `json:"precisions,omitempty"`
	// Adapters maps a role to its file; LoRAScale is alpha / r.
	Adapters  map[Role]string `json:"adapters,omitempty"`
	LoRAScale float64         `json:"lora_scale,omitempty"`
	// Table is the file that holds the embedding table.
	Table string `json:"table"`
	// TokenizerVocab is the file of a tokenizer that came from GGUF; empty: tokenizer.json.
	TokenizerVocab string `json:"tokenizer_vocab,omitempty"`
	Files          []File `json:"files"`
	// Warnings are what a user should know about the import, in sentences.
	Warnings []string `json:"warnings,omitempty"`
}

// Hashes are SHA-256, hex. Those of roles the package has no adapter for are empty.
type Hashes struct {
	Base      string `json:"base"`
	Tokenizer string `json:"tokenizer"`
	Encoder   string `json:"encoder,omitempty"`
	Reasoner  string `json:"query_reasoner,omitempty"`
	Decoder   string `json:"decoder,omitempty"`
}

// File is a file of the package.
type File struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// HasAdapters reports whether the package compresses and reads memories.
func (m *Manifest) HasAdapters() bool { return len(m.Adapters) > 0 }

// ID identifies the package by content: the SHA-256 of its manifest, hex.
func (m *Manifest) ID() (string, error) {
	raw, err := m.encode()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), nil
}

// Precision is what a role runs in.
func (m *Manifest) Precision(r Role) Precision {
	if p, ok := m.Precisions[r]; ok {
		return p
	}
	if p, ok := m.Precisions[Base]; ok {
		return p
	}
	return FP32
}

// Bytes is the total size of the files.
func (m *Manifest) Bytes() int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

func (m *Manifest) encode() ([]byte, error) {
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return append(raw, '\n'), nil
}

// ReadManifest reads and checks the manifest of the package in dir; files are not looked at.
func ReadManifest(dir string) (*Manifest, error) {
	raw, err := os.ReadFile(filepath.Join(dir, ManifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, clara.Errorf(clara.NotFound, "open model package %s: it has no %s; make one with `clara models import`", dir, ManifestFile)
	}
	if err != nil {
		return nil, clara.Errorf(clara.Unavailable, "open model package: %w", err)
	}
	m, err := ParseManifest(raw)
	if err != nil {
		return nil, clara.Errorf(clara.KindOf(err), "open model package %s: %w", dir, err)
	}
	return m, nil
}

// ParseManifest decodes and checks a manifest.
func ParseManifest(raw []byte) (*Manifest, error) {
	m := &Manifest{}
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, clara.Errorf(clara.Corrupt, "parse %s: %w", ManifestFile, err)
	}
	if m.Format < 0 || m.Format > Format {
		return nil, clara.Errorf(clara.Unsupported, "%s has format %d, this program reads up to %d: it is of a later version", ManifestFile, m.Format, Format)
	}
	if err := m.check(); err != nil {
		return nil, clara.Errorf(clara.Corrupt, "check %s: %w", ManifestFile, err)
	}
	return m, nil
}

func (m *Manifest) check() error {
	if err := m.Arch.Check(); err != nil {
		return err
	}
	if m.Vocab != m.Arch.Vocab || m.H != m.Arch.Hidden || m.M < 0 || m.HasAdapters() != (m.M > 0) {
		return fmt.Errorf("vocab %d, h %d and m %d do not fit the architecture and adapters", m.Vocab, m.H, m.M)
	}
	names := map[string]bool{}
	for _, f := range m.Files {
		if f.Path == "" || f.Path != filepath.Base(f.Path) || strings.ContainsAny(f.Path, `/\`) || f.Path == ".." || f.Size < 0 || len(f.SHA256) != 64 {
			return fmt.Errorf("file %q of %d bytes", f.Path, f.Size)
		}
		names[f.Path] = true
	}
	used := []string{m.Table}
	for _, f := range m.Graphs {
		used = append(used, f)
	}
	for r, p := range m.Precisions {
		if m.Graphs[p] == "" {
			return fmt.Errorf("role %s runs in %q, of which there is no graph", r, p)
		}
	}
	for _, f := range m.Adapters {
		used = append(used, f)
	}
	for _, f := range used {
		if !names[f] {
			return fmt.Errorf("file %q is not listed", f)
		}
	}
	return nil
}

// Verify reads every file of the package and compares it with the manifest. It returns a Corrupt
// error that names each file that differs.
func Verify(dir string) error {
	m, err := ReadManifest(dir)
	if err != nil {
		return err
	}
	var faults []error
	for _, f := range m.Files {
		size, sum, err := hashFile(filepath.Join(dir, f.Path))
		switch {
		case err != nil:
			faults = append(faults, err)
		case size != f.Size || sum != f.SHA256:
			faults = append(faults, fmt.Errorf("%s is not what was imported (%d bytes, SHA-256 %s)", f.Path, size, sum))
		}
	}
	if len(faults) > 0 {
		return clara.Errorf(clara.Corrupt, "verify model package %s: %w", dir, errors.Join(faults...))
	}
	return nil
}

func hashFile(path string) (int64, string, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return n, hex.EncodeToString(h.Sum(nil)), err
}

// digest hashes a list of strings so that no two lists run together.
func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s,", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (m *Manifest) file(path string) File {
	i := slices.IndexFunc(m.Files, func(f File) bool { return f.Path == path })
	return m.Files[i]
}
