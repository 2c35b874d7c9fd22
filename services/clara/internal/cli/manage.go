package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clara-suite/clara/libs/clara"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	modelv1 "github.com/clara-suite/clara/proto/gen/clara/model/v1"
)

// Collections lists and manages collections.
type Collections struct {
	List    CollectionsList    `cmd:"" default:"1" help:"List collections."`
	Show    CollectionsShow    `cmd:"" help:"Show a collection."`
	Create  CollectionsCreate  `cmd:"" help:"Create a collection."`
	Move    CollectionsMove    `cmd:"" help:"Keep a collection's memories in another precision."`
	Compare CollectionsCompare `cmd:"" help:"Show what each precision of memories costs: bytes, cosine, recall, answers."`
	Delete  CollectionsDelete  `cmd:"" help:"Delete a collection with everything in it."`
}

// CollectionsList lists collections.
type CollectionsList struct{}

// Run prints a row a collection.
func (CollectionsList) Run(ctx context.Context, e *Env) error {
	client, err := e.ingest()
	if err != nil {
		return err
	}
	var rows [][]string
	var all []proto.Message
	err = pages(ctx, func(token string) (string, error) {
		r, err := client.ListCollections(ctx, &ingestv1.ListCollectionsRequest{PageToken: token})
		if err != nil {
			return "", err
		}
		for _, c := range r.Collections {
			all = append(all, c)
			rows = append(rows, []string{short(c.Name), short(c.Model), yes(c.Memory), fmt.Sprint(c.DocumentCount), fmt.Sprint(c.PassageCount), age(c.UpdateTime)})
		}
		return r.NextPageToken, nil
	})
	if err != nil {
		return err
	}
	return e.print(func(w io.Writer) {
		table(w, []string{"COLLECTION", "MODEL", "MEMORY", "DOCUMENTS", "PASSAGES", "CHANGED"}, rows)
	}, all...)
}

// CollectionsShow shows one collection.
type CollectionsShow struct {
	Collection string `arg:""`
}

// Run prints its settings.
func (c *CollectionsShow) Run(ctx context.Context, e *Env) error {
	client, err := e.ingest()
	if err != nil {
		return err
	}
	r, err := client.GetCollection(ctx, &ingestv1.GetCollectionRequest{Name: collection(c.Collection)})
	if err != nil {
		return err
	}
	return e.print(func(w io.Writer) { printCollection(w, r) }, r)
}

func printCollection(w io.Writer, c *ingestv1.Collection) {
	rows := [][]string{
		{"name", c.Name}, {"model", c.Model}, {"memory", yes(c.Memory)}, {"memories kept as", kept(c)}, {"index", c.Index},
		{"passage tokens", fmt.Sprint(c.PassageTokens)}, {"documents", fmt.Sprint(c.DocumentCount)}, {"passages", fmt.Sprint(c.PassageCount)},
		{"created", stamp(c.CreateTime)}, {"changed", stamp(c.UpdateTime)},
	}
	if c.NextIndex != "" {
		rows = append(rows, []string{"building", c.NextIndex + " for " + c.NextModel})
	}
	table(w, []string{"FIELD", "VALUE"}, rows)
}

// CollectionsCreate creates a collection.
type CollectionsCreate struct {
	Collection  string `arg:"" help:"Lower-case letters, digits, - and _."`
	DisplayName string `help:"Name to show."`
	Model       string `help:"Model package to keep to; default: the active one, moving along with it."`
	Memories    string `help:"How memories are kept: fp16, int8 or int4; default: as ingest is set up to. collections compare shows what each costs." enum:",fp16,int8,int4" default:""`
}

// Run prints what was created.
func (c *CollectionsCreate) Run(ctx context.Context, e *Env) error {
	client, err := e.ingest()
	if err != nil {
		return err
	}
	r, err := client.CreateCollection(ctx, &ingestv1.CreateCollectionRequest{Collection: &ingestv1.Collection{
		Name: collection(c.Collection), DisplayName: c.DisplayName, Model: withPrefix("models/", c.Model), MemoryPrecision: precision(c.Memories),
	}})
	if err != nil {
		return err
	}
	return e.print(func(w io.Writer) { printCollection(w, r) }, r)
}

// CollectionsDelete deletes collections.
type CollectionsDelete struct {
	Collection []string `arg:""`
}

