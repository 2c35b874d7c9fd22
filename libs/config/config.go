package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"sort"
	"strings"

	"github.com/alecthomas/kong"
	"gopkg.in/yaml.v3"

	"github.com/clara-suite/clara/libs/clara"
)

// Options say whose configuration it is and where it comes from.
type Options struct {
	Name        string // program name, as typed
	Description string // one or two sentences for --help
	Version     string // printed by --version
	Args        []string
	Stdout      io.Writer // nil: os.Stdout
	Stderr      io.Writer // nil: os.Stderr
	Exit        func(int) // after --help, --version, --print-config; nil: os.Exit
	// Kong adds options of kong, for programs with commands.
	Kong []kong.Option
}

// Result is what Parse found beside the values themselves.
type Result struct {
	Kong *kong.Context // selected command, for programs with commands
	// Warnings are settings that look meant for this program but that nothing reads.
	Warnings []string
}

// common are the flags that every program has.
type common struct {
	Config      string           `help:"YAML file of settings." placeholder:"FILE" env:"CLARA_CONFIG"`
	EnvFile     string           `help:"File of environment variables; .env is read if it exists." placeholder:"FILE" env:"CLARA_ENV_FILE"`
	PrintConfig bool             `help:"Print the settings in effect as YAML, secrets masked, and exit."`
	Version     kong.VersionFlag `help:"Print the version and exit."`
}

// isCommon reports whether a flag says where settings come from, so that a file cannot set it.
func isCommon(name string) bool {
	switch name {
	case "config", "env-file", "print-config", "version", "help":
		return true
	}
	return false
}

// Parse fills target, a pointer to a struct with kong tags. Errors are Invalid and name the setting,
// where it came from, and the way out.
func Parse(target any, opts Options) (*Result, error) {
	if opts.Stdout == nil {
		opts.Stdout = os.Stdout
	}
	if opts.Stderr == nil {
		opts.Stderr = os.Stderr
	}
	if opts.Exit == nil {
		opts.Exit = os.Exit
	}
	var (
		own     common
		file    resolver
		applied bool
	)
	k, err := kong.New(target, append([]kong.Option{
		kong.Name(opts.Name),
		kong.Description(opts.Description),
		kong.Vars{"version": opts.Version},
		kong.Writers(opts.Stdout, opts.Stderr),
		kong.Exit(opts.Exit),
		kong.Embed(&own),
		kong.Resolvers(&file),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.WithBeforeApply(func() error { applied = true; return nil }),
	}, opts.Kong...)...)
	if err != nil {
		return nil, fmt.Errorf("config struct of %s: %w", opts.Name, err)
	}
	// A first look at the command line only finds the two files; errors show in the second.
	early, err := kong.Trace(k, opts.Args)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "%w", err)
	}
	if err := loadEnv(earlyValue(early, "env-file", "CLARA_ENV_FILE")); err != nil {
		return nil, err
	}
	flags := allFlags(k.Model.Node)
	if err := dropEmptyEnv(flags); err != nil {
		return nil, err
	}
	if path := earlyValue(early, "config", "CLARA_CONFIG"); path != "" {
		known := map[string]*kong.Flag{}
		for name, f := range flags {
			if !isCommon(name) {
				known[name] = f
			}
		}
		if err := file.load(path, known); err != nil {
			return nil, err
		}
	}
	ctx, err := k.Parse(opts.Args)
	if !applied {
		return nil, clara.Errorf(clara.Invalid, "%w", err)
	}
	if faults := validate(target, early); faults != nil {
		// kong asks some of the validators itself and stops at the first; ours has them all.
		return nil, clara.Errorf(clara.Invalid, "%w", faults)
	}
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "%w", err)
	}
	if own.PrintConfig {
		if err := printConfig(opts.Stdout, ctx); err != nil {
			return nil, err
		}
		opts.Exit(0)
	}
	return &Result{Kong: ctx, Warnings: strayEnv(flags)}, nil
}

// loadEnv reads the named .env file, or .env in the working folder if there is one.
func loadEnv(path string) error {
	named := path != ""
	if !named {
		path = ".env"
	}
	vars, err := ReadEnvFile(path)
	if err != nil {
		if !named && clara.KindOf(err) == clara.NotFound {
			return nil
		}
		return clara.Errorf(clara.Invalid, "%w", err)
	}
	return apply(vars)
}

// earlyValue returns a common flag's value before parsing: command line, then environment.
func earlyValue(ctx *kong.Context, name, env string) string {
	for _, p := range ctx.Path {
		if p.Flag != nil && p.Flag.Name == name {
			if s, ok := ctx.FlagValue(p.Flag).(string); ok {
				return s
			}
		}
	}
	return os.Getenv(env)
}

