"""Writes tiny tokenizers of every kind and what the `tokenizers` library makes of nasty strings with them.

    python3 -m venv V && V/bin/pip install tokenizers && V/bin/python make_fixtures.py

Each fixture is one JSON file: tokenizer (a whole tokenizer.json) and cases of text, ids, offsets in bytes, decoded.
"""
import json, os, random
from tokenizers import Tokenizer, AddedToken, Regex, models, normalizers, pre_tokenizers, decoders, processors, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
GPT2 = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
LLAMA3 = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT4O = r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
TEKKEN = r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
ODD = r"""\p{Han}+|[A-Z]+(?=[a-z])|\w+|\s|[^\w\s]"""  # no known family: runs on the general regular expressions

TEXT = """The compressor turns a long document into a few memory vectors. The vectors keep the key facts, so that
a generator can answer a question without reading the document again. In 2019 the company sold 12,500 bicycles in nine
countries; it's said they'll open a second factory. Don't touch the filter while it is hot! Copper melts at 1085 degrees.
The café on Rue de l'Église serves crème brûlée. 北京是中国的首都，有三千多年的历史。 压缩模型把长文档变成少量的记忆向量。
def main(argc, argv):\n    return [x ** 2 for x in range(10)]\n\n\tif (a != b) { printf("%d\\n", a->b); }\n
Пожалуйста, прочитайте документ. Ελληνικά κείμενα. <table><tr><td>cell</td></tr></table> HTTPServer camelCase snake_case
""" * 3

CASES = ["", " ", "  ", "   a", "a ", "a  ", "\n", " \n", "\n ", "\n\n\n x", "\t\ta", "\r\n\r\n", "a\r\nb", " \r\n \n  b", "Hello world",
  " leading", "two  spaces   three", "don't we'll I'M THEY'RE 'S 's'ſ 'ſt x'LL", "''s '''t", "1234567890 3.14 1,000 ٣٤٥ Ⅷ½²", "a1b22c333d4444e55555",
  "café cafe\u0301 e\u0301\u0327 \u0301x", "ﬁ ligature Å Ω \u212b \u2126", "中国的首都是北京。中 文", "日本語テキスト ｶﾞ", "한국어 각 \u1100\u1161\u11a8", "العربية עברית हिन्दी ไทย",
  "emoji 🙂👍🏽👨‍👩‍👧 🇩🇪 end", "zero\u200bwidth\u200d\u2060\ufeff x", "nbsp\u00a0\u00a0x\u3000y\u2028z\u0085w", "ABCdefGHI camelCaseWords HTTPServer XMLHttpRequest's A's ABC'S",
  "a_b-c/d\\e//f\n/g", "!!!???...\n\n---\r\n", " !x !!\n\ny", "<s>", "</s>", "x</s> y", " <s> ", "<s><s>", "<|im_start|>user\nhi<|im_end|>\n", "<<s>>", "<sep>a <sep>  b<sep>",
  "  <mask>  x<mask>y", "xtoken token tokens token", "[INST] q [/INST]", "<think>\n\n</think>\n\n", "\u0000\u0001\u001f\u007f", "\ufffd\ufffe", "\U0010ffff\U000e0001", "ǅ ǈ ʰ ª º ـ",
  "İstanbul ıI ẞß ΑΣ ς", "▁under ▁▁x", "a▁b", "<0x41><0x0A>", "x" * 200, "ab" * 100 + " " + "中" * 70, " " * 50 + "x", "\n" * 20, "the" * 40 + "The" * 30,
  "int main() { return 0; } // ok\n\t\tfoo->bar[3] += 1e-5;", "http://ex.com/a?b=c&d=%20#e user@mail.org", "Mr. O'Neill's 'quoted' “curly” ‘single’ — dash… ¿qué?", "naïve\tTAB\vVT\fFF",
  "a\u0300\u0301b\u0316\u0300", "A\u030a\u0323 \u1e69 s\u0323\u0307 s\u0307\u0323", "뢴 \u1112\u1161\u11ab", "\u0928\u093f \u0915\u094d\u0937", "Tiếng Việt có dấu", "x²y³ 10⁻⁵ №5 ①②"]
rnd = random.Random(7)
POOL = list("aAbB zZ'sStT  \n\r\t109.,!?/-_<>|中文éßǅʰ\u0301\u00a0٣½🙂▁") + ["</s>", "<s>", "'ll", "  ", "\r\n", "the", "token"]
CASES += ["".join(rnd.choice(POOL) for _ in range(rnd.randint(1, 40))) for _ in range(60)]

