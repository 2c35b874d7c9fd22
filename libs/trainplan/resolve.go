package trainplan

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/clara-suite/clara/libs/clara"
)

// Request is what a user asks for, before it is a plan.
type Request struct {
	Stage    string // one of Stages, or All
	Preset   string // settings that stand before all others; empty: none
	Name     string // what to call the run
	Settings []Setting
}

// Gather completes a request of the command line with a file of settings and the environment: flags win over the
// environment, that over the file. Paths become whole, since plans are read elsewhere. Invalid.
func Gather(r Request, file []Setting, getenv func(string) string) (Request, error) {
	var settings []Setting
	for _, s := range file {
		switch into := map[string]*string{"stage": &r.Stage, "preset": &r.Preset, "name": &r.Name}[s.Name]; {
		case into == nil:
			settings = append(settings, s)
		case *into == "":
			*into = s.Value
		}
	}
	if r.Stage == "" {
		return r, clara.Errorf(clara.Invalid, "stage: give --stage, one of %s, or all", strings.Join(Stages(), ", "))
	}
	settings = append(settings, FromEnvironment(getenv, r.Stage)...)
	settings = append(settings, r.Settings...)
	if !given(settings, "save_path") {
		path := "checkpoints"
		if r.Stage != All {
			path = filepath.Join(path, FolderName(r.Stage))
		}
		settings = append(settings, Setting{Name: "save_path", Value: path, Source: "default"})
	}
	r.Settings = nil
	for _, s := range settings {
		s, err := located(s)
		if err != nil {
			return r, err
		}
		r.Settings = append(r.Settings, s)
	}
	return r, nil
}

// key is a setting's name as it is compared.
func key(name string) string {
	return strings.ReplaceAll(strings.TrimLeft(name, "-"), "-", "_")
}

func given(settings []Setting, names ...string) bool {
	return slices.ContainsFunc(settings, func(s Setting) bool { return slices.Contains(names, key(s.Name)) })
}

// located makes the paths of a setting whole.
func located(s Setting) (Setting, error) {
	switch key(s.Name) {
	case "pretrain", "model", "model_path":
		if _, err := os.Stat(s.Value); err != nil {
			return s, nil // a hub id
		}
	case "pretrain_checkpoint", "eval_dataset", "save_path", "ckpt_path":
	case "dataset", "data", "data_path":
		paths := SplitPaths(s.Value)
		for i, p := range paths {
			abs, err := filepath.Abs(p)
			if err != nil {
				return s, clara.Errorf(clara.Invalid, "%s %s: %w", s.Name, p, err)
			}
			paths[i] = abs
		}
		s.Value = JoinPaths(paths)
		return s, nil
	default:
		return s, nil
	}
	if s.Value == "" {
		return s, nil
	}
	abs, err := filepath.Abs(s.Value)
	if err != nil {
		return s, clara.Errorf(clara.Invalid, "%s %s: %w", s.Name, s.Value, err)
	}
	s.Value = abs
	return s, nil
}

// SplitPaths cuts a list of paths at its commas. A comma within a path is written \, and needs no mark where the path is
// there: of pieces that name something together, that is taken.
func SplitPaths(value string) []string {
	var pieces []string
	var b strings.Builder
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '\\' && i+1 < len(value) && value[i+1] == ',':
			i++
			b.WriteByte(',')
		case c == ',':
			pieces = append(pieces, b.String())
			b.Reset()
		default:
			b.WriteByte(c)
		}
	}
	pieces = append(pieces, b.String())
	var out []string
	for i := 0; i < len(pieces); {
		next, path := i+1, strings.TrimSpace(pieces[i])
		for j := len(pieces); j > i+1; j-- {
			whole := strings.TrimSpace(strings.Join(pieces[i:j], ","))
			if _, err := os.Stat(whole); err == nil {
				next, path = j, whole
				break
			}
		}
		if path != "" {
			out = append(out, path)
		}
		i = next
	}
	return out
}

// JoinPaths is the inverse of SplitPaths.
func JoinPaths(paths []string) string {
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = strings.ReplaceAll(p, ",", `\,`)
	}
	return strings.Join(out, ",")
}

// Resolve makes the plans of a request: one, or one for each stage of All. devices is how many GPUs there are: the number of
// ranks where none is given. Notes say what was mapped. All faults come back together, as Invalid.
func Resolve(r Request, devices int) (plans []Plan, notes []string, err error) {
	if r.Stage == All {
		plans, notes, err = chain(r.Preset, r.Settings)
	} else {
		if !slices.Contains(Stages(), r.Stage) {
			return nil, nil, clara.Errorf(clara.Invalid, "stage %q: give one of %s, or all", r.Stage, strings.Join(Stages(), ", "))
		}
		var preset []Setting
		if r.Preset != "" {
			if preset, err = Preset(r.Preset, r.Stage); err != nil {
				return nil, nil, err
			}
		}
		var p Plan
		p, notes, err = Build(r.Stage, append(preset, r.Settings...))
		plans = []Plan{p}
	}
	if err != nil {
		return nil, nil, err
	}
	if !given(r.Settings, "world_size", "num_gpus") {
		for i := range plans {
			if plans[i].Device != "cpu" {
				plans[i].World = max(1, min(devices, plans[i].BatchSize))
			}
		}
	}
	return plans, notes, nil
}

