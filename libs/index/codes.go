package index

import (
	"encoding/base64"
	"encoding/binary"
	"math"

	"github.com/clara-suite/clara/libs/clara"
)

// Precision is how an index keeps the numbers of its memories.
type Precision uint8

// The precisions.
const (
	// FP16 keeps a number in two bytes, as it is.
	FP16 Precision = iota
	// Int8 keeps a number in one byte: 255 steps and a scale for each of the m slots.
	Int8
	// Int4 keeps two numbers in one byte: 16 steps and a scale for each of the m slots.
	Int4
)

var precisionNames = [...]string{FP16: "fp16", Int8: "int8", Int4: "int4"}

// Precisions returns all that there are, the most exact first.
func Precisions() []Precision { return []Precision{FP16, Int8, Int4} }

// String is "fp16", "int8" or "int4".
func (p Precision) String() string {
	if int(p) < len(precisionNames) {
		return precisionNames[p]
	}
	return "unknown"
}

// ParsePrecision reads what String writes; "" is FP16. Anything else is Invalid.
func ParsePrecision(s string) (Precision, error) {
	if s == "" {
		return FP16, nil
	}
	for _, p := range Precisions() {
		if p.String() == s {
			return p, nil
		}
	}
	return FP16, clara.Errorf(clara.Invalid, "memories kept as %q: want fp16, int8 or int4", s)
}

// How rotated numbers become codes. They are close to normally distributed: 8 bits reach 6.35 standard deviations,
// 4 bits take the step with the least error for that distribution.
const (
	int8Steps = 20     // steps a standard deviation
	int4Step  = 0.3352 // standard deviations a step
)

// coder turns memories into the codes of a schema and back. A slot is rotated first (see rotation), so that no number
// of it is much larger than the others, whatever the encoder made.
//
//	int8  code c from -127 to 127, kept as c+128. The step is one for the whole memory, so that the distance between
//	      the codes of two memories is what their cosine says; the scale of a slot is what fits its numbers best.
//	int4  code c = a-7.5 with a from 0 to 15. Step and scale are those of the slot. A byte holds the a of a number in
//	      its high half, that of the number (H+1)/2 further in its low half: as a number, the byte is then the code of
//	      the first with 4 more bits of noise, so that distances of bytes find what is near.
type coder struct {
	Schema
	rotation *rotation
}

// coded is a memory as an index keeps it: value = scale * slot's scale * code, rotated back.
type coded struct {
	bytes  []float32 // m rows, each number from 0 to 255: what goes over the wire
	scale  float64   // root mean square of the memory
	slots  []float32 // m scales
	length float64   // Euclidean length of what is kept, divided by scale
}

// rowBytes is how many bytes a slot takes.
func (s Schema) rowBytes() int {
	if s.Memories == Int4 {
		return (s.H + 1) / 2
	}
	return s.H
}

func (c *coder) encode(data []float32) (coded, error) {
	values, scale, err := unit(data)
	if err != nil {
		return coded{}, err
	}
	out := coded{bytes: make([]float32, 0, c.M*c.rowBytes()), scale: scale, slots: make([]float32, c.M)}
	var squares float64
	numbers := make([]float32, c.H)
	for i := range c.M {
		row := values[i*c.H : (i+1)*c.H]
		c.rotation.apply(row)
		step := float32(1.0 / int8Steps)
		if c.Memories == Int4 {
			step = float32(rms(row) * int4Step)
		}
		var xc, cc float64
		for j, x := range row {
			code := c.quantise(x, step)
			numbers[j] = code
			xc, cc = xc+float64(x)*float64(code), cc+float64(code)*float64(code)
		}
		if cc > 0 {
			out.slots[i] = float32(xc / cc) // least squares
		}
		squares += float64(out.slots[i]) * float64(out.slots[i]) * cc
		out.bytes = c.join(out.bytes, numbers)
	}
	out.length = math.Sqrt(squares)
	return out, nil
}

// quantise returns the code of x.
func (c *coder) quantise(x, step float32) float32 {
	if step == 0 {
		x, step = 0, 1
	}
	if c.Memories == Int4 {
		return min(max(float32(math.Floor(float64(x/step))), -8), 7) + 0.5
	}
	return min(max(float32(math.RoundToEven(float64(x/step))), -127), 127)
}

// join appends the codes of a slot as bytes.
func (c *coder) join(to, numbers []float32) []float32 {
	if c.Memories == Int8 {
		for _, x := range numbers {
			to = append(to, x+128)
		}
		return to
	}
	half := c.rowBytes()
	for j, x := range numbers[:half] {
		low := float32(8)
		if half+j < len(numbers) {
			low = numbers[half+j] + 7.5
		}
		to = append(to, 16*(x+7.5)+low)
	}
	return to
}

// part is the inverse of join for one slot: row holds its bytes, numbers takes its codes.
func (c *coder) part(numbers, row []float32) {
	if c.Memories == Int8 {
		for j, b := range row {
			numbers[j] = b - 128
		}
		return
	}
	half := len(row)
	for j, b := range row {
		v := uint8(b)
		numbers[j] = float32(v>>4) - 7.5
		if half+j < len(numbers) {
			numbers[half+j] = float32(v&15) - 7.5
		}
	}
}

// decode returns the memory.
func (c *coder) decode(k coded) []float32 {
	out := make([]float32, c.M*c.H)
	for i := range c.M {
		row := out[i*c.H : (i+1)*c.H]
		c.part(row, k.bytes[i*c.rowBytes():(i+1)*c.rowBytes()])
		for j := range row {
			row[j] *= k.slots[i]
		}
		c.rotation.invert(row)
		for j, v := range row {
			// Rounding may have brought the largest float32 just above itself.
			row[j] = float32(min(max(float64(v)*k.scale, -math.MaxFloat32), math.MaxFloat32))
		}
	}
	return out
}

