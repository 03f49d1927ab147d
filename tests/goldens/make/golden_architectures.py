#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.15.0", "transformers==5.17.0"]
# ///
"""Writes tests/goldens/architectures.json: logits of Hugging Face transformers in f32 for small made-up models, one for
each way in which Llama checkpoints differ.

Weights come from one xorshift64 stream over the tensors in name order (tests/it/support/made_up.rs draws the same), so that
no weights need to be stored. usage: golden_architectures.py > tests/goldens/architectures.json
"""
import json
import struct

import torch
import transformers

BASE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 64, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512, "rope_theta": 10000.0, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
CASES = {
    "llama-2: as many key-value heads, untied": {},
    "llama-3.1: grouped queries, llama3 rope, untied": {"num_attention_heads": 4, "head_dim": 16, "rope_theta": 500000.0, "rope_scaling": LLAMA3},
    "llama-3.2: grouped queries, llama3 rope, tied": {"num_attention_heads": 4, "head_dim": 16, "rope_scaling": LLAMA3, "tie_word_embeddings": True},
    "one key-value head, linear rope": {"num_key_value_heads": 1, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "attention and MLP biases": {"attention_bias": True, "mlp_bias": True},
    "transformers 5's rope_parameters": {"rope_theta": None, "rope_parameters": {**LLAMA3, "rope_theta": 20000.0}},
}
IDS = [0] + [(7 * i * i + 3 * i + 5) % 62 + 2 for i in range(95)]
POSITIONS = [0, 1, 7, 40, 95]


def numbers():
    """xorshift64; the top 16 of the upper 24 bits' low half, as Rust's `(state >> 40) as u16`."""
    state = 1
    while True:
        state ^= state << 13 & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 7
        state ^= state << 17 & 0xFFFFFFFFFFFFFFFF
        yield state >> 40 & 0xFFFF


def fill(model):
    """bf16 weights of size 1/8 to 1/2, norms of 1 to 1.5."""
    stream, weights = numbers(), model.state_dict()
    tied = model.config.tie_word_embeddings
    for name in sorted(weights):
        if tied and name == "lm_head.weight":
            continue
        norm, count = name.endswith("norm.weight"), weights[name].numel()
        bits = [(next(stream) & 0x3F | 0x3F80) if norm else (next(stream) & 0x80FF | 0x3E00) for _ in range(count)]
        values = struct.unpack(f"<{count}f", b"".join(struct.pack("<I", b << 16) for b in bits))
        weights[name].copy_(torch.tensor(values).reshape(weights[name].shape))


def case(name, changes):
    config = {key: value for key, value in {**BASE, **changes}.items() if value is not None}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**json.loads(json.dumps(config)))).float().eval()
    with torch.no_grad():
        fill(model)
        logits = model(torch.tensor([IDS])).logits[0]
    return {"name": name, "config": config, "ids": IDS, "positions": POSITIONS, "logits": [[float(v) for v in logits[p]] for p in POSITIONS]}


if __name__ == "__main__":
    print(json.dumps([case(name, changes) for name, changes in CASES.items()]))