// Run prints a line a collection.
func (c *CollectionsDelete) Run(ctx context.Context, e *Env) error {
	client, err := e.ingest()
	if err != nil {
		return err
	}
	for _, n := range c.Collection {
		r, err := client.DeleteCollection(ctx, &ingestv1.DeleteCollectionRequest{Name: collection(n)})
		if err != nil {
			return err
		}
		if err := e.print(func(w io.Writer) { fmt.Fprintf(w, "deleted %s\n", collection(n)) }, r); err != nil {
			return err
		}
	}
	return nil
}

// Docs lists and manages documents.
type Docs struct {
	List      DocsList      `cmd:"" default:"withargs" help:"List the documents of a collection."`
	Show      DocsShow      `cmd:"" help:"Show a document; --markdown prints what was read from it."`
	Explain   DocsExplain   `cmd:"" help:"Say how a document was read, cut and indexed, and what is missing."`
	Delete    DocsDelete    `cmd:"" help:"Delete documents: they answer no question from then on."`
	Reprocess DocsReprocess `cmd:"" help:"Read, cut and index documents again."`
}

// DocsList lists documents.
type DocsList struct {
	Name       string `arg:"" optional:"" help:"Collection, in place of --collection." placeholder:"COLLECTION"`
	Collection string `help:"Collection." short:"c" env:"CLARA_COLLECTION" default:"default"`
}

// Run prints a row a document.
func (d *DocsList) Run(ctx context.Context, e *Env) error {
	parent := d.Collection
	if d.Name != "" {
		parent = d.Name
	}
	client, err := e.ingest()
	if err != nil {
		return err
	}
	var rows [][]string
	var all []proto.Message
	err = pages(ctx, func(token string) (string, error) {
		r, err := client.ListDocuments(ctx, &ingestv1.ListDocumentsRequest{Parent: collection(parent), PageToken: token})
		if err != nil {
			return "", err
		}
		for _, x := range r.Documents {
			all = append(all, x)
			rows = append(rows, []string{documentID(x.Name), x.File, x.Format, documentState(x.State), fmt.Sprint(x.PageCount), fmt.Sprint(x.PassageCount), size(x.SizeBytes), reason(x)})
		}
		return r.NextPageToken, nil
	})
	if err != nil {
		return err
	}
	return e.print(func(w io.Writer) {
		table(w, []string{"DOCUMENT", "FILE", "FORMAT", "STATE", "PAGES", "PASSAGES", "SIZE", "REASON"}, rows)
	}, all...)
}

// documentID turns collections/C/documents/D into C/D, which every command takes.
func documentID(name string) string {
	p := strings.Split(name, "/")
	if len(p) != 4 {
		return name
	}
	return p[1] + "/" + p[3]
}

func documentState(s ingestv1.Document_State) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "STATE_"))
}

func reason(d *ingestv1.Document) string {
	if d.Error != "" {
		return d.Error
	}
	if len(d.Problems) > 0 {
		more := ""
		if len(d.Problems) > 1 {
			more = fmt.Sprintf(" (and %d more)", len(d.Problems)-1)
		}
		return problem(d.Problems[0]) + more
	}
	return ""
}

func problem(p *ingestv1.Problem) string {
	if p.Page > 0 {
		return fmt.Sprintf("page %d: %s", p.Page, p.Reason)
	}
	return p.Reason
}

// DocsShow shows one document.
type DocsShow struct {
	Document string `arg:"" help:"COLLECTION/DOCUMENT, as docs list prints it."`
	Markdown bool   `help:"Print the text that was read."`
}

// Run prints its record or its Markdown.
func (d *DocsShow) Run(ctx context.Context, e *Env) error {
	client, err := e.ingest()
	if err != nil {
		return err
	}
	if d.Markdown {
		r, err := client.GetMarkdown(ctx, &ingestv1.GetMarkdownRequest{Name: document(d.Document)})
		if err != nil {
			return err
		}
		return e.print(func(w io.Writer) { fmt.Fprintln(w, r.Markdown) }, r)
	}
	r, err := client.GetDocument(ctx, &ingestv1.GetDocumentRequest{Name: document(d.Document)})
	if err != nil {
		return err
	}
	return e.print(func(w io.Writer) { printDocument(w, r) }, r)
}

