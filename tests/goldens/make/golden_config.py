#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["transformers==5.17.0"]
# ///
"""Writes tests/goldens/config.json: what Hugging Face's LlamaConfig makes of a config.json whose keys are missing, empty, doubled
or contradict each other. `says` is null where it refuses the file. usage: golden_config.py > tests/goldens/config.json
"""
import json
import os
import tempfile

from transformers import AutoConfig

BASE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "hidden_act": "silu",
    "max_position_embeddings": 512, "rope_theta": 30000.0, "bos_token_id": 0, "eos_token_id": 1,
}
LINEAR = {"type": "linear", "factor": 4.0}
RAMP = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 = {"rope_type": "llama3", **RAMP, "original_max_position_embeddings": 64, "rope_theta": 20000.0}
ABSENT = object()
CASES = {
    "nothing said": {},
    "rope_scaling {}": {"rope_scaling": {}},
    "rope_scaling false": {"rope_scaling": False},
    "rope_scaling []": {"rope_scaling": []},
    "rope_scaling ''": {"rope_scaling": ""},
    "rope_scaling 0": {"rope_scaling": 0},
    "rope_scaling without a type": {"rope_scaling": {"factor": 2}},
    "rope_scaling is a name": {"rope_scaling": "linear"},
    "rope_scaling true": {"rope_scaling": True},
    "rope_parameters false": {"rope_parameters": False},
    "rope_parameters is a name": {"rope_parameters": "linear"},
    "rope_scaling": {"rope_scaling": LINEAR},
    "rope_parameters": {"rope_parameters": LLAMA3},
    "both blocks": {"rope_scaling": LINEAR, "rope_parameters": LLAMA3},
    "both blocks, theta in both": {"rope_scaling": {**LINEAR, "rope_theta": 7.0}, "rope_parameters": LLAMA3},
    "both blocks, no theta above": {"rope_theta": ABSENT, "rope_scaling": LINEAR, "rope_parameters": LLAMA3},
    "both blocks, the older empty": {"rope_scaling": {}, "rope_parameters": LLAMA3},
    "type and rope_type disagree": {"rope_scaling": {"type": "linear", **LLAMA3}},
    "llama3 without its original length": {"rope_scaling": {"rope_type": "llama3", **RAMP}},
    "the same without any length": {"max_position_embeddings": ABSENT, "rope_scaling": {"rope_type": "llama3", **RAMP}},
    "no rope_theta": {"rope_theta": ABSENT},
    "no max_position_embeddings": {"max_position_embeddings": ABSENT},
    "dtype and torch_dtype": {"dtype": "float32", "torch_dtype": "float16"},
    "dtype null and torch_dtype": {"dtype": None, "torch_dtype": "float16"},
    "no rms_norm_eps": {"rms_norm_eps": ABSENT},
    "hidden_act swish": {"hidden_act": "swish"},
    "token ids of -1": {"bos_token_id": -1, "eos_token_id": -1},
    "eos_token_id is a list": {"eos_token_id": [1, 3]},
    "eos_token_id is text": {"eos_token_id": "</s>"},
    "eos_token_id is a float": {"eos_token_id": 2.0},
    "the old spelling": {"architectures": ["LLaMAForCausalLM"]},
}
# Of a key that comes twice Python's json takes the last.
TWICE = {"a key twice": ('"hidden_size": 64', '"hidden_size": 128, "hidden_size": 64')}


def says(text):
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
            file.write(text)
        try:
            config = AutoConfig.from_pretrained(folder)
        except Exception:
            return None
    keys = "hidden_size num_key_value_heads head_dim max_position_embeddings rms_norm_eps bos_token_id eos_token_id dtype".split()
    return {"rope": config.rope_parameters, **{key: getattr(config, key) for key in keys}}


def text_of(changes):
    return json.dumps({key: value for key, value in {**BASE, **changes}.items() if value is not ABSENT})


texts = {name: text_of(changes) for name, changes in CASES.items()}
texts |= {name: text_of({}).replace(*change) for name, change in TWICE.items()}
cases = [{"name": name, "text": text, "says": says(text)} for name, text in texts.items()]
print(json.dumps(cases, indent=1))
