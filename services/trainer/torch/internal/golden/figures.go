package golden

// figures is golden.json.
type figures struct {
	Tokenizer struct {
		Special struct {
			BOS        string  `json:"bos"`
			EOS        string  `json:"eos"`
			Pad        string  `json:"pad"`
			BOSID      int32   `json:"bos_id"`
			EOSID      int32   `json:"eos_id"`
			PadID      int32   `json:"pad_id"`
			EncID      int32   `json:"enc_id"`
			AEID       int32   `json:"ae_id"`
			SepID      int32   `json:"sep_id"`
			MemIDs     []int32 `json:"mem_ids"`
			Length     int     `json:"length"`
			Generation any     `json:"generation_eos"`
		} `json:"special"`
		Cases []struct {
			Text               string  `json:"text"`
			IDs                []int32 `json:"ids"`
			WithSpecial        []int32 `json:"ids_with_special"`
			Decoded            string  `json:"decoded"`
			DecodedSkipSpecial string  `json:"decoded_skip_special"`
		} `json:"cases"`
	} `json:"tokenizer"`
	Documents []encoderCase `json:"documents"`
	Questions []encoderCase `json:"questions_inference"`
	Prompts   struct {
		Stage1        promptCases `json:"stage1"`
		Stage12       promptCases `json:"stage1_2"`
		Stage2        promptCases `json:"stage2"`
		ParaphraseAll []struct {
			Index      int    `json:"index"`
			Prompt     string `json:"prompt"`
			WithAnswer string `json:"with_answer"`
			PromptLen  int    `json:"prompt_len"`
		} `json:"paraphrase_all"`
		Inference []struct {
			Question string  `json:"question"`
			Prompt   string  `json:"prompt"`
			InputIDs []int32 `json:"input_ids"`
		} `json:"inference_stage1_2"`
		NoSystem struct {
			Template   string       `json:"chat_template"`
			Standard   renderedCase `json:"standard"`
			QA         renderedCase `json:"qa"`
			Paraphrase renderedCase `json:"paraphrase"`
		} `json:"template_without_system_role"`
	} `json:"prompts"`
	Compress struct {
		Whole float64   `json:"mse_loss_of_the_whole_batch"`
		Each  []float64 `json:"mse_loss_each"`
		Debug int       `json:"debug_document"`
		RMS   float64   `json:"memory_rms"`
	} `json:"compress"`
	Stages   map[string]stageFigures `json:"stages"`
	Curves   map[string]curveFigures `json:"curves"`
	Generate generateFigures         `json:"generate"`
	TopK     []struct {
		Tau    float64       `json:"tau"`
		K      int           `json:"k"`
		Scores [][]float32   `json:"scores"`
		R      [][][]float32 `json:"R"`
		Index  [][]int       `json:"topk_idx"`
		W      [][][]float32 `json:"W"`
		Grad   [][]float32   `json:"grad_of_sum_W_times_R"`
	} `json:"differentiable_topk"`
	Extras struct {
		Answers []struct {
			Prediction           string  `json:"prediction"`
			Gold                 string  `json:"gold"`
			EM                   bool    `json:"em"`
			Cover                bool    `json:"cover_em"`
			F1                   float64 `json:"f1"`
			NormalizedPrediction string  `json:"normalized_prediction"`
			NormalizedGold       string  `json:"normalized_gold"`
		} `json:"answers"`
		Retrieval []struct {
			Pos     [][]int            `json:"pos"`
			TopK    [][]int            `json:"topk"`
			Metrics map[string]float64 `json:"metrics"`
			Valid   int                `json:"valid_samples"`
		} `json:"retrieval"`
		Sampler []struct {
			N        int       `json:"n"`
			Replicas int       `json:"replicas"`
			Seed     int       `json:"seed"`
			Epoch    int       `json:"epoch"`
			ByRank   [][]int64 `json:"indices_by_rank"`
		} `json:"sampler"`
		Schedule []struct {
			Name   string    `json:"name"`
			Base   float64   `json:"base"`
			Min    float64   `json:"min_lr"`
			Warmup int       `json:"warmup_steps"`
			Total  int       `json:"total_steps"`
			At     []float64 `json:"lr_at_step"`
		} `json:"lr_schedule"`
		Information struct {
			Open  []int32 `json:"open_pattern"`
			Close []int32 `json:"close_pattern"`
			Cases []struct {
				Text   string  `json:"text"`
				IDs    []int32 `json:"ids"`
				Labels []int32 `json:"labels"`
			} `json:"cases"`
		} `json:"information_mask"`
	} `json:"extras"`
}

type encoderCase struct {
	Text       string  `json:"text"`
	InputIDs   []int32 `json:"input_ids"`
	Mask       []int32 `json:"attention_mask"`
	RealLength int     `json:"real_length"`
}

