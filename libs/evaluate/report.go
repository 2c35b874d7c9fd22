package evaluate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html/template"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/score"
	modelv1 "github.com/clara-suite/clara/proto/gen/clara/model/v1"
)

// Report is the outcome of an evaluation.
type Report struct {
	Config
	Digest string `json:"model_digest"`
	Ranked string `json:"ranked_by"` // "the model", "BM25", or empty
	Rows   []Row  `json:"rows"`

	plots []plot
}

// Row is the scores of one data file, or of all ("average"), from one context.
type Row struct {
	Data    string `json:"data"`
	Context string `json:"context"`
	Samples int    `json:"samples"`
	// Excluded: samples without positives in the oracle setting, and those whose golds say nothing.
	Excluded int `json:"excluded"`
	Errors   int `json:"errors"` // without an answer; they count as wrong

	EM     score.Interval `json:"em"`
	Cover  score.Interval `json:"accuracy"`
	F1     score.Interval `json:"f1"`
	CharF1 score.Interval `json:"f1_by_characters"`

	// Distance of memories from their texts, in the mse mode.
	Distance score.Interval `json:"distance,omitzero"`

	// Of the ranking, where there is one and positives are known.
	Recall    map[int]score.Interval `json:"recall_at,omitempty"`
	Precision map[int]score.Interval `json:"precision_at,omitempty"`

	// A prompt on average: tokens read, what reading them costs, and the time to the first token.
	PromptTokens float64 `json:"prompt_tokens"`
	OutputTokens float64 `json:"output_tokens"`
	PromptFLOPs  float64 `json:"prompt_flops"`
	// ContextBytes is what is stored of the documents that a prompt holds: memories in half precision, or text.
	ContextBytes float64 `json:"context_bytes"`
	FirstToken   float64 `json:"first_token_seconds"`
}

// ks are the depths at which rankings are scored (spec clara-model §8).
var ks = []int{1, 3, 5}

const seed = 1 // of the intervals: the same predictions give the same report

// average is the row over all files, each counting alike as in the paper.
const average = "average"

func summarize(cfg Config, model *modelv1.Model, files []*file, all []Prediction) *Report {
	r := &Report{Config: cfg, Digest: model.Digest}
	if cfg.Mode == EndToEnd && cfg.Setting == Normal {
		r.Ranked = "the model"
		if model.MemoryTokens == 0 {
			r.Ranked = "BM25"
		}
	}
	for _, c := range cfg.Contexts {
		var rows []Row
		for i, f := range files {
			var list []Prediction
			for _, p := range all {
				if p.File == i && p.Context == c {
					list = append(list, p)
				}
			}
			slices.SortFunc(list, func(a, b Prediction) int { return a.Sample - b.Sample })
			rows = append(rows, row(f, c, model, list))
			if cfg.Mode == MSE {
				r.plots = append(r.plots, distances(f.Name, list))
			}
		}
		r.Rows = append(r.Rows, rows...)
		if len(rows) > 1 {
			r.Rows = append(r.Rows, mean(c, rows))
		}
	}
	return r
}

func row(f *file, c string, model *modelv1.Model, list []Prediction) Row {
	out := Row{Data: f.Name, Context: c, Samples: len(list), Excluded: f.excluded}
	var answers score.Answers
	ranked := score.NewRetrieval(ks...)
	positives := false
	var distance []float64
	for _, p := range list {
		distance = append(distance, p.Distance)
		answers.Add(p.Answer, p.Golds)
		if p.Error != "" {
			out.Errors++
		}
		if len(p.Ranking) > 0 && len(p.Positives) > 0 {
			positives = true
			ranked.Add(p.Ranking, p.Positives)
		}
		out.PromptTokens += float64(p.PromptTokens)
		out.OutputTokens += float64(p.OutputTokens)
		out.FirstToken += p.FirstToken
		docs := float64(len(p.Documents))
		switch c {
		case Memory:
			out.ContextBytes += docs * float64(model.MemoryTokens) * float64(model.Hidden) * 2
		case Text:
			for _, d := range p.Documents {
				out.ContextBytes += float64(len(f.samples[p.Sample].Docs[d]))
			}
		}
	}
	if n := float64(len(list)); n > 0 {
		out.PromptTokens, out.OutputTokens, out.FirstToken, out.ContextBytes = out.PromptTokens/n, out.OutputTokens/n, out.FirstToken/n, out.ContextBytes/n
	}
	out.PromptFLOPs = 2 * float64(model.Parameters) * out.PromptTokens
	if slices.ContainsFunc(distance, func(d float64) bool { return d != 0 }) {
		out.Distance = score.Bootstrap(distance, seed)
	}
	s := answers.Summary(seed)
	out.EM, out.Cover, out.F1, out.CharF1 = s.EM, s.Cover, s.F1, s.CharF1
	out.Excluded += s.Excluded
	if positives {
		rs := ranked.Summary(seed)
		out.Recall, out.Precision = map[int]score.Interval{}, map[int]score.Interval{}
		for i, k := range rs.K {
			out.Recall[k], out.Precision[k] = rs.Recall[i], rs.Precision[i]
		}
	}
	return out
}

