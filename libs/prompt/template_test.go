package prompt_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/prompt"
)

// templates is testdata/templates.json: templates that behave like those of each family, and what Jinja2 with the
// settings of Hugging Face makes of conversations with them.
type templates struct {
	Templates     map[string]string
	Conversations [][]struct{ Role, Content string }
	Cases         []struct {
		Template string
		Messages int
		Generate bool
		Want     string
	}
	Snippets []struct{ Source, Want string }
}

func readTemplates(t testing.TB) templates {
	b, err := os.ReadFile(filepath.Join("testdata", "templates.json"))
	require.NoError(t, err)
	var j templates
	require.NoError(t, json.Unmarshal(b, &j))
	require.NotEmpty(t, j.Cases)
	require.NotEmpty(t, j.Snippets)
	return j
}

func day() time.Time { return time.Date(2024, 7, 26, 12, 0, 0, 0, time.UTC) }

func (j templates) messages(i int) []prompt.Message {
	var out []prompt.Message
	for _, m := range j.Conversations[i] {
		out = append(out, prompt.Message{Role: m.Role, Content: []prompt.Part{prompt.Trusted(m.Content)}})
	}
	return out
}

func TestFamiliesRenderAsJinja(t *testing.T) {
	j := readTemplates(t)
	for _, c := range j.Cases {
		t.Run(c.Template, func(t *testing.T) {
			tmpl, err := prompt.NewTemplate(j.Templates[c.Template], day)
			require.NoError(t, err)
			m := j.messages(c.Messages)
			r, err := tmpl.Render(m, prompt.Vars{BOS: "<s>", EOS: "</s>", AddGenerationPrompt: c.Generate}, nil)
			if words, raised := strings.CutPrefix(c.Want, "RAISED "); raised {
				if err != nil {
					assert.Equal(t, clara.Invalid, clara.KindOf(err))
					assert.ErrorContains(t, err, words)
					return
				}
				// The template refused the system role: it takes system and user text as one.
				require.Equal(t, "system", m[0].Role)
				assert.Contains(t, r.Text, strings.TrimSpace(m[0].Content[0].Text+"\n"+m[1].Content[0].Text))
				return
			}
			require.NoError(t, err)
			assert.Equal(t, c.Want, r.Text)
		})
	}
}

func TestSnippetsRenderAsJinja(t *testing.T) {
	j := readTemplates(t)
	for _, c := range j.Snippets {
		t.Run(c.Source, func(t *testing.T) {
			tmpl, err := prompt.NewTemplate(c.Source, day)
			require.NoError(t, err)
			r, err := tmpl.Render(j.messages(0), prompt.Vars{BOS: "<s>", EOS: "</s>", AddGenerationPrompt: true}, nil)
			require.NoError(t, err)
			assert.Equal(t, c.Want, r.Text)
		})
	}
}

func TestTemplateErrors(t *testing.T) {
	_, err := prompt.NewTemplate("", nil)
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
	for _, source := range []string{"{% if %}", "{{ (1 }}", "{% nothing %}", "{{ 1 | nofilter"} {
		_, err := prompt.NewTemplate(source, nil)
		if assert.Error(t, err, source) {
			assert.Equal(t, clara.Unsupported, clara.KindOf(err))
		}
	}
	for _, source := range []string{"{% include '/etc/hostname' %}", "{% import '/etc/hostname' as x %}", "{{ raise_exception('no') }}"} {
		tmpl, err := prompt.NewTemplate(source, nil)
		if err == nil {
			_, err = tmpl.Render(nil, prompt.Vars{}, nil)
		}
		assert.Error(t, err, source)
	}
}

func FuzzRender(f *testing.F) {
	j := readTemplates(f)
	f.Add("{{ ('a' if x else 'b') }}")
	f.Add("{% for m in messages %}{{ m.content[::-1] }}{% endfor %}")
	for _, s := range j.Snippets {
		f.Add(s.Source)
	}
	f.Fuzz(func(t *testing.T, source string) {
		tmpl, err := prompt.NewTemplate(source, day)
		if err == nil && !strings.Contains(source, "range") && !strings.Contains(source, "*") {
			_, _ = tmpl.Render([]prompt.Message{{Role: "user", Content: []prompt.Part{prompt.Plain(source)}}}, prompt.Vars{}, nil)
		}
	})
}
