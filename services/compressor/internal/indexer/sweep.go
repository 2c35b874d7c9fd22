package indexer

import (
	"context"
	"slices"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/index"
	compressorv1 "github.com/clara-suite/clara/proto/gen/clara/compressor/v1"
)

// held is what an index holds of a document.
type held struct {
	newest  int64
	current int // points of the expected revision
	other   int // points of any other
}

// Sweep compares the points of an index with the documents expected in it, and with their records as they are by
// then, since both move on. NotFound if there is no such index.
func (x *Indexer) Sweep(ctx context.Context, r *compressorv1.SweepIndexRequest) (*compressorv1.SweepIndexResponse, error) {
	i, err := x.existing(ctx, r.Index)
	if err != nil {
		return nil, err
	}
	if i == nil {
		return nil, clara.Errorf(clara.NotFound, "no index %s", r.Index)
	}
	expected := make(map[string]*compressorv1.Expected, len(r.Expected))
	for _, e := range r.Expected {
		expected[e.Document] = e
	}
	out := &compressorv1.SweepIndexResponse{}
	found := map[string]*held{}
	for s, err := range i.ScrollRefs(ctx, index.Filter{Collection: r.Collection}) {
		if err != nil {
			return nil, x.dropped(r.Index, err)
		}
		out.Points++
		h := found[s.Passage.Document]
		if h == nil {
			h = &held{}
			found[s.Passage.Document] = h
		}
		h.newest = max(h.newest, s.Revision)
		if e := expected[s.Passage.Document]; e != nil && e.Revision == s.Revision {
			h.current++
		} else {
			h.other++
		}
	}

	var suspects []string
	for document, h := range found {
		e := expected[document]
		if e == nil || e.Passages >= 0 && (h.other > 0 || h.current != int(e.Passages)) {
			suspects = append(suspects, document)
		}
	}
	for document, e := range expected {
		if e.Passages > 0 && found[document] == nil {
			suspects = append(suspects, document)
			found[document] = &held{}
		}
	}
	slices.Sort(suspects)
	return out, x.judge(ctx, r, suspects, expected, found, out)
}

// judge looks at the present record of each suspect, and repairs if asked to.
func (x *Indexer) judge(ctx context.Context, r *compressorv1.SweepIndexRequest, suspects []string, expected map[string]*compressorv1.Expected, found map[string]*held, out *compressorv1.SweepIndexResponse) error {
	names := make([]string, len(suspects))
	for n, document := range suspects {
		names[n] = documentName(r.Collection, document)
	}
	records, err := x.records(ctx, names)
	if err != nil {
		return err
	}
	for n, document := range suspects {
		d, e, h := records[names[n]], expected[document], found[document]
		before := h.newest + 1
		if d != nil {
			p := placement(d, r.Index)
			if !settled(d) || p == nil || !p.Indexed || e == nil || e.Revision != d.Revision {
				continue // on its way: its own event ends it
			}
			if h.current != int(p.Passages) {
				out.Incomplete = append(out.Incomplete, document)
			}
			if h.other == 0 {
				continue
			}
			before = d.Revision
		}
		out.Orphans = append(out.Orphans, document)
		if r.Repair {
			if err := x.DeleteDocument(ctx, r.Collection, document, before, []string{r.Index}); err != nil {
				return err
			}
		}
	}
	return nil
}
