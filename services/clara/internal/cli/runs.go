package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/trainplan"
	trainerv1 "github.com/clara-suite/clara/proto/gen/clara/trainer/v1"
	"github.com/clara-suite/clara/proto/gen/clara/trainer/v1/trainerv1connect"
)

// Runs lists and steers training runs.
type Runs struct {
	List    RunsList    `cmd:"" default:"1" help:"List runs, newest first."`
	Show    RunsShow    `cmd:"" help:"Show a run, its checkpoints and the last lines of its log."`
	Watch   RunsWatch   `cmd:"" help:"Follow a run to its end."`
	Plot    RunsPlot    `cmd:"" help:"Draw the loss of runs as SVG or PNG."`
	Compare RunsCompare `cmd:"" help:"Show what differs between runs, and how they went."`
	Stop    RunsStop    `cmd:"" help:"Let a run save and leave."`
	Resume  RunsResume  `cmd:"" help:"Go on with a run that was stopped or has failed."`
	Export  RunsExport  `cmd:"" help:"Make a model package of a run's checkpoint."`
}

func runState(s trainerv1.Run_State) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "STATE_"))
}

// at is the stage that a run is at.
func at(r *trainerv1.Run) *trainerv1.Stage {
	if int(r.Stage) < len(r.Stages) {
		return r.Stages[r.Stage]
	}
	return &trainerv1.Stage{}
}

// run finds a run by its id, the beginning of one, or its display name: of several of one name the newest.
func (e *Env) run(ctx context.Context, client trainerv1connect.TrainerServiceClient, name string) (*trainerv1.Run, error) {
	r, err := client.GetRun(ctx, &trainerv1.GetRunRequest{Name: withPrefix("runs/", name)})
	if clara.KindOf(err) != clara.NotFound && clara.KindOf(err) != clara.Invalid || err == nil {
		return r, err
	}
	var found []*trainerv1.Run
	notFound := err
	err = pages(ctx, func(token string) (string, error) {
		page, err := client.ListRuns(ctx, &trainerv1.ListRunsRequest{PageToken: token})
		if err != nil {
			return "", err
		}
		for _, r := range page.Runs {
			if r.DisplayName == name {
				found = append(found, r)
			}
		}
		if len(found) == 0 {
			for _, r := range page.Runs {
				if strings.HasPrefix(short(r.Name), name) {
					found = append(found, r)
				}
			}
		}
		return page.NextPageToken, nil
	})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, notFound
	}
	return found[0], nil
}

// RunsList lists runs.
type RunsList struct{}

// Run prints a table.
func (RunsList) Run(ctx context.Context, e *Env) error {
	client, err := e.trainer()
	if err != nil {
		return err
	}
	var rows [][]string
	err = pages(ctx, func(token string) (string, error) {
		page, err := client.ListRuns(ctx, &trainerv1.ListRunsRequest{PageToken: token})
		if err != nil {
			return "", err
		}
		for _, r := range page.Runs {
			if e.JSON {
				if err := e.print(nil, r); err != nil {
					return "", err
				}
			}
			s := at(r)
			loss := ""
			if s.Metrics != nil {
				loss = fmt.Sprintf("%.4f", s.Metrics.Loss)
			}
			rows = append(rows, []string{short(r.Name), r.DisplayName, runState(r.State), fmt.Sprintf("%s (%d of %d)", s.Stage, r.Stage+1, len(r.Stages)),
				fmt.Sprintf("%d/%d", s.GetMetrics().GetStep(), max(s.GetMetrics().GetSteps(), s.GetSummary().GetSteps())), loss, age(r.CreateTime)})
		}
		return page.NextPageToken, nil
	})
	if err != nil || e.JSON {
		return err
	}
	table(e.Out, []string{"RUN", "NAME", "STATE", "STAGE", "STEP", "LOSS", "STARTED"}, rows)
	return nil
}

