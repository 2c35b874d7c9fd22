#!/usr/bin/env python3
"""Measures the engine and others side by side: same files, same threads, same shapes, one after the other, and the ratios.

usage: bench-peers.py compress|generate MODEL.gguf [PRECISION...]

A precision is fp32, int8 or int4 (all three if none is named; compress: fp32): MODEL.gguf is written as F32, Q8_0 or Q4_0,
and that file is what the engine (the benchmarks of libs/infer) and llama.cpp run. Run by a Python that has the peers;
make runs it with CLARA_PEERS_PYTHON. What is not installed, or does not have a precision, is named as not measured.
  llama-cpp-python    converts the file too: nothing is measured without it
  transformers        fp32, from the F32 file (needs the packages gguf and accelerate)
  onnxruntime-genai   where CLARA_PEERS_GENAI is a folder with models of its builder named fp32, int8, int4
CLARA_BENCH_THREADS sets the threads; 0 or unset: one for each core. CLARA_BENCH_SECONDS bounds each shape (10).
CLARA_BENCH_CPU=1 counts seconds of the processor in place of the clock's: with one thread the better measure on a machine
that others use.

compress: passages of 272 tokens; four of them as a batch where the peer batches. The engine's have an adapter on, and end as
memories; the others run the bare model, without its head where they can leave it off.
generate: 256 tokens in, 64 out, 1 and 8 streams. "decode" counts the steps alone, in which all streams take part,
"in all" the prompts too.
"""
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

PASSAGE, PROMPT, ANSWER = 272, 256, 64
SECONDS = float(os.environ.get("CLARA_BENCH_SECONDS") or 10)
THREADS = int(os.environ.get("CLARA_BENCH_THREADS") or 0) or os.cpu_count()
clock = time.process_time if os.environ.get("CLARA_BENCH_CPU") else time.monotonic
FILES = {"fp32": "F32", "int8": "Q8_0", "int4": "Q4_0"}
OURS = "engine"

rates = {}  # of (what, engine): tokens a second


def report(engine, what, runs):
    rates[what, engine] = statistics.median(runs)
    print(f"  {engine:20s} {what:22s} {rates[what, engine]:9.1f} tokens/s  (best {max(runs):.1f}, {len(runs)} runs)", flush=True)


def missing(engine, why):
    print(f"  {engine:20s} NOT MEASURED: {why}", flush=True)


def ratios(precision):
    for what in dict.fromkeys(w for w, _ in rates):
        ours = rates.get((what, OURS))
        others = {e: r for (w, e), r in rates.items() if w == what and e != OURS}
        if ours and others:
            print(f"  {precision} {what}: the engine is " + ", ".join(f"{ours / r:.2f} x {e}" for e, r in others.items()), flush=True)
    rates.clear()


def measure(run, warm):
    """What run returns, a tuple of rates, for SECONDS but at least twice, after one that warms up if warm; as lists."""
    if warm:
        run()
    runs, end = [], time.monotonic() + SECONDS
    while len(runs) < 2 or (time.monotonic() < end and len(runs) < 20):
        runs.append(run())
    return zip(*runs)


def ids(n, seed, vocab):
    return [3 + (seed * 7919 + i * 104729) % (vocab - 3) for i in range(n)]


def prompts(streams, seed, vocab):
    """Prompts of their own at every call: nothing is to be had from an earlier one."""
    return [ids(PROMPT, 100 * seed + s, vocab) for s in range(streams)]


def decoding(engine, streams, run):
    """run(i) makes the answers to prompts(streams, i) and returns the seconds of the prompts and of the steps."""
    turn = iter(range(1000))

    def one():
        first, rest = run(next(turn))
        return streams * (ANSWER - 1) / rest, streams * ANSWER / (first + rest)

    decode, whole = measure(one, streams == 1)
    report(engine, f"decode, {streams} streams", decode)
    report(engine, f"in all, {streams} streams", whole)


