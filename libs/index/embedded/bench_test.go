package embedded_test

import (
	"bytes"
	"context"
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
// memories of 9,216 values in each precision, and a plain read of as many bytes
// by as many threads, turn by turn. The aim is a ratio of at most 2.5 in half
// precision. Run by make bench-index.
func BenchmarkIndex(b *testing.B) {
	const n, m, h = 10_000, 16, 576
	s, err := embedded.Open(embedded.Options{Dir: b.TempDir()})
	require.NoError(b, err)
	defer func() { require.NoError(b, s.Close()) }()
	c, err := index.Open(b.Context(), index.Options{Dial: s.Dial})
	require.NoError(b, err)
	defer func() { require.NoError(b, c.Close()) }()
	for _, p := range index.Precisions() {
		b.Run(p.String(), func(b *testing.B) {
			schema := index.Schema{M: m, H: h, Memories: p}
			x, err := c.Ensure(b.Context(), "bench."+p.String()+".1", schema)
			require.NoError(b, err)
			defer func() { require.NoError(b, c.Drop(context.WithoutCancel(b.Context()), x.Name())) }()
			benchmarkIndex(b, x, n)
		})
	}
}

func benchmarkIndex(b *testing.B, x *index.Index, n int) {
	m, h := x.Schema().M, x.Schema().H
	rng := rand.New(rand.NewPCG(1, 2))
	var writing time.Duration
	for from := 0; from < n; from += 250 {
		var points []index.Point
		for i := range 250 {
			points = append(points, index.Point{Passage: indextest.Passage("d", from+i, fmt.Sprint(from+i)), Memory: indextest.Memory(rng, m, h)})
		}
		start := time.Now()
		require.NoError(b, x.Upsert(b.Context(), points))
		writing += time.Since(start)
	}
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	b.Logf("%s: %d bytes a memory, %.0f upserts/s; heap with %d points: %.1f MiB",
		x.Schema().Memories, x.Schema().MemoryBytes(), float64(n)/writing.Seconds(), n, float64(memory.HeapAlloc)/(1<<20))
	query := indextest.Memory(rng, m, h)
	// The bytes of the vectors that a search goes through.
	data := bytes.Repeat([]byte{1}, n*m*h*2>>x.Schema().Memories)

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
		found, err := x.SearchMemory(b.Context(), query, 5, index.Filter{})
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
