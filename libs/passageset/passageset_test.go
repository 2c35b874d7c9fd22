package passageset_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/passageset"
)

func TestRoundTrip(t *testing.T) {
	want := []clara.Passage{
		{Ordinal: 0, Text: "a <b> & \u2028 c", Headings: []string{"H"}, PageFirst: 1, PageLast: 2, Hash: "x", Tokens: 3, File: "f.pdf"},
		{Ordinal: 1, Text: strings.Repeat("长", 100_000), Hash: "y"},
	}
	var b bytes.Buffer
	n, err := passageset.Write(&b, func(yield func(clara.Passage, error) bool) {
		for _, p := range want {
			if !yield(p, nil) {
				return
			}
		}
	})
	require.NoError(t, err)
	require.Equal(t, 2, n)
	var got []clara.Passage
	for p, err := range passageset.Read(&b) {
		require.NoError(t, err)
		got = append(got, p)
	}
	assert.Equal(t, want, got)
}

func TestReadBroken(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"no json", "{", "line 1"},
		{"cut", `{"ordinal":0,"text":"a","hash":"h"}` + "\n" + `{"ordinal":1,"te`, "line 2"},
		{"hole", `{"ordinal":1,"text":"a","hash":"h"}` + "\n", "holds passage 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var err error
			for _, err = range passageset.Read(strings.NewReader(c.in)) {
			}
			assert.ErrorContains(t, err, c.want)
			assert.Equal(t, clara.Corrupt, clara.KindOf(err))
		})
	}
}
