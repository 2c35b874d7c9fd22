package golden

import (
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strings"
)

// Figure is the outcome of one comparison. Deviation and Tolerance are in the unit that Measure names.
type Figure struct {
	Name      string  `json:"name"`
	Status    string  `json:"status"` // passed, failed or skipped
	Measure   string  `json:"measure,omitempty"`
	Deviation float64 `json:"deviation"`
	Tolerance float64 `json:"tolerance"`
	Note      string  `json:"note,omitempty"`
}

// Report is the outcome of a folder.
type Report struct {
	Dir     string   `json:"dir"`
	Passed  int      `json:"passed"`
	Failed  int      `json:"failed"`
	Skipped int      `json:"skipped"`
	Figures []Figure `json:"figures"`

	lacking []string // paths of golden.json that the folder should have and has not
}

// OK reports whether no figure failed and some passed.
func (r *Report) OK() bool { return r.Failed == 0 && r.Passed > 0 }

// Unreadable is the report of a folder that could not be compared at all.
func Unreadable(dir string, err error) *Report {
	r := &Report{Dir: dir}
	r.fail("folder", err)
	return r
}

// lacks reports whether the folder lacks the figure of this name, or one that it is a part of.
func (r *Report) lacks(name string) bool {
	return slices.ContainsFunc(r.lacking, func(path string) bool {
		rest, ok := strings.CutPrefix(name, path)
		return ok && (rest == "" || strings.ContainsRune(".[: ", rune(rest[0])))
	})
}

func (r *Report) add(f Figure) {
	if f.Status != "skipped" && r.lacks(f.Name) {
		return // listed already
	}
	switch f.Status {
	case "passed":
		r.Passed++
	case "failed":
		r.Failed++
	default:
		r.Skipped++
	}
	r.Figures = append(r.Figures, f)
}

func (r *Report) skip(name, why string) { r.add(Figure{Name: name, Status: "skipped", Note: why}) }

func (r *Report) fail(name string, err error) {
	r.add(Figure{Name: name, Status: "failed", Note: err.Error()})
}

func (r *Report) exact(name string, got, want any) {
	f := Figure{Name: name, Status: "passed", Measure: "equal"}
	if !reflect.DeepEqual(got, want) {
		f.Status, f.Note = "failed", fmt.Sprintf("got %s, want %s", short(got), short(want))
		f.Deviation = 1
	}
	r.add(f)
}

func short(v any) string {
	s := fmt.Sprint(v)
	if len(s) > 300 {
		s = s[:300] + "..."
	}
	return s
}

func (r *Report) within(name, measure string, deviation, tolerance float64) {
	f := Figure{Name: name, Status: "passed", Measure: measure, Deviation: deviation, Tolerance: tolerance}
	if !(deviation <= tolerance) { // not a number fails
		f.Status = "failed"
	}
	r.add(f)
}

// maxAbs compares element by element.
func (r *Report) maxAbs(name string, got, want []float32, tolerance float64) {
	if len(got) != len(want) {
		r.fail(name, fmt.Errorf("%d values, want %d", len(got), len(want)))
		return
	}
	r.within(name, "largest absolute difference", largest(got, want), tolerance)
}

func largest(got, want []float32) float64 {
	d := 0.0
	for i := range got {
		if x := math.Abs(float64(got[i]) - float64(want[i])); x > d || math.IsNaN(x) {
			d = x
		}
	}
	return d
}

func (r *Report) relative(name string, got, want, tolerance float64) {
	r.within(name, "relative difference", math.Abs(got-want)/math.Max(math.Abs(want), 1e-12), tolerance)
}

// relativeOrAbs passes if either difference is within the tolerance.
func (r *Report) relativeOrAbs(name string, got, want, tolerance float64) {
	d := math.Abs(got - want)
	r.within(name, "smaller of relative and absolute difference", math.Min(d, d/math.Max(math.Abs(want), 1e-12)), tolerance)
}

// Print writes the report for people: what failed, what was skipped and why, and the sums.
func (r *Report) Print(w io.Writer, all bool) {
	fmt.Fprintln(w, r.Dir)
	for _, f := range r.Figures {
		switch {
		case f.Status == "failed":
			fmt.Fprintf(w, "  FAILED  %s: %s", f.Name, f.Measure)
			if f.Measure != "equal" && f.Measure != "" {
				fmt.Fprintf(w, " %.3g, tolerance %.3g", f.Deviation, f.Tolerance)
			}
			fmt.Fprintln(w, " "+f.Note)
		case f.Status == "skipped":
			fmt.Fprintf(w, "  skipped %s: %s\n", f.Name, f.Note)
		case all:
			fmt.Fprintf(w, "  ok      %s: %s %.3g of %.3g\n", f.Name, f.Measure, f.Deviation, f.Tolerance)
		}
	}
	fmt.Fprintf(w, "  %d passed, %d failed, %d skipped\n", r.Passed, r.Failed, r.Skipped)
}
