package torchpickle

import (
	"encoding/binary"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tensor"
)

// Marks and callables on the stack. A global is only ever compared by name.
type (
	mark    struct{}
	global  string
	storage struct {
		dtype tensor.DType
		key   string
		size  int // elements
	}
)

// Names that files of torch.save contain and that this reader acts upon.
const (
	globalOrderedDict = global("collections.OrderedDict")
	globalTensor      = global("torch._utils._rebuild_tensor_v2")
	globalParameter   = global("torch._utils._rebuild_parameter")
	globalSize        = global("torch.Size")
)

// storageType returns the element type of a legacy storage class of torch.
func storageType(g global) (tensor.DType, bool) {
	switch g {
	case "torch.DoubleStorage":
		return tensor.F64, true
	case "torch.FloatStorage":
		return tensor.F32, true
	case "torch.HalfStorage":
		return tensor.F16, true
	case "torch.BFloat16Storage":
		return tensor.BF16, true
	case "torch.LongStorage":
		return tensor.I64, true
	case "torch.IntStorage":
		return tensor.I32, true
	case "torch.ShortStorage":
		return tensor.I16, true
	case "torch.CharStorage":
		return tensor.I8, true
	case "torch.ByteStorage":
		return tensor.U8, true
	case "torch.BoolStorage":
		return tensor.Bool, true
	}
	return tensor.Invalid, false
}

func (g global) allowed() bool {
	switch g {
	case globalOrderedDict, globalTensor, globalParameter, globalSize:
		return true
	}
	_, ok := storageType(g)
	return ok
}

// machine runs a pickle. Each step consumes at least one byte, so the pickle's
// length bounds stack, memo and work.
type machine struct {
	data  []byte
	at    int
	stack []any
	memo  map[uint32]any
	file  *file
}

func corrupt(format string, args ...any) error {
	return clara.Errorf(clara.Corrupt, format, args...)
}

func unsupported(format string, args ...any) error {
	return clara.Errorf(clara.Unsupported, format, args...)
}

func (m *machine) take(n int) ([]byte, error) {
	if n < 0 || n > len(m.data)-m.at {
		return nil, corrupt("the pickle ends within an instruction at byte %d", m.at)
	}
	b := m.data[m.at : m.at+n]
	m.at += n
	return b, nil
}

// number reads an unsigned little-endian number of n bytes.
func (m *machine) number(n int) (uint64, error) {
	b, err := m.take(n)
	if err != nil {
		return 0, err
	}
	var w [8]byte
	copy(w[:], b)
	return binary.LittleEndian.Uint64(w[:]), nil
}

func (m *machine) push(v any) { m.stack = append(m.stack, v) }

func (m *machine) pop() (any, error) {
	if len(m.stack) == 0 {
		return nil, corrupt("the pickle takes from an empty stack at byte %d", m.at)
	}
	v := m.stack[len(m.stack)-1]
	if _, ok := v.(mark); ok {
		return nil, corrupt("the pickle takes a mark as a value at byte %d", m.at)
	}
	m.stack = m.stack[:len(m.stack)-1]
	return v, nil
}

// popMark removes and returns the values above the last mark.
func (m *machine) popMark() ([]any, error) {
	for i := len(m.stack) - 1; i >= 0; i-- {
		if _, ok := m.stack[i].(mark); ok {
			items := append([]any(nil), m.stack[i+1:]...)
			m.stack = m.stack[:i]
			return items, nil
		}
	}
	return nil, corrupt("the pickle lacks a mark at byte %d", m.at)
}

func (m *machine) text(n uint64) error {
	if n > uint64(len(m.data)) {
		return corrupt("the pickle ends within a text of %d bytes at byte %d", n, m.at)
	}
	b, err := m.take(int(n))
	if err != nil {
		return err
	}
	if !utf8.Valid(b) {
		return corrupt("a text before byte %d of the pickle is not UTF-8", m.at)
	}
	m.push(string(b))
	return nil
}

// line reads up to a newline.
func (m *machine) line() (string, error) {
	for i := m.at; i < len(m.data); i++ {
		if m.data[i] == '\n' {
			s := string(m.data[m.at:i])
			m.at = i + 1
			return s, nil
		}
	}
	return "", corrupt("the pickle ends within a line at byte %d", m.at)
}

// run executes the pickle and returns its value.
func (m *machine) run() (any, error) {
	for {
		op, err := m.take(1)
		if err != nil {
			return nil, err
		}
		if op[0] == '.' { // STOP
			v, err := m.pop()
			if err == nil && len(m.stack) > 0 {
				err = corrupt("the pickle leaves %d values behind", len(m.stack))
			}
			return v, err
		}
		if err := m.step(op[0]); err != nil {
			return nil, err
		}
	}
}

