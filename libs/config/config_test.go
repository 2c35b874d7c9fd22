package config_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/config"
)

type ingest struct {
	RawDir string            `help:"Raw files." env:"CLARA_TEST_RAW_DIR,TEST_RAW_DATA_DIR" default:"data/raw"`
	Limit  int               `default:"256" env:"CLARA_TEST_LIMIT"`
	Wait   time.Duration     `default:"2s"`
	Roots  []string          ``
	Labels map[string]string ``
	Key    config.Secret     `env:"CLARA_TEST_KEY"`
	Token  string            `secret:""`
}

func (c ingest) Validate() error {
	var faults []error
	if c.Limit < 1 {
		faults = append(faults, fmt.Errorf("limit %d: must be 1 or more", c.Limit))
	}
	if c.RawDir == "" {
		faults = append(faults, errors.New("raw-dir is empty"))
	}
	return errors.Join(faults...)
}

type trainer struct {
	Runs int `default:"1"`
}

func (c *trainer) Validate() error {
	if c.Runs < 1 {
		return fmt.Errorf("runs %d: must be 1 or more", c.Runs)
	}
	return nil
}

type up struct {
	Ingest  ingest  `embed:"" prefix:"ingest-"`
	Trainer trainer `embed:"" prefix:"trainer-"`
}

func parse(t *testing.T, target any, args ...string) (*config.Result, string, error) {
	t.Helper()
	var out bytes.Buffer
	res, err := config.Parse(target, config.Options{Name: "clara-test", Version: "1.2.3", Args: args,
		Stdout: &out, Stderr: &out, Exit: func(int) {}})
	return res, out.String(), err
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestOrder(t *testing.T) {
	t.Chdir(t.TempDir())
	yaml := write(t, "c.yaml", "raw_dir: from-yaml\nlimit: 7\nwait: 3s\nroots: [a, 'b,c']\nlabels: {x: '1', y: '2'}\n")

	var c ingest
	_, _, err := parse(t, &c)
	require.NoError(t, err)
	assert.Equal(t, ingest{RawDir: "data/raw", Limit: 256, Wait: 2 * time.Second}, c)

	t.Setenv("TEST_RAW_DATA_DIR", "from-old-env")
	c = ingest{}
	_, _, err = parse(t, &c, "--config", yaml)
	require.NoError(t, err)
	assert.Equal(t, ingest{RawDir: "from-old-env", Limit: 7, Wait: 3 * time.Second, Roots: []string{"a", "b,c"},
		Labels: map[string]string{"x": "1", "y": "2"}}, c)

	t.Setenv("CLARA_TEST_RAW_DIR", "from-env")
	c = ingest{}
	_, _, err = parse(t, &c, "--config", yaml)
	require.NoError(t, err)
	assert.Equal(t, "from-env", c.RawDir, "the first name wins")

	c = ingest{}
	_, _, err = parse(t, &c, "--config", yaml, "--raw-dir", "from-flag")
	require.NoError(t, err)
	assert.Equal(t, "from-flag", c.RawDir)

	t.Setenv("CLARA_TEST_LIMIT", "")
	c = ingest{}
	_, _, err = parse(t, &c, "--config", yaml)
	require.NoError(t, err)
	assert.Equal(t, 7, c.Limit, "an empty variable is not set")
}

func TestConfigFileFromEnvironment(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("CLARA_CONFIG", write(t, "c.yaml", "ingest:\n  raw-dir: nested\ntrainer_runs: 4\n"))
	var c up
	_, _, err := parse(t, &c)
	require.NoError(t, err)
	assert.Equal(t, "nested", c.Ingest.RawDir)
	assert.Equal(t, 4, c.Trainer.Runs)
}

func TestYAMLFaults(t *testing.T) {
	t.Chdir(t.TempDir())
	tests := []struct {
		name, yaml string
		want       []string
	}{
		{"misspelt", "ingest:\n  raw_dri: x\n", []string{"c.yaml:2", `unknown key "ingest_raw_dri"`, `did you mean "ingest_raw_dir"?`}},
		{"without its group", "raw_dir: x\n", []string{"c.yaml:1", `did you mean "ingest_raw_dir"?`}},
		{"far from all", "ingest:\n  limit: 1\nqqqqqqqqqqqqqqq: 2\n", []string{"c.yaml:3", `unknown key "qqqqqqqqqqqqqqq"`}},
		{"short and far from all", "up:\n  listen: x\n", []string{`unknown key "up"; --print-config lists the keys`}},
		{"two at once", "a_b: 1\nzz: 2\n", []string{"c.yaml:1", "c.yaml:2"}},
		{"twice", "ingest: {limit: 1}\ningest-limit: 2\n", []string{"c.yaml:2", "already set in line 1"}},
		{"list for one value", "ingest:\n  limit: [1, 2]\n", []string{"takes one value"}},
		{"wrong type", "ingest: {limit: many}\n", []string{"ingest-limit", "many"}},
		{"null", "ingest: {limit: }\n", []string{"has no value"}},
		{"not a mapping", "- a\n", []string{"expected keys"}},
		{"not YAML", "a: [\n", []string{"c.yaml"}},
		{"two documents", "ingest: {limit: 1}\n---\na: 1\n", []string{"more than one"}},
		{"config in itself", "config: x\n", []string{`unknown key "config"`}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			var c up
			_, _, err := parse(t, &c, "--config", write(t, "c.yaml", tc.yaml))
			require.Error(t, err)
			assert.Equal(t, clara.Invalid, clara.KindOf(err))
			for _, w := range tc.want {
				assert.ErrorContains(t, err, w)
			}
		})
	}
}

