package tokenizer

import (
	"encoding/json"
	"errors"
	"hash/maphash"
	"io/fs"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode"

	"github.com/dlclark/regexp2"
	"golang.org/x/text/unicode/norm"

	"github.com/clara-suite/clara/libs/clara"
)

// Files are the files of a Hugging Face tokenizer. Only Tokenizer (tokenizer.json) is required.
type Files struct {
	Tokenizer        []byte // tokenizer.json
	Config           []byte // tokenizer_config.json
	SpecialTokensMap []byte // special_tokens_map.json
	AddedTokens      []byte // added_tokens.json
	ChatTemplate     []byte // chat_template.jinja
}

// Load reads the tokenizer of the Hugging Face folder dir. It returns NotFound if there is no tokenizer.json.
func Load(dir string) (*Tokenizer, error) { return LoadFS(os.DirFS(dir)) }

// LoadFS is Load for a folder in any file system.
func LoadFS(folder fs.FS) (*Tokenizer, error) {
	var f Files
	for _, x := range []struct {
		name string
		to   *[]byte
	}{
		{"tokenizer.json", &f.Tokenizer}, {"tokenizer_config.json", &f.Config}, {"special_tokens_map.json", &f.SpecialTokensMap},
		{"added_tokens.json", &f.AddedTokens}, {"chat_template.jinja", &f.ChatTemplate},
	} {
		b, err := fs.ReadFile(folder, x.name)
		if errors.Is(err, fs.ErrNotExist) {
			if x.to == &f.Tokenizer {
				return nil, clara.Errorf(clara.NotFound, "load tokenizer: %w", err)
			}
			continue
		}
		if err != nil {
			return nil, clara.Errorf(clara.Unavailable, "load tokenizer: %w", err)
		}
		*x.to = b
	}
	return Parse(f)
}

// component is any node of tokenizer.json: its type and every field that one of the supported types has.
type component struct {
	Type           string
	Normalizers    []component
	Pretokenizers  []component
	Processors     []component
	Decoders       []component
	Pattern        struct{ String, Regex *string }
	Content        string
	Prepend        string
	StripLeft      *bool `json:"strip_left"`
	StripRight     *bool `json:"strip_right"`
	CleanText      *bool `json:"clean_text"`
	Chinese        *bool `json:"handle_chinese_chars"`
	StripAccents   *bool `json:"strip_accents"`
	Lowercase      *bool
	AddPrefixSpace *bool `json:"add_prefix_space"`
	UseRegex       *bool `json:"use_regex"`
	Individual     bool  `json:"individual_digits"`
	Behavior       string
	Invert         bool
	Replacement    string
	PrependScheme  string `json:"prepend_scheme"`
	Split          *bool
	Delimiter      string
	Single         []struct {
		SpecialToken *struct{ ID string }
		Sequence     *struct{ ID string }
	}
	SpecialTokens map[string]struct{ IDs []int32 } `json:"special_tokens"`
	Sep, Cls      []any
	Start, Stop   int
	Prefix        string
	Cleanup       *bool
}

func or(p *bool, otherwise bool) bool {
	if p == nil {
		return otherwise
	}
	return *p
}

type tokenizerJSON struct {
	AddedTokens   []addedJSON `json:"added_tokens"`
	Normalizer    *component
	PreTokenizer  *component `json:"pre_tokenizer"`
	PostProcessor *component `json:"post_processor"`
	Decoder       *component
	Model         modelJSON
}

type modelJSON struct {
	Type         string
	Vocab        json.RawMessage
	Merges       []json.RawMessage
	UnkToken     *string `json:"unk_token"`
	Prefix       *string `json:"continuing_subword_prefix"`
	Suffix       *string `json:"end_of_word_suffix"`
	Dropout      float64
	FuseUnk      bool `json:"fuse_unk"`
	ByteFallback bool `json:"byte_fallback"`
	IgnoreMerges bool `json:"ignore_merges"`
	MaxRunes     *int `json:"max_input_chars_per_word"`
}

