"""Derives the training files of the example model from question sets in the suite's JSONL formats.

    python3 example/model/derive.py --out DIR SET/train.end_to_end_data.jsonl ...

Each input file gives questions with candidate documents ("Title\\nText") and `pos_index`. From the documents' own words it makes

    pretrain_data.jsonl       stage 1: say the beginning of a passage again; questions about it with answers
    instruction_data.jsonl    stage 2: the sets' questions with the documents that answer them, and derived questions
    end_to_end_data.jsonl     stage 3: a few candidates for a question, its positives among them

Questions are derived by patterns of encyclopedic prose ("X (born 1 May 1950) is an American actor", "directed by Y"), and by
leaving out the name or number at the end of a phrase. Nothing but the input files is read, and the same seed gives the same files.
"""
import argparse
import json
import pathlib
import random
import re

WORD = r"[A-Z](?:[\w'’-]+|\.)"
NAME = rf"{WORD}(?:,? (?:of |the |de |von |van )?{WORD}){{0,4}}"
DATE = r"(?:\d{1,2} [A-Z][a-z]+ \d{4}|[A-Z][a-z]+ \d{1,2}, ?\d{4})"
FACTS = [  # question, pattern whose group is the answer
    ("Who directed {}?", rf"directed by ({NAME})"),
    ("Who wrote {}?", rf"(?<!co-)written by ({NAME})"),
    ("Who produced {}?", rf"produced by ({NAME})"),
    ("Who stars in {}?", rf"(?:starring|stars) ({NAME})"),
    ("Who composed {}?", rf"composed by ({NAME})"),
    ("Where is {} located?", rf"located in ({NAME})"),
    ("Where was {} born?", rf"[Bb]orn in ({NAME})"),
    ("When was {} founded?", r"(?:founded|established) in (\d{4})"),
    ("When was {} released?", rf"released (?:on|in) ({DATE}|[A-Z][a-z]+ \d{{4}}|\d{{4}})"),
    ("Who is the father of {}?", rf"(?:son|daughter) of ({NAME})"),
    ("Who did {} marry?", rf"married (?:to )?({NAME})"),
    ("What was {} a member of?", rf"member of (?:the )?({NAME})"),
    ("When was {} built?", r"built in (\d{4})"),
]


def squeeze(text):
    """Old sets write "( born 5 May 1900)": one space, none inside of brackets."""
    return re.sub(r"\s+([),.;])", r"\1", re.sub(r"\(\s+", "(", re.sub(r"\s+", " ", text))).strip()


def beginning(text, limit):
    """Whole sentences from the start of text, at most limit characters; a longer first sentence is cut between words."""
    out = ""
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z0-9\"])", text):
        if out and len(out) + 1 + len(sentence) > limit:
            break
        out = f"{out} {sentence}".strip()
    return out if len(out) <= limit else out[:limit].rsplit(" ", 1)[0]


def derive(title, body, rng):
    """Questions about a passage with answers that stand in it."""
    name = re.sub(r"\s*\(.*?\)", "", title)
    pairs = []
    born = re.search(rf"\((?:[^()]*?born )?({DATE})\b", body)
    died = re.search(rf"{DATE}\s*[–-]\s*(?:[^()]{{0,30}}, )?({DATE})\s*\)", body)
    if born:
        pairs.append((f"When was {name} born?", born[1]))
    if died:
        pairs.append((f"When did {name} die?", died[1]))
    what = re.search(r"\b(?:is|was|are|were) (?:an?|the) ([^.;()]{3,90}?)(?:[.;(]| who | which | that | where |, )", body)
    if what:
        pairs.append((f"{'Who' if born else 'What'} is {name}?", what[1].strip()))
    for question, pattern in FACTS:
        found = re.search(pattern, body)
        if found and found[1] not in name and name not in found[1]:
            pairs.append((question.format(name), found[1].rstrip(".,'")))
    gaps = [g for g in re.finditer(rf"((?:[\w'’-]+ ){{4,7}})({NAME}|\d{{4}}|\d+)(?=[ .,;)])", body) if g[2] not in title]
    if gaps:
        gap = rng.choice(gaps)
        pairs.append((f"Complete the text about {name}: \"{gap[1].strip()} ..\"", gap[2].rstrip(".,'")))
    pairs.append(("What is the text about?", name))
    return pairs


