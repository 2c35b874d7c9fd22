#!/usr/bin/env python3
"""Measures other engines on the same model, threads and shapes as make bench-compress and make bench-generate.

usage: bench-peers.py compress|generate MODEL.gguf

Run by a Python that has the peers; make runs it with CLARA_PEERS_PYTHON. What is not installed is named as not measured.
  llama-cpp-python    makes F32, Q8_0 and Q4_0 of the file
  transformers, torch float32, from the GGUF file (needs the gguf package)
  onnxruntime-genai   where CLARA_PEERS_GENAI is a model folder of its builder, or several with a colon between
CLARA_BENCH_THREADS sets the threads; 0 or unset: one for each core. Each shape is bounded to about ten seconds.

Prefill: passages of 272 tokens, four of them as a batch where the peer batches. Decode: tokens a second of
1 and of 8 streams after prompts of 256 tokens; the prompts are not counted.
"""
import os
import statistics
import sys
import tempfile
import time

PASSAGE, PROMPT, ANSWER, SECONDS = 272, 256, 32, 10
THREADS = int(os.environ.get("CLARA_BENCH_THREADS") or 0) or os.cpu_count()


def report(engine, precision, what, rates, unit="tokens/s"):
    print(f"{engine:22s} {precision:6s} {what:16s} {statistics.median(rates):9.1f} {unit}  (best {max(rates):.1f}, {len(rates)} runs)", flush=True)


def measure(run, tokens):
    """Rates of run, which returns seconds, for SECONDS but at least twice, after one that warms up."""
    run()
    rates, end = [], time.monotonic() + SECONDS
    while len(rates) < 2 or (time.monotonic() < end and len(rates) < 20):
        rates.append(tokens / run())
    return rates


def ids(n, seed, vocab):
    return [3 + (seed * 7919 + i * 104729) % (vocab - 3) for i in range(n)]


def llama(what, path):
    import ctypes

    import llama_cpp as ll

    ll.llama_backend_init()

    @ll.llama_log_callback
    def quiet(level, text, data):
        pass

    ll.llama_log_set(quiet, ctypes.c_void_p(0))
    with tempfile.TemporaryDirectory() as tmp:
        kinds = [("F32", ll.LLAMA_FTYPE_ALL_F32), ("Q8_0", ll.LLAMA_FTYPE_MOSTLY_Q8_0), ("Q4_0", ll.LLAMA_FTYPE_MOSTLY_Q4_0)]
        for name, ftype in kinds if what == "generate" else kinds[:1]:
            file = os.path.join(tmp, name + ".gguf")
            p = ll.llama_model_quantize_default_params()
            p.ftype, p.allow_requantize, p.nthread = ftype, True, THREADS
            if ll.llama_model_quantize(path.encode(), file.encode(), ctypes.byref(p)) != 0:
                print(f"llama.cpp {name}: NOT MEASURED: the file could not be converted")
                continue
            model = ll.llama_model_load_from_file(file.encode(), ll.llama_model_default_params())
            vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))

            def context(streams):
                c = ll.llama_context_default_params()
                c.n_ctx, c.n_batch, c.n_ubatch, c.n_seq_max = 8 * 1024, 2048, 512, max(streams, 4)
                c.n_threads = c.n_threads_batch = THREADS
                return ll.llama_init_from_model(model, c)

            def feed(ctx, rows, at, every):
                """Runs rows of tokens, one for each sequence, from position at; logits of the last or of every row's last."""
                n = sum(len(r) for r in rows)
                b = ll.llama_batch_init(n, 0, 1)
                k = 0
                for s, row in enumerate(rows):
                    for i, t in enumerate(row):
                        b.token[k], b.pos[k], b.n_seq_id[k], b.logits[k] = t, at + i, 1, int(every and i == len(row) - 1)
                        b.seq_id[k][0] = s
                        k += 1
                b.n_tokens, b.logits[n - 1] = n, 1
                start = time.monotonic()
                if ll.llama_decode(ctx, b) != 0:
                    raise RuntimeError("llama_decode failed")
                ll.llama_synchronize(ctx)
                took = time.monotonic() - start
                ll.llama_batch_free(b)
                return took

            def clear(ctx):
                ll.llama_memory_clear(ll.llama_get_memory(ctx), True)

            if what == "compress":
                ctx = context(4)

                def prefill():
                    clear(ctx)
                    return feed(ctx, [ids(PASSAGE, s, vocab) for s in range(4)], 0, False)

                report("llama.cpp", name, "prefill 4x272", measure(prefill, 4 * PASSAGE))
                ll.llama_free(ctx)
            else:
                for streams in (1, 8):
                    ctx = context(streams)

                    def decode():
                        clear(ctx)
                        feed(ctx, [ids(PROMPT, s, vocab) for s in range(streams)], 0, False)
                        return sum(feed(ctx, [[5 + i + s] for s in range(streams)], PROMPT + i, True) for i in range(ANSWER))

                    report("llama.cpp", name, f"decode {streams} streams", measure(decode, streams * ANSWER))
                    ll.llama_free(ctx)
            ll.llama_model_free(model)


