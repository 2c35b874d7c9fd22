package graph

import (
	"encoding/binary"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/clara-suite/clara/libs/clara"
)

// Specialize moves work of a model (a ModelProto) to operators of the domain, which a runtime is to have been given, and
// returns the model with how many nodes were moved:
//   - GroupQueryAttention over a float32 cache, with rotation, without window and softcap, keeps its name, inputs and outputs;
//   - y + MatMul(Mul(MatMul(x, a), rows), b), with a, b and rows [B, 1, 1] inputs of the model, which is an adapter for
//     some rows, becomes Adapter(y, x, a, b, rows).
//
// It returns a Corrupt error for what is not a model.
func Specialize(model []byte, domain string) ([]byte, int, error) {
	inputs, _, err := Inspect(model)
	if err != nil {
		return nil, 0, err
	}
	s := special{domain: domain, inputs: map[string]Value{}, made: map[string]node{}, uses: map[string]int{}}
	for _, v := range inputs {
		s.inputs[v.name] = v
	}
	out, err := rewrite(model, func(f protowire.Number, raw, v []byte) ([]byte, error) {
		if f != 7 { // ModelProto.graph
			return raw, nil
		}
		g, err := s.graph(v)
		return message(nil, 7, g), err
	})
	if err != nil || s.moved == 0 {
		return model, 0, err
	}
	return message(out, 8, number(text(nil, 1, domain), 2, 1)), s.moved, nil // opset_import
}

// node is what is read of a NodeProto.
type node struct {
	in, out    []string
	op, domain string
	attributes [][]byte
}

type special struct {
	domain string
	inputs map[string]Value
	made   map[string]node // by the name of the first output
	uses   map[string]int
	moved  int
}

// rewrite copies the fields of a message, each as change returns it: raw is the field with its tag.
func rewrite(b []byte, change func(f protowire.Number, raw, value []byte) ([]byte, error)) ([]byte, error) {
	out := make([]byte, 0, len(b))
	for len(b) > 0 {
		f, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, clara.Errorf(clara.Corrupt, "read model: %w", protowire.ParseError(n))
		}
		size := protowire.ConsumeFieldValue(f, kind, b[n:])
		if size < 0 {
			return nil, clara.Errorf(clara.Corrupt, "read model: %w", protowire.ParseError(size))
		}
		raw := b[:n+size]
		if kind == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(b[n:])
			changed, err := change(f, raw, v)
			if err != nil {
				return nil, err
			}
			raw = changed
		}
		out = append(out, raw...)
		b = b[n+size:]
	}
	return out, nil
}

func (s *special) graph(g []byte) ([]byte, error) {
	err := fields(g, func(f protowire.Number, v []byte) error {
		if f != 1 { // GraphProto.node
			return nil
		}
		n, err := readNode(v)
		if err == nil && len(n.out) > 0 {
			s.made[n.out[0]] = n
		}
		for _, name := range n.in {
			s.uses[name]++
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	gone := map[string]bool{}      // nodes that are part of another now, by output
	instead := map[string][]byte{} // nodes in place of others
	for name, n := range s.made {
		switch {
		case n.op == "Add" && n.domain == onnx && len(n.in) == 2:
			if in, parts, ok := s.adapter(n.in[1]); ok {
				for _, part := range parts {
					gone[part] = true
				}
				instead[name] = newNode("Adapter", s.domain, append([]string{n.in[0]}, in...), n.out, nil)
			}
		case n.op == "GroupQueryAttention" && n.domain == microsoft && s.attends(n):
			instead[name] = newNode(n.op, s.domain, n.in, n.out, n.attributes)
		}
	}
	s.moved = len(instead)
	return rewrite(g, func(f protowire.Number, raw, v []byte) ([]byte, error) {
		if f != 1 {
			return raw, nil
		}
		n, err := readNode(v)
		if err != nil || len(n.out) == 0 {
			return raw, err
		}
		if gone[n.out[0]] {
			return nil, nil
		}
		if other := instead[n.out[0]]; other != nil {
			return message(nil, 1, other), nil
		}
		return raw, nil
	})
}

// adapter takes apart MatMul(Mul(MatMul(x, a), rows), b), by its name: in is x, a, b, rows, parts are the three nodes.
func (s *special) adapter(name string) (in, parts []string, ok bool) {
	part := func(op, name string) (string, string) {
		n := s.made[name]
		if n.op != op || n.domain != onnx || len(n.in) != 2 || s.uses[name] != 1 {
			return "", ""
		}
		parts = append(parts, name)
		return n.in[0], n.in[1]
	}
	given := func(name string, rank int) bool {
		v, is := s.inputs[name]
		return is && v.dtype == Float32 && len(v.shape) == rank
	}
	scaled, b := part("MatMul", name)
	small, rows := part("Mul", scaled)
	x, a := part("MatMul", small)
	ok = len(parts) == 3 && given(a, 2) && given(b, 2) && given(rows, 3) && s.inputs[rows].shape[1].Size == 1 && s.inputs[rows].shape[2].Size == 1
	return []string{x, a, b, rows}, parts, ok
}

// attends reports whether an attention is of the kind that is moved.
func (s *special) attends(n node) bool {
	if len(n.in) != 9 {
		return false
	}
	for _, name := range n.in[3:] {
		if name == "" {
			return false
		}
	}
	past := s.inputs[n.in[3]]
	if past.dtype != Float32 || len(past.shape) != 4 || past.shape[3].Name != "" || past.shape[3].Size%16 != 0 || past.shape[3].Size > 256 {
		return false
	}
	rotates := false
	for _, a := range n.attributes {
		name, f, i := readAttribute(a)
		switch name {
		case "num_heads", "kv_num_heads", "scale":
		case "do_rotary":
			rotates = i == 1
		case "rotary_interleaved":
			if i != 0 {
				return false
			}
		case "local_window_size":
			if i > 0 {
				return false
			}
		case "softcap":
			if f != 0 {
				return false
			}
		default:
			return false
		}
	}
	return rotates
}

func readNode(b []byte) (node, error) {
	var n node
	err := fields(b, func(f protowire.Number, v []byte) error {
		switch f {
		case 1:
			n.in = append(n.in, string(v))
		case 2:
			n.out = append(n.out, string(v))
		case 4:
			n.op = string(v)
		case 5:
			n.attributes = append(n.attributes, v)
		case 7:
			n.domain = string(v)
		}
		return nil
	})
	return n, err
}

func newNode(op, domain string, in, out []string, attributes [][]byte) []byte {
	var n []byte
	for _, name := range in {
		n = text(n, 1, name)
	}
	for _, name := range out {
		n = text(n, 2, name)
	}
	n = text(text(n, 3, op+":"+out[0]), 4, op)
	for _, a := range attributes {
		n = message(n, 5, a)
	}
	return text(n, 7, domain)
}

// readAttribute returns an attribute's name and its number, of which it has one.
func readAttribute(b []byte) (name string, f float32, i int64) {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		size := protowire.ConsumeFieldValue(field, kind, b[max(n, 0):])
		if n < 0 || size < 0 {
			return name, f, i
		}
		v := b[n : n+size]
		switch field {
		case 1:
			s, _ := protowire.ConsumeBytes(v)
			name = string(s)
		case 2:
			if len(v) == 4 {
				f = math.Float32frombits(binary.LittleEndian.Uint32(v))
			}
		case 3:
			u, _ := protowire.ConsumeVarint(v)
			i = int64(u)
		}
		b = b[n+size:]
	}
	return name, f, i
}
