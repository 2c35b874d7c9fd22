package roofline

import (
	"math"
	"sync/atomic"
)

// sink keeps the result alive.
var sink atomic.Uint64

// fmaScalar is the rate without vector instructions of our own: on such a machine the shares that
// benchmarks print say nothing.
func fmaScalar(loops int) float64 {
	a, b, c, d := 1.0, 2.0, 3.0, 4.0
	for range loops {
		a, b, c, d = math.FMA(a, 0.5, 1), math.FMA(b, 0.5, 1), math.FMA(c, 0.5, 1), math.FMA(d, 0.5, 1)
	}
	sink.Store(math.Float64bits(a + b + c + d))
	return 2 * 4
}
