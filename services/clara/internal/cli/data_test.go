package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/config"
	"github.com/clara-suite/clara/libs/dataset"
	"github.com/clara-suite/clara/libs/testkit/llmtest"
	"github.com/clara-suite/clara/libs/testkit/partstest"
	"github.com/clara-suite/clara/services/clara/internal/cli"
)

// program is the commands under test, as the real program has them.
type program struct {
	cli.Services
	Extract    cli.Extract        `cmd:""`
	Describe   cli.DataDescribe   `cmd:""`
	Synthesize cli.DataSynthesize `cmd:""`
	Data       cli.Data           `cmd:""`
}

// clara runs a command line and returns what it printed.
func clara(t *testing.T, args ...string) (out, errs string, err error) {
	t.Helper()
	var p program
	var stdout, stderr bytes.Buffer
	env := &cli.Env{Out: &stdout, Err: &stderr}
	ctx := t.Context()
	parsed, err := config.Parse(&p, config.Options{Name: "clara", Args: args, Stdout: &stdout, Stderr: &stderr, Exit: func(int) {},
		Kong: []kong.Option{kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(env)}})
	require.NoError(t, err)
	env.Services = p.Services
	err = parsed.Kong.Run()
	return stdout.String(), stderr.String(), err
}

// raw makes a folder of raw files.
func raw(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "raw")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "plant"), 0o755))
	for i, name := range []string{"pump", "crane", "boiler", "kiln"} {
		var b strings.Builder
		fmt.Fprintf(&b, "# The %s\n\n", name)
		for j := range 16 {
			fmt.Fprintf(&b, "Step %d for the %s starts with lamp %d, because its %s was rebuilt in %d by crew %d.\n\n", j, name, i*100+j, []string{"shaft", "sensor", "bearing"}[j%3], 1900+i*20+j, i*j+7)
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, "plant", name+".md"), []byte(b.String()), 0o644))
	}
	img := image.NewRGBA(image.Rect(0, 0, 64, 48))
	for x := range 64 {
		img.Set(x, x%48, color.White)
	}
	var buf bytes.Buffer
	require.NoError(t, png.Encode(&buf, img))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "plant", "chart.png"), buf.Bytes(), 0o644))
	return dir
}

const key = "sk-of-the-command-line"