// question is a query prepared for a search over codes.
type question struct {
	bytes   []float32 // compared with the bytes of memories
	rotated []float32 // [m, H], of root mean square 1
}

// question prepares a query; nibbles says that the server compares int4 codes as such.
func (c *coder) question(data []float32, nibbles bool) (question, error) {
	values, _, err := unit(data)
	if err != nil {
		return question{}, err
	}
	q := question{rotated: values, bytes: make([]float32, 0, c.M*c.rowBytes())}
	numbers := make([]float32, c.H)
	octet := func(x float64) float32 { return float32(math.RoundToEven(min(max(x, 0), 255))) }
	for i := range c.M {
		row := values[i*c.H : (i+1)*c.H]
		c.rotation.apply(row)
		if c.Memories == Int8 {
			for _, x := range row {
				q.bytes = append(q.bytes, octet(float64(x)*int8Steps+128))
			}
			continue
		}
		step := rms(row) * int4Step
		if nibbles {
			for j, x := range row {
				numbers[j] = c.quantise(x, float32(step))
			}
			q.bytes = c.join(q.bytes, numbers)
			continue
		}
		for _, x := range row[:c.rowBytes()] {
			if step == 0 {
				q.bytes = append(q.bytes, 128)
				continue
			}
			// The high half to a fraction, and the mean of what is in the low half.
			q.bytes = append(q.bytes, octet(16*(float64(x)/step+7.5)+7.5))
		}
	}
	return q, nil
}

// dot is the dot product of a question with a memory divided by its scale.
func (c *coder) dot(q question, bytes, slots, numbers []float32) float64 {
	var sum float64
	for i := range c.M {
		c.part(numbers, bytes[i*c.rowBytes():(i+1)*c.rowBytes()])
		var s0, s1 float32
		row := q.rotated[i*c.H : (i+1)*c.H]
		numbers := numbers[:len(row)]
		n := len(row) &^ 1
		for j := 0; j < n; j += 2 {
			s0 += row[j] * numbers[j]
			s1 += row[j+1] * numbers[j+1]
		}
		if n < len(row) {
			s0 += row[n] * numbers[n]
		}
		sum += float64(slots[i]) * float64(s0+s1)
	}
	return sum
}

// unit returns data divided by its root mean square, and that.
func unit(data []float32) (values []float32, scale float64, err error) {
	scale = rms(data)
	if math.IsNaN(scale) || math.IsInf(scale, 0) {
		return nil, 0, clara.Errorf(clara.Invalid, "it holds NaN or infinite numbers")
	}
	values = make([]float32, len(data))
	if scale > 0 {
		for i, v := range data {
			values[i] = float32(float64(v) / scale)
		}
	}
	return values, scale, nil
}

func rms(data []float32) float64 {
	var sum float64
	for _, v := range data {
		sum += float64(v) * float64(v)
	}
	return math.Sqrt(sum / float64(len(data)))
}

// rotation is an orthonormal transform of vectors of H numbers that spreads each number over most of the others, the
// same for ever: signs flipped by the bits of the SplitMix64 stream of rotationSeed (bit i%64 of output i/64), a
// Walsh-Hadamard transform of the first P numbers, P the largest power of two up to H, and, where P < H, the same
// with the signs that follow in the stream and the last P numbers.
type rotation struct {
	size  int // P
	signs [2][]uint64
}

const rotationSeed = 0x636c617261 // "clara"

func newRotation(h int) *rotation {
	r := &rotation{size: padded(h+1) / 2}
	next := splitMix64(rotationSeed)
	for i := range r.signs {
		r.signs[i] = make([]uint64, (h+63)/64)
		for j := range r.signs[i] {
			r.signs[i][j] = next()
		}
	}
	return r
}

// apply rotates x in place.
func (r *rotation) apply(x []float32) {
	flip(x, r.signs[0])
	r.transform(x[:r.size])
	if r.size < len(x) {
		flip(x, r.signs[1])
		r.transform(x[len(x)-r.size:])
	}
}

// invert undoes apply: each of its steps is its own inverse.
func (r *rotation) invert(x []float32) {
	if r.size < len(x) {
		r.transform(x[len(x)-r.size:])
		flip(x, r.signs[1])
	}
	r.transform(x[:r.size])
	flip(x, r.signs[0])
}

func (r *rotation) transform(x []float32) {
	walshHadamard(x)
	scale := float32(1 / math.Sqrt(float64(r.size)))
	for i := range x {
		x[i] *= scale
	}
}

func flip(x []float32, signs []uint64) {
	for i := range x {
		if signs[i/64]>>(i%64)&1 == 1 {
			x[i] = -x[i]
		}
	}
}

// slotsText is the scales of the slots as a payload keeps them: float32, little-endian, in base64.
func slotsText(slots []float32) string {
	b := make([]byte, 0, 4*len(slots))
	for _, s := range slots {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(s))
	}
	return base64.RawStdEncoding.EncodeToString(b)
}

// slotsOf reads slotsText; nil if it is not m finite numbers.
func slotsOf(text string, m int) []float32 {
	b, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil || len(b) != 4*m {
		return nil
	}
	slots := make([]float32, m)
	for i := range slots {
		slots[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		if f := float64(slots[i]); math.IsNaN(f) || math.IsInf(f, 0) {
			return nil
		}
	}
	return slots
}