// RunsShow shows one run.
type RunsShow struct {
	RunID string `arg:"" name:"run" help:"Id, its beginning, or name."`
}

// Run prints what is known of it.
func (c *RunsShow) Run(ctx context.Context, e *Env) error {
	client, err := e.trainer()
	if err != nil {
		return err
	}
	r, err := e.run(ctx, client, c.RunID)
	if err != nil {
		return err
	}
	list, err := client.ListCheckpoints(ctx, &trainerv1.ListCheckpointsRequest{Parent: r.Name})
	if err != nil {
		return err
	}
	return e.print(func(w io.Writer) {
		fmt.Fprintf(w, "%s (%s): %s\n", r.Name, r.DisplayName, runState(r.State))
		if r.Error != "" {
			fmt.Fprintf(w, "  %s\n", r.Error)
		}
		for _, s := range r.Stages {
			fmt.Fprintf(w, "\n%s: %s\n", s.Stage, runState(s.State))
			showSummary(w, s)
			if p := s.Metrics; p != nil {
				fmt.Fprintf(w, "  %-14s %d of %d, loss %.4f, %.0f tokens/s%s\n", "last step", p.Step, p.Steps, p.Loss, p.TokensPerSecond, shares(p.Share))
				fmt.Fprintf(w, "  %-14s %s at most\n", "memory used", trainplan.Bytes(p.MemoryPeak))
			}
			if v := s.Evaluation; v != nil {
				fmt.Fprintf(w, "  %-14s loss %.4f over %d samples at step %d\n", "evaluation", v.Loss, v.Samples, v.Step)
			}
			fmt.Fprintf(w, "  %-14s %s\n  %-14s %s\n", "result", s.SavePath, "folder", s.RunDir)
		}
		if len(list.Checkpoints) > 0 {
			fmt.Fprintln(w)
			var rows [][]string
			for _, x := range list.Checkpoints {
				rows = append(rows, []string{x.Stage, fmt.Sprint(x.Step), yes(x.Final), fmt.Sprintf("%.1f MB", float64(x.SizeBytes)/1e6), age(x.CreateTime), x.Path})
			}
			table(w, []string{"CHECKPOINT", "STEP", "FINISHED", "SIZE", "WRITTEN", "PATH"}, rows)
		}
		if len(r.Log) > 0 {
			fmt.Fprintf(w, "\nlast lines of the log:\n  %s\n", strings.Join(r.Log, "\n  "))
		}
	}, r, list)
}

// RunsWatch follows a run.
type RunsWatch struct {
	RunID string `arg:"" name:"run" help:"Id, its beginning, or name."`
}

// Run follows it.
func (c *RunsWatch) Run(ctx context.Context, e *Env) error {
	client, err := e.trainer()
	if err != nil {
		return err
	}
	r, err := e.run(ctx, client, c.RunID)
	if err != nil {
		return err
	}
	return e.followRun(ctx, client, r.Name)
}

// RunsStop stops a run.
type RunsStop struct {
	RunID  string `arg:"" name:"run" help:"Id, its beginning, or name."`
	Detach bool   `help:"Do not wait until it has saved."`
}

// Run asks and waits.
func (c *RunsStop) Run(ctx context.Context, e *Env) error {
	client, err := e.trainer()
	if err != nil {
		return err
	}
	r, err := e.run(ctx, client, c.RunID)
	if err != nil {
		return err
	}
	if r, err = client.StopRun(ctx, &trainerv1.StopRunRequest{Name: r.Name}); err != nil {
		return err
	}
	if !c.Detach {
		stream, err := client.WatchRun(ctx, &trainerv1.WatchRunRequest{Name: r.Name})
		if err != nil {
			return err
		}
		defer stream.Close()
		for stream.Receive() {
			r = stream.Msg().Run
		}
		if err := stream.Err(); err != nil {
			return err
		}
	}
	return e.print(func(w io.Writer) { fmt.Fprintf(w, "%s: %s\n", r.Name, runState(r.State)) }, r)
}

