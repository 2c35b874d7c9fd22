package synthesis_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/config"
	"github.com/clara-suite/clara/libs/dataset"
	"github.com/clara-suite/clara/libs/llm"
	"github.com/clara-suite/clara/libs/testkit/llmtest"
	"github.com/clara-suite/clara/services/synthesis"
)

const secret = "sk-secret-of-the-test"

// files are the files of a data set that must be the same for equal builds.
var files = []string{
	synthesis.PretrainFile, synthesis.InstructionFile, synthesis.EndToEndFile, synthesis.TrainingFile, synthesis.CardFile, "data_card.md",
}

func settings(s *llmtest.Server) synthesis.ModelsConfig {
	return synthesis.ModelsConfig{
		BaseURL: s.URL, APIKey: secret, Model: "writer", VisionModel: "eye", EmbeddingModel: "vectors",
		AllowLoopback: true, Concurrency: 8, Timeout: 2 * time.Second, Tries: 4, Backoff: time.Millisecond, PriceIn: 1, PriceOut: 4,
	}
}

func models(t *testing.T, c synthesis.ModelsConfig) *synthesis.Models {
	t.Helper()
	m, err := synthesis.OpenModels(c, nil, nil)
	require.NoError(t, err)
	t.Cleanup(m.Close)
	return m
}

// handbook is documents of n chapters, each on its own subject, in English, with one in Chinese.
func handbook(n int) []dataset.Document {
	subjects := []string{"turbine", "compressor", "gearbox", "boiler", "conveyor", "furnace", "centrifuge", "crane", "pump", "generator", "valve", "kiln"}
	var docs []dataset.Document
	for d := range n {
		var b strings.Builder
		s := subjects[d%len(subjects)]
		fmt.Fprintf(&b, "# The %s of hall %d\n\n", s, d)
		for i := range 24 {
			fmt.Fprintf(&b, "Procedure %d for the %s in hall %d begins with check number %d, because its %s was rebuilt in %d by team %c%d. ",
				i, s, d, d*100+i, []string{"housing", "shaft", "sensor", "coupling", "bearing"}[i%5], 1900+d*7+i, 'A'+rune(i), d)
			if i%4 == 3 {
				b.WriteString("\n\n")
			}
		}
		docs = append(docs, dataset.Document{FilePath: fmt.Sprintf("raw/plant/manual_%d.pdf", d), Filename: fmt.Sprintf("manual_%d.pdf", d), Content: b.String(), ProductArea: "plant"})
	}
	chinese := strings.Repeat("冷却系统的水泵每三个月检查一次，由维护部门负责记录温度和压力。如果压力低于四巴，必须立即停机并通知值班工程师。\n", 1) +
		"阀门的密封圈在二〇一九年更换为新型材料，使用寿命延长到十年。仓库保存二十套备件，供应商承诺四十八小时内送达。\n发电机的启动顺序是先检查油位，再打开燃料阀，最后按下启动按钮。启动失败三次以后需要等待十五分钟。"
	return append(docs, dataset.Document{FilePath: "raw/plant/水泵.docx", Filename: "水泵.docx", Content: chinese, ProductArea: "plant"})
}

func results(t *testing.T, dir string) *synthesis.Results {
	t.Helper()
	r, err := synthesis.OpenResults(filepath.Join(dir, "results.log"))
	require.NoError(t, err)
	return r
}

// build runs a build with the results of earlier ones in work, into a fresh folder.
func build(t *testing.T, ctx context.Context, m *synthesis.Models, work string, docs []dataset.Document, r synthesis.Recipe, meter *llm.Meter) (string, *synthesis.Card, error) {
	t.Helper()
	store := results(t, work)
	defer func() { require.NoError(t, store.Close()) }()
	dir := t.TempDir()
	card, err := m.Build(ctx, synthesis.Build{Documents: docs, Recipe: r, Use: synthesis.Use{Meter: meter}, Store: store, Dir: dir})
	return dir, card, err
}

