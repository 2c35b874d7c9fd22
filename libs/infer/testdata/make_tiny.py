"""Makes the tiny models of this folder and what transformers computes with them.

usage: python make_tiny.py [FOLDER [FAMILY..]]     needs torch, transformers, safetensors

Each folder gets config.json, safetensors files (random) and witness.json: token ids and, for
each, the logits of the next token and the ids that follow greedily.
"""
import json
import os
import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM

COMMON = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              vocab_size=272, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0, rms_norm_eps=1e-5)
FAMILIES = {
    # tied head, rotary frequencies of Llama 3.1
    "llama": dict(model_type="llama", head_dim=16, tie_word_embeddings=True, rope_theta=500000.0,
                  rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)),
    # a window that the prompts go beyond
    "mistral": dict(model_type="mistral", head_dim=16, sliding_window=24, tie_word_embeddings=False),
    # biases on q, k, v
    "qwen2": dict(model_type="qwen2", num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=False),
    # fused projections, half of each head rotated, factors by length
    "phi3": dict(model_type="phi3", hidden_size=64, num_attention_heads=2, num_key_value_heads=1, partial_rotary_factor=0.5, original_max_position_embeddings=64, tie_word_embeddings=False,
                 sliding_window=None, rope_scaling=dict(type="longrope", short_factor=[1.0, 1.0, 1.1, 1.1, 1.3, 1.3, 1.6, 1.6], long_factor=[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0])),
    # norms on both sides, bounded scores and logits, scaled embeddings, every second layer slides
    "gemma2": dict(model_type="gemma2", head_dim=16, sliding_window=24, query_pre_attn_scalar=16, attn_logit_softcapping=5.0, final_logit_softcapping=3.0,
                   hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True),
    # norms on heads, a rotary embedding of its own for sliding layers
    "gemma3": dict(model_type="gemma3_text", head_dim=16, sliding_window=24, query_pre_attn_scalar=16, sliding_window_pattern=2, layer_types=["sliding_attention", "full_attention"],
                   rope_theta=1000000.0, rope_local_base_freq=10000.0, hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True),
    # norms on the heads of q and k, heads wider than hidden / heads
    "qwen3": dict(model_type="qwen3", head_dim=16, tie_word_embeddings=True),
    # as Phi-4-mini: three quarters of each head rotated, tied head
    "phi4": dict(model_type="phi3", hidden_size=64, num_attention_heads=2, num_key_value_heads=1, partial_rotary_factor=0.75, original_max_position_embeddings=64, tie_word_embeddings=True,
                 sliding_window=None, rope_scaling=dict(type="longrope", short_factor=[1.0 + i / 24 for i in range(12)], long_factor=[1.0 + i / 2 for i in range(12)])),
    # heads and sizes that are multiples of nothing, biases everywhere
    "llama-odd": dict(model_type="llama", hidden_size=30, intermediate_size=50, num_attention_heads=3, num_key_value_heads=3, head_dim=10, attention_bias=True, mlp_bias=True, tie_word_embeddings=False),
    # the same of Phi-3, rotated in part
    "phi3-odd": dict(model_type="phi3", hidden_size=40, intermediate_size=36, num_attention_heads=2, num_key_value_heads=2, partial_rotary_factor=0.5, sliding_window=None, tie_word_embeddings=False),
    # bfloat16 in shards
    "qwen2-bf16": dict(model_type="qwen2", num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True, save=dict(dtype=torch.bfloat16, shards="24KB")),
    # float16 in shards
    "mistral-f16": dict(model_type="mistral", head_dim=16, sliding_window=None, tie_word_embeddings=False, save=dict(dtype=torch.float16, shards="40KB")),
}
PROMPTS, STEPS = (5, 50, 120), 12


def witness(model, folder):
    """Writes what the model computes: after prompts of several lengths, the logits and the ids that follow greedily."""
    cases = []
    for length in PROMPTS:
        ids = torch.randint(3, 259, (length,)).tolist()
        with torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            greedy = list(ids)
            for _ in range(STEPS):  # without a cache: every step is computed anew
                greedy.append(int(model(torch.tensor([greedy]), use_cache=False).logits[0, -1].argmax()))
        cases.append(dict(ids=ids, logits=[round(x, 6) for x in logits.tolist()], greedy=greedy[length:]))
    with open(os.path.join(folder, "witness.json"), "w") as f:
        json.dump(dict(cases=cases), f, separators=(",", ":"))


def make(root, name, keys):
    torch.manual_seed(list(FAMILIES).index(name))
    keys = {**COMMON, **keys}
    save = keys.pop("save", dict(dtype=torch.float32, shards="1GB"))
    config = AutoConfig.for_model(keys.pop("model_type"), **keys)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for n, p in model.named_parameters():
            if p.dim() == 2:
                p.normal_(0, 0.5 if "embed" in n else 1.5 * p.shape[1] ** -0.5)
            else:  # norms about 1 (about 0 where 1 is added), biases about 0
                about = 1.0 if "norm" in n and not name.startswith("gemma") else 0.0
                p.normal_(about, 0.2)
    folder = os.path.join(root, name)
    model.to(save["dtype"]).save_pretrained(folder, max_shard_size=save["shards"])
    # Read anew: in half precision the rotary frequencies were rounded too, which are no weights.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    os.remove(os.path.join(folder, "generation_config.json")) if os.path.exists(os.path.join(folder, "generation_config.json")) else None
    witness(model, folder)


if __name__ == "__main__":
    target = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    for family in sys.argv[2:] or FAMILIES:
        make(target, family, FAMILIES[family])
        print(family)