def short_form(document, limit):
    title, _, body = document.partition("\n")
    return title + "\n" + beginning(body, limit)


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    args.add_argument("files", nargs="+", type=pathlib.Path)
    args.add_argument("--out", required=True, type=pathlib.Path)
    args.add_argument("--candidates", type=int, default=6, help="documents of a stage 3 question")
    args.add_argument("--questions", type=int, default=60, help="candidate sets of stage 3")
    args.add_argument("--passage", type=int, default=300, help="characters of a stage 1 passage")
    args.add_argument("--seed", type=int, default=1)
    a = args.parse_args()
    rng = random.Random(a.seed)

    samples, passages = [], {}
    for path in a.files:
        for line in path.read_text(encoding="utf-8").splitlines():
            s = json.loads(line)
            s["docs"] = [squeeze(title) + "\n" + squeeze(body) for title, _, body in (d.partition("\n") for d in s["docs"])]
            samples.append(s)
            for d in s["docs"]:
                passages.setdefault(d, None)

    pretrain, instruction, asked = [], [], {}
    for d in passages:
        title, _, body = d.partition("\n")
        short = beginning(body, a.passage)
        if len(short) < 60 or not title:
            continue
        pairs = derive(title, short, rng)
        asked[d] = pairs
        doc = [short_form(d, a.passage)]
        if rng.random() < 0.5:
            pretrain.append({"data_type": "paraphrase", "question": [], "answers": [beginning(short, 200)], "docs": doc})
        elif len(pairs) > 1:
            chosen = rng.sample(pairs, min(len(pairs), 4))
            pretrain.append({"data_type": "qa", "question": [q for q, _ in chosen], "answers": [x for _, x in chosen], "docs": doc})

    known = list(asked)
    for d in rng.sample(known, min(len(known), len(samples))):
        question, answer = rng.choice(asked[d][:-1] or asked[d])
        docs = [short_form(d, a.passage)] + [short_form(x, a.passage) for x in rng.sample(known, rng.choice([0, 0, 0, 1]))]
        rng.shuffle(docs)
        instruction.append({"question": question, "docs": docs, "gold_answer": answer})
    for s in samples:
        docs = [s["docs"][i] for i in s["pos_index"]]
        if sum(map(len, docs)) > 1000:
            continue
        if rng.random() < 0.25:
            docs.append(rng.choice([d for i, d in enumerate(s["docs"]) if i not in s["pos_index"] and len(d) < 500] or docs[:1]))
        rng.shuffle(docs)
        instruction.append({"question": s["question"], "docs": docs, "gold_answer": s["gold_answer"]})

    end_to_end = []
    for s in rng.sample(samples, len(samples)):
        good = [s["docs"][i] for i in s["pos_index"]]
        if len(end_to_end) >= 4 * a.questions:
            break
        if len(good) > 3 or max(map(len, good)) > 700:
            continue
        docs = good + rng.sample([d for d in s["docs"] if d not in good], a.candidates - len(good))
        rng.shuffle(docs)
        end_to_end.append({"question": s["question"], "docs": docs, "pos_index": sorted(docs.index(d) for d in good), "gold_answer": s["gold_answer"]})
        # The same candidates serve derived questions: their memories are computed once.
        for d in rng.sample([d for d in docs if len(asked.get(d, [])) > 1], 3) if sum(len(asked.get(d, [])) > 1 for d in docs) >= 3 else []:
            question, answer = rng.choice(asked[d][:-1])
            end_to_end.append({"question": question, "docs": docs, "pos_index": [docs.index(d)], "gold_answer": answer})

    a.out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("pretrain_data", pretrain), ("instruction_data", instruction), ("end_to_end_data", end_to_end)):
        rng.shuffle(rows)
        with open(a.out / f"{name}.jsonl", "w", encoding="utf-8") as f:
            f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
        print(f"{name}.jsonl: {len(rows)} samples")


if __name__ == "__main__":
    main()
