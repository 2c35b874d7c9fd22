package topk_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/testkit/partstest"
	"github.com/clara-suite/clara/libs/topk"
)

func TestSelect(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		name   string
		scores []float64
		k      int
		want   []int
	}{
		{"plain", []float64{1, 3, 2}, 2, []int{1, 2}},
		{"ties to the lower index", []float64{1, 2, 2, 1}, 3, []int{1, 2, 0}},
		{"all", []float64{5, 6}, 2, []int{1, 0}},
		{"nan last", []float64{nan, 1, nan, 2}, 3, []int{3, 1, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := topk.Select(c.scores, c.k)
			require.NoError(t, err)
			assert.Equal(t, c.want, got)
		})
	}
	for _, k := range []int{0, 3} {
		_, err := topk.Select([]float64{1, 2}, k)
		assert.Equal(t, clara.Invalid, clara.KindOf(err))
	}
	_, err := topk.Compute([]float64{1}, 1, 0)
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
}

func TestGradientIsThatOfTheSoftRows(t *testing.T) {
	scores := []float64{0.3, 0.1, 0.32, -0.2, 0.29}
	r := []float64{0.5, -1, 2, 0.1, -0.7, 1, 0.3, -0.2, 0.9, 0.4, -0.1, 0.8, 0.2, -0.5, 1.5}
	res, err := topk.Compute(scores, 3, 0.5)
	require.NoError(t, err)
	assert.Equal(t, []int{2, 0, 4}, res.Index)
	assert.Equal(t, []float64{0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1}, res.W())
	loss := func(s []float64) float64 {
		res, err := topk.Compute(s, 3, 0.5)
		require.NoError(t, err)
		sum := 0.0
		for i, p := range res.Soft() {
			sum += p * r[i]
		}
		return sum
	}
	got := res.Gradient(r)
	const h = 1e-6
	for i := range scores {
		up, down := append([]float64(nil), scores...), append([]float64(nil), scores...)
		up[i] += h
		down[i] -= h
		assert.InDelta(t, (loss(up)-loss(down))/(2*h), got[i], 1e-7)
	}
}

func TestGolden(t *testing.T) {
	root := partstest.Golden(t)
	files, err := filepath.Glob(filepath.Join(root, "*", "golden.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		var g struct {
			Cases []struct {
				Tau    float64       `json:"tau"`
				K      int           `json:"k"`
				Scores [][]float64   `json:"scores"`
				R      [][][]float64 `json:"R"`
				Index  [][]int       `json:"topk_idx"`
				W      [][][]float64 `json:"W"`
				Grad   [][]float64   `json:"grad_of_sum_W_times_R"`
			} `json:"differentiable_topk"`
		}
		require.NoError(t, json.Unmarshal(raw, &g))
		require.NotEmpty(t, g.Cases)
		for i, c := range g.Cases {
			for row := range c.Scores {
				t.Run(fmt.Sprintf("%s/%d/%d", filepath.Base(filepath.Dir(file)), i, row), func(t *testing.T) {
					res, err := topk.Compute(c.Scores[row], c.K, c.Tau)
					require.NoError(t, err)
					assert.Equal(t, c.Index[row], res.Index)
					w := res.W()
					var dW []float64
					for j := range c.R[row] {
						dW = append(dW, c.R[row][j]...)
						for n, want := range c.W[row][j] {
							assert.InDelta(t, want, w[j*res.N+n], 1e-6)
						}
					}
					norm := 0.0
					for _, want := range c.Grad[row] {
						norm = math.Hypot(norm, want)
					}
					// The reference's softmax is float32: 6e-8 on each p, times R / tau.
					for n, got := range res.Gradient(dW) {
						assert.InDelta(t, c.Grad[row][n], got, 1e-4*norm+2e-7/c.Tau)
					}
				})
			}
		}
	}
}

func ExampleCompute() {
	r, err := topk.Compute([]float64{0.1, 0.9, 0.5}, 2, 0.02)
	fmt.Println(r.Index, err)
	// Output: [1 2] <nil>
}