// unpadded returns the ids of a left-padded row.
func (c encoderCase) unpadded() []int32 {
	for i, on := range c.Mask[:min(len(c.Mask), len(c.InputIDs))] {
		if on == 1 {
			return c.InputIDs[i:]
		}
	}
	return nil
}

type promptCases struct {
	Instruction int `json:"paraphrase_instruction_index"`
	MaxLen      int `json:"max_len"`
	TopK        int `json:"top_k"`
	Samples     []struct {
		Text      string  `json:"text"`
		PromptLen int     `json:"prompt_len"`
		InputIDs  []int32 `json:"input_ids"`
		Labels    []int32 `json:"labels"`
		Targets   int     `json:"n_targets"`
		Truncated bool    `json:"truncated"`
	} `json:"samples"`
}

type renderedCase struct {
	PromptLen   int    `json:"prompt_len"`
	Text        string `json:"text"`
	Instruction int    `json:"instruction_index" golden:"some"`
}

type stageFigures struct {
	Batch struct {
		DecoderIDs  [][]int32 `json:"dec_input_ids"`
		DecoderMask [][]int32 `json:"dec_attention_mask"`
		Labels      [][]int32 `json:"labels"`
		Encoder     [][]int32 `json:"enc_ids_unpadded"`
		Queries     [][]int32 `json:"query_ids_unpadded" golden:"some"`
		Positives   [][]int   `json:"pos_index" golden:"some"`
	} `json:"batch"`
	Loss       float64     `json:"loss"`
	MSE        float64     `json:"mse_loss"`
	Total      float64     `json:"total_loss"`
	MSEWeight  float64     `json:"mse_weight"`
	TopK       [][]int     `json:"topk_idx" golden:"some"`
	MemoryRows bool        `json:"memory_rows_trainable"`
	Scores     [][]float64 `json:"scores" golden:"some"`
	Grads      struct {
		Params  map[string]float64 `json:"param_norms"`
		Groups  map[string]float64 `json:"group_norms"`
		Outside *float64           `json:"max_abs_grad_outside_mem_rows" golden:"some"`
		Total   float64            `json:"total_norm"`
	} `json:"grads"`
	FirstTargets [][2]int  `json:"logits_at_first_target_positions"`
	EachSum      []float64 `json:"per_sample_ce_sum" golden:"some"`
	EachTargets  []int     `json:"per_sample_targets" golden:"some"`
}

type curveFigures struct {
	Stage        string             `json:"stage"`
	MicroBatch   int                `json:"micro_batch"`
	Accumulation int                `json:"accumulation"`
	Rate         float64            `json:"lr"`
	Betas        []float64          `json:"betas"`
	Eps          float64            `json:"eps"`
	Decay        float64            `json:"weight_decay"`
	MaxNorm      float64            `json:"max_norm"`
	MemoryRows   bool               `json:"memory_rows_trainable"`
	MSEWeight    float64            `json:"mse_weight"`
	Loss         []float64          `json:"loss"`
	MSE          []float64          `json:"mse_loss"`
	Total        []float64          `json:"total_loss"`
	GradNorm     []float64          `json:"grad_norm_before_clip"`
	Logged       map[string]float64 `json:"logged"`
	After        struct {
		Params map[string][3]float64 `json:"params"`
	} `json:"after"`
	Moved       map[string]float64 `json:"adapter_moved_l2"`
	MemoryAfter struct {
		Norm float64 `json:"norm"`
		Sum  float64 `json:"sum"`
	} `json:"mem_rows_after"`
}

type generated struct {
	Text        []string   `json:"text"`
	IDs         [][]int64  `json:"ids"`
	Margin      float64    `json:"min_margin"`
	Steps       int        `json:"steps"`
	Lengths     []int      `json:"prompt_lengths"`
	Questions   []string   `json:"questions" golden:"some"`
	Documents   [][]string `json:"documents" golden:"some"`
	Instruction int        `json:"paraphrase_instruction_index" golden:"some"`
	EOS         []int      `json:"eos_token_ids" golden:"some"`
	TopK        [][]int    `json:"topk_idx" golden:"some"`
	MSE         float64    `json:"mse_loss" golden:"some"`
}

type generateFigures struct {
	Paraphrase      *generated `json:"paraphrase"`
	ParaphraseThree *generated `json:"paraphrase_three_docs"`
	Text            *generated `json:"text"`
	TextExtraEOS    *generated `json:"text_extra_eos"`
	Compressed      *generated `json:"compressed"`
	Questions       *generated `json:"questions"`
	OneByOne        []struct {
		Text   string  `json:"text"`
		IDs    []int64 `json:"ids"`
		TopK   []int   `json:"topk_idx"`
		Margin float64 `json:"min_margin"`
	} `json:"questions_one_by_one"`
	MIPS *generated `json:"questions_mips"`
}
