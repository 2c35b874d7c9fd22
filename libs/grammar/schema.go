package grammar

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
)

const (
	// maxSchema and maxProgram bound what is compiled.
	maxSchema  = 1 << 20
	maxProgram = 200_000
	// maxItems bounds counted lists, and maxLength counted strings.
	maxItems, maxLength = 10_000, 1_000_000
	// maxDigits of a number on either side of its point: what a float64 holds.
	maxDigits = 15
)

// Compile makes a grammar of a JSON schema. Invalid.
func Compile(schema []byte) (*Grammar, error) {
	if len(schema) > maxSchema {
		return nil, clara.Errorf(clara.Invalid, "schema: %d bytes; the limit is %d", len(schema), maxSchema)
	}
	root, err := parse(schema)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "schema: %w", err)
	}
	c := &compiler{root: root, rules: map[*value]int32{}}
	begin := c.emit(instruction{op: opReturn})
	begin = c.call(root, "", begin)
	begin = c.emit(instruction{op: opSpace, next: begin})
	if c.err != nil {
		return nil, c.err
	}
	return &Grammar{program: c.program, begin: begin}, nil
}

// Object is the grammar of any JSON object.
func Object() *Grammar {
	c := &compiler{rules: map[*value]int32{}}
	begin := c.emit(instruction{op: opReturn})
	begin = c.emit(instruction{op: opSpace, next: c.emit(instruction{op: opCall, to: []int32{c.anyObject()}, next: begin})})
	return &Grammar{program: c.program, begin: begin}
}

// value is JSON with the order of its keys.
type value struct {
	object []member // of an object, else nil
	list   []*value // of a list
	kind   byte     // { [ " 0 t n, for bool t
	raw    string   // compact
}

type member struct {
	key   string
	value *value
}

func (v *value) get(key string) *value {
	for _, m := range v.object {
		if m.key == key {
			return m.value
		}
	}
	return nil
}

// parse reads one JSON value.
func parse(data []byte) (*value, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := parseValue(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("more than one value")
	}
	return v, nil
}

func parseValue(dec *json.Decoder, depth int) (*value, error) {
	if depth > 2*maxDepth {
		return nil, fmt.Errorf("nested deeper than %d levels", 2*maxDepth)
	}
	token, err := dec.Token()
	if err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	switch token := token.(type) {
	case json.Delim:
		v := &value{kind: byte(token)}
		var raw strings.Builder
		raw.WriteByte(v.kind)
		for n := 0; dec.More(); n++ {
			if n > 0 {
				raw.WriteByte(',')
			}
			key := ""
			if v.kind == '{' {
				k, err := dec.Token()
				if err != nil {
					return nil, fmt.Errorf("not JSON: %w", err)
				}
				key = k.(string)
				if v.get(key) != nil {
					return nil, fmt.Errorf("key %q stands twice in an object", key)
				}
				raw.WriteString(quote(key) + ":")
			}
			x, err := parseValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			raw.WriteString(x.raw)
			if v.kind == '{' {
				v.object = append(v.object, member{key, x})
			} else {
				v.list = append(v.list, x)
			}
		}
		end, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("not JSON: %w", err)
		}
		raw.WriteString(end.(json.Delim).String())
		v.raw = raw.String()
		return v, nil
	case string:
		return &value{kind: '"', raw: quote(token)}, nil
	case json.Number:
		return &value{kind: '0', raw: token.String()}, nil
	case bool:
		return &value{kind: 't', raw: strconv.FormatBool(token)}, nil
	}
	return &value{kind: 'n', raw: "null"}, nil
}

// quote writes a string as JSON without escapes that only HTML needs.
func quote(s string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // of a string it cannot fail
	return strings.TrimSuffix(b.String(), "\n")
}

func (v *value) text() string {
	var s string
	_ = json.Unmarshal([]byte(v.raw), &s)
	return s
}

// compiler writes the program, from its end to its beginning: what emits a part is told where it goes on.
type compiler struct {
	root    *value
	program []instruction
	rules   map[*value]int32 // where the values of a schema begin; they end with opReturn
	object  int32            // rules of free JSON; 0: not made
	free    int32
	err     error // the first one
}

