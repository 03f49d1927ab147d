#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.15.0", "transformers==5.17.0"]
# ///
"""Writes tests/goldens/families.json: logits of Hugging Face transformers in f32 (eager attention) for small made-up models of
each family, with and without a window: of a whole prompt, and of the same prompt token by token through a cache.

Weights are those of golden_architectures.py, so that none need to be stored. usage: golden_families.py > tests/goldens/families.json
"""
import json
import pathlib
import tempfile

import torch
import transformers

from golden_architectures import fill

BASE = {
    "hidden_act": "silu", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 64, "rms_norm_eps": 1e-6, "max_position_embeddings": 512,
    "rope_theta": 10000.0, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1,
}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
CASES = {
    "llama": {**LLAMA},
    "mistral without a window": {**MISTRAL, "sliding_window": None},
    "mistral with a window": {**MISTRAL, "sliding_window": 24},
    "mistral with a window, tied": {**MISTRAL, "sliding_window": 7, "tie_word_embeddings": True},
    # transformers takes it for a Ministral.
    "mistral with a window in one layer": {
        **MISTRAL, "sliding_window": 16, "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
    "qwen3, tied": {**QWEN3, "use_sliding_window": False, "sliding_window": None, "max_window_layers": 3, "tie_word_embeddings": True},
    "qwen3 with biases, whose window is not used": {**QWEN3, "attention_bias": True, "use_sliding_window": False, "sliding_window": 8},
    "qwen3 with heads wider than the model": {**QWEN3, "head_dim": 32},
    "qwen3 with a window from its second layer on": {**QWEN3, "use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    "qwen3 with a window in one layer": {
        **QWEN3, "use_sliding_window": True, "sliding_window": 16,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
}
IDS = [0] + [(7 * i * i + 3 * i + 5) % 62 + 2 for i in range(95)]
POSITIONS = [0, 1, 7, 40, 95]


def case(name, changes):
    config = {**BASE, **changes}
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(config))
        loaded = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_config(loaded, attn_implementation="eager").float().eval()
    with torch.no_grad():
        fill(model)
        whole = model(torch.tensor([IDS])).logits[0]
        cache, rows = transformers.DynamicCache(config=model.config), []
        for place, token in enumerate(IDS):
            mask = torch.ones(1, place + 1, dtype=torch.long)
            rows.append(model(torch.tensor([[token]]), attention_mask=mask, past_key_values=cache, use_cache=True).logits[0, 0])
    assert torch.stack(rows).sub(whole).abs().max() < 1e-3, name  # logits of about 10 in f32
    picked = lambda logits: [[float(value) for value in logits[place]] for place in POSITIONS]
    return {"name": name, "config": config, "ids": IDS, "positions": POSITIONS, "prefill": picked(whole), "steps": picked(rows)}


if __name__ == "__main__":
    print(json.dumps([case(name, changes) for name, changes in CASES.items()]))