func printDocument(w io.Writer, d *ingestv1.Document) {
	var readBy []string
	for how, n := range d.ReadBy {
		readBy = append(readBy, fmt.Sprintf("%d by %s", n, how))
	}
	sort.Strings(readBy)
	rows := [][]string{
		{"name", d.Name}, {"file", d.File}, {"from", d.Uri}, {"format", d.Format}, {"title", d.Title}, {"state", documentState(d.State)},
		{"size", size(d.SizeBytes)}, {"pages", fmt.Sprint(d.PageCount)}, {"pages read", strings.Join(readBy, ", ")}, {"passages", fmt.Sprint(d.PassageCount)},
		{"revision", fmt.Sprint(d.Revision)}, {"content", d.ContentHash}, {"index", placements(d)}, {"job", d.Job},
		{"taken in", stamp(d.CreateTime)}, {"changed", stamp(d.UpdateTime)},
	}
	if d.Error != "" {
		rows = append(rows, []string{"error", d.Error})
	}
	table(w, []string{"FIELD", "VALUE"}, rows)
	for _, p := range d.Problems {
		fmt.Fprintf(w, "missing: %s\n", problem(p))
	}
}

// DocsExplain shows how a document came to be what it is.
type DocsExplain struct {
	Document string `arg:"" help:"COLLECTION/DOCUMENT, as docs list prints it."`
}

// Run prints the record and one row a passage.
func (d *DocsExplain) Run(ctx context.Context, e *Env) error {
	client, err := e.ingest()
	if err != nil {
		return err
	}
	r, err := client.GetDocument(ctx, &ingestv1.GetDocumentRequest{Name: document(d.Document)})
	if err != nil {
		return err
	}
	all := []proto.Message{r}
	var rows [][]string
	err = pages(ctx, func(token string) (string, error) {
		p, err := client.ListPassages(ctx, &ingestv1.ListPassagesRequest{Parent: r.Name, PageToken: token})
		if err != nil {
			return "", err
		}
		for _, x := range p.Passages {
			all = append(all, x)
			rows = append(rows, []string{fmt.Sprint(x.Ordinal), strings.TrimPrefix(pageRange(x.PageFirst, x.PageLast), ", "), fmt.Sprint(x.Tokens), strings.Join(x.Headings, " > "), firstWords(x.Text, 60)})
		}
		return p.NextPageToken, nil
	})
	if err != nil {
		return err
	}
	return e.print(func(w io.Writer) {
		printDocument(w, r)
		fmt.Fprintln(w)
		table(w, []string{"PASSAGE", "PAGES", "TOKENS", "HEADINGS", "BEGINS"}, rows)
	}, all...)
}

func firstWords(s string, n int) string {
	s = strings.Join(strings.Fields(s), " ")
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n]) + "…"
}

// DocsDelete deletes documents.
type DocsDelete struct {
	Document []string `arg:"" help:"COLLECTION/DOCUMENT, as docs list prints it."`
}

// Run prints a line a document.
func (d *DocsDelete) Run(ctx context.Context, e *Env) error {
	client, err := e.ingest()
	if err != nil {
		return err
	}
	for _, n := range d.Document {
		r, err := client.DeleteDocument(ctx, &ingestv1.DeleteDocumentRequest{Name: document(n)})
		if err != nil {
			return err
		}
		if err := e.print(func(w io.Writer) { fmt.Fprintf(w, "deleted %s\n", document(n)) }, r); err != nil {
			return err
		}
	}
	return nil
}

// DocsReprocess reads documents again.
type DocsReprocess struct {
	Name     string `arg:"" help:"COLLECTION/DOCUMENT, or COLLECTION for all of its documents."`
	Password string `help:"Password of an encrypted file."`
	Detach   bool   `help:"Do not wait for the job."`
}

// Run starts a job and follows it.
func (d *DocsReprocess) Run(ctx context.Context, e *Env) error {
	client, err := e.ingest()
	if err != nil {
		return err
	}
	name := document(d.Name)
	if !strings.Contains(name, "/") {
		name = collection(name)
	}
	job, err := client.ReprocessDocument(ctx, &ingestv1.ReprocessDocumentRequest{Name: name, Password: d.Password})
	if err != nil {
		return err
	}
	return e.follow(ctx, job, d.Detach, nil)
}

// Jobs lists and steers jobs.
type Jobs struct {
	List   JobsList   `cmd:"" default:"1" help:"List jobs, newest first."`
	Show   JobsShow   `cmd:"" help:"Show a job and its items." aliases:"explain"`
	Watch  JobsWatch  `cmd:"" help:"Follow a job to its end."`
	Cancel JobsCancel `cmd:"" help:"Stop a job."`
	Retry  JobsRetry  `cmd:"" help:"Do again what failed in a job."`
}

// JobsList lists jobs.
type JobsList struct {
	Type  string `help:"Only this type."`
	Limit int    `help:"How many." default:"50"`
}

