package candidate_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/services/synthesis/internal/candidate"
)

// chunks are 0 the positive, 1 the same with other white space and a word more, 2 one that holds the answer, 3 one on
// the subject that does not, and others.
func chunks() []string {
	out := []string{
		"The harbour of Lindau was dredged in 1987 to a depth of five metres because the new ferries could not enter it at low water.",
		"The harbour of Lindau was dredged in 1987 to a depth of five metres  because the new ferries could not enter it at low water then.",
		"A list of works: breakwater 1902, lighthouse 1956, the harbour of Lindau was dredged in 1987, fuel dock 1991, promenade 2004.",
		"The harbour of Lindau has a lighthouse that was painted white, and a lion of stone which looks out over the lake to the south.",
	}
	for i := range 30 {
		out = append(out, fmt.Sprintf("Machine %d stands in hall %d and is oiled by crew %d every %d days, as its maker in town %d says.", i, i*3, i*7, i+2, i*11))
	}
	return out
}

func question() candidate.Question {
	return candidate.Question{ID: "q", Text: "When was the harbour of Lindau dredged?", Answer: "The harbour of Lindau was dredged in 1987", Positives: []int{0}}
}

func TestChoose(t *testing.T) {
	list := chunks()
	vectors := make([][]float32, len(list))
	for i := range vectors {
		vectors[i] = []float32{1, float32(i), 0.5}
	}
	for name, ranker := range map[string]candidate.Ranker{"random": candidate.Random{N: len(list), Seed: 3}, "bm25": candidate.NewBM25(list), "vectors": candidate.NewVectors(vectors)} {
		t.Run(name, func(t *testing.T) {
			for _, k := range []int{1, 2, 5, 20} {
				c, err := candidate.NewSelector(list, ranker, k, 9).Choose(t.Context(), question())
				require.NoError(t, err)
				require.Len(t, c.Chunks, k)
				require.Equal(t, []int{slices.Index(c.Chunks, 0)}, c.Positives)
				assert.NotContains(t, c.Chunks, 1, "a near-duplicate of the positive")
				assert.NotContains(t, c.Chunks, 2, "a chunk that holds the answer")
				assert.Len(t, slices.Compact(slices.Sorted(slices.Values(c.Chunks))), k, "no chunk twice")
				again, err := candidate.NewSelector(list, ranker, k, 9).Choose(t.Context(), question())
				require.NoError(t, err)
				assert.Equal(t, c, again)
			}
		})
	}
}

func TestHardNegativesAreNear(t *testing.T) {
	list := chunks()
	c, err := candidate.NewSelector(list, candidate.NewBM25(list), 2, 1).Choose(t.Context(), question())
	require.NoError(t, err)
	assert.Contains(t, c.Chunks, 3)
	assert.Equal(t, 2, c.Filtered)
}

func TestPositivesMove(t *testing.T) {
	list := chunks()
	s := candidate.NewSelector(list, candidate.Random{N: len(list), Seed: 1}, 5, 1)
	at := map[int]int{}
	for i := range 300 {
		q := question()
		q.ID = fmt.Sprint(i)
		c, err := s.Choose(t.Context(), q)
		require.NoError(t, err)
		at[c.Positives[0]]++
	}
	for place := range 5 {
		assert.Greater(t, at[place], 30, "the positive is everywhere about equally often: %v", at)
	}
}

func TestTwoPositivesAndNone(t *testing.T) {
	list := chunks()
	s := candidate.NewSelector(list, candidate.NewBM25(list), 4, 5)
	q := question()
	q.Positives = []int{0, 7}
	c, err := s.Choose(t.Context(), q)
	require.NoError(t, err)
	require.Len(t, c.Chunks, 4)
	require.Len(t, c.Positives, 2)
	assert.ElementsMatch(t, []int{0, 7}, []int{c.Chunks[c.Positives[0]], c.Chunks[c.Positives[1]]})
	q.Positives, q.Answer = nil, ""
	c, err = s.Choose(t.Context(), q)
	require.NoError(t, err)
	assert.Len(t, c.Chunks, 4)
	assert.Equal(t, []int{}, c.Positives, "known to be none")
}

func TestTooFewChunks(t *testing.T) {
	list := chunks()[:4]
	c, err := candidate.NewSelector(list, candidate.NewBM25(list), 10, 5).Choose(t.Context(), question())
	require.NoError(t, err)
	assert.ElementsMatch(t, []int{0, 3}, c.Chunks, "what may answer the question does not fill up")
}

func FuzzChoose(f *testing.F) {
	f.Add("a b c\nd e f\na b c d\n水泵每月检查", "a b?", "c", 3, int64(1))
	f.Add("\n\n", "", "", 20, int64(-1))
	f.Fuzz(func(t *testing.T, text, q, answer string, k int, seed int64) {
		list := strings.Split(text, "\n")
		if k < 1 || k > 20 || len(list) > 50 {
			return
		}
		for _, r := range []candidate.Ranker{candidate.NewBM25(list), candidate.Random{N: len(list), Seed: seed}} {
			c, err := candidate.NewSelector(list, r, k, seed).Choose(t.Context(), candidate.Question{ID: q, Text: q, Answer: answer, Positives: []int{len(list) - 1}})
			if err != nil || len(c.Chunks) == 0 || len(c.Chunks) > k || len(c.Positives) != 1 || c.Chunks[c.Positives[0]] != len(list)-1 {
				t.Fatalf("%+v %v", c, err)
			}
		}
	})
}

// A chunk that comes or goes changes no choice but those that it is part of.
func TestRelatedDependsOnTwoChunksAlone(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	vocabulary := strings.Fields("harbour crane ferry quay dredging tonnes master log tower buoy valve pump turbine gearbox bearing 港口 起重机 渡轮 码头 疏浚")
	chunks := make([]string, 40)
	for i := range chunks {
		var words []string
		for range 8 {
			words = append(words, vocabulary[rng.IntN(len(vocabulary))])
		}
		chunks[i] = strings.Join(words, " ") + fmt.Sprint(" ", i)
	}
	every := func(int) bool { return true }
	all := candidate.NewRelated(chunks)
	chosen := 0
	for gone := range chunks {
		rest := slices.Delete(slices.Clone(chunks), gone, gone+1)
		fewer := candidate.NewRelated(rest)
		for i := range rest {
			was := i
			if i >= gone {
				was++
			}
			j, ok := all.Best(was, every)
			k, okay := fewer.Best(i, every)
			if !ok {
				assert.False(t, okay)
				continue
			}
			if j == gone {
				continue
			}
			require.True(t, okay)
			assert.Equal(t, chunks[j], rest[k])
			chosen++
		}
	}
	assert.Greater(t, chosen, 1000)
	_, ok := candidate.NewRelated([]string{"harbour crane", "valve pump"}).Best(0, every)
	assert.False(t, ok, "nothing in common")
	j, ok := candidate.NewRelated([]string{"harbour crane", "harbour crane ferry", "harbour"}).Best(0, func(j int) bool { return j != 1 })
	assert.True(t, ok)
	assert.Equal(t, 2, j)
}
