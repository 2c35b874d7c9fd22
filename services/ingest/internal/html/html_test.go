package html_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/text/encoding/japanese"
	"golang.org/x/text/encoding/simplifiedchinese"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/html"
)

func read(t *testing.T, page []byte, opts doc.Options) *doc.Document {
	t.Helper()
	d, err := html.Reader{}.Read(context.Background(), bytes.NewReader(page), int64(len(page)), opts)
	require.NoError(t, err)
	return d
}

func TestConvert(t *testing.T) {
	for _, c := range []struct{ name, body, want string }{
		{"headings", "<h1>A <b>b</b></h1><h3>C</h3><p>text", "# A b\n\n### C\n\ntext\n"},
		{"space", "<p>a\n   b <span> c</span></p>\n<p>d</p>", "a b c\n\nd\n"},
		{"styles", "<p><b>bold</b>, <em>it</em>, <s>no</s>, <code>a|b</code>, H<sub>2</sub>O, x<sup>2</sup></p>", "**bold**, *it*, ~~no~~, `a|b`, H₂O, x²\n"},
		{"links", `<p><a href="https://a.example/(x)">t</a> <a href="javascript:alert(1)">no</a> <a href="file:///etc/passwd">no</a> <a href="/rel">r</a></p>`, "[t](https://a.example/%28x%29) no no [r](/rel)\n"},
		{"lists", "<ul><li>a<ol start=3><li>b</li><li><p>c</p><p>d</p></li></ol></li><li>e</li></ul>", "- a\n    3. b\n    4. c\n\n        d\n- e\n"},
		{"definitions", "<dl><dt>Term</dt><dd>what it is</dd></dl>", "- Term\n    - what it is\n"},
		{"code", `<pre><code class="language-go">if x {
	y()
}</code></pre>`, "```go\nif x {\n\ty()\n}\n```\n"},
		{"quote", "<blockquote><p>a</p><p>b</p></blockquote>", "> a\n>\n> b\n"},
		{"table", "<table><caption>Cap</caption><thead><tr><th rowspan=2>h</th><th colspan=2>w</th></tr></thead><tbody><tr><td>1</td><td>2</td></tr><tr><td>a<br>b</td><td><ul><li>x</li><li>y</li></ul></td><td>p|q</td></tr></tbody></table>",
			"Cap\n\n| h | w | w |\n| --- | --- | --- |\n| h | 1 | 2 |\n| a b | - x - y | p\\|q |\n"},
		{"layout table", "<table><tr><td><h2>A</h2><p>text</p></td><td><table><tr><th>x</th><th>y</th></tr><tr><td>1</td><td>2</td></tr></table></td></tr></table>", "## A\n\ntext\n\n| x | y |\n| --- | --- |\n| 1 | 2 |\n"},
		{"short table with a heading", "<table><tr><td><h2>A</h2>x</td><td>B</td></tr><tr><td><table><tr><td>1</td><td>2</td></tr></table></td><td>3</td></tr></table>", "| A x | B |\n| --- | --- |\n| 1, 2 | 3 |\n"},
		{"nested table", "<table><tr><th>a</th></tr><tr><td>see <table><tr><td>1</td><td>2</td></tr></table></td></tr></table>", "| a |\n| --- |\n| see 1, 2 |\n"},
		{"hidden", `<p>a<span style="display: none">b</span><span hidden>c</span><script>d</script><template>e</template></p>`, "a\n"},
		{"formulas", `<p>so <math alttext="x^2"><mi>x</mi></math></p><script type="math/tex; mode=display">y = 1</script>`, "so $x^2$\n\n$$y = 1$$\n"},
		{"picture", `<p>see <img src="https://a.example/p.png" alt="a dot"> <img src="x.png"></p>`, "see ![a dot](https://a.example/p.png)\n"},
		{"escaped", "<p># no</p><p>1. no</p><p>a &lt;b&gt; *c*</p>", "\\# no\n\n1\\. no\n\na \\<b> \\*c\\*\n"},
		{"right to left", "<p dir=rtl>שלום עולם</p>", "שלום עולם\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, c.want, read(t, []byte("<!doctype html><meta charset=utf-8><body>"+c.body), doc.Options{}).Markdown())
		})
	}
}

