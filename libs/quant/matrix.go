package quant

import (
	"runtime"
	"slices"
	"sync"

	"github.com/clara-suite/clara/libs/gguf"
)

// Format is how a Matrix holds its weights.
type Format struct {
	Bits    int // 4 or 8
	Group   int // weights that share a scale
	Shifted bool
	Halved  bool // 8 bits as two matrices of 4, see Halve
}

// Matrix is a matrix in blocks; see the package comment.
type Matrix struct {
	Format
	Out, In int
	Codes   []byte // of Rows rows, as Scale
	Scale   []float32
	Shift   []float32 // of Out rows; nil unless Shifted
}

// Rows returns the rows of codes: twice as many as the matrix has if it is halved.
func (f Format) Rows(out int) int {
	if f.Halved {
		return 2 * out
	}
	return out
}

// Halve writes a matrix of 8 bits as two of 4, one below the other, for products that take 4 bits only: code - 128 =
// 16 (high - 8) + (low - 8) + 8, so the product of the first Out rows, that of the others and the shift add up.
// It is exact but for the shift, which is rounded to float32.
func (m Matrix) Halve() Matrix {
	if m.Bits != 8 {
		return m
	}
	h := Matrix{Format: Format{Bits: 4, Group: m.Group, Shifted: true, Halved: true}, Out: m.Out, In: m.In}
	h.Codes, h.Scale, h.Shift = make([]byte, len(m.Codes)), make([]float32, 2*len(m.Scale)), make([]float32, len(m.Scale))
	half := len(m.Codes) / 2
	for i := range half {
		a, b := m.Codes[2*i], m.Codes[2*i+1]
		h.Codes[i], h.Codes[half+i] = a>>4|b&0xF0, a&15|b<<4
	}
	for i, scale := range m.Scale {
		h.Scale[i], h.Scale[len(m.Scale)+i] = 16*scale, scale
		h.Shift[i] = 8 * scale
		if m.Shifted {
			h.Shift[i] += m.Shift[i]
		}
	}
	return h
}

// groups returns In/Group.
func (m Matrix) groups() int { return m.In / m.Group }

// rowBytes returns the bytes of the codes of one row.
func (m Matrix) rowBytes() int { return m.In * m.Bits / 8 }

func newMatrix(f Format, out, in int) Matrix {
	m := Matrix{Format: f, Out: out, In: in}
	m.Codes, m.Scale = make([]byte, out*m.rowBytes()), make([]float32, out*m.groups())
	if f.Shifted {
		m.Shift = make([]float32, out*m.groups())
	}
	return m
}

// FormatOf is the format of a GGUF tensor as a Matrix; ok is false for one that is not quantised.
func FormatOf(t gguf.Type) (f Format, ok bool) {
	c, ok := t.Codes()
	if !ok {
		return Format{}, false
	}
	bits := 8
	if c.Bits <= 4 {
		bits = 4
	}
	return Format{Bits: bits, Group: c.Group, Shifted: c.Shifted}, true
}

// FromGGUF takes the blocks of a quantised matrix as they are; ok is false for other tensors.
func FromGGUF(t gguf.Tensor) (m Matrix, ok bool) {
	f, ok := FormatOf(t.Type)
	if !ok || len(t.Shape) != 2 {
		return Matrix{}, false
	}
	c, _ := t.Type.Codes()
	elements, size := t.Type.Block()
	m = newMatrix(f, t.Shape[0], t.Shape[1])
	perBlock, perRow := elements/f.Group, t.Shape[1]/elements
	move := byte(1<<(f.Bits-1) - c.Zero)
	rows(m.Out, func(from, to int) {
		codes, none := make([]byte, elements), make([]float32, perBlock)
		for b := from * perRow; b < to*perRow; b++ {
			shift := none
			if f.Shifted {
				shift = m.Shift[b*perBlock : (b+1)*perBlock]
			}
			t.Type.Split(t.Data[b*size:(b+1)*size], codes, m.Scale[b*perBlock:(b+1)*perBlock], shift)
			if move != 0 {
				for i := range codes {
					codes[i] += move
				}
			}
			m.pack(b*elements, codes)
		}
	})
	return m, true
}

// pack stores codes from weight number at on, a multiple of two.
func (m Matrix) pack(at int, codes []byte) {
	if m.Bits == 8 {
		copy(m.Codes[at:], codes)
		return
	}
	for i := 0; i < len(codes); i += 2 {
		m.Codes[(at+i)/2] = codes[i] | codes[i+1]<<4
	}
}