func check(t *testing.T, dir string, topK int) map[string]dataset.Report {
	t.Helper()
	out := map[string]dataset.Report{}
	for name, kind := range map[string]dataset.Kind{
		synthesis.PretrainFile: dataset.Pretrain, synthesis.InstructionFile: dataset.Instruction, synthesis.EndToEndFile: dataset.EndToEnd, synthesis.TrainingFile: dataset.Any,
	} {
		r, err := dataset.CheckFile(filepath.Join(dir, name), kind, topK)
		require.NoError(t, err)
		require.True(t, r.OK(), "%s: %v", name, r.Faults)
		out[name] = r
	}
	return out
}

func same(t *testing.T, a, b string, names ...string) {
	t.Helper()
	for _, name := range names {
		x, err := os.ReadFile(filepath.Join(a, name))
		require.NoError(t, err)
		y, err := os.ReadFile(filepath.Join(b, name))
		require.NoError(t, err)
		require.Equal(t, string(x), string(y), name)
	}
}

func TestBuildWithAMisbehavingEndpoint(t *testing.T) {
	t.Parallel()
	s := llmtest.Start(t)
	s.Key = secret
	s.NoSchema = true
	s.Faults = llmtest.OnceEach("", llmtest.Busy, llmtest.Truncated, llmtest.Chatty, llmtest.NoJSON, llmtest.Broken, llmtest.WrongSchema, llmtest.BadPairs, llmtest.CutOff, llmtest.HTML)
	work := t.TempDir()
	recipe := synthesis.Recipe{Seed: 7, MultiHop: 30, Unanswerable: 30, Judge: true}
	meter := llm.NewMeter(0, llm.Usage{})
	dir, card, err := build(t, t.Context(), models(t, settings(s)), work, handbook(8), recipe, meter)
	require.NoError(t, err)
	require.Empty(t, card.Failures)
	assert.True(t, card.Complete)
	assert.Positive(t, card.AskedAgain)
	assert.Positive(t, meter.Usage().Retries)
	reports := check(t, dir, 5)
	assert.Equal(t, card.PairCount(), reports[synthesis.InstructionFile].Samples)
	for _, kind := range []string{"fact", "reasoning", "cross_lingual", "multi_hop", "unanswerable"} {
		assert.Positive(t, card.Pairs[kind], kind)
	}
	var refused int
	for _, n := range card.Refused {
		refused += n
	}
	t.Logf("%d chunks, %d pairs, %d refused %v, %d requests of which %d retries, %d asked again", card.Chunks.Total, card.PairCount(), refused, card.Refused,
		meter.Usage().Requests, meter.Usage().Retries, card.AskedAgain)

	for _, name := range files {
		data, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		assert.NotContains(t, string(data), secret)
		if strings.HasSuffix(name, ".jsonl") {
			assert.NotContains(t, string(data), "manual_1.pdf")
			assert.NotContains(t, string(data), "IMAGE_REF")
		}
	}

	// Again: nothing is asked, and the files are the same byte for byte.
	asked := len(s.Calls())
	again, _, err := build(t, t.Context(), models(t, settings(s)), work, handbook(8), recipe, nil)
	require.NoError(t, err)
	assert.Len(t, s.Calls(), asked)
	same(t, dir, again, files...)

	// Another seed: nothing is asked for the chunks, the order of documents differs.
	recipe.Seed = 8
	recipe.MultiHop, recipe.Unanswerable = 0, 0
	other, _, err := build(t, t.Context(), models(t, settings(s)), work, handbook(8), recipe, nil)
	require.NoError(t, err)
	assert.Len(t, s.Calls(), asked)
	x, err := os.ReadFile(filepath.Join(dir, synthesis.EndToEndFile))
	require.NoError(t, err)
	y, err := os.ReadFile(filepath.Join(other, synthesis.EndToEndFile))
	require.NoError(t, err)
	assert.NotEqual(t, x, y)
}

