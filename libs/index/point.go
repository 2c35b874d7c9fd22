package index

import (
	"math"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/qdrant/go-client/qdrant"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/index/bm25"
	"github.com/clara-suite/clara/libs/index/internal/half"
)

// Point is a passage with its memory, as it is written.
type Point struct {
	Passage clara.Passage
	// Set names the passage set that the passage is from.
	Set string
	// Revision of the document record at the time of writing.
	Revision int64
	// Memory has the index's [m, H]; the zero Memory in an index of text only.
	Memory clara.Memory
}

// Stored is a passage as it lies in an index, without its memory.
type Stored struct {
	PointID  string
	Passage  clara.Passage
	Set      string
	Revision int64
}

// Payload fields.
const (
	fieldCollection = "collection"
	fieldDocument   = "document"
	fieldSet        = "set"
	fieldRevision   = "revision"
	fieldOrdinal    = "ordinal"
	fieldPageFirst  = "page_first"
	fieldPageLast   = "page_last"
	fieldHeadings   = "headings"
	fieldText       = "text"
	fieldHash       = "hash"
	fieldTokens     = "tokens"
	fieldFile       = "file"
	fieldScale      = "memory_scale"  // memory = scale * stored values
	fieldLength     = "memory_length" // Euclidean length of the stored values
	fieldSlots      = "memory_slots"  // scales of the slots' codes, see slotsText; none in half precision
)

// pointSpace is the UUID namespace of point ids: UUIDv5 of the URL namespace and "clara:index:point".
var pointSpace = uuid.NewSHA1(uuid.NameSpaceURL, []byte("clara:index:point"))

// PointID is the id of a passage in an index: the UUIDv5 of collection,
// document, ordinal, passage hash and index name. Writing a passage twice
// writes the same point.
func PointID(index string, p clara.Passage) string {
	name := strings.Join([]string{p.Collection, p.Document, strconv.Itoa(p.Ordinal), p.Hash, index}, "\x00")
	return uuid.NewSHA1(pointSpace, []byte(name)).String()
}

func (x *Index) encode(p Point) (*qdrant.PointStruct, error) {
	where := func() string {
		return "passage " + strconv.Itoa(p.Passage.Ordinal) + " of document " + p.Passage.Document
	}
	if p.Passage.Collection == "" || p.Passage.Document == "" {
		return nil, clara.Errorf(clara.Invalid, "index %s: %s: no collection or document named", x.name, where())
	}
	headings := make([]*qdrant.Value, len(p.Passage.Headings))
	for i, h := range p.Passage.Headings {
		headings[i] = text(h)
	}
	payload := map[string]*qdrant.Value{
		fieldCollection: text(p.Passage.Collection),
		fieldDocument:   text(p.Passage.Document),
		fieldSet:        text(p.Set),
		fieldRevision:   qdrant.NewValueInt(p.Revision),
		fieldOrdinal:    qdrant.NewValueInt(int64(p.Passage.Ordinal)),
		fieldPageFirst:  qdrant.NewValueInt(int64(p.Passage.PageFirst)),
		fieldPageLast:   qdrant.NewValueInt(int64(p.Passage.PageLast)),
		fieldHeadings:   qdrant.NewValueFromList(headings...),
		fieldText:       text(p.Passage.Text),
		fieldHash:       text(p.Passage.Hash),
		fieldTokens:     qdrant.NewValueInt(int64(p.Passage.Tokens)),
		fieldFile:       text(p.Passage.File),
	}
	vectors := map[string]*qdrant.Vector{}
	if ids, weights := bm25.Document(p.Passage.Text); len(ids) > 0 {
		vectors[vectorText] = qdrant.NewVectorSparse(ids, weights)
	}
	if x.schema.M > 0 {
		if err := x.sameShape(p.Memory); err != nil {
			return nil, clara.Errorf(clara.KindOf(err), "%s: %w", where(), err)
		}
		if err := x.encodeMemory(p.Memory, payload, vectors); err != nil {
			return nil, clara.Errorf(clara.KindOf(err), "index %s: %s: %w", x.name, where(), err)
		}
	} else if len(p.Memory.Data) > 0 {
		return nil, clara.Errorf(clara.State, "index %s holds text only: %s has a memory", x.name, where())
	}
	return &qdrant.PointStruct{
		Id:      qdrant.NewID(PointID(x.name, p.Passage)),
		Vectors: qdrant.NewVectorsMap(vectors),
		Payload: payload,
	}, nil
}

