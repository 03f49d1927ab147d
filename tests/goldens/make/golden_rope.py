#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["torch==2.15.0", "transformers==5.17.0"]
# ///
"""Writes tests/goldens/rope.json: rotary tables of Hugging Face's LlamaRotaryEmbedding for the rope types qonnx runs.

Each case holds the config.json text it came from and cosines and sines of every rotated pair at some positions, as
exact decimal forms of f32. usage: golden_rope.py > tests/goldens/rope.json
"""
import json

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

POSITIONS = [0, 1, 2, 7, 100, 1023, 4095, 8191]
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
CASES = {
    "llama-2-default": {"head_dim": 128, "rope_theta": 10000.0},
    "llama-3.1": {"head_dim": 128, "rope_theta": 500000.0, "rope_scaling": {**LLAMA3, "factor": 8.0}},
    "llama-3.2": {"head_dim": 64, "rope_theta": 500000.0, "rope_scaling": {**LLAMA3, "factor": 32.0}},
    "linear": {"head_dim": 64, "rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
}


def case(name, rope):
    config = {
        "architectures": ["LlamaForCausalLM"], "vocab_size": 256, "hidden_size": 2 * rope["head_dim"], "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 131072, **rope,
    }
    embedding = LlamaRotaryEmbedding(LlamaConfig(**json.loads(json.dumps(config))))
    cos, sin = embedding(torch.zeros(1, dtype=torch.float32), torch.tensor([POSITIONS]))
    half = rope["head_dim"] // 2  # Hugging Face repeats each angle in the second half
    rows = lambda table: [[float(v) for v in row[:half]] for row in table[0]]
    return {"name": name, "config": config, "positions": POSITIONS, "cos": rows(cos), "sin": rows(sin)}


print(json.dumps([case(name, rope) for name, rope in CASES.items()]))
