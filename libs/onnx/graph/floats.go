package graph

// Floats is a product x [.., In] -> [.., Out] with matrices of float32 as a model has it: MatMulT with a weight, or with
// several that are joined one below the other (Concat).
type Floats struct {
	In    int
	Parts []Rows
}

// Rows is a matrix f32 [Out, In] of Floats.
type Rows struct {
	Out int
	Weight
}

// MoveFloats moves products with matrices of float32 to the operator FloatProduct of the domain, as MoveBlocks does.
func MoveFloats(model []byte, domain string, hold func(Floats) (id int64, ok bool, err error)) ([]byte, int, error) {
	return move(model, domain, func(m *mover) error {
		for i, n := range m.nodes {
			p, joined, ok := m.floats(n)
			if !ok {
				continue
			}
			id, ok, err := hold(p)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			if joined >= 0 {
				m.gone[joined] = true
			}
			m.taken[n.in[0]] = true
			m.gone[i] = true // so that its weights are dropped
			m.instead[i] = newNode("FloatProduct", domain, n.in[:1], n.out, [][]byte{attribute(attr{"weights", int(id)})})
		}
		return nil
	})
}

// floats reads a product, and says which node joins its weights; -1 if none does.
func (m *mover) floats(n node) (p Floats, joined int, ok bool) {
	if n.op != "FusedMatMul" || n.domain != microsoft || len(n.in) != 2 || len(n.attributes) != 1 {
		return p, -1, false
	}
	if name, _, t := readAttribute(n.attributes[0]); name != "transB" || t != 1 {
		return p, -1, false
	}
	weights, joined := n.in[1:], -1
	if j, i, made := m.maker(n.in[1], "Concat"); made {
		if len(m.users[n.in[1]]) != 1 || len(j.attributes) != 1 {
			return p, -1, false
		}
		if name, _, axis := readAttribute(j.attributes[0]); name != "axis" || axis != 0 {
			return p, -1, false
		}
		weights, joined = j.in, i
	}
	for _, name := range weights {
		w, given := m.weights[name]
		if !given || len(m.users[name]) != 1 || w.dtype != Float32 || len(w.shape) != 2 || w.length() != 4*w.shape[0]*w.shape[1] {
			return p, -1, false
		}
		if p.In == 0 {
			p.In = int(w.shape[1])
		}
		if p.In <= 0 || w.shape[0] <= 0 || int(w.shape[1]) != p.In {
			return p, -1, false
		}
		p.Parts = append(p.Parts, Rows{int(w.shape[0]), w})
	}
	return p, joined, len(p.Parts) > 0
}
