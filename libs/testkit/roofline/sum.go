package roofline

import "sync/atomic"

// sink keeps results alive.
var sink [64]atomic.Uint64

func sum(x []uint64) uint64 {
	var a, b, c, d uint64
	for len(x) >= 8 {
		a += x[0] + x[4]
		b += x[1] + x[5]
		c += x[2] + x[6]
		d += x[3] + x[7]
		x = x[8:]
	}
	return a + b + c + d
}
