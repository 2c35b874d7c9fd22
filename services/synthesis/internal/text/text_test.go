package text_test

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/dataset"
	"github.com/clara-suite/clara/services/synthesis/internal/text"
)

func TestChunks(t *testing.T) {
	line := strings.Repeat("x", 79) + "\n"
	sentence := strings.Repeat("y", 59) + ". " + strings.Repeat("z", 44)
	for _, c := range []struct {
		name, text string
		size       int
		want       []int // lengths
	}{
		{"whole", strings.Repeat("a", 60), 1000, []int{60}},
		{"too short", strings.Repeat("a", 50), 1000, nil},
		{"at a line break in the last 100", strings.Repeat(line, 5), 200, []int{159, 159, 79}},
		{"after a sentence", sentence, 80, []int{60}}, // the rest has 50 characters or fewer
		{"at a space", strings.Repeat("word ", 40), 103, []int{99, 99}},
		{"nowhere", strings.Repeat("b", 250), 100, []int{100, 100}},
		{"characters, not bytes", strings.Repeat("水", 250), 100, []int{100, 100}},
		{"after a Chinese sentence", strings.Repeat(strings.Repeat("水", 59)+"。", 2), 100, []int{60, 60}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []int
			for _, p := range text.Chunks(c.text, c.size) {
				got = append(got, utf8.RuneCountInString(p))
			}
			assert.Equal(t, c.want, got)
		})
	}
}

func TestLanguages(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
	}{
		{"The pump is checked every month.", []string{"en"}},
		{"水泵每个月检查一次，由维护部门负责。", []string{"zh"}},
		{"使用 Kubernetes 和 Docker 部署应用程序，并通过 TLS 加密所有的网络连接。", []string{"zh"}},
		{"ポンプは毎月点検されます。", []string{"ja"}},
		{"펌프는 매달 점검합니다.", []string{"ko"}},
		{"Насос проверяют каждый месяц.", []string{"ru"}},
		{"12 + 30 = 42", []string{"en"}},
		{"", []string{"en"}},
		{"安全团队检查来源和签名。 The security team checks source and signature.", []string{"en", "zh"}},
	} {
		assert.Equal(t, c.want, text.Languages(c.text), c.text)
	}
}

func TestResolve(t *testing.T) {
	docs := []dataset.Document{
		{FilePath: "raw/a/manual.pdf", Filename: "manual.pdf", ProductArea: "a", Content: "Before.\n\n[IMAGE_REF: assets/manual_img_1.png]\n\nAfter. [IMAGE_REF: assets/manual_img_2.png]\n<!-- image -->\n\n--- Extracted Images ---\n",
			ExtractedImages: []string{"assets/manual_img_1.png", "assets/manual_img_2.png"}},
		{FilePath: `assets\manual_img_1.png`, Content: "[IMAGE DESCRIPTION of manual_img_1.png]\nA pump.", SourceType: dataset.SourceImage},
		{FilePath: "raw/a/plan.png", Filename: "plan.png", Content: "[IMAGE DESCRIPTION of plan.png]\nThe plan of hall 3.", SourceType: dataset.SourceImage},
	}
	got := text.Resolve(docs)
	require.Len(t, got, 2, "a picture within a document is none of its own, a stand-alone one is")
	assert.Equal(t, "Before.\n\nA pump.\n\nAfter.", got[0].Text)
	assert.Equal(t, 1, got[0].Pictures)
	assert.Equal(t, 1, got[0].Missing)
	assert.Equal(t, "The plan of hall 3.", got[1].Text)
	assert.True(t, got[1].Image)
}

// The index finds what comparing all with all finds, at the similarity that it is built for.
func TestIndexFindsNearDuplicates(t *testing.T) {
	var x text.Index
	var kept []string
	for i := range 120 {
		s := fmt.Sprintf("How often does crew %d inspect the coupling of conveyor %d in hall %d, and who signs the form when lamp %d is red at the end of the shift?", i%60, i%60*7, i%60*3, i%60)
		if i >= 60 {
			s += " Say so." // the same question with more words
		}
		near := x.Near(s, 0.8)
		exact := false
		for _, k := range kept {
			exact = exact || text.Jaccard(text.Shingles(s), text.Shingles(k)) >= 0.8
		}
		require.Equal(t, exact, near, s)
		if !near {
			kept = append(kept, s)
		}
	}
	assert.Len(t, kept, 60)
}

func FuzzChunks(f *testing.F) {
	f.Add("One. Two!\nThree 水泵。每月 \r\n"+strings.Repeat("word ", 60), 100)
	f.Add("\xff[IMAGE_REF: a]\x00", 120)
	f.Fuzz(func(t *testing.T, s string, size int) {
		if size < 100 || size > 20_000 {
			return
		}
		for _, c := range text.Chunks(s, size) {
			if n := utf8.RuneCountInString(c); n <= 50 || n > size {
				t.Fatalf("a chunk of %d characters, size %d", n, size)
			}
		}
		text.Languages(s)
		text.Resolve([]dataset.Document{{FilePath: "a", Content: s}})
		if a := text.Shingles(s); text.Jaccard(a, a) != 1 {
			t.Fatal("a text is not like itself")
		}
	})
}