type addedJSON struct {
	ID         int32
	Content    string
	SingleWord bool `json:"single_word"`
	Lstrip     bool
	Rstrip     bool
	Normalized bool
	Special    bool
}

func (a addedJSON) token() addedToken {
	return addedToken{
		content: a.Content, id: a.ID, special: a.Special,
		singleWord: a.SingleWord, lstrip: a.Lstrip, rstrip: a.Rstrip, normal: a.Normalized,
	}
}

// Parse builds a tokenizer from its files.
func Parse(f Files) (*Tokenizer, error) {
	var j tokenizerJSON
	if err := json.Unmarshal(f.Tokenizer, &j); err != nil {
		return nil, clara.Errorf(clara.Invalid, "parse tokenizer.json: %w", err)
	}
	t := &Tokenizer{decodeSep: " "}
	var err error
	if t.normalizers, err = buildNormalizers(nil, j.Normalizer); err != nil {
		return nil, err
	}
	bytes := false
	if t.pre, err = buildPre(nil, j.PreTokenizer, &bytes); err != nil {
		return nil, err
	}
	if t.model, err = buildModel(j.Model, bytes); err != nil {
		return nil, err
	}
	if t.post, err = buildPost(nil, j.PostProcessor); err != nil {
		return nil, err
	}
	if t.decoders, err = buildDecoders(nil, j.Decoder); err != nil {
		return nil, err
	}
	var added []addedToken
	known := map[int32]bool{}
	for _, a := range j.AddedTokens {
		known[a.ID] = true
		added = append(added, a.token())
	}
	more, err := t.configure(f)
	if err != nil {
		return nil, err
	}
	for _, a := range more {
		if a.id < 0 {
			return nil, clara.Errorf(clara.Invalid, "parse tokenizer: added token %q has the id %d", a.content, a.id)
		}
		if !known[a.id] {
			known[a.id] = true
			added = append(added, a)
		}
	}
	t.setAdded(added)
	return t, nil
}

// configure reads the files beside tokenizer.json and returns the added tokens that they name.
func (t *Tokenizer) configure(f Files) ([]addedToken, error) {
	var added []addedToken
	conf := map[string]json.RawMessage{}
	for _, x := range []struct {
		name string
		data []byte
	}{{"special_tokens_map.json", f.SpecialTokensMap}, {"tokenizer_config.json", f.Config}} {
		if len(x.data) == 0 {
			continue
		}
		var one map[string]json.RawMessage
		if err := json.Unmarshal(x.data, &one); err != nil {
			return nil, clara.Errorf(clara.Invalid, "parse %s: %w", x.name, err)
		}
		for k, v := range one {
			conf[k] = v
		}
	}
	for _, x := range []struct {
		key string
		to  *string
	}{{"bos_token", &t.special.BOS}, {"eos_token", &t.special.EOS}, {"pad_token", &t.special.Pad}, {"unk_token", &t.special.Unk}} {
		*x.to = tokenName(conf[x.key])
	}
	for _, key := range []string{"additional_special_tokens", "extra_special_tokens"} {
		var list []json.RawMessage
		if json.Unmarshal(conf[key], &list) != nil { // newer files may hold a table of named tokens here: not a list
			continue
		}
		for _, raw := range list {
			t.special.Additional = append(t.special.Additional, tokenName(raw))
		}
		if len(list) > 0 {
			break
		}
	}
	if raw, ok := conf["added_tokens_decoder"]; ok {
		var table map[string]addedJSON
		if err := json.Unmarshal(raw, &table); err != nil {
			return nil, clara.Errorf(clara.Invalid, "parse added_tokens_decoder: %w", err)
		}
		for key, a := range table {
			id, err := strconv.ParseInt(key, 10, 32)
			if err != nil {
				return nil, clara.Errorf(clara.Invalid, "parse added_tokens_decoder: %w", err)
			}
			a.ID = int32(id)
			added = append(added, a.token())
		}
	}
	if len(f.AddedTokens) > 0 {
		var table map[string]int32
		if err := json.Unmarshal(f.AddedTokens, &table); err != nil {
			return nil, clara.Errorf(clara.Invalid, "parse added_tokens.json: %w", err)
		}
		for name, id := range table {
			added = append(added, addedToken{content: name, id: id})
		}
	}
	sort.SliceStable(added, func(i, k int) bool { return added[i].id < added[k].id })
	t.template = string(f.ChatTemplate)
	if t.template == "" {
		t.template = templateOf(conf["chat_template"])
	}
	return added, nil
}

