"""A straightforward PyTorch + peft loop of CLaRa's training steps: what `make bench-train` compares clara-train with.

usage: peer.py JOB.json    (written by the bench; the result goes to the job's "out")

It is written the way such a loop is usually written: batches are padded to their longest sequence on the left, the decoder
computes logits at every position, adapters are switched with peft, memory rows are trained through the whole embedding with
all other rows' gradients masked, and stage 3 compresses the candidates of every question in every step.
Weights, token ids and the start of the adapters are those of the other side, so the losses must be the same.
"""
import contextlib
import json
import os
import sys
import time

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

job = json.load(open(sys.argv[1]))
torch.set_flush_denormal(True)  # probabilities of unlikely tokens are denormal numbers: without this a step takes ten times as long
torch.set_num_threads(job["threads"])
M, K = job["m"], job["k"]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def status(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) << 10


def forget_peak():
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as f:
        f.write("5")  # what loading took does not count


def build():
    config = LlamaConfig(**job["config"], attn_implementation="sdpa")
    base = LlamaForCausalLM(config)
    weights = load_file(job["weights"])
    base.load_state_dict(weights, strict=False)
    table = torch.load(os.path.join(job["checkpoint"], "decoder_first_last_layers.pth"), weights_only=True)["model.embed_tokens.weight"]
    base.resize_token_embeddings(table.shape[0], mean_resizing=False)
    base.get_input_embeddings().weight.data.copy_(table)
    base.tie_weights()
    adapters = torch.load(os.path.join(job["checkpoint"], "adapters.pth"), weights_only=True)
    r = job["rank"]
    make = lambda: LoraConfig(r=r, lora_alpha=2 * r, lora_dropout=job["dropout"], target_modules=LINEAR, bias="none")
    model = get_peft_model(base, make(), adapter_name="encoder_adapter")
    for name in ["decoder_adapter", "query_reasoner_adapter"]:
        model.add_adapter(name, make())
    params = dict(model.named_parameters())
    for name in ["encoder_adapter", "decoder_adapter", "query_reasoner_adapter"]:
        source = adapters.get(name, adapters["encoder_adapter"])
        for key, value in source.items():
            if "lora_" not in key:
                continue
            stem, part = key.rsplit(".lora_", 1)
            params[f"base_model.model.{stem}.lora_{part.replace('.weight', '')}.{name}.weight"].data.copy_(value)
    return model


model = build()
model.train()
inner = model.base_model.model.model
embed = inner.embed_tokens
if job["checkpointing"]:
    model.base_model.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
stage3 = job["stage"] == "stage2"
trained = ["query_reasoner_adapter", "decoder_adapter"] if stage3 else ["encoder_adapter", "decoder_adapter"]


def trainable():
    for n, p in model.named_parameters():
        p.requires_grad_(any(f".{a}." in n for a in trained) or (job["train_memory"] and p is embed.weight))


def use(adapter):
    model.set_adapter(adapter)
    trainable()  # peft freezes the adapters that are not active


trainable()
params = [p for p in model.parameters() if p.requires_grad]
if job["train_memory"]:
    rows = torch.zeros(embed.weight.shape[0], 1)
    rows[job["mem_ids"]] = 1
    embed.weight.register_hook(lambda g: g * rows)
optimizer = torch.optim.AdamW(params, lr=job["learning_rate"], betas=(0.9, 0.95), eps=1e-8, weight_decay=0)


def pad(seqs, value):
    n = max(len(s) for s in seqs)
    return torch.tensor([[value] * (n - len(s)) + s for s in seqs]), torch.tensor([[0] * (n - len(s)) + [1] * len(s) for s in seqs])


def compress(texts, adapter):
    use(adapter)
    ids, mask = pad(texts, job["pad_id"])
    h = inner(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    memory = h[:, -M:]
    rest = mask.clone()
    rest[:, -M:] = 0
    mean = (h * rest.unsqueeze(-1)).sum(1) / rest.sum(1, keepdim=True)
    return memory, ((memory.mean(1) - mean) ** 2).mean(1)


def topk(scores):
    soft, taken = [], torch.zeros_like(scores)
    hard = F.one_hot(torch.topk(scores, K).indices, scores.shape[0]).to(scores.dtype)
    for j in range(K):
        soft.append(torch.softmax(scores / 0.02 + torch.log(1 - taken + 1e-8), -1))
        taken = taken + hard[j]
    soft = torch.stack(soft)
    return hard + (soft - soft.detach())


def slots(batch):
    """The memory vectors of every slot of the batch, [slots, M, H], and the MSE terms."""
    docs = [d for s in batch for d in s["docs"]]
    if not stage3:
        return compress(docs, "encoder_adapter")
    with torch.no_grad():
        d = torch.cat([compress(s["docs"], "encoder_adapter")[0] for s in batch])
    q, _ = compress([s["query"] for s in batch], "query_reasoner_adapter")
    out, at = [], 0
    for i, s in enumerate(batch):
        cand = d[at : at + len(s["docs"])].flatten(1)
        at += len(s["docs"])
        scores = F.normalize(cand, dim=-1) @ F.normalize(q[i].flatten(), dim=-1)
        out.append((topk(scores) @ cand).view(K, M, -1))
    return torch.cat(out), None


def step(samples):
    targets = sum(sum(l != -100 for l in s["labels"][1:]) for s in samples)
    docs = sum(len(s["docs"]) for s in samples)
    total = 0.0
    for at in range(0, len(samples), job["micro"]):
        batch = samples[at : at + job["micro"]]
        memory, mse = slots(batch)
        ids, mask = pad([s["ids"] for s in batch], job["pad_id"])
        labels, _ = pad([s["labels"] for s in batch], -100)
        x = embed(ids).clone()
        n = 0
        for i, s in enumerate(batch):
            shift = ids.shape[1] - len(s["ids"])
            for start in s["slots"]:
                x[i, shift + start : shift + start + M] = memory[n]
                n += 1
        use("decoder_adapter")
        logits = model(inputs_embeds=x, attention_mask=mask, use_cache=False).logits.float()
        ce = F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100, reduction="sum")
        loss = ce / targets
        if mse is not None:
            loss = loss + 0.1 * mse.sum() / docs
        loss.backward()
        total += loss.item()
    norm = torch.nn.utils.clip_grad_norm_(params, 1.0).item()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total, norm


with torch.no_grad():
    compress(job["samples"][0]["docs"][:1], "encoder_adapter")  # warms up
forget_peak()
result = {"losses": [], "norms": [], "seconds": [], "cpu": [], "torch": torch.__version__}
for _ in range(job["steps"]):
    begun, worked = time.perf_counter(), time.process_time()
    loss, norm = step(job["samples"])
    result["seconds"].append(time.perf_counter() - begun)
    result["cpu"].append(time.process_time() - worked)
    result["losses"].append(loss)
    result["norms"].append(norm)
    result["memory"] = status("VmHWM")
    json.dump(result, open(job["out"], "w"))
    print(f"  peer step: {result['seconds'][-1]:.1f} s, loss {loss:.5f}", file=sys.stderr, flush=True)