def ours(what, precision, file):
    name, pick = ("Compress$", "tokens/s") if what == "compress" else ("Generate/adapter=false", "decode-tokens/s")
    test = ["go", "test", "-run", "^$", "-bench", "^Benchmark" + name, "-benchtime", "2x" if what == "generate" else "3x", "./libs/infer"]
    env = dict(os.environ, CLARA_BENCH_MODEL=file, CLARA_BENCH_PRECISION="all=" + precision, CLARA_BENCH_THREADS=str(THREADS))
    out = subprocess.run(test, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if out.returncode != 0:
        print(out.stdout)
        raise RuntimeError("the benchmark failed")
    for line in out.stdout.splitlines():
        found = {unit: float(x) for x, unit in re.findall(r"([\d.e+]+) (\S+)", line)}
        if pick not in found:
            continue
        if what == "compress":
            report(OURS, "prefill 4x272", [found[pick]])
            print("    " + ", ".join(f"{v:g} {u}" for u, v in found.items() if "FMA" in u or "GEMM" in u))
            continue
        streams = re.search(r"streams=(\d+)", line).group(1)
        report(OURS, f"decode, {streams} streams", [found[pick]])
        report(OURS, f"in all, {streams} streams", [found["tokens/s-in-all"]])


def llama(what, precision, file):
    import llama_cpp as ll

    model = ll.llama_model_load_from_file(file.encode(), ll.llama_model_default_params())
    vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))

    def context(streams):
        c = ll.llama_context_default_params()
        c.n_ctx, c.n_batch, c.n_ubatch, c.n_seq_max = streams * 512, 2048, 512, streams
        c.n_threads = c.n_threads_batch = THREADS
        return ll.llama_init_from_model(model, c)

    def feed(ctx, rows, at):
        """Runs rows of tokens, one for each sequence, from position at, and returns the token that each row is followed by."""
        n = sum(len(r) for r in rows)
        b = ll.llama_batch_init(n, 0, 1)
        k, last = 0, []
        for s, row in enumerate(rows):
            for i, t in enumerate(row):
                b.token[k], b.pos[k], b.n_seq_id[k], b.logits[k] = t, at + i, 1, int(i == len(row) - 1)
                b.seq_id[k][0] = s
                k += 1
            last.append(k - 1)
        b.n_tokens = n
        if ll.llama_decode(ctx, b) != 0:
            raise RuntimeError("llama_decode failed")
        ll.llama_synchronize(ctx)
        next_ = [ll.llama_sampler_sample(greedy, ctx, k) for k in last]
        ll.llama_batch_free(b)
        return next_

    greedy = ll.llama_sampler_init_greedy()
    if what == "compress":
        ctx = context(4)

        def prefill():
            ll.llama_memory_clear(ll.llama_get_memory(ctx), True)
            start = clock()
            feed(ctx, [ids(PASSAGE, s, vocab) for s in range(4)], 0)
            return (4 * PASSAGE / (clock() - start),)

        report("llama.cpp", "prefill 4x272", *measure(prefill, True))
        ll.llama_free(ctx)
    else:
        for streams in (1, 8):
            ctx = context(streams)

            def decode(turn):
                ll.llama_memory_clear(ll.llama_get_memory(ctx), True)
                start = clock()
                tokens = feed(ctx, prompts(streams, turn, vocab), 0)
                middle = clock()
                for i in range(ANSWER - 1):
                    tokens = feed(ctx, [[t] for t in tokens], PROMPT + i)
                return middle - start, clock() - middle

            decoding("llama.cpp", streams, decode)
            ll.llama_free(ctx)
    ll.llama_sampler_free(greedy)
    ll.llama_model_free(model)


def convert(model, kind, to):
    import ctypes

    import llama_cpp as ll

    @ll.llama_log_callback
    def quiet(level, text, data):
        pass

    convert.quiet = quiet  # the library keeps no reference to it
    ll.llama_backend_init()
    ll.llama_log_set(quiet, ctypes.c_void_p(0))
    p = ll.llama_model_quantize_default_params()
    p.ftype = {"F32": ll.LLAMA_FTYPE_ALL_F32, "Q8_0": ll.LLAMA_FTYPE_MOSTLY_Q8_0, "Q4_0": ll.LLAMA_FTYPE_MOSTLY_Q4_0}[kind]
    p.allow_requantize, p.nthread = True, THREADS
    if ll.llama_model_quantize(model.encode(), to.encode(), ctypes.byref(p)) != 0:
        raise RuntimeError(f"{model} could not be written as {kind}")