// tokenName reads a token given as a string or as an object with its content.
func tokenName(raw json.RawMessage) string {
	var name string
	if json.Unmarshal(raw, &name) == nil {
		return name
	}
	var object struct{ Content string }
	_ = json.Unmarshal(raw, &object) // absent or null: no token
	return object.Content
}

// templateOf reads a chat template given as a string or as a list of named ones.
func templateOf(raw json.RawMessage) string {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return one
	}
	var list []struct{ Name, Template string }
	_ = json.Unmarshal(raw, &list) // absent or null: no template
	for _, x := range list {
		if x.Name == "default" {
			return x.Template
		}
	}
	return ""
}

func unsupported(what, kind string) error {
	return clara.Errorf(clara.Unsupported, "parse tokenizer.json: %s of type %q", what, kind)
}

func compile(pattern string) (*regexp2.Regexp, error) {
	re, err := regexp2.Compile(pattern, regexp2.None)
	if err != nil {
		return nil, clara.Errorf(clara.Unsupported, "parse tokenizer.json: pattern: %w", err)
	}
	return re, nil
}

func buildNormalizers(list []normalizer, c *component) ([]normalizer, error) {
	if c == nil {
		return list, nil
	}
	switch c.Type {
	case "Sequence":
		for i := range c.Normalizers {
			var err error
			if list, err = buildNormalizers(list, &c.Normalizers[i]); err != nil {
				return nil, err
			}
		}
		return list, nil
	case "NFC":
		return append(list, unicodeForm(norm.NFC)), nil
	case "NFD":
		return append(list, unicodeForm(norm.NFD)), nil
	case "NFKC":
		return append(list, unicodeForm(norm.NFKC)), nil
	case "NFKD":
		return append(list, unicodeForm(norm.NFKD)), nil
	case "Lowercase":
		return append(list, lowercase()), nil
	case "StripAccents":
		return append(list, stripAccents(unicode.M)), nil
	case "Nmt":
		return append(list, nmt()), nil
	case "Strip":
		return append(list, strip(or(c.StripLeft, true), or(c.StripRight, true))), nil
	case "Prepend":
		return append(list, prepend(c.Prepend)), nil
	case "Replace":
		if c.Pattern.String != nil {
			return append(list, replaceString(*c.Pattern.String, c.Content)), nil
		}
		if c.Pattern.Regex == nil {
			return nil, clara.Errorf(clara.Invalid, "parse tokenizer.json: Replace without a pattern")
		}
		re, err := compile(*c.Pattern.Regex)
		if err != nil {
			return nil, err
		}
		return append(list, replaceRegexp(re, c.Content)), nil
	case "BertNormalizer":
		if or(c.CleanText, true) {
			list = append(list, cleanText())
		}
		if or(c.Chinese, true) {
			list = append(list, spaceChinese())
		}
		if or(c.StripAccents, or(c.Lowercase, true)) {
			list = append(list, unicodeForm(norm.NFD), stripAccents(unicode.Mn))
		}
		if or(c.Lowercase, true) {
			list = append(list, lowercase())
		}
		return list, nil
	}
	return nil, unsupported("normalizer", c.Type)
}