// group is how many weights Round gives one scale.
const group = 32

// RoundFormat is the format of Round's matrices; ok is false where In is no multiple of 32.
func RoundFormat(bits, in int) (f Format, ok bool) {
	return Format{Bits: bits, Group: group, Shifted: bits == 4}, in > 0 && in%group == 0
}

// Round takes values [out, in] to the nearest codes of 4 or 8 bits. Eight bits are symmetric, with the largest
// magnitude at 127, which gives back the blocks of a Q8_0 tensor; four bits reach from the least to the
// largest value of each group. ok is false where in is no multiple of 32.
func Round(values []float32, out, in, bits int) (m Matrix, ok bool) {
	f, ok := RoundFormat(bits, in)
	if !ok {
		return Matrix{}, false
	}
	m = newMatrix(f, out, in)
	rows(out, func(from, to int) {
		codes := make([]byte, group)
		for g := from * in / group; g < to*in/group; g++ {
			x := values[g*group : (g+1)*group]
			if bits == 8 {
				m.Scale[g] = round8(x, codes)
			} else {
				m.Scale[g], m.Shift[g] = round4(x, codes)
			}
			m.pack(g*group, codes)
		}
	})
	return m, true
}

func round8(x []float32, codes []byte) (scale float32) {
	top := float32(0)
	for _, v := range x {
		top = max(top, v, -v)
	}
	scale = top / 127
	for i, v := range x {
		codes[i] = byte(nearest(v, scale, -127, 127) + 128)
	}
	return scale
}

func round4(x []float32, codes []byte) (scale, shift float32) {
	low, high := slices.Min(x), slices.Max(x)
	scale = (high - low) / 15
	for i, v := range x {
		codes[i] = byte(nearest(v-low, scale, 0, 15))
	}
	return scale, low + 8*scale
}

// nearest is v / scale rounded, within bounds; 0 or the lower bound where scale is 0.
func nearest(v, scale float32, low, high int) int {
	if scale == 0 {
		return max(low, 0)
	}
	q := v / scale
	if q < 0 {
		return max(low, int(q-0.5))
	}
	return min(high, int(q+0.5))
}

// Stack puts matrices of one format and In one below the other; ok is false if they differ.
func Stack(list ...Matrix) (m Matrix, ok bool) {
	if len(list) == 0 {
		return Matrix{}, false
	}
	if len(list) == 1 {
		return list[0], true
	}
	m = Matrix{Format: list[0].Format, In: list[0].In}
	for _, x := range list {
		if x.Format != m.Format || x.In != m.In {
			return Matrix{}, false
		}
		m.Out += x.Out
		m.Codes, m.Scale = append(m.Codes, x.Codes...), append(m.Scale, x.Scale...)
		m.Shift = append(m.Shift, x.Shift...)
	}
	return m, true
}

// Row writes row n as floats to dst, of length In.
func (m Matrix) Row(dst []float32, n int) {
	m.add(dst, n, false)
	if m.Halved {
		m.add(dst, m.Out+n, true)
	}
	if !m.Shifted {
		return
	}
	for g, shift := range m.Shift[n*m.groups() : (n+1)*m.groups()] {
		for i := range m.Group {
			dst[g*m.Group+i] += shift
		}
	}
}

// add writes scale * (code - zero) of a row of codes to dst, or adds it.
func (m Matrix) add(dst []float32, row int, more bool) {
	zero := float32(int(1) << (m.Bits - 1))
	codes := m.Codes[row*m.rowBytes() : (row+1)*m.rowBytes()]
	for g, scale := range m.Scale[row*m.groups() : (row+1)*m.groups()] {
		y := dst[g*m.Group : (g+1)*m.Group]
		for i := range y {
			k := g*m.Group + i
			code := codes[k*m.Bits/8]
			if m.Bits == 4 {
				code = code >> (4 * (k & 1)) & 15
			}
			w := scale * (float32(code) - zero)
			if more {
				w += y[i]
			}
			y[i] = w
		}
	}
}

// rows runs f over parts of n rows, on all cores.
func rows(n int, f func(from, to int)) {
	parts := max(1, min(runtime.GOMAXPROCS(0), n/16))
	var wg sync.WaitGroup
	for p := range parts {
		wg.Go(func() { f(p*n/parts, (p+1)*n/parts) })
	}
	wg.Wait()
}
