"""Makes the tiny GGUF files of this folder and what transformers computes with the same weights.

usage: python make_gguf.py [FOLDER]     needs torch, transformers, gguf

Each folder gets model.gguf and witness.json, as make_tiny.py describes it. The weights are quantised by the gguf package, or
are random blocks where it does not quantise a format, and read back by it: the witness computes with what is in the file.
"""
import json
import os
import sys

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from transformers import AutoConfig, AutoModelForCausalLM

from make_tiny import witness

COMMON = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              vocab_size=272, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0, rms_norm_eps=1e-5)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
SHORT, LONG = [1.0, 1.0, 1.1, 1.1, 1.3, 1.3, 1.6, 1.6], [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0]
# name: architecture in GGUF, keys, formats of matrices in turn, format of table and head
FILES = {
    "gguf-llama-q4_0": ("llama", dict(model_type="llama", tie_word_embeddings=True, rope_theta=500000.0, rope_scaling=LLAMA3), [Q.Q4_0], Q.Q8_0),
    "gguf-llama-k": ("llama", dict(model_type="llama", hidden_size=256, intermediate_size=256, num_attention_heads=4, num_hidden_layers=1, tie_word_embeddings=True),
                     [Q.Q4_K, Q.Q5_K, Q.Q6_K], Q.Q6_K),
    "gguf-mistral-q5_1": ("llama", dict(model_type="mistral", head_dim=32, sliding_window=None, tie_word_embeddings=False), [Q.Q5_1, Q.Q5_0], Q.Q5_0),
    "gguf-qwen2-q4_1": ("qwen2", dict(model_type="qwen2", tie_word_embeddings=True), [Q.Q4_1], Q.Q8_0),
    "gguf-qwen3-q8_0": ("qwen3", dict(model_type="qwen3", head_dim=32, tie_word_embeddings=False), [Q.Q8_0], Q.F16),
    "gguf-phi3-q5_0": ("phi3", dict(model_type="phi3", num_attention_heads=2, num_key_value_heads=1, partial_rotary_factor=0.5, original_max_position_embeddings=64,
                                    sliding_window=None, tie_word_embeddings=False, rope_scaling=dict(type="longrope", short_factor=SHORT, long_factor=LONG)), [Q.Q5_0, Q.Q4_0], Q.Q8_0),
    "gguf-gemma2-f16": ("gemma2", dict(model_type="gemma2", head_dim=16, sliding_window=24, query_pre_attn_scalar=16, attn_logit_softcapping=5.0, final_logit_softcapping=3.0,
                                       hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True), [Q.F16], Q.F16),
    "gguf-gemma3-bf16": ("gemma3", dict(model_type="gemma3_text", head_dim=16, sliding_window=24, query_pre_attn_scalar=16, num_hidden_layers=6,
                                        hidden_size=32, intermediate_size=48, layer_types=["sliding_attention"] * 5 + ["full_attention"],
                                        rope_theta=1000000.0, rope_local_base_freq=10000.0, hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True), [Q.BF16, Q.F32], Q.F16),
}
TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
PARTS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate_up_proj": "ffn_up"}
GEMMA = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm"}


