package graph

import (
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/clara-suite/clara/libs/clara"
)

// Blocks is a product with a matrix [Out, In] in blocks as a model has it: MatMulBlocks, with a shift (the product with
// GroupSum, added) and of two halves (Split and Add) where it has these.
type Blocks struct {
	Bits, Group, Out, In int
	// Halved is a matrix of 8 bits as two of 4, one below the other, of which the first has 16 times the scale.
	Halved bool
	// Exact is a product with floats as they are; else they may be rounded to 8 bits in groups.
	Exact bool
	// Codes u8, Scale and Shift f32 [Out, In/Group], of twice as many rows where it is halved, but for Shift.
	Codes, Scale, Shift Weight
}

// Weight is where a tensor of a model lies: in a file beside it, or in the model itself. The zero Weight is none.
type Weight struct {
	File
	Raw []byte

	dtype DType
	shape []int64
}

// length is that of its bytes.
func (w Weight) length() int64 { return max(w.Length, int64(len(w.Raw))) }

// MoveBlocks moves products with matrices in blocks to the operator BlockProduct of the domain, which a runtime is to have
// been given, and takes their weights out of the model: hold takes them, and returns the number that the operator knows a
// matrix by, or ok = false for one that is to stay as it is. It returns the model with how many were moved.
// Errors: those of hold, Corrupt for what is not a model.
func MoveBlocks(model []byte, domain string, hold func(Blocks) (id int64, ok bool, err error)) ([]byte, int, error) {
	return move(model, domain, func(m *mover) error { return m.moveBlocks(domain, hold) })
}

// move has products of a model moved by find, and returns it with how many were.
func move(model []byte, domain string, find func(*mover) error) ([]byte, int, error) {
	_, outputs, err := Inspect(model)
	if err != nil {
		return nil, 0, err
	}
	m := mover{weights: map[string]Weight{}, made: map[string]int{}, users: map[string][]int{}, gone: map[int]bool{}, instead: map[int][]byte{}, taken: map[string]bool{}}
	for _, v := range outputs {
		m.users[v.name] = append(m.users[v.name], -1)
	}
	known := false // the domain
	out, err := rewrite(model, func(f protowire.Number, raw, v []byte) ([]byte, error) {
		switch f {
		case 7: // ModelProto.graph
			g, err := m.graph(v, find)
			return message(nil, 7, g), err
		case 8: // opset_import
			return raw, fields(v, func(f protowire.Number, v []byte) error {
				known = known || f == 1 && string(v) == domain
				return nil
			})
		}
		return raw, nil
	})
	if err != nil || len(m.instead) == 0 {
		return model, 0, err
	}
	if !known {
		out = message(out, 8, number(text(nil, 1, domain), 2, 1))
	}
	return out, len(m.instead), nil
}

// mover is a graph that products are moved in. Nodes are named by their number.
type mover struct {
	weights map[string]Weight
	nodes   []node
	made    map[string]int   // the node that an output is of
	users   map[string][]int // the nodes that take it, -1 for an output of the graph
	gone    map[int]bool
	instead map[int][]byte
	taken   map[string]bool // by what is there instead
}

