package infer

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer/ort"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/onnx/decoder"
)

// model runs the graph. All its methods but checkIDs and isLong belong to the engine's goroutine.
type model struct {
	arch       arch.Model
	pkg        *modelpkg.Package
	runtime    ort.Options
	precisions precisions
	session    *ort.Session // of answers
	sessions   map[modelpkg.Precision]*ort.Session
	matrices   *ort.Matrices // of all sessions
	memory     int           // m

	cache        *cache
	adapters     map[Role][]named
	adapterBytes int64
	ropes        [2][]named // short and long tables
	positions    int        // rows of the tables: the longest text
	lanes        map[laneKey]*lane
	logits       []float32 // [streams, V], of the last step
	embeddings   []float32 // [streams or piece, H], of the present step
	values       []*ort.Value
}

// named is a value under the name of an input.
type named struct {
	name  string
	value *ort.Value
}

func newModel(pkg *modelpkg.Package, o Options, c precisions) (m *model, err error) {
	man := pkg.Manifest
	m = &model{arch: man.Arch, pkg: pkg, runtime: o.Runtime, precisions: c, sessions: map[modelpkg.Precision]*ort.Session{}, memory: man.M, adapters: map[Role][]named{}, lanes: map[laneKey]*lane{}}
	if m.runtime.Matrices == nil { // sessions of several precisions hold the same blocks once
		m.matrices = ort.NewMatrices()
		m.runtime.Matrices = m.matrices
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
		}
	}()
	if m.session, err = m.sessionOf(Decoder); err != nil {
		return m, err
	}
	var device *ort.Session // with memory of its own, which keys and values then stay in
	if m.session.Provider() == ort.CUDA || o.deviceCache {
		device = m.session
	}
	if m.cache, err = newCache(m.arch, o.Streams, o.Context, dtypeOf(c.of[Decoder]), device); err != nil {
		return m, err
	}
	m.positions = max(o.Context, man.DocMaxLength+3+man.M)
	for i, length := range []int{1, math.MaxInt} {
		if err := m.addRope(&m.ropes[i], decoder.Cos, decoder.Sin, m.arch.Rope, length); err != nil {
			return m, err
		}
		if m.arch.LocalRope != nil {
			if err := m.addRope(&m.ropes[i], decoder.CosLocal, decoder.SinLocal, *m.arch.LocalRope, length); err != nil {
				return m, err
			}
		}
		if !m.isLong(m.positions) { // one table serves all
			m.ropes[1] = m.ropes[0]
			break
		}
	}
	if man.HasAdapters() {
		for _, role := range []Role{Base, Encoder, Reasoner, Decoder} {
			if err := m.addAdapter(pkg, role); err != nil {
				return m, err
			}
		}
	}
	m.logits = make([]float32, o.Streams*m.arch.Vocab)
	m.embeddings = make([]float32, max(o.Streams, maxPiece)*m.arch.Hidden)
	return m, nil
}

// sessionOf returns the session of a role. Roles of one precision share it, and so the weights; that of another precision
// is opened at its first use.
func (m *model) sessionOf(r Role) (*ort.Session, error) {
	p := m.precisions.of[r]
	if s := m.sessions[p]; s != nil {
		return s, nil
	}
	path, err := m.pkg.Graph(p)
	if err != nil {
		return nil, err
	}
	before := anonymous()
	s, err := ort.Open(path, m.runtime)
	if err == nil {
		enlarge(before)
		m.sessions[p] = s
	}
	return s, err
}

// addRope computes the tables of a rotary embedding.
func (m *model) addRope(to *[]named, cos, sin string, r arch.Rope, length int) error {
	inv, scale := r.Frequencies(length)
	width := decoder.RotaryWidth(r) / 2 // beyond the frequencies nothing is rotated
	c, s := make([]float32, m.positions*width), make([]float32, m.positions*width)
	for p := range m.positions {
		for i, f := range inv {
			angle := float64(float32(p) * f) // rounded to float32, as transformers does
			c[p*width+i] = scale * float32(math.Cos(angle))
			s[p*width+i] = scale * float32(math.Sin(angle))
		}
	}
	shape := []int64{int64(m.positions), int64(width)}
	for _, x := range []struct {
		name string
		data []float32
	}{{cos, c}, {sin, s}} {
		v, err := m.value(ort.Of(x.data, shape...))
		if err != nil {
			return err
		}
		*to = append(*to, named{x.name, v})
	}
	return nil
}