def transformers(what, precision, file):
    if precision != "fp32":
        return
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(THREADS)
    model = AutoModelForCausalLM.from_pretrained(os.path.dirname(file), gguf_file=os.path.basename(file), dtype=torch.float32)
    model.eval()
    vocab = model.config.vocab_size
    with torch.inference_mode():
        if what == "compress":
            x = torch.tensor([ids(PASSAGE, s, vocab) for s in range(4)])

            def prefill():
                start = clock()
                model.model(x, use_cache=False)
                return (4 * PASSAGE / (clock() - start),)

            report("transformers", "prefill 4x272", *measure(prefill, True))
            return
        for streams in (1, 8):

            def decode(turn):
                start = clock()
                out = model(torch.tensor(prompts(streams, turn, vocab)), use_cache=True, logits_to_keep=1)
                tokens, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
                middle = clock()
                for _ in range(ANSWER - 1):
                    out = model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
                    tokens, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
                return middle - start, clock() - middle

            decoding("transformers", streams, decode)


def genai(what, precision, file):
    folders = os.environ.get("CLARA_PEERS_GENAI")
    if not folders:
        return missing("onnxruntime-genai", "set CLARA_PEERS_GENAI to a folder with models of its builder")
    folder = os.path.join(folders, precision)
    if not os.path.isdir(folder):
        return missing("onnxruntime-genai", f"{folders} has no {precision}")
    import numpy as np
    import onnxruntime_genai as og

    config = og.Config(folder)
    config.overlay('{"model": {"decoder": {"session_options": {"intra_op_num_threads": %d}}}}' % THREADS)
    model = og.Model(config)
    vocab = 40000

    def generator(rows, more):
        length = len(rows[0]) + more + 1
        p = og.GeneratorParams(model)
        p.set_search_options(batch_size=len(rows), max_length=length, min_length=length, do_sample=False)
        g = og.Generator(model, p)
        start = clock()
        g.append_tokens(np.array(rows, dtype=np.int32))
        g.generate_next_token()
        return g, clock() - start

    if what == "compress":
        report("onnxruntime-genai", "prefill 4x272", *measure(lambda: (4 * PASSAGE / generator([ids(PASSAGE, s, vocab) for s in range(4)], 1)[1],), True))
        return
    for streams in (1, 8):

        def decode(turn):
            g, first = generator(prompts(streams, turn, vocab), ANSWER)
            middle = clock()
            for _ in range(ANSWER - 1):
                g.generate_next_token()
            return first, clock() - middle

        decoding("onnxruntime-genai", streams, decode)


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("compress", "generate") or not set(sys.argv[3:]) <= set(FILES):
        sys.exit(__doc__)
    what, model = sys.argv[1:3]
    precisions = sys.argv[3:] or (list(FILES) if what == "generate" else ["fp32"])
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for precision in precisions:
            file = os.path.join(folder, FILES[precision] + ".gguf")
            print(f"{what}, {precision}: {os.path.basename(model)} as {FILES[precision]}, {THREADS} threads", flush=True)
            try:
                convert(model, FILES[precision], file)
            except Exception as e:
                sys.exit(f"llama-cpp-python, which writes the file that all run: {type(e).__name__}: {e}")
            for name, run in ((OURS, ours), ("llama.cpp", llama), ("onnxruntime-genai", genai), ("transformers", transformers)):
                try:
                    run(what, precision, file)
                except Exception as e:  # one that fails must not hide the others
                    missing(name, f"{type(e).__name__}: {e}")
                    failed |= name == OURS
            ratios(precision)
            os.remove(file)
    sys.exit(int(failed))


main()
