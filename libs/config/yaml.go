package config

import (
	"errors"
	"io"
	"os"
	"sort"
	"strings"

	"github.com/alecthomas/kong"
	"gopkg.in/yaml.v3"

	"github.com/clara-suite/clara/libs/clara"
)

// resolver gives kong the values of a YAML file, below flags and environment.
type resolver struct {
	file  string
	nodes map[string]*yaml.Node // flag name -> value
}

// Validate has nothing to do: load has checked every key.
func (r *resolver) Validate(*kong.Application) error { return nil }

// Resolve returns the file's value for the flag as the text that the command line would have.
func (r *resolver) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	node, ok := r.nodes[flag.Name]
	if !ok {
		return nil, nil
	}
	for _, env := range flag.Envs {
		if os.Getenv(env) != "" {
			return nil, nil
		}
	}
	text, err := flagText(node, flag)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "%s:%d: %w", r.file, node.Line, err)
	}
	return text, nil
}

// load reads the file and checks its keys against the flags that exist.
func (r *resolver) load(file string, flags map[string]*kong.Flag) error {
	f, err := os.Open(file)
	if err != nil {
		return clara.Errorf(clara.Invalid, "read config: %w", err)
	}
	defer func() { _ = f.Close() }()
	var doc yaml.Node
	dec := yaml.NewDecoder(f)
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil // an empty file sets nothing
		}
		return clara.Errorf(clara.Invalid, "read config %s: %w", file, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return clara.Errorf(clara.Invalid, "read config %s: more than one YAML document", file)
	}
	r.file, r.nodes = file, map[string]*yaml.Node{}
	var faults []error
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil
	}
	r.walk(root, "", flags, &faults)
	return errors.Join(faults...)
}

// walk takes the keys of one mapping; prefix is the path to it, words joined by "-".
func (r *resolver) walk(m *yaml.Node, prefix string, flags map[string]*kong.Flag, faults *[]error) {
	fault := func(n *yaml.Node, format string, args ...any) {
		args = append([]any{r.file, n.Line}, args...)
		*faults = append(*faults, clara.Errorf(clara.Invalid, "%s:%d: "+format, args...))
	}
	if m.Kind == yaml.AliasNode {
		m = m.Alias
	}
	if m.Kind != yaml.MappingNode {
		fault(m, "expected keys and values, found %q", m.Value)
		return
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		key, value := m.Content[i], m.Content[i+1]
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		name := prefix + strings.ReplaceAll(key.Value, "_", "-")
		if _, ok := flags[name]; ok {
			if first, twice := r.nodes[name]; twice {
				fault(key, "%s is already set in line %d", name, first.Line)
			}
			r.nodes[name] = value
			continue
		}
		if value.Kind == yaml.MappingNode && isGroup(name+"-", flags) {
			r.walk(value, name+"-", flags, faults)
			continue
		}
		full := strings.ReplaceAll(name, "-", "_")
		if near := nearest(name, flags); near != "" {
			fault(key, "unknown key %q, did you mean %q?", full, strings.ReplaceAll(near, "-", "_"))
		} else {
			fault(key, "unknown key %q; --print-config lists the keys", full)
		}
	}
}

func isGroup(prefix string, flags map[string]*kong.Flag) bool {
	for name := range flags {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// flagText turns a YAML value into what the flag's mapper reads: lists and maps
// are joined with the flag's separators.
func flagText(n *yaml.Node, flag *kong.Flag) (string, error) {
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "", clara.Errorf(clara.Invalid, "%s has no value", flag.Name)
		}
		return n.Value, nil
	case yaml.SequenceNode:
		if !flag.IsSlice() {
			return "", clara.Errorf(clara.Invalid, "%s takes one value, not a list", flag.Name)
		}
		parts, err := scalars(n.Content)
		return kong.JoinEscaped(parts, flag.Tag.Sep), err
	case yaml.MappingNode:
		if !flag.IsMap() {
			return "", clara.Errorf(clara.Invalid, "%s takes a value, not keys and values", flag.Name)
		}
		parts, err := scalars(n.Content)
		var pairs []string
		for i := 0; i+1 < len(parts); i += 2 {
			pairs = append(pairs, parts[i]+"="+parts[i+1])
		}
		return kong.JoinEscaped(pairs, flag.Tag.MapSep), err
	}
	return "", clara.Errorf(clara.Invalid, "%s has a value of an unknown form", flag.Name)
}

func scalars(nodes []*yaml.Node) ([]string, error) {
	var out []string
	for _, n := range nodes {
		if n.Kind == yaml.AliasNode {
			n = n.Alias
		}
		if n.Kind != yaml.ScalarNode {
			return nil, clara.Errorf(clara.Invalid, "lists hold plain values only")
		}
		out = append(out, n.Value)
	}
	return out, nil
}

// nearest returns the flag name closest to name, "" if none is close. Names that end alike
// (a key given without its group) count as close.
func nearest(name string, flags map[string]*kong.Flag) string {
	names := make([]string, 0, len(flags))
	for n := range flags {
		names = append(names, n)
	}
	sort.Strings(names)
	best, bestDist := "", max(2, len(name)/3)+1
	for _, n := range names {
		d := distance(name, n)
		if strings.HasSuffix(n, "-"+name) {
			d = 1
		}
		if d < bestDist && d < len(name) { // something of the name is left
			best, bestDist = n, d
		}
	}
	return best
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next := min(row[j]+1, row[j-1]+1, diagonal+cost)
			diagonal, row[j] = row[j], next
		}
	}
	return row[len(b)]
}