// Run prints a row a job.
func (j *JobsList) Run(ctx context.Context, e *Env) error {
	client, err := e.jobs()
	if err != nil {
		return err
	}
	r, err := client.ListJobs(ctx, &jobv1.ListJobsRequest{Type: j.Type, PageSize: int32(j.Limit)})
	if err != nil {
		return err
	}
	var rows [][]string
	var all []proto.Message
	for _, x := range r.Jobs {
		all = append(all, x)
		rows = append(rows, []string{short(x.Name), x.Type, short(x.Target), jobState(x.State), done(x.Progress), age(x.CreateTime), x.Error})
	}
	return e.print(func(w io.Writer) {
		table(w, []string{"JOB", "TYPE", "TARGET", "STATE", "DONE", "AGE", "ERROR"}, rows)
	}, all...)
}

// JobsShow shows one job.
type JobsShow struct {
	Job string `arg:""`
}

// Run prints the job and its items.
func (j *JobsShow) Run(ctx context.Context, e *Env) error {
	client, err := e.jobs()
	if err != nil {
		return err
	}
	r, err := client.GetJob(ctx, &jobv1.GetJobRequest{Name: withPrefix("jobs/", j.Job)})
	if err != nil {
		return err
	}
	return e.print(func(w io.Writer) { printJob(w, r) }, r)
}

func printJob(w io.Writer, j *jobv1.Job) {
	rows := [][]string{
		{"name", j.Name}, {"type", j.Type}, {"target", j.Target}, {"state", jobState(j.State)}, {"done", done(j.Progress)}, {"detail", j.Detail},
		{"attempt", fmt.Sprint(j.Attempt)}, {"created", stamp(j.CreateTime)}, {"ended", stamp(j.EndTime)},
	}
	if j.Error != "" {
		rows = append(rows, []string{"error", j.Error})
	}
	table(w, []string{"FIELD", "VALUE"}, rows)
	if len(j.Items) > 0 {
		fmt.Fprintln(w)
		itemTable(w, j, nil)
	}
}

// JobsWatch follows a job.
type JobsWatch struct {
	Job string `arg:""`
}

// Run shows progress until the job has ended.
func (j *JobsWatch) Run(ctx context.Context, e *Env) error {
	return e.follow(ctx, &jobv1.Job{Name: withPrefix("jobs/", j.Job)}, false, nil)
}

// JobsCancel stops a job.
type JobsCancel struct {
	Job string `arg:""`
}

// Run prints the job's state.
func (j *JobsCancel) Run(ctx context.Context, e *Env) error {
	client, err := e.jobs()
	if err != nil {
		return err
	}
	r, err := client.CancelJob(ctx, &jobv1.CancelJobRequest{Name: withPrefix("jobs/", j.Job)})
	if err != nil {
		return err
	}
	return e.print(func(w io.Writer) {
		if r.EndTime == nil {
			fmt.Fprintf(w, "%s is stopping\n", r.Name)
			return
		}
		fmt.Fprintf(w, "%s: %s\n", r.Name, jobState(r.State))
	}, r)
}

// JobsRetry does again what failed.
type JobsRetry struct {
	Job    string `arg:""`
	Detach bool   `help:"Do not wait for the job."`
}

// Run starts the job again and follows it.
func (j *JobsRetry) Run(ctx context.Context, e *Env) error {
	client, err := e.jobs()
	if err != nil {
		return err
	}
	r, err := client.RetryJob(ctx, &jobv1.RetryJobRequest{Name: withPrefix("jobs/", j.Job)})
	if err != nil {
		return err
	}
	return e.follow(ctx, r, j.Detach, nil)
}

// Models lists and manages model packages.
type Models struct {
	List     ModelsList     `cmd:"" default:"1" help:"List model packages."`
	Show     ModelsShow     `cmd:"" help:"Show a model package."`
	Import   ModelsImport   `cmd:"" help:"Make a package from a Hugging Face folder or GGUF file, with or without a CLaRa checkpoint."`
	Verify   ModelsVerify   `cmd:"" help:"Compare a package's precisions with float32: memories and greedy tokens."`
	Pull     ModelsPull     `cmd:"" help:"Fetch the example base model and make a package of it."`
	Pack     ModelsPack     `cmd:"" help:"Write a checkpoint's adapters to send around: in half precision, without what the base has."`
	Activate ModelsActivate `cmd:"" help:"Move collections over to a package."`
	Delete   ModelsDelete   `cmd:"" help:"Delete packages that nothing uses."`
}

