package bm25_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/index/bm25"
)

func TestTerms(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"empty", "", nil},
		{"punctuation", " ... !? ", nil},
		{"stop words and case", "The Cat and THE dog", []string{"cat", "dog"}},
		{"stems", "connected connections connecting", []string{"connect", "connect", "connect"}},
		{"possessive", "the company's policy, employees’ rights", []string{"compani", "polici", "employe", "right"}},
		{"numbers stay whole", "3.14 and 1,000 in 2024", []string{"3.14", "1,000", "2024"}},
		{"full width", "ＡＢＣ１２３", []string{"abc123"}},
		{"chinese bigrams", "张三住在上海", []string{"张三", "三住", "住在", "在上", "上海"}},
		{"one chinese letter", "在 x", []string{"在", "x"}},
		{"chinese broken by a mark", "上海。北京", []string{"上海", "北京"}},
		{"mixed", "我用GPU训练", []string{"我用", "gpu", "训练"}},
		{"japanese", "データを", []string{"デー", "ータ", "タを"}},
		{"korean", "회의실", []string{"회의", "의실"}},
		{"german is not stemmed where it has umlauts", "Größe STRASSE", []string{"grösse", "strass"}},
		{"cyrillic", "Москва", []string{"москва"}},
		{"markdown", "# Title\n\n| cell | **bold** |", []string{"titl", "cell", "bold"}},
		{"identifiers", "error_code X-100", []string{"error_code", "x", "100"}},
		{"broken UTF-8", "a\xffword", []string{"word"}},
	} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.want, bm25.Terms(c.text)) })
	}
}

func TestLongWord(t *testing.T) {
	got := bm25.Terms(strings.Repeat("ö", 500))
	require.Len(t, got, 1)
	assert.Equal(t, strings.Repeat("ö", 32), got[0])
}

// The weights are BM25's with k1 = 1.2, b = 0.75 and an average length of 128.
func TestDocument(t *testing.T) {
	ids, weights := bm25.Document("cat cat dog")
	require.Len(t, ids, 2)
	assert.Less(t, ids[0], ids[1])
	norm := 1.2 * (1 - 0.75 + 0.75*3/128)
	want := map[float32]bool{float32(2 * 2.2 / (2 + norm)): true, float32(1 * 2.2 / (1 + norm)): true}
	for _, w := range weights {
		assert.True(t, want[w], "%v of %v", w, want)
	}
	catID, one := bm25.Query("Cats!")
	assert.Equal(t, []float32{1}, one)
	assert.Contains(t, ids, catID[0])

	ids, weights = bm25.Document("the of and")
	assert.Empty(t, ids)
	assert.Empty(t, weights)
}

func TestQueryIsDistinct(t *testing.T) {
	ids, weights := bm25.Query("cat dog cat cats 上海上海")
	assert.Len(t, ids, 4, "cat, dog, 上海, 海上")
	assert.Equal(t, []float32{1, 1, 1, 1}, weights)
}

func FuzzTerms(f *testing.F) {
	f.Add("The cat, 张三 and ü\xff")
	f.Fuzz(func(t *testing.T, text string) {
		ids, weights := bm25.Document(text)
		require.Len(t, weights, len(ids))
		for i, w := range weights {
			require.Positive(t, w)
			require.True(t, i == 0 || ids[i-1] < ids[i])
		}
		for _, term := range bm25.Terms(text) {
			require.NotEmpty(t, term)
		}
	})
}

func ExampleTerms() {
	fmt.Println(bm25.Terms("The meetings were moved to 上海分公司."))
	// Output: [meet move 上海 海分 分公 公司]
}

func BenchmarkDocument(b *testing.B) {
	text := strings.Repeat("Travel expenses are reimbursed within thirty days. 出差费用在三十天内报销。", 12)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		bm25.Document(text)
	}
}
