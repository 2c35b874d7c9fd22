package index

import (
	"cmp"
	"context"
	"math"
	"slices"

	"github.com/qdrant/go-client/qdrant"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/index/bm25"
)

const (
	// oversample is how many candidates the key brings for each result.
	oversample = 10
	// slack is how many more results than k a search of whole memories asks for,
	// so that rounding at the server can't change which k are returned.
	slack = 8
	// spreadBytes and slackBytes: distances of int4 bytes see half of the numbers, so more candidates are looked at.
	spreadBytes = 10
	slackBytes  = 64
	// spreadNibbles and slackNibbles: distances of int4 codes have the question's rounding in them, and every slot
	// counts as if it were as long as the others, which after a model's final norm it nearly is.
	spreadNibbles = 3
	slackNibbles  = 24
	// rankConstant of reciprocal rank fusion: a rank r (from 1) counts 1/(rankConstant+r).
	rankConstant = 60
)

// SearchMemory returns the k passages whose memories have the highest cosine
// with q [m, H], best first; fewer if the filter leaves fewer. Equal scores are
// ordered by document and ordinal. Scores are cosines, from -1 to 1.
// It fails with State if q has another shape than the index, Invalid for k < 1.
func (x *Index) SearchMemory(ctx context.Context, q clara.Memory, k int, f Filter) ([]clara.Candidate, error) {
	if err := checkK(k); err != nil {
		return nil, err
	}
	if err := x.sameShape(q); err != nil {
		return nil, err
	}
	if x.coder != nil {
		return x.searchCodes(ctx, q, k, f)
	}
	values, _, err := unit(q.Data)
	if err != nil {
		return nil, clara.Errorf(clara.KindOf(err), "index %s: query: %w", x.name, err)
	}
	var found []scored
	if x.schema.Key.Dims == 0 {
		found, err = x.query(ctx, vectorMemory, qdrant.NewVectorInputDense(values), k+slack, f.conditions())
	} else {
		found, err = x.query(ctx, vectorKey, qdrant.NewVectorInputDense(x.project(values)), max(oversample*k, slack), f.conditions())
		if err == nil {
			err = x.rescore(ctx, values, found)
		}
	}
	if err != nil {
		return nil, err
	}
	for i := range found {
		found[i].Score = found[i].cosine(x.schema.Values())
	}
	return best(found, k), nil
}

// SearchText returns the k passages that match the words of text best by BM25,
// best first; none if no word occurs anywhere. Scores are BM25.
// It fails with Invalid for k < 1.
func (x *Index) SearchText(ctx context.Context, text string, k int, f Filter) ([]clara.Candidate, error) {
	if err := checkK(k); err != nil {
		return nil, err
	}
	ids, weights := bm25.Query(text)
	if len(ids) == 0 {
		return nil, nil
	}
	found, err := x.query(ctx, vectorText, qdrant.NewVectorInputSparse(ids, weights), k, f.conditions())
	if err != nil {
		return nil, err
	}
	return best(found, k), nil
}

// SearchHybrid fuses SearchMemory and SearchText by reciprocal rank: each list
// counts 1/(60 + rank). Scores are these sums. Errors are those of the two.
func (x *Index) SearchHybrid(ctx context.Context, q clara.Memory, text string, k int, f Filter) ([]clara.Candidate, error) {
	// Deeper lists than k, since what is second to k in both may beat the first of one.
	depth := max(2*k, 20)
	if err := checkK(k); err != nil {
		return nil, err
	}
	byMemory, err := x.SearchMemory(ctx, q, depth, f)
	if err != nil {
		return nil, err
	}
	byText, err := x.SearchText(ctx, text, depth, f)
	if err != nil {
		return nil, err
	}
	return Fuse(k, byMemory, byText), nil
}

// Fuse merges ranked lists by reciprocal rank and returns the k best: a
// candidate at rank r (from 1) of a list counts 1/(60 + r). A point is the same
// in all lists if its id is.
func Fuse(k int, lists ...[]clara.Candidate) []clara.Candidate {
	at := map[string]int{}
	var all []scored
	for _, list := range lists {
		for rank, c := range list {
			i, ok := at[c.PointID]
			if !ok {
				i = len(all)
				at[c.PointID] = i
				c.Score = 0
				all = append(all, scored{Candidate: c})
			}
			all[i].Score += 1 / float64(rankConstant+rank+1)
		}
	}
	return best(all, k)
}

func checkK(k int) error {
	if k < 1 {
		return clara.Errorf(clara.Invalid, "search for the best %d: ask for 1 or more", k)
	}
	return nil
}

// scored is a candidate with the server's dot product and the length of its stored memory.
type scored struct {
	clara.Candidate
	length float64
}

// cosine turns the dot product of a normalised query of n values into a cosine.
func (s scored) cosine(n int) float64 {
	if s.length == 0 {
		return 0
	}
	return s.Score / (math.Sqrt(float64(n)) * s.length)
}

// query asks for the points with the highest dot product with one vector.
func (x *Index) query(ctx context.Context, using string, v *qdrant.VectorInput, limit int, f *qdrant.Filter) ([]scored, error) {
	points, err := x.c.q.Query(ctx, &qdrant.QueryPoints{
		CollectionName: x.name, Query: qdrant.NewQueryNearest(v), Using: &using, Filter: f,
		Limit:       qdrant.PtrOf(uint64(limit)),
		Params:      &qdrant.SearchParams{Exact: qdrant.PtrOf(true)},
		WithPayload: qdrant.NewWithPayload(true),
	})
	if err != nil {
		return nil, x.c.fault("search", x.name, err)
	}
	found := make([]scored, len(points))
	for i, p := range points {
		stored := decode(p.GetId(), p.GetPayload())
		found[i] = scored{
			Candidate: clara.Candidate{PointID: stored.PointID, Passage: stored.Passage, Revision: stored.Revision, Score: float64(p.GetScore())},
			length:    number(p.GetPayload()[fieldLength]),
		}
	}
	return found, nil
}