func TestPositivesAreWhereTheFilesSay(t *testing.T) {
	t.Parallel()
	s := llmtest.Start(t)
	for _, negatives := range []synthesis.Recipe{{Negatives: synthesis.Random}, {Negatives: synthesis.BM25}, {Negatives: synthesis.Embedding, TopK: 20}, {TopK: 1}} {
		t.Run(fmt.Sprint(negatives.Negatives, negatives.TopK), func(t *testing.T) {
			negatives.MultiHop = 40
			if negatives.TopK == 1 {
				negatives.MultiHop = 0
			}
			dir, card, err := build(t, t.Context(), models(t, settings(s)), t.TempDir(), handbook(10), negatives, nil)
			require.NoError(t, err)
			check(t, dir, card.Recipe.TopK)
			samples, err := dataset.ReadFiles(dataset.EndToEnd, filepath.Join(dir, synthesis.EndToEndFile))
			require.NoError(t, err)
			for _, s := range samples {
				require.NotEmpty(t, s.PosIndex)
				// The test's model answers with sentences of the chunk: the answer lies in the positives, and nowhere else.
				for i, d := range s.Docs {
					positive := false
					for _, p := range s.PosIndex {
						positive = positive || p == i
					}
					holds := strings.Contains(strings.Join(strings.Fields(d), " "), strings.Join(strings.Fields(s.Answer()), " "))
					if len(s.PosIndex) == 1 {
						require.Equal(t, positive, holds, "%s in %q", s.Answer(), d)
					}
				}
			}
		})
	}
}

