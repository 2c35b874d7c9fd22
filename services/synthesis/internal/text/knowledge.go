package text

import (
	"path"
	"regexp"
	"strings"

	"github.com/clara-suite/clara/libs/dataset"
)

// Source is a document whose pictures are replaced by what is known of them.
type Source struct {
	Path, Name, Area string
	Text             string
	Image            bool // it is the description of a stand-alone picture
	Pictures         int  // described pictures in it
	Missing          int  // pictures of which nothing is known
}

var (
	imageRef     = regexp.MustCompile(`\[IMAGE_REF:\s*([^\]\n]+?)\s*\]`)
	imageComment = regexp.MustCompile(`<!--\s*image\s*-->`)
	imageHeader  = regexp.MustCompile(`(?m)^-{2,}\s*Extracted Images\s*-{2,}[ \t]*$`)
	description  = regexp.MustCompile(`^\s*\[IMAGE DESCRIPTION of [^\]\n]*\]\s*`)
	blankLines   = regexp.MustCompile(`\n{3,}`)
)

// Refs are the pictures that a document's text and list of pictures name.
func Refs(d dataset.Document) []string {
	var out []string
	seen := map[string]bool{}
	add := func(ref string) {
		if ref = strings.TrimSpace(ref); ref != "" && !seen[ref] {
			seen[ref] = true
			out = append(out, ref)
		}
	}
	for _, m := range imageRef.FindAllStringSubmatch(d.Content, -1) {
		add(m[1])
	}
	for _, ref := range d.ExtractedImages {
		add(ref)
	}
	return out
}

// Resolve puts the descriptions of pictures in place of their marks. A description of a picture that some document
// holds is no document of its own; one of a stand-alone picture is.
func Resolve(docs []dataset.Document) []Source {
	described := map[string]string{} // by path
	embedded := map[string]bool{}
	for _, d := range docs {
		if d.SourceType == dataset.SourceImage {
			described[clean(d.FilePath)] = strings.TrimSpace(description.ReplaceAllString(d.Content, ""))
			continue
		}
		for _, ref := range Refs(d) {
			embedded[clean(ref)] = true
		}
	}
	var out []Source
	for _, d := range docs {
		s := Source{Path: d.FilePath, Name: d.Filename, Area: d.ProductArea}
		if d.SourceType == dataset.SourceImage {
			if embedded[clean(d.FilePath)] {
				continue
			}
			s.Image, s.Text = true, described[clean(d.FilePath)]
			out = append(out, s)
			continue
		}
		s.Text = imageRef.ReplaceAllStringFunc(d.Content, func(mark string) string {
			text := described[clean(imageRef.FindStringSubmatch(mark)[1])]
			if text == "" {
				s.Missing++
				return ""
			}
			s.Pictures++
			return "\n" + text + "\n"
		})
		s.Text = Plain(s.Text)
		out = append(out, s)
	}
	return out
}

// Plain removes the marks that extraction leaves: picture comments, picture marks and the header of their list.
func Plain(s string) string {
	s = imageComment.ReplaceAllString(s, "")
	s = imageRef.ReplaceAllString(s, "")
	s = imageHeader.ReplaceAllString(s, "")
	return strings.TrimSpace(blankLines.ReplaceAllString(s, "\n\n"))
}

// clean makes paths of different writers comparable.
func clean(p string) string { return path.Clean(strings.ReplaceAll(strings.TrimSpace(p), `\`, "/")) }
