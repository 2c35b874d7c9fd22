package index

import (
	"github.com/qdrant/go-client/qdrant"

	"github.com/clara-suite/clara/libs/clara"
)

// Filter says which points a call is about. A point must meet every field that
// is set; the server looks at nothing else. The zero Filter is all points.
type Filter struct {
	Collection       string
	Documents        []string // any of these
	ExcludeDocuments []string // none of these: what is being deleted
	Set              string   // this passage set
	ExcludeSet       string   // any passage set but this: what a new set replaced
	RevisionBelow    int64    // written by an earlier revision of the document record; 0 asks nothing
}

func (f Filter) empty() bool {
	return f.Collection == "" && len(f.Documents) == 0 && len(f.ExcludeDocuments) == 0 &&
		f.Set == "" && f.ExcludeSet == "" && f.RevisionBelow == 0
}

// conditions returns f as the server's filter; nil for all points.
func (f Filter) conditions() *qdrant.Filter {
	if f.empty() {
		return nil
	}
	out := &qdrant.Filter{}
	if f.Collection != "" {
		out.Must = append(out.Must, qdrant.NewMatchKeyword(fieldCollection, f.Collection))
	}
	if len(f.Documents) > 0 {
		out.Must = append(out.Must, qdrant.NewMatchKeywords(fieldDocument, f.Documents...))
	}
	if len(f.ExcludeDocuments) > 0 {
		out.MustNot = append(out.MustNot, qdrant.NewMatchKeywords(fieldDocument, f.ExcludeDocuments...))
	}
	if f.Set != "" {
		out.Must = append(out.Must, qdrant.NewMatchKeyword(fieldSet, f.Set))
	}
	if f.ExcludeSet != "" {
		out.MustNot = append(out.MustNot, qdrant.NewMatchKeyword(fieldSet, f.ExcludeSet))
	}
	if f.RevisionBelow != 0 {
		out.Must = append(out.Must, qdrant.NewRange(fieldRevision, &qdrant.Range{Lt: qdrant.PtrOf(float64(f.RevisionBelow))}))
	}
	return out
}

func (f Filter) forDelete(index string) (*qdrant.Filter, error) {
	if f.empty() {
		return nil, clara.Errorf(clara.Invalid, "index %s: delete with an empty filter; drop the index to remove everything", index)
	}
	return f.conditions(), nil
}
