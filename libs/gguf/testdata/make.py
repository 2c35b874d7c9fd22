"""Writes witness.gguf and witness.json, the test data of this package.

Needs the packages gguf and numpy. Blocks are random bytes with tame scales;
gguf's own numpy code says what they dequantise to. Run it in this folder.
"""
import hashlib
import json
import numpy as np
from gguf import GGUFWriter, GGMLQuantizationType as Q
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

rng = np.random.default_rng(7)
w = GGUFWriter("witness.gguf", "llama")
w.add_uint32("test.u32", 4000000000)
w.add_int32("test.i32", -5)
w.add_float32("test.f32", 0.5)
w.add_bool("test.bool", True)
w.add_string("test.text", "héllo")
w.add_array("test.ints", [3, -1, 2])
w.add_array("test.floats", [0.5, -2.0])
w.add_tokenizer_model("gpt2")
w.add_tokenizer_pre("smollm")
w.add_token_list(["<s>", "a", "b", "ab"])
w.add_token_types([3, 1, 1, 1])
w.add_token_merges(["a b"])
w.add_bos_token_id(0)
w.add_eos_token_id(0)
w.add_add_bos_token(False)
w.add_chat_template("{{ messages[0]['content'] }}")
expected = {}
# Where in a block the half-precision scales lie.
scales = {Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q8_0: [0], Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208]}
for q, at in scales.items():
    elements, size = GGML_QUANT_SIZES[q]
    blocks = rng.integers(0, 256, (2, 2, size), dtype=np.uint8)  # [rows, blocks a row, bytes]
    for i in at:
        blocks[:, :, i:i + 2] = rng.normal(0, 0.1, (2, 2, 1)).astype(np.float16).view(np.uint8)
    data = blocks.reshape(2, 2 * size)
    values = dequantize(data, q).astype(np.float32)
    name = q.name
    w.add_tensor(name, data, raw_dtype=q)
    expected[name] = {"sha256": hashlib.sha256(values.tobytes()).hexdigest(), "first": [float(x) for x in values[0, :4]], "shape": list(values.shape)}
x = rng.normal(0, 1, (3, 5)).astype(np.float32)
for name, q, data in [("F32", Q.F32, x), ("F16", Q.F16, x.astype(np.float16)), ("BF16", Q.BF16, quantize(x, Q.BF16))]:
    w.add_tensor(name, data, raw_dtype=q)
    values = dequantize(data, q).astype(np.float32) if q == Q.BF16 else data.astype(np.float32)
    expected[name] = {"sha256": hashlib.sha256(values.tobytes()).hexdigest(), "first": [float(v) for v in values[0, :4]], "shape": [3, 5]}
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
json.dump(expected, open("witness.json", "w"), indent=1, sort_keys=True)
