package ooxml

import (
	"bytes"
	"context"
	"fmt"
	"image"
	_ "image/gif"  // sizes of pictures
	_ "image/jpeg" // sizes of pictures
	_ "image/png"  // sizes of pictures
	"net/http"
	"path"
	"strings"

	_ "golang.org/x/image/bmp"  // sizes of pictures
	_ "golang.org/x/image/tiff" // sizes of pictures
	_ "golang.org/x/image/webp" // sizes of pictures

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
)

// maxPicture is the size of a stored picture in bytes.
const maxPicture = 256 << 20

// Pictures hands the pictures of a document to its sink, each part once.
type Pictures struct {
	Package  *Package
	Document *doc.Document
	Options  doc.Options
	refs     map[string]string
	// numbers counts the pictures of each page.
	numbers map[int]int
	stop    error
}

// Mark stores the picture that the part shows by the relationship id and
// returns its mark, "" if there is none to show: no sink, a linked picture
// (never fetched), or one that could not be read, which is then a Problem.
func (p *Pictures) Mark(ctx context.Context, part, id, alt string, page int) string {
	if p.Options.Images == nil || id == "" {
		return ""
	}
	rel, ok := p.Package.Rels(part)[id]
	if !ok || rel.External {
		return ""
	}
	if p.refs == nil {
		p.refs, p.numbers = map[string]string{}, map[int]int{}
	}
	// The same picture may stand in many places; it is stored for the first.
	ref, seen := p.refs[rel.Target]
	if !seen {
		ref = p.store(ctx, rel.Target, alt, page)
		p.refs[rel.Target] = ref
	}
	if ref == "" {
		return ""
	}
	return doc.ImageMark(ref)
}

func (p *Pictures) store(ctx context.Context, part, alt string, page int) string {
	limit := p.Options.Limits.WithDefaults().MaxImages
	if len(p.Document.Images) >= limit {
		if len(p.Document.Images) == limit && p.stop == nil {
			p.stop = clara.Errorf(clara.Invalid, "more than %d pictures", limit)
			p.Document.AddProblem(page, fmt.Sprintf("the file has more than %d pictures, the rest are left out", limit))
		}
		return ""
	}
	data, err := p.Package.Bytes(part, maxPicture)
	if err != nil {
		p.Document.AddProblem(page, "picture "+short(part)+": "+err.Error())
		return ""
	}
	p.numbers[page]++
	img := doc.Image{
		Name: fmt.Sprintf("p%d-%d%s", page, p.numbers[page], extension(part, data)),
		Page: page, MIME: mime(part, data), Alt: strings.TrimSpace(alt),
	}
	if c, _, err := image.DecodeConfig(bytes.NewReader(data)); err == nil {
		img.Width, img.Height = c.Width, c.Height
	}
	if img.Ref, err = p.Options.Images(ctx, img, data); err != nil {
		p.Document.AddProblem(page, "picture "+img.Name+": "+err.Error())
		return ""
	}
	p.Document.Images = append(p.Document.Images, img)
	return img.Ref
}

// vector are the formats that http.DetectContentType does not know.
var vector = map[string]string{".emf": "image/emf", ".wmf": "image/wmf", ".svg": "image/svg+xml", ".tif": "image/tiff", ".tiff": "image/tiff"}

func mime(part string, data []byte) string {
	if t := http.DetectContentType(data); strings.HasPrefix(t, "image/") {
		return t
	}
	if t := vector[strings.ToLower(path.Ext(part))]; t != "" {
		return t
	}
	return "application/octet-stream"
}

func extension(part string, data []byte) string {
	switch mime(part, data) {
	case "image/png":
		return ".png"
	case "image/jpeg":
		return ".jpg"
	case "image/gif":
		return ".gif"
	case "image/bmp":
		return ".bmp"
	case "image/webp":
		return ".webp"
	case "image/tiff":
		return ".tiff"
	case "image/emf":
		return ".emf"
	case "image/wmf":
		return ".wmf"
	case "image/svg+xml":
		return ".svg"
	}
	return ".bin"
}
