package infer

import "slices"

const (
	// leastPrefix is the fewest tokens that are worth keeping.
	leastPrefix = 8
	// recentPrompts is how many prompts back two of them are compared.
	recentPrompts = 8
)

// prefixes keeps the keys and values of what prompts begin with in common, so that it is not computed again:
// the instructions of a template, the earlier turns of a conversation. A beginning is kept once two prompts have shown
// it, in what memory there is for it, and the one that was not used for longest goes first.
//
// It ends before a prompt's first memory, and belongs to the kind of request that it was computed for: with another adapter
// or other rotary tables keys and values are others.
type prefixes struct {
	cache    rowCache
	perToken int64 // bytes
	room     int64
	kept     []prefix // the one used last is the last
	recent   []prefix // without data, the last prompt is the last
}

type prefix struct {
	kind kind
	ids  []int32
	data []float32
}

// kind is what else than tokens keys and values depend on.
type kind struct{ adapter, long bool }

func kindOf(r *stream) kind { return kind{r.adapter, r.long} }

func newPrefixes(cache rowCache, perToken, room int64) *prefixes {
	return &prefixes{cache: cache, perToken: perToken, room: room}
}

// beginning is the part of a prompt that others can share: text before the first memory, and not the
// last token, whose logits are wanted.
func beginning(p Prompt) []int32 {
	n := len(p.IDs) - 1
	for _, s := range p.Slots {
		n = min(n, s.At)
	}
	return p.IDs[:n]
}

// find returns the entry of a list that has most in common with ids, and how many tokens; -1 if there is none.
func find(list []prefix, of kind, ids []int32) (best, tokens int) {
	best = -1
	for i, p := range list {
		if p.kind != of {
			continue
		}
		if n := common(p.ids, ids); n > tokens {
			best, tokens = i, n
		}
	}
	return best, tokens
}

func common(a, b []int32) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// fill writes what is kept of a request's prompt to its row and returns how many tokens that is.
func (p *prefixes) fill(r *stream) int {
	at, n := find(p.kept, kindOf(r), beginning(r.prompt))
	if n < leastPrefix {
		return 0
	}
	k := p.kept[at]
	p.kept = append(slices.Delete(p.kept, at, at+1), k)
	p.cache.write(r.row, n, k.data, len(k.ids))
	return n
}

// learn is told of a prompt whose keys and values are complete, and keeps what it shares with one before.
func (p *prefixes) learn(r *stream) {
	ids := beginning(r.prompt)
	own := kindOf(r)
	_, shared := find(p.recent, own, ids)
	if len(p.recent) == recentPrompts {
		p.recent = slices.Delete(p.recent, 0, 1)
	}
	p.recent = append(p.recent, prefix{kind: own, ids: ids})
	shared = int(min(int64(shared), p.room/p.perToken))
	if _, have := find(p.kept, own, ids); shared < have+leastPrefix {
		return
	}
	p.kept = slices.DeleteFunc(p.kept, func(k prefix) bool { // what the new one holds as well
		return k.kind == own && common(k.ids, ids[:shared]) == len(k.ids)
	})
	used := int64(shared) * p.perToken
	for _, k := range p.kept {
		used += int64(len(k.ids)) * p.perToken
	}
	for used > p.room {
		used -= int64(len(p.kept[0].ids)) * p.perToken
		p.kept = slices.Delete(p.kept, 0, 1)
	}
	p.kept = append(p.kept, prefix{own, slices.Clone(ids[:shared]), p.cache.read(r.row, shared)})
}