func TestDataPipeline(t *testing.T) {
	s := llmtest.Start(t)
	s.Key = key
	s.Faults = llmtest.OnceEach("", llmtest.Truncated, llmtest.NoJSON, llmtest.Chatty, llmtest.WrongSchema)
	dir, out := raw(t), filepath.Join(t.TempDir(), "data")
	// The names that users have in their environment.
	for name, value := range map[string]string{
		"OPENAI_API_KEY": key, "BASE_URL": s.URL, "MODEL": "writer", "VISION_MODEL": "eye", "TARGET_TOP_K": "3", "OUTPUT_DIR": out, "RAW_DATA_DIR": dir, "CLARA_LLM_BACKOFF": "1ms",
	} {
		t.Setenv(name, value)
	}
	stdout, stderr, err := clara(t, "data", "build", "--multi-hop", "30")
	require.NoError(t, err, stderr)
	assert.Contains(t, stdout, "data card")
	assert.NotContains(t, stdout+stderr, key)
	asked := len(s.Calls())

	docs := knowledge(t, filepath.Join(out, "raw_knowledge.jsonl"))
	require.Len(t, docs, 5)
	assert.Equal(t, "plant", docs[0].ProductArea)
	last := docs[4]
	assert.Equal(t, dataset.SourceImage, last.SourceType)
	assert.True(t, strings.HasPrefix(last.Content, "[IMAGE DESCRIPTION of chart.png]\n"), last.Content)

	for _, f := range []string{"pretrain_data.jsonl", "instruction_data.jsonl", "end_to_end_data.jsonl", "clara_training_data.jsonl"} {
		stdout, stderr, err := clara(t, "data", "check", filepath.Join(out, f), "--expected-top-k", "3")
		require.NoError(t, err, stdout+stderr)
		assert.Contains(t, stdout, "documents a sample")
	}
	before, err := os.ReadFile(filepath.Join(out, "end_to_end_data.jsonl"))
	require.NoError(t, err)

	// Again: nothing is asked.
	_, stderr, err = clara(t, "data", "build", "--multi-hop", "30")
	require.NoError(t, err, stderr)
	assert.Len(t, s.Calls(), asked)
	after, err := os.ReadFile(filepath.Join(out, "end_to_end_data.jsonl"))
	require.NoError(t, err)
	assert.Equal(t, before, after)

	// A wrong expectation fails and says where.
	stdout, _, err = clara(t, "data", "check", "--input_file", filepath.Join(out, "end_to_end_data.jsonl"), "--expected_top_k", "4")
	require.Error(t, err)
	assert.Contains(t, stdout, "end_to_end_data.jsonl:1: ")

	stdout, _, err = clara(t, "data", "show", filepath.Join(out, "end_to_end_data.jsonl"), "-n", "1")
	require.NoError(t, err)
	assert.Contains(t, stdout, " + ")
	_, _, err = clara(t, "data", "show", filepath.Join(out, "end_to_end_data.jsonl"), "--from", "100000")
	assert.ErrorContains(t, err, "--from 100000: ")
	stdout, _, err = clara(t, "data", "stats", filepath.Join(out, "clara_training_data.jsonl"))
	require.NoError(t, err)
	assert.Contains(t, stdout, "distinct documents")

	again := filepath.Join(t.TempDir(), "again")
	_, _, err = clara(t, "data", "candidates", filepath.Join(out, "pretrain_data.jsonl"), "--out", again, "--top-k", "2", "--negatives", "random")
	require.NoError(t, err)
	_, _, err = clara(t, "data", "check", filepath.Join(again, "end_to_end_data.jsonl"), "--expected-top-k", "2")
	require.NoError(t, err)

	split := filepath.Join(t.TempDir(), "split")
	_, _, err = clara(t, "data", "split", "--dev", "0.3", "--out", split, filepath.Join(out, "end_to_end_data.jsonl"), filepath.Join(out, "instruction_data.jsonl"), filepath.Join(out, "pretrain_data.jsonl"))
	require.NoError(t, err)
	texts, sources := map[string]string{}, map[string]string{} // -> side
	for _, side := range []string{"train", "dev"} {
		for _, file := range []string{"end_to_end", "instruction", "pretrain"} {
			samples, err := dataset.ReadFiles(dataset.Kind(file), filepath.Join(split, side+"."+file+"_data.jsonl"))
			require.NoError(t, err)
			for _, x := range samples {
				if file != "pretrain" {
					require.Len(t, x.Docs, 3)
				}
				for _, d := range x.Docs {
					require.Contains(t, []string{"", side}, texts[d], "a text on both sides")
					texts[d] = side
				}
				for _, d := range x.Sources {
					require.Contains(t, []string{"", side}, sources[d], "a document on both sides")
					sources[d] = side
				}
				for _, p := range x.PosIndex {
					require.Contains(t, x.Docs[p], strings.Fields(x.Answer())[0])
				}
			}
		}
	}
	assert.Len(t, sources, 5)

	// A document that is gone leaves nothing behind but what others have.
	require.NoError(t, os.Remove(filepath.Join(dir, "plant", "kiln.md")))
	_, stderr, err = clara(t, "data", "build", "--multi-hop", "0")
	require.NoError(t, err, stderr)
	require.NoError(t, filepath.WalkDir(out, func(path string, d os.DirEntry, err error) error {
		require.NoError(t, err)
		if d.IsDir() {
			return nil
		}
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.NotContains(t, string(data), "for the kiln", path)
		assert.NotContains(t, string(data), key, path)
		return nil
	}))
}

// Settings come from a .env file in the working folder, as users have it.
func TestEnvFile(t *testing.T) {
	s := llmtest.Start(t)
	s.Key = key
	dir := raw(t)
	t.Chdir(t.TempDir())
	for _, name := range []string{"OPENAI_API_KEY", "BASE_URL", "MODEL", "RAW_DATA_DIR", "TARGET_TOP_K"} {
		t.Setenv(name, "") // so that it is put back
		require.NoError(t, os.Unsetenv(name))
	}
	env := "export OPENAI_API_KEY='" + key + "'\nBASE_URL=" + s.URL + "\nMODEL=writer # the cheap one\nRAW_DATA_DIR=\"" + dir + "\"\nTARGET_TOP_K=2\n"
	require.NoError(t, os.WriteFile(".env", []byte(env), 0o600))
	_, stderr, err := clara(t, "data", "build", "--no-describe")
	require.NoError(t, err, stderr)
	_, _, err = clara(t, "data", "check", "data/end_to_end_data.jsonl", "--expected-top-k", "2")
	require.NoError(t, err)
}

