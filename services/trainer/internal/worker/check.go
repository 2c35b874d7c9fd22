package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/trainplan"
)

// Check runs clara-train check: what each of a run's plans needs and whether it can work, before any work begins. The
// summaries are those of the plans that could be looked into, in their order; all faults come back in one error of the kind
// that the first of them has.
func Check(ctx context.Context, program string, plans []trainplan.Plan) ([]trainplan.Summary, error) {
	raw, err := json.Marshal(plans)
	if err != nil {
		return nil, fmt.Errorf("encode plans: %w", err)
	}
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, program, "check", "-")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(raw), &out, &errs
	cmd.Env = os.Environ()
	ended := cmd.Run()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var summaries []trainplan.Summary
	lines(&out, func(line []byte) {
		var e trainplan.Event
		if json.Unmarshal(line, &e) != nil {
			return
		}
		switch {
		case e.Kind == trainplan.Planned && e.Summary != nil:
			summaries = append(summaries, *e.Summary)
		case e.Kind == trainplan.Failed && err == nil:
			err = clara.Errorf(kindOf(e.Fault), "%s", e.Message)
		}
	})
	if err == nil && ended != nil {
		err = clara.Errorf(clara.State, "check the run: %s check: %w: %s", program, ended, lastLines(errs.String(), 5))
	}
	return summaries, err
}