// A build is stopped at any point, as by kill -9: what is on disk then is what the next one goes on with.
func TestStoppedBuildsGoOnWhereTheyWere(t *testing.T) {
	t.Parallel()
	docs := handbook(6)
	full := llmtest.Start(t)
	want, card, err := build(t, t.Context(), models(t, settings(full)), t.TempDir(), docs, synthesis.Recipe{}, nil)
	require.NoError(t, err)
	all := len(full.Calls())

	s := llmtest.Start(t)
	work := t.TempDir()
	c := settings(s)
	c.Concurrency = 1
	for _, after := range []int{3, 5, 1} {
		ctx, cancel := context.WithCancel(t.Context())
		from := len(s.Calls())
		s.Faults = func(n int, _ llmtest.Call) llmtest.Fault {
			if n-from > after {
				cancel()
				return llmtest.Hang
			}
			return llmtest.None
		}
		_, _, err := build(t, ctx, models(t, c), work, docs, synthesis.Recipe{}, nil)
		require.ErrorIs(t, err, context.Canceled)
	}
	// A crash within a write leaves half a line.
	log := filepath.Join(work, "results.log")
	f, err := os.OpenFile(log, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(`{"key":"abc","sum":1,"value":{"written`)
	require.NoError(t, err)
	require.NoError(t, f.Close())

	s.Faults = nil
	got, _, err := build(t, t.Context(), models(t, c), work, docs, synthesis.Recipe{}, nil)
	require.NoError(t, err)
	same(t, want, got, files[:4]...) // the cards name different endpoints
	// Each stop lost the one request in work, and nothing else was asked twice.
	assert.Len(t, s.Calls(), all+3)
	assert.Equal(t, card.Chunks.Total, all)
}

func TestChangedDocumentRedoesOnlyItsChunks(t *testing.T) {
	t.Parallel()
	s := llmtest.Start(t)
	docs, work := handbook(6), t.TempDir()
	_, before, err := build(t, t.Context(), models(t, settings(s)), work, docs, synthesis.Recipe{}, nil)
	require.NoError(t, err)
	asked := len(s.Calls())
	docs[2].Content = strings.ReplaceAll(docs[2].Content, "gearbox", "planetary gearbox")
	_, after, err := build(t, t.Context(), models(t, settings(s)), work, docs, synthesis.Recipe{}, nil)
	require.NoError(t, err)
	assert.Len(t, s.Calls(), asked+after.Sources[2].Chunks)
	assert.Equal(t, before.Sources[3], after.Sources[3])
	// What belonged to the old text is gone from the store.
	data, err := os.ReadFile(filepath.Join(work, "results.log"))
	require.NoError(t, err)
	assert.NotContains(t, string(data), "for the gearbox in hall 2")
}

// A new document leaves the pairs of others alone: whatever is asked because of it is about it.
func TestNewDocumentChangesNoPairOfOthers(t *testing.T) {
	t.Parallel()
	s := llmtest.Start(t)
	work, recipe := t.TempDir(), synthesis.Recipe{MultiHop: 100}
	docs := handbook(6)
	_, card, err := build(t, t.Context(), models(t, settings(s)), work, docs, recipe, nil)
	require.NoError(t, err)
	require.Positive(t, card.Pairs["multi_hop"])
	asked := len(s.Calls())
	more := docs[1]
	more.FilePath, more.Filename, more.Content = "raw/plant/new.pdf", "new.pdf", strings.ReplaceAll(more.Content, "compressor", "windlass")
	_, card, err = build(t, t.Context(), models(t, settings(s)), work, append([]dataset.Document{more}, docs...), recipe, nil)
	require.NoError(t, err)
	calls := s.Calls()[asked:]
	require.Greater(t, len(calls), card.Sources[0].Chunks)
	for _, c := range calls {
		assert.Contains(t, c.Prompt, "windlass")
	}
}

func TestBudgetEndsABuildThatCanGoOn(t *testing.T) {
	t.Parallel()
	s := llmtest.Start(t)
	work := t.TempDir()
	meter := llm.NewMeter(0.08, llm.Usage{})
	dir, card, err := build(t, t.Context(), models(t, settings(s)), work, handbook(10), synthesis.Recipe{}, meter)
	require.NoError(t, err)
	assert.False(t, card.Complete)
	assert.Contains(t, card.Stopped, "budget")
	assert.LessOrEqual(t, meter.Usage().Cost, 0.08)
	assert.Positive(t, card.Chunks.Done)
	check(t, dir, 0)
	asked := len(s.Calls())
	_, card, err = build(t, t.Context(), models(t, settings(s)), work, handbook(10), synthesis.Recipe{}, nil)
	require.NoError(t, err)
	assert.True(t, card.Complete)
	assert.Len(t, s.Calls(), card.Chunks.Total)
	assert.Less(t, asked, card.Chunks.Total)
}

// An answer whose pairs are all refused is an answer: it is counted, and not asked for again in each build.
func TestRefusedAnswersAreNotAskedForAgain(t *testing.T) {
	t.Parallel()
	s := llmtest.Start(t)
	s.Faults = llmtest.Every(llmtest.Hopeless)
	work, recipe := t.TempDir(), synthesis.Recipe{MultiHop: 100, Unanswerable: 100}
	dir, card, err := build(t, t.Context(), models(t, settings(s)), work, handbook(3), recipe, nil)
	require.NoError(t, err)
	assert.True(t, card.Complete, "%v", card.Failures)
	assert.Equal(t, card.Chunks.Total, card.Chunks.WithoutPairs)
	assert.Equal(t, card.Chunks.Total, card.Summaries)
	assert.Positive(t, card.Refused["leak"])
	assert.Positive(t, card.Refused["not_self_contained"])
	samples, err := dataset.ReadFiles(dataset.Pretrain, filepath.Join(dir, synthesis.PretrainFile))
	require.NoError(t, err)
	assert.Len(t, samples, card.Summaries)
	asked := len(s.Calls())
	_, _, err = build(t, t.Context(), models(t, settings(s)), work, handbook(3), recipe, nil)
	require.NoError(t, err)
	assert.Len(t, s.Calls(), asked)
}

// Each task can have a model of its own, at an endpoint of its own.
func TestTasksHaveTheirOwnModels(t *testing.T) {
	t.Parallel()
	s, other := llmtest.Start(t), llmtest.Start(t)
	file := filepath.Join(t.TempDir(), "endpoints.yaml")
	require.NoError(t, os.WriteFile(file, []byte("endpoints: [{name: other, base_url: '"+other.URL+"', model: any, vision_model: eagle, judge_model: judge, embedding_model: space}]"), 0o600))
	c := settings(s)
	c.File, c.VisionEndpoint, c.JudgeEndpoint, c.EmbeddingEndpoint = file, "other", "other", "other"
	m := models(t, c)
	store := results(t, t.TempDir())
	defer store.Close()
	pictures := []synthesis.Picture{picture(t, "a.png", 40, 30, 1)}
	described, err := m.Describe(t.Context(), synthesis.Use{}, store, pictures, nil)
	require.NoError(t, err)
	card, err := m.Build(t.Context(), synthesis.Build{Documents: handbook(2), Described: described, Store: store, Dir: t.TempDir(), Recipe: synthesis.Recipe{Judge: true, Negatives: synthesis.Embedding}})
	require.NoError(t, err)
	assert.Equal(t, "judge", card.JudgeModel)
	assert.Equal(t, "eagle", card.Pictures.Model)
	assert.Equal(t, "space", card.EmbeddingModel)
	seen := map[string]bool{}
	for _, call := range other.Calls() {
		seen[fmt.Sprint(call.Body["model"])] = true
	}
	assert.Equal(t, map[string]bool{"eagle": true, "judge": true, "space": true}, seen)
	for _, call := range s.Calls() {
		require.Equal(t, "writer", call.Body["model"])
	}
}

// Steps that run apart share results: making samples does not forget what pictures show.
func TestSynthesisKeepsPictures(t *testing.T) {
	t.Parallel()
	s := llmtest.Start(t)
	m := models(t, settings(s))
	store := results(t, t.TempDir())
	defer store.Close()
	pictures := []synthesis.Picture{picture(t, "a.png", 40, 30, 1)}
	_, err := m.Describe(t.Context(), synthesis.Use{}, store, pictures, nil)
	require.NoError(t, err)
	_, err = m.Build(t.Context(), synthesis.Build{Documents: handbook(1), Store: store, Dir: t.TempDir()})
	require.NoError(t, err)
	asked := len(s.Calls())
	_, err = m.Describe(t.Context(), synthesis.Use{}, store, pictures, nil)
	require.NoError(t, err)
	assert.Len(t, s.Calls(), asked)
}

func TestFaultsThatEndABuild(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault llmtest.Fault
		kind  clara.Kind
		says  string
	}{
		{"401", llmtest.Unauthorized, clara.Denied, "OPENAI_API_KEY"},
		{"404", llmtest.NotFound, clara.NotFound, "MODEL"},
		{"quota", llmtest.Quota, clara.State, "credit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := llmtest.Start(t)
			s.Faults = llmtest.Every(c.fault)
			_, card, err := build(t, t.Context(), models(t, settings(s)), t.TempDir(), handbook(6), synthesis.Recipe{}, nil)
			require.Error(t, err)
			assert.Equal(t, c.kind, clara.KindOf(err))
			assert.Contains(t, err.Error(), c.says)
			assert.False(t, card.Complete)
			assert.LessOrEqual(t, len(s.Calls()), 8, "one request a worker, no more")
		})
	}
}

