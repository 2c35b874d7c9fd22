package split_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/split"
)

// count is a small tokenizer: words are cut into pieces of four bytes, every
// other character is a token, spaces belong to what follows.
func count(s string) int {
	n, run := 0, 0
	for _, r := range s {
		switch {
		case unicode.IsSpace(r):
			run = 0
			if r == '\n' {
				n++
			}
		case r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r)):
			if run%4 == 0 {
				n++
			}
			run++
		default:
			n++
			run = 0
		}
	}
	return n
}

func cut(t *testing.T, md string, max int) []clara.Passage {
	t.Helper()
	d := &doc.Document{Format: doc.Markdown, Pages: []doc.Page{{Number: 1, Markdown: md, ReadBy: doc.ByText}}}
	ps, err := split.Document(context.Background(), d, split.Options{MaxTokens: max, Count: count})
	require.NoError(t, err)
	return ps
}

func texts(ps []clara.Passage) []string {
	var out []string
	for _, p := range ps {
		out = append(out, p.Text)
	}
	return out
}

func TestDocument(t *testing.T) {
	for _, c := range []struct {
		name string
		md   string
		max  int
		want []string
	}{
		{"empty", "", 20, nil},
		{"one", "Hello there.\n", 20, []string{"Hello there."}},
		{"neighbours are merged", "one two\n\nthree four\n\nfive six", 40, []string{"one two\n\nthree four\n\nfive six"}},
		{"paragraphs stay whole", "aaa bbb ccc ddd eee fff ggg hhh iii\n\njjj kkk lll mmm nnn ooo ppp qqq", 16, []string{
			"aaa bbb ccc ddd eee fff ggg hhh iii", "jjj kkk lll mmm nnn ooo ppp qqq"}},
		{"headings go with their text", "aa bb cc dd ee ff gg hh ii jj kk ll\n\n# Next\n\nmm nn oo pp qq", 16, []string{
			"aa bb cc dd ee ff gg hh ii jj kk ll", "# Next\n\nmm nn oo pp qq"}},
		{"sentences", "One two three four five six. Seven eight nine ten. Eleven twelve thirteen ab cd ef, see Dr. Who.", 18, []string{
			"One two three four five six. Seven eight nine ten.", "Eleven twelve thirteen ab cd ef, see Dr. Who."}},
		{"chinese sentences", "今天天气很好我们去公园。明天可能会下雨所以在家！后天再说吧。", 16, []string{
			"今天天气很好我们去公园。", "明天可能会下雨所以在家！", "后天再说吧。"}},
		{"list", "- one two three four five\n- six seven eight nine ten\n    - deep one two three\n- end of it", 18, []string{
			"- one two three four five\n- six seven eight nine ten", "- deep one two three\n- end of it"}},
		{"table head is repeated", "| a | b |\n| - | - |\n| one | two |\n| ten | six |\n| red | tea |", 22, []string{
			"| a | b |\n| - | - |\n| one | two |", "| a | b |\n| - | - |\n| ten | six |", "| a | b |\n| - | - |\n| red | tea |"}},
		{"code is fenced again", "```go\nx := 1\ny := 2\nz := 3\n```", 17, []string{
			"```go\nx := 1\n```", "```go\ny := 2\n```", "```go\nz := 3\n```"}},
		{"long word", strings.Repeat("abcd", 40), 16, []string{
			strings.Repeat("abcd", 16), strings.Repeat("abcd", 16), strings.Repeat("abcd", 8)}},
	} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.want, texts(cut(t, c.md, c.max))) })
	}
}

func TestHeadings(t *testing.T) {
	md := "# Book\n\nIntro words here.\n\n## One\n\n" + strings.Repeat("alpha beta gamma delta. ", 12) + "\n\n### Deep\n\n" +
		strings.Repeat("epsilon zeta eta. ", 10) + "\n\nTwo\n---\n\n" + strings.Repeat("last words. ", 20)
	ps := cut(t, md, 40)
	require.Greater(t, len(ps), 3)
	assert.Equal(t, []string{"Book"}, ps[0].Headings)
	var paths []string
	for _, p := range ps {
		paths = append(paths, strings.Join(p.Headings, "/"))
	}
	assert.Contains(t, paths, "Book/One")
	assert.Contains(t, paths, "Book/One/Deep")
	assert.Equal(t, "Book/Two", paths[len(paths)-1])
}

func TestPages(t *testing.T) {
	d := &doc.Document{Format: doc.PDF}
	for i := range 9 {
		d.Pages = append(d.Pages, doc.Page{Number: i + 1, Markdown: fmt.Sprintf("words of page number %d are here", i+1)})
	}
	ps, err := split.Document(context.Background(), d, split.Options{MaxTokens: 30, Count: count})
	require.NoError(t, err)
	assert.Equal(t, 1, ps[0].PageFirst)
	assert.Equal(t, 2, ps[0].PageLast)
	assert.Equal(t, 9, ps[len(ps)-1].PageLast)
}

func TestOverlap(t *testing.T) {
	d := &doc.Document{Format: doc.Text, Pages: []doc.Page{{Number: 1, Markdown: "a b c d e f\n\ng h i j k l\n\nm n o p q r\n\ns t u v w x"}}}
	ps, err := split.Document(context.Background(), d, split.Options{MaxTokens: 16, Count: count, Overlap: 8})
	require.NoError(t, err)
	assert.Equal(t, []string{"a b c d e f\n\ng h i j k l", "g h i j k l\n\nm n o p q r", "m n o p q r\n\ns t u v w x"}, texts(ps))
}

func TestOptions(t *testing.T) {
	for _, o := range []split.Options{{MaxTokens: 64}, {MaxTokens: 15, Count: count}, {MaxTokens: 64, Count: count, Overlap: 33}} {
		_, err := split.Document(context.Background(), &doc.Document{}, o)
		assert.Equal(t, clara.Invalid, clara.KindOf(err))
	}
}

