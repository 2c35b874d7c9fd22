// Package markdown reads Markdown files. The text passes through as it is; only
// a head of metadata (front matter) becomes a block of code, so that it is not
// taken for a rule and a heading, and gives the document its title and language.
package markdown

import (
	"context"
	"io"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/text"
)

// Reader reads Markdown. It is safe for concurrent use.
type Reader struct{}

var _ doc.Reader = Reader{}

// Read reads a text as a document of one page. Errors are those of text.Reader.
func (Reader) Read(ctx context.Context, r io.ReaderAt, size int64, opts doc.Options) (*doc.Document, error) {
	s, err := text.String(ctx, r, size, opts)
	if err != nil {
		return nil, err
	}
	d := &doc.Document{Format: doc.Markdown}
	if kind, head, rest, ok := frontMatter(s); ok {
		d.Title, d.Language = properties(kind, head)
		s = "```" + kind + "\n" + head + "\n```\n\n" + strings.TrimLeft(rest, "\n")
		s = strings.TrimRight(s, "\n")
	}
	if d.Title == "" {
		d.Title = firstHeading(s)
	}
	d.Pages = []doc.Page{{Number: 1, Markdown: s, ReadBy: doc.ByText}}
	if opts.Progress != nil {
		opts.Progress(1, 1)
	}
	return d, nil
}

// maxFront is how far the end of the front matter is looked for.
const maxFront = 64 << 10

// frontMatter splits off YAML between --- or TOML between +++ at the start.
func frontMatter(s string) (kind, head, rest string, ok bool) {
	for _, f := range []struct{ mark, kind string }{{"---", "yaml"}, {"+++", "toml"}} {
		first, body, found := strings.Cut(s, "\n")
		if !found || strings.TrimRight(first, " \t") != f.mark {
			continue
		}
		off := 0
		for off < len(body) && off < maxFront {
			line, _, more := strings.Cut(body[off:], "\n")
			if t := strings.TrimRight(line, " \t"); t == f.mark || f.kind == "yaml" && t == "..." {
				end := off + len(line)
				if more {
					end++
				}
				head = strings.Trim(body[:off], "\n")
				// A rule at the start of a text is no front matter: that has keys.
				if !strings.ContainsAny(head, ":=") {
					return "", "", "", false
				}
				return f.kind, head, body[end:], true
			}
			if !more {
				break
			}
			off += len(line) + 1
		}
	}
	return "", "", "", false
}

func properties(kind, head string) (title, language string) {
	values := map[string]string{}
	if kind == "yaml" {
		var m map[string]any
		if yaml.Unmarshal([]byte(head), &m) == nil {
			for k, v := range m {
				if s, ok := v.(string); ok {
					values[strings.ToLower(k)] = s
				}
			}
		}
	} else {
		for l := range strings.SplitSeq(head, "\n") {
			if k, v, ok := strings.Cut(l, "="); ok {
				values[strings.ToLower(strings.TrimSpace(k))] = strings.Trim(strings.TrimSpace(v), `"'`)
			}
		}
	}
	if language = values["lang"]; language == "" {
		language = values["language"]
	}
	return strings.TrimSpace(values["title"]), strings.TrimSpace(language)
}

// firstHeading returns the text of a heading that the document begins with.
func firstHeading(s string) string {
	code := false
	for l := range strings.SplitSeq(s[:min(len(s), maxFront)], "\n") {
		if strings.HasPrefix(l, "```") {
			code = !code
		}
		if !code && strings.HasPrefix(l, "# ") {
			return strings.TrimSpace(strings.TrimRight(l[2:], "# "))
		}
	}
	return ""
}