def blocks(values, kind, rng):
    """The weights in a format: as quantised by the package, or random blocks with scales about those of the values."""
    try:
        return gguf.quants.quantize(values, kind)
    except NotImplementedError:
        per, size = gguf.GGML_QUANT_SIZES[kind]
        raw = rng.integers(0, 256, (values.size // per, size), dtype=np.uint8)
        levels = {Q.Q4_K: (0, 2), Q.Q5_K: (0, 2), Q.Q6_K: (208,)}[kind]
        steps = {Q.Q4_K: 32 * 8, Q.Q5_K: 32 * 16, Q.Q6_K: 64 * 20}[kind]
        for i, at in enumerate(levels):
            top = values.std() * 2 / steps * (8 if i else 1) * rng.uniform(0.5, 1, len(raw))
            raw[:, at:at + 2] = top.astype(np.float16).reshape(-1, 1).view(np.uint8)
        return raw.reshape(values.shape[0], -1)


def permuted(w, heads):
    """Rows as files of the llama architecture have them: the two halves of each head in turn."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def restored(w, heads):
    return w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def byte_names():
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    extra = iter(range(256, 512))
    return [chr(b) if b in keep else chr(next(extra)) for b in range(256)]


def make(root, name, index):
    arch, keys, kinds, table = FILES[name]
    torch.manual_seed(100 + index)
    rng = np.random.default_rng(100 + index)
    keys = {**COMMON, **keys}
    config = AutoConfig.for_model(keys.pop("model_type"), **keys)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    heads, kv = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    folder = os.path.join(root, name)
    os.makedirs(folder, exist_ok=True)
    w = gguf.GGUFWriter(os.path.join(folder, "model.gguf"), arch)
    w.add_embedding_length(config.hidden_size)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_block_count(config.num_hidden_layers)
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_context_length(config.max_position_embeddings)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_rope_freq_base(config.rope_theta)
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_rope_dimension_count(int(head_dim * getattr(config, "partial_rotary_factor", 1.0)))
    if arch.startswith("gemma"):
        w.add_sliding_window(config.sliding_window)
    if arch == "gemma2":
        w.add_attn_logit_softcapping(config.attn_logit_softcapping)
        w.add_final_logit_softcapping(config.final_logit_softcapping)
    scaling = getattr(config, "rope_scaling", None) or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "llama3":
        inv = 1.0 / config.rope_theta ** (np.arange(0, head_dim, 2) / head_dim)
        wavelength = 2 * np.pi / inv
        low, high, old = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["original_max_position_embeddings"]
        smooth = np.clip((old / wavelength - low) / (high - low), 0, 1)
        w.add_tensor("rope_freqs.weight", (1 / ((1 - smooth) / scaling["factor"] + smooth)).astype(np.float32))
    if kind == "longrope":
        w.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
        w.add_tensor("rope_factors_long.weight", np.array(LONG, np.float32))
        w.add_tensor("rope_factors_short.weight", np.array(SHORT, np.float32))
    tokens = ["<unk>", "<s>", "</s>"] + byte_names() + ["th"]
    types = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * 257
    while len(tokens) < config.vocab_size:
        tokens.append(f"<unused{len(tokens)}>")
        types.append(gguf.TokenType.UNUSED)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges(["t h"])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_chat_template(TEMPLATE)

    turn = 0
    with torch.no_grad():
        for n, p in model.named_parameters():
            short = n.removeprefix("model.").removesuffix(".weight").removesuffix(".bias")
            if p.dim() == 2:
                p.normal_(0, 0.5 if "embed" in n else 1.5 * p.shape[1] ** -0.5)
            else:
                p.normal_(1.0 if "norm" in n and not arch.startswith("gemma") else 0.0, 0.2)
            values = p.numpy().copy()
            if short.startswith("layers."):
                _, layer, part = short.split(".", 2)
                parts = {**PARTS, **GEMMA} if arch.startswith("gemma") else PARTS
                stored = f"blk.{layer}.{parts[part]}" + n[n.rindex("."):]
            else:
                stored = {"embed_tokens": "token_embd.weight", "norm": "output_norm.weight", "lm_head": "output.weight"}[short]
            swap = {"self_attn.q_proj": heads, "self_attn.k_proj": kv}.get(short.split(".", 2)[-1], 0) if arch == "llama" else 0
            if swap:
                values = permuted(values, swap)
            if p.dim() == 1:
                w.add_tensor(stored, values + (1.0 if "norm" in n and arch.startswith("gemma") else 0.0))
                continue
            form = table
            if short.startswith("layers."):
                form, turn = kinds[turn % len(kinds)], turn + 1
            raw = values if form == Q.F32 else blocks(values, form, rng)
            read = values if form == Q.F32 else gguf.quants.dequantize(raw, form).reshape(values.shape)
            w.add_tensor(stored, raw, raw_dtype=form)
            p.copy_(torch.tensor(restored(read, swap) if swap else read))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    witness(model, folder)


if __name__ == "__main__":
    target = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    for i, name in enumerate(FILES):
        make(target, name, i)
        print(name)
