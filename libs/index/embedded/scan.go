package embedded

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// hit is a slot with its score.
type hit struct {
	slot  uint32
	score float32
}

// better orders hits best first; equal scores by slot, so that results do not depend on the number of workers.
func better(a, b hit) int {
	return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.slot, b.slot))
}

// topHits is a heap whose root is the worst of the best so far.
type topHits []hit

func (t topHits) Len() int           { return len(t) }
func (t topHits) Less(i, j int) bool { return better(t[i], t[j]) > 0 }
func (t topHits) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *topHits) Push(x any)        { *t = append(*t, x.(hit)) }
func (t *topHits) Pop() any {
	last := (*t)[len(*t)-1]
	*t = (*t)[:len(*t)-1]
	return last
}

// offer takes h in if it is among the best limit.
func (t *topHits) offer(h hit, limit int) {
	switch {
	case len(*t) < limit:
		heap.Push(t, h)
	case better(h, (*t)[0]) < 0:
		(*t)[0] = h
		heap.Fix(t, 0)
	}
}

// blockBytes is how much of a vector file a worker takes at a time: small enough
// to share the work evenly and to notice a context that ended.
const blockBytes = 1 << 20

// scan returns the limit slots that score best against a query, best first.
func scan(ctx context.Context, v rowView, q []float32, slots []uint32, limit int) ([]hit, error) {
	block := max(1, blockBytes/v.stride)
	blocks := (len(slots) + block - 1) / block
	workers := max(1, min(runtime.GOMAXPROCS(0), blocks))
	tops, faults := make([]topHits, workers), make([]error, workers)
	score := v.element.scorer(q)
	var next atomic.Int64
	var wg sync.WaitGroup
	work := func(top *topHits) {
		for ctx.Err() == nil {
			b := int(next.Add(1) - 1)
			if b >= blocks {
				return
			}
			for _, slot := range slots[b*block : min((b+1)*block, len(slots))] {
				top.offer(hit{slot, score(v.bytes(int(slot)))}, limit)
			}
		}
	}
	for w := range workers {
		wg.Go(func() { faults[w] = guard(func() { work(&tops[w]) }) })
	}
	wg.Wait()
	if err := errors.Join(append(faults, ctx.Err())...); err != nil {
		return nil, err
	}
	return best(slices.Concat(tops...), limit), nil
}

func best(hits []hit, limit int) []hit {
	slices.SortFunc(hits, better)
	return hits[:min(limit, len(hits))]
}