// chain makes the plans of all stages. dataset is the folder that holds the three files, save_path the one that the three
// checkpoints go into.
func chain(preset string, settings []Setting) ([]Plan, []string, error) {
	var data, root string
	var rest []Setting
	for _, s := range settings {
		switch key(s.Name) {
		case "data", "data_path", "dataset":
			if data = s.Value; data != "" {
				data = SplitPaths(s.Value)[0]
			}
			if len(SplitPaths(s.Value)) > 1 {
				data = s.Value // several: refused below
			}
		case "save_path":
			root = s.Value
		case "dataset_probs", "ckpt_path", "eval_dataset", "pretrain_checkpoint", "stage":
			return nil, nil, clara.Errorf(clara.Invalid, "%s: it belongs to one stage; start the stages one by one to give it", s.Name)
		default:
			rest = append(rest, s)
		}
	}
	var faults []error
	if data == "" || !folder(data) {
		faults = append(faults, fmt.Errorf("dataset %q: for all stages give the folder that holds %s, %s and %s", data, DataFile(Stage1), DataFile(Stage12), DataFile(Stage2)))
	}
	if root == "" {
		faults = append(faults, errors.New("save_path: for all stages give the folder that clara_stage1, clara_stage2 and clara_stage3 go into"))
	}
	var notes []string
	plans, err := Chain(root, data, func(p *Plan) error {
		all := rest
		if preset != "" {
			of, err := Preset(preset, p.Stage)
			if err != nil {
				return err
			}
			all = append(of, rest...)
		}
		for _, s := range all {
			note, err := p.Set(s.Name, s.Value)
			if err != nil {
				err = fmt.Errorf("%w (from %s)", err, s.Source)
				if !slices.ContainsFunc(faults, func(f error) bool { return f.Error() == err.Error() }) {
					faults = append(faults, err)
				}
			}
			if note != "" && !slices.Contains(notes, note) {
				notes = append(notes, note)
			}
		}
		p.Name, p.BF16Auto = p.Stage, !given(rest, "bf16")
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if len(faults) == 0 {
		for _, p := range plans {
			if err := p.Validate(); err != nil {
				faults = append(faults, fmt.Errorf("%s: %w", p.Stage, err))
			}
		}
	}
	if len(faults) > 0 {
		return nil, nil, clara.Errorf(clara.Invalid, "%w", errors.Join(faults...))
	}
	return plans, notes, nil
}

// folder reports whether a path is a folder or, where nothing is there, looks like one.
func folder(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return filepath.Ext(path) == ""
	}
	return info.IsDir()
}

// ReadFile reads a file of settings: a mapping of names to values, as YAML; a list of values is joined by commas.
func ReadFile(path string) ([]Setting, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "read run: %w", err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return nil, clara.Errorf(clara.Invalid, "%s: %w", path, err)
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	m := doc.Content[0]
	if m.Kind != yaml.MappingNode {
		return nil, clara.Errorf(clara.Invalid, "%s line %d: want name: value", path, m.Line)
	}
	var out []Setting
	var faults []error
	seen := map[string]bool{}
	for i := 0; i+1 < len(m.Content); i += 2 {
		k, v := m.Content[i], m.Content[i+1]
		s := Setting{Name: key(k.Value), Source: fmt.Sprintf("%s line %d", filepath.Base(path), k.Line)}
		if seen[s.Name] {
			faults = append(faults, fmt.Errorf("%s: %s is there twice", s.Source, k.Value))
		}
		seen[s.Name] = true
		switch v.Kind {
		case yaml.ScalarNode:
			s.Value = v.Value
			if v.Tag == "!!null" {
				s.Value = ""
			}
		case yaml.SequenceNode:
			var parts []string
			for _, x := range v.Content {
				if x.Kind != yaml.ScalarNode {
					faults = append(faults, fmt.Errorf("%s: %s holds more than a list of values", s.Source, k.Value))
				}
				parts = append(parts, x.Value)
			}
			s.Value = JoinPaths(parts)
		default:
			faults = append(faults, fmt.Errorf("%s: %s is no value", s.Source, k.Value))
		}
		if s.Value != "" {
			out = append(out, s)
		}
	}
	if len(faults) > 0 {
		return nil, clara.Errorf(clara.Invalid, "%w", errors.Join(faults...))
	}
	return out, nil
}
