package torchpickle

import (
	"archive/zip"
	"bufio"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math"
	"strconv"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tensor"
)

// maxDepth is how deep dictionaries may nest on writing: it stops cycles.
const maxDepth = 64

// pickler writes a protocol-2 pickle and gathers the storages it refers to.
type pickler struct {
	out      []byte
	storages [][]byte
	depth    int
}

func (p *pickler) program(d *Dict) error {
	p.out = append(p.out, 0x80, 2)
	if err := p.value("", d); err != nil {
		return err
	}
	p.out = append(p.out, '.')
	return nil
}

func (p *pickler) value(key string, v any) error {
	switch v := v.(type) {
	case *Dict:
		if p.depth++; p.depth > maxDepth {
			return clara.Errorf(clara.Invalid, "write %q: dictionaries nest deeper than %d", key, maxDepth)
		}
		p.out = append(p.out, '}', '(')
		for _, k := range v.keys {
			p.text(k)
			if err := p.value(k, v.values[k]); err != nil {
				return err
			}
		}
		p.out = append(p.out, 'u')
		p.depth--
	case tensor.View:
		v.Name = key
		return p.tensor(v)
	case Parameter:
		p.global("torch._utils\n_rebuild_parameter")
		p.out = append(p.out, '(')
		v.Name = key
		if err := p.tensor(v.View); err != nil {
			return err
		}
		p.bool(false)
		p.global("collections\nOrderedDict")
		p.out = append(p.out, ')', 'R', 't', 'R')
	case string:
		p.text(v)
	case int64:
		p.integer(v)
	case float64:
		p.out = binary.BigEndian.AppendUint64(append(p.out, 'G'), math.Float64bits(v))
	case bool:
		p.bool(v)
	case nil:
		p.out = append(p.out, 'N')
	default:
		return clara.Errorf(clara.Invalid, "write %q: a %T cannot be written", key, v)
	}
	return nil
}

func (p *pickler) text(s string) {
	p.out = append(binary.LittleEndian.AppendUint32(append(p.out, 'X'), uint32(len(s))), s...)
}

func (p *pickler) bool(b bool) {
	if b {
		p.out = append(p.out, 0x88)
	} else {
		p.out = append(p.out, 0x89)
	}
}

func (p *pickler) integer(n int64) {
	if n == int64(int32(n)) {
		p.out = binary.LittleEndian.AppendUint32(append(p.out, 'J'), uint32(n))
		return
	}
	p.out = binary.LittleEndian.AppendUint64(append(p.out, 0x8a, 8), uint64(n))
}

func (p *pickler) global(g string) { p.out = append(p.out, "c"+g+"\n"...) }

func (p *pickler) ints(values []int) {
	p.out = append(p.out, '(')
	for _, n := range values {
		p.integer(int64(n))
	}
	p.out = append(p.out, 't')
}

// storageClass is the inverse of storageType.
func storageClass(d tensor.DType) (string, bool) {
	for _, class := range []string{"DoubleStorage", "FloatStorage", "HalfStorage", "BFloat16Storage", "LongStorage", "IntStorage", "ShortStorage", "CharStorage", "ByteStorage", "BoolStorage"} {
		if t, _ := storageType(global("torch." + class)); t == d {
			return class, true
		}
	}
	return "", false
}

// tensor writes torch._utils._rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict()).
func (p *pickler) tensor(v tensor.View) error {
	if err := v.Check(); err != nil {
		return err
	}
	class, ok := storageClass(v.DType)
	if !ok {
		return clara.Errorf(clara.Unsupported, "write tensor %q: torch has no storage of %s", v.Name, v.DType)
	}
	stride := make([]int, len(v.Shape))
	n := 1
	for i := len(stride) - 1; i >= 0; i-- {
		stride[i] = n
		n *= max(v.Shape[i], 1)
	}
	p.global("torch._utils\n_rebuild_tensor_v2")
	p.out = append(p.out, '(', '(')
	p.text("storage")
	p.global("torch\n" + class)
	p.text(strconv.Itoa(len(p.storages)))
	p.text("cpu")
	p.integer(int64(v.Elements()))
	p.out = append(p.out, 't', 'Q')
	p.integer(0)
	p.ints(v.Shape)
	p.ints(stride)
	p.bool(false)
	p.global("collections\nOrderedDict")
	p.out = append(p.out, ')', 'R', 't', 'R')
	p.storages = append(p.storages, v.Data)
	return nil
}

// alignment is where torch lets storages begin, so that they can be mapped.
const alignment = 64

// writeZip writes the archive: stored entries, storages aligned by padding the
// extra field of their headers, no times, so that equal input gives equal bytes.
func writeZip(w io.Writer, p *pickler) error {
	b := bufio.NewWriterSize(w, 1<<20)
	count := &counter{w: b}
	z := zip.NewWriter(count)
	add := func(name string, data []byte) error {
		name = "archive/" + name
		h := &zip.FileHeader{Name: name, Method: zip.Store, CRC32: crc32.ChecksumIEEE(data),
			CompressedSize64: uint64(len(data)), UncompressedSize64: uint64(len(data))}
		if err := z.Flush(); err != nil {
			return err
		}
		// Local header: 30 bytes, the name, then our extra field of tag, length and padding.
		const tag = 0x4246 // "FB", the tag that torch itself uses for padding
		begin := count.n + 30 + int64(len(name)) + 4
		pad := int((alignment - begin%alignment) % alignment)
		h.Extra = make([]byte, 4+pad)
		binary.LittleEndian.PutUint16(h.Extra, tag)
		binary.LittleEndian.PutUint16(h.Extra[2:], uint16(pad))
		e, err := z.CreateRaw(h)
		if err != nil {
			return err
		}
		_, err = e.Write(data)
		return err
	}
	type entry struct {
		name string
		data []byte
	}
	entries := []entry{{"data.pkl", p.out}, {"byteorder", []byte("little")}}
	for i, s := range p.storages {
		entries = append(entries, entry{"data/" + strconv.Itoa(i), s})
	}
	entries = append(entries, entry{"version", []byte("3\n")})
	for _, e := range entries {
		if err := add(e.name, e.data); err != nil {
			return clara.Errorf(clara.Unavailable, "write %s: %w", e.name, err)
		}
	}
	if err := z.Close(); err != nil {
		return clara.Errorf(clara.Unavailable, "write zip directory: %w", err)
	}
	if err := b.Flush(); err != nil {
		return clara.Errorf(clara.Unavailable, "write: %w", err)
	}
	return nil
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