// RunsResume resumes a run.
type RunsResume struct {
	RunID  string `arg:"" name:"run" help:"Id, its beginning, or name."`
	Detach bool   `help:"Do not follow it."`
}

// Run resumes and follows it.
func (c *RunsResume) Run(ctx context.Context, e *Env) error {
	client, err := e.trainer()
	if err != nil {
		return err
	}
	r, err := e.run(ctx, client, c.RunID)
	if err != nil {
		return err
	}
	if r, err = client.ResumeRun(ctx, &trainerv1.ResumeRunRequest{Name: r.Name}); err != nil {
		return err
	}
	if c.Detach {
		return e.print(func(w io.Writer) { fmt.Fprintf(w, "%s goes on\n", r.Name) }, r)
	}
	return e.followRun(ctx, client, r.Name)
}

// RunsExport makes a package.
type RunsExport struct {
	RunID      string `arg:"" name:"run" help:"Id, its beginning, or name."`
	Checkpoint string `help:"Path of one of its checkpoints; default: the last." placeholder:"DIR"`
	Name       string `help:"Name of the package; default: the run's."`
	Base       string `help:"Base to use instead of the checkpoint's decoder_model_name." placeholder:"BASE"`
	Activate   bool   `help:"Activate it as well."`
	Detach     bool   `help:"Do not wait for the job."`
}

// Run exports and follows the job.
func (c *RunsExport) Run(ctx context.Context, e *Env) error {
	client, err := e.trainer()
	if err != nil {
		return err
	}
	r, err := e.run(ctx, client, c.RunID)
	if err != nil {
		return err
	}
	job, err := client.ExportModel(ctx, &trainerv1.ExportModelRequest{Name: r.Name, Checkpoint: absolute(c.Checkpoint), Model: c.Name, Base: absolute(c.Base), Activate: c.Activate})
	if err != nil {
		return err
	}
	return e.follow(ctx, job, c.Detach, nil)
}

// series are the losses of a stage of a run, by step.
func (e *Env) series(ctx context.Context, client trainerv1connect.TrainerServiceClient, r *trainerv1.Run) ([]Series, error) {
	stream, err := client.ListMetrics(ctx, &trainerv1.ListMetricsRequest{Name: r.Name})
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	out := make([]Series, len(r.Stages))
	for i, s := range r.Stages {
		out[i].Label = r.DisplayName
		if len(r.Stages) > 1 {
			out[i].Label += " " + s.Stage
		}
	}
	for stream.Receive() {
		m := stream.Msg()
		if int(m.Stage) < len(out) {
			s := &out[m.Stage]
			s.X, s.Y = append(s.X, float64(m.Metrics.Step)), append(s.Y, m.Metrics.Loss)
		}
	}
	return slices.DeleteFunc(out, func(s Series) bool { return len(s.X) == 0 }), stream.Err()
}

// RunsPlot draws losses.
type RunsPlot struct {
	Runs   []string `arg:"" name:"run" help:"Ids, their beginnings, or names."`
	Out    string   `short:"o" help:"File to write, .svg or .png." default:"loss.svg" placeholder:"FILE"`
	Smooth float64  `help:"Weight of the past in the smoothed line, 0 to 1." default:"0.9"`
	Log    bool     `help:"Logarithmic loss."`
}