// ModelsList lists packages.
type ModelsList struct{}

// Run prints a row a package.
func (ModelsList) Run(ctx context.Context, e *Env) error {
	client, err := e.models()
	if err != nil {
		return err
	}
	var rows [][]string
	var all []proto.Message
	err = pages(ctx, func(token string) (string, error) {
		r, err := client.ListModels(ctx, &modelv1.ListModelsRequest{PageToken: token})
		if err != nil {
			return "", err
		}
		for _, m := range r.Models {
			all = append(all, m)
			rows = append(rows, []string{short(m.Name), yes(m.Active), m.Family, count(m.Parameters), fmt.Sprint(m.MemoryTokens), strings.Join(m.Adapters, ","), precisions(m), size(m.SizeBytes), age(m.CreateTime)})
		}
		return r.NextPageToken, nil
	})
	if err != nil {
		return err
	}
	return e.print(func(w io.Writer) {
		table(w, []string{"MODEL", "ACTIVE", "FAMILY", "PARAMETERS", "M", "ADAPTERS", "PRECISION", "SIZE", "AGE"}, rows)
	}, all...)
}

// ModelsShow shows one package.
type ModelsShow struct {
	Model string `arg:"" help:"Model, or active."`
}

// Run prints its manifest's main facts.
func (m *ModelsShow) Run(ctx context.Context, e *Env) error {
	client, err := e.models()
	if err != nil {
		return err
	}
	r, err := client.GetModel(ctx, &modelv1.GetModelRequest{Name: withPrefix("models/", m.Model)})
	if err != nil {
		return err
	}
	return e.print(func(w io.Writer) {
		rows := [][]string{
			{"name", r.Name}, {"active", yes(r.Active)}, {"family", r.Family}, {"source", r.Source}, {"parameters", count(r.Parameters)},
			{"hidden size (H)", fmt.Sprint(r.Hidden)}, {"context tokens", fmt.Sprint(r.ContextLength)},
		}
		if len(r.Adapters) == 0 {
			rows = append(rows, []string{"adapters", "none: passages are read as text, found by words"})
		} else {
			rows = append(rows, [][]string{
				{"adapters", strings.Join(r.Adapters, ", ")}, {"memory tokens (m)", fmt.Sprint(r.MemoryTokens)}, {"document tokens", fmt.Sprint(r.DocMaxLength)},
				{"compress rate", fmt.Sprint(r.CompressRate)}, {"passages read (k)", fmt.Sprint(r.GenerationTopK)}, {"encoder", r.EncoderHash},
			}...)
		}
		rows = append(rows, []string{"precision", precisions(r)})
		table(w, []string{"FIELD", "VALUE"}, append(rows, [][]string{
			{"size", size(r.SizeBytes)}, {"digest", r.Digest}, {"base", r.BaseHash}, {"tokenizer", r.TokenizerHash}, {"created", stamp(r.CreateTime)},
		}...))
	}, r)
}

// precisions is what the model's roles run in: one word if all run in the same.
func precisions(m *modelv1.Model) string {
	all := map[string]bool{}
	var list []string
	for _, x := range [][2]string{{"encoder", "encoder"}, {"query_reasoner", "reasoner"}, {"decoder", "generator"}} {
		if p := m.Precisions[x[0]]; p != "" {
			all[p] = true
			list = append(list, x[1]+"="+p)
		}
	}
	if len(all) > 1 {
		return strings.Join(list, ",")
	}
	if p := m.Precisions["base"]; p != "" {
		return p
	}
	return "fp32"
}

// ModelsImport makes a package.
type ModelsImport struct {
	Base         string `arg:"" optional:"" help:"Hugging Face folder, GGUF file or hub id; not needed if the checkpoint names one." placeholder:"BASE"`
	Checkpoint   string `help:"CLaRa checkpoint folder." placeholder:"DIR"`
	Name         string `help:"Name of the package; default: from the source."`
	BaseOverride string `name:"base" help:"Base to use instead of the checkpoint's decoder_model_name." placeholder:"BASE"`
	CompressRate int32  `help:"Must agree with the checkpoint's."`
	Precision    string `help:"fp32, int8, int4, int8-f32 or int4-f32 (bf16 or fp16 with CUDA), which is the generator's, or by role: encoder=fp32,reasoner=fp32,generator=int4, all=int4-f32. Default: a quantised GGUF's own blocks, exactly, else fp32." placeholder:"PRECISION"`
	Quantize     string `help:"How floats become blocks of 4 bits: rtn, each to the nearest, or gptq, by what the model meets in a text; takes minutes." enum:"rtn,gptq" default:"rtn"`
	Calibrate    string `help:"With --quantize gptq: text like what the model will read, of which 256 KiB are taken; default: texts of several kinds." placeholder:"FILE" type:"existingfile"`
	Activate     bool   `help:"Activate it as well."`
	Detach       bool   `help:"Do not wait for the job."`
}

