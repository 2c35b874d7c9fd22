package quant

import (
	"context"
	"math"
	"runtime"
	"slices"
	"sync"
)

// RoundWith is Round to 4 bits for inputs that are known: gram [in, in] is the sum of x x^T over the inputs x that a matrix
// meets. Columns are rounded from the first to the last, and what rounding one takes from x W^T is made up for by those
// that are still to come, as far as they can (Frantar et al. 2022, GPTQ, in groups of 32 and in the columns' own order). It
// takes out*in^2 steps, and in^3. ok is false where in is no multiple of 32; the error is that of ctx.
func RoundWith(ctx context.Context, values []float32, out, in int, gram []float32) (m Matrix, ok bool, err error) {
	f, ok := RoundFormat(4, in)
	if !ok || len(gram) != in*in || len(values) != out*in {
		return Matrix{}, false, nil
	}
	upper, err := inverseRoot(ctx, gram, in)
	if err != nil {
		return Matrix{}, true, err
	}
	m = newMatrix(f, out, in)
	rows(out, func(from, to int) {
		codes := make([]byte, group)
		const tile = 16 // rows that go through a part of upper together, while it is near
		for n := from; n < to && ctx.Err() == nil; n += tile {
			end := min(n+tile, to)
			m.roundRows(slices.Clone(values[n*in:end*in]), n, end, upper, codes)
		}
	})
	return m, true, ctx.Err()
}

// part is how many columns are rounded before those after them are touched.
const part = 4 * group

// roundRows rounds rows [from, to), which w holds and which are spent.
func (m Matrix) roundRows(w []float32, from, to int, upper []float32, codes []byte) {
	in := m.In
	errs := make([]float32, (to-from)*part)
	for begin := 0; begin < in; begin += part {
		end := min(begin+part, in)
		for n := range to - from {
			row, e := w[n*in:(n+1)*in], errs[n*part:(n+1)*part]
			for g := begin / group; g < end/group; g++ {
				at := (from+n)*m.groups() + g
				low := slices.Min(row[g*group : (g+1)*group])
				m.Scale[at], m.Shift[at] = round4(row[g*group:(g+1)*group], codes)
				scale := m.Scale[at]
				for i := range group {
					k := g*group + i
					codes[i] = byte(nearest(row[k]-low, scale, 0, 15))
					lost := (row[k] - (scale*(float32(codes[i])-8) + m.Shift[at])) / upper[k*in+k]
					e[k-begin] = lost
					after := row[k+1 : end]
					for j, u := range upper[k*in+k+1 : k*in+end] {
						after[j] -= lost * u
					}
				}
				m.pack((from+n)*in+g*group, codes)
			}
		}
		// What the columns of this part lost, to all after it, a stretch of columns at a time.
		const stretch = 512
		for lo := end; lo < in; lo += stretch {
			hi := min(lo+stretch, in)
			for n := range to - from {
				after, e := w[n*in+lo:n*in+hi], errs[n*part:(n+1)*part]
				for k := begin; k < end; k += 4 { // parts are of multiples of four
					e0, e1, e2, e3 := e[k-begin], e[k-begin+1], e[k-begin+2], e[k-begin+3]
					u0, u1 := upper[k*in+lo:k*in+hi], upper[(k+1)*in+lo:(k+1)*in+hi]
					u2, u3 := upper[(k+2)*in+lo:(k+2)*in+hi], upper[(k+3)*in+lo:(k+3)*in+hi]
					u0, u1, u2, u3 = u0[:len(after)], u1[:len(after)], u2[:len(after)], u3[:len(after)]
					for j := range after {
						after[j] -= e0*u0[j] + e1*u1[j] + e2*u2[j] + e3*u3[j]
					}
				}
			}
		}
	}
}