func (m *mover) graph(g []byte, find func(*mover) error) ([]byte, error) {
	err := fields(g, func(f protowire.Number, v []byte) error {
		switch f {
		case 1: // GraphProto.node
			n, err := readNode(v)
			for _, name := range n.out {
				m.made[name] = len(m.nodes)
			}
			for _, name := range n.in {
				m.users[name] = append(m.users[name], len(m.nodes))
			}
			m.nodes = append(m.nodes, n)
			return err
		case 5: // initializer
			name, w, err := readWeight(v)
			m.weights[name] = w
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := find(m); err != nil {
		return nil, err
	}
	if len(m.instead) == 0 {
		return g, nil
	}
	m.dropSums()
	i := -1
	return rewrite(g, func(f protowire.Number, raw, v []byte) ([]byte, error) {
		switch f {
		case 1:
			i++
			switch {
			case m.instead[i] != nil:
				return message(nil, 1, m.instead[i]), nil
			case m.gone[i]:
				return nil, nil
			}
		case 5:
			name, _, err := readWeight(v)
			if len(m.users[name]) > 0 && !m.used(name) {
				return nil, err
			}
		}
		return raw, nil
	})
}

func (m *mover) moveBlocks(domain string, hold func(Blocks) (int64, bool, error)) error {
	for i := range m.nodes {
		b, nodes, ok := m.product(i)
		if !ok {
			continue
		}
		id, ok, err := hold(b)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		for _, j := range nodes {
			m.gone[j] = true
		}
		exact := 0
		if b.Exact {
			exact = 1
		}
		last := nodes[len(nodes)-1]
		m.taken[m.nodes[i].in[0]] = true
		m.instead[last] = newNode("BlockProduct", domain, m.nodes[i].in[:1], m.nodes[last].out, [][]byte{attribute(attr{"weights", int(id)}), attribute(attr{"exact", exact})})
	}
	return nil
}

// used reports whether something that stays takes it.
func (m *mover) used(name string) bool {
	return m.taken[name] || slices.ContainsFunc(m.users[name], func(i int) bool { return !m.gone[i] })
}

// dropSums drops the sums of groups that nothing takes any more.
func (m *mover) dropSums() {
	for i := len(m.nodes) - 1; i >= 0; i-- {
		n := m.nodes[i]
		if (n.op == "ReduceSum" || n.op == "Reshape") && len(n.out) == 1 && len(m.users[n.out[0]]) > 0 && !m.used(n.out[0]) {
			m.gone[i] = true
		}
	}
}

// only is the one node that takes an output, if it is of the operator.
func (m *mover) only(name, op string) (int, bool) {
	u := m.users[name]
	if len(u) != 1 || u[0] < 0 || m.nodes[u[0]].op != op {
		return 0, false
	}
	return u[0], true
}

// maker is the node that makes an output, if it is of the operator.
func (m *mover) maker(name, op string) (node, int, bool) {
	i, ok := m.made[name]
	if !ok || m.nodes[i].op != op {
		return node{}, 0, false
	}
	return m.nodes[i], i, true
}

// product reads the product that begins with a node, and says which nodes it consists of, the last last.
func (m *mover) product(i int) (b Blocks, nodes []int, ok bool) {
	n := m.nodes[i]
	if n.op != "MatMulNBits" || n.domain != microsoft || len(n.in) != 3 || len(n.out) != 1 {
		return b, nil, false
	}
	for _, a := range n.attributes {
		switch name, _, x := readAttribute(a); name {
		case "K":
			b.In = int(x)
		case "N":
			b.Out = int(x)
		case "bits":
			b.Bits = int(x)
		case "block_size":
			b.Group = int(x)
		case "accuracy_level":
			b.Exact = x != 4
		default:
			return b, nil, false
		}
	}
	b.Codes, b.Scale = m.weights[n.in[1]], m.weights[n.in[2]]
	if b.In <= 0 || b.Out <= 0 || b.Group <= 0 || b.In%b.Group != 0 || b.Bits != 4 && b.Bits != 8 {
		return b, nil, false
	}
	groups := int64(b.In / b.Group)
	if b.Codes.length() != int64(b.Out)*int64(b.In*b.Bits/8) || b.Scale.length() != 4*int64(b.Out)*groups {
		return b, nil, false
	}
	nodes = []int{i}
	out := n.out[0]
	if split, add, ok := m.halves(out); ok && b.Bits == 4 && b.Out%2 == 0 {
		b.Halved, b.Bits, b.Out = true, 8, b.Out/2
		nodes, out = append(nodes, split, add), m.nodes[add].out[0]
	}
	if shift, product, add, ok := m.shift(n.in[0], out); ok {
		b.Shift = m.weights[shift]
		nodes = append(nodes, product, add)
		if b.Shift.length() != 4*int64(b.Out)*groups {
			return b, nil, false
		}
	}
	return b, nodes, !b.Halved || b.Shift.length() > 0
}

// halves finds the sum of the halves of an output.
func (m *mover) halves(out string) (split, add int, ok bool) {
	split, ok = m.only(out, "Split")
	if !ok || len(m.nodes[split].out) != 2 {
		return 0, 0, false
	}
	parts := m.nodes[split].out
	add, ok = m.only(parts[0], "Add")
	if !ok || !slices.Equal(m.nodes[add].in, parts) || len(m.users[parts[1]]) != 1 {
		return 0, 0, false
	}
	return split, add, true
}

// shift finds what is added to an output: the sums of the groups of x, times the shift.
func (m *mover) shift(x, out string) (shift string, product, add int, ok bool) {
	add, ok = m.only(out, "Add")
	if !ok || m.nodes[add].in[0] != out {
		return
	}
	f, product, ok := m.maker(m.nodes[add].in[1], "FusedMatMul")
	if !ok || len(f.in) != 2 || len(m.users[f.out[0]]) != 1 {
		return "", 0, 0, false
	}
	for _, a := range f.attributes {
		if name, _, t := readAttribute(a); name != "transB" || t != 1 {
			return "", 0, 0, false
		}
	}
	sum, _, ok := m.maker(f.in[0], "ReduceSum")
	if !ok {
		return "", 0, 0, false
	}
	parts, _, ok := m.maker(sum.in[0], "Reshape")
	return f.in[1], product, add, ok && parts.in[0] == x
}

// readWeight reads a TensorProto whose numbers are raw or in a file.
func readWeight(b []byte) (name string, w Weight, err error) {
	err = fields(b, func(f protowire.Number, v []byte) error {
		switch f {
		case 1: // dims, one or several of them
			for len(v) > 0 {
				d, n := protowire.ConsumeVarint(v)
				if n < 0 {
					return clara.Errorf(clara.Corrupt, "read model: %w", protowire.ParseError(n))
				}
				w.shape, v = append(w.shape, int64(d)), v[n:]
			}
		case 2:
			d, _ := protowire.ConsumeVarint(v)
			w.dtype = DType(d)
		case 8:
			name = string(v)
		case 9:
			w.Raw = v
		case 13: // external_data
			var key, value string
			if err := fields(v, func(f protowire.Number, v []byte) error {
				switch f {
				case 1:
					key = string(v)
				case 2:
					value = string(v)
				}
				return nil
			}); err != nil {
				return err
			}
			var err error
			switch key {
			case "location":
				w.Path = value
			case "offset":
				w.Offset, err = strconv.ParseInt(value, 10, 64)
			case "length":
				w.Length, err = strconv.ParseInt(value, 10, 64)
			}
			if err != nil {
				return clara.Errorf(clara.Corrupt, "read model: %s: %w", name, err)
			}
		}
		return nil
	})
	return name, w, err
}

// Bytes adds a weight u8 that is kept in the model file itself.
func (b *Builder) Bytes(name string, shape []int64, data []byte) Value {
	if !b.claim("Bytes", name) {
		return Value{}
	}
	if elements(shape) != int64(len(data)) {
		return b.fault("Bytes", "%s: shape %v for %d values", name, shape, len(data))
	}
	b.inits = append(b.inits, bytes(tensorHead(name, Uint8, shape), 9, data))
	return Value{name, Uint8, fixedShape(shape)}
}