// buildPre appends the pre-tokenizers of c. It sets bytes when one of them is ByteLevel.
func buildPre(list []preStep, c *component, bytes *bool) ([]preStep, error) {
	if c == nil {
		return list, nil
	}
	if *bytes {
		return nil, unsupported("pre-tokenizer after ByteLevel", c.Type)
	}
	switch c.Type {
	case "Sequence":
		for i := range c.Pretokenizers {
			var err error
			if list, err = buildPre(list, &c.Pretokenizers[i], bytes); err != nil {
				return nil, err
			}
		}
		return list, nil
	case "ByteLevel":
		*bytes = true
		if or(c.AddPrefixSpace, true) {
			list = append(list, spaceFirst{})
		}
		if or(c.UseRegex, true) {
			list = append(list, scanStep{scanGPT2})
		}
		return list, nil
	case "Split":
		how, err := behaviorOf(c.Behavior, "")
		if err != nil {
			return nil, err
		}
		if c.Pattern.String != nil {
			return append(list, matchStep{findString(*c.Pattern.String), how, c.Invert}), nil
		}
		if c.Pattern.Regex == nil {
			return nil, clara.Errorf(clara.Invalid, "parse tokenizer.json: Split without a pattern")
		}
		if next := knownScanner(*c.Pattern.Regex); next != nil {
			// These match everywhere, so that keeping only the matches is isolating them.
			if how == isolated || how == removed && c.Invert {
				return append(list, scanStep{next}), nil
			}
			return append(list, matchStep{findScanner(next), how, c.Invert}), nil
		}
		re, err := compile(*c.Pattern.Regex)
		if err != nil {
			return nil, err
		}
		return append(list, matchStep{findRegexp(re), how, c.Invert}), nil
	case "Digits":
		how := contiguous
		if c.Individual {
			how = isolated
		}
		return append(list, matchStep{findRunes(unicode.IsNumber), how, false}), nil
	case "Metaspace":
		scheme := c.PrependScheme
		if scheme == "" {
			scheme = "always"
			if !or(c.AddPrefixSpace, true) {
				scheme = "never"
			}
		}
		if c.Replacement == "" {
			c.Replacement = "▁"
		}
		return append(list, metaspace{c.Replacement, scheme, or(c.Split, true)}), nil
	case "Whitespace":
		return append(list, matchStep{findWords, removed, true}), nil
	case "WhitespaceSplit":
		return append(list, matchStep{findRunes(unicode.IsSpace), removed, false}), nil
	case "Punctuation":
		how, err := behaviorOf(c.Behavior, "Isolated")
		if err != nil {
			return nil, err
		}
		return append(list, matchStep{findRunes(isPunctuation), how, false}), nil
	case "BertPreTokenizer":
		return append(list, matchStep{findRunes(unicode.IsSpace), removed, false}, matchStep{findRunes(isPunctuation), isolated, false}), nil
	case "CharDelimiterSplit":
		return append(list, matchStep{findString(c.Delimiter), removed, false}), nil
	}
	return nil, unsupported("pre-tokenizer", c.Type)
}

func behaviorOf(name, otherwise string) (behavior, error) {
	if name == "" {
		name = otherwise
	}
	switch name {
	case "Isolated":
		return isolated, nil
	case "Removed":
		return removed, nil
	case "MergedWithPrevious":
		return mergedWithPrevious, nil
	case "MergedWithNext":
		return mergedWithNext, nil
	case "Contiguous":
		return contiguous, nil
	}
	return 0, unsupported("behavior", name)
}

// postItem is a part of what a post-processor makes of a text: the text, or ids of special tokens.
type postItem struct {
	text bool
	ids  []int32
}

