"""Writes llama.gguf, the test data of this package: needs gguf and numpy.

Weights count up from 0 in each tensor as Hugging Face lays them out; row r of
a k_proj is 127 * 2^(r - 8), which Q8_0 holds exactly. q and k are permuted as
the converter of llama.cpp does. Run it in this folder.
"""
import numpy as np
from gguf import GGUFWriter, GGMLQuantizationType as Q
from gguf.quants import quantize

H, I, L, HEADS, KV, V = 32, 64, 2, 4, 2, 24


def permute(w, heads):
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def count(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


w = GGUFWriter("llama.gguf", "llama")
w.add_block_count(L)
w.add_context_length(64)
w.add_embedding_length(H)
w.add_feed_forward_length(I)
w.add_head_count(HEADS)
w.add_head_count_kv(KV)
w.add_layer_norm_rms_eps(1e-5)
w.add_rope_freq_base(10000.0)
w.add_rope_dimension_count(H // HEADS)
w.add_bos_token_id(1)
w.add_eos_token_id(2)
w.add_eot_token_id(3)
w.add_tensor("token_embd.weight", count(V, H))
w.add_tensor("output_norm.weight", count(H))
w.add_tensor("rope_freqs.weight", np.array([1, 1, 4, 8], dtype=np.float32))
k = np.repeat(127 * 2.0 ** (np.arange(KV * H // HEADS) - 8), H).astype(np.float32).reshape(-1, H)
for i in range(L):
    b = f"blk.{i}."
    w.add_tensor(b + "attn_norm.weight", count(H))
    w.add_tensor(b + "ffn_norm.weight", count(H))
    w.add_tensor(b + "attn_q.weight", permute(count(H, H), HEADS))
    w.add_tensor(b + "attn_k.weight", quantize(permute(k, KV), Q.Q8_0), raw_dtype=Q.Q8_0)
    w.add_tensor(b + "attn_v.weight", count(KV * H // HEADS, H))
    w.add_tensor(b + "attn_output.weight", count(H, H))
    w.add_tensor(b + "ffn_gate.weight", count(I, H))
    w.add_tensor(b + "ffn_up.weight", count(I, H).astype(np.float16))
    w.add_tensor(b + "ffn_down.weight", count(H, I))
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
