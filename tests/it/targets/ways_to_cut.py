"""Whether llama.cpp cuts texts as the tokenizer does that a GGUF file was made of.

    ways_to_cut.py make MODEL TEXT DIR           a copy of MODEL for each way to cut texts, in DIR/<way>: tokenizers trained on TEXT
    ways_to_cut.py check TEXT MODEL FOLDER       a line of JSON: paragraphs of TEXT that model.gguf in FOLDER cuts otherwise than MODEL
"""

import json
import pathlib
import shutil
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "results/lab"))

LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def of_bytes(*cut, use_regex, ignore_merges, normalizer=None):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    parts = [*cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts) if cut else parts[0]
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    return tokenizer, trainers.BpeTrainer(vocab_size=1200, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)


def of_pieces(normalizer, pre_tokenizer):
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if normalizer:
        tokenizer.normalizer = normalizer
    # Merges within words, as SentencePiece trains them.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=1400, special_tokens=["<unk>", *bytes_], show_progress=False)
    return tokenizer, trainer, pre_tokenizer, bytes_


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def ways():
    yield "llama-bpe", *of_bytes(split(LLAMA_3), use_regex=False, ignore_merges=True)
    yield "smaug-bpe", *of_bytes(split(LLAMA_3), use_regex=False, ignore_merges=False)
    yield "qwen2", *of_bytes(split(QWEN_2), use_regex=False, ignore_merges=False, normalizer=normalizers.NFC())
    yield "tekken", *of_bytes(split(TEKKEN), use_regex=False, ignore_merges=True)
    yield "gpt-2", *of_bytes(use_regex=True, ignore_merges=False)
    yield "smollm", *of_bytes(pre_tokenizers.Digits(individual_digits=True), use_regex=True, ignore_merges=False)


def finished(tokenizer, bos):
    tokenizer.add_special_tokens([bos, "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    of_bos = [(bos, tokenizer.token_to_id(bos))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=of_bos)
    return json.loads(tokenizer.to_str())


def tokenizers(text):
    for way, tokenizer, trainer in ways():
        tokenizer.train_from_iterator([text], trainer)
        yield way, finished(tokenizer, "<|im_start|>")
    replace = normalizers.Replace(" ", "▁")
    for way, normalizer, pre_tokenizer in [
        ("pieces", normalizers.Sequence([normalizers.Prepend("▁"), replace]), None),
        ("metaspace", None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    ]:
        tokenizer, trainer, pre_tokenizer, bytes_ = of_pieces(None, pre_tokenizer)
        tokenizer.train_from_iterator([text], trainer)
        said = finished(tokenizer, "<s>")
        # The bytes are tokens of the model's own, and no text is looked for them.
        said["added_tokens"] = [token for token in said["added_tokens"] if token["content"] not in bytes_]
        said["normalizer"] = json.loads(normalizer.__getstate__()) if normalizer else None
        said["pre_tokenizer"] = json.loads(pre_tokenizer.__getstate__()) if pre_tokenizer else None
        yield way, said


def make(model, text, out):
    for way, said in tokenizers(pathlib.Path(text).read_text()):
        folder = pathlib.Path(out) / way
        shutil.copytree(model, folder)
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            (folder / name).unlink(missing_ok=True)
        (folder / "tokenizer.json").write_text(json.dumps(said))
        bos = "<s>" if way in ("pieces", "metaspace") else "<|im_start|>"
        (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": bos, "eos_token": "<|im_end|>"}))


def check(text, model, folder):
    import llama_cpp

    tokenizer, loaded = Tokenizer.from_file(f"{model}/tokenizer.json"), llama_cpp.Model(f"{folder}/model.gguf")
    parts = pathlib.Path(text).read_text().split("\n\n") + ["<|im_start|>user\nWho?<|im_end|>\n<tool>{}", " leading", "x", " ", "\n"]
    other = [[part, tokenizer.encode(part).ids, loaded.tokenize(part)] for part in parts if tokenizer.encode(part).ids != loaded.tokenize(part)]
    print(json.dumps({"paragraphs": len(parts), "other": other}))


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](*sys.argv[2:])
