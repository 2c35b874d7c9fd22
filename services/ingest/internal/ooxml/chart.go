package ooxml

import (
	"slices"
	"strconv"
	"strings"
)

// Chart is the data of a chart.
type Chart struct {
	Title string
	// Kind says what it is drawn as: "Bar chart", "Bar and line chart"; "" is
	// a chart that names none.
	Kind string
	// Rows is a table: the first row holds the names of the series, the first
	// column the categories.
	Rows [][]string
}

// maxPoints bounds the points of one series.
const maxPoints = 10_000

// ReadChart returns the data that a chart part (c:chartSpace) keeps from its
// workbook.
func ReadChart(root *Node) Chart {
	chart := root.Kid("c:chart")
	var c Chart
	c.Title = DrawingText(chart.Kid("c:title"))
	var forms []string
	type series struct {
		name string
		vals map[int]string
	}
	var all []series
	cats, n := map[int]string{}, 0
	kinds := []*Node{}
	if plot := chart.Kid("c:plotArea"); plot != nil {
		kinds = plot.Kids
	}
	for _, kind := range kinds {
		if !strings.HasSuffix(kind.Name, "Chart") {
			continue
		}
		if f := form(kind.Name); f != "" && !slices.Contains(forms, f) {
			forms = append(forms, f)
		}
		for _, ser := range kind.Kids {
			if ser.Name != "c:ser" {
				continue
			}
			s := series{name: strings.TrimSpace(seriesName(ser)), vals: map[int]string{}}
			for _, p := range []string{"c:cat", "c:xVal"} {
				n = max(n, points(ser.Kid(p), cats))
			}
			for _, p := range []string{"c:val", "c:yVal"} {
				n = max(n, points(ser.Kid(p), s.vals))
			}
			if size := ser.Kid("c:bubbleSize"); size != nil {
				all = append(all, s)
				s = series{name: strings.TrimSpace(s.name + " (size)"), vals: map[int]string{}}
				n = max(n, points(size, s.vals))
			}
			all = append(all, s)
		}
	}
	if len(forms) > 0 {
		kind := strings.Join(forms, " and ") + " chart"
		c.Kind = strings.ToUpper(kind[:1]) + kind[1:]
	}
	if len(all) == 0 || n == 0 {
		return c
	}
	head := []string{""}
	for _, s := range all {
		head = append(head, s.name)
	}
	c.Rows = append(c.Rows, head)
	for i := range n {
		row := []string{cats[i]}
		for _, s := range all {
			row = append(row, s.vals[i])
		}
		c.Rows = append(c.Rows, row)
	}
	return c
}

// form is what an element of the plot area draws: "bar" for c:barChart and
// c:bar3DChart, "" for one that is not of the format.
func form(name string) string {
	switch f := strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(name, "c:"), "Chart"), "3D"); f {
	case "area", "bar", "bubble", "doughnut", "line", "pie", "radar", "scatter", "stock", "surface":
		return f
	case "ofPie":
		return "pie"
	}
	return ""
}

func seriesName(ser *Node) string {
	names := map[int]string{}
	tx := ser.Kid("c:tx")
	if v := tx.Kid("c:v"); v != nil {
		return v.Text
	}
	points(tx, names)
	return names[0]
}

// points collects the cached points below n by their index and returns one
// more than the highest. Levels of a category are joined, the outer one first.
func points(n *Node, out map[int]string) int {
	if n == nil {
		return 0
	}
	if multi := n.Find("c:multiLvlStrCache"); multi != nil {
		return levels(multi, out)
	}
	count := 0
	n.All("c:pt", func(pt *Node) {
		i, err := strconv.Atoi(pt.Attr("idx"))
		if err != nil || i < 0 || i >= maxPoints {
			return
		}
		out[i] = number(pt.Kid("c:v"))
		count = max(count, i+1)
	})
	return count
}

