package modelpkg

import (
	"path/filepath"
	"strings"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/onnx/decoder"
	"github.com/clara-suite/clara/libs/onnx/graph"
	"github.com/clara-suite/clara/libs/quant"
	"github.com/clara-suite/clara/libs/safetensors"
	"github.com/clara-suite/clara/libs/tensor"
)

// Matrices in blocks are three tensors in a file of weights: NAME.codes u8 [Out, In/group, bytes], NAME.scale and, where
// they are shifted, NAME.shift f32 [Out, In/group] (package quant).
const (
	codesSuffix = ".codes"
	scaleSuffix = ".scale"
	shiftSuffix = ".shift"
)

// stack is a matrix in blocks of the package: weights of the base, one below the other.
type stack struct {
	quant.Format
	name    string
	weights []string
	out, in int
	round   int // bits to round floats to; 0: the base's own blocks
}

// entries announces the stack's tensors.
func (s stack) entries() []safetensors.Entry {
	rows, groups := s.Rows(s.out), s.in/s.Group
	list := []safetensors.Entry{
		{Name: s.name + codesSuffix, DType: tensor.U8, Shape: tensor.Shape{rows, groups, s.Group * s.Bits / 8}},
		{Name: s.name + scaleSuffix, DType: tensor.F32, Shape: tensor.Shape{rows, groups}},
	}
	if s.Shifted {
		list = append(list, safetensors.Entry{Name: s.name + shiftSuffix, DType: tensor.F32, Shape: tensor.Shape{s.out, groups}})
	}
	return list
}

// plan is what the file of a precision in blocks holds.
type plan struct {
	stacks []stack
	floats []safetensors.Entry
}

// plan decides for each weight. What the base holds in blocks of no more bits than asked for stays as it is; floats are
// rounded if a precision was asked for, and stay floats otherwise, as does what no blocks can hold.
func (im *importer) plan(p Precision) (plan, error) {
	var out plan
	placed := map[string]bool{arch.Embedding: true, arch.Head: true}
	for _, slot := range decoder.Adapters(im.m.Arch) {
		var parts []stack
		for _, part := range slot.Parts {
			s, ok, err := im.stack(part.Name+".weight", part.Out, slot.In, p.bits())
			if err != nil {
				return out, err
			}
			if ok {
				parts = append(parts, s)
				placed[s.name] = true
			}
		}
		if whole, ok := joined(slot, parts); ok {
			parts = []stack{whole}
		}
		out.stacks = append(out.stacks, parts...)
	}
	if err := im.planTables(p, &out); err != nil {
		return out, err
	}
	for i, s := range out.stacks {
		if p.exact() && s.Bits == 8 && s.name != arch.Embedding { // of the table only rows are read
			out.stacks[i].Format = quant.Format{Bits: 4, Group: s.Group, Shifted: true, Halved: true}
		}
	}
	for _, w := range im.m.Arch.Weights() {
		if !placed[w.Name] && im.located(w.Name) == nil {
			out.floats = append(out.floats, safetensors.Entry{Name: w.Name, DType: tensor.F32, Shape: w.Shape})
		}
	}
	return out, nil
}

// joined puts the parts of a slot one below the other, if all are in blocks of one format.
func joined(slot decoder.Slot, parts []stack) (stack, bool) {
	if len(parts) != len(slot.Parts) {
		return stack{}, false
	}
	s := stack{Format: parts[0].Format, name: slot.Name, out: slot.Out, in: slot.In, round: parts[0].round}
	for _, p := range parts {
		if p.Format != s.Format || p.round != s.round {
			return stack{}, false
		}
		s.weights = append(s.weights, p.weights...)
	}
	return s, true
}