func TestMainContent(t *testing.T) {
	para := "<p>" + strings.Repeat("The heather blooms late and the bees come home heavy. ", 6) + "</p>"
	page := `<html lang=en><head><title>Bees | Site</title></head><body><header><div>Site name</div></header><nav><a href=/>Home</a></nav>` +
		`<div class=content><h1>Bees</h1>` + para + para + `<h2>Yield</h2><table><tr><th>Year</th><th>kg</th></tr><tr><td>2024</td><td>31</td></tr></table>` + para + `</div>` +
		`<aside>Advert</aside><footer>Imprint</footer></body></html>`
	d := read(t, []byte(page), doc.Options{})
	md := d.Markdown()
	for _, s := range []string{"# Bees", "## Yield", "| 2024 | 31 |", "heather"} {
		assert.Contains(t, md, s)
	}
	for _, s := range []string{"Site name", "Home", "Advert", "Imprint"} {
		assert.NotContains(t, md, s)
	}
	assert.Equal(t, "Bees | Site", d.Title)
	assert.Equal(t, "en", d.Language)
	assert.Equal(t, "only a menu\n", read(t, []byte("<html><body><nav>only a menu</nav></body></html>"), doc.Options{}).Markdown())
}

func TestEncodings(t *testing.T) {
	zh := "<html><head>%s</head><body><p>公司的假期政策规定每位员工每年有二十天带薪休假，另有法定节假日。</p></body></html>"
	want := "公司的假期政策规定每位员工每年有二十天带薪休假，另有法定节假日。\n"
	gbk, err := simplifiedchinese.GBK.NewEncoder().String(strings.Replace(zh, "%s", "<meta charset=gb2312>", 1))
	require.NoError(t, err)
	bare, err := simplifiedchinese.GBK.NewEncoder().String(strings.Replace(zh, "%s", "", 1))
	require.NoError(t, err)
	wrong, err := simplifiedchinese.GBK.NewEncoder().String(strings.Replace(zh, "%s", "<meta charset=utf-8>", 1))
	require.NoError(t, err)
	for _, c := range []struct{ name, page string }{{"declared", gbk}, {"not declared", bare}, {"declared wrong", wrong}, {"utf-8", strings.Replace(zh, "%s", "", 1)}} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, want, read(t, []byte(c.page), doc.Options{}).Markdown()) })
	}
	sjis, err := japanese.ShiftJIS.NewEncoder().String(`<html><head><meta http-equiv="Content-Type" content="text/html; charset=Shift_JIS"></head><body><p>休暇の規則</p></body></html>`)
	require.NoError(t, err)
	assert.Equal(t, "休暇の規則\n", read(t, []byte(sjis), doc.Options{}).Markdown())
}

func TestEmbeddedPicture(t *testing.T) {
	page := []byte(`<p>a <img alt=dot src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="> b</p>`)
	d := read(t, page, doc.Options{Images: func(_ context.Context, img doc.Image, data []byte) (string, error) { return "x/" + img.Name, nil }})
	assert.Equal(t, "a [IMAGE_REF: x/p1-1.gif] b\n", d.Markdown())
	assert.Equal(t, "dot", d.Images[0].Alt)
	assert.Equal(t, 1, d.Images[0].Width)
}

func TestBroken(t *testing.T) {
	for _, c := range []struct{ name, page string }{
		{"nothing to read", "<html><body><script>x</script></body></html>"},
		{"nested too deep", strings.Repeat("<div>", 5000) + "x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := html.Reader{}.Read(context.Background(), strings.NewReader(c.page), int64(len(c.page)), doc.Options{})
			require.Error(t, err)
			assert.Equal(t, clara.Invalid, clara.KindOf(err), err)
		})
	}
}

func FuzzPage(f *testing.F) {
	f.Add([]byte("<table><tr><td rowspan=0 colspan=9>x<table><tr><td>y"))
	f.Add([]byte("<ol reversed><li value=x><ul><ul><li>a<pre>b<blockquote>"))
	f.Fuzz(func(t *testing.T, page []byte) {
		d, err := html.Reader{}.Read(context.Background(), bytes.NewReader(page), int64(len(page)), doc.Options{Limits: doc.Limits{MaxText: 1 << 20}})
		if err == nil && d == nil {
			t.Fatal("neither a document nor an error")
		}
	})
}