func TestNoEndpoint(t *testing.T) {
	_, _, err := build(t, t.Context(), models(t, synthesis.ModelsConfig{Concurrency: 1, Tries: 1, Timeout: time.Second}), t.TempDir(), handbook(1), synthesis.Recipe{}, nil)
	require.Error(t, err)
	assert.Contains(t, err.Error(), "OPENAI_API_KEY")
}

func TestResultsAreForOneBuildAtATime(t *testing.T) {
	dir := t.TempDir()
	r := results(t, dir)
	defer r.Close()
	_, err := synthesis.OpenResults(filepath.Join(dir, "results.log"))
	assert.Equal(t, clara.Conflict, clara.KindOf(err))
}

func picture(t *testing.T, name string, w, h int, shade uint8) synthesis.Picture {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for i := range img.Pix {
		img.Pix[i] = shade
	}
	img.Set(0, 0, color.White)
	var buf bytes.Buffer
	require.NoError(t, png.Encode(&buf, img))
	return synthesis.Picture{Path: name, Load: func(context.Context) ([]byte, error) { return buf.Bytes(), nil }}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	s := llmtest.Start(t)
	s.Faults = llmtest.Until(llmtest.Busy, llmtest.Broken)
	m := models(t, settings(s))
	store := results(t, t.TempDir())
	defer store.Close()
	list := []synthesis.Picture{
		picture(t, "a.png", 40, 30, 1), picture(t, "the same.png", 40, 30, 1), picture(t, "rule.png", 400, 10, 1), picture(t, "large.png", 2100, 300, 9),
		{Path: "broken.png", Load: func(context.Context) ([]byte, error) { return []byte("\x89PNG\r\n\x1a\n???"), nil }},
		{Path: "gone.png", Load: func(context.Context) ([]byte, error) { return nil, errors.New("not there") }},
	}
	got, err := m.Describe(t.Context(), synthesis.Use{}, store, list, nil)
	require.NoError(t, err)
	assert.Contains(t, got[0].Text, "bar chart")
	assert.Equal(t, got[0].Text, got[1].Text)
	assert.Contains(t, got[2].Skipped, "too small")
	assert.NotEmpty(t, got[3].Text)
	assert.Contains(t, got[4].Skipped, "not a picture")
	assert.Contains(t, got[5].Skipped, "not there")
	assert.Len(t, s.Calls(), 2+2, "identical pictures are asked about once")
	for _, c := range s.Calls() {
		messages := c.Body["messages"].([]any)
		parts := messages[0].(map[string]any)["content"].([]any)
		assert.True(t, strings.HasPrefix(parts[1].(map[string]any)["image_url"].(map[string]any)["url"].(string), "data:image/jpeg;base64,"))
	}
	again, err := m.Describe(t.Context(), synthesis.Use{}, store, list, nil)
	require.NoError(t, err)
	assert.Equal(t, got[3].Text, again[3].Text)
	assert.Len(t, s.Calls(), 4)
}

