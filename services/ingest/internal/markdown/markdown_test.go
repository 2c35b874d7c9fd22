package markdown_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/markdown"
)

func TestRead(t *testing.T) {
	for _, c := range []struct{ name, in, want, title, lang string }{
		{"as it is", "# Bees\n\n* a\n* b\n\n| x | y |\n|--|--|\n| 1 | 2 |\n", "# Bees\n\n* a\n* b\n\n| x | y |\n|--|--|\n| 1 | 2 |\n", "Bees", ""},
		{"front matter", "---\ntitle: The Bees\nlang: en\ntags: [a]\n---\n\n# Bees\n", "```yaml\ntitle: The Bees\nlang: en\ntags: [a]\n```\n\n# Bees\n", "The Bees", "en"},
		{"toml", "+++\ntitle = \"The Bees\"\n+++\ntext", "```toml\ntitle = \"The Bees\"\n```\n\ntext\n", "The Bees", ""},
		{"rule", "---\n\ntext\n\n---\n\nmore", "---\n\ntext\n\n---\n\nmore\n", "", ""},
		{"code is no heading", "```\n# no\n```\n\n# Yes #", "```\n# no\n```\n\n# Yes #\n", "Yes", ""},
		{"mark and line ends", "\ufeff# A\r\n\r\nb", "# A\n\nb\n", "A", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := markdown.Reader{}.Read(context.Background(), bytes.NewReader([]byte(c.in)), int64(len(c.in)), doc.Options{})
			require.NoError(t, err)
			assert.Equal(t, c.want, d.Markdown())
			assert.Equal(t, c.title, d.Title)
			assert.Equal(t, c.lang, d.Language)
		})
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("---\na: b\n---\nc"))
	f.Add([]byte("+++\n=\n+++"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := markdown.Reader{}.Read(context.Background(), bytes.NewReader(b), int64(len(b)), doc.Options{})
		if err == nil && d == nil {
			t.Fatal("neither a document nor an error")
		}
	})
}
