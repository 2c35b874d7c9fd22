package gguf

import (
	"bytes"
	"encoding/binary"
	"math"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tensor"
)

// Numbers of the metadata's value types.
const (
	valueU8 = iota
	valueI8
	valueU16
	valueI16
	valueU32
	valueI32
	valueF32
	valueBool
	valueString
	valueArray
	valueU64
	valueI64
	valueF64
)

// reader walks over the file; the first fault sticks and makes all later reads
// return zero.
type reader struct {
	data []byte
	at   int
	err  error
}

func (r *reader) fail(kind clara.Kind, format string, args ...any) {
	if r.err == nil {
		r.err = clara.Errorf(kind, format, args...)
	}
}

func (r *reader) left() int { return len(r.data) - r.at }

func (r *reader) take(n uint64) []byte {
	if r.err != nil {
		return nil
	}
	if n > uint64(r.left()) {
		r.fail(clara.Corrupt, "the file ends at byte %d where %d more are announced: truncated", len(r.data), n)
		return nil
	}
	b := r.data[r.at : r.at+int(n)]
	r.at += int(n)
	return b
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (r *reader) text() string { return string(r.take(r.u64())) }

// scalarSize is the least number of bytes that a value of the type takes.
func scalarSize(kind uint32) int {
	switch kind {
	case valueU8, valueI8, valueBool:
		return 1
	case valueU16, valueI16:
		return 2
	case valueU32, valueI32, valueF32:
		return 4
	case valueU64, valueI64, valueF64, valueString:
		return 8
	}
	return 0
}

// scalar reads one value as int64, uint64 (only where int64 does not hold it),
// float64, bool or string.
func (r *reader) scalar(kind uint32) any {
	if kind == valueString {
		return r.text()
	}
	size := scalarSize(kind)
	if size == 0 {
		r.fail(clara.Corrupt, "metadata of unknown type %d", kind)
		return nil
	}
	var w [8]byte
	copy(w[:], r.take(uint64(size)))
	u := binary.LittleEndian.Uint64(w[:])
	switch kind {
	case valueI8:
		return int64(int8(u))
	case valueI16:
		return int64(int16(u))
	case valueI32:
		return int64(int32(u))
	case valueF32:
		return float64(math.Float32frombits(uint32(u)))
	case valueF64:
		return math.Float64frombits(u)
	case valueBool:
		return u != 0
	case valueU64:
		if u > math.MaxInt64 {
			return u
		}
	}
	return int64(u)
}

// value reads a value; arrays come as []string, []int64, []float64 or []bool.
func (r *reader) value(kind uint32) any {
	if kind != valueArray {
		return r.scalar(kind)
	}
	kind, n := r.u32(), r.u64()
	if kind == valueArray {
		r.fail(clara.Unsupported, "metadata holds an array of arrays")
		return nil
	}
	size := scalarSize(kind)
	if size == 0 || n > uint64(r.left()/max(size, 1)) {
		r.fail(clara.Corrupt, "metadata holds an array of %d values of type %d, which the file cannot hold", n, kind)
		return nil
	}
	switch kind {
	case valueString:
		return array[string](r, kind, int(n))
	case valueF32, valueF64:
		return array[float64](r, kind, int(n))
	case valueBool:
		return array[bool](r, kind, int(n))
	}
	return array[int64](r, kind, int(n))
}

func array[T any](r *reader, kind uint32, n int) []T {
	out := make([]T, 0, n)
	for range n {
		v, ok := r.scalar(kind).(T)
		if !ok {
			r.fail(clara.Corrupt, "metadata holds an array with a value out of range")
		}
		if r.err != nil {
			return nil
		}
		out = append(out, v)
	}
	return out
}

// parse reads everything before the tensors' bytes and places the tensors.
func parse(data []byte) (*File, error) {
	r := &reader{data: data}
	f := &File{metadata: map[string]any{}, tensors: map[string]Tensor{}}
	if magic := r.take(4); r.err == nil && !bytes.Equal(magic, []byte("GGUF")) {
		return nil, clara.Errorf(clara.Corrupt, "not a GGUF file")
	}
	version := r.u32()
	switch {
	case r.err != nil:
		return nil, r.err
	case version&0xffff == 0:
		return nil, clara.Errorf(clara.Unsupported, "a big-endian GGUF file is not read")
	case version != 2 && version != 3:
		return nil, clara.Errorf(clara.Unsupported, "GGUF version %d is not read, only 2 and 3", version)
	}
	tensors, pairs := r.u64(), r.u64()
	// Least sizes of an entry: key length + type + 1; name length + dims + type + offset.
	if pairs > uint64(r.left()/13) || tensors > uint64(r.left()/24) {
		return nil, clara.Errorf(clara.Corrupt, "%d metadata entries and %d tensors do not fit the file", pairs, tensors)
	}
	for range pairs {
		key := r.text()
		v := r.value(r.u32())
		if r.err != nil {
			return nil, clara.Errorf(clara.KindOf(r.err), "metadata %q: %w", key, r.err)
		}
		if _, twice := f.metadata[key]; twice {
			return nil, clara.Errorf(clara.Corrupt, "metadata %q appears twice", key)
		}
		f.metadata[key] = v
	}
	for range tensors {
		t := r.tensor()
		if r.err != nil {
			return nil, clara.Errorf(clara.KindOf(r.err), "tensor %q: %w", t.Name, r.err)
		}
		if _, twice := f.tensors[t.Name]; twice {
			return nil, clara.Errorf(clara.Corrupt, "tensor %q appears twice", t.Name)
		}
		f.names = append(f.names, t.Name)
		f.tensors[t.Name] = t
	}
	return f, f.place(data, r.at)
}

// tensor reads a tensor's description; Offset still counts from the data's begin.
func (r *reader) tensor() Tensor {
	t := Tensor{Name: r.text()}
	dims := r.u32()
	if dims > 4 {
		r.fail(clara.Corrupt, "%d dimensions", dims)
		return t
	}
	t.Shape = make(tensor.Shape, dims)
	for i := range t.Shape {
		d := r.u64()
		if d > 1<<40 {
			r.fail(clara.Corrupt, "a dimension of %d", d)
			return t
		}
		t.Shape[len(t.Shape)-1-i] = int(d)
	}
	t.Type = Type(r.u32())
	offset := r.u64()
	if offset > math.MaxInt64/2 {
		r.fail(clara.Corrupt, "an offset of %d", offset)
	}
	t.Offset = int64(offset)
	return t
}

// place gives every tensor its bytes; head is where the descriptions end.
func (f *File) place(data []byte, head int) error {
	alignment := 32
	if _, ok := f.metadata["general.alignment"]; ok {
		alignment = f.Int("general.alignment", 0)
		if alignment <= 0 || alignment > 1<<20 || alignment&(alignment-1) != 0 {
			return clara.Errorf(clara.Corrupt, "general.alignment is %d", alignment)
		}
	}
	begin := (head + alignment - 1) &^ (alignment - 1)
	if begin > len(data) && len(f.tensors) > 0 {
		return clara.Errorf(clara.Corrupt, "the file ends before its tensors: truncated")
	}
	for name, t := range f.tensors {
		if _, known := t.Type.layout(); !known {
			continue // refused when it is asked for, so that the rest stays readable
		}
		size, ok := t.Type.size(t.Shape)
		if !ok {
			return clara.Errorf(clara.Corrupt, "tensor %q: %s of impossible shape %s", name, t.Type, t.Shape)
		}
		if t.Offset%int64(alignment) != 0 {
			return clara.Errorf(clara.Corrupt, "tensor %q lies at offset %d, which is not aligned to %d", name, t.Offset, alignment)
		}
		at := int64(begin) + t.Offset
		if at > int64(len(data)) || int64(size) > int64(len(data))-at {
			return clara.Errorf(clara.Corrupt, "tensor %q takes bytes %d to %d of a file of %d: truncated", name, at, at+int64(size), len(data))
		}
		t.Offset, t.Data = at, data[at:at+int64(size):at+int64(size)]
		f.tensors[name] = t
	}
	return nil
}