func (c *compiler) fail(at, format string, args ...any) {
	if c.err == nil {
		if at == "" {
			at = "/"
		}
		c.err = clara.Errorf(clara.Invalid, "schema: %s: %s", at, fmt.Sprintf(format, args...))
	}
}

func (c *compiler) emit(in instruction) int32 {
	if len(c.program) >= maxProgram {
		c.fail("", "it is too large")
		return 0
	}
	c.program = append(c.program, in)
	return int32(len(c.program) - 1)
}

func (c *compiler) word(s string, next int32) int32 {
	// A place in a word is a byte.
	for len(s) > 200 {
		next = c.emit(instruction{op: opWord, word: s[len(s)-200:], next: next})
		s = s[:len(s)-200]
	}
	return c.emit(instruction{op: opWord, word: s, next: next})
}

// open writes the bracket that begins an object or a list.
func (c *compiler) open(bracket string, next int32) int32 {
	return c.emit(instruction{op: opWord, word: bracket, opens: true, next: next})
}

func (c *compiler) space(next int32) int32 { return c.emit(instruction{op: opSpace, next: next}) }

func (c *compiler) split(to ...int32) int32 {
	if len(to) == 1 {
		return to[0]
	}
	return c.emit(instruction{op: opSplit, to: to})
}

func (c *compiler) set(next int32, ranges ...byte) int32 {
	in := instruction{op: opBytes, next: next}
	for i := 0; i < len(ranges); i += 2 {
		in.set.add(ranges[i], ranges[i+1])
	}
	return c.emit(in)
}

// call goes through the values of a schema. Each schema is written once.
func (c *compiler) call(v *value, at string, next int32) int32 {
	return c.emit(instruction{op: opCall, to: []int32{c.rule(v, at)}, next: next})
}

// rule writes the values of a schema, unless they are there.
func (c *compiler) rule(v *value, at string) int32 {
	if pc, ok := c.rules[v]; ok {
		return pc
	}
	// Those within may refer to it, so its place comes first.
	begin := c.emit(instruction{op: opSplit})
	c.rules[v] = begin
	if c.err != nil {
		return begin
	}
	end := c.emit(instruction{op: opReturn})
	body := c.schema(v, at, end, nil)
	if c.err == nil {
		c.program[begin].to = []int32{body}
	}
	return begin
}

// known are the keywords that are done, and annotations.
var known = map[string]bool{
	"type": true, "properties": true, "required": true, "additionalProperties": true, "items": true, "prefixItems": true, "minItems": true, "maxItems": true,
	"minLength": true, "maxLength": true, "enum": true, "const": true, "anyOf": true, "oneOf": true, "allOf": true, "$ref": true,
	"$defs": true, "definitions": true, "$schema": true, "$id": true, "$comment": true, "$anchor": true, "title": true, "description": true, "default": true,
	"examples": true, "example": true, "deprecated": true, "readOnly": true, "writeOnly": true, "format": true, "nullable": true, "discriminator": true,
}

// annotation are the keywords that say nothing about a value; others can't stand beside one that says all.
var annotation = map[string]bool{
	"$defs": true, "definitions": true, "$schema": true, "$id": true, "$comment": true, "$anchor": true, "title": true, "description": true, "default": true,
	"examples": true, "example": true, "deprecated": true, "readOnly": true, "writeOnly": true, "format": true, "discriminator": true,
}