func buildPost(list []postItem, c *component) ([]postItem, error) {
	if c == nil {
		return list, nil
	}
	// wrap puts more around what earlier processors made.
	wrap := func(before, after []postItem) []postItem {
		if list == nil {
			list = []postItem{{text: true}}
		}
		return append(append(before, list...), after...)
	}
	switch c.Type {
	case "ByteLevel": // trims offsets only
		return list, nil
	case "Sequence":
		for i := range c.Processors {
			var err error
			if list, err = buildPost(list, &c.Processors[i]); err != nil {
				return nil, err
			}
		}
		return list, nil
	case "TemplateProcessing":
		var before, after []postItem
		to := &before
		for _, item := range c.Single {
			if item.SpecialToken == nil {
				to = &after
				continue
			}
			special, ok := c.SpecialTokens[item.SpecialToken.ID]
			if !ok {
				return nil, clara.Errorf(clara.Invalid, "parse tokenizer.json: template names the unknown token %q", item.SpecialToken.ID)
			}
			*to = append(*to, postItem{ids: special.IDs})
		}
		return wrap(before, after), nil
	case "BertProcessing", "RobertaProcessing":
		ids := make([][]int32, 2)
		for i, pair := range [][]any{c.Cls, c.Sep} {
			if len(pair) == 2 {
				if id, ok := pair[1].(float64); ok {
					ids[i] = []int32{int32(id)}
					continue
				}
			}
			return nil, clara.Errorf(clara.Invalid, "parse tokenizer.json: %s without cls or sep", c.Type)
		}
		return wrap([]postItem{{ids: ids[0]}}, []postItem{{ids: ids[1]}}), nil
	}
	return nil, unsupported("post-processor", c.Type)
}

func buildDecoders(list []decoder, c *component) ([]decoder, error) {
	if c == nil {
		return list, nil
	}
	switch c.Type {
	case "Sequence":
		for i := range c.Decoders {
			var err error
			if list, err = buildDecoders(list, &c.Decoders[i]); err != nil {
				return nil, err
			}
		}
		return list, nil
	case "ByteLevel":
		return append(list, decodeByteLevel), nil
	case "ByteFallback":
		return append(list, decodeBytes), nil
	case "Fuse":
		return append(list, decodeFuse), nil
	case "Strip":
		return append(list, decodeStrip(c.Content, c.Start, c.Stop)), nil
	case "Replace":
		if c.Pattern.String == nil {
			return nil, unsupported("decoder with a regular expression", c.Type)
		}
		return append(list, decodeReplace(*c.Pattern.String, c.Content)), nil
	case "Metaspace":
		scheme := c.PrependScheme
		if scheme == "" && !or(c.AddPrefixSpace, true) {
			scheme = "never"
		}
		if c.Replacement == "" {
			c.Replacement = "▁"
		}
		return append(list, decodeMetaspace(c.Replacement, scheme)), nil
	case "WordPiece":
		return append(list, decodeWordPiece(c.Prefix, or(c.Cleanup, true))), nil
	}
	return nil, unsupported("decoder", c.Type)
}

func buildModel(j modelJSON, bytes bool) (model, error) {
	kind := j.Type
	if kind == "" && j.Merges != nil {
		kind = "BPE" // old files do not say
	}
	if kind != "BPE" && kind != "WordPiece" {
		return nil, unsupported("model", kind)
	}
	var ids map[string]int32
	if err := json.Unmarshal(j.Vocab, &ids); err != nil {
		return nil, clara.Errorf(clara.Invalid, "parse tokenizer.json: vocabulary: %w", err)
	}
	names, err := namesOf(ids)
	if err != nil {
		return nil, err
	}
	unk := None
	if j.UnkToken != nil {
		id, ok := ids[*j.UnkToken]
		if ok {
			unk = id
		} else if kind == "WordPiece" {
			return nil, clara.Errorf(clara.Invalid, "parse tokenizer.json: unknown token %q is not in the vocabulary", *j.UnkToken)
		}
	}
	if kind == "WordPiece" {
		m := &wordPiece{vocab: ids, names: names, prefix: "##", unk: unk, maxRunes: 100}
		if j.Prefix != nil {
			m.prefix = *j.Prefix
		}
		if j.MaxRunes != nil {
			m.maxRunes = *j.MaxRunes
		}
		return m, nil
	}
	for _, affix := range []*string{j.Prefix, j.Suffix} {
		if affix != nil && *affix != "" {
			return nil, clara.Errorf(clara.Unsupported, "parse tokenizer.json: BPE with word affix %q", *affix)
		}
	}
	if j.Dropout > 0 {
		return nil, clara.Errorf(clara.Unsupported, "parse tokenizer.json: BPE with dropout %g", j.Dropout)
	}
	m := newBPE(ids, names, bytes)
	m.unk, m.fuseUnk, m.byteFallback, m.ignoreMerges = unk, j.FuseUnk, j.ByteFallback, j.IgnoreMerges
	merges := make([][2]string, len(j.Merges))
	for i, raw := range j.Merges {
		if merges[i], err = mergeOf(raw); err != nil {
			return nil, err
		}
	}
	return m, m.setMerges(merges)
}