// mean is the average over files. Its intervals are those of a mean of independent means.
func mean(c string, rows []Row) Row {
	out := Row{Data: average, Context: c}
	n := float64(len(rows))
	var em, cover, f1, char, distance []score.Interval
	for _, r := range rows {
		out.Samples += r.Samples
		out.Excluded += r.Excluded
		out.Errors += r.Errors
		em, cover, f1, char = append(em, r.EM), append(cover, r.Cover), append(f1, r.F1), append(char, r.CharF1)
		distance = append(distance, r.Distance)
		out.PromptTokens += r.PromptTokens / n
		out.OutputTokens += r.OutputTokens / n
		out.FirstToken += r.FirstToken / n
		out.PromptFLOPs += r.PromptFLOPs / n
		out.ContextBytes += r.ContextBytes / n
	}
	out.EM, out.Cover, out.F1, out.CharF1 = join(em), join(cover), join(f1), join(char)
	out.Distance = join(distance)
	for _, k := range ks {
		var recall, precision []score.Interval
		for _, r := range rows {
			if x, ok := r.Recall[k]; ok {
				recall, precision = append(recall, x), append(precision, r.Precision[k])
			}
		}
		if len(recall) == len(rows) {
			if out.Recall == nil {
				out.Recall, out.Precision = map[int]score.Interval{}, map[int]score.Interval{}
			}
			out.Recall[k], out.Precision[k] = join(recall), join(precision)
		}
	}
	return out
}

// write writes the report in its three forms.
func (r *Report) write(dir string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	page, err := r.HTML()
	if err != nil {
		return err
	}
	files := map[string][]byte{ReportJSON: append(raw, '\n'), ReportMarkdown: []byte(r.Markdown()), ReportHTML: page}
	for i, p := range r.plots {
		files[plotFile(i)] = p.svg()
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return clara.Errorf(clara.Unavailable, "write report: %w", err)
		}
	}
	return nil
}

// ReadReport reads report.json of an evaluation's folder.
func ReadReport(dir string) (*Report, error) {
	raw, err := os.ReadFile(filepath.Join(dir, ReportJSON))
	if err != nil {
		return nil, clara.Errorf(clara.NotFound, "read report: %w", err)
	}
	var r Report
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, clara.Errorf(clara.Corrupt, "%s: %w", filepath.Join(dir, ReportJSON), err)
	}
	return &r, nil
}

// sheet is a table of a report.
type sheet struct {
	Title, Note string
	Header      []string
	Rows        [][]string
}

// sheets are the tables of the report.
func (r *Report) sheets() []sheet {
	if r.Mode == MSE {
		return []sheet{r.distance()}
	}
	what := fmt.Sprintf("%s, %s setting, k = %d, at most %d tokens an answer", r.Mode, r.Setting, r.TopK, r.MaxTokens)
	answers := sheet{Title: "Answers", Header: []string{"data", "context", "n", "EM", "accuracy", "F1", "F1 by characters", "left out", "errors"},
		Note: what + ". Per cent, with 95 % bootstrap intervals. Accuracy is cover EM: every word of the gold is in the answer."}
	if r.Mode == Paraphrase {
		answers.Note = what + ". The answer is compared with the whole document: F1 is the share of its words that the memory still tells."
	}
	cost := sheet{Title: "Cost", Header: []string{"data", "context", "tokens read", "FLOPs of the prompt", "bytes of context", "first token, s", "tokens written"},
		Note: "A question on average. FLOPs are 2 x parameters x tokens read; bytes are those of memories in half precision, or of the text."}
	search := sheet{Title: "Retrieval", Header: []string{"data"}, Note: "Candidates of each sample ranked by " + r.Ranked + ", against the known positives; per cent."}
	for _, k := range ks {
		search.Header = append(search.Header, fmt.Sprintf("recall@%d", k), fmt.Sprintf("precision@%d", k))
	}
	seen := map[string]bool{}
	for _, x := range r.Rows {
		answers.Rows = append(answers.Rows, []string{x.Data, x.Context, fmt.Sprint(x.Samples), percent(x.EM), percent(x.Cover), percent(x.F1), percent(x.CharF1), fmt.Sprint(x.Excluded), fmt.Sprint(x.Errors)})
		cost.Rows = append(cost.Rows, []string{x.Data, x.Context, fmt.Sprintf("%.1f", x.PromptTokens), fmt.Sprintf("%.3g", x.PromptFLOPs), fmt.Sprintf("%.0f", x.ContextBytes), fmt.Sprintf("%.3f", x.FirstToken), fmt.Sprintf("%.1f", x.OutputTokens)})
		if x.Recall != nil && !seen[x.Data] {
			seen[x.Data] = true
			line := []string{x.Data}
			for _, k := range ks {
				line = append(line, percent(x.Recall[k]), percent(x.Precision[k]))
			}
			search.Rows = append(search.Rows, line)
		}
	}
	out := []sheet{answers}
	if len(search.Rows) > 0 {
		out = append(out, search)
	}
	out = append(out, cost)
	if r.Mode != Paraphrase {
		out = append(out, r.beside())
	}
	return out
}