// Run starts the import and follows it.
func (m *ModelsImport) Run(ctx context.Context, e *Env) error {
	base := m.Base
	if m.BaseOverride != "" {
		base = m.BaseOverride
	}
	text, err := m.calibration()
	if err != nil {
		return err
	}
	return e.importModel(ctx, &modelv1.ImportModelRequest{Model: m.Name, Base: absolute(base), Checkpoint: absolute(m.Checkpoint), Activate: m.Activate, CompressRate: m.CompressRate,
		Precision: m.Precision, Rounding: m.Quantize, Calibration: text}, m.Detach)
}

// calibration reads as much of the calibration text as is taken, up to a whole character.
func (m *ModelsImport) calibration() (string, error) {
	if m.Calibrate == "" {
		return "", nil
	}
	if m.Quantize != "gptq" {
		return "", clara.Errorf(clara.Invalid, "--calibrate is for --quantize gptq")
	}
	f, err := os.Open(m.Calibrate)
	if err != nil {
		return "", clara.Errorf(clara.NotFound, "open calibration text: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, 256<<10))
	if err != nil {
		return "", clara.Errorf(clara.Unavailable, "read calibration text: %w", err)
	}
	text := strings.ToValidUTF8(string(raw), "")
	if len(text) < len(raw)-utf8.UTFMax { // the last character may be cut
		return "", clara.Errorf(clara.Invalid, "calibration text %s is not UTF-8", m.Calibrate)
	}
	return text, nil
}

func (e *Env) importModel(ctx context.Context, req *modelv1.ImportModelRequest, detach bool) error {
	client, err := e.models()
	if err != nil {
		return err
	}
	job, err := client.ImportModel(ctx, req)
	if err != nil {
		return err
	}
	return e.follow(ctx, job, detach, nil)
}

// ModelsActivate activates a package.
type ModelsActivate struct {
	Model      string   `arg:""`
	Collection []string `help:"Only these collections; default: all, and new ones from now on." short:"c"`
	Detach     bool     `help:"Do not wait for the job."`
}

// Run starts the move and follows it.
func (m *ModelsActivate) Run(ctx context.Context, e *Env) error {
	client, err := e.models()
	if err != nil {
		return err
	}
	req := &modelv1.ActivateModelRequest{Name: withPrefix("models/", m.Model)}
	for _, c := range m.Collection {
		req.Collections = append(req.Collections, collection(c))
	}
	job, err := client.ActivateModel(ctx, req)
	if err != nil {
		return err
	}
	return e.follow(ctx, job, m.Detach, nil)
}

// ModelsDelete deletes packages.
type ModelsDelete struct {
	Model []string `arg:""`
}

// Run prints a line a package.
func (m *ModelsDelete) Run(ctx context.Context, e *Env) error {
	client, err := e.models()
	if err != nil {
		return err
	}
	for _, n := range m.Model {
		r, err := client.DeleteModel(ctx, &modelv1.DeleteModelRequest{Name: withPrefix("models/", n)})
		if err != nil {
			return err
		}
		if err := e.print(func(w io.Writer) { fmt.Fprintf(w, "deleted %s\n", withPrefix("models/", n)) }, r); err != nil {
			return err
		}
	}
	return nil
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func stamp(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Local().Format(time.DateTime)
}

func age(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	switch d := time.Since(t.AsTime()); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

func size(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	v, u := float64(n), 0
	for v >= 1000 && u < len(units)-1 {
		v, u = v/1000, u+1
	}
	if u == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[u])
}

func count(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f B", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f M", float64(n)/1e6)
	}
	return fmt.Sprint(n)
}

// placements names the indexes that hold a document.
func placements(d *ingestv1.Document) string {
	var s []string
	for _, p := range d.Placements {
		state := "waiting"
		switch {
		case p.Indexed:
			state = "searchable"
		case p.Error != "":
			state = p.Error
		}
		s = append(s, fmt.Sprintf("%s (%d passages, %s)", p.Index, p.Passages, state))
	}
	return strings.Join(s, "; ")
}
