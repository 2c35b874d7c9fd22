package minilm_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/testkit/partstest"
	"github.com/clara-suite/clara/services/synthesis/internal/minilm"
)

func dot(a, b []float32) float64 {
	var s float64
	for i := range a {
		s += float64(a[i]) * float64(b[i])
	}
	return s
}

func TestEmbed(t *testing.T) {
	m, err := minilm.Open("")
	if clara.KindOf(err) == clara.State {
		partstest.Fetched(t, err)
	}
	require.NoError(t, err)
	defer m.Close()
	v, err := m.Embed(t.Context(), []string{"A man is eating food.", "A man is eating a piece of bread.", "Two women play the violin in an orchestra on Sunday evening.", ""})
	require.NoError(t, err)
	require.Len(t, v, 4)
	assert.InDelta(t, 1, dot(v[0], v[0]), 1e-5)
	// The value that the model's own documentation code gives for this pair.
	assert.InDelta(t, 0.7553, dot(v[0], v[1]), 0.01)
	assert.Less(t, dot(v[0], v[2]), 0.2)

	// Padding changes nothing.
	alone, err := m.Embed(t.Context(), []string{"A man is eating food."})
	require.NoError(t, err)
	assert.InDelta(t, 1, dot(alone[0], v[0]), 1e-5)
}

func TestOpenSaysWhatIsMissing(t *testing.T) {
	_, err := minilm.Open(t.TempDir())
	require.Error(t, err)
	assert.Equal(t, clara.State, clara.KindOf(err))
	assert.Contains(t, err.Error(), "scripts/deps.sh minilm")
}