// distance is the table of the mse mode.
func (r *Report) distance() sheet {
	s := sheet{Title: "Distance of memories from their texts", Header: []string{"data", "n", "distance", "95 % interval"},
		Note: "The mean squared difference between the mean final state of a document's memory tokens and that of its text, which training holds small (mse_loss), averaged over documents; the pictures show how it is spread."}
	for _, x := range r.Rows {
		s.Rows = append(s.Rows, []string{x.Data, fmt.Sprint(x.Samples), fmt.Sprintf("%.5g", x.Distance.Mean), fmt.Sprintf("%.5g-%.5g", x.Distance.Low, x.Distance.High)})
	}
	return s
}

// beside puts the paper's figures beside these (spec clara-model §9).
func (r *Report) beside() sheet {
	s := sheet{Title: "Beside the paper", Header: []string{"system", "normal", "oracle"},
		Note: "Accuracy, per cent. The paper's figures are of Mistral-7B, averaged over NQ, HotpotQA, MuSiQue and 2Wiki; other data, samples and base models are not comparable. What can be compared is this model's memory with its own text.",
		Rows: [][]string{
			{"CLaRa 4x (paper)", "39.86", "66.76"}, {"CLaRa 16x (paper)", "38.96", "63.90"}, {"CLaRa 32x (paper)", "38.82", "61.53"},
			{"PISCO 16x (paper)", "37.83", "58.55"}, {"LLMLingua-2 4x (paper)", "34.49", ""}, {"text RAG (paper)", "37.67", "64.24"},
		}}
	rows := r.Rows
	if slices.ContainsFunc(rows, func(x Row) bool { return x.Data == average }) {
		rows = slices.DeleteFunc(slices.Clone(rows), func(x Row) bool { return x.Data != average })
	}
	for _, x := range rows {
		line := []string{strings.TrimPrefix(r.Model, "models/") + ", " + x.Context + " (" + x.Data + ")", "", ""}
		line[1+slices.Index([]string{Normal, Oracle}, r.Setting)] = percent(x.Cover)
		s.Rows = append(s.Rows, line)
	}
	return s
}

func percent(i score.Interval) string {
	if i.N == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f (%.1f-%.1f)", 100*i.Mean, 100*i.Low, 100*i.High)
}

// Markdown is the report as Markdown.
func (r *Report) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Evaluation of %s\n", r.Model)
	for _, s := range r.sheets() {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| %s |\n|%s\n", s.Title, s.Note, strings.Join(s.Header, " | "), strings.Repeat(" --- |", len(s.Header)))
		for _, row := range s.Rows {
			cells := slices.Clone(row)
			for i := range cells {
				cells[i] = strings.ReplaceAll(cells[i], "|", `\|`)
			}
			fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
		}
	}
	for i, p := range r.plots {
		fmt.Fprintf(&b, "\n![%s](%s)\n", p.title, plotFile(i))
	}
	return b.String()
}

// HTML is the report as a page that needs nothing else.
func (r *Report) HTML() ([]byte, error) {
	t, err := template.New("report").Parse(page)
	if err != nil {
		return nil, fmt.Errorf("parse page: %w", err)
	}
	var plots []template.HTML
	for _, p := range r.plots {
		plots = append(plots, template.HTML(p.svg())) // made here, its texts escaped
	}
	var b bytes.Buffer
	if err := t.Execute(&b, map[string]any{"Model": r.Model, "Sheets": r.sheets(), "Plots": plots}); err != nil {
		return nil, fmt.Errorf("write page: %w", err)
	}
	return b.Bytes(), nil
}

const page = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Evaluation of {{.Model}}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } th, td { border-color: #444 } }
</style></head><body>
<h1>Evaluation of {{.Model}}</h1>
{{range .Sheets}}<h2>{{.Title}}</h2><p>{{.Note}}</p>
<table><thead><tr>{{range .Header}}<th>{{.}}</th>{{end}}</tr></thead>
<tbody>{{range .Rows}}<tr>{{range .}}<td>{{.}}</td>{{end}}</tr>
{{end}}</tbody></table>
{{end}}{{range .Plots}}<p>{{.}}</p>
{{end}}</body></html>
`

// join is the interval of the mean of independent means.
func join(list []score.Interval) score.Interval {
	var out score.Interval
	n := float64(len(list))
	var low, high float64 // squares of the half widths
	for _, i := range list {
		out.Mean += i.Mean / n
		out.N += i.N
		low += (i.Mean - i.Low) * (i.Mean - i.Low)
		high += (i.High - i.Mean) * (i.High - i.Mean)
	}
	out.Low, out.High = out.Mean-math.Sqrt(low)/n, out.Mean+math.Sqrt(high)/n
	return out
}
