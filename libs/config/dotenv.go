package config

import (
	"os"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
)

// Variable is one assignment of a .env file.
type Variable struct {
	Name  string
	Value string
	Line  int // 1-based
}

// ReadEnvFile reads a .env file: lines NAME=value, "export NAME=value", comments
// after # at the start of a line or after a space, values in '..' as they are and in ".." with
// \n \t \" \\ \$ understood. Nothing is expanded. A line that is none of these, or a name given twice,
// is Invalid and names file and line; a file that does not exist is NotFound.
func ReadEnvFile(path string) ([]Variable, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		kind := clara.Invalid
		if os.IsNotExist(err) {
			kind = clara.NotFound
		}
		return nil, clara.Errorf(kind, "read env file: %w", err)
	}
	var vars []Variable
	first := map[string]int{}
	text := strings.TrimPrefix(string(data), "\ufeff")
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, raw, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		name = strings.TrimSpace(name)
		if !ok || !isEnvName(name) {
			return nil, clara.Errorf(clara.Invalid, "%s:%d: not NAME=value", path, i+1)
		}
		if at, twice := first[name]; twice {
			return nil, clara.Errorf(clara.Invalid, "%s:%d: %s is already set in line %d", path, i+1, name, at)
		}
		value, err := envValue(strings.TrimSpace(raw))
		if err != nil {
			return nil, clara.Errorf(clara.Invalid, "%s:%d: %s: %w", path, i+1, name, err)
		}
		first[name] = i + 1
		vars = append(vars, Variable{Name: name, Value: value, Line: i + 1})
	}
	return vars, nil
}

// apply puts the variables that the environment lacks into it.
func apply(vars []Variable) error {
	for _, v := range vars {
		if os.Getenv(v.Name) != "" {
			continue
		}
		if err := os.Setenv(v.Name, v.Value); err != nil {
			return clara.Errorf(clara.Invalid, "set %s from env file: %w", v.Name, err)
		}
	}
	return nil
}

// envValue takes quotes and a trailing comment off the right side of an assignment.
func envValue(raw string) (string, error) {
	if raw == "" || raw[0] == '#' {
		return "", nil
	}
	quote := raw[0]
	if quote != '\'' && quote != '"' {
		if i := strings.Index(raw, " #"); i >= 0 {
			raw = raw[:i]
		}
		return strings.TrimRight(raw, " \t"), nil
	}
	var b strings.Builder
	for i := 1; i < len(raw); i++ {
		c := raw[i]
		switch {
		case c == quote:
			rest := strings.TrimSpace(raw[i+1:])
			if rest != "" && rest[0] != '#' {
				return "", clara.Errorf(clara.Invalid, "text after the closing quote: %q", rest)
			}
			return b.String(), nil
		case c == '\\' && quote == '"':
			i++
			if i == len(raw) {
				return "", clara.Errorf(clara.Invalid, "value ends in a backslash")
			}
			switch raw[i] {
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			case '"', '\\', '$':
				b.WriteByte(raw[i])
			default:
				return "", clara.Errorf(clara.Invalid, `unknown escape \%c`, raw[i])
			}
		default:
			b.WriteByte(c)
		}
	}
	return "", clara.Errorf(clara.Invalid, "quote %c is not closed", quote)
}

func isEnvName(s string) bool {
	for i, c := range []byte(s) {
		letter := c == '_' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