// What a document's text names is not for the document to choose: pictures elsewhere are neither read nor sent.
func TestPicturesElsewhereAreNotSent(t *testing.T) {
	s := llmtest.Start(t)
	dir, work := raw(t), t.TempDir()
	private := filepath.Join(dir, "plant", "chart.png")
	require.NoError(t, os.MkdirAll(filepath.Join(work, "extracted_assets"), 0o755))
	link := filepath.Join(work, "extracted_assets", "link.png")
	require.NoError(t, os.Symlink(private, link))
	file := filepath.Join(work, "raw_knowledge.jsonl")
	line, err := json.Marshal(dataset.Document{FilePath: "a.md", Filename: "a.md", Content: "[IMAGE_REF: " + private + "]\n[IMAGE_REF: " + link + "]\n[IMAGE_REF: /etc/passwd]", ExtractedImages: []string{private}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, append(line, '\n'), 0o644))
	_, stderr, err := clara(t, "describe", "--knowledge", file, "--vision-model", "eye", "--base-url", s.URL, "--api-key", key)
	require.NoError(t, err, stderr)
	assert.Empty(t, s.Calls())
	assert.Contains(t, stderr, "it lies outside of")
}

func TestClean(t *testing.T) {
	work := t.TempDir()
	assets := filepath.Join(work, "extracted_assets")
	require.NoError(t, os.MkdirAll(assets, 0o755))
	for _, name := range []string{"a_img_1.png", "old_img_1.png", "mine.png"} {
		require.NoError(t, os.WriteFile(filepath.Join(assets, name), []byte("x"), 0o644))
	}
	kept := filepath.ToSlash(filepath.Join(assets, "a_img_1.png"))
	line, err := json.Marshal(dataset.Document{FilePath: "a.pdf", Filename: "a.pdf", Content: "One [IMAGE_REF: " + kept + "] two [IMAGE_REF: gone.png] three", ExtractedImages: []string{kept, "gone.png"}})
	require.NoError(t, err)
	docs, samples := filepath.Join(work, "handbooks.jsonl"), filepath.Join(work, "instruction_data.jsonl")
	require.NoError(t, os.WriteFile(docs, append(line, '\n'), 0o644))
	require.NoError(t, os.WriteFile(samples, []byte(`{"question":"What?","docs":["A text. [IMAGE_REF: x.png]\n<!-- image -->\n--- Extracted Images ---\nMore."],"gold_answer":"A"}`+"\n"), 0o644))
	stdout, _, err := clara(t, "data", "clean", docs, samples, "--assets", assets)
	require.NoError(t, err)
	assert.Contains(t, stdout, "1 marks removed")
	assert.Contains(t, stdout, "3 marks removed")
	d := knowledge(t, docs)[0]
	assert.Contains(t, d.Content, kept)
	assert.NotContains(t, d.Content, "gone.png")
	assert.Equal(t, []string{kept}, d.ExtractedImages)
	data, err := os.ReadFile(samples)
	require.NoError(t, err)
	assert.NotContains(t, string(data), "IMAGE_REF")
	assert.NotContains(t, string(data), "Extracted Images")
	left, err := filepath.Glob(filepath.Join(assets, "*"))
	require.NoError(t, err)
	assert.Equal(t, []string{filepath.Join(assets, "a_img_1.png"), filepath.Join(assets, "mine.png")}, left, "only what extraction had saved is removed")
}

func knowledge(t *testing.T, path string) []dataset.Document {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	var out []dataset.Document
	for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		var d dataset.Document
		require.NoError(t, json.Unmarshal([]byte(line), &d))
		out = append(out, d)
	}
	return out
}

