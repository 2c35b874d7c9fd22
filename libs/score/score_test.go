package score_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/score"
	"github.com/clara-suite/clara/libs/testkit/partstest"
)

func TestNormalize(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"case and articles", "The Cat and an apple", "cat and apple"},
		{"punctuation joins", "it's 12,500!", "its 12500"},
		{"article beside punctuation", "a-b", "ab"},
		{"true", "True", "yes"},
		{"not exactly true", "true", "true"},
		{"spaces", " x \t\n y ", "x y"},
		{"chinese stays", "北京。", "北京。"},
		{"article in a word of two scripts", "a北京", "a北京"},
		{"ideographic space", "x　y", "x y"},
	} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.want, score.Normalize(c.in)) })
	}
}

func TestByCharacters(t *testing.T) {
	for _, c := range []struct {
		name, prediction, gold string
		want                   score.Answer
	}{
		{"full stop", "北京", "北京。", score.Answer{EM: true, Cover: true, F1: 1}},
		{"sentence", "首都是北京。", "北京", score.Answer{Cover: true, F1: 2 * 0.4 * 1 / 1.4}},
		{"scattered is no cover", "京北", "北京", score.Answer{F1: 1}},
		{"mixed", "在1998年", "1998年", score.Answer{Cover: true, F1: 2 * (2.0 / 3) / (1 + 2.0/3)}},
		{"full-width digits", "１９９８", "1998", score.Answer{EM: true, Cover: true, F1: 1}},
		{"english", "Port Maren", "at Port Maren", score.Answer{F1: 0.8}},
		{"yes and no", "yes", "no", score.Answer{}},
		{"nothing", "", "x", score.Answer{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := score.OneByCharacters(c.prediction, c.gold)
			assert.Equal(t, c.want.EM, got.EM)
			assert.Equal(t, c.want.Cover, got.Cover)
			assert.InDelta(t, c.want.F1, got.F1, 1e-12)
		})
	}
}

func TestSeveralGoldsAndExclusions(t *testing.T) {
	var a score.Answers
	a.Add("Paris", []string{"", "Lyon", "paris"})
	a.Add("x", []string{"the", ""})
	a.Add("x", nil)
	a.Add("wrong", []string{"right"})
	s := a.Summary(1)
	assert.Equal(t, 2, s.Excluded)
	assert.Equal(t, 2, s.EM.N)
	assert.InDelta(t, 0.5, s.EM.Mean, 0)
	assert.LessOrEqual(t, s.F1.Low, s.F1.Mean)
	assert.GreaterOrEqual(t, s.F1.High, s.F1.Mean)
	assert.Equal(t, s, a.Summary(1))
	assert.Zero(t, score.Bootstrap(nil, 1))
}

func TestBootstrapCoversTheMeanAsItShould(t *testing.T) {
	values := make([]float64, 400)
	for i := range values {
		values[i] = float64(i % 2)
	}
	i := score.Bootstrap(values, 7)
	assert.InDelta(t, 0.5, i.Mean, 1e-12)
	// The standard error of a fair coin over 400 throws is 0.025.
	assert.InDelta(t, 0.5-1.96*0.025, i.Low, 0.008)
	assert.InDelta(t, 0.5+1.96*0.025, i.High, 0.008)
}

func TestRetrieval(t *testing.T) {
	r := score.NewRetrieval()
	r.Add([]int{3, 1, 0, 2, 4}, []int{0, 3})
	r.Add([]int{0, 1}, nil)
	r.Add([]int{4, 3, 1, 0, 2}, []int{2, 2})
	s := r.Summary(1)
	assert.Equal(t, 1, s.Excluded)
	assert.InDelta(t, 0.25, s.Recall[0].Mean, 1e-12)
	assert.InDelta(t, 1, s.Recall[2].Mean, 1e-12)
	assert.InDelta(t, 0.3, s.Precision[2].Mean, 1e-12)
}

func TestGolden(t *testing.T) {
	root := partstest.Golden(t)
	files, err := filepath.Glob(filepath.Join(root, "*", "golden.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		var g struct {
			Extras struct {
				Answers []struct {
					Prediction, Gold string
					EM               bool
					Cover            bool `json:"cover_em"`
					F1               float64
					P                string `json:"normalized_prediction"`
					G                string `json:"normalized_gold"`
				}
				Retrieval []struct {
					Pos, TopK [][]int
					Metrics   map[string]float64
					Valid     int `json:"valid_samples"`
				}
			}
		}
		require.NoError(t, json.Unmarshal(raw, &g))
		require.NotEmpty(t, g.Extras.Answers)
		require.NotEmpty(t, g.Extras.Retrieval)
		for _, c := range g.Extras.Answers {
			t.Run(fmt.Sprintf("%s/%s vs %s", filepath.Base(filepath.Dir(file)), c.Prediction, c.Gold), func(t *testing.T) {
				assert.Equal(t, c.P, score.Normalize(c.Prediction))
				assert.Equal(t, c.G, score.Normalize(c.Gold))
				got := score.One(c.Prediction, c.Gold)
				assert.Equal(t, c.EM, got.EM)
				assert.Equal(t, c.Cover, got.Cover)
				assert.InDelta(t, c.F1, got.F1, 1e-8)
			})
		}
		for _, c := range g.Extras.Retrieval {
			r := score.NewRetrieval()
			for i := range c.Pos {
				r.Add(c.TopK[i], c.Pos[i])
			}
			s := r.Summary(1)
			for i, k := range s.K {
				assert.InDelta(t, c.Metrics[fmt.Sprintf("recall_%d", k)], s.Recall[i].Mean, 1e-8)
				assert.InDelta(t, c.Metrics[fmt.Sprintf("precision_%d", k)], s.Precision[i].Mean, 1e-8)
				assert.Equal(t, c.Valid, s.Recall[i].N)
			}
		}
	}
}

func ExampleOne() {
	a := score.One("the Weldenia genus", "Weldenia")
	fmt.Printf("%v %v %.2f\n", a.EM, a.Cover, a.F1)
	// Output: false true 0.67
}