// planTables decides for embedding table and head. The head has 8 bits at least. The table, from which rows are copied,
// keeps the base's blocks or floats; where it is the head too, both are one.
func (im *importer) planTables(p Precision, out *plan) error {
	a := im.m.Arch
	source := arch.Head
	if a.TieEmbeddings {
		source = arch.Embedding
	}
	head, headOK, err := im.stack(source, a.Vocab, a.Hidden, 8)
	if err != nil {
		return err
	}
	if im.ck != nil && headOK { // the checkpoint's rows, in floats
		head.Format, headOK = quant.RoundFormat(8, a.Hidden)
		head.round = 8
	}
	table, tableOK, err := im.stack(arch.Embedding, a.Vocab, a.Hidden, 8)
	if err != nil {
		return err
	}
	tableOK = tableOK && table.round == 0 && im.located(arch.Embedding) == nil
	if headOK && !(tableOK && a.TieEmbeddings && !p.exact()) {
		head.name = arch.Head
		out.stacks = append(out.stacks, head)
	}
	float := func(name string) {
		if im.located(name) == nil {
			out.floats = append(out.floats, safetensors.Entry{Name: name, DType: tensor.F32, Shape: tensor.Shape{a.Vocab, a.Hidden}})
		}
	}
	if tableOK {
		out.stacks = append(out.stacks, table)
	} else {
		float(arch.Embedding)
	}
	if !headOK && !a.TieEmbeddings {
		float(arch.Head)
	}
	return nil
}

// stack describes one weight in blocks of no more than the bits; ok is false if it is to be floats.
func (im *importer) stack(name string, out, in, bits int) (s stack, ok bool, err error) {
	s = stack{name: name, weights: []string{name}, out: out, in: in}
	b, quantised, err := im.src.Blocks(name)
	if err != nil {
		return s, false, err
	}
	if quantised {
		// Up to 6 bits count as 4: files of 4 bits hold some matrices so.
		if c, known := b.Type.Codes(); known && (bits == 8 || c.Bits <= 6) {
			s.Format, ok = quant.FormatOf(b.Type)
			return s, ok, nil
		}
	}
	if !im.round {
		return s, false, nil
	}
	s.round = bits
	s.Format, ok = quant.RoundFormat(bits, in)
	return s, ok, nil
}

// matrix makes a stack's blocks.
func (im *importer) matrix(s stack) (quant.Matrix, error) {
	for _, f := range im.rounded {
		if m, ok := blocksIn(f, s.name, s.in); ok && s.round == 4 {
			return m, nil
		}
	}
	parts := make([]quant.Matrix, len(s.weights))
	for i, name := range s.weights {
		ok := false
		if s.round == 0 {
			b, _, err := im.src.Blocks(name)
			if err != nil {
				return quant.Matrix{}, err
			}
			parts[i], ok = quant.FromGGUF(b)
		} else {
			v, err := im.float(name)
			if err != nil {
				return quant.Matrix{}, err
			}
			values, err := v.Float32()
			if err != nil {
				return quant.Matrix{}, err
			}
			parts[i], ok = quant.Round(values, v.Shape[0], v.Shape[1], s.round)
		}
		if !ok {
			return quant.Matrix{}, clara.Errorf(clara.Internal, "weight %s does not fit its blocks", name)
		}
	}
	m, ok := quant.Stack(parts...)
	if s.Halved {
		m = m.Halve()
	}
	if !ok || m.Out != s.out || m.In != s.in || m.Format != s.Format {
		return quant.Matrix{}, clara.Errorf(clara.Corrupt, "weights %v are [%d, %d], the architecture says [%d, %d]", s.weights, m.Out, m.In, s.out, s.in)
	}
	return m, nil
}

// float is a weight as the package has it, else as the base has it.
func (im *importer) float(name string) (tensor.View, error) {
	if f := im.located(name); f != nil {
		return f.Tensor(storedName(f, name))
	}
	return im.src.Tensor(name)
}

// writeBlocks writes the weights of a precision in blocks.
func (im *importer) writeBlocks(p Precision) error {
	todo, err := im.plan(p)
	if err != nil {
		return err
	}
	stacks := map[string]stack{}
	entries := todo.floats
	for _, s := range todo.stacks {
		stacks[s.name] = s
		entries = append(entries, s.entries()...)
	}
	var last quant.Matrix
	var lastName string
	return im.stream(weightsOf(p), entries, func(name string) (tensor.View, error) {
		if err := im.ctx.Err(); err != nil {
			return tensor.View{}, err
		}
		dot := strings.LastIndexByte(name, '.')
		s, ok := stacks[name[:dot]]
		if !ok {
			v, err := im.src.Tensor(name)
			if err != nil {
				return tensor.View{}, err
			}
			return v.Convert(tensor.F32)
		}
		if s.name != lastName {
			m, err := im.matrix(s)
			if err != nil {
				return tensor.View{}, err
			}
			last, lastName = m, s.name
		}
		return blockTensor(name, map[string]quant.Matrix{s.name: last}), nil
	})
}

