package cli

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/clara-suite/clara/libs/clara"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
)

// failure is an item that never reached a service.
type failure struct{ label, reason string }

// follow shows a job's progress until it has ended, then what became of its items. It returns an error if the
// job failed, so that scripts see it; a job that was done in part is told in the table, with exit status 3.
func (e *Env) follow(ctx context.Context, job *jobv1.Job, detach bool, local []failure) error {
	if detach {
		return e.print(func(w io.Writer) {
			fmt.Fprintf(w, "%s started; follow it with: clara jobs watch %s\n", job.Name, short(job.Name))
		}, job)
	}
	client, err := e.jobs()
	if err != nil {
		return err
	}
	stream, err := client.WatchJob(ctx, &jobv1.WatchJobRequest{Name: job.Name})
	if err != nil {
		return err
	}
	defer stream.Close()
	show := newProgress(e.Err, e.JSON)
	for stream.Receive() {
		job = stream.Msg()
		show.update(job)
	}
	show.end()
	if err := stream.Err(); err != nil {
		if ctx.Err() != nil {
			fmt.Fprintf(e.Err, "%s goes on; stop it with: clara jobs cancel %s\n", job.Name, short(job.Name))
		}
		return err
	}
	local = untold(job, local)
	if err := e.print(func(w io.Writer) { summary(w, job, local) }, job); err != nil {
		return err
	}
	switch {
	case job.State == jobv1.Job_STATE_FAILED:
		return clara.Errorf(clara.Internal, "%s failed: %s", job.Name, job.Error)
	case job.State == jobv1.Job_STATE_CANCELLED:
		return clara.Errorf(clara.Conflict, "%s was cancelled", job.Name)
	case job.State == jobv1.Job_STATE_PARTIAL || len(local) > 0:
		return ErrPartial
	}
	return nil
}

// untold leaves out what is an item of the job already: a file that the service refused.
func untold(j *jobv1.Job, local []failure) []failure {
	known := map[string]bool{}
	for _, i := range j.Items {
		known[i.Label] = true
	}
	var out []failure
	for _, f := range local {
		if !known[f.label] {
			out = append(out, f)
		}
	}
	return out
}

// ErrPartial says that some items of a job failed or were done in part; the table has said which.
var ErrPartial = clara.Errorf(clara.State, "done in part")

func jobState(s jobv1.Job_State) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "STATE_"))
}

func done(p *jobv1.Progress) string {
	switch {
	case p == nil, p.Total == 0 && p.Done == 0: // nothing is known yet
		return ""
	case p.Total == 0:
		return fmt.Sprintf("%d %s", p.Done, p.Unit)
	}
	return fmt.Sprintf("%d of %d %s", p.Done, p.Total, p.Unit)
}

func summary(w io.Writer, j *jobv1.Job, local []failure) {
	if len(j.Items) > 0 || len(local) > 0 {
		itemTable(w, j, local)
		fmt.Fprintln(w)
	}
	// The first time counts from when the user asked, with the uploads; a retry counts from its own start.
	took, begin := "", j.CreateTime
	if j.Attempt > 1 {
		begin = j.StartTime
	}
	if begin != nil && j.EndTime != nil {
		took = fmt.Sprintf(" in %.1f s", j.EndTime.AsTime().Sub(begin.AsTime()).Seconds())
	}
	if j.ItemCount > 0 || len(local) > 0 {
		fmt.Fprintf(w, "%s: %d done, %d in part, %d failed%s\n", j.Name, j.DoneCount, j.PartialCount, j.FailedCount+int64(len(local)), took)
		return
	}
	detail := ""
	if j.Detail != "" {
		detail = ": " + j.Detail
	}
	fmt.Fprintf(w, "%s %s%s%s\n", j.Name, jobState(j.State), took, detail)
}

// itemTable lists a job's items: what was done, in part, and failed, with the reason for each.
func itemTable(w io.Writer, j *jobv1.Job, local []failure) {
	what, unit := "FILE", "passages"
	if j.Type == "activate" {
		what, unit = "COLLECTION", "documents"
	}
	var rows [][]string
	for _, i := range j.Items {
		rows = append(rows, []string{i.Label, itemState(i.State), bare(i.Progress, unit), i.Error})
	}
	for _, f := range local {
		rows = append(rows, []string{f.label, "failed", "", f.reason})
	}
	table(w, []string{what, "RESULT", strings.ToUpper(unit), "REASON"}, rows)
	if n := j.ItemCount - int64(len(j.Items)); n > 0 {
		fmt.Fprintf(w, "and %d more; clara jobs show %s --json has all that are kept\n", n, short(j.Name))
	}
}