func TestEmptyYAML(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, text := range []string{"", "# only a comment\n", "---\n"} {
		var c up
		_, _, err := parse(t, &c, "--config", write(t, "c.yaml", text))
		assert.NoError(t, err, "%q", text)
	}
}

func TestMissingFiles(t *testing.T) {
	t.Chdir(t.TempDir())
	var c up
	_, _, err := parse(t, &c, "--config", "nowhere.yaml")
	assert.ErrorContains(t, err, "nowhere.yaml")
	_, _, err = parse(t, &c, "--env-file", "nowhere.env")
	assert.ErrorContains(t, err, "nowhere.env")
}

func TestValidateGathersAll(t *testing.T) {
	t.Chdir(t.TempDir())
	var c up
	_, _, err := parse(t, &c, "--ingest-limit=0", "--ingest-raw-dir=", "--trainer-runs=0")
	require.Error(t, err)
	for _, w := range []string{"limit 0", "raw-dir is empty", "runs 0"} {
		assert.ErrorContains(t, err, w)
	}
}

func TestUnknownFlag(t *testing.T) {
	t.Chdir(t.TempDir())
	var c up
	_, _, err := parse(t, &c, "--ingest-raw-dirr=x")
	require.Error(t, err)
	assert.ErrorContains(t, err, "--ingest-raw-dir")
}

func TestEnvFile(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("CLARA_TEST_LIMIT", "9")
	// Parse sets these two; Setenv and Unsetenv make the test take them out again.
	for _, name := range []string{"CLARA_TEST_RAW_DIR", "CLARA_TEST_KEY"} {
		t.Setenv(name, "")
		require.NoError(t, os.Unsetenv(name))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".env"), []byte(`# settings
export CLARA_TEST_RAW_DIR="a b" # why
CLARA_TEST_LIMIT=3
CLARA_TEST_KEY='s$cret#1'
`), 0o600))
	var c ingest
	_, _, err := parse(t, &c)
	require.NoError(t, err)
	assert.Equal(t, "a b", c.RawDir)
	assert.Equal(t, 9, c.Limit, "the environment wins")
	assert.Equal(t, "s$cret#1", c.Key.Reveal())
}