// addAdapter stacks a role's adapter as the graph takes it; the base's has rank 0.
func (m *model) addAdapter(pkg *modelpkg.Package, role Role) error {
	get := func(string) ([]float32, error) { return nil, nil }
	if role != Base {
		file, err := pkg.Adapter(role)
		if err != nil {
			return err
		}
		defer file.Close()
		get = func(key string) ([]float32, error) {
			v, err := file.Tensor(key)
			if err != nil {
				return nil, err
			}
			return v.Float32()
		}
	}
	for _, slot := range decoder.Adapters(m.arch) {
		as, bs := make([][]float32, len(slot.Parts)), make([][]float32, len(slot.Parts))
		for i, part := range slot.Parts {
			var err error
			if as[i], err = get(part.Name + ".lora_A.weight"); err != nil {
				return fmt.Errorf("%s adapter: %w", role, err)
			}
			if bs[i], err = get(part.Name + ".lora_B.weight"); err != nil {
				return fmt.Errorf("%s adapter: %w", role, err)
			}
		}
		a, b, r, err := slot.Stack(as, bs, float32(pkg.Manifest.LoRAScale))
		if err != nil {
			return fmt.Errorf("%s adapter: %w", role, err)
		}
		p := m.precisions.of[role]
		va, err := m.value(tensorAs(p, a, int64(slot.In), int64(r)))
		if err != nil {
			return err
		}
		vb, err := m.value(tensorAs(p, b, int64(r), int64(slot.Out)))
		if err != nil {
			return err
		}
		m.adapters[role] = append(m.adapters[role], named{slot.A, va}, named{slot.B, vb})
		m.adapterBytes += int64(4/perWord(dtypeOf(p))) * int64(len(a)+len(b))
	}
	return nil
}

// value makes a value that lives as long as the model.
func (m *model) value(t ort.Tensor) (*ort.Value, error) {
	v, err := m.session.Constant(t)
	if err == nil {
		m.values = append(m.values, v)
	}
	return v, err
}

func (m *model) close() error {
	m.dropLanes()
	for _, v := range m.values {
		v.Close()
	}
	m.values = nil
	var errs []error
	if m.cache != nil { // before the session, whose device it may be on
		errs = append(errs, m.cache.close())
		m.cache = nil
	}
	for _, s := range m.sessions {
		errs = append(errs, s.Close())
	}
	m.sessions = nil
	if m.matrices != nil {
		errs = append(errs, m.matrices.Close())
		m.matrices = nil
	}
	return errors.Join(errs...)
}

// isLong reports whether a sequence of this length takes the rotary tables for long ones.
func (m *model) isLong(length int) bool {
	r := m.arch.Rope
	return r.Kind == arch.RopeLongRope && length > r.OriginalPositions
}

// checkIDs refuses ids that have no row in the table.
func (m *model) checkIDs(ids []int32) error {
	for i, id := range ids {
		if id < 0 || int(id) >= m.arch.Vocab {
			return clara.Errorf(clara.Invalid, "token %d has id %d, the model has %d", i, id, m.arch.Vocab)
		}
	}
	return nil
}

// embed writes the embeddings of ids to dst [len(ids), H].
func (m *model) embed(dst []float32, ids []int32) {
	H := m.arch.Hidden
	m.pkg.Embed(dst, ids)
	m.scale(dst[:len(ids)*H])
}

// scale multiplies embeddings as the model does.
func (m *model) scale(x []float32) {
	if scale := float32(m.arch.EmbedScale); scale != 1 {
		for i := range x {
			x[i] *= scale
		}
	}
}

// embedPrompt writes the embeddings of tokens [from, to) of a prompt, memories in their slots.
func (m *model) embedPrompt(dst []float32, p Prompt, from, to int) {
	H := m.arch.Hidden
	m.embed(dst, p.IDs[from:to])
	for _, s := range p.Slots {
		lo, hi := max(from, s.At), min(to, s.At+s.Memory.M)
		if lo < hi {
			slot := dst[(lo-from)*H : (hi-from)*H]
			copy(slot, s.Memory.Data[(lo-s.At)*H:])
			if m.arch.ScaleMemories {
				m.scale(slot)
			}
		}
	}
}