func namesOf(ids map[string]int32) ([]string, error) {
	top := int32(-1)
	for name, id := range ids {
		if id < 0 || id > 1<<24 {
			return nil, clara.Errorf(clara.Invalid, "parse tokenizer: token %q has the id %d", name, id)
		}
		top = max(top, id)
	}
	names := make([]string, top+1)
	for name, id := range ids {
		names[id] = name
	}
	return names, nil
}

// mergeOf reads a merge written "a b" or ["a", "b"].
func mergeOf(raw json.RawMessage) ([2]string, error) {
	var pair []string
	var line string
	if err := json.Unmarshal(raw, &line); err == nil {
		pair = strings.Split(line, " ")
	} else if err := json.Unmarshal(raw, &pair); err != nil {
		return [2]string{}, clara.Errorf(clara.Invalid, "parse tokenizer.json: merge %s: %w", raw, err)
	}
	if len(pair) != 2 {
		return [2]string{}, clara.Errorf(clara.Invalid, "parse tokenizer.json: merge %s is not a pair", raw)
	}
	return [2]string{pair[0], pair[1]}, nil
}

// newBPE builds a model without merges from its vocabulary.
func newBPE(ids map[string]int32, names []string, bytes bool) *bpe {
	m := &bpe{
		nameIDs: ids, names: names, vocab: ids, bytes: bytes, unk: None,
		seed: maphash.MakeSeed(), cache: make([]atomic.Pointer[cached], cacheSlots),
	}
	if bytes {
		m.vocab = make(map[string]int32, len(ids))
		for name, id := range ids {
			if b, ok := rawBytes(name); ok {
				m.vocab[b] = id
			}
		}
	}
	for b := range 256 {
		m.byteIDs[b], m.fallback[b] = None, None
		if id, ok := ids[string(runeOf[b])]; ok {
			m.byteIDs[b] = id
		}
		const hex = "0123456789ABCDEF"
		if id, ok := ids["<0x"+string(hex[b>>4])+string(hex[b&15])+">"]; ok {
			m.fallback[b] = id
		}
	}
	return m
}

// setMerges installs the merges, best first.
func (m *bpe) setMerges(merges [][2]string) error {
	m.pairs = newPairTable(len(merges))
	const mark = "▁"
	_, whole := m.vocab[mark]
	whole = whole && !m.bytes && !m.ignoreMerges
	for rank, p := range merges {
		left, okL := m.nameIDs[p[0]]
		right, okR := m.nameIDs[p[1]]
		id, ok := m.nameIDs[p[0]+p[1]]
		if !okL || !okR || !ok {
			return clara.Errorf(clara.Invalid, "parse tokenizer: merge %d of %q and %q needs a token that is not in the vocabulary", rank, p[0], p[1])
		}
		m.pairs.set(left, right, int32(rank), id)
		if whole && strings.Contains(strings.TrimLeft(p[0]+p[1], mark), mark) {
			whole = false
		}
	}
	if whole {
		m.cutBefore = mark
	}
	return nil
}
