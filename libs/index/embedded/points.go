package embedded

import (
	"context"
	"math"
	"slices"

	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// points answers the RPCs on points.
type points struct {
	qdrant.UnimplementedPointsServer
	store *store
}

// replyBytes is about how large a reply may get: the client would refuse more than maxMessage anyhow.
const replyBytes = maxMessage - (1 << 20)

// Upsert writes points. It returns when they are synced, whatever wait says.
func (s *points) Upsert(_ context.Context, r *qdrant.UpsertPoints) (*qdrant.PointsOperationResponse, error) {
	if r.GetUpdateFilter() != nil || r.GetUpdateMode() != qdrant.UpdateMode_Upsert {
		return nil, unimplemented("upsert with a filter or a mode")
	}
	c, err := s.store.collection(r.GetCollectionName())
	if err != nil {
		return nil, err
	}
	l, err := layoutOf(c.request)
	if err != nil {
		return nil, err
	}
	var entries []entry
	var vectors [][][]float32
	at := map[pointID]int{}
	for _, p := range r.GetPoints() {
		e, v, err := l.encode(p)
		if err != nil {
			return nil, err
		}
		if i, ok := at[e.id]; ok { // twice in one request: the last counts
			entries[i], vectors[i] = e, v
			continue
		}
		at[e.id] = len(entries)
		entries, vectors = append(entries, e), append(vectors, v)
	}
	if len(entries) > 0 {
		err = c.upsert(entries, vectors)
	}
	return completed(), err
}

func completed() *qdrant.PointsOperationResponse {
	return &qdrant.PointsOperationResponse{Result: &qdrant.UpdateResult{Status: qdrant.UpdateStatus_Completed}}
}

// encode checks a point and takes it apart; a nil vector is absent.
func (l layout) encode(p *qdrant.PointStruct) (entry, [][]float32, error) {
	e := entry{sparse: make([]sparse, len(l.sparse))}
	var err error
	if e.id, err = parseID(p.GetId()); err != nil {
		return e, nil, err
	}
	bad := func(name, why string) error {
		return status.Errorf(codes.InvalidArgument, "point %v: vector %s: %s", p.GetId(), name, why)
	}
	if p.GetVectors().GetVector() != nil {
		return e, nil, unimplemented("a vector without a name")
	}
	vectors := make([][]float32, len(l.dense))
	for name, v := range p.GetVectors().GetVectors().GetVectors() {
		if i := slices.IndexFunc(l.dense, func(d denseVector) bool { return d.name == name }); i >= 0 {
			data := v.GetDense().GetData()
			if data == nil {
				return e, nil, bad(name, "is not a dense vector")
			}
			if err := checkDense(data, l.dense[i]); err != "" {
				return e, nil, bad(name, err)
			}
			vectors[i] = data
			continue
		}
		i := slices.IndexFunc(l.sparse, func(d sparseVector) bool { return d.name == name })
		if i < 0 {
			return e, nil, bad(name, "the collection has none of this name")
		}
		if v.GetSparse() == nil {
			return e, nil, bad(name, "is not a sparse vector")
		}
		if e.sparse[i], err = parseSparse(v.GetSparse()); err != nil {
			return e, nil, err
		}
	}
	// Deterministic, so that equal points have equal records.
	e.payload, err = proto.MarshalOptions{Deterministic: true}.Marshal(&qdrant.Struct{Fields: p.GetPayload()})
	if err != nil {
		return e, nil, status.Errorf(codes.InvalidArgument, "point %v: payload: %v", p.GetId(), err)
	}
	return e, vectors, nil
}

func checkDense(data []float32, v denseVector) string {
	if len(data) != v.dims {
		return "has the wrong number of dims"
	}
	return v.element.check(data)
}

func parseSparse(v *qdrant.SparseVector) (sparse, error) {
	ids, weights := v.GetIndices(), v.GetValues()
	if len(ids) != len(weights) {
		return sparse{}, status.Errorf(codes.InvalidArgument, "sparse vector of %d indices and %d values", len(ids), len(weights))
	}
	seen := make(map[uint32]bool, len(ids))
	for i, id := range ids {
		if seen[id] || math.IsNaN(float64(weights[i])) || math.IsInf(float64(weights[i]), 0) {
			return sparse{}, status.Errorf(codes.InvalidArgument, "sparse vector: index %d is there twice or its value is not finite", id)
		}
		seen[id] = true
	}
	return sparse{ids, weights}, nil
}

// Delete removes points by id or filter. It returns when that is synced.
func (s *points) Delete(_ context.Context, r *qdrant.DeletePoints) (*qdrant.PointsOperationResponse, error) {
	c, err := s.store.collection(r.GetCollectionName())
	if err != nil {
		return nil, err
	}
	switch v := r.GetPoints().GetPointsSelectorOneOf().(type) {
	case *qdrant.PointsSelector_Points:
		ids, err := parseIDs(v.Points.GetIds())
		if err != nil {
			return nil, err
		}
		return completed(), c.removeIDs(ids)
	case *qdrant.PointsSelector_Filter:
		return completed(), c.removeWhere(v.Filter)
	}
	return nil, status.Error(codes.InvalidArgument, "delete names no points")
}

// Get returns points by id; those that do not exist are left out.
func (s *points) Get(_ context.Context, r *qdrant.GetPoints) (*qdrant.GetResponse, error) {
	c, err := s.store.collection(r.GetCollectionName())
	if err != nil {
		return nil, err
	}
	ids, err := parseIDs(r.GetIds())
	if err != nil {
		return nil, err
	}
	payload, vectors := newPayloadSelector(r.GetWithPayload(), false), newVectorSelector(r.GetWithVectors())
	out := &qdrant.GetResponse{}
	var slots []uint32
	held, err := c.hold(func(now *state) error {
		for _, id := range ids {
			if slot, ok := now.slots[id]; ok {
				slots = append(slots, slot)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = held.release() }() // only reading: nothing can be lost
	out.Result, err = c.points(held, slots, payload, vectors)
	return out, err
}

// hold runs f on the state under the lock and keeps the state's files for after; the caller releases them.
func (c *collection) hold(f func(now *state) error) (*state, error) {
	var held *state
	err := c.read(func(now *state) error {
		if err := f(now); err != nil {
			return err
		}
		held = now
		held.hold()
		return nil
	})
	return held, err
}

// points reads slots back; a reply that grows too large is an error.
func (c *collection) points(held *state, slots []uint32, payload payloadSelector, vectors vectorSelector) ([]*qdrant.RetrievedPoint, error) {
	out := make([]*qdrant.RetrievedPoint, 0, len(slots))
	size := 0
	for _, slot := range slots {
		p, err := c.point(held, int(slot), payload, vectors)
		if err != nil {
			return nil, diskError(err)
		}
		if size += proto.Size(p); size > replyBytes {
			return nil, status.Errorf(codes.OutOfRange, "the reply is larger than %d bytes: ask for fewer points at a time", replyBytes)
		}
		out = append(out, p)
	}
	return out, nil
}

// Scroll goes through points in the order of their ids.
func (s *points) Scroll(_ context.Context, r *qdrant.ScrollPoints) (*qdrant.ScrollResponse, error) {
	if r.GetOrderBy() != nil {
		return nil, unimplemented("scroll ordered by a payload field")
	}
	c, err := s.store.collection(r.GetCollectionName())
	if err != nil {
		return nil, err
	}
	limit := 10
	if r.Limit != nil {
		limit = int(r.GetLimit())
	}
	if limit < 1 {
		return nil, status.Error(codes.InvalidArgument, "scroll with a limit of 0")
	}
	var from *pointID
	if r.GetOffset() != nil {
		id, err := parseID(r.GetOffset())
		if err != nil {
			return nil, err
		}
		from = &id
	}
	out := &qdrant.ScrollResponse{}
	var slots []uint32
	held, err := c.hold(func(now *state) error {
		keep, err := now.compile(r.GetFilter())
		if err != nil {
			return err
		}
		order := now.byID()
		begin := 0
		if from != nil {
			begin, _ = slices.BinarySearchFunc(order, *from, func(slot uint32, id pointID) int { return compareID(now.ids[slot], id) })
		}
		for _, slot := range order[begin:] {
			ok, err := keep(int(slot))
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			if len(slots) == limit {
				out.NextPageOffset = now.ids[slot].proto()
				return nil
			}
			slots = append(slots, slot)
		}
		return nil
	})
	if err != nil {
		return nil, diskError(err)
	}
	defer func() { _ = held.release() }() // only reading: nothing can be lost
	out.Result, err = c.points(held, slots, newPayloadSelector(r.GetWithPayload(), true), newVectorSelector(r.GetWithVectors()))
	return out, err
}

// Count counts the points of a filter, exactly whatever is asked.
func (s *points) Count(_ context.Context, r *qdrant.CountPoints) (*qdrant.CountResponse, error) {
	c, err := s.store.collection(r.GetCollectionName())
	if err != nil {
		return nil, err
	}
	var n int
	err = c.read(func(now *state) error {
		if r.GetFilter() == nil {
			n = len(now.slots)
			return nil
		}
		slots, err := now.choose(r.GetFilter())
		n = len(slots)
		return err
	})
	if err != nil {
		return nil, diskError(err)
	}
	return &qdrant.CountResponse{Result: &qdrant.CountResult{Count: uint64(n)}}, nil
}

// CreateFieldIndex keeps a payload field of keywords or integers in memory.
func (s *points) CreateFieldIndex(_ context.Context, r *qdrant.CreateFieldIndexCollection) (*qdrant.PointsOperationResponse, error) {
	kind := r.GetFieldType()
	if kind != qdrant.FieldType_FieldTypeKeyword && kind != qdrant.FieldType_FieldTypeInteger {
		return nil, unimplemented("an index of a payload field that is neither keyword nor integer")
	}
	if r.GetFieldName() == "" {
		return nil, status.Error(codes.InvalidArgument, "the field to index has no name")
	}
	c, err := s.store.collection(r.GetCollectionName())
	if err != nil {
		return nil, err
	}
	return completed(), c.indexField(r.GetFieldName(), kind)
}

// Query returns the points closest to a dense or sparse vector.
func (s *points) Query(ctx context.Context, r *qdrant.QueryPoints) (*qdrant.QueryResponse, error) {
	found, err := s.query(ctx, r)
	return &qdrant.QueryResponse{Result: found}, err
}

// QueryBatch runs several queries on one collection.
func (s *points) QueryBatch(ctx context.Context, r *qdrant.QueryBatchPoints) (*qdrant.QueryBatchResponse, error) {
	out := &qdrant.QueryBatchResponse{}
	for _, q := range r.GetQueryPoints() {
		if q.GetCollectionName() != r.GetCollectionName() {
			return nil, status.Error(codes.InvalidArgument, "a query of the batch is for another collection")
		}
		found, err := s.query(ctx, q)
		if err != nil {
			return nil, err
		}
		out.Result = append(out.Result, &qdrant.BatchResult{Result: found})
	}
	return out, nil
}

// vectorQuery is what Query asks.
type vectorQuery struct {
	using         string
	dense         []float32 // or
	sparse        sparse
	filter        *qdrant.Filter
	limit, offset int // limit includes offset
	payload       payloadSelector
	vectors       vectorSelector
}

func (s *points) query(ctx context.Context, r *qdrant.QueryPoints) ([]*qdrant.ScoredPoint, error) {
	if len(r.GetPrefetch()) > 0 || r.ScoreThreshold != nil || r.GetLookupFrom() != nil {
		return nil, unimplemented("query with prefetch, score_threshold or lookup_from")
	}
	q := vectorQuery{
		using: r.GetUsing(), filter: r.GetFilter(), limit: 10,
		payload: newPayloadSelector(r.GetWithPayload(), false), vectors: newVectorSelector(r.GetWithVectors()),
	}
	if r.Limit != nil {
		q.limit = int(min(r.GetLimit(), math.MaxInt32))
	}
	q.offset = int(min(r.GetOffset(), math.MaxInt32))
	q.limit += q.offset
	if q.limit < 1 {
		return nil, status.Error(codes.InvalidArgument, "query with a limit of 0")
	}
	switch v := r.GetQuery().GetNearest().GetVariant().(type) {
	case *qdrant.VectorInput_Dense:
		q.dense = v.Dense.GetData()
		if q.dense == nil {
			q.dense = []float32{}
		}
	case *qdrant.VectorInput_Sparse:
		var err error
		if q.sparse, err = parseSparse(v.Sparse); err != nil {
			return nil, err
		}
	default:
		return nil, unimplemented("query other than the nearest to a dense or sparse vector")
	}
	c, err := s.store.collection(r.GetCollectionName())
	if err != nil {
		return nil, err
	}
	found, err := c.search(ctx, q)
	if ctx.Err() != nil {
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if err != nil {
		return nil, diskError(err)
	}
	return found, nil
}

// find returns which vector a query is about: the index of a dense one, or of a sparse one, the other is -1.
func (s *state) find(q vectorQuery) (dense, sparse int, err error) {
	dense = slices.IndexFunc(s.dense, func(d denseVector) bool { return d.name == q.using })
	sparse = slices.IndexFunc(s.layout.sparse, func(d sparseVector) bool { return d.name == q.using })
	switch {
	case dense < 0 && sparse < 0:
		err = status.Errorf(codes.InvalidArgument, "the collection has no vector named %q", q.using)
	case dense >= 0 && q.dense == nil, sparse >= 0 && q.dense != nil:
		err = status.Errorf(codes.InvalidArgument, "vector %q is of another kind than the query", q.using)
	case dense >= 0:
		if fault := checkDense(q.dense, s.dense[dense]); fault != "" {
			err = status.Errorf(codes.InvalidArgument, "query on vector %q: %s", q.using, fault)
		}
	}
	return dense, sparse, err
}

// payloadSelector says which payload fields a reply has.
type payloadSelector struct {
	any              bool
	include, exclude []string
}

func newPayloadSelector(w *qdrant.WithPayloadSelector, byDefault bool) payloadSelector {
	switch v := w.GetSelectorOptions().(type) {
	case *qdrant.WithPayloadSelector_Enable:
		return payloadSelector{any: v.Enable}
	case *qdrant.WithPayloadSelector_Include:
		return payloadSelector{any: true, include: append([]string{}, v.Include.GetFields()...)}
	case *qdrant.WithPayloadSelector_Exclude:
		return payloadSelector{any: true, exclude: v.Exclude.GetFields()}
	}
	return payloadSelector{any: byDefault}
}

func (p payloadSelector) from(fields map[string]*qdrant.Value) map[string]*qdrant.Value {
	if p.include != nil {
		out := map[string]*qdrant.Value{}
		for _, f := range p.include {
			if v, ok := fields[f]; ok {
				out[f] = v
			}
		}
		return out
	}
	for _, f := range p.exclude {
		delete(fields, f)
	}
	return fields
}

// vectorSelector says which dense vectors a reply has. Sparse vectors are not returned.
type vectorSelector struct {
	any   bool
	names []string // nil: all
}

func newVectorSelector(w *qdrant.WithVectorsSelector) vectorSelector {
	switch v := w.GetSelectorOptions().(type) {
	case *qdrant.WithVectorsSelector_Enable:
		return vectorSelector{any: v.Enable}
	case *qdrant.WithVectorsSelector_Include:
		return vectorSelector{any: true, names: append([]string{}, v.Include.GetNames()...)}
	}
	return vectorSelector{}
}

func (v vectorSelector) wants(name string) bool {
	return v.names == nil || slices.Contains(v.names, name)
}
