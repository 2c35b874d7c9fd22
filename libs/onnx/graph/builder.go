package graph

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"path"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/clara-suite/clara/libs/clara"
)

const (
	irVersion = 10
	opset     = 21
	microsoft = "com.microsoft" // contributed operators of ONNX Runtime, version 1
	onnx      = ""
)

// Builder collects a graph. Use New.
type Builder struct {
	name    string
	scope   []string
	nodes   [][]byte
	inits   [][]byte
	inputs  [][]byte
	outputs [][]byte
	meta    [][]byte
	names   map[string]bool
	consts  map[string]Value // inline constants by content, so that equal ones are written once
	err     error
}

// New returns an empty graph of this name.
func New(name string) *Builder {
	return &Builder{name: name, names: map[string]bool{}, consts: map[string]Value{}}
}

// Err returns the first fault.
func (b *Builder) Err() error { return b.err }

// In runs body with name as a prefix of all tensor names made in it ("layers.0/").
func (b *Builder) In(name string, body func()) {
	b.scope = append(b.scope, name)
	body()
	b.scope = b.scope[:len(b.scope)-1]
}

// fault keeps the first error and returns the zero Value.
func (b *Builder) fault(op, format string, args ...any) Value {
	if b.err == nil {
		where := strings.Join(append(append([]string{b.name}, b.scope...), op), "/")
		b.err = clara.Errorf(clara.Invalid, "build graph %s: %s", where, fmt.Sprintf(format, args...))
	}
	return Value{}
}

// unique returns a tensor name in the present scope that nothing else has.
func (b *Builder) unique(base string) string {
	full := strings.Join(append(append([]string{}, b.scope...), base), "/")
	name := full
	for i := 2; b.names[name]; i++ {
		name = full + "_" + strconv.Itoa(i)
	}
	b.names[name] = true
	return name
}

// claim takes a name that the caller fixes.
func (b *Builder) claim(op, name string) bool {
	if b.err != nil {
		return false
	}
	if name == "" || b.names[name] {
		b.fault(op, "name %q is empty or taken", name)
		return false
	}
	b.names[name] = true
	return true
}

// Input declares a graph input.
func (b *Builder) Input(name string, dtype DType, shape ...Dim) Value {
	if !b.claim("Input", name) {
		return Value{}
	}
	v := Value{name, dtype, shape}
	b.inputs = append(b.inputs, valueInfo(v))
	return v
}

// Output declares v as a graph output under the name. A tensor that is made under
// that name already (GroupQueryAttention's cache) is declared as it is.
func (b *Builder) Output(name string, v Value) {
	if b.err != nil {
		return
	}
	if v.name == "" {
		b.fault("Output", "%s is nothing", name)
		return
	}
	if v.name != name {
		if !b.claim("Output", name) {
			return
		}
		b.node(onnx, "Identity", []Value{v}, []string{name}, nil)
	}
	b.outputs = append(b.outputs, valueInfo(Value{name, v.dtype, v.shape}))
}

// Meta adds an entry to the model's metadata.
func (b *Builder) Meta(key, value string) {
	b.meta = append(b.meta, text(text(nil, 1, key), 2, value))
}

// File names bytes of a file beside the model: a path relative to the model's folder, an offset and a length.
type File struct {
	Path           string
	Offset, Length int64
}

// External adds a weight that lies in another file, little-endian, row by row.
// The runtime refuses paths that leave the model's folder, so External does.
func (b *Builder) External(name string, dtype DType, shape []int64, f File) Value {
	if !b.claim("External", name) {
		return Value{}
	}
	if f.Path == "" || path.IsAbs(f.Path) || strings.HasPrefix(path.Clean(f.Path), "..") {
		return b.fault("External", "%s: path %q leaves the model's folder", name, f.Path)
	}
	if want := dtype.Size() * elements(shape); dtype.Size() == 0 || want != f.Length || f.Offset < 0 {
		return b.fault("External", "%s: %s%v takes %d bytes, the file part has %d at %d", name, dtype, shape, want, f.Length, f.Offset)
	}
	t := tensorHead(name, dtype, shape)
	for _, kv := range [][2]string{{"location", f.Path}, {"offset", strconv.FormatInt(f.Offset, 10)}, {"length", strconv.FormatInt(f.Length, 10)}} {
		t = message(t, 13, text(text(nil, 1, kv[0]), 2, kv[1]))
	}
	b.inits = append(b.inits, number(t, 14, 1)) // data_location = EXTERNAL
	return Value{name, dtype, fixedShape(shape)}
}

// Floats adds a weight that is kept in the model file itself.
func (b *Builder) Floats(name string, shape []int64, data []float32) Value {
	raw := make([]byte, 0, 4*len(data))
	for _, x := range data {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
	}
	if !b.claim("Floats", name) {
		return Value{}
	}
	if elements(shape) != int64(len(data)) {
		return b.fault("Floats", "%s: shape %v for %d values", name, shape, len(data))
	}
	b.inits = append(b.inits, bytes(tensorHead(name, Float32, shape), 9, raw))
	return Value{name, Float32, fixedShape(shape)}
}