// The steps one by one, with the flags of the older scripts.
func TestStepsOneByOne(t *testing.T) {
	s := llmtest.Start(t)
	dir, work := raw(t), t.TempDir()
	file := filepath.Join(work, "raw_knowledge.jsonl")
	_, stderr, err := clara(t, "extract", "--input_dir", dir, "--output_file", file, "--image_output_dir", filepath.Join(work, "assets"))
	require.NoError(t, err, stderr)
	require.Len(t, knowledge(t, file), 4)
	models := []string{"--base_url", s.URL, "--api_key", key, "--model", "writer"}

	_, stderr, err = clara(t, append([]string{"describe", "--input_dir", dir, "--output_file", file, "--vision-model", "eye"}, models...)...)
	require.NoError(t, err, stderr)
	require.Len(t, knowledge(t, file), 5)
	_, _, err = clara(t, append([]string{"describe", "--input_dir", dir, "--output_file", file, "--vision-model", "eye"}, models...)...)
	require.NoError(t, err)
	require.Len(t, knowledge(t, file), 5, "a later run adds nothing")

	out := filepath.Join(work, "out")
	_, stderr, err = clara(t, append([]string{"synthesize", "--input_file", file, "--output_dir", out, "--target_top_k", "2", "--chunk_size", "600"}, models...)...)
	require.NoError(t, err, stderr)
	_, _, err = clara(t, "data", "check", filepath.Join(out, "instruction_data.jsonl"), "--expected_top_k", "2")
	require.NoError(t, err)

	text := filepath.Join(work, "notes.txt")
	require.NoError(t, os.WriteFile(text, []byte(strings.Repeat("The lighthouse keeper writes down the wind at seven. The log of the tower goes back to 1871.\n", 3)), 0o644))
	_, stderr, err = clara(t, append([]string{"synthesize", text, "--output_dir", filepath.Join(work, "text"), "--target_top_k", "1"}, models...)...)
	require.NoError(t, err, stderr)
}

func TestExtractTellsWhatItCouldNotRead(t *testing.T) {
	dir := raw(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "broken.docx"), []byte("PK\x03\x04 not a zip"), 0o644))
	md := filepath.Join(t.TempDir(), "md")
	_, stderr, err := clara(t, "extract", dir, "--markdown", md, "--ocr", "never")
	require.ErrorIs(t, err, cli.ErrPartial)
	assert.Contains(t, stderr, "broken.docx")
	text, err := os.ReadFile(filepath.Join(md, "pump.md.md"))
	require.NoError(t, err)
	assert.Contains(t, string(text), "# The pump")
}

// berths is a PDF of two pages.
func berths() []byte {
	var b bytes.Buffer
	var at []int
	object := func(s string) {
		at = append(at, b.Len())
		fmt.Fprintf(&b, "%d 0 obj\n%s\nendobj\n", len(at), s)
	}
	b.WriteString("%PDF-1.4\n")
	object("<< /Type /Catalog /Pages 2 0 R >>")
	object("<< /Type /Pages /Count 2 /Kids [3 0 R 4 0 R] >>")
	page := "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 100] /Contents %d 0 R /Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>"
	object(fmt.Sprintf(page, 5))
	object(fmt.Sprintf(page, 6))
	for _, text := range []string{"Berth 7 holds a barge", "Berth 9 holds a crane"} {
		content := "BT /F1 18 Tf 20 50 Td (" + text + ") Tj ET"
		object(fmt.Sprintf("<< /Length %d >>\nstream\n%s\nendstream", len(content), content))
	}
	xref := b.Len()
	fmt.Fprintf(&b, "xref\n0 %d\n0000000000 65535 f \n", len(at)+1)
	for _, offset := range at {
		fmt.Fprintf(&b, "%010d 00000 n \n", offset)
	}
	fmt.Fprintf(&b, "trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n", len(at)+1, xref)
	return b.Bytes()
}