// encode runs texts of one role and returns, for each, the final hidden states of its last rows
// positions, or of all its positions (padded to the longest) if rows is 0: [texts, rows, H].
func (m *model) encode(role Role, long bool, texts [][]int32, rows int) (hidden []float32, width int, err error) {
	H, B, T := m.arch.Hidden, len(texts), 0
	for _, ids := range texts {
		T = max(T, len(ids))
	}
	if width = rows; rows == 0 {
		width = T
	}
	x := make([]float32, B*T*H) // padding is zero: finite
	lengths, gather := make([]int32, B), make([]int64, B*width)
	for b, ids := range texts {
		m.embed(x[b*T*H:], ids)
		lengths[b] = int32(len(ids) - 1)
		for i := range width {
			at := len(ids) - width + i
			if rows == 0 {
				at = min(i, len(ids)-1)
			}
			gather[b*width+i] = int64(at)
		}
	}
	hidden = make([]float32, B*width*H)
	session, err := m.sessionOf(role)
	if err != nil {
		return nil, 0, err
	}
	bind, err := session.Bind()
	if err != nil {
		return nil, 0, err
	}
	defer bind.Close()
	b64, t64, w64 := int64(B), int64(T), int64(width)
	empty := tensorAs(m.precisions.of[role], nil, b64, int64(m.arch.KVHeads), 0, int64(decoder.HeadWidth(m.arch)))
	adapted := slices.Repeat([]float32{1}, B)
	var own []named
	defer func() {
		for _, n := range own {
			n.value.Close()
		}
	}()
	for _, in := range []struct {
		name string
		t    ort.Tensor
	}{
		{decoder.Embeddings, ort.Of(x, b64, t64, int64(H))}, {decoder.Lengths, ort.Of(lengths, b64)},
		{decoder.Longest, ort.Of([]int32{int32(T)}, 1)}, {decoder.Gather, ort.Of(gather, b64, w64, 1)},
		{decoder.Rows, ort.Of([]int64{}, b64, 0, 1)}, {decoder.Adapted, ort.Of(adapted, b64, 1, 1)}, {"", empty}, {decoder.Hidden, ort.Of(hidden, b64, w64, int64(H))},
	} {
		if in.name == decoder.Adapted && !m.pkg.Manifest.HasAdapters() {
			continue
		}
		v, err := ort.NewValue(in.t)
		if err != nil {
			return nil, 0, err
		}
		own = append(own, named{in.name, v})
		switch in.name {
		case "":
			for i := range m.arch.Layers {
				if err := errors.Join(bind.In(decoder.PastKey(i), v), bind.In(decoder.PastValue(i), v)); err != nil {
					return nil, 0, err
				}
			}
		case decoder.Hidden:
			err = bind.Out(in.name, v)
		default:
			err = bind.In(in.name, v)
		}
		if err != nil {
			return nil, 0, err
		}
	}
	if err := m.bindShared(bind, role, long); err != nil {
		return nil, 0, err
	}
	return hidden, width, bind.Run()
}

