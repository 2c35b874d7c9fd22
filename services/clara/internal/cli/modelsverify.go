package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/infer/ort"
	"github.com/clara-suite/clara/libs/infer/verify"
	"github.com/clara-suite/clara/libs/modelpkg"
)

// ModelsVerify compares a package's precisions with float32, on this machine: no service takes part.
type ModelsVerify struct {
	Model   string `arg:"" help:"Model of the data folder, or the folder of a package."`
	Data    string `help:"Folder of all data of clara up." env:"CLARA_DATA" default:"data" placeholder:"DIR"`
	Threads int    `help:"Threads of a model run; 0: one for each core." env:"CLARA_THREADS"`
	Device  string `help:"Where the model runs." enum:"auto,cpu,cuda" default:"auto" env:"CLARA_DEVICE"`
}

// memoryAgreement is the least cosine to float32 that memories of a precision may have.
const memoryAgreement = 0.999

// Run prints a row a precision. It fails if encoder or reasoner run in one whose memories differ from float32's.
func (m *ModelsVerify) Run(ctx context.Context, e *Env) error {
	dir := m.Model
	if _, err := os.Stat(filepath.Join(dir, modelpkg.ManifestFile)); errors.Is(err, fs.ErrNotExist) {
		dir = filepath.Join(m.Data, "files", "models", strings.TrimPrefix(m.Model, "models/"))
		if _, err := os.Stat(filepath.Join(dir, modelpkg.ManifestFile)); err != nil {
			return clara.Errorf(clara.NotFound, "verify model %s: neither a package's folder nor a model of data folder %s; clara models list shows what there is", m.Model, m.Data)
		}
	}
	list, err := verify.Precisions(ctx, dir, infer.Options{Context: 1024, Runtime: ort.Options{Threads: m.Threads, Provider: ort.Provider(m.Device)}})
	if err != nil {
		return err
	}
	bad := 0
	var rows [][]string
	var notes []string
	for _, a := range list {
		var roles []string
		for _, r := range a.Roles {
			roles = append(roles, string(r))
			if (r == modelpkg.Encoder || r == modelpkg.Reasoner) && a.NotRun == "" && a.CosineMin < memoryAgreement {
				bad++
			}
		}
		if a.NotRun != "" {
			rows = append(rows, []string{string(a.Precision), strings.Join(roles, ","), size(a.WeightBytes), "not run", "", "", ""})
			notes = append(notes, a.NotRun)
		} else {
			rows = append(rows, []string{string(a.Precision), strings.Join(roles, ","), size(a.WeightBytes), fmt.Sprintf("%.6f", a.CosineMin), fmt.Sprintf("%.6f", a.CosineMean),
				fmt.Sprintf("%d of %d", a.Same, a.Tokens), fmt.Sprintf("%.2g", a.LogitDifference)})
		}
		if e.JSON {
			if err := json.NewEncoder(e.Out).Encode(a); err != nil {
				return err
			}
		}
	}
	if !e.JSON {
		table(e.Out, []string{"PRECISION", "ROLES", "WEIGHTS", "COSINE (LEAST)", "COSINE (MEAN)", "GREEDY TOKENS", "LOGITS"}, rows)
		fmt.Fprintln(e.Out, "\nbeside float32 of the same weights: cosine of memories (without adapters, of logits), greedy tokens that are the same up to the first\n"+
			"that differs, and the largest difference of a logit as a share of their spread")
		for _, note := range notes {
			fmt.Fprintln(e.Out, note)
		}
	}
	if bad > 0 {
		return clara.Errorf(clara.State, "memories of %s agree with float32 to less than %g: import it with --precision encoder=fp32,reasoner=fp32,..", m.Model, memoryAgreement)
	}
	return nil
}
