package docx

import (
	"strconv"
	"strings"

	"github.com/clara-suite/clara/services/ingest/internal/ooxml"
)

// maxBased bounds a chain of styles, which a broken file may close to a ring.
const maxBased = 64

// bodyLevel is the outline level of ordinary text; headings are below it.
const bodyLevel = 9

// style is a style of styles.xml as it stands there, without inheritance.
type style struct {
	id, name, based string
	// outline is -1 if the style does not say.
	outline int
	// num is nil if the style does not say.
	num  *ooxml.Node
	rPr  *ooxml.Node
	kind string
}

type styles struct {
	byID map[string]*style
	// paragraph is the id of the default paragraph style.
	paragraph string
}

func readStyles(root *ooxml.Node) styles {
	s := styles{byID: map[string]*style{}}
	if root == nil {
		return s
	}
	for _, n := range root.Kids {
		if n.Name != "w:style" {
			continue
		}
		st := &style{id: n.Attr("w:styleId"), kind: n.Attr("w:type"), outline: -1, num: n.Kid("w:pPr", "w:numPr"), rPr: n.Kid("w:rPr")}
		name, _ := n.Val("w:name")
		st.name = strings.ToLower(strings.TrimSpace(name))
		st.based, _ = n.Val("w:basedOn")
		if v, ok := n.Val("w:pPr", "w:outlineLvl"); ok {
			if l, err := strconv.Atoi(v); err == nil && l >= 0 {
				st.outline = min(l, bodyLevel)
			}
		}
		s.byID[st.id] = st
		if d := n.Attr("w:default"); st.kind == "paragraph" && (d == "1" || d == "true") {
			s.paragraph = st.id
		}
	}
	return s
}

// chain calls f for the style and those it is based on, nearest first, until f
// returns false.
func (s styles) chain(id string, f func(*style) bool) {
	for range maxBased {
		st := s.byID[id]
		if st == nil || !f(st) {
			return
		}
		id = st.based
	}
}

// heading returns the outline level (0 is the highest) that a paragraph style
// gives, -1 for the title of the document, bodyLevel for ordinary text.
func (s styles) heading(id string) int {
	level := bodyLevel
	s.chain(id, func(st *style) bool {
		switch {
		case st.name == "title":
			level = titleLevel
		case st.name == "toc heading":
			level = 0
		case st.outline >= 0:
			level = st.outline
		default:
			n, ok := strings.CutPrefix(st.name, "heading ")
			if !ok {
				return true
			}
			l, err := strconv.Atoi(n)
			if err != nil || l < 1 || l > 9 {
				return true
			}
			level = l - 1
		}
		return false
	})
	return level
}

// titleLevel is the outline level of the document's title.
const titleLevel = -1

// code reports whether the style is one for program text.
func (s styles) code(id string) bool {
	code := false
	s.chain(id, func(st *style) bool {
		switch st.name {
		case "source code", "html preformatted", "code", "code block", "preformatted text", "plain text code", "macro", "verbatim":
			code = true
		}
		return !code
	})
	return code
}

// numbering returns the style's list and level as the chain gives them.
func (s styles) numbering(id string) (num string, level int, from string) {
	level = -1
	s.chain(id, func(st *style) bool {
		if st.num == nil {
			return true
		}
		if v, ok := st.num.Val("w:ilvl"); ok && level < 0 {
			level, _ = strconv.Atoi(v)
		}
		if v, ok := st.num.Val("w:numId"); ok && num == "" {
			num, from = v, st.id
		}
		return num == ""
	})
	return num, level, from
}
