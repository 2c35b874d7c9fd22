package checkpoint

import (
	"encoding/json"
	"maps"

	"github.com/clara-suite/clara/libs/clara"
)

// Config is config.json of a checkpoint. Keys that have no field here are kept
// in Extra and written back.
type Config struct {
	DecoderModelName    string `json:"decoder_model_name"`
	DocMaxLength        int    `json:"doc_max_length"` // tokens of a document
	CompressRate        int    `json:"compr_rate"`
	GenerationTopK      int    `json:"generation_top_k"`
	LoraR               int    `json:"lora_r"`
	Sep                 bool   `json:"sep"`
	DifferentMemTokens  bool   `json:"different_mem_tokens"`
	OptimizeMemTokens   bool   `json:"optimize_mem_tokens"`
	TrainingStage       string `json:"training_stage"`
	PureInference       bool   `json:"pure_inference"`
	Quantization        string `json:"quantization"`
	MaxNewTokens        int    `json:"max_new_tokens"`
	Stage2RetrievalTopN int    `json:"stage2_retrieval_top_n"`

	Extra map[string]json.RawMessage `json:"-"`
}

// DefaultConfig returns the values of the reference's class for keys that a
// file leaves out (spec clara-model §2: three of them are false there, true in
// all training scripts).
func DefaultConfig() Config {
	return Config{
		DocMaxLength: 128, CompressRate: 64, GenerationTopK: 1, LoraR: 16, TrainingStage: "stage1",
		Quantization: "no", MaxNewTokens: 128, Stage2RetrievalTopN: 1,
	}
}

// ParseConfig reads config.json. It is a Corrupt error for bad JSON, wrong
// types, or values with which no memory exists.
func ParseConfig(data []byte) (Config, error) {
	c := DefaultConfig()
	type plain Config // without UnmarshalJSON of its own, should it ever have one
	if err := json.Unmarshal(data, (*plain)(&c)); err != nil {
		return Config{}, clara.Errorf(clara.Corrupt, "parse config.json: %w", err)
	}
	if err := json.Unmarshal(data, &c.Extra); err != nil {
		return Config{}, clara.Errorf(clara.Corrupt, "parse config.json: %w", err)
	}
	known, err := c.fields()
	if err != nil {
		return Config{}, err
	}
	for key := range known {
		delete(c.Extra, key)
	}
	return c, c.check()
}

func (c Config) check() error {
	if c.DecoderModelName == "" {
		return clara.Errorf(clara.Corrupt, "config.json: decoder_model_name is missing")
	}
	if c.LoraR <= 0 || c.LoraR > 1<<16 {
		return clara.Errorf(clara.Corrupt, "config.json: lora_r is %d", c.LoraR)
	}
	if c.GenerationTopK <= 0 {
		return clara.Errorf(clara.Corrupt, "config.json: generation_top_k is %d", c.GenerationTopK)
	}
	_, err := MemoryTokens(c.DocMaxLength, c.CompressRate)
	if err != nil {
		return clara.Errorf(clara.Corrupt, "config.json: %w", err)
	}
	return nil
}

// MemoryTokens returns m = docMaxLength / rate; a rate above the length is an
// Invalid error, for it leaves no memory.
func MemoryTokens(docMaxLength, rate int) (int, error) {
	if docMaxLength <= 0 || rate <= 0 || rate > docMaxLength || docMaxLength > 1<<20 {
		return 0, clara.Errorf(clara.Invalid, "doc_max_length %d at compress rate %d leaves no memory tokens: the rate must lie between 1 and doc_max_length", docMaxLength, rate)
	}
	return docMaxLength / rate, nil
}

// M returns the number of memory tokens a document, m = doc_max_length / compr_rate.
func (c Config) M() int { return c.DocMaxLength / c.CompressRate }

// AddedTokens returns how many tokens the checkpoint's tokenizer has beyond
// the base's: the memory tokens, <AE>, <ENC> and <SEP>.
func (c Config) AddedTokens() int {
	if c.DifferentMemTokens {
		return c.M() + 3
	}
	return 1 + 3
}

// CheckRate returns an Invalid error if a compress rate that the user gave
// contradicts the checkpoint's. 0 is not given.
func (c Config) CheckRate(rate int) error {
	if rate != 0 && rate != c.CompressRate {
		return clara.Errorf(clara.Invalid, "compress rate %d contradicts the checkpoint, which was trained at %d: leave compress_rate out", rate, c.CompressRate)
	}
	return nil
}

// Warnings returns what a user should know about the config, in sentences.
func (c Config) Warnings() []string {
	var w []string
	if !c.Sep {
		w = append(w, "config.json has sep = false, which the reference itself cannot follow; it is read as true")
	}
	return w
}

// fields returns the keys that have a field.
func (c Config) fields() (map[string]json.RawMessage, error) {
	type plain Config
	raw, err := json.Marshal(plain(c))
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "write config.json: %w", err)
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, clara.Errorf(clara.Invalid, "write config.json: %w", err)
	}
	return m, nil
}

// JSON returns config.json with sorted keys: the fields, what Extra holds, and
// the fixed keys without which the reference does not load a checkpoint.
func (c Config) JSON() ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	all := map[string]json.RawMessage{
		"model_type": json.RawMessage(`"CLaRa"`), "lora": json.RawMessage("true"), "load_adapters": json.RawMessage("true"),
		"ae_mode": json.RawMessage(`"token"`), "training_form": json.RawMessage(`"both_separately"`),
		"auto_map":         json.RawMessage(`{"AutoConfig": "modeling_clara.CLaRaConfig", "AutoModel": "modeling_clara.CLaRa"}`),
		"compr_model_name": json.RawMessage("null"), "kbtc_training": json.RawMessage("false"),
		"lora_compressor": json.RawMessage("false"), "load_pretrained_checkpoint": json.RawMessage("false"),
		"compr_use_mlp": json.RawMessage("false"), "device_map": json.RawMessage("null"), "attn_implementation": json.RawMessage("null"),
	}
	name, err := json.Marshal(c.DecoderModelName)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "write config.json: %w", err)
	}
	all["compr_base_model_name"] = name
	maps.Copy(all, c.Extra)
	fields, err := c.fields()
	if err != nil {
		return nil, err
	}
	maps.Copy(all, fields)
	out, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "write config.json: %w", err)
	}
	return append(out, '\n'), nil
}
