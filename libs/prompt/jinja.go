package prompt

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/nikolalohinski/gonja/v2/builtins"
	"github.com/nikolalohinski/gonja/v2/exec"
)

// environment is the library's, with what chat templates need and it lacks or does otherwise than Python.
func environment() *exec.Environment {
	filters := exec.NewFilterSet(map[string]exec.FilterFunction{}).Update(builtins.Filters)
	_ = filters.Replace("tojson", toJSON) // exists
	str := map[string]exec.Method[string]{}
	for _, name := range []string{
		"capitalize", "casefold", "center", "count", "encode", "endswith", "expandtabs", "find", "format", "format_map", "index", "isalnum",
		"isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle",
		"isupper", "join", "ljust", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "rfind", "rindex", "rjust",
		"rpartition", "rstrip", "splitlines", "startswith", "strip", "swapcase", "title", "translate", "upper", "zfill",
	} {
		if m, ok := builtins.Methods.Str.Get(name); ok {
			str[name] = m
		}
	}
	str["replace"], str["split"], str["rsplit"] = replace, split, rsplit
	methods := builtins.Methods
	methods.Str = exec.NewMethodSet(str)
	context := exec.EmptyContext().Update(builtins.GlobalFunctions).Update(builtins.GlobalVariables)
	context.Set(choose, func(_ *exec.Evaluator, p *exec.VarArgs) *exec.Value {
		for _, v := range p.Args {
			if v.IsError() {
				return v
			}
		}
		if p.Args[0].IsTrue() {
			return p.Args[1]
		}
		return p.Args[2]
	})
	return &exec.Environment{
		Context: context, Filters: filters, Tests: builtins.Tests, ControlStructures: builtins.ControlStructures, Methods: methods,
	}
}

func argument(p *exec.VarArgs, i int, name string) *exec.Value {
	if i < len(p.Args) {
		return p.Args[i]
	}
	return p.KwArgs[name]
}

func replace(self string, _ *exec.Value, p *exec.VarArgs) (any, error) {
	from, to, count := argument(p, 0, "old"), argument(p, 1, "new"), -1
	if from == nil || to == nil || !from.IsString() || !to.IsString() {
		return nil, exec.ErrInvalidCall(errText("replace wants two strings"))
	}
	if c := argument(p, 2, "count"); c != nil {
		count = c.Integer()
	}
	return strings.Replace(self, from.String(), to.String(), count), nil
}

func splitArgs(p *exec.VarArgs) (sep string, limit int) {
	limit = -1
	if s := argument(p, 0, "sep"); s != nil && s.IsString() {
		sep = s.String()
	}
	if n := argument(p, 1, "maxsplit"); n != nil {
		limit = n.Integer()
	}
	return sep, limit
}

func split(self string, _ *exec.Value, p *exec.VarArgs) (any, error) {
	sep, limit := splitArgs(p)
	if sep == "" {
		return strings.Fields(self), nil
	}
	if limit >= 0 {
		limit++
	}
	return strings.SplitN(self, sep, limit), nil
}

func rsplit(self string, _ *exec.Value, p *exec.VarArgs) (any, error) {
	sep, limit := splitArgs(p)
	if sep == "" {
		return strings.Fields(self), nil
	}
	all := strings.Split(self, sep)
	if limit >= 0 && len(all) > limit+1 {
		cut := len(all) - limit
		all = append([]string{strings.Join(all[:cut], sep)}, all[cut:]...)
	}
	return all, nil
}

type errText string

func (e errText) Error() string { return string(e) }

// toJSON is json.dumps(x, ensure_ascii=False), as Hugging Face's tojson. Keys are sorted: maps here have no order.
func toJSON(_ *exec.Evaluator, in *exec.Value, p *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	indent := ""
	if v := argument(p, 1, "indent"); v != nil && v.IsInteger() {
		indent = strings.Repeat(" ", v.Integer())
	}
	var out strings.Builder
	writeJSON(&out, in.ToGoSimpleType(false), indent, "\n")
	return exec.AsSafeValue(out.String())
}