// A line says which pages were not read from the file's own text, from the work folder too.
func TestExtractTellsPagesReadByOCR(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "berths.pdf"), berths(), 0o644))
	for _, c := range []struct {
		name, mode, want string
	}{{"text", "auto", ""}, {"recognised", "always", "[1,2]"}, {"from the work folder", "always", "[1,2]"}} {
		t.Run(c.name, func(t *testing.T) {
			out := filepath.Join(dir, "out", c.mode, "raw_knowledge.jsonl")
			require.NoError(t, os.MkdirAll(filepath.Dir(out), 0o755))
			_, stderr, err := clara(t, "extract", filepath.Join(dir, "berths.pdf"), "--out", out, "--ocr", c.mode)
			if strings.Contains(stderr, "scripts/deps.sh") {
				partstest.Fetched(t, errors.New(stderr))
			}
			require.NoError(t, err, stderr)
			line, err := os.ReadFile(out)
			require.NoError(t, err)
			var d struct {
				ReadByOCR json.RawMessage `json:"read_by_ocr"`
				Content   string          `json:"content"`
			}
			require.NoError(t, json.Unmarshal(line, &d))
			assert.Equal(t, c.want, string(d.ReadByOCR))
			assert.Contains(t, strings.ReplaceAll(d.Content, " ", ""), "Berth9holdsacrane")
			if c.name == "recognised" {
				assert.Contains(t, stderr, "berths.pdf: 2 of 2 pages were read by OCR")
			}
		})
	}
}

// Questions that have fewer documents than asked for are not counted among those that have all.
func TestCandidatesAreCounted(t *testing.T) {
	pairs := filepath.Join(t.TempDir(), "pretrain_data.jsonl")
	require.NoError(t, os.WriteFile(pairs, []byte(`{"data_type":"qa","question":["When?"],"answers":["At seven"],"docs":["The keeper writes at seven."]}
{"data_type":"qa","question":["Who mends nets?"],"answers":["The crew"],"docs":["Nets are mended by the crew in spring."]}
`), 0o644))
	stdout, stderr, err := clara(t, "data", "candidates", pairs, "--out", t.TempDir(), "--top-k", "4")
	require.NoError(t, err, stderr)
	assert.Contains(t, stdout, "2 questions, 0 with 4 documents each")
	assert.Contains(t, stdout, "2 have fewer")
}

// What is 0 in somebody's settings is not taken for the default, and nothing is asked.
func TestNothingIsNoDefault(t *testing.T) {
	s := llmtest.Start(t)
	file := filepath.Join(t.TempDir(), "notes.txt")
	require.NoError(t, os.WriteFile(file, []byte(strings.Repeat("The keeper writes down the wind at seven. ", 4)), 0o644))
	pairs := filepath.Join(t.TempDir(), "pretrain_data.jsonl")
	require.NoError(t, os.WriteFile(pairs, []byte(`{"data_type":"qa","question":["When?"],"answers":["At seven"],"docs":["The keeper writes at seven."]}`+"\n"), 0o644))
	for _, c := range []struct {
		name string
		args []string
	}{
		{"documents of a question", []string{"synthesize", file, "--target_top_k", "0"}},
		{"length of a chunk", []string{"synthesize", file, "--chunk_size", "0"}},
		{"documents chosen anew", []string{"data", "candidates", pairs, "--top-k", "0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			_, _, err := clara(t, append(c.args, "--out", out, "--base-url", s.URL, "--api-key", key, "--model", "writer")...)
			require.ErrorContains(t, err, "must be more than 0")
			assert.NoDirExists(t, out)
		})
	}
	assert.Empty(t, s.Calls())
}

// A document's path is as the folder was given, whichever way it was: no machine's folders get into the data.
func TestPathsAreAsGiven(t *testing.T) {
	t.Chdir(filepath.Dir(raw(t)))
	for _, args := range [][]string{{"raw"}, {"--input_dir", "raw"}} {
		_, stderr, err := clara(t, append([]string{"extract", "--out", "docs.jsonl"}, args...)...)
		require.NoError(t, err, stderr)
		assert.Equal(t, "raw/plant/boiler.md", knowledge(t, "docs.jsonl")[0].FilePath)
	}
	_, _, err := clara(t, "data", "check", "docs.jsonl")
	assert.ErrorContains(t, err, "holds extracted documents", "whatever the file's name")
}

func TestKeysAreNotTold(t *testing.T) {
	s := llmtest.Start(t)
	s.Faults = llmtest.Every(llmtest.Unauthorized)
	_, stderr, err := clara(t, "data", "build", raw(t), "--out", filepath.Join(t.TempDir(), "data"), "--base-url", s.URL, "--api-key", key, "--model", "m", "--no-describe")
	require.Error(t, err)
	assert.Contains(t, err.Error(), "OPENAI_API_KEY")
	assert.NotContains(t, err.Error()+stderr, key)
}
