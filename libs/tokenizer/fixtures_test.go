package tokenizer_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/tokenizer"
)

// fixture is a file of testdata/make_fixtures.py.
type fixture struct {
	name  string
	tok   *tokenizer.Tokenizer
	cases []fixtureCase
}

type fixtureCase struct {
	text             string
	ids, ends        []int32
	decoded, skipped string
}

func fixtures(t testing.TB) []fixture { return fixturesOf(t, "*") }

func fixturesOf(t testing.TB, name string) []fixture {
	files, err := filepath.Glob(filepath.Join("testdata", name+".json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var out []fixture
	for _, file := range files {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		var j struct {
			Tokenizer json.RawMessage
			Cases     [][5]json.RawMessage
		}
		require.NoError(t, json.Unmarshal(b, &j))
		f := fixture{name: strings.TrimSuffix(filepath.Base(file), ".json")}
		f.tok, err = tokenizer.Parse(tokenizer.Files{Tokenizer: j.Tokenizer})
		require.NoError(t, err, file)
		for _, raw := range j.Cases {
			var c fixtureCase
			for i, to := range []any{&c.text, &c.ids, &c.ends, &c.decoded, &c.skipped} {
				require.NoError(t, json.Unmarshal(raw[i], to))
			}
			f.cases = append(f.cases, c)
		}
		out = append(out, f)
	}
	return out
}

func TestEqualToTheReferenceLibrary(t *testing.T) {
	for _, f := range fixtures(t) {
		t.Run(f.name, func(t *testing.T) {
			for _, c := range f.cases {
				ids := f.tok.EncodeTrusted(c.text)
				assert.Equal(t, c.ids, append([]int32{}, ids...), "%q", c.text)
				assert.Equal(t, c.decoded, f.tok.Decode(c.ids, false), "%q", c.text)
				assert.Equal(t, c.skipped, f.tok.Decode(c.ids, true), "%q", c.text)
				if all := f.tok.AddSpecials(ids); len(all) > 0 {
					assert.Equal(t, c.ends, []int32{all[0], all[len(all)-1]}, "%q", c.text)
				}
				var withOffsets []int32
				for _, k := range f.tok.EncodeMixedOffsets(c.text, nil) {
					withOffsets = append(withOffsets, k.ID)
					assert.LessOrEqual(t, k.Start, k.End)
					assert.LessOrEqual(t, k.End, len(c.text))
				}
				assert.Equal(t, ids, withOffsets, "%q", c.text)
			}
		})
	}
}