def transformers(what, path):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(THREADS)
    model = AutoModelForCausalLM.from_pretrained(os.path.dirname(path), gguf_file=os.path.basename(path), dtype=torch.float32)
    model.eval()
    vocab = model.config.vocab_size
    with torch.inference_mode():
        if what == "compress":
            x = torch.tensor([ids(PASSAGE, s, vocab) for s in range(4)])

            def prefill():
                start = time.monotonic()
                model.model(x, use_cache=False)
                return time.monotonic() - start

            report("transformers", "fp32", "prefill 4x272", measure(prefill, 4 * PASSAGE))
            return
        for streams in (1, 8):
            x = torch.tensor([ids(PROMPT, s, vocab) for s in range(streams)])

            def decode():
                out = model(x, use_cache=True, logits_to_keep=1)
                next_, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
                start = time.monotonic()
                for _ in range(ANSWER):
                    out = model(next_, past_key_values=cache, use_cache=True, logits_to_keep=1)
                    next_, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
                return time.monotonic() - start

            report("transformers", "fp32", f"decode {streams} streams", measure(decode, streams * ANSWER))


def genai(what, folder):
    import onnxruntime_genai as og

    config = og.Config(folder)
    config.overlay('{"model": {"decoder": {"session_options": {"intra_op_num_threads": %d}}}}' % THREADS)
    model = og.Model(config)
    name = os.path.basename(folder.rstrip("/"))

    def generator(streams, length):
        p = og.GeneratorParams(model)
        p.set_search_options(batch_size=streams, max_length=length + ANSWER + 2, min_length=length + ANSWER + 2, do_sample=False)
        return og.Generator(model, p)

    import numpy as np

    def tokens(streams, length):
        return np.array([ids(length, s, 40000) for s in range(streams)], dtype=np.int32)

    if what == "compress":
        def prefill():
            g = generator(4, PASSAGE)
            start = time.monotonic()
            g.append_tokens(tokens(4, PASSAGE))
            return time.monotonic() - start

        report("onnxruntime-genai", name[:6], "prefill 4x272", measure(prefill, 4 * PASSAGE))
        return
    for streams in (1, 8):
        def decode():
            g = generator(streams, PROMPT)
            g.append_tokens(tokens(streams, PROMPT))
            g.generate_next_token()
            start = time.monotonic()
            for _ in range(ANSWER):
                g.generate_next_token()
            return time.monotonic() - start

        report("onnxruntime-genai", name[:6], f"decode {streams} streams", measure(decode, streams * ANSWER))


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in ("compress", "generate"):
        sys.exit(__doc__)
    what, path = sys.argv[1:]
    print(f"peers, {THREADS} threads, {os.path.basename(path)}", flush=True)
    folders = [f for f in os.environ.get("CLARA_PEERS_GENAI", "").split(":") if f]
    todo = [("llama-cpp-python", llama, path), ("transformers", transformers, path)]
    todo += [("onnxruntime-genai", genai, f) for f in folders]
    if not folders:
        print("onnxruntime-genai      NOT MEASURED: set CLARA_PEERS_GENAI to a model folder of its builder")
    for name, run, model in todo:
        try:
            run(what, model)
        except Exception as e:  # one peer that fails must not hide the others
            print(f"{name:22s} NOT MEASURED: {type(e).__name__}: {e}", flush=True)


main()
