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