// Ints adds a small int64 vector, once for equal contents.
func (b *Builder) Ints(data ...int64) Value {
	key := fmt.Sprint(data)
	if v, ok := b.consts[key]; ok || b.err != nil {
		return v
	}
	raw := make([]byte, 0, 8*len(data))
	name := "ints"
	for _, x := range data {
		raw = binary.LittleEndian.AppendUint64(raw, uint64(x))
		name += "_" + strconv.FormatInt(x, 10)
	}
	b.names[name] = true
	shape := []int64{int64(len(data))}
	b.inits = append(b.inits, bytes(tensorHead(name, Int64, shape), 9, raw))
	v := Value{name, Int64, fixedShape(shape)}
	b.consts[key] = v
	return v
}

// attr is a named attribute of a node: int, float64, string or []int64.
type attr struct {
	name  string
	value any
}

// node appends a node whose outputs are named by the caller ("" leaves one out).
func (b *Builder) node(domain, op string, in []Value, out []string, attrs []attr) {
	var n []byte
	for len(in) > 0 && in[len(in)-1].name == "" {
		in = in[:len(in)-1] // trailing optional inputs are left off
	}
	for _, v := range in {
		n = text(n, 1, v.name)
	}
	for _, o := range out {
		n = text(n, 2, o)
	}
	n = text(n, 3, op+":"+out[0])
	n = text(n, 4, op)
	for _, a := range attrs {
		n = message(n, 5, attribute(a))
	}
	if domain != "" {
		n = text(n, 7, domain)
	}
	b.nodes = append(b.nodes, n)
}

// emit appends a node with one output of this type and shape.
func (b *Builder) emit(domain, op string, in []Value, dtype DType, shape []Dim, attrs ...attr) Value {
	if b.err != nil {
		return Value{}
	}
	v := Value{b.unique(op), dtype, shape}
	b.node(domain, op, in, []string{v.name}, attrs)
	return v
}

// WriteTo writes the model (a ModelProto) and returns its length in bytes.
func (b *Builder) WriteTo(w io.Writer) (int64, error) {
	if b.err != nil {
		return 0, b.err
	}
	head := text(number(nil, 1, irVersion), 2, "clara")
	var tail []byte
	for _, o := range []struct {
		domain  string
		version int64
	}{{onnx, opset}, {microsoft, 1}} {
		tail = message(tail, 8, number(text(nil, 1, o.domain), 2, o.version))
	}
	for _, m := range b.meta {
		tail = message(tail, 14, m)
	}
	// The graph's length comes first, then its parts as they lie: nothing is joined in memory.
	parts := []struct {
		field protowire.Number
		items [][]byte
	}{{1, b.nodes}, {2, [][]byte{[]byte(b.name)}}, {5, b.inits}, {11, b.inputs}, {12, b.outputs}}
	length := 0
	for _, p := range parts {
		for _, item := range p.items {
			length += protowire.SizeTag(p.field) + protowire.SizeBytes(len(item))
		}
	}
	head = protowire.AppendVarint(protowire.AppendTag(head, 7, protowire.BytesType), uint64(length))
	c := &counter{w: w}
	c.write(head)
	var prefix []byte
	for _, p := range parts {
		for _, item := range p.items {
			prefix = protowire.AppendVarint(protowire.AppendTag(prefix[:0], p.field, protowire.BytesType), uint64(len(item)))
			c.write(prefix)
			c.write(item)
		}
	}
	c.write(tail)
	return c.n, c.err
}

type counter struct {
	w   io.Writer
	n   int64
	err error
}

func (c *counter) write(p []byte) {
	if c.err != nil {
		return
	}
	n, err := c.w.Write(p)
	c.n, c.err = c.n+int64(n), err
}

// The rest is the wire format of onnx.proto3.

func text(b []byte, f protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, f, protowire.BytesType), s)
}

func bytes(b []byte, f protowire.Number, p []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, f, protowire.BytesType), p)
}

func message(b []byte, f protowire.Number, m []byte) []byte { return bytes(b, f, m) }

func number(b []byte, f protowire.Number, v int64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, f, protowire.VarintType), uint64(v))
}

func attribute(a attr) []byte {
	p := text(nil, 1, a.name)
	switch v := a.value.(type) {
	case int:
		return number(number(p, 3, int64(v)), 20, 2)
	case float64:
		p = protowire.AppendFixed32(protowire.AppendTag(p, 2, protowire.Fixed32Type), math.Float32bits(float32(v)))
		return number(p, 20, 1)
	case string:
		return number(text(p, 4, v), 20, 3)
	case []int64:
		for _, x := range v {
			p = number(p, 8, x)
		}
		return number(p, 20, 7)
	}
	return p
}

func tensorHead(name string, dtype DType, shape []int64) []byte {
	var t []byte
	for _, d := range shape {
		t = number(t, 1, d)
	}
	return text(number(t, 2, int64(dtype)), 8, name)
}

func valueInfo(v Value) []byte {
	var shape []byte
	for _, d := range v.shape {
		dim := text(nil, 2, d.Name)
		if d.Name == "" {
			dim = number(nil, 1, d.Size)
		}
		shape = message(shape, 1, dim)
	}
	tensor := message(number(nil, 1, int64(v.dtype)), 2, shape)
	return message(text(nil, 1, v.name), 2, message(nil, 1, tensor))
}

func elements(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return n
}

func fixedShape(shape []int64) []Dim {
	s := make([]Dim, len(shape))
	for i, d := range shape {
		s[i] = Fixed(d)
	}
	return s
}