// bare is an item's progress under a heading that names the unit already.
func bare(p *jobv1.Progress, unit string) string {
	switch {
	case p == nil, p.Total == 0 && p.Done == 0:
		return ""
	case p.Unit != unit:
		return done(p)
	case p.Total == 0 || p.Done == p.Total:
		return fmt.Sprint(p.Done)
	}
	return fmt.Sprintf("%d of %d", p.Done, p.Total)
}

func itemState(s jobv1.Job_State) string {
	switch s {
	case jobv1.Job_STATE_SUCCEEDED:
		return "done"
	case jobv1.Job_STATE_PARTIAL:
		return "in part"
	}
	return jobState(s)
}

// progress draws a job: on a terminal a block that is redrawn, elsewhere a line for each item that ends.
type progress struct {
	w        io.Writer
	width    int
	terminal bool
	silent   bool
	lines    int             // drawn and to be overwritten
	said     map[string]bool // items already told, without a terminal
	last     time.Time
	line     string
}

func newProgress(w io.Writer, silent bool) *progress {
	width, terminal := isTerminal(w)
	return &progress{w: w, width: width, terminal: terminal, silent: silent, said: map[string]bool{}}
}

func (p *progress) update(j *jobv1.Job) {
	if p.silent {
		return
	}
	if !p.terminal {
		p.tell(j)
		return
	}
	var lines []string
	for _, i := range j.Items {
		if i.State == jobv1.Job_STATE_RUNNING && len(lines) < 8 {
			lines = append(lines, fmt.Sprintf("  %s %-12s %s", pad(clip(filepath.Base(i.Label), 32), 32), i.Stage, pace(i.Progress)))
		}
	}
	lines = append(lines, fmt.Sprintf("%s %s %s", bar(j.Progress, 24), jobState(j.State), pace(j.Progress)))
	p.clear()
	for _, l := range lines {
		fmt.Fprintln(p.w, clip(oneLine(l), p.width-1))
	}
	p.lines = len(lines)
}

// tell writes a line for every item that has ended since the last call, and every two seconds at most, where the job is now.
func (p *progress) tell(j *jobv1.Job) {
	for _, i := range j.Items {
		switch i.State {
		case jobv1.Job_STATE_SUCCEEDED, jobv1.Job_STATE_PARTIAL, jobv1.Job_STATE_FAILED, jobv1.Job_STATE_CANCELLED:
			key := i.Name + "\x00" + i.Label
			if !p.said[key] {
				p.said[key] = true
				fmt.Fprintln(p.w, oneLine(i.Label+": "+itemState(i.State)+colon(i.Error)))
			}
		case jobv1.Job_STATE_UNSPECIFIED, jobv1.Job_STATE_PENDING, jobv1.Job_STATE_RUNNING:
		}
	}
	line := pace(j.Progress)
	for _, i := range j.Items {
		if i.State == jobv1.Job_STATE_RUNNING {
			line = joined("; ", line, i.Label+colon(joined(", ", i.Stage, pace(i.Progress))))
			break
		}
	}
	if now := time.Now(); now.Sub(p.last) >= 2*time.Second && j.EndTime == nil && line != "" && line != p.line {
		p.last, p.line = now, line
		fmt.Fprintln(p.w, oneLine(jobState(j.State)+": "+line))
	}
}

func colon(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

func (p *progress) clear() {
	for ; p.lines > 0; p.lines-- {
		fmt.Fprint(p.w, "\x1b[1A\x1b[2K")
	}
}

func (p *progress) end() {
	if p.terminal {
		p.clear()
	}
}

func bar(p *jobv1.Progress, width int) string {
	full := 0
	if p.GetTotal() > 0 {
		full = int(int64(width) * min(p.Done, p.Total) / p.Total)
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "]"
}

// pace says how far, how fast and how long still.
func pace(p *jobv1.Progress) string {
	if p == nil {
		return ""
	}
	rate, left := "", ""
	if p.Rate > 0 {
		rate = fmt.Sprintf("%.1f/s", p.Rate)
	}
	if p.RemainingSeconds > 0 {
		left = (time.Duration(p.RemainingSeconds) * time.Second).String() + " left"
	}
	return joined(", ", p.Stage, done(p), rate, left)
}

// joined puts sep between the parts that say something.
func joined(sep string, parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), sep)
}
