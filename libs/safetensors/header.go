package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"slices"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/tensor"
)

// maxHeader is the limit that the format's own library sets.
const maxHeader = 100 << 20

// entry is one tensor of a header. begin and end count from the end of the header.
type entry struct {
	name       string
	dtype      tensor.DType
	shape      tensor.Shape
	begin, end int64
}

// header is a parsed and checked header.
type header struct {
	metadata map[string]string
	entries  []entry // in the order of their bytes
	size     int64   // bytes before the first tensor, length word included
}

// parseHeader reads the header at the start of data, the whole file.
func parseHeader(path string, data []byte) (*header, error) {
	corrupt := func(format string, args ...any) error {
		return clara.Errorf(clara.Corrupt, "read safetensors %s: "+format, append([]any{path}, args...)...)
	}
	if len(data) < 8 {
		return nil, corrupt("%d bytes are too few for a header: the file is empty or truncated", len(data))
	}
	n := binary.LittleEndian.Uint64(data)
	if n > maxHeader {
		return nil, corrupt("a header of %d bytes is over the limit of %d: not a safetensors file", n, maxHeader)
	}
	if n > uint64(len(data)-8) {
		return nil, corrupt("the header of %d bytes does not fit the file of %d: the file is truncated", n, len(data))
	}
	h := &header{size: int64(n) + 8}
	if err := h.decode(data[8 : 8+n]); err != nil {
		if clara.KindOf(err) == clara.Unsupported {
			return nil, clara.Errorf(clara.Unsupported, "read safetensors %s: %w", path, err)
		}
		return nil, corrupt("%w", err)
	}
	// In the order of their bytes, tensors must touch: no overlap, no gap, nothing behind.
	slices.SortStableFunc(h.entries, func(a, b entry) int {
		if a.begin != b.begin {
			return int(min(max(a.begin-b.begin, -1), 1))
		}
		return int(min(max(a.end-b.end, -1), 1))
	})
	at := int64(0)
	for _, e := range h.entries {
		if e.begin != at {
			return nil, corrupt("tensor %q begins at byte %d where %d is expected: tensors overlap or leave a gap", e.name, e.begin, at)
		}
		at = e.end
	}
	if have := int64(len(data)) - h.size; at != have {
		return nil, corrupt("the tensors take %d bytes, the file has %d: it is truncated or has something appended", at, have)
	}
	return h, nil
}

// decode parses the JSON by tokens, because encoding/json lets duplicate names pass.
func (h *header) decode(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return clara.Errorf(clara.Corrupt, "the header is not a JSON object")
	}
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return clara.Errorf(clara.Corrupt, "parse header: %w", err)
		}
		name := t.(string) // a key: the decoder accepts nothing else here
		if seen[name] {
			return clara.Errorf(clara.Corrupt, "the name %q appears twice", name)
		}
		seen[name] = true
		if name == "__metadata__" {
			if err := d.Decode(&h.metadata); err != nil {
				return clara.Errorf(clara.Corrupt, "parse __metadata__: %w", err)
			}
			continue
		}
		e, err := decodeEntry(d, name)
		if err != nil {
			return err
		}
		h.entries = append(h.entries, e)
	}
	if _, err := d.Token(); err != nil {
		return clara.Errorf(clara.Corrupt, "parse header: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return clara.Errorf(clara.Corrupt, "the header has something after its object")
	}
	return nil
}

func decodeEntry(d *json.Decoder, name string) (entry, error) {
	var raw struct {
		DType   string  `json:"dtype"`
		Shape   []int   `json:"shape"`
		Offsets []int64 `json:"data_offsets"`
	}
	if err := d.Decode(&raw); err != nil {
		return entry{}, clara.Errorf(clara.Corrupt, "parse tensor %q: %w", name, err)
	}
	dtype, ok := tensor.ParseDType(raw.DType)
	if !ok {
		return entry{}, clara.Errorf(clara.Unsupported, "tensor %q has the type %q, which is not read", name, raw.DType)
	}
	if len(raw.Offsets) != 2 || raw.Shape == nil {
		return entry{}, clara.Errorf(clara.Corrupt, "tensor %q lacks its shape or its two data_offsets", name)
	}
	e := entry{name: name, dtype: dtype, shape: raw.Shape, begin: raw.Offsets[0], end: raw.Offsets[1]}
	n, ok := e.shape.Elements()
	length := e.end - e.begin
	if !ok || e.begin < 0 || e.end < e.begin || length%int64(dtype.Size()) != 0 || length/int64(dtype.Size()) != int64(n) {
		return entry{}, clara.Errorf(clara.Corrupt, "tensor %q: %s of shape %s does not fit bytes %d to %d", name, dtype, e.shape, e.begin, e.end)
	}
	return e, nil
}