// Run writes the picture.
func (c *RunsPlot) Run(ctx context.Context, e *Env) error {
	if c.Smooth < 0 || c.Smooth >= 1 {
		return clara.Errorf(clara.Invalid, "smooth is %g: at least 0 and below 1", c.Smooth)
	}
	client, err := e.trainer()
	if err != nil {
		return err
	}
	plot := Plot{Title: "Loss", X: "step", Smooth: c.Smooth, Log: c.Log}
	for _, name := range c.Runs {
		r, err := e.run(ctx, client, name)
		if err != nil {
			return err
		}
		series, err := e.series(ctx, client, r)
		if err != nil {
			return err
		}
		plot.Series = append(plot.Series, series...)
	}
	if len(plot.Series) == 0 {
		return clara.Errorf(clara.State, "nothing to draw: no step was made yet")
	}
	var data []byte
	switch ext := strings.ToLower(filepath.Ext(c.Out)); ext {
	case ".svg":
		data = plot.SVG()
	case ".png":
		if data, err = plot.PNG(); err != nil {
			return err
		}
	default:
		return clara.Errorf(clara.Invalid, "file %s: give a name that ends in .svg or .png", c.Out)
	}
	if err := os.WriteFile(c.Out, data, 0o644); err != nil {
		return clara.Errorf(clara.Invalid, "write plot: %w", err)
	}
	fmt.Fprintln(e.Err, "wrote", c.Out)
	return nil
}

// RunsCompare compares runs.
type RunsCompare struct {
	Runs []string `arg:"" name:"run" help:"Ids, their beginnings, or names; two or more."`
}

// Run prints settings that differ, then figures.
func (c *RunsCompare) Run(ctx context.Context, e *Env) error {
	client, err := e.trainer()
	if err != nil {
		return err
	}
	var runs []*trainerv1.Run
	for _, name := range c.Runs {
		r, err := e.run(ctx, client, name)
		if err != nil {
			return err
		}
		runs = append(runs, r)
	}
	if e.JSON {
		for _, r := range runs {
			if err := e.print(nil, r); err != nil {
				return err
			}
		}
		return nil
	}
	header := []string{""}
	for _, r := range runs {
		header = append(header, r.DisplayName+" "+short(r.Name)[:min(8, len(short(r.Name)))])
	}
	rows, err := differences(runs)
	if err != nil {
		return err
	}
	figure := func(name string, of func(*trainerv1.Stage) string) {
		row := []string{name}
		for _, r := range runs {
			row = append(row, of(at(r)))
		}
		rows = append(rows, row)
	}
	figure("state", func(s *trainerv1.Stage) string { return s.Stage + " " + runState(s.State) })
	figure("step", func(s *trainerv1.Stage) string { return fmt.Sprint(s.GetMetrics().GetStep()) })
	figure("loss", func(s *trainerv1.Stage) string { return fmt.Sprintf("%.4f", s.GetMetrics().GetLoss()) })
	figure("evaluation loss", func(s *trainerv1.Stage) string {
		if s.Evaluation == nil {
			return ""
		}
		return fmt.Sprintf("%.4f", s.Evaluation.Loss)
	})
	figure("tokens/s", func(s *trainerv1.Stage) string { return fmt.Sprintf("%.0f", s.GetMetrics().GetTokensPerSecond()) })
	figure("peak memory", func(s *trainerv1.Stage) string {
		return fmt.Sprintf("%.2f GB", float64(s.GetMetrics().GetMemoryPeak())/1e9)
	})
	table(e.Out, header, rows)
	return nil
}

// differences are the settings, of the stages that the runs are at, that are not the same in all of them.
func differences(runs []*trainerv1.Run) ([][]string, error) {
	plans := make([]map[string]json.RawMessage, len(runs))
	names := map[string]bool{}
	for i, r := range runs {
		if err := json.Unmarshal([]byte(at(r).Plan), &plans[i]); err != nil {
			return nil, clara.Errorf(clara.Corrupt, "plan of %s: %w", r.Name, err)
		}
		for n := range plans[i] {
			names[n] = true
		}
	}
	var rows [][]string
	for n := range names {
		row, same := []string{n}, true
		for i := range plans {
			row = append(row, string(plans[i][n]))
			same = same && row[len(row)-1] == row[1]
		}
		if !same {
			rows = append(rows, row)
		}
	}
	slices.SortFunc(rows, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	return rows, nil
}
