// Package roofline measures what a machine can do at most, for benchmarks to be held against: float32
// multiply-adds out of registers. For tests only.
package roofline

import (
	"runtime"
	"slices"
	"sync"
	"time"
)

// rounds is how often each measurement is made; the median counts.
const rounds = 9

// FMA returns how many floating point operations a second so many threads make of the machine's widest
// multiply-adds, two operations for each number. It takes a fraction of a second.
func FMA(threads int) float64 {
	const loops = 200_000
	return median(threads, func(int) float64 { return loops * fma(loops) })
}

// median runs f on every thread at once and returns the median of the rounds, in units of f a second.
func median(threads int, f func(thread int) float64) float64 {
	rates := make([]float64, rounds)
	for r := range rates {
		var wg sync.WaitGroup
		done := make([]float64, threads)
		start := time.Now()
		for i := range threads {
			wg.Go(func() {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				done[i] = f(i)
			})
		}
		wg.Wait()
		took := time.Since(start).Seconds()
		for _, d := range done {
			rates[r] += d / took
		}
	}
	slices.Sort(rates)
	return rates[rounds/2]
}
