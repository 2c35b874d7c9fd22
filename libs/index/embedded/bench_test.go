package embedded_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/index/embedded"
	"github.com/clara-suite/clara/libs/index/indextest"
)

// BenchmarkIndex measures an exact search through the client over 10,000
// memories of 9,216 values, and a plain read of as many bytes by as many
// threads, turn by turn. The aim is a ratio of at most 2.5. Run by make bench-index.
func BenchmarkIndex(b *testing.B) {
	const n, m, h = 10_000, 16, 576
	s, err := embedded.Open(embedded.Options{Dir: b.TempDir()})
	require.NoError(b, err)
	defer func() { require.NoError(b, s.Close()) }()
	c, err := index.Open(b.Context(), index.Options{Dial: s.Dial})
	require.NoError(b, err)
	defer func() { require.NoError(b, c.Close()) }()
	x, err := c.Ensure(b.Context(), "bench.1", index.Schema{M: m, H: h})
	require.NoError(b, err)

	rng := rand.New(rand.NewPCG(1, 2))
	start := time.Now()
	for from := 0; from < n; from += 250 {
		var points []index.Point
		for i := range 250 {
			points = append(points, index.Point{Passage: indextest.Passage("d", from+i, fmt.Sprint(from+i)), Memory: indextest.Memory(rng, m, h)})
		}
		require.NoError(b, x.Upsert(b.Context(), points))
	}
	seconds := time.Since(start).Seconds()
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	b.Logf("%.0f upserts/s, with what draws the numbers; heap with %d points: %.1f MiB", n/seconds, n, float64(memory.HeapAlloc)/(1<<20))
	query := indextest.Memory(rng, m, h)
	data := bytes.Repeat([]byte{1}, n*m*h*2)

	for _, k := range []int{5, 20} {
		b.Run(fmt.Sprintf("k=%d", k), func(b *testing.B) {
			var searches, reads []time.Duration
			for b.Loop() {
				start := time.Now()
				found, err := x.SearchMemory(b.Context(), query, k, index.Filter{Collection: "handbook"})
				searches = append(searches, time.Since(start))
				if err != nil || len(found) != k {
					b.Fatal(len(found), err)
				}
				start = time.Now()
				read(data)
				reads = append(reads, time.Since(start))
			}
			search, plain := median(searches), median(reads)
			b.ReportMetric(search.Seconds()*1e3, "search-ms")
			b.ReportMetric(plain.Seconds()*1e3, "read-ms")
			b.ReportMetric(float64(len(data))/plain.Seconds()/1e9, "read-GB/s")
			b.ReportMetric(search.Seconds()/plain.Seconds(), "ratio")
			b.ReportMetric(0, "ns/op") // both together: says nothing
		})
	}
	b.Run("memories", func(b *testing.B) {
		var found []clara.Candidate
		found, err = x.SearchMemory(b.Context(), query, 5, index.Filter{})
		require.NoError(b, err)
		var ids []string
		for _, f := range found {
			ids = append(ids, f.PointID)
		}
		for b.Loop() {
			if _, err := x.Memories(b.Context(), ids); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// read goes through all bytes on all processors, by the fastest loop of the standard library that looks at each.
func read(data []byte) {
	workers := runtime.GOMAXPROCS(0)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			if bytes.IndexByte(data[len(data)*w/workers:len(data)*(w+1)/workers], absent) >= 0 {
				panic("found what is not there")
			}
		})
	}
	wg.Wait()
}

const absent = 2

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
