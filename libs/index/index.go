package index

import (
	"context"
	"iter"
	"slices"
	"sync"

	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/protobuf/proto"

	"github.com/clara-suite/clara/libs/clara"
)

const (
	// maxUpsert is how large an upsert message grows, by default less than 5 MB;
	// a single point of up to MaxMemory values is below it too.
	maxUpsert = 4_900_000
	// maxReply is about how many bytes of vectors one reply carries.
	maxReply = 8 << 20
	// page is how many points a scroll asks for at a time.
	page = 512
)

// Index is one physical index.
type Index struct {
	c      *Client
	name   string
	schema Schema
	key    func() *projection // made on first use: up to 8 MiB for the largest memories
	coder  *coder             // nil for memories in half precision
	// nibbles: the server compares int4 codes as such.
	nibbles bool
}

func newIndex(c *Client, name string, s Schema) *Index {
	x := &Index{c: c, name: name, schema: s, key: sync.OnceValue(func() *projection {
		return newProjection(s.Key, s.Values())
	})}
	if s.Memories != FP16 {
		x.coder = &coder{s, newRotation(s.H)}
	}
	return x
}

// Name is the physical name, also when the index was opened through an alias.
func (x *Index) Name() string { return x.name }

// Schema is the shape of what the index holds.
func (x *Index) Schema() Schema { return x.schema }

// Exact reports whether a search looks at every number of every memory, as brute
// force does: not so where a key finds candidates, nor for Int4 in a server other
// than the embedded one, whose distances see half of the numbers.
func (x *Index) Exact() bool {
	return x.schema.Key.Dims == 0 && (x.schema.Memories != Int4 || x.nibbles)
}

func (x *Index) project(values []float32) []float32 { return x.key().apply(values) }

// Upsert writes points and returns when they are durable and visible to
// searches. The same passage written again replaces itself. Messages are kept
// under 5 MB; where several are needed, earlier ones stay written if a later one
// fails, and doing it all again is safe.
// It fails with State for a memory of another shape, Invalid for NaN or
// infinite values, Unsupported for a passage that no message can carry.
func (x *Index) Upsert(ctx context.Context, points []Point) error {
	var batch []*qdrant.PointStruct
	bytes := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		_, err := x.c.q.Upsert(ctx, &qdrant.UpsertPoints{CollectionName: x.name, Wait: qdrant.PtrOf(true), Points: batch})
		batch, bytes = nil, 0
		return x.c.fault("upsert", x.name, err)
	}
	for _, p := range points {
		q, err := x.encode(p)
		if err != nil {
			return err
		}
		size := proto.Size(q) + 16 // the message's own framing of a point
		if size > maxUpsert {
			return clara.Errorf(clara.Unsupported, "index %s: passage %d of document %s takes %d bytes, more than the %d of one message", x.name, p.Passage.Ordinal, p.Passage.Document, size, maxUpsert)
		}
		if bytes+size > maxUpsert {
			if err := flush(); err != nil {
				return err
			}
		}
		batch, bytes = append(batch, q), bytes+size
	}
	return flush()
}

// Delete removes the points of the filter; they are out of every search when it
// returns. An empty filter is Invalid: see [Client.Drop].
func (x *Index) Delete(ctx context.Context, f Filter) error {
	filter, err := f.forDelete(x.name)
	if err != nil {
		return err
	}
	_, err = x.c.q.Delete(ctx, &qdrant.DeletePoints{
		CollectionName: x.name, Wait: qdrant.PtrOf(true), Points: qdrant.NewPointsSelectorFilter(filter),
	})
	return x.c.fault("delete", x.name, err)
}

// DeletePoints removes points by id; ids that do not exist are no error.
func (x *Index) DeletePoints(ctx context.Context, ids []string) error {
	for some := range slices.Chunk(ids, 10_000) {
		_, err := x.c.q.Delete(ctx, &qdrant.DeletePoints{
			CollectionName: x.name, Wait: qdrant.PtrOf(true), Points: qdrant.NewPointsSelectorIDs(pointIDs(some)),
		})
		if err != nil {
			return x.c.fault("delete", x.name, err)
		}
	}
	return nil
}

// Count returns how many points the filter has.
func (x *Index) Count(ctx context.Context, f Filter) (int, error) {
	n, err := x.c.q.Count(ctx, &qdrant.CountPoints{CollectionName: x.name, Filter: f.conditions(), Exact: qdrant.PtrOf(true)})
	return int(n), x.c.fault("count", x.name, err)
}

// Memories returns the memories of points, in the order of ids, each as it was
// written up to the index's precision (see the package comment). It fails with
// NotFound, naming the first id that does not exist, and with Corrupt for a
// memory that is not whole.
func (x *Index) Memories(ctx context.Context, ids []string) ([]clara.Memory, error) {
	s := x.schema
	if s.M == 0 {
		return nil, clara.Errorf(clara.State, "index %s holds text only: it has no memories", x.name)
	}
	out := make([]clara.Memory, 0, len(ids))
	for some := range slices.Chunk(ids, max(1, maxReply/(4*s.dims()))) {
		points, err := x.get(ctx, some, qdrant.NewWithPayloadInclude(fieldScale, fieldSlots), qdrant.NewWithVectorsInclude(s.vectorNames()...))
		if err != nil {
			return nil, err
		}
		for i, p := range points {
			m, err := x.memory(some[i], p)
			if err != nil {
				return nil, err
			}
			out = append(out, m)
		}
	}
	return out, nil
}