// schema writes the values of a schema. open are the schemas that it stands in without anything between: one that
// comes again would never begin.
func (c *compiler) schema(v *value, at string, next int32, open []*value) int32 {
	switch {
	case c.err != nil:
		return next
	case v.kind == 't' && v.raw == "true":
		return c.any(next)
	case v.kind != '{':
		c.fail(at, "%s is no schema", short(v.raw))
		return next
	case slices.Contains(open, v):
		c.fail(at, "it stands for itself alone")
		return next
	}
	open = append(slices.Clip(open), v)
	for _, m := range v.object {
		if !known[m.key] {
			c.fail(at, "%q is not done here: leave it out", m.key)
			return next
		}
	}
	// Keywords that say all: what stands beside them would have to hold as well.
	for _, key := range []string{"$ref", "const", "enum", "anyOf", "oneOf", "allOf"} {
		x := v.get(key)
		if x == nil {
			continue
		}
		for _, m := range v.object {
			if m.key != key && !annotation[m.key] && !(m.key == "type" && (key == "const" || key == "enum")) {
				c.fail(at, "%q beside %q is not done here", m.key, key)
				return next
			}
		}
		switch key {
		case "$ref":
			return c.ref(x, at, next, open)
		case "const":
			return c.literal(v, x, at, next)
		case "enum":
			if x.kind != '[' || len(x.list) == 0 {
				c.fail(at+"/enum", "want a list of values")
				return next
			}
			to := make([]int32, len(x.list))
			for i, y := range x.list {
				to[i] = c.literal(v, y, at+"/enum", next)
			}
			return c.split(to...)
		}
		if x.kind != '[' || len(x.list) == 0 || key == "allOf" && len(x.list) > 1 {
			c.fail(at+"/"+key, "want a list of schemas, of one for allOf")
			return next
		}
		to := make([]int32, len(x.list))
		for i, y := range x.list {
			to[i] = c.schema(y, fmt.Sprintf("%s/%s/%d", at, key, i), next, open)
		}
		return c.split(to...)
	}
	return c.typed(v, at, next)
}

// literal writes one value, which must be of the schema's type where it gives one.
func (c *compiler) literal(v, x *value, at string, next int32) int32 {
	if t := v.get("type"); t != nil {
		names := c.types(t, at)
		name := map[byte]string{'{': "object", '[': "array", '"': "string", '0': "number", 't': "boolean", 'n': "null"}[x.kind]
		if !slices.Contains(names, name) && !(name == "number" && slices.Contains(names, "integer") && !strings.ContainsAny(x.raw, ".eE")) {
			c.fail(at, "%s is not of the schema's type", short(x.raw))
		}
	}
	return c.word(x.raw, next)
}

func (c *compiler) types(t *value, at string) []string {
	list := []*value{t}
	if t.kind == '[' {
		list = t.list
	}
	var names []string
	for _, x := range list {
		name := x.text()
		switch name {
		case "object", "array", "string", "number", "integer", "boolean", "null":
			names = append(names, name)
		default:
			c.fail(at+"/type", "%s is no type", short(x.raw))
		}
	}
	if len(names) == 0 {
		c.fail(at+"/type", "want a type or a list of types")
	}
	return names
}

// typed writes the values of a schema by its types, or by what its keywords are about.
func (c *compiler) typed(v *value, at string, next int32) int32 {
	var names []string
	switch t := v.get("type"); {
	case t != nil:
		names = c.types(t, at)
	case v.get("properties") != nil || v.get("required") != nil || v.get("additionalProperties") != nil:
		names = []string{"object"}
	case v.get("items") != nil || v.get("prefixItems") != nil || v.get("minItems") != nil || v.get("maxItems") != nil:
		names = []string{"array"}
	case v.get("minLength") != nil || v.get("maxLength") != nil:
		names = []string{"string"}
	default:
		return c.any(next)
	}
	if n := v.get("nullable"); n != nil && n.raw == "true" && !slices.Contains(names, "null") {
		names = append(names, "null")
	}
	var to []int32
	for _, name := range names {
		if c.err != nil {
			return next
		}
		switch name {
		case "object":
			to = append(to, c.properties(v, at, next))
		case "array":
			to = append(to, c.items(v, at, next))
		case "string":
			low, high := c.bounds(v, at, "minLength", "maxLength", maxLength)
			to = append(to, c.text(low, high, next))
		case "number":
			to = append(to, c.number(true, next))
		case "integer":
			to = append(to, c.number(false, next))
		case "boolean":
			to = append(to, c.word("true", next), c.word("false", next))
		case "null":
			to = append(to, c.word("null", next))
		}
	}
	if len(to) == 0 {
		return next
	}
	return c.split(to...)
}