// inverseRoot returns the upper triangular U with U^T U = G^-1, where G is gram with a hundredth of its mean diagonal added
// to the diagonal. Turned around, G is R R^T with an upper R, and U is R's inverse: one factorisation and one inversion.
func inverseRoot(ctx context.Context, gram []float32, n int) ([]float32, error) {
	a := make([]float64, n*n) // turned around
	mean := 0.0
	for i := range n {
		mean += float64(gram[i*n+i]) / float64(n)
	}
	if mean <= 0 || math.IsNaN(mean) || math.IsInf(mean, 0) {
		mean = 1 // no input ever came: nothing to go by
	}
	for i := range n {
		for j := range n {
			a[(n-1-i)*n+n-1-j] = float64(gram[i*n+j])
		}
	}
	for i := range n {
		a[i*n+i] += 0.01 * mean
	}
	if err := factor(ctx, a, n); err != nil {
		return nil, err
	}
	inverse := make([]float64, n*n)
	columns(n, func(from, to int) {
		for i := from; i < n && ctx.Err() == nil; i++ {
			x := inverse[i*n+from : i*n+min(to, i+1)]
			k := from
			for ; k < min(to, i); k++ { // rows that end within the range
				l := a[i*n+k]
				for j, v := range inverse[k*n+from : k*n+k+1] {
					x[j] -= l * v
				}
			}
			for ; k+4 <= i; k += 4 {
				l0, l1, l2, l3 := a[i*n+k], a[i*n+k+1], a[i*n+k+2], a[i*n+k+3]
				v0, v1 := inverse[k*n+from:k*n+to], inverse[(k+1)*n+from:(k+1)*n+to]
				v2, v3 := inverse[(k+2)*n+from:(k+2)*n+to], inverse[(k+3)*n+from:(k+3)*n+to]
				v0, v1, v2, v3 = v0[:len(x)], v1[:len(x)], v2[:len(x)], v3[:len(x)]
				for j := range x {
					x[j] -= l0*v0[j] + l1*v1[j] + l2*v2[j] + l3*v3[j]
				}
			}
			for ; k < i; k++ {
				l := a[i*n+k]
				for j, v := range inverse[k*n+from : k*n+to] {
					x[j] -= l * v
				}
			}
			if i < to {
				x[i-from]++
			}
			d := 1 / a[i*n+i]
			for j := range x {
				x[j] *= d
			}
		}
	})
	upper := make([]float32, n*n)
	for i := range n {
		for j := i; j < n; j++ {
			upper[i*n+j] = float32(inverse[(n-1-i)*n+n-1-j])
		}
	}
	return upper, ctx.Err()
}

// factor replaces the lower triangle of a, which is symmetric and positive, by L with L L^T = a.
func factor(ctx context.Context, a []float64, n int) error {
	const panel = 64 // columns
	for begin := 0; begin < n; begin += panel {
		if err := ctx.Err(); err != nil {
			return err
		}
		end := min(begin+panel, n)
		finish := func(i int) {
			row := a[i*n : (i+1)*n]
			for j := begin; j < min(end, i); j++ {
				row[j] = (row[j] - dot(row[:j], a[j*n:j*n+j])) / a[j*n+j]
			}
		}
		for i := begin; i < end; i++ {
			finish(i)
			rest := a[i*n+i] - dot(a[i*n:i*n+i], a[i*n:i*n+i])
			a[i*n+i] = math.Sqrt(max(rest, 1e-12*a[i*n+i], math.SmallestNonzeroFloat32))
		}
		rows(n-end, func(from, to int) {
			for i := end + from; i < end+to; i++ {
				finish(i)
			}
		})
	}
	return nil
}

func dot(x, y []float64) float64 {
	var a, b, c, d float64
	y = y[:len(x)]
	i := 0
	for ; i+4 <= len(x); i += 4 {
		a += x[i] * y[i]
		b += x[i+1] * y[i+1]
		c += x[i+2] * y[i+2]
		d += x[i+3] * y[i+3]
	}
	for ; i < len(x); i++ {
		a += x[i] * y[i]
	}
	return a + b + c + d
}

// columns runs f over ranges of a lower triangle's columns, several a core: the first ones are the longest.
func columns(n int, f func(from, to int)) {
	const width = 32
	var wg sync.WaitGroup
	next := make(chan int)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for from := range next {
				f(from, min(from+width, n))
			}
		})
	}
	for from := 0; from < n; from += width {
		next <- from
	}
	close(next)
	wg.Wait()
}
