package markup_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/clara-suite/clara/services/ingest/internal/markup"
)

func TestLine(t *testing.T) {
	bold, italic := markup.Style{Bold: true}, markup.Style{Italic: true}
	link := markup.Style{Link: "https://a.example/"}
	type piece struct {
		text  string
		style markup.Style
	}
	for _, c := range []struct {
		name   string
		pieces []piece
		want   string
	}{
		{"joined", []piece{{"a", bold}, {"b", bold}}, "**ab**"},
		{"space outside", []piece{{"a", markup.Style{}}, {" b ", bold}, {"c", markup.Style{}}}, "a **b** c"},
		{"no emphasis that would not show", []piece{{"Note:", bold}, {"text", markup.Style{}}}, "Note:text"},
		{"punctuation alone", []piece{{"a", markup.Style{}}, {"!", bold}}, "a!"},
		{"all styles", []piece{{"x", markup.Style{Bold: true, Italic: true, Strike: true}}}, "***~~x~~***"},
		{"link of two styles", []piece{{"a", link}, {"b", markup.Style{Link: link.Link, Bold: true}}}, "[a**b**](https://a.example/)"},
		{"bare link", []piece{{"https://a.example/", link}}, "<https://a.example/>"},
		{"code", []piece{{"a`b", markup.Style{Code: true}}}, "``a`b``"},
		{"scripts", []piece{{"x", markup.Style{}}, {"2", markup.Style{Script: 1}}, {"i", markup.Style{Script: -1}}}, "x²i"},
		{"lines", []piece{{"a \n", italic}, {"\n 1. b", markup.Style{}}}, "a\n1\\. b"},
		{"later pieces begin no line", []piece{{"a", bold}, {"1. b", markup.Style{}}}, "**a**1. b"},
		{"invisible", []piece{{"so\u00adft\u200b\ufeff \u00a0x\x00", markup.Style{}}}, "soft  x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var l markup.Line
			for _, p := range c.pieces {
				l.Add(p.text, p.style)
			}
			assert.Equal(t, c.want, l.Paragraph())
		})
	}
}

func TestTask(t *testing.T) {
	for _, c := range []struct {
		name, text string
		raw        bool
		mark, rest string
	}{
		{name: "ticked", text: "☒ done", mark: "[x] ", rest: "done"},
		{name: "open", text: " ☐\tto do", mark: "[ ] ", rest: "to do"},
		{name: "choice", text: "☒ yes ☐ no", rest: "☒ yes ☐ no"},
		{name: "box alone", text: "☐", rest: "☐"},
		{name: "within", text: "tick ☐ here", rest: "tick ☐ here"},
		{name: "raw", text: "☐ x", raw: true, rest: "☐ x"},
		{name: "empty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var l markup.Line
			if c.raw {
				l.AddRaw(c.text)
			} else {
				l.Add(c.text, markup.Style{})
			}
			assert.Equal(t, c.mark, l.Task())
			assert.Equal(t, c.rest, l.Inline())
		})
	}
}

func TestLink(t *testing.T) {
	for _, c := range []struct{ in, abs, rel string }{
		{"https://a.example/x", "https://a.example/x", "https://a.example/x"},
		{"mailto:a@b.example", "mailto:a@b.example", "mailto:a@b.example"},
		{"javascript:alert(1)", "", ""}, {"file:///etc/passwd", "", ""}, {"#top", "", ""}, {"a/b.html", "", "a/b.html"}, {"//host/x", "", "//host/x"},
	} {
		assert.Equal(t, c.abs, markup.Link(c.in, false), c.in)
		assert.Equal(t, c.rel, markup.Link(c.in, true), c.in)
	}
}

func TestWriter(t *testing.T) {
	var w markup.Writer
	w.Heading(9, "Deep")
	w.Item("a", 2, markup.Bullet, "one")
	w.Item("a", 5, markup.Marker("1."), "two\nlines")
	w.Continue("more")
	w.Item("a", 2, markup.Marker("(c)"), "three")
	w.Item("b", 2, markup.Bullet, "other list")
	w.Block("\n")
	w.Block("end")
	w.CodeBlock("go", "```\n")
	assert.Equal(t, "###### Deep\n\n- one\n    1. two\n        lines\n\n        more\n- (c) three\n\n- other list\n\nend\n\n````go\n```\n````", w.String())
}

func TestGrid(t *testing.T) {
	var g markup.Grid
	g.Row()
	g.Cell("a", 2, 2)
	g.Cell("b", 1, 1)
	g.Cell("c", 1, 3)
	g.Row()
	g.Cell("d", 1, 1)
	g.Row()
	g.Skip(1)
	g.Cell("e", 1, 1)
	assert.Equal(t, [][]string{{"a", "a", "b", "c"}, {"a", "a", "d", "c"}, {"", "e", "", "c"}}, g.Rows())

	var hostile markup.Grid
	for range 300 {
		hostile.Row()
		hostile.Cell(strings.Repeat("x", 100_000), 1<<30, 1<<30)
	}
	size := 0
	for _, r := range hostile.Rows() {
		for _, c := range r {
			size += len(c)
		}
	}
	assert.Less(t, size, 400<<20)
}