// allFlags returns the flags of all commands by name.
func allFlags(n *kong.Node) map[string]*kong.Flag {
	all := map[string]*kong.Flag{}
	var visit func(*kong.Node)
	visit = func(n *kong.Node) {
		for _, f := range n.Flags {
			all[f.Name] = f
		}
		for _, c := range n.Children {
			visit(c)
		}
	}
	visit(n)
	return all
}

// dropEmptyEnv removes empty variables that settings read: kong would take them as values.
func dropEmptyEnv(flags map[string]*kong.Flag) error {
	for _, f := range flags {
		for _, env := range f.Envs {
			if v, ok := os.LookupEnv(env); ok && v == "" {
				if err := os.Unsetenv(env); err != nil {
					return clara.Errorf(clara.Invalid, "drop empty %s: %w", env, err)
				}
			}
		}
	}
	return nil
}

// strayEnv names CLARA_ variables that no setting reads: most likely misspelt.
func strayEnv(flags map[string]*kong.Flag) []string {
	known := map[string]*kong.Flag{}
	for _, f := range flags {
		for _, env := range f.Envs {
			known[env] = f
		}
	}
	var out []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "CLARA_") || known[name] != nil {
			continue
		}
		if near := nearest(name, known); near != "" && distance(name, near) <= 3 {
			out = append(out, fmt.Sprintf("%s is set but nothing reads it; did you mean %s?", name, near))
		}
	}
	sort.Strings(out)
	return out
}

type validator interface{ Validate() error }

// validate asks the target, the selected commands and every struct embedded in them.
func validate(target any, ctx *kong.Context) error {
	var faults []error
	seen := map[string]bool{} // a Go-embedded struct promotes its method: ask once, report once
	add := func(err error) {
		if err != nil && !seen[err.Error()] {
			seen[err.Error()] = true
			faults = append(faults, err)
		}
	}
	var visit func(v reflect.Value)
	visit = func(v reflect.Value) {
		for v.Kind() == reflect.Pointer {
			if v.IsNil() {
				return
			}
			v = v.Elem()
		}
		if v.Kind() != reflect.Struct || !v.CanAddr() {
			return
		}
		for i := range v.NumField() {
			field := v.Type().Field(i)
			_, command := field.Tag.Lookup("cmd")
			_, embed := field.Tag.Lookup("embed")
			if field.IsExported() && !command && (embed || field.Anonymous) {
				visit(v.Field(i))
			}
		}
		if a, ok := v.Addr().Interface().(validator); ok {
			add(a.Validate())
		}
	}
	visit(reflect.ValueOf(target))
	for _, p := range ctx.Path {
		if p.Command != nil {
			visit(p.Command.Target)
		}
	}
	return errors.Join(faults...)
}

// printConfig writes the flags of the selected command as YAML that --config reads.
func printConfig(w io.Writer, ctx *kong.Context) error {
	doc := &yaml.Node{Kind: yaml.MappingNode}
	seen := map[string]bool{}
	for _, f := range ctx.Flags() {
		if isCommon(f.Name) || seen[f.Name] {
			continue
		}
		seen[f.Name] = true
		var value yaml.Node
		shown := plain(f.Target)
		if text, ok := shown.(string); ok && f.Tag.Has("secret") {
			shown = Secret(text).String()
		}
		if err := value.Encode(shown); err != nil {
			return fmt.Errorf("print %s: %w", f.Name, err)
		}
		key := &yaml.Node{Kind: yaml.ScalarNode, Value: strings.ReplaceAll(f.Name, "-", "_")}
		if f.Help != "" {
			key.HeadComment = f.Help
		}
		if len(f.Envs) > 0 {
			value.LineComment = strings.Join(f.Envs, ", ")
		}
		doc.Content = append(doc.Content, key, &value)
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(doc); err != nil {
		return fmt.Errorf("print config: %w", err)
	}
	return enc.Close()
}

// plain returns a value that YAML writes the way flags read it: durations and
// other types with a text form as text.
func plain(v reflect.Value) any {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return ""
		}
		v = v.Elem()
	}
	if v.Type() == reflect.TypeFor[Secret]() {
		return v.Interface().(Secret).String()
	}
	if s, ok := v.Interface().(fmt.Stringer); ok {
		return s.String()
	}
	if v.Kind() == reflect.Slice {
		out := make([]any, v.Len())
		for i := range out {
			out[i] = plain(v.Index(i))
		}
		return out
	}
	return v.Interface()
}
