package doc_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/clara-suite/clara/services/ingest/internal/doc"
)

func TestState(t *testing.T) {
	for _, c := range []struct {
		name string
		d    doc.Document
		want doc.State
	}{
		{"no pages", doc.Document{}, doc.Failed},
		{"read", doc.Document{Pages: []doc.Page{{Number: 1, ReadBy: doc.ByText}}}, doc.Done},
		{"one unread", doc.Document{
			Pages:    []doc.Page{{Number: 1, ReadBy: doc.ByText}, {Number: 2, ReadBy: doc.ByNone}},
			Problems: []doc.Problem{{Page: 2, Reason: "x"}},
		}, doc.Partial},
		{"all unread", doc.Document{
			Pages:    []doc.Page{{Number: 1, ReadBy: doc.ByNone}},
			Problems: []doc.Problem{{Page: 1, Reason: "x"}},
		}, doc.Failed},
	} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.want, c.d.State()) })
	}
}

func TestMarkdown(t *testing.T) {
	d := doc.Document{Pages: []doc.Page{{Markdown: "a"}, {}, {Markdown: "b"}}}
	assert.Equal(t, "a\n\nb\n", d.Markdown())
	assert.Empty(t, (&doc.Document{}).Markdown())
}

func TestTable(t *testing.T) {
	assert.Equal(t, "| a | b \\| c |\n| --- | --- |\n| x y | |", doc.Table([][]string{{"a", "b | c"}, {"x\ny"}}))
	assert.Empty(t, doc.Table(nil))
}

func TestEscape(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"plain", "An e-mail (see 3.1) costs 5 - 3 = 2.", "An e-mail (see 3.1) costs 5 - 3 = 2."},
		{"snake case", "call my_func_name now", "call my_func_name now"},
		{"emphasis", "*stars* and _lines_", `\*stars\* and \_lines\_`},
		{"lone star", "a * b", "a * b"},
		{"heading", "# no", `\# no`},
		{"hashtag", "#tag", "#tag"},
		{"number", "1. item", `1\. item`},
		{"decimal", "1.5 apples", "1.5 apples"},
		{"year", "2024) x", `2024\) x`},
		{"dash", "- x", `\- x`},
		{"minus", "-5 degrees", "-5 degrees"},
		{"tag", "a <b> c < d", `a \<b> c < d`},
		{"link", "[a](b)", `[a\](b)`},
		{"code", "a `b`", "a \\`b\\`"},
		{"chinese", "中文，没有空格", "中文，没有空格"},
	} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.want, doc.Escape(c.in)) })
	}
}
