"""Makes the golden folders here: tiny CLaRa models of several families and what plain torch and transformers compute with them.

usage: python make_golden.py [FOLDER [FAMILY..]]     needs torch, transformers, tokenizers, safetensors

It is written from the paper and from what checkpoints look like, one straightforward step after the other: batches padded on
the left, full logits, LoRA as two products beside a linear layer, torch's own AdamW. A folder holds a random base model, a
checkpoint on it, data, and losses, gradients and short training curves of each stage.
"""
import json
import os
import shutil
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

torch.set_num_threads(1)
COMMON = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, max_position_embeddings=1024)
FAMILIES = {
    # tied head, rotary frequencies of Llama 3.1
    "llama": dict(rate=5, base=dict(model_type="llama", num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, rope_theta=500000.0,
                  rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32))),
    # biases on q, k, v; a padded vocabulary, which shrinks
    "qwen2": dict(rate=8, padding=30, base=dict(model_type="qwen2", num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=False, rope_theta=1e6)),
    # fused projections, three quarters of each head rotated, other factors beyond 40 positions
    "phi3": dict(rate=16, base=dict(model_type="phi3", num_attention_heads=2, num_key_value_heads=1, partial_rotary_factor=0.75, original_max_position_embeddings=40, sliding_window=None,
                 tie_word_embeddings=True, rope_theta=10000.0, rope_scaling=dict(type="longrope", short_factor=[1.0, 1.1, 1.3], long_factor=[1.0, 2.0, 4.0]))),
}
ENCODER, DECODER, REASONER = ADAPTERS = "encoder_adapter", "decoder_adapter", "query_reasoner_adapter"
DOC_MAX, RANK, K, MAX_LEN, TAU, WEIGHT, RATE = 32, 2, 2, 300, 0.02, 0.1, 1e-3
TEMPLATE = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
QA = "You are a helpful assistant. Given a document, your task is to generate some single questions to cover all key information of the document and answer them sequentially."
ANSWER = "You are a helpful assistant. Your task is to extract relevant information from provided documents and to answer to questions as briefly as possible."

DOCS = ["The buoy at Skerry Point sends its height and its battery level every ten minutes, and a red lamp blinks when the level falls below twenty percent.",
        "Captain Mora keeps the key of the boat house; the spare key hangs behind the clock in the office.",
        "On Mondays the harbour is closed for repairs.", "Wind above nine knots stops the crane.", "The archive holds maps of 1687 and later."]
PRETRAIN = [dict(data_type="qa", question=["How often does the buoy send?", "What blinks?"], answers=["Every ten minutes.", "A red lamp."], docs=[DOCS[0]]),
            dict(data_type="qa", question=["Where is the spare key?"], answers=["Behind the clock."], docs=[DOCS[1]])]
ASKED = [("When is the harbour closed?", "On Mondays.", [2, 0, 3, 1], [0]), ("Who keeps the key?", "Captain Mora", [3, 4, 1, 0], [2]), ("How old are the maps?", "Of 1687 and later", [4, 2, 3, 0], [0])]
INSTRUCTION = [dict(question=q, answer=a, gold_answer=a, docs=[DOCS[i] for i in d[:K]]) for q, a, d, _ in ASKED]
END_TO_END = [dict(question=q, answer=a, gold_answer=a, docs=[DOCS[i] for i in d], pos_index=p) for q, a, d, p in ASKED]


class Adapted(nn.Module):
    """A frozen linear layer and its three adapters, of which one is active."""

    def __init__(self, linear):
        super().__init__()
        self.linear, self.active = linear, None
        fresh = lambda rows, columns, scale: nn.Parameter(scale * torch.randn(rows, columns), requires_grad=False)
        self.A = nn.ParameterDict({a: fresh(RANK, linear.in_features, 0.6 * linear.in_features**-0.5) for a in ADAPTERS})
        self.B = nn.ParameterDict({a: fresh(linear.out_features, RANK, 0.2) for a in ADAPTERS})

    def forward(self, x):
        return self.linear(x) + 2 * F.linear(F.linear(x, self.A[self.active]), self.B[self.active])