// searchCodes is SearchMemory over codes: distances of bytes, or keys, bring candidates, which are then ranked by
// the cosine of the question, as it is, with the memory as it is kept.
func (x *Index) searchCodes(ctx context.Context, m clara.Memory, k int, f Filter) ([]clara.Candidate, error) {
	q, err := x.coder.question(m.Data, x.nibbles)
	if err != nil {
		return nil, clara.Errorf(clara.KindOf(err), "index %s: query: %w", x.name, err)
	}
	using, input, limit := vectorMemory, q.bytes, k+slack
	switch {
	case x.schema.Key.Dims > 0:
		values, _, err := unit(m.Data)
		if err != nil {
			return nil, err
		}
		using, input, limit = vectorKey, x.project(values), max(oversample*k, slack)
	case x.nibbles:
		limit = spreadNibbles*k + slackNibbles
	case x.schema.Memories == Int4:
		limit = spreadBytes*k + slackBytes
	}
	found, err := x.query(ctx, using, qdrant.NewVectorInputDense(input), limit, f.conditions())
	if err != nil {
		return nil, err
	}
	if err := x.rescoreCodes(ctx, q, found); err != nil {
		return nil, err
	}
	return best(found, k), nil
}

// rescoreCodes replaces the scores of candidates by cosines. One that is deleted meanwhile drops out.
func (x *Index) rescoreCodes(ctx context.Context, q question, found []scored) error {
	numbers := make([]float32, x.schema.H+1) // and the padding of an odd slot
	for some := range slices.Chunk(found, max(1, maxReply/(4*x.schema.dims()))) {
		ids := make([]string, len(some))
		at := make(map[string]int, len(some))
		for i, c := range some {
			ids[i], at[c.PointID] = c.PointID, i
			some[i].Score = math.Inf(-1)
		}
		points, err := x.c.q.Get(ctx, &qdrant.GetPoints{
			CollectionName: x.name, Ids: pointIDs(ids),
			WithPayload: qdrant.NewWithPayloadInclude(fieldSlots), WithVectors: qdrant.NewWithVectorsInclude(x.schema.vectorNames()...),
		})
		if err != nil {
			return x.c.fault("search", x.name, err)
		}
		for _, p := range points {
			id := p.GetId().GetUuid()
			bytes, err := x.vectors(id, p.GetVectors())
			if err != nil {
				return err
			}
			slots, err := x.slots(id, p.GetPayload())
			if err != nil {
				return err
			}
			c := &some[at[id]]
			c.Score = x.coder.dot(q, bytes, slots, numbers)
			c.Score = c.cosine(x.schema.Values())
		}
	}
	return nil
}

// rescore replaces the scores of candidates by the dot product of the whole
// memory: the server takes that of each part, and they are added up here. One
// that is deleted meanwhile drops to the end.
func (x *Index) rescore(ctx context.Context, values []float32, found []scored) error {
	if len(found) == 0 {
		return nil
	}
	ids := make([]string, len(found))
	at := make(map[string]int, len(found))
	for i, c := range found {
		ids[i], at[c.PointID] = c.PointID, i
	}
	request := &qdrant.QueryBatchPoints{CollectionName: x.name}
	x.split(values, func(name string, part []float32) {
		request.QueryPoints = append(request.QueryPoints, &qdrant.QueryPoints{
			CollectionName: x.name, Query: qdrant.NewQueryDense(part), Using: &name,
			Filter:      &qdrant.Filter{Must: []*qdrant.Condition{qdrant.NewHasID(pointIDs(ids)...)}},
			Limit:       qdrant.PtrOf(uint64(len(ids))),
			Params:      &qdrant.SearchParams{Exact: qdrant.PtrOf(true)},
			WithPayload: qdrant.NewWithPayload(false),
		})
	})
	replies, err := x.c.q.QueryBatch(ctx, request)
	if err != nil {
		return x.c.fault("search", x.name, err)
	}
	sums, parts := make([]float64, len(found)), make([]int, len(found))
	for _, reply := range replies {
		for _, p := range reply.GetResult() {
			i := at[p.GetId().GetUuid()]
			sums[i] += float64(p.GetScore())
			parts[i]++
		}
	}
	for i := range found {
		found[i].Score = sums[i]
		if parts[i] < len(request.GetQueryPoints()) {
			found[i].Score = math.Inf(-1)
		}
	}
	return nil
}

// best returns the k candidates with the highest scores, best first.
func best(found []scored, k int) []clara.Candidate {
	slices.SortStableFunc(found, func(a, b scored) int {
		return cmp.Or(
			cmp.Compare(b.Score, a.Score),
			cmp.Compare(a.Passage.Document, b.Passage.Document),
			cmp.Compare(a.Passage.Ordinal, b.Passage.Ordinal),
			cmp.Compare(a.PointID, b.PointID),
		)
	})
	out := make([]clara.Candidate, 0, min(k, len(found)))
	for _, c := range found[:min(k, len(found))] {
		if !math.IsInf(c.Score, -1) {
			out = append(out, c.Candidate)
		}
	}
	return out
}
