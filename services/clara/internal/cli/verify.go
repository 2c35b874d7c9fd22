package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/infer/ort"
	"github.com/clara-suite/clara/libs/infer/verify"
)

// Verify compares this build with what the reference computes.
type Verify struct {
	Dir     []string `arg:"" help:"Folders with base, clara, data and golden figures."`
	Threads int      `help:"Threads of a model run; 0: one for each core." env:"CLARA_THREADS"`
	Device  string   `help:"Where the model runs." enum:"auto,cpu,cuda" default:"auto" env:"CLARA_DEVICE"`
}

// Run prints each figure with its tolerance. It fails unless all hold.
func (v *Verify) Run(ctx context.Context, e *Env) error {
	failed, total := 0, 0
	for _, dir := range v.Dir {
		r, err := verify.Run(ctx, dir, infer.Options{Runtime: ort.Options{Threads: v.Threads, Provider: ort.Provider(v.Device)}})
		if err != nil {
			return err
		}
		bad := 0
		for _, f := range r.Figures {
			if !f.Pass {
				bad++
			}
		}
		failed, total = failed+bad, total+len(r.Figures)
		if e.JSON {
			if err := json.NewEncoder(e.Out).Encode(struct {
				*verify.Report
				Pass bool `json:"pass"`
			}{r, r.Pass()}); err != nil {
				return err
			}
		} else {
			v.show(e, r, bad)
		}
		if !r.Pass() && bad == 0 {
			return clara.Errorf(clara.Corrupt, "%s holds no figure that could be compared", dir)
		}
	}
	if failed > 0 {
		return clara.Errorf(clara.Corrupt, "%d of %d figures do not hold", failed, total)
	}
	return nil
}

func (v *Verify) show(e *Env, r *verify.Report, bad int) {
	var rows [][]string
	for _, f := range r.Figures {
		verdict := "pass"
		if !f.Pass {
			verdict = "FAIL"
		}
		rows = append(rows, []string{verdict, f.Key, f.Kind, fmt.Sprint(f.Compared), strconv.FormatFloat(f.Value, 'g', 3, 64), strconv.FormatFloat(f.Tolerance, 'g', 3, 64), f.Note})
	}
	fmt.Fprintln(e.Out, r.Dir)
	table(e.Out, []string{"RESULT", "FIGURE", "KIND", "COMPARED", "DIFFERENCE", "TOLERANCE", "NOTE"}, rows)
	for _, l := range r.Lacking {
		fmt.Fprintf(e.Out, "skipped, the folder does not hold it: %s\n", l)
	}
	for _, l := range r.Left {
		fmt.Fprintf(e.Out, "left to clara-train verify: %s\n", l)
	}
	fmt.Fprintf(e.Out, "%d figures, %d hold, %d fail\n\n", len(r.Figures), len(r.Figures)-bad, bad)
}