func TestDescribeReadsTextWithoutAModel(t *testing.T) {
	m := models(t, synthesis.ModelsConfig{Concurrency: 1, Tries: 1, Timeout: time.Second})
	store := results(t, t.TempDir())
	defer store.Close()
	read := func(context.Context, image.Image) (string, error) { return "EXIT", nil }
	got, err := m.Describe(t.Context(), synthesis.Use{Read: read}, store, []synthesis.Picture{picture(t, "a.png", 40, 30, 1)}, nil)
	require.NoError(t, err)
	assert.Equal(t, "EXIT", got[0].Text)
	assert.Equal(t, "ocr", got[0].By)
	got, err = m.Describe(t.Context(), synthesis.Use{}, store, []synthesis.Picture{picture(t, "b.png", 40, 30, 2)}, nil)
	require.NoError(t, err)
	assert.Contains(t, got[0].Skipped, "VISION_MODEL")
	// No text is a result, too; no reader is none.
	reads := 0
	read = func(context.Context, image.Image) (string, error) {
		if reads++; reads == 1 {
			return "", clara.Errorf(clara.Unsupported, "text recognition is not installed")
		}
		return "", nil
	}
	for _, says := range []string{"not installed", "no text in it", "no text in it"} {
		got, err = m.Describe(t.Context(), synthesis.Use{Read: read}, store, []synthesis.Picture{picture(t, "c.png", 40, 30, 3)}, nil)
		require.NoError(t, err)
		assert.Contains(t, got[0].Skipped, says)
	}
	assert.Equal(t, 2, reads)
}

func TestCandidatesOfAnOldFile(t *testing.T) {
	t.Parallel()
	s := llmtest.Start(t)
	m := models(t, settings(s))
	dir, _, err := build(t, t.Context(), m, t.TempDir(), handbook(6), synthesis.Recipe{TopK: 2}, nil)
	require.NoError(t, err)
	samples, err := dataset.ReadFiles(dataset.Pretrain, filepath.Join(dir, synthesis.PretrainFile))
	require.NoError(t, err)
	instruction, endToEnd, err := m.Candidates(t.Context(), synthesis.Use{}, samples, synthesis.Recipe{TopK: 4, Negatives: synthesis.Embedding}, nil)
	require.NoError(t, err)
	require.Len(t, instruction, len(endToEnd))
	for _, s := range endToEnd {
		require.Len(t, s.Docs, 4)
		require.Len(t, s.PosIndex, 1)
	}
}

var _ config.Secret = secret // keys are typed, so that settings print masked
