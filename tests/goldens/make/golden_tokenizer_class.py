#!/usr/bin/env python3
# /// script
# requires-python = "==3.11.*"
# dependencies = ["transformers==5.17.0"]
# ///
"""Writes tests/goldens/tokenizer_class.json and src/companions/rebuilt_classes.in: what transformers makes of a tokenizer.json
under the classes that tokenizer_config.json may name, and which classes do not take the file as it is.

    uv run tests/goldens/make/golden_tokenizer_class.py
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")

import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, TokenizersBackend
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "fixtures/tiny-coqa"
TEXTS = ["The word.\n\nQ: 1?", "12345 isn't\tit's  ▁x é ﬁ e\u0301 \u4f60\u597d 😀\n", " leading\n\n\n trailing  ", json.load(open(MODEL / "coqa-mini.json"))["data"][0]["story"]]
CASES = [("PreTrainedTokenizerFast", {}), ("LlamaTokenizer", {}), ("LlamaTokenizerFast", {"legacy": True}), ("LlamaTokenizer", {"add_prefix_space": False}),
         ("GPT2Tokenizer", {}), ("GPT2TokenizerFast", {"add_prefix_space": True}), ("GPTNeoXTokenizer", {}), ("Qwen2Tokenizer", {}),
         ("GemmaTokenizer", {"unk_token": "?"}), ("BloomTokenizerFast", {}), ("NoSuchTokenizer", {})]


def takes_the_file(name):
    try:
        found = tokenizer_class_from_name(name)
    except ModuleNotFoundError:
        return True
    return not isinstance(found, type) or (issubclass(found, TokenizersBackend) and (found is TokenizersBackend or "__init__" not in found.__dict__))


def is_tokenizer(name):
    """Dummies stand for classes whose library (sentencepiece) is not installed; they read its files."""
    found = getattr(transformers, name, None)
    return isinstance(found, type) and (issubclass(found, PreTrainedTokenizerBase) or getattr(found, "is_dummy", False) or "requires_backends" in str(getattr(found, "__init__", "")))


def main():
    names = {name for name in TOKENIZER_MAPPING_NAMES.values() if name}
    names |= {name for name in dir(transformers) if name.endswith(("Tokenizer", "TokenizerFast")) and is_tokenizer(name)}
    abstract = {"PreTrainedTokenizer", "PreTrainedTokenizerBase", "MistralCommonBackend", "PythonBackend"}
    anew = sorted({name.removesuffix("Fast") for name in names - abstract if not takes_the_file(name)})
    (ROOT / "src/companions/rebuilt_classes.in").write_text("[\n" + "".join(f'    "{name}",\n' for name in anew) + "]\n")
    golden = {"transformers": transformers.__version__, "texts": TEXTS, "cases": []}
    for name, settings in CASES:
        with tempfile.TemporaryDirectory() as folder:
            for file in MODEL.iterdir():
                if file.suffix == ".json":
                    shutil.copy(file, folder)
            path = Path(folder) / "tokenizer_config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": name, **settings}))
            tokenizer = AutoTokenizer.from_pretrained(folder)
            ids = [tokenizer(text)["input_ids"] for text in TEXTS]
            plain = AutoTokenizer.from_pretrained(MODEL)
            texts = [tokenizer.decode(plain(text)["input_ids"], skip_special_tokens=True) for text in TEXTS]
            golden["cases"].append({"settings": {"tokenizer_class": name, **settings}, "ids": ids, "decoded": texts})
    (ROOT / "tests/goldens/tokenizer_class.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