// step executes one instruction; names are those of Python's pickletools.
func (m *machine) step(op byte) error {
	switch op {
	case 0x80: // PROTO
		v, err := m.number(1)
		if err == nil && (v < 2 || v > 5) {
			err = unsupported("pickle protocol %d is not read", v)
		}
		return err
	case 0x95: // FRAME
		_, err := m.take(8)
		return err
	case '(': // MARK
		m.push(mark{})
	case 'N': // NONE
		m.push(nil)
	case 0x88: // NEWTRUE
		m.push(true)
	case 0x89: // NEWFALSE
		m.push(false)
	case '}': // EMPTY_DICT
		m.push(NewDict())
	case ']': // EMPTY_LIST
		m.push(&List{})
	case ')': // EMPTY_TUPLE
		m.push(Tuple{})
	case 'J', 'K', 'M', 0x8a, 'G': // BININT, BININT1, BININT2, LONG1, BINFLOAT
		return m.pushNumber(op)
	case 'X', 0x8c, 0x8d: // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8
		n, err := m.number(map[byte]int{'X': 4, 0x8c: 1, 0x8d: 8}[op])
		if err != nil {
			return err
		}
		return m.text(n)
	case 't': // TUPLE
		items, err := m.popMark()
		if err != nil {
			return err
		}
		return m.pushTuple(items)
	case 0x85, 0x86, 0x87: // TUPLE1, TUPLE2, TUPLE3
		n := int(op - 0x84)
		if len(m.stack) < n {
			return corrupt("the pickle takes from an empty stack at byte %d", m.at)
		}
		items := append([]any(nil), m.stack[len(m.stack)-n:]...)
		m.stack = m.stack[:len(m.stack)-n]
		return m.pushTuple(items)
	case 'q', 'r', 0x94: // BINPUT, LONG_BINPUT, MEMOIZE
		return m.put(op)
	case 'h', 'j': // BINGET, LONG_BINGET
		i, err := m.number(map[byte]int{'h': 1, 'j': 4}[op])
		if err != nil {
			return err
		}
		v, ok := m.memo[uint32(i)]
		if !ok {
			return corrupt("the pickle reads memo %d before it is set", i)
		}
		m.push(v)
	case 'a', 'e': // APPEND, APPENDS
		return m.append(op)
	case 's', 'u': // SETITEM, SETITEMS
		return m.setItems(op)
	case 'c', 0x93: // GLOBAL, STACK_GLOBAL
		return m.global(op)
	case 'Q': // BINPERSID
		return m.persistent()
	case 'R': // REDUCE
		return m.reduce()
	case 'b': // BUILD
		return m.build()
	default:
		return unsupported("pickle instruction 0x%02x at byte %d is not on the list of what checkpoints need: refused", op, m.at-1)
	}
	return nil
}

func (m *machine) pushNumber(op byte) error {
	switch op {
	case 'G':
		b, err := m.take(8)
		if err != nil {
			return err
		}
		m.push(math.Float64frombits(binary.BigEndian.Uint64(b)))
	case 0x8a:
		n, err := m.number(1)
		if err != nil {
			return err
		}
		b, err := m.take(int(n))
		if err != nil {
			return err
		}
		if n > 8 {
			return unsupported("the pickle holds a whole number of %d bytes: more than 8 are not read", n)
		}
		var w [8]byte
		copy(w[:], b)
		if n > 0 && b[n-1]&0x80 != 0 {
			for i := n; i < 8; i++ {
				w[i] = 0xff
			}
		}
		m.push(int64(binary.LittleEndian.Uint64(w[:])))
	default:
		v, err := m.number(map[byte]int{'J': 4, 'K': 1, 'M': 2}[op])
		if err != nil {
			return err
		}
		if op == 'J' {
			m.push(int64(int32(v)))
		} else {
			m.push(int64(v))
		}
	}
	return nil
}

func (m *machine) pushTuple(items []any) error {
	for _, it := range items {
		if _, ok := it.(mark); ok {
			return corrupt("the pickle puts a mark into a tuple at byte %d", m.at)
		}
	}
	m.push(Tuple(items))
	return nil
}

func (m *machine) put(op byte) error {
	i := uint64(len(m.memo))
	if op != 0x94 {
		var err error
		if i, err = m.number(map[byte]int{'q': 1, 'r': 4}[op]); err != nil {
			return err
		}
	}
	if len(m.stack) == 0 {
		return corrupt("the pickle keeps a value of an empty stack at byte %d", m.at)
	}
	m.memo[uint32(i)] = m.stack[len(m.stack)-1]
	return nil
}