func writeJSON(out *strings.Builder, v any, indent, line string) {
	group := func(open, closing string, n int, item func(i int)) {
		out.WriteString(open)
		for i := range n {
			switch {
			case indent != "" && i > 0:
				out.WriteString("," + line + indent)
			case indent != "":
				out.WriteString(line + indent)
			case i > 0:
				out.WriteString(", ")
			}
			item(i)
		}
		if indent != "" && n > 0 {
			out.WriteString(line)
		}
		out.WriteString(closing)
	}
	switch v := v.(type) {
	case map[string]any:
		keys := slices.Sorted(maps.Keys(v))
		group("{", "}", len(keys), func(i int) {
			writeJSON(out, keys[i], "", line)
			out.WriteString(": ")
			writeJSON(out, v[keys[i]], indent, line+indent)
		})
	case []any:
		group("[", "]", len(v), func(i int) { writeJSON(out, v[i], indent, line+indent) })
	default:
		var b strings.Builder
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if enc.Encode(v) != nil {
			out.WriteString("null")
			return
		}
		text := strings.TrimSuffix(b.String(), "\n")
		// Go escapes the two line separators, Python does not.
		out.WriteString(strings.NewReplacer(`\u2028`, "\u2028", `\u2029`, "\u2029").Replace(text))
	}
}

// choose is the function that inline conditions are rewritten to: choose(condition, then, otherwise).
const choose = "inline_if_"

var generationTag = regexp.MustCompile(`(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})`)

// rewrite turns what the library cannot parse into what it can: inline conditions within brackets or in a chain,
// the generation tag (a mark for training masks, it prints nothing), and \u escapes.
func rewrite(source string) string {
	source = generationTag.ReplaceAllStringFunc(source, func(tag string) string {
		m := generationTag.FindStringSubmatch(tag)
		if m[2] == "" {
			return m[1] + "if true" + m[3]
		}
		return m[1] + "endif" + m[3]
	})
	var out strings.Builder
	for {
		k := strings.IndexByte(source, '{')
		if k < 0 || k+1 >= len(source) {
			break
		}
		out.WriteString(source[:k])
		source = source[k:]
		switch source[1] {
		case '#':
			end := strings.Index(source, "#}")
			if end < 0 {
				end = len(source) - 2
			}
			out.WriteString(source[:end+2])
			source = source[end+2:]
		case '{', '%':
			closing := "}}"
			if source[1] == '%' {
				closing = "%}"
			}
			end := tagEnd(source[2:], closing)
			if end < 0 {
				out.WriteString(source[:2])
				source = source[2:]
				continue
			}
			body := source[2 : 2+end]
			if source[1] == '%' && strings.Trim(body, " -+\t\n") == "raw" {
				// Nothing inside is ours.
				stop := strings.Index(source, "endraw")
				if stop < 0 {
					stop = len(source)
				}
				out.WriteString(source[:stop])
				source = source[stop:]
				continue
			}
			out.WriteString(source[:2] + rewriteTag(body, source[1] == '{') + closing)
			source = source[2+end+2:]
		default:
			out.WriteByte('{')
			source = source[1:]
		}
	}
	return out.String() + source
}

// tagEnd returns where closing stands in s outside of strings and brackets, -1 if it does not.
func tagEnd(s, closing string) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\'' || c == '"':
			i = stringEnd(s, i) - 1
		case depth == 0 && strings.HasPrefix(s[i:], closing):
			return i
		case c == '(' || c == '[' || c == '{':
			depth++
		case (c == ')' || c == ']' || c == '}') && depth > 0:
			depth--
		}
	}
	return -1
}

// stringEnd returns the end of the string literal that begins at s[i].
func stringEnd(s string, i int) int {
	for k := i + 1; k < len(s); k++ {
		switch s[k] {
		case '\\':
			k++
		case s[i]:
			return k + 1
		}
	}
	return len(s)
}

var setTag = regexp.MustCompile(`^[-+]?\s*set\s+[\w.]+\s*=`)

func rewriteTag(body string, output bool) string {
	head, tail := "", ""
	if output {
		rest := strings.TrimLeft(body, "-+")
		head = body[:len(body)-len(rest)]
		body = rest
	} else {
		head = setTag.FindString(body)
		body = body[len(head):]
	}
	if strings.HasSuffix(body, "-") {
		body, tail = body[:len(body)-1], "-"
	}
	body = brackets(body)
	if (output || head != "") && len(words(body, "if")) > 1 {
		body = " " + condition(body) + " "
	}
	return head + body + tail
}

// brackets rewrites the inside of every bracket in s, and string escapes.
func brackets(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '\'', '"':
			end := stringEnd(s, i)
			out.WriteString(unescape(s[i:end]))
			i = end - 1
		case '(', '[', '{':
			end := bracketEnd(s, i)
			if end < 0 {
				out.WriteByte(c)
				continue
			}
			if n, ok := fromEnd(s, i, end); ok {
				// The library finds no [-n] in a list of n: count from the other end.
				out.WriteString("[::-1][" + strconv.Itoa(n-1) + "]")
				i = end
				continue
			}
			out.WriteByte(c)
			out.WriteString(elements(brackets(s[i+1 : end])))
			out.WriteByte(s[end])
			i = end
		default:
			out.WriteByte(c)
		}
	}
	return out.String()
}

