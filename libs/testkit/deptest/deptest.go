// Package deptest checks which packages import which. For tests only.
package deptest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Rule forbids an import. Patterns are import paths, with /... at the end for all below too; one whose
// first part has no dot is meant within the module ("libs/infer/..."), and "..." is the whole module.
type Rule struct {
	From   string   // packages that must not ..
	To     string   // .. import these
	Except []string // packages among From that may
	Direct bool     // only imports written in the package itself count; else also those of what it imports
	Reason string   // why, for the person who breaks it
}

// pkg is what go list says of a package.
type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
	Module     *struct{ Path string }
}

// Check lists the packages of the module in the working folder and reports every import that a rule forbids.
// Imports of test files do not count.
func Check(t *testing.T, patterns []string, rules []Rule) {
	t.Helper()
	pkgs, module := list(t, patterns)
	for _, r := range rules {
		hit := false
		for _, p := range pkgs {
			if !match(module, r.From, p.ImportPath) {
				continue
			}
			hit = true
			if slices.ContainsFunc(r.Except, func(e string) bool { return match(module, e, p.ImportPath) }) {
				continue
			}
			imports := p.Deps
			if r.Direct {
				imports = p.Imports
			}
			for _, i := range imports {
				if i != p.ImportPath && match(module, r.To, i) {
					t.Errorf("%s imports %s: %s", p.ImportPath, i, r.Reason)
				}
			}
		}
		if !hit {
			t.Errorf("rule %q -> %q matches no package: it checks nothing", r.From, r.To)
		}
	}
}

// list returns what go list says of the packages, and the module's name.
func list(t *testing.T, patterns []string) ([]pkg, string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-e", "-json=ImportPath,Imports,Deps,Module"}, patterns...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		pkgs = append(pkgs, p)
	}
	require.NotEmpty(t, pkgs, "go list found no package")
	require.NotNil(t, pkgs[0].Module, "the packages belong to no module")
	return pkgs, pkgs[0].Module.Path
}

// Apart reports every import between the folders directly below a folder ("services"): from one of them, what
// lies below another. Folders in except may import the others.
func Apart(t *testing.T, folder string, except []string, reason string) {
	t.Helper()
	pkgs, module := list(t, []string{"./" + folder + "/..."})
	prefix := module + "/" + folder + "/"
	part := func(importPath string) string {
		rest, ok := strings.CutPrefix(importPath, prefix)
		if !ok {
			return ""
		}
		first, _, _ := strings.Cut(rest, "/")
		return first
	}
	for _, p := range pkgs {
		own := part(p.ImportPath)
		if own == "" || slices.Contains(except, own) {
			continue
		}
		for _, i := range p.Imports {
			if other := part(i); other != "" && other != own {
				t.Errorf("%s imports %s: %s", p.ImportPath, i, reason)
			}
		}
	}
}

// match reports whether an import path fits a pattern.
func match(module, pattern, importPath string) bool {
	if pattern == "..." {
		return importPath == module || strings.HasPrefix(importPath, module+"/")
	}
	if first, _, _ := strings.Cut(pattern, "/"); !strings.Contains(first, ".") {
		pattern = module + "/" + pattern
	}
	if below, ok := strings.CutSuffix(pattern, "/..."); ok {
		return importPath == below || strings.HasPrefix(importPath, below+"/")
	}
	return importPath == pattern
}