// bounds reads two counts; the second is -1 where it is not given.
func (c *compiler) bounds(v *value, at, low, high string, limit int32) (min, max int32) {
	read := func(key string, otherwise int32) int32 {
		x := v.get(key)
		if x == nil {
			return otherwise
		}
		f, err := strconv.ParseFloat(x.raw, 64)
		if x.kind != '0' || err != nil || f < 0 || f != float64(int64(f)) || f > float64(limit) {
			c.fail(at+"/"+key, "%s: want a whole number up to %d", short(x.raw), limit)
			return otherwise
		}
		return int32(f)
	}
	min, max = read(low, 0), read(high, -1)
	if max >= 0 && max < min {
		c.fail(at, "%s is less than %s", high, low)
	}
	return min, max
}

// text writes strings.
func (c *compiler) text(min, max, next int32) int32 {
	end := c.word(`"`, next)
	return c.word(`"`, c.emit(instruction{op: opText, min: min, max: max, next: end}))
}

// number writes numbers.
func (c *compiler) number(fraction bool, next int32) int32 {
	end := next
	if fraction {
		exponent := c.digits(1, 2, end)
		exponent = c.split(c.set(exponent, '+', '+', '-', '-'), exponent)
		end = c.split(c.set(exponent, 'e', 'e', 'E', 'E'), end)
		end = c.split(c.word(".", c.digits(1, maxDigits, end)), end)
	}
	body := c.split(c.word("0", end), c.set(c.digits(0, maxDigits-1, end), '1', '9'))
	return c.split(c.word("-", body), body)
}

// digits writes so many digits.
func (c *compiler) digits(min, max int, next int32) int32 {
	at := next
	for i := max; i > 0; i-- {
		more := c.set(at, '0', '9')
		if at = more; i <= min {
			continue
		}
		at = c.split(more, next)
	}
	return at
}

// pair writes a key and its value.
func (c *compiler) pair(key string, v *value, at string, next int32) int32 {
	return c.word(quote(key)+":", c.space(c.call(v, at, next)))
}

// whole is the schema of any value.
var whole = &value{kind: 't', raw: "true"}

// properties writes objects: keys in the schema's order, or free ones where it names none.
func (c *compiler) properties(v *value, at string, next int32) int32 {
	var names []member
	if p := v.get("properties"); p != nil {
		if p.kind != '{' {
			c.fail(at+"/properties", "want an object")
			return next
		}
		names = p.object
	}
	required := map[string]bool{}
	if r := v.get("required"); r != nil {
		for _, x := range r.list {
			key := x.text()
			if x.kind != '"' {
				c.fail(at+"/required", "want a list of names")
				return next
			}
			required[key] = true
			if !slices.ContainsFunc(names, func(m member) bool { return m.key == key }) {
				names = append(slices.Clip(names), member{key, whole})
			}
		}
	}
	end := c.space(c.word("}", next))
	more := v.get("additionalProperties")
	if len(names) == 0 {
		switch {
		case more == nil || more.raw == "true":
			more = whole
		case more.raw == "false":
			return c.open("{", end)
		}
		return c.open("{", c.freePairs(more, at+"/additionalProperties", end))
	}
	// Two chains, of what follows when nothing was written yet and when something was.
	empty, some := end, end
	for i := len(names) - 1; i >= 0; i-- {
		m := names[i]
		write := c.pair(m.key, m.value, at+"/properties/"+m.key, some)
		first, further := c.space(write), c.word(",", c.space(write))
		if required[m.key] {
			empty, some = first, further
		} else {
			empty, some = c.split(first, empty), c.split(further, some)
		}
	}
	return c.open("{", empty)
}

// freePairs writes any number of pairs with values of a schema.
func (c *compiler) freePairs(v *value, at string, end int32) int32 {
	again := c.emit(instruction{op: opSplit})
	one := c.text(0, -1, c.word(":", c.space(c.call(v, at, again))))
	c.program[again].to = []int32{c.word(",", c.space(one)), end}
	return c.split(c.space(one), end)
}