// random makes Markdown of all kinds of blocks with words of its own.
func random(r *rand.Rand, blocks int) string {
	n := 0
	word := func() string {
		n++
		switch r.IntN(8) {
		case 0:
			return fmt.Sprintf("字%d", n)
		case 1:
			return fmt.Sprintf("Word%d.", n)
		case 2:
			return strings.Repeat("x", r.IntN(30)) + fmt.Sprint(n)
		}
		return fmt.Sprintf("w%d", n)
	}
	line := func(max int) string {
		var ws []string
		for range 1 + r.IntN(max) {
			ws = append(ws, word())
		}
		return strings.Join(ws, " ")
	}
	var b strings.Builder
	for range blocks {
		switch r.IntN(7) {
		case 0:
			b.WriteString(strings.Repeat("#", 1+r.IntN(4)) + " " + line(8))
		case 1:
			for range 1 + r.IntN(8) {
				b.WriteString(strings.Repeat("    ", r.IntN(3)) + "- " + line(20) + "\n")
			}
		case 2:
			cols := 1 + r.IntN(4)
			row := func() {
				for range cols {
					b.WriteString("| " + line(5) + " ")
				}
				b.WriteString("|\n")
			}
			row()
			b.WriteString(strings.Repeat("| --- ", cols) + "|\n")
			for range r.IntN(12) {
				row()
			}
		case 3:
			b.WriteString("```lang\n")
			for range r.IntN(10) {
				b.WriteString("  " + line(6) + "\n")
			}
			b.WriteString("```")
		case 4:
			b.WriteString(line(6) + "\n" + []string{"===", "---", "| - |", "```"}[r.IntN(4)])
		default:
			b.WriteString(line(120))
		}
		b.WriteString("\n\n")
	}
	return b.String()
}

// wordsOf returns the words that must not be lost: runs of letters and digits.
func wordsOf(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
}

func TestNothingIsLost(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		d := &doc.Document{Format: doc.PDF}
		for i := range 1 + r.IntN(6) {
			d.Pages = append(d.Pages, doc.Page{Number: i + 1, Markdown: random(r, r.IntN(12))})
		}
		o := split.Options{MaxTokens: 16 + r.IntN(120), Count: count}
		if r.IntN(3) == 0 {
			o.Overlap = r.IntN(o.MaxTokens / 2)
		}
		ps, err := split.Document(context.Background(), d, o)
		require.NoError(t, err)
		again, err := split.Document(context.Background(), d, o)
		require.NoError(t, err)
		require.Equal(t, ps, again, "seed %d", seed)
		var all strings.Builder
		page := 0
		for i, p := range ps {
			assert.Equal(t, i, p.Ordinal)
			assert.LessOrEqual(t, p.Tokens, o.MaxTokens, "seed %d", seed)
			assert.Equal(t, count(p.Text), p.Tokens)
			assert.LessOrEqual(t, p.PageFirst, p.PageLast)
			assert.GreaterOrEqual(t, p.PageLast, page)
			page = p.PageLast
			assert.NotEmpty(t, p.Hash)
			assert.NotEmpty(t, strings.TrimSpace(p.Text))
			all.WriteString(p.Text)
			all.WriteByte('\n')
		}
		// A word may be cut only if it is too long: compare without white space too.
		have := map[string]bool{}
		for _, w := range wordsOf(all.String()) {
			have[w] = true
		}
		for _, pg := range d.Pages {
			for _, w := range wordsOf(pg.Markdown) {
				if !have[w] {
					assert.GreaterOrEqual(t, count(w), 4, "seed %d: the word %q is lost", seed, w)
					assert.Contains(t, strings.ReplaceAll(all.String(), "\n", ""), w, "seed %d", seed)
				}
			}
		}
	}
}

// endless is a text without line breaks of a given size.
type endless struct{ left int }

func (e *endless) Read(b []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n := min(len(b), e.left)
	for i := range n {
		b[i] = "lorem ipsum dolor "[(e.left-i)%18]
	}
	e.left -= n
	return n, nil
}

func TestStreamIsFlat(t *testing.T) {
	const size = 24 << 20
	counted, passages := 0, 0
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	o := split.Options{MaxTokens: 400, Count: func(s string) int {
		counted += len(s)
		return len(s) / 4
	}}
	err := split.Stream(context.Background(), &endless{left: size}, o, func(p clara.Passage) error {
		passages++
		if passages == 10_000 {
			runtime.GC()
			runtime.ReadMemStats(&after)
		}
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, passages, 10_000)
	assert.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(8<<20), "memory is not flat")
	assert.Less(t, counted, 6*size, "every piece is counted a bounded number of times")
}

func FuzzStream(f *testing.F) {
	f.Add("# A\n\ntext | b\n--|--\nx|y\n\n```\ncode\n", 16)
	f.Add("- a\n  - b\n\n1. c\n\nSetext\n===\n", 20)
	f.Add(strings.Repeat("\xa5", 700), 52)
	f.Add("\xff\xfe汉字，没有。空格\r\n", 17)
	f.Fuzz(func(t *testing.T, s string, max int) {
		if max < split.MinTokens || max > 4000 {
			max = split.MinTokens
		}
		err := split.Stream(context.Background(), bufio.NewReader(strings.NewReader(s)), split.Options{MaxTokens: max, Count: count}, func(p clara.Passage) error {
			if !utf8.ValidString(p.Text) {
				t.Fatal("a passage is not UTF-8")
			}
			if p.Tokens > max {
				t.Fatalf("a passage of %d tokens, the limit is %d", p.Tokens, max)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