class Model:
    def __init__(self, folder, name):
        family = FAMILIES[name]
        torch.manual_seed(list(FAMILIES).index(name))
        self.folder, self.name, self.m, self.compress_rate = folder, name, DOC_MAX // family["rate"], family["rate"]
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        t = Tokenizer(models.BPE())
        t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        texts = DOCS + [QA, ANSWER] * 3 + [s["answer"] for s in INSTRUCTION]
        t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=360, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
        t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
        os.makedirs(folder + "/base")
        t.save(folder + "/base/tokenizer.json", pretty=False)
        names = dict(bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>")
        write(folder + "/base/tokenizer_config.json", dict(names, chat_template=TEMPLATE, tokenizer_class="PreTrainedTokenizerFast"))
        bos, eos = t.token_to_id("<|im_start|>"), t.token_to_id("<|im_end|>")

        keys = {**COMMON, **family["base"], "vocab_size": t.get_vocab_size() + family.get("padding", 0), "bos_token_id": bos, "eos_token_id": eos, "pad_token_id": None}
        self.base = AutoModelForCausalLM.from_config(AutoConfig.for_model(keys.pop("model_type"), **keys), attn_implementation="eager").float().eval()
        with torch.no_grad():
            for n, p in self.base.named_parameters():
                p.normal_(1 if "norm" in n else 0, 0.2 if p.dim() == 1 else 0.6 if "embed" in n else 1.3 * p.shape[1] ** -0.5)
        save_file({n: p.detach().contiguous() for n, p in self.base.named_parameters()}, folder + "/base/model.safetensors", {"format": "pt"})
        write(folder + "/base/config.json", {**COMMON, **family["base"], "vocab_size": keys["vocab_size"], "bos_token_id": bos, "eos_token_id": eos, "rms_norm_eps": self.base.config.rms_norm_eps, "hidden_act": "silu"})

        t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in [f"<MEM{i}>" for i in range(self.m)] + ["<AE>", "<ENC>", "<SEP>"]])
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=t, **names)
        self.tokenizer.chat_template = TEMPLATE
        self.memory_ids = [t.token_to_id(f"<MEM{i}>") for i in range(self.m)]
        self.resize(t.get_vocab_size())
        for p in self.base.parameters():
            p.requires_grad_(False)
        self.layers = {}
        for n, module in list(self.base.model.named_modules()):
            if isinstance(module, nn.Linear):
                parent, last = n.rsplit(".", 1)
                self.layers["model." + n] = Adapted(module)
                setattr(self.base.model.get_submodule(parent), last, self.layers["model." + n])
        self.start = {k: p.detach().clone() for k, p in self.state()}

    def resize(self, vocab):
        """Cuts the tables to the tokenizer's length, or adds rows: other ones than a real run would draw, so that they tell."""
        def fit(w):
            return torch.cat([w, w.mean(0) + 0.3 * torch.randn(max(0, vocab - len(w)), w.shape[1])])[:vocab].clone()
        self.embedding = nn.Embedding(vocab, COMMON["hidden_size"], _weight=fit(self.base.get_input_embeddings().weight.data))
        self.head = nn.Linear(COMMON["hidden_size"], vocab, bias=False)
        self.head.weight = self.embedding.weight if self.base.config.tie_word_embeddings else nn.Parameter(fit(self.base.lm_head.weight.data))
        self.base.set_input_embeddings(self.embedding)
        self.base.lm_head = self.head

    def state(self):
        yield "embedding", self.embedding.weight
        yield from self.adapters(ADAPTERS).items()

    def adapters(self, names):
        return {f"{a}/{n}.lora_{x}.weight": getattr(l, x)[a] for n, l in self.layers.items() for a in names for x in "AB"}

    def reset(self, trained, rows):
        """Goes back to the start and marks what is trained; returns it by name."""
        for k, p in self.state():
            p.requires_grad_(False).copy_(self.start[k])
            p.grad = None
        params = self.adapters(trained)
        for p in list(params.values()) + [self.embedding.weight] * rows:
            p.requires_grad_(True)
        return params

    def save(self):
        folder = self.folder + "/clara"
        os.makedirs(folder)
        of = lambda a: {k.removeprefix(a + "/"): p.detach().clone() for k, p in self.adapters([a]).items()}
        torch.save({a: of(a) for a in ADAPTERS}, folder + "/adapters.pth")
        tables = {"model.embed_tokens.weight": self.embedding.weight.detach().clone()}
        if self.head.weight is not self.embedding.weight:
            tables["lm_head.weight"] = self.head.weight.detach().clone()
        torch.save(tables, folder + "/decoder_first_last_layers.pth")
        write(folder + "/config.json", dict(decoder_model_name=self.name + "/base", doc_max_length=DOC_MAX, compr_rate=self.compress_rate, generation_top_k=K, lora_r=RANK, sep=True,
                                            different_mem_tokens=True, optimize_mem_tokens=True, training_stage="stage2", lora=True, quantization="no", model_type="CLaRa"))

    # token ids
    def ids(self, text):
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def document(self, text, limit=DOC_MAX):
        return self.ids("<ENC><|im_start|>" + text + "<|im_end|>")[: limit + 3] + self.memory_ids

    def sample(self, stage, s):
        slots = ("".join(f"<MEM{i}>" for i in range(self.m)) + "<SEP>") * (1 if stage == "stage1" else K)
        if stage == "stage1":
            system, user = QA, "Background:\n" + slots
            answer = "\n".join(f"Question: {q}\nAnswer: {a}" for q, a in zip(s["question"], s["answers"]))
        else:
            system, user, answer = ANSWER, f"Background:\n{slots}\n\nQuestion:{s['question']}", s["answer"]
        messages = [dict(role="system", content=system), dict(role="user", content=user)]
        prompt = len(self.ids(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)))
        ids = self.ids(self.tokenizer.apply_chat_template(messages + [dict(role="assistant", content=answer)], tokenize=False))[:MAX_LEN]
        return ids, [-100] * prompt + ids[prompt:]

    # passes
    def left(self, rows, fill):
        width = max(map(len, rows))
        return torch.tensor([[fill] * (width - len(r)) + r for r in rows])

    def hidden(self, x, lengths):
        """Row by row: positions count from a row's first token, which matters where factors depend on the length."""
        out = [self.base.model(inputs_embeds=x[i : i + 1, x.shape[1] - n :], use_cache=False).last_hidden_state[0] for i, n in enumerate(lengths)]
        return torch.stack([F.pad(h, (0, 0, x.shape[1] - len(h), 0)) for h in out])

    def compress(self, texts, adapter):
        for l in self.layers.values():
            l.active = adapter
        h = self.hidden(self.embedding(self.left(texts, 0)), list(map(len, texts)))
        memory = h[:, -self.m :]
        rest = torch.stack([h[i, -len(t) : -self.m].mean(0) for i, t in enumerate(texts)])
        return memory, ((memory.mean(1) - rest) ** 2).mean()

    def decode(self, rows, labels, memory):
        """rows [B, T], memory [B, k, m, H] -> cross-entropy of each sample, summed, and its number of targets."""
        for l in self.layers.values():
            l.active = DECODER
        ids, labels = self.left(rows, 0), self.left(labels, -100)
        x = self.embedding(ids).clone()
        for b in range(len(ids)):
            starts = (ids[b] == self.memory_ids[0]).nonzero().flatten().tolist()
            for j, at in enumerate(starts):
                x[b, at : at + self.m] = memory[b, j]
        logits = self.head(self.hidden(x, list(map(len, rows))))[:, :-1]
        ce = F.cross_entropy(logits.transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none")
        return ce.sum(1), (labels[:, 1:] != -100).sum(1)

    def choose(self, scores):
        """A differentiable top-k: one-hot in value, a sequence of softmaxes in gradient."""
        index = torch.topk(scores, K).indices
        taken, soft = torch.zeros_like(scores), []
        for j in range(K):
            soft.append(F.softmax(scores / TAU + torch.log(1 - taken + 1e-8), -1))
            taken = taken + F.one_hot(index[:, j], scores.shape[1])
        soft = torch.stack(soft, 1)
        return F.one_hot(index, scores.shape[1]) + soft - soft.detach(), index

    def forward(self, stage, samples):
        rows, labels = map(list, zip(*(self.sample(stage, s) for s in samples)))
        batch = dict(dec_input_ids=self.left(rows, 0).tolist(), dec_attention_mask=self.left([[1] * len(r) for r in rows], 0).tolist(), labels=self.left(labels, -100).tolist())
        docs = batch["enc_ids_unpadded"] = [self.document(d) for s in samples for d in s["docs"]]
        out, shape = dict(batch=batch, topk_idx=None), (len(samples), -1, self.m, COMMON["hidden_size"])
        with torch.set_grad_enabled(stage.startswith("stage1")):
            memory, mse = self.compress(docs, ENCODER)
        if stage.startswith("stage1"):
            ce, targets = self.decode(rows, labels, memory.view(shape))
            loss = ce.sum() / targets.sum()
            total = loss + WEIGHT * mse
        else:
            batch["query_ids_unpadded"] = [self.document(s["question"], MAX_LEN) for s in samples]
            q = F.normalize(self.compress(batch["query_ids_unpadded"], REASONER)[0].flatten(1), dim=-1)
            d = memory.reshape(len(samples), -1, q.shape[1])
            scores = (F.normalize(d, dim=-1) @ q.unsqueeze(-1)).squeeze(-1)
            w, index = self.choose(scores)
            out.update(scores=scores.tolist(), topk_idx=index.tolist())
            ce, targets = self.decode(rows, labels, (w @ d).view(shape))
            loss = ce.sum() / targets.sum()
            if stage == "stage2_pretrain_retrieval":
                loss = -torch.stack([torch.logsumexp(scores[i, s["pos_index"]] / TAU, 0) - torch.logsumexp(scores[i] / TAU, 0) for i, s in enumerate(samples)]).mean()
            total = loss
        out.update(loss=loss.item(), mse_loss=mse.item(), total_loss=total.item(), mse_weight=WEIGHT if stage.startswith("stage1") else 0.0)
        if stage != "stage2_pretrain_retrieval":
            out.update(per_sample_ce_sum=ce.tolist(), per_sample_targets=targets.tolist())
        return total, out


STAGES = {  # data, trained adapters, whether memory rows are trained
    "stage1": (PRETRAIN, [ENCODER, DECODER], True), "stage1_2": (INSTRUCTION, [ENCODER, DECODER], False),
    "stage2": (END_TO_END, [REASONER, DECODER], False), "stage2_pretrain_retrieval": (END_TO_END, [REASONER], False),
}
ROWS = "base/model.embed_tokens.weight"


def figures(model):
    stages, curves, tensors = {}, {}, {}
    for stage, (data, trained, rows) in STAGES.items():
        with torch.no_grad():
            params = model.reset(trained, rows)
        total, out = model.forward(stage, data)
        total.backward()
        norms = {k: p.grad.norm().item() for k, p in params.items()}
        if rows:
            tensors[f"grad/{stage}/model.embed_tokens.weight[mem_rows]"] = g = model.embedding.weight.grad[model.memory_ids]
            norms[ROWS] = g.norm().item()
        group = lambda a: sum(v * v for k, v in norms.items() if k.startswith(a)) ** 0.5
        out["memory_rows_trainable"] = rows
        out["grads"] = dict(param_norms=norms, group_norms={a: group(a) for a in trained + [ROWS] * rows}, total_norm=group(""))
        stages[stage] = out
        for k, p in list(params.items())[-4:]:
            tensors[f"grad/{stage}/{k}"] = p.grad

        with torch.no_grad():
            params = model.reset(trained, rows)
        before = {k: p.detach().clone() for k, p in params.items()}
        everything = list(params.values()) + [model.embedding.weight] * rows
        optimizer = torch.optim.AdamW(everything, lr=RATE, betas=(0.9, 0.95), eps=1e-8, weight_decay=0)
        c = curves[stage] = dict(stage=stage, micro_batch=len(data), accumulation=1, lr=RATE, betas=[0.9, 0.95], eps=1e-8, weight_decay=0.0, max_norm=1.0, memory_rows_trainable=rows,
                                 mse_weight=out["mse_weight"], loss=[], mse_loss=[], total_loss=[], grad_norm_before_clip=[])
        for _ in range(6):
            total, out = model.forward(stage, data)
            total.backward()
            if rows:  # only memory rows are trained
                keep = torch.zeros(len(model.embedding.weight), 1)
                keep[model.memory_ids] = 1
                model.embedding.weight.grad *= keep
            c["grad_norm_before_clip"].append(nn.utils.clip_grad_norm_(everything, 1.0).item())
            optimizer.step()
            optimizer.zero_grad()
            for k in ("loss", "mse_loss", "total_loss"):
                c[k].append(out[k])
        c["after"] = dict(params={k: [p.norm().item(), p.sum().item(), (p - before[k]).norm().item()] for k, p in params.items()})
        memory = model.embedding.weight.detach()[model.memory_ids]
        c["mem_rows_after"] = dict(norm=memory.norm().item(), sum=memory.sum().item())
    prompts = {s: dict(paraphrase_instruction_index=0, max_len=MAX_LEN, top_k=1 if s == "stage1" else K) for s in ("stage1", "stage1_2", "stage2")}
    return dict(prompts=prompts, stages=stages, curves=curves), tensors


def write(path, value):
    with open(path, "w") as f:
        json.dump(value, f, separators=(",", ":"))


def rounded(x):
    if isinstance(x, dict):
        return {k: rounded(v) for k, v in x.items()}
    if isinstance(x, list):
        return [rounded(v) for v in x]
    return float(f"{x:.9g}") if isinstance(x, float) else x


def make(root, name):
    folder = os.path.join(root, name)
    shutil.rmtree(folder, ignore_errors=True)
    model = Model(folder, name)
    model.save()
    os.makedirs(folder + "/data")
    for file, samples in (("pretrain", PRETRAIN), ("instruction", INSTRUCTION), ("end_to_end", END_TO_END)):
        with open(f"{folder}/data/{file}_data.jsonl", "w") as f:
            f.writelines(json.dumps(s) + "\n" for s in samples)
    golden, tensors = figures(model)
    write(folder + "/golden.json", rounded(golden))
    save_file({k: t.detach().contiguous() for k, t in tensors.items()}, folder + "/golden.safetensors")
    write(folder + "/manifest.json", dict(name=name, config=dict(generation_top_k=K, max_len=MAX_LEN), versions=dict(torch=torch.__version__)))


if __name__ == "__main__":
    target = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    for family in sys.argv[2:] or FAMILIES:
        make(target, family)
        print(family)