// bindShared binds what does not depend on the run: the adapter and the rotary tables.
func (m *model) bindShared(b *ort.Binding, role Role, long bool) error {
	ropes := m.ropes[0]
	if long {
		ropes = m.ropes[1]
	}
	for _, list := range [][]named{m.adapters[role], ropes} {
		for _, n := range list {
			if err := b.In(n.name, n.value); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxPiece is the most tokens of a prompt in one run.
const maxPiece = 512

// laneKey says which rows a run takes, and how: adapter, that some of them are with it.
type laneKey struct {
	row, n  int
	adapter bool
	long    bool
}

// lane is a run over rows [row, row+n) of the cache, bound once and run at every step.
type lane struct {
	bind    *ort.Binding
	tokens  int // T of what is bound
	logits  bool
	lengths []int32
	longest []int32
	gather  []int64
	adapted []float32 // 1 for rows with the adapter, else 0
	values  map[string]*ort.Value
}

// lane returns the prepared run over the rows for T tokens each, with logits of the last or without.
func (m *model) lane(k laneKey, T int, logits bool) (*lane, error) {
	if m.cache.fault != nil {
		return nil, fmt.Errorf("copy within the cache: %w", m.cache.fault)
	}
	l := m.lanes[k]
	if l == nil {
		if len(m.lanes) >= 64 {
			m.dropLanes()
		}
		b, err := m.session.Bind()
		if err != nil {
			return nil, err
		}
		l = &lane{bind: b, lengths: make([]int32, k.n), longest: make([]int32, 1), gather: make([]int64, k.n), adapted: make([]float32, k.n), values: map[string]*ort.Value{}}
		m.lanes[k] = l
		if err := m.fillLane(l, k); err != nil {
			m.dropLanes()
			return nil, err
		}
	}
	n, H := int64(k.n), int64(m.arch.Hidden)
	if T != l.tokens {
		if err := l.in(decoder.Embeddings, ort.Of(m.embeddings[:k.n*T*m.arch.Hidden], n, int64(T), H)); err != nil {
			return nil, err
		}
		l.tokens = T
	}
	if l.values[decoder.Logits] == nil || logits != l.logits {
		L := int64(0)
		if logits {
			L = 1
		}
		if err := l.in(decoder.Rows, ort.Of(make([]int64, n*L), n, L, 1)); err != nil {
			return nil, err
		}
		if err := l.put(decoder.Logits, ort.Of(m.logits[:int(n*L)*m.arch.Vocab], n, L, int64(m.arch.Vocab)), l.bind.Out); err != nil {
			return nil, err
		}
		l.logits = logits
	}
	return l, nil
}

func (m *model) fillLane(l *lane, k laneKey) error {
	role := Base
	if k.adapter {
		role = Decoder
	}
	if err := m.bindShared(l.bind, role, k.long); err != nil {
		return err
	}
	for i := range m.arch.Layers {
		for kv, names := range [][2]string{{decoder.PastKey(i), decoder.Key(i)}, {decoder.PastValue(i), decoder.Value(i)}} {
			v, err := m.cache.view(i, kv, k.row, k.n)
			if err != nil {
				return err
			}
			if err := l.hold(names[0], v, l.bind.In); err != nil {
				return err
			}
			if err := l.bind.Out(names[1], l.values[names[0]]); err != nil { // in place
				return err
			}
		}
	}
	n := int64(k.n)
	if m.pkg.Manifest.HasAdapters() {
		if err := l.in(decoder.Adapted, ort.Of(l.adapted, n, 1, 1)); err != nil {
			return err
		}
	}
	return errors.Join(l.in(decoder.Lengths, ort.Of(l.lengths, n)), l.in(decoder.Longest, ort.Of(l.longest, 1)), l.in(decoder.Gather, ort.Of(l.gather, n, 1, 1)))
}

func (l *lane) in(name string, t ort.Tensor) error { return l.put(name, t, l.bind.In) }

// put binds a new value and forgets the one before.
func (l *lane) put(name string, t ort.Tensor, bind func(string, *ort.Value) error) error {
	v, err := ort.NewValue(t)
	if err != nil {
		return err
	}
	return l.hold(name, v, bind)
}

// hold is put of a value that is there already; the lane closes it.
func (l *lane) hold(name string, v *ort.Value, bind func(string, *ort.Value) error) error {
	if err := bind(name, v); err != nil {
		v.Close()
		return err
	}
	if old := l.values[name]; old != nil {
		old.Close()
	}
	l.values[name] = v
	return nil
}

func (m *model) dropLanes() {
	for k, l := range m.lanes {
		l.bind.Close()
		for _, v := range l.values {
			v.Close()
		}
		delete(m.lanes, k)
	}
}

// prefill runs tokens [from, to) of a prompt on a row that has the tokens before them. With logits it
// returns those of the last token, valid until the next run.
func (m *model) prefill(k laneKey, p Prompt, from, to int, logits bool) ([]float32, error) {
	l, err := m.lane(k, to-from, logits)
	if err != nil {
		return nil, err
	}
	m.embedPrompt(m.embeddings, p, from, to)
	l.lengths[0], l.longest[0], l.gather[0], l.adapted[0] = int32(to-1), int32(to), int64(to-from-1), 1
	if err := l.bind.Run(); err != nil {
		return nil, err
	}
	return m.logits[:m.arch.Vocab], nil
}

// decode runs one token of each row; cached[i] tokens are in row i's cache, which is with the adapter if adapted[i]. It returns
// [n, V], valid until the next run.
func (m *model) decode(k laneKey, tokens []int32, cached []int, adapted []bool) ([]float32, error) {
	l, err := m.lane(k, 1, true)
	if err != nil {
		return nil, err
	}
	m.embed(m.embeddings, tokens)
	l.longest[0] = 0
	for i, n := range cached {
		l.lengths[i], l.gather[i], l.adapted[i] = int32(n), 0, 0
		if adapted[i] {
			l.adapted[i] = 1
		}
		l.longest[0] = max(l.longest[0], int32(n+1))
	}
	if err := l.bind.Run(); err != nil {
		return nil, err
	}
	return m.logits[:len(tokens)*m.arch.Vocab], nil
}
