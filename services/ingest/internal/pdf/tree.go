package pdf

import (
	"strings"
	"unicode/utf8"
)

// roles is what the structure tree says of one page's marked content, by its identity.
type roles struct {
	heading map[int]int    // level, from 1
	alt     map[int]string // descriptions of figures
}

const (
	maxTreeDepth = 40
	maxTreeNodes = 20_000
)

// readTree reads the page's part of the structure tree, nil if there is none.
func (r *pageReader) readTree(page uint64) *roles {
	if !r.tagged {
		return nil
	}
	tree := r.call(fnTreePage, page)
	if tree == 0 {
		return nil
	}
	defer r.call(fnTreeClose, tree)
	out := &roles{heading: map[int]int{}, alt: map[int]string{}}
	left := maxTreeNodes
	n := r.callInt(fnTreeCount, tree)
	for i := 0; i < n && left > 0 && r.err == nil; i++ {
		r.element(r.call(fnTreeChild, tree, uint64(i)), out, 0, "", 0, &left)
	}
	return out
}

// element notes the marked content below a structure element. A heading level
// or a description holds for all that is inside.
func (r *pageReader) element(e uint64, out *roles, level int, alt string, depth int, left *int) {
	if *left--; e == 0 || depth > maxTreeDepth || *left <= 0 {
		return
	}
	switch kind := r.text(fnElemType, e); {
	case kind == "Title":
		level = 1
	case len(kind) == 2 && kind[0] == 'H' && kind[1] >= '1' && kind[1] <= '6':
		level = int(kind[1] - '0')
	case kind == "Figure":
		alt = strings.Join(strings.Fields(r.text(fnElemAlt, e)), " ")
	case kind == "Table" || kind == "TOC":
		level = 0
	}
	n := r.callInt(fnElemCount, e)
	for i := 0; i < n && *left > 0 && r.err == nil; i++ {
		if id := r.callInt(fnElemChildMCID, e, uint64(i)); id >= 0 {
			if level > 0 {
				out.heading[id] = level
			}
			if alt != "" {
				out.alt[id] = alt
			}
			continue
		}
		r.element(r.call(fnElemChild, e, uint64(i)), out, level, alt, depth+1, left)
	}
}

// apply gives words and pictures what the tree says of them. Where most of
// the page would be headings the tree is wrong and is not used.
func (o *roles) apply(s *source) {
	if o == nil {
		return
	}
	total, titled := 0, 0
	for i := range s.words {
		n := utf8.RuneCountInString(s.words[i].text)
		total += n
		if o.heading[s.words[i].mcid] > 0 {
			titled += n
		}
	}
	if titled*10 <= total*4 {
		for i := range s.words {
			s.words[i].heading = o.heading[s.words[i].mcid]
		}
	}
	for i := range s.pictures {
		s.pictures[i].alt = o.alt[s.pictures[i].mcid]
	}
}