// blockTensor is one of the tensors of a matrix in blocks, by its name in a file.
func blockTensor(name string, of map[string]quant.Matrix) tensor.View {
	suffix := "." + lastPart(name)
	m := of[name[:len(name)-len(suffix)]]
	rows, groups := m.Rows(m.Out), m.In/m.Group
	switch suffix {
	case scaleSuffix:
		return tensor.FromFloat32(name, tensor.Shape{rows, groups}, m.Scale)
	case shiftSuffix:
		return tensor.FromFloat32(name, tensor.Shape{m.Out, groups}, m.Shift)
	}
	return tensor.View{Name: name, DType: tensor.U8, Shape: tensor.Shape{rows, groups, m.Group * m.Bits / 8}, Data: m.Codes}
}

// lastPart is what follows the last dot.
func lastPart(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

// packageWeights finds weights in the package for the graph of a precision.
type packageWeights struct {
	*importer
	floats []*safetensors.File
	blocks *safetensors.File // nil for floats
}

// Float implements decoder.Weights.
func (w packageWeights) Float(name string) ([]int64, graph.DType, graph.File, error) {
	f := located(w.floats, name)
	if f == nil {
		return nil, 0, graph.File{}, clara.Errorf(clara.NotFound, "no file holds %s", name)
	}
	stored := storedName(f, name)
	v, err := f.Tensor(stored)
	if err != nil {
		return nil, 0, graph.File{}, err
	}
	dtype, ok := graphTypes()[v.DType]
	if !ok {
		return nil, 0, graph.File{}, clara.Errorf(clara.Unsupported, "weight %s is of type %s", name, v.DType)
	}
	shape := make([]int64, len(v.Shape))
	for i, d := range v.Shape {
		shape[i] = int64(d)
	}
	at, _ := place(f, stored)
	return shape, dtype, at, nil
}

// Blocks implements decoder.Weights.
func (w packageWeights) Blocks(name string, in int) (b decoder.Blocks, ok bool) {
	if w.blocks == nil {
		return b, false
	}
	if name == arch.Head && w.m.Arch.TieEmbeddings && !w.blocks.Has(name+codesSuffix) {
		name = arch.Embedding
	}
	m, ok := blocksIn(w.blocks, name, in)
	if !ok {
		return b, false
	}
	b = decoder.Blocks{Format: m.Format, Out: m.Out, In: m.In}
	b.Codes, _ = place(w.blocks, name+codesSuffix)
	b.Scale, _ = place(w.blocks, name+scaleSuffix)
	b.Shift, _ = place(w.blocks, name+shiftSuffix)
	return b, true
}

// place is where a tensor lies beside a graph.
func place(f *safetensors.File, name string) (graph.File, bool) {
	v, err := f.Tensor(name)
	if err != nil {
		return graph.File{}, false
	}
	offset, _ := f.Offset(name)
	return graph.File{Path: filepath.Base(f.Path()), Offset: offset, Length: int64(len(v.Data))}, true
}

// blocksIn returns a matrix [Out, in] in blocks as it lies in a file; ok is false if it is not there.
func blocksIn(f *safetensors.File, name string, in int) (m quant.Matrix, ok bool) {
	codes, err := f.Tensor(name + codesSuffix)
	if err != nil {
		return m, false
	}
	scale, err := f.Tensor(name + scaleSuffix)
	if err != nil || len(codes.Shape) != 3 || codes.DType != tensor.U8 || len(scale.Shape) != 2 || scale.DType != tensor.F32 || codes.Shape[1] == 0 {
		return m, false
	}
	m.Out, m.Codes = codes.Shape[0], codes.Data
	if m.Scale, err = scale.Float32(); err != nil {
		return m, false
	}
	if shift, err := f.Tensor(name + shiftSuffix); err == nil {
		if m.Shift, err = shift.Float32(); err != nil || len(shift.Shape) != 2 || shift.Shape[1] != codes.Shape[1] {
			return m, false
		}
		m.Out, m.Shifted = shift.Shape[0], true
		m.Halved = 2*m.Out == codes.Shape[0]
	}
	m.In, m.Group = in, in/codes.Shape[1]
	if m.Group == 0 || in%m.Group != 0 {
		return m, false
	}
	m.Bits = codes.Shape[2] * 8 / m.Group
	return m, scale.Shape.Equal(codes.Shape[:2]) && m.Rows(m.Out) == codes.Shape[0]
}
