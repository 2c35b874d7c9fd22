package roofline_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/clara-suite/clara/libs/testkit/roofline"
)

func TestRates(t *testing.T) {
	fma := roofline.FMA(1)
	assert.Positive(t, fma)
	t.Logf("%.0f GFLOP/s with one thread", fma/1e9)
}

func BenchmarkMachine(b *testing.B) {
	for range b.N {
		b.ReportMetric(roofline.FMA(1)/1e9, "GFLOP/s-1")
		b.ReportMetric(roofline.FMA(2)/1e9, "GFLOP/s-2")
		b.ReportMetric(roofline.Read(1)/1e9, "GB/s-1")
		b.ReportMetric(roofline.Read(2)/1e9, "GB/s-2")
	}
}