// fromEnd reports whether s[i:end+1] is an index [-n] of what stands before it.
func fromEnd(s string, i, end int) (n int, ok bool) {
	before := strings.TrimRight(s[:i], " \t\n")
	if s[i] != '[' || before == "" || strings.ContainsAny(before[len(before)-1:], "(,=:+-*/%|~<>[{") {
		return 0, false
	}
	for _, word := range []string{"in", "or", "and", "not", "if", "else", "is"} {
		if at := words(before, word); len(at) > 0 && at[len(at)-1]+len(word) == len(before) {
			return 0, false
		}
	}
	n, err := strconv.Atoi(strings.TrimSpace(s[i+1 : end]))
	return -n, err == nil && n < 0
}

// bracketEnd returns the index of the bracket that closes the one at s[i], -1 if none does.
func bracketEnd(s string, i int) int {
	depth := 0
	for k := i; k < len(s); k++ {
		switch s[k] {
		case '\'', '"':
			k = stringEnd(s, k) - 1
		case '(', '[', '{':
			depth++
		case ')', ']', '}':
			if depth--; depth == 0 {
				return k
			}
		}
	}
	return -1
}

var keyword = regexp.MustCompile(`^\s*\w+\s*=([^=]|$)`)

// elements rewrites the inline conditions among the comma-separated elements of a bracket.
func elements(s string) string {
	var out strings.Builder
	start := 0
	flush := func(end int) {
		e := s[start:end]
		if m := keyword.FindString(e); m != "" {
			cut := strings.IndexByte(m, '=') + 1
			out.WriteString(e[:cut] + condition(e[cut:]))
		} else {
			out.WriteString(condition(e))
		}
	}
	topLevel(s, func(i int) bool {
		if s[i] == ',' || s[i] == ':' {
			flush(i)
			out.WriteByte(s[i])
			start = i + 1
		}
		return true
	})
	flush(len(s))
	return out.String()
}

// topLevel calls yield with each index of s outside of strings and brackets until it says false.
func topLevel(s string, yield func(i int) bool) {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\'' || c == '"':
			i = stringEnd(s, i) - 1
		case c == '(' || c == '[' || c == '{':
			depth++
		case c == ')' || c == ']' || c == '}':
			depth--
		case depth == 0:
			if !yield(i) {
				return
			}
		}
	}
}

// words returns where the word stands at the top level of s.
func words(s, word string) []int {
	var at []int
	name := func(i int) bool {
		return i >= 0 && i < len(s) && (s[i] == '_' || s[i] >= '0' && s[i] <= '9' || s[i]|0x20 >= 'a' && s[i]|0x20 <= 'z')
	}
	topLevel(s, func(i int) bool {
		if strings.HasPrefix(s[i:], word) && !name(i-1) && !name(i+len(word)) {
			at = append(at, i)
		}
		return true
	})
	return at
}

// condition rewrites `a if b else c` to a call of choose.
func condition(s string) string {
	ifs := words(s, "if")
	if len(ifs) == 0 {
		return s
	}
	then, rest := s[:ifs[0]], s[ifs[0]+2:]
	// The first else belongs to the first if: a condition itself holds no bare inline condition.
	test, otherwise := rest, "''"
	if elses := words(rest, "else"); len(elses) > 0 {
		test, otherwise = rest[:elses[0]], condition(rest[elses[0]+4:])
	}
	return choose + "(" + strings.TrimSpace(test) + ", " + strings.TrimSpace(then) + ", " + strings.TrimSpace(otherwise) + ")"
}

var escape = regexp.MustCompile(`\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)`)

// unescape writes \uXXXX and \xXX of a string literal as the characters they are.
func unescape(literal string) string {
	if !strings.Contains(literal, `\u`) && !strings.Contains(literal, `\x`) {
		return literal
	}
	return escape.ReplaceAllStringFunc(literal, func(e string) string {
		if len(e) < 3 {
			return e
		}
		n, err := strconv.ParseUint(e[2:], 16, 32)
		if err != nil || n < 0x20 || n == '\'' || n == '"' || n == '\\' {
			return e
		}
		return string(rune(n))
	})
}