func (x *Index) memory(id string, p *qdrant.RetrievedPoint) (clara.Memory, error) {
	values, err := x.vectors(id, p.GetVectors())
	if err != nil {
		return clara.Memory{}, err
	}
	m := clara.Memory{M: x.schema.M, H: x.schema.H}
	scale := number(p.GetPayload()[fieldScale])
	if x.coder == nil {
		m.Data = unpack(values, scale)
		return m, m.Check()
	}
	slots, err := x.slots(id, p.GetPayload())
	if err != nil {
		return clara.Memory{}, err
	}
	m.Data = x.coder.decode(coded{bytes: values, scale: scale, slots: slots})
	return m, m.Check()
}

// slots reads the scales of a point's codes.
func (x *Index) slots(id string, payload map[string]*qdrant.Value) ([]float32, error) {
	slots := slotsOf(payload[fieldSlots].GetStringValue(), x.schema.M)
	if slots == nil {
		return nil, clara.Errorf(clara.Corrupt, "index %s: point %s: %s does not hold %d scales", x.name, id, fieldSlots, x.schema.M)
	}
	return slots, nil
}

// vectors joins the vectors that hold a memory.
func (x *Index) vectors(id string, v *qdrant.VectorsOutput) ([]float32, error) {
	_, size := x.schema.parts()
	values := make([]float32, 0, x.schema.dims())
	for _, name := range x.schema.vectorNames() {
		part := dense(v.GetVectors().GetVectors()[name])
		if len(part) != size {
			return nil, clara.Errorf(clara.Corrupt, "index %s: point %s: vector %s has %d of %d values", x.name, id, name, len(part), size)
		}
		values = append(values, part[:min(size, cap(values)-len(values))]...)
	}
	return values, nil
}

// dense returns the values of a vector; servers up to 1.16 put them in the field that is deprecated now.
func dense(v *qdrant.VectorOutput) []float32 {
	if d := v.GetDense().GetData(); len(d) > 0 {
		return d
	}
	return v.GetData() //nolint:staticcheck // see above
}

// Get returns passages by point id, in the order of ids. It fails with
// NotFound, naming the first id that does not exist.
func (x *Index) Get(ctx context.Context, ids []string) ([]Stored, error) {
	out := make([]Stored, 0, len(ids))
	for some := range slices.Chunk(ids, page) {
		points, err := x.get(ctx, some, qdrant.NewWithPayload(true), qdrant.NewWithVectors(false))
		if err != nil {
			return nil, err
		}
		for _, p := range points {
			out = append(out, decode(p.GetId(), p.GetPayload()))
		}
	}
	return out, nil
}

// get returns points in the order of ids, all of them or an error.
func (x *Index) get(ctx context.Context, ids []string, payload *qdrant.WithPayloadSelector, vectors *qdrant.WithVectorsSelector) ([]*qdrant.RetrievedPoint, error) {
	points, err := x.c.q.Get(ctx, &qdrant.GetPoints{
		CollectionName: x.name, Ids: pointIDs(ids), WithPayload: payload, WithVectors: vectors,
	})
	if err != nil {
		return nil, x.c.fault("get", x.name, err)
	}
	byID := make(map[string]*qdrant.RetrievedPoint, len(points))
	for _, p := range points {
		byID[p.GetId().GetUuid()] = p
	}
	ordered := make([]*qdrant.RetrievedPoint, len(ids))
	for i, id := range ids {
		if ordered[i] = byID[id]; ordered[i] == nil {
			return nil, clara.Errorf(clara.NotFound, "index %s: point %s does not exist", x.name, id)
		}
	}
	return ordered, nil
}

// Passages returns the passages of a document in their order; none is no error.
func (x *Index) Passages(ctx context.Context, collection, document string) ([]Stored, error) {
	var out []Stored
	for p, err := range x.Scroll(ctx, Filter{Collection: collection, Documents: []string{document}}) {
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b Stored) int { return a.Passage.Ordinal - b.Passage.Ordinal })
	return out, nil
}

// Scroll goes through the points of the filter in the order of their ids. An
// error ends it. Points written meanwhile may or may not come.
func (x *Index) Scroll(ctx context.Context, f Filter) iter.Seq2[Stored, error] {
	return x.scroll(ctx, f, qdrant.NewWithPayload(true))
}

// ScrollRefs is Scroll without text, headings and file name: for what compares
// points with records.
func (x *Index) ScrollRefs(ctx context.Context, f Filter) iter.Seq2[Stored, error] {
	return x.scroll(ctx, f, qdrant.NewWithPayloadInclude(fieldCollection, fieldDocument, fieldSet, fieldRevision, fieldOrdinal, fieldHash))
}

func (x *Index) scroll(ctx context.Context, f Filter, payload *qdrant.WithPayloadSelector) iter.Seq2[Stored, error] {
	return func(yield func(Stored, error) bool) {
		var from *qdrant.PointId
		for {
			points, next, err := x.c.q.ScrollAndOffset(ctx, &qdrant.ScrollPoints{
				CollectionName: x.name, Filter: f.conditions(), Offset: from,
				Limit: qdrant.PtrOf(uint32(page)), WithPayload: payload, WithVectors: qdrant.NewWithVectors(false),
			})
			if err != nil {
				yield(Stored{}, x.c.fault("scroll", x.name, err))
				return
			}
			for _, p := range points {
				if !yield(decode(p.GetId(), p.GetPayload()), nil) {
					return
				}
			}
			if next == nil {
				return
			}
			from = next
		}
	}
}

func pointIDs(ids []string) []*qdrant.PointId {
	out := make([]*qdrant.PointId, len(ids))
	for i, id := range ids {
		out[i] = qdrant.NewID(id)
	}
	return out
}