func TestReadEnvFile(t *testing.T) {
	tests := []struct{ name, text, value, fault string }{
		{"plain", "A=b", "b", ""},
		{"comment after", "A=b c # d", "b c", ""},
		{"hash inside", "A=b#c", "b#c", ""},
		{"single quotes", `A='b \n $c' # x`, `b \n $c`, ""},
		{"double quotes", `A="b\n\"c\" \$d"`, "b\n\"c\" $d", ""},
		{"carriage return", "A=b\r\n", "b", ""},
		{"empty", "A=", "", ""},
		{"byte order mark", "\ufeffA=b", "b", ""},
		{"no equals sign", "A", "", ":1: not NAME=value"},
		{"bad name", "\n1A=b", "", ":2: not NAME=value"},
		{"open quote", `A="b`, "", "not closed"},
		{"text after quote", `A="b"c`, "", "after the closing quote"},
		{"unknown escape", `A="\q"`, "", `unknown escape \q`},
		{"twice", "A=1\nA=2", "", "already set in line 1"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			vars, err := config.ReadEnvFile(write(t, ".env", tc.text))
			if tc.fault != "" {
				require.ErrorContains(t, err, tc.fault)
				assert.Equal(t, clara.Invalid, clara.KindOf(err))
				return
			}
			require.NoError(t, err)
			require.Len(t, vars, 1)
			assert.Equal(t, config.Variable{Name: "A", Value: tc.value, Line: 1}, vars[0])
		})
	}
}

func TestPrintConfigReadsBack(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("CLARA_TEST_KEY", "topsecret")
	var c up
	_, out, err := parse(t, &c, "--print-config", "--ingest-limit=12", "--ingest-token=alsosecret", "--ingest-wait=90s", "--ingest-roots=a,b", "--ingest-labels=k=v")
	require.NoError(t, err)
	assert.NotContains(t, out, "topsecret")
	assert.NotContains(t, out, "alsosecret")
	assert.Contains(t, out, "********")
	var again up
	_, _, err = parse(t, &again, "--config", write(t, "c.yaml", out))
	require.NoError(t, err, out)
	c.Ingest.Token = "********"
	assert.Equal(t, c, again)
}

func TestSecretNeverShows(t *testing.T) {
	s := config.Secret("topsecret")
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", s, "all", struct{ K config.Secret }{s})
	data, err := json.Marshal(map[string]any{"k": s})
	require.NoError(t, err)
	for _, text := range []string{fmt.Sprint(s), fmt.Sprintf("%q %#v %x %v", s, s, s, struct{ K config.Secret }{s}), log.String(), string(data)} {
		assert.NotContains(t, text, "topsecret")
		assert.NotContains(t, text, "746f70")
	}
	assert.Empty(t, config.Secret("").String())
}

func TestStrayVariablesAreNamed(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("CLARA_TEST_LIMITT", "3")
	var c ingest
	res, _, err := parse(t, &c)
	require.NoError(t, err)
	assert.Equal(t, []string{"CLARA_TEST_LIMITT is set but nothing reads it; did you mean CLARA_TEST_LIMIT?"}, res.Warnings)
}

type cli struct {
	Up   upCmd   `cmd:"" help:"Start."`
	Show showCmd `cmd:"" help:"Show."`
}
type upCmd struct {
	Ingest ingest `embed:"" prefix:"ingest-"`
}
type showCmd struct {
	Name string `arg:""`
}

func TestCommands(t *testing.T) {
	t.Chdir(t.TempDir())
	file := write(t, "c.yaml", "ingest: {limit: 0}\n")
	var c cli
	res, _, err := parse(t, &c, "--config", file, "show", "x")
	require.NoError(t, err, "another command's settings are not checked")
	assert.Equal(t, "show <name>", res.Kong.Command())
	_, _, err = parse(t, &c, "--config", file, "up")
	assert.ErrorContains(t, err, "limit 0")
}
