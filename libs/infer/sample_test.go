package infer

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
)

func TestSampler(t *testing.T) {
	logits := []float32{0, 2, 1, 2, float32(math.Log(0.5))} // p ~ 1, 7.4, 2.7, 7.4, 0.5
	for _, c := range []struct {
		name string
		s    Sampling
		want map[int32]float64 // share of draws
	}{
		{"greedy takes the first of equals", Sampling{}, map[int32]float64{1: 1}},
		{"top 1", Sampling{Temperature: 1, TopK: 1}, map[int32]float64{1: 1}},
		{"top 2", Sampling{Temperature: 1, TopK: 2}, map[int32]float64{1: 0.5, 3: 0.5}},
		{"top p", Sampling{Temperature: 1, TopP: 0.85}, map[int32]float64{1: 0.423, 3: 0.423, 2: 0.155}},
		{"all", Sampling{Temperature: 1}, map[int32]float64{0: 0.053, 1: 0.390, 2: 0.143, 3: 0.390, 4: 0.026}},
		{"hot", Sampling{Temperature: 100}, map[int32]float64{0: 0.198, 1: 0.202, 2: 0.2, 3: 0.202, 4: 0.197}},
		{"cold", Sampling{Temperature: 0.01}, map[int32]float64{1: 0.5, 3: 0.5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.NoError(t, c.s.Check())
			const n = 20000
			s, again := newSampler(c.s), newSampler(c.s)
			got := map[int32]float64{}
			for range n {
				id, ok := s.next(logits)
				require.True(t, ok)
				same, _ := again.next(logits)
				require.Equal(t, id, same, "equal seeds draw equal tokens")
				got[id] += 1.0 / n
			}
			assert.InDeltaMapValues(t, c.want, got, 0.015)
		})
	}
	for _, bad := range []Sampling{{Temperature: -1}, {Temperature: math.NaN()}, {TopK: -1}, {TopP: 1.5}, {TopP: math.NaN()}} {
		assert.Equal(t, clara.Invalid, clara.KindOf(bad.Check()))
	}
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, bad := range [][]float32{{nan}, {1, nan}, {inf, 1}, {-inf}, {}} {
		_, ok := newSampler(Sampling{}).next(bad)
		assert.False(t, ok, "%v", bad)
	}
}

func TestTextStream(t *testing.T) {
	for _, c := range []struct {
		name  string
		stops []string
		push  []string
		want  []string // what each push hands out, then what is left
		stop  bool
	}{
		{"no stops", nil, []string{"a", "b"}, []string{"a", "b", ""}, false},
		{"in one piece", []string{"END"}, []string{"a", "bEND c"}, []string{"a", "b"}, true},
		{"over pieces", []string{"END"}, []string{"aE", "N", "Dx"}, []string{"a", "", ""}, true},
		{"not after all", []string{"END"}, []string{"aE", "N", "x"}, []string{"a", "", "ENx", ""}, false},
		{"held to the end", []string{"END"}, []string{"aEN"}, []string{"a", "EN"}, false},
		{"the first counts", []string{"late", "b"}, []string{"ab late"}, []string{"a"}, true},
		{"overlap", []string{"aab"}, []string{"aa", "a", "b"}, []string{"", "a", ""}, true},
		{"empty stop", []string{""}, []string{"a"}, []string{"a", ""}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := &textStream{stops: c.stops}
			var got []string
			stopped := false
			for _, p := range c.push {
				out, stop := x.push(p)
				got, stopped = append(got, out), stop
			}
			if !stopped {
				got = append(got, x.flush())
			}
			assert.Equal(t, c.want, got)
			assert.Equal(t, c.stop, stopped)
		})
	}
}
