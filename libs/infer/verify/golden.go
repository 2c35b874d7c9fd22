package verify

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/safetensors"
)

// golden is golden.json as far as inference needs it.
type golden struct {
	Tokenizer struct {
		Special struct {
			BOS    string  `json:"bos"`
			EOS    string  `json:"eos"`
			BOSID  int32   `json:"bos_id"`
			EOSID  int32   `json:"eos_id"`
			PadID  int32   `json:"pad_id"`
			EncID  int32   `json:"enc_id"`
			AEID   int32   `json:"ae_id"`
			SepID  int32   `json:"sep_id"`
			MemIDs []int32 `json:"mem_ids"`
			Length int     `json:"length"`
		} `json:"special"`
		Cases []struct {
			Text        string  `json:"text"`
			IDs         []int32 `json:"ids"`
			WithSpecial []int32 `json:"ids_with_special"`
			Decoded     string  `json:"decoded"`
			Skipped     string  `json:"decoded_skip_special"`
		} `json:"cases"`
	} `json:"tokenizer"`
	Documents []padded `json:"documents"`
	Questions []padded `json:"questions_inference"`
	Prompts   struct {
		Stage1        stagePrompts `json:"stage1"`
		Stage1_2      stagePrompts `json:"stage1_2"`
		Stage2        stagePrompts `json:"stage2"`
		ParaphraseAll []struct {
			Index      int    `json:"index"`
			Prompt     string `json:"prompt"`
			WithAnswer string `json:"with_answer"`
			PromptLen  int    `json:"prompt_len"`
		} `json:"paraphrase_all"`
		Inference []struct {
			Question string  `json:"question"`
			IDs      []int32 `json:"input_ids"`
		} `json:"inference_stage1_2"`
		NoSystem struct {
			Template   string   `json:"chat_template"`
			Standard   noSystem `json:"standard"`
			QA         noSystem `json:"qa"`
			Paraphrase noSystem `json:"paraphrase"`
		} `json:"template_without_system_role"`
	} `json:"prompts"`
	Compress struct {
		MSE     float64   `json:"mse_loss_of_the_whole_batch"`
		MSEEach []float64 `json:"mse_loss_each"`
	} `json:"compress"`
	Stages   map[string]stage           `json:"stages"`
	Generate map[string]json.RawMessage `json:"generate"`
	Extras   struct {
		Answers []struct {
			Prediction string  `json:"prediction"`
			Gold       string  `json:"gold"`
			EM         bool    `json:"em"`
			Cover      bool    `json:"cover_em"`
			F1         float64 `json:"f1"`
			Normalized string  `json:"normalized_prediction"`
			NormalGold string  `json:"normalized_gold"`
		} `json:"answers"`
		Retrieval []struct {
			Positives [][]int            `json:"pos"`
			TopK      [][]int            `json:"topk"`
			Metrics   map[string]float64 `json:"metrics"`
			Valid     int                `json:"valid_samples"`
		} `json:"retrieval"`
		Mask struct {
			Cases []struct {
				Text   string  `json:"text"`
				IDs    []int32 `json:"ids"`
				Labels []int32 `json:"labels"`
			} `json:"cases"`
		} `json:"information_mask"`
	} `json:"extras"`
	TopK []struct {
		Tau    float64       `json:"tau"`
		K      int           `json:"k"`
		Scores [][]float64   `json:"scores"`
		R      [][][]float64 `json:"R"`
		Index  [][]int       `json:"topk_idx"`
		W      [][][]float64 `json:"W"`
		Grad   [][]float64   `json:"grad_of_sum_W_times_R"`
	} `json:"differentiable_topk"`
}

// padded is a left-padded input.
type padded struct {
	Text string  `json:"text"`
	IDs  []int32 `json:"input_ids"`
	Mask []int32 `json:"attention_mask"`
}

func (p padded) real() []int32 { return unpad(p.IDs, p.Mask) }

func unpad(ids, mask []int32) []int32 {
	for i, on := range mask {
		if on == 1 {
			return ids[i:]
		}
	}
	return nil
}

type stagePrompts struct {
	Instruction int `json:"paraphrase_instruction_index"`
	MaxLen      int `json:"max_len"`
	TopK        int `json:"top_k"`
	Samples     []struct {
		PromptLen int     `json:"prompt_len"`
		IDs       []int32 `json:"input_ids"`
		Labels    []int32 `json:"labels"`
	} `json:"samples"`
}