ADDED = [AddedToken("<s>", special=True, normalized=False), AddedToken("</s>", special=True, normalized=False),
  AddedToken("<|im_start|>", special=True, normalized=False), AddedToken("<|im_end|>", special=True, normalized=False, rstrip=True),
  AddedToken("<think>", special=False, normalized=False), AddedToken("<mask>", special=True, normalized=False, lstrip=True),
  AddedToken("token", special=False, normalized=True, single_word=True), AddedToken("<sep>", special=False, normalized=True, lstrip=True, rstrip=True)]


def byte_level(pre, norm=None, ignore=False, size=420, added=True, prefix=False):
    t = Tokenizer(models.BPE(ignore_merges=ignore))
    if norm: t.normalizer = norm
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    if added: t.add_tokens(ADDED)
    return t


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior, invert), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def sentence(norm, pre, dec, fuse=True, fallback=True, size=560):
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=fuse, byte_fallback=fallback))
    # Words are cut for training only, as sentencepiece does.
    t.normalizer = normalizers.Replace(" ", "▁")
    t.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    special = ["<unk>"] + ([f"<0x{b:02X}>" for b in range(256)] if fallback else [])
    t.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=size, special_tokens=special, limit_alphabet=70, show_progress=False))
    j = json.loads(t.to_str())
    j["added_tokens"] = j["added_tokens"][:1]
    t = Tokenizer.from_str(json.dumps(j))
    t.normalizer = norm
    t.pre_tokenizer = pre
    t.decoder = dec
    t.add_tokens(ADDED)
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair=None, special_tokens=[("<s>", t.token_to_id("<s>"))])
    return t


LLAMA_DEC = lambda: decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
LLAMA_NORM = lambda: normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])

def wordpiece(norm, pre):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=40))
    t.normalizer, t.pre_tokenizer, t.decoder = norm, pre, decoders.WordPiece()
    t.train_from_iterator([TEXT], trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False))
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=None, special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return t

bl = lambda **k: pre_tokenizers.ByteLevel(**k)
ALL = {
  "gpt2": lambda: byte_level(bl(add_prefix_space=False)),
  "gpt2_prefix": lambda: byte_level(bl(add_prefix_space=True)),
  "smollm": lambda: byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bl(add_prefix_space=False)])),
  "digits_runs": lambda: byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.Punctuation("contiguous"), bl(add_prefix_space=False)])),
  "llama3": lambda: byte_level(split(LLAMA3), ignore=True),
  "qwen": lambda: byte_level(split(QWEN), norm=normalizers.NFC()),
  "phi4mini": lambda: byte_level(split(GPT4O, "removed", True)),
  "tekken": lambda: byte_level(split(TEKKEN), ignore=True),
  "odd_regex": lambda: byte_level(split(ODD), norm=normalizers.NFKC()),
  "odd_removed": lambda: byte_level(split(r"[aeiou]", "removed")),
  "odd_previous": lambda: byte_level(split(r"\s", "merged_with_previous")),
  "odd_next": lambda: byte_level(split(r"\s+", "merged_with_next")),
  "odd_contiguous": lambda: byte_level(split(r"[a-z]", "contiguous", True), norm=normalizers.Lowercase()),
  "mistral": lambda: sentence(LLAMA_NORM(), None, LLAMA_DEC()),
  "mistral_metaspace": lambda: sentence(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False), LLAMA_DEC()),
  "metaspace_always": lambda: sentence(None, pre_tokenizers.Metaspace(prepend_scheme="always"), decoders.Metaspace()),
  "gemma": lambda: sentence(normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"), decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])),
  "unk_fused": lambda: sentence(LLAMA_NORM(), None, LLAMA_DEC(), fallback=False, size=300),
  "unk_single": lambda: sentence(LLAMA_NORM(), None, LLAMA_DEC(), fuse=False, fallback=False, size=300),
  "bert": lambda: wordpiece(normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()),
  "bert_cased": lambda: wordpiece(normalizers.BertNormalizer(lowercase=False, handle_chinese_chars=False), pre_tokenizers.Whitespace()),
  "strip_nfd": lambda: wordpiece(normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Strip(), normalizers.Replace(Regex("[0-9]+"), "#")]), pre_tokenizers.WhitespaceSplit()),
}

for name, make in ALL.items():
    t = make()
    cases = []
    for text in CASES:
        e = t.encode(text, add_special_tokens=False)
        cases.append([text, e.ids, t.encode(text).ids[:1] + t.encode(text).ids[-1:], t.decode(e.ids, skip_special_tokens=False), t.decode(e.ids)])
    with open(os.path.join(HERE, name + ".json"), "w", encoding="utf-8") as f:
        json.dump({"tokenizer": json.loads(t.to_str()), "cases": cases}, f, ensure_ascii=False, separators=(",", ":"))