// encodeMemory adds what is kept of a memory to a point.
func (x *Index) encodeMemory(m clara.Memory, payload map[string]*qdrant.Value, vectors map[string]*qdrant.Vector) error {
	values, scale, length, err := pack(m.Data)
	if err != nil {
		return err
	}
	if x.schema.Key.Dims > 0 {
		vectors[vectorKey] = qdrant.NewVectorDense(x.project(values))
	}
	if x.coder != nil {
		k, err := x.coder.encode(m.Data)
		if err != nil {
			return err
		}
		values, scale, length = k.bytes, k.scale, k.length
		payload[fieldSlots] = qdrant.NewValueString(slotsText(k.slots))
	}
	payload[fieldScale] = qdrant.NewValueDouble(scale)
	payload[fieldLength] = qdrant.NewValueDouble(length)
	x.split(values, func(name string, part []float32) { vectors[name] = qdrant.NewVectorDense(part) })
	return nil
}

// text is s as a payload value: protobuf strings must be UTF-8.
func text(s string) *qdrant.Value { return qdrant.NewValueString(strings.ToValidUTF8(s, "\uFFFD")) }

func (x *Index) sameShape(m clara.Memory) error {
	s := x.schema
	if s.M == 0 {
		return clara.Errorf(clara.State, "index %s holds text only: it can't be searched by memory", x.name)
	}
	if m.M != s.M || m.H != s.H {
		return clara.Errorf(clara.State, "index %s holds memories of shape [%d, %d], not [%d, %d]", x.name, s.M, s.H, m.M, m.H)
	}
	return m.Check()
}

// pack divides data by its root mean square and rounds to half precision.
// It returns the rounded values, the scale (data = scale * values) and the
// values' Euclidean length. With a root mean square of 1 no value of up to
// MaxMemory can overflow a half: the largest possible is sqrt(MaxMemory) = 1024.
func pack(data []float32) (values []float32, scale, length float64, err error) {
	if values, scale, err = unit(data); err != nil {
		return nil, 0, 0, clara.Errorf(clara.KindOf(err), "the memory: %w", err)
	}
	var squares float64
	for i, v := range values {
		r := half.Round(v)
		values[i] = r
		squares += float64(r) * float64(r)
	}
	return values, scale, math.Sqrt(squares), nil
}

// unpack is the inverse of pack.
func unpack(values []float32, scale float64) []float32 {
	data := make([]float32, len(values))
	for i, v := range values {
		// Rounding may have brought the largest float32 just above itself.
		data[i] = float32(min(max(float64(v)*scale, -math.MaxFloat32), math.MaxFloat32))
	}
	return data
}

// split calls each for the vectors that hold values, in order. The last part is padded with zeros.
func (x *Index) split(values []float32, each func(name string, part []float32)) {
	_, size := x.schema.parts()
	for i, name := range x.schema.vectorNames() {
		part := values[i*size : min((i+1)*size, len(values))]
		if len(part) < size {
			part = append(make([]float32, 0, size), part...)[:size]
		}
		each(name, part)
	}
}

// decode reads a payload back.
func decode(id *qdrant.PointId, payload map[string]*qdrant.Value) Stored {
	integer := func(field string) int { return int(payload[field].GetIntegerValue()) }
	str := func(field string) string { return payload[field].GetStringValue() }
	var headings []string
	for _, h := range payload[fieldHeadings].GetListValue().GetValues() {
		headings = append(headings, h.GetStringValue())
	}
	return Stored{
		PointID: id.GetUuid(),
		Passage: clara.Passage{
			Collection: str(fieldCollection), Document: str(fieldDocument), Ordinal: integer(fieldOrdinal),
			Text: str(fieldText), Headings: headings,
			PageFirst: integer(fieldPageFirst), PageLast: integer(fieldPageLast),
			Hash: str(fieldHash), Tokens: integer(fieldTokens), File: str(fieldFile),
		},
		Set:      str(fieldSet),
		Revision: payload[fieldRevision].GetIntegerValue(),
	}
}

// number reads a payload value that a server may have stored as an integer.
func number(v *qdrant.Value) float64 {
	if i, ok := v.GetKind().(*qdrant.Value_IntegerValue); ok {
		return float64(i.IntegerValue)
	}
	return v.GetDoubleValue()
}