func levels(multi *Node, out map[int]string) int {
	count := 0
	var lvls []map[int]string
	for _, l := range multi.Kids {
		if l.Name == "c:lvl" {
			m := map[int]string{}
			count = max(count, points(&Node{Kids: l.Kids}, m))
			lvls = append(lvls, m)
		}
	}
	for i := range count {
		var parts []string
		for l := len(lvls) - 1; l >= 0; l-- {
			// An outer level names only the first of its points.
			for j := i; j >= 0; j-- {
				if v, ok := lvls[l][j]; ok {
					parts = append(parts, v)
					break
				}
				if l == 0 {
					break
				}
			}
		}
		out[i] = strings.Join(parts, " ")
	}
	return count
}

// number shortens what a double looks like when written in full.
func number(v *Node) string {
	if v == nil {
		return ""
	}
	s := strings.TrimSpace(v.Text)
	if f, err := strconv.ParseFloat(s, 64); err == nil && len(s) > 12 {
		return strconv.FormatFloat(f, 'g', 12, 64)
	}
	return s
}

// DrawingText returns the text of all paragraphs (a:p) below n on one line.
func DrawingText(n *Node) string {
	var parts []string
	n.All("a:p", func(p *Node) {
		var b strings.Builder
		for _, r := range p.Kids {
			switch r.Name {
			case "a:r", "a:fld":
				if t := r.Kid("a:t"); t != nil {
					b.WriteString(t.Text)
				}
			case "a:br":
				b.WriteByte(' ')
			}
		}
		if s := strings.TrimSpace(b.String()); s != "" {
			parts = append(parts, s)
		}
	})
	return strings.Join(parts, " ")
}

// Topic is one text of a diagram and its depth below the diagram's root, from 0.
type Topic struct {
	Depth int
	Text  string
}

// ReadDiagram returns the texts of a diagram's data part (dgm:dataModel) in
// the order of its tree.
func ReadDiagram(root *Node) []Topic {
	texts, kids := map[string]string{}, map[string][]edge{}
	var order []string
	child := map[string]bool{}
	docs := map[string]bool{}
	if l := root.Kid("dgm:ptLst"); l != nil {
		for _, pt := range l.Kids {
			switch pt.Attr("type") {
			case "", "node", "asst", "doc":
				id := pt.Attr("modelId")
				texts[id] = DrawingText(pt.Kid("dgm:t"))
				order = append(order, id)
				docs[id] = pt.Attr("type") == "doc"
			}
		}
	}
	if l := root.Kid("dgm:cxnLst"); l != nil {
		for _, c := range l.Kids {
			if t := c.Attr("type"); t != "" && t != "parOf" {
				continue
			}
			src, dst := c.Attr("srcId"), c.Attr("destId")
			ord, _ := strconv.Atoi(c.Attr("srcOrd"))
			kids[src] = insertEdge(kids[src], edge{dst, ord})
			child[dst] = true
		}
	}
	var out []Topic
	seen := map[string]bool{}
	var walk func(id string, depth int)
	walk = func(id string, depth int) {
		if seen[id] || depth > maxDepth {
			return
		}
		seen[id] = true
		if !docs[id] {
			if t := texts[id]; t != "" {
				out = append(out, Topic{depth, t})
			}
			depth++
		}
		for _, e := range kids[id] {
			if _, ok := texts[e.id]; ok {
				walk(e.id, depth)
			}
		}
	}
	for _, id := range order {
		if !child[id] {
			walk(id, 0)
		}
	}
	for _, id := range order { // what only loops reach
		walk(id, 0)
	}
	return out
}

type edge struct {
	id  string
	ord int
}

func insertEdge(es []edge, e edge) []edge {
	i := len(es)
	for i > 0 && es[i-1].ord > e.ord {
		i--
	}
	es = append(es, edge{})
	copy(es[i+1:], es[i:])
	es[i] = e
	return es
}