func (m *machine) append(op byte) error {
	var items []any
	var err error
	if op == 'e' {
		items, err = m.popMark()
	} else {
		var v any
		v, err = m.pop()
		items = []any{v}
	}
	if err != nil {
		return err
	}
	if len(m.stack) > 0 {
		if l, ok := m.stack[len(m.stack)-1].(*List); ok {
			l.Items = append(l.Items, items...)
			return nil
		}
	}
	return corrupt("the pickle appends to what is not a list at byte %d", m.at)
}

func (m *machine) setItems(op byte) error {
	var items []any
	var err error
	if op == 'u' {
		items, err = m.popMark()
	} else if len(m.stack) >= 2 {
		items = append(items, m.stack[len(m.stack)-2:]...)
		m.stack = m.stack[:len(m.stack)-2]
	}
	if err != nil {
		return err
	}
	if len(items)%2 != 0 || len(m.stack) == 0 {
		return corrupt("the pickle sets a key without a value at byte %d", m.at)
	}
	d, ok := m.stack[len(m.stack)-1].(*Dict)
	if !ok {
		return corrupt("the pickle sets a key of what is not a dictionary at byte %d", m.at)
	}
	for i := 0; i < len(items); i += 2 {
		key := ""
		switch k := items[i].(type) {
		case string:
			key = k
		case int64:
			key = strconv.FormatInt(k, 10)
		default:
			return unsupported("the pickle has a dictionary key that is neither text nor a whole number: refused")
		}
		if _, isMark := items[i+1].(mark); isMark {
			return corrupt("the pickle puts a mark into a dictionary at byte %d", m.at)
		}
		d.Set(key, items[i+1])
	}
	return nil
}

func (m *machine) global(op byte) error {
	var module, name string
	if op == 'c' {
		var err error
		if module, err = m.line(); err != nil {
			return err
		}
		if name, err = m.line(); err != nil {
			return err
		}
	} else {
		n, err := m.pop()
		if err != nil {
			return err
		}
		mod, err := m.pop()
		if err != nil {
			return err
		}
		var ok1, ok2 bool
		name, ok1 = n.(string)
		module, ok2 = mod.(string)
		if !ok1 || !ok2 {
			return corrupt("the pickle names a global by what is not text at byte %d", m.at)
		}
	}
	g := global(module + "." + name)
	if !g.allowed() {
		return unsupported("the pickle refers to %q, which checkpoints do not need: refused, nothing was run", string(g))
	}
	m.push(g)
	return nil
}

// persistent turns ("storage", type, key, location, elements) into a storage.
func (m *machine) persistent() error {
	v, err := m.pop()
	if err != nil {
		return err
	}
	t, ok := v.(Tuple)
	if !ok || len(t) != 5 || t[0] != "storage" {
		return corrupt("the pickle has an external reference that is not a storage at byte %d", m.at)
	}
	g, ok1 := t[1].(global)
	key, ok2 := t[2].(string)
	size, ok3 := t[4].(int64)
	dtype, ok4 := storageType(g)
	if !ok1 || !ok2 || !ok3 || !ok4 || size < 0 {
		return corrupt("the pickle has a storage without type, key or size at byte %d", m.at)
	}
	m.push(storage{dtype: dtype, key: key, size: int(size)})
	return nil
}

// reduce stands for a call; only the listed constructors are understood.
func (m *machine) reduce() error {
	a, err := m.pop()
	if err != nil {
		return err
	}
	f, err := m.pop()
	if err != nil {
		return err
	}
	args, ok := a.(Tuple)
	g, isGlobal := f.(global)
	if !ok || !isGlobal {
		return corrupt("the pickle calls what is not a name at byte %d", m.at)
	}
	switch g {
	case globalOrderedDict:
		if len(args) == 0 {
			m.push(NewDict())
			return nil
		}
	case globalTensor:
		v, err := m.file.tensor(args)
		if err != nil {
			return err
		}
		m.push(v)
		return nil
	case globalParameter: // (tensor, requires_grad, hooks)
		if len(args) == 3 {
			if v, ok := args[0].(tensor.View); ok {
				m.push(v)
				return nil
			}
		}
	case globalSize:
		if len(args) == 1 {
			if t, ok := args[0].(Tuple); ok {
				m.push(t)
				return nil
			}
		}
	}
	return unsupported("the pickle calls %q with %d arguments of a kind that checkpoints do not need: refused, nothing was run", string(g), len(args))
}

// build drops the state that state_dict() hangs on its OrderedDict (_metadata:
// versions of modules); nothing else may have state.
func (m *machine) build() error {
	if _, err := m.pop(); err != nil {
		return err
	}
	if len(m.stack) > 0 {
		if _, ok := m.stack[len(m.stack)-1].(*Dict); ok {
			return nil
		}
	}
	return unsupported("the pickle sets the state of an object at byte %d: refused, nothing was run", m.at-1)
}
