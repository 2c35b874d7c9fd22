package ooxml

import (
	"archive/zip"
	"errors"
	"io"
	"path"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
)

const (
	maxEntries = 100_000
	// An entry that is small in total may have any ratio: styles compress well.
	ratioFree = 32 << 20
	maxRatio  = 200
	// maxTree is the size of an XML part that is read as a whole tree.
	maxTree = 128 << 20
)

// Package is an open file. It is not safe for concurrent use.
type Package struct {
	files map[string]*zip.File
	left  int64
	total int64
	rels  map[string]map[string]Rel
}

// Rel is a relationship of a part.
type Rel struct {
	// Type is the last element of the type's address: "image", "slideLayout".
	Type string
	// Target is a part's name, or an address if External.
	Target   string
	External bool
}

// Open reads the directory of the archive. Errors: Corrupt if it is no whole
// zip archive, Invalid if it is over the limits.
func Open(r io.ReaderAt, size int64, limits doc.Limits) (*Package, error) {
	limits = limits.WithDefaults()
	z, err := zip.NewReader(r, size)
	if err != nil {
		if errors.Is(err, zip.ErrFormat) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, clara.Errorf(clara.Corrupt, "open the archive of %d bytes: its directory is missing, the file is truncated or damaged", size)
		}
		return nil, clara.Errorf(clara.Corrupt, "open the archive: %w", err)
	}
	if len(z.File) > maxEntries {
		return nil, clara.Errorf(clara.Invalid, "open the archive: it has %d entries, the limit is %d", len(z.File), maxEntries)
	}
	p := &Package{files: make(map[string]*zip.File, len(z.File)), left: limits.MaxExpanded, total: limits.MaxExpanded, rels: map[string]map[string]Rel{}}
	var declared uint64
	for _, f := range z.File {
		declared += f.UncompressedSize64
		if declared > uint64(limits.MaxExpanded) || f.UncompressedSize64 > uint64(limits.MaxExpanded) {
			return nil, clara.Errorf(clara.Invalid, "open the archive: it unpacks to more than the limit of %d bytes", limits.MaxExpanded)
		}
		if bomb(f.UncompressedSize64, f.CompressedSize64) {
			return nil, clara.Errorf(clara.Invalid, "open the archive: entry %q unpacks %d bytes to %d, more than %d-fold: a zip bomb", short(f.Name), f.CompressedSize64, f.UncompressedSize64, maxRatio)
		}
		k := key(f.Name)
		if _, ok := p.files[k]; !ok {
			p.files[k] = f
		}
	}
	return p, nil
}

func bomb(out, in uint64) bool { return out > ratioFree && out/maxRatio > in }

// key is how a part's name is compared: without case, from the root.
func key(name string) string {
	return strings.ToLower(strings.TrimPrefix(path.Clean("/"+strings.ReplaceAll(name, `\`, "/")), "/"))
}

func short(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}

// Has reports whether the part exists.
func (p *Package) Has(part string) bool { return p.files[key(part)] != nil }

// Open opens a part. Errors, of reading too: NotFound, Corrupt, Invalid (over a limit).
func (p *Package) Open(part string) (io.ReadCloser, error) {
	f := p.files[key(part)]
	if f == nil {
		return nil, clara.Errorf(clara.NotFound, "open part %q: the file has no such part", short(part))
	}
	if f.Flags&1 != 0 {
		return nil, clara.Errorf(clara.Unsupported, "open part %q: the archive is encrypted by a zip password, unpack it first", short(part))
	}
	rc, err := f.Open()
	if err != nil {
		return nil, clara.Errorf(clara.Corrupt, "open part %q: %w", short(part), err)
	}
	return &entry{rc: rc, p: p, f: f}, nil
}

// entry counts what is read against the limits: the sizes in the directory may lie.
type entry struct {
	rc io.ReadCloser
	p  *Package
	f  *zip.File
	n  uint64
}

func (e *entry) Read(b []byte) (int, error) {
	n, err := e.rc.Read(b)
	e.n += uint64(n)
	e.p.left -= int64(n)
	switch {
	case e.p.left < 0:
		return 0, clara.Errorf(clara.Invalid, "read part %q: the file unpacks to more than the limit of %d bytes", short(e.f.Name), e.p.total)
	case bomb(e.n, e.f.CompressedSize64):
		return 0, clara.Errorf(clara.Invalid, "read part %q: it unpacks %d bytes more than %d-fold: a zip bomb", short(e.f.Name), e.f.CompressedSize64, maxRatio)
	case err != nil && err != io.EOF:
		return n, clara.Errorf(clara.Corrupt, "read part %q: %w", short(e.f.Name), err)
	}
	return n, err
}

func (e *entry) Close() error { return e.rc.Close() }

// Bytes returns a part of at most limit bytes.
func (p *Package) Bytes(part string, limit int64) ([]byte, error) {
	r, err := p.Open(part)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, clara.Errorf(clara.Invalid, "read part %q: it is larger than %d bytes", short(part), limit)
	}
	return b, nil
}

// Tree returns a part as a tree of elements.
func (p *Package) Tree(part string) (*Node, error) {
	r, err := p.Open(part)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	n, err := Parse(io.LimitReader(r, maxTree))
	if err != nil {
		return nil, clara.Errorf(kindOr(err, clara.Corrupt), "read part %q: %w", short(part), err)
	}
	return n, nil
}

// kindOr returns the error's own kind, or the given one if it has none.
func kindOr(err error, k clara.Kind) clara.Kind {
	if own := clara.KindOf(err); own != clara.Internal {
		return own
	}
	return k
}

// Rels returns the relationships of a part by id; "" is the package itself.
// A part without any has none; broken ones are left out.
func (p *Package) Rels(part string) map[string]Rel {
	if r, ok := p.rels[part]; ok {
		return r
	}
	dir, file := path.Split(part)
	out := map[string]Rel{}
	if tree, err := p.Tree(dir + "_rels/" + file + ".rels"); err == nil {
		for _, n := range tree.Kids {
			t, target := n.Attr("Type"), n.Attr("Target")
			rel := Rel{Type: t[strings.LastIndexByte(t, '/')+1:], External: strings.EqualFold(n.Attr("TargetMode"), "External")}
			switch {
			case rel.External:
				rel.Target = target
			case strings.HasPrefix(target, "/"):
				rel.Target = path.Clean(target)[1:]
			default:
				rel.Target = strings.TrimPrefix(path.Clean("/"+dir+target), "/")
			}
			out[n.Attr("Id")] = rel
		}
	}
	p.rels[part] = out
	return out
}

// First returns the first part that a part is related to by the type, in the
// order of ids, or "".
func (p *Package) First(part, typ string) string {
	best := ""
	for id, r := range p.Rels(part) {
		if r.Type == typ && !r.External && (best == "" || id < best) {
			best = id
		}
	}
	return p.Rels(part)[best].Target
}

// Main returns the name of the main part (the document, presentation or workbook).
func (p *Package) Main(fallback string) string {
	if m := p.First("", "officeDocument"); m != "" && p.Has(m) {
		return m
	}
	return fallback
}

// Property returns a text of the core properties ("title", "language"), or "".
func (p *Package) Property(name string) string {
	part := p.First("", "core-properties")
	if part == "" {
		part = "docProps/core.xml"
	}
	tree, err := p.Tree(part)
	if err != nil {
		return ""
	}
	for _, n := range tree.Kids {
		if n.Name == "dc:"+name {
			return strings.TrimSpace(n.Text)
		}
	}
	return ""
}