// items writes lists.
func (c *compiler) items(v *value, at string, next int32) int32 {
	low, high := c.bounds(v, at, "minItems", "maxItems", maxItems)
	var first []*value
	if p := v.get("prefixItems"); p != nil {
		first = p.list
	}
	rest := v.get("items")
	switch {
	case rest == nil:
		rest = whole
	case rest.kind == 't' && rest.raw == "false":
		if n := int32(len(first)); high < 0 || high > n {
			high = n
		}
	}
	if high >= 0 && high < low {
		c.fail(at, "no list has so few items and so many")
		return next
	}
	item := func(i int32, next int32) int32 {
		if int(i) < len(first) {
			return c.call(first[i], fmt.Sprintf("%s/prefixItems/%d", at, i), next)
		}
		return c.call(rest, at+"/items", next)
	}
	end := c.space(c.word("]", next))
	// tail is what follows the first n items.
	counted := high
	if high < 0 {
		counted = max(low, int32(len(first)))
	}
	tail := end
	if high < 0 {
		again := c.emit(instruction{op: opSplit})
		more := c.word(",", c.space(item(maxItems, again)))
		c.program[again].to = []int32{more, end}
		tail = again
	}
	for n := counted; n > 0; n-- {
		write := item(n-1, tail)
		if n > 1 {
			write = c.word(",", c.space(write))
		} else {
			write = c.space(write)
		}
		if tail = write; n > low {
			tail = c.split(write, end)
		}
	}
	if counted == 0 && high < 0 {
		tail = c.split(c.space(item(maxItems, tail)), end)
	}
	return c.open("[", tail)
}

// ref goes to another schema of the same document.
func (c *compiler) ref(x *value, at string, next int32, open []*value) int32 {
	path, ok := strings.CutPrefix(x.text(), "#")
	if x.kind != '"' || !ok {
		c.fail(at+"/$ref", "%s: only references within the schema are followed", short(x.raw))
		return next
	}
	v := c.root
	for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
		if part == "" {
			continue
		}
		part = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
		n, err := strconv.Atoi(part)
		switch {
		case v.kind == '[' && err == nil && n >= 0 && n < len(v.list):
			v = v.list[n]
		case v.get(part) != nil:
			v = v.get(part)
		default:
			c.fail(at+"/$ref", "%s leads nowhere", short(x.raw))
			return next
		}
	}
	// Followed, not called, as far as nothing stands between: what comes back to itself is found.
	if slices.Contains(open, v) {
		c.fail(at+"/$ref", "%s stands for itself alone", short(x.raw))
		return next
	}
	if v.kind == '{' && (v.get("$ref") != nil || v.get("anyOf") != nil || v.get("oneOf") != nil || v.get("allOf") != nil) {
		return c.schema(v, strings.TrimSuffix(path, "/"), next, open)
	}
	return c.call(v, path, next)
}

// any writes any value.
func (c *compiler) any(next int32) int32 {
	if c.free == 0 {
		c.free = c.emit(instruction{op: opSplit})
		end := c.emit(instruction{op: opReturn})
		list := c.items(&value{kind: '{'}, "", end)
		c.program[c.free].to = []int32{
			c.text(0, -1, end), c.number(true, end), c.word("true", end), c.word("false", end), c.word("null", end), list,
			c.emit(instruction{op: opCall, to: []int32{c.anyObject()}, next: end}),
		}
	}
	return c.emit(instruction{op: opCall, to: []int32{c.free}, next: next})
}

// anyObject is the rule of any object.
func (c *compiler) anyObject() int32 {
	if c.object == 0 {
		c.object = c.emit(instruction{op: opSplit})
		c.program[c.object].to = []int32{c.properties(&value{kind: '{'}, "", c.emit(instruction{op: opReturn}))}
	}
	return c.object
}

// short is a piece of JSON for an error.
func short(raw string) string {
	if len(raw) > 60 {
		return strings.ToValidUTF8(raw[:57], "") + "..."
	}
	return raw
}
