#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.15.0", "transformers==5.17.0"]
# ///
"""Writes small checkpoints of each family with random weights, with and without a window, and the tokenizer of another checkpoint.

usage: make_family_checkpoints.py TOKENIZER_FROM DIR
"""
import shutil
import sys
from pathlib import Path

import torch
import transformers

BASE = dict(
    hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
    vocab_size=4096, max_position_embeddings=2048, rms_norm_eps=1e-6, tie_word_embeddings=False, initializer_range=0.08,
    bos_token_id=0, eos_token_id=1, dtype="bfloat16",
)
CASES = {
    "llama": dict(model_type="llama"),
    "mistral": dict(model_type="mistral", sliding_window=None),
    "mistral-window": dict(model_type="mistral", sliding_window=24),
    "qwen3": dict(model_type="qwen3", use_sliding_window=False, sliding_window=None),
    "qwen3-window": dict(model_type="qwen3", use_sliding_window=True, sliding_window=24, max_window_layers=2),
}
COPIED = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]

source, target = map(Path, sys.argv[1:])
for name, changes in CASES.items():
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(**BASE, **changes)
    model = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    with torch.no_grad():  # norms that do something
        for key, weight in model.state_dict().items():
            if key.endswith("norm.weight"):
                weight.copy_(0.75 + 0.5 * torch.rand_like(weight.float()))
    model.save_pretrained(target / name)
    (target / name / "generation_config.json").unlink(missing_ok=True)
    for file in COPIED:
        shutil.copy(source / file, target / name / file)
