"""A checkpoint of a hundred kilobytes with a byte tokenizer, made in milliseconds."""

import json
import random
import struct
from pathlib import Path

CHAT = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"


def bf16(value):
    return struct.pack("<f", value)[2:]


def shapes(hidden, inner, layers, vocab):
    yield "model.embed_tokens.weight", [vocab, hidden]
    for layer in range(layers):
        at = f"model.layers.{layer}."
        for part, width in (("q", hidden), ("k", 16), ("v", 16), ("o", hidden)):
            yield f"{at}self_attn.{part}_proj.weight", [width, hidden]
        yield at + "mlp.gate_proj.weight", [inner, hidden]
        yield at + "mlp.up_proj.weight", [inner, hidden]
        yield at + "mlp.down_proj.weight", [hidden, inner]
        yield at + "input_layernorm.weight", [hidden]
        yield at + "post_attention_layernorm.weight", [hidden]
    yield "model.norm.weight", [hidden]


def weights(path, **sizes):
    rng, header, data = random.Random(1), {}, bytearray()
    for name, shape in shapes(**sizes):
        start, count = len(data), shape[0] * (shape[1] if len(shape) > 1 else 1)
        for _ in range(count):
            data += bf16(1.0 if "norm" in name else rng.gauss(0, 0.15))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def byte_letters():
    """The letters of byte-level BPE, by byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + number) for number in range(len(rest))]


def tokenizer():
    vocab = {"<s>": 0, "</s>": 1}
    for letter in sorted(byte_letters()):
        vocab[letter] = len(vocab)
    added = [{"id": number, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
             for number, text in enumerate(["<s>", "</s>"])]
    bytes_of = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": r"\p{L}+|\p{N}+|\s+|."}, "behavior": "Isolated", "invert": False}
    first, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes_of]},
            "post_processor": {"type": "TemplateProcessing", "single": [first, text], "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
                               "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "ignore_merges": True, "vocab": vocab, "merges": []}}


def write(folder, layers=2, context=4096):
    folder = Path(folder)
    folder.mkdir(parents=True)
    hidden, inner, vocab = 32, 64, 320
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": hidden, "intermediate_size": inner,
              "num_hidden_layers": layers, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": context,
              "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "vocab_size": vocab,
              "attention_bias": False, "mlp_bias": False, "bos_token_id": 0, "eos_token_id": 1}
    beside = {"config.json": config, "tokenizer.json": tokenizer(), "generation_config.json": {"bos_token_id": 0, "eos_token_id": 1},
              "tokenizer_config.json": {"bos_token": "<s>", "eos_token": "</s>", "model_max_length": context, "chat_template": CHAT,
                                        "tokenizer_class": "PreTrainedTokenizerFast"}}
    for name, value in beside.items():
        (folder / name).write_text(json.dumps(value))
    weights(folder / "model.safetensors", hidden=hidden, inner=inner, layers=layers, vocab=vocab)
    return folder