type noSystem struct {
	PromptLen   int    `json:"prompt_len"`
	Text        string `json:"text"`
	Instruction int    `json:"instruction_index"`
}

type stage struct {
	Batch struct {
		DecIDs  [][]int32 `json:"dec_input_ids"`
		DecMask [][]int32 `json:"dec_attention_mask"`
		EncIDs  [][]int32 `json:"enc_ids_unpadded"`
		Queries [][]int32 `json:"query_ids_unpadded"`
	} `json:"batch"`
	MSE       float64     `json:"mse_loss"`
	TopK      [][]int     `json:"topk_idx"`
	Scores    [][]float64 `json:"scores"`
	Positions [][2]int    `json:"logits_at_first_target_positions"`
}

// generation is one entry of golden.json's generate.
type generation struct {
	IDs         [][]int32  `json:"ids"`
	Text        []string   `json:"text"`
	Questions   []string   `json:"questions"`
	Documents   [][]string `json:"documents"`
	TopK        [][]int    `json:"topk_idx"`
	EOS         []int32    `json:"eos_token_ids"`
	Instruction int        `json:"paraphrase_instruction_index"`
	Steps       int        `json:"steps"`
	MSE         *float64   `json:"mse_loss"`
}

// folder is an open golden folder.
type folder struct {
	dir     string
	golden  golden
	tensors *safetensors.File
	limits  map[string]string
	// keys of golden.json's top level and stages that are not for inference are reported as left out
	curves []string
}

func openFolder(dir string) (*folder, error) {
	f := &folder{dir: dir}
	if err := readJSON(filepath.Join(dir, "golden.json"), &f.golden); err != nil {
		return nil, err
	}
	var manifest struct {
		Tolerances map[string]string `json:"tolerances"`
	}
	if err := readJSON(filepath.Join(dir, "manifest.json"), &manifest); err != nil {
		return nil, err
	}
	f.limits = manifest.Tolerances
	var rest struct {
		Curves map[string]json.RawMessage `json:"curves"`
	}
	if err := readJSON(filepath.Join(dir, "golden.json"), &rest); err != nil {
		return nil, err
	}
	for name := range rest.Curves {
		f.curves = append(f.curves, name)
	}
	var err error
	f.tensors, err = safetensors.Open(filepath.Join(dir, "golden.safetensors"))
	return f, err
}

func readJSON(path string, into any) error {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return clara.Errorf(clara.NotFound, "%s is no golden folder, which has golden.json, base, clara and data in it: %w", filepath.Dir(path), err)
	}
	if err != nil {
		return clara.Errorf(clara.Unavailable, "open golden folder: %w", err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return clara.Errorf(clara.Corrupt, "parse %s: %w", path, err)
	}
	return nil
}

// lines reads the first n lines of a JSONL file of the folder.
func lines[T any](f *folder, name string, n int) ([]T, error) {
	if n == 0 {
		return nil, nil
	}
	raw, err := os.ReadFile(filepath.Join(f.dir, "data", name))
	if err != nil {
		return nil, clara.Errorf(clara.NotFound, "open golden folder: %w", err)
	}
	var out []T
	s := bufio.NewScanner(bytes.NewReader(raw))
	s.Buffer(nil, len(raw)+1)
	for len(out) < n && s.Scan() {
		var x T
		if err := json.Unmarshal(s.Bytes(), &x); err != nil {
			return nil, clara.Errorf(clara.Corrupt, "parse %s, line %d: %w", name, len(out)+1, err)
		}
		out = append(out, x)
	}
	if len(out) < n {
		return nil, clara.Errorf(clara.Corrupt, "%s has %d lines, golden.json speaks of %d", name, len(out), n)
	}
	return out, nil
}

// tensor returns a tensor of golden.safetensors, with its shape.
func (f *folder) tensor(name string) ([]float32, []int, error) {
	v, err := f.tensors.Tensor(name)
	if err != nil {
		return nil, nil, err
	}
	x, err := v.Float32()
	return x, v.Shape, err
}

var number = regexp.MustCompile(`(?:abs|relative) ([0-9.]+(?:e-?[0-9]+)?)`)

// limit returns the tolerance that the manifest gives for figures of this kind, or usual where it has none.
func (f *folder) limit(kind string, usual float64) float64 {
	for key, text := range f.limits {
		if strings.Contains(key, kind) {
			if m := number.FindStringSubmatch(text); m != nil {
				if x, err := strconv.ParseFloat(m[1], 64); err == nil {
					return x
				}
			}
		}
	}
	return usual
}
