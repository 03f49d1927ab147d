# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy==2.4.6", "ml_dtypes==0.6.0", "safetensors==0.8.0"]
# ///
"""Writes a checkpoint that computes the same and is hard to quantize: a few channels of every norm's output are large.

    make_outlier_variant.py MODEL OUT [--share 0.02] [--factor 30] [--seed 3]

In each layer a share of the channels is drawn for input_layernorm and another for post_attention_layernorm. Their norm
weights are multiplied by the factor and the columns of q, k, v or gate, up that read them are divided by it, as large models
grow outliers by themselves. Weights are written in f32: the function changes by f32 rounding alone, and how much is printed.
"""

import argparse
import json
import shutil
from pathlib import Path

import ml_dtypes  # noqa: F401  numpy then knows bf16, which safetensors reads
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

READERS = {"input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
           "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj")}


def read(model):
    tensors = {}
    for shard in sorted(model.glob("*.safetensors")):
        with safe_open(shard, "np") as file:
            tensors |= {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}
    return tensors


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", type=float, default=0.02)
    parser.add_argument("--factor", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    config = json.loads((args.model / "config.json").read_text())
    tensors, rng, worst, moved = read(args.model), np.random.default_rng(args.seed), 0.0, 0
    count = max(1, round(args.share * config["hidden_size"]))
    factor = np.float32(args.factor)
    for layer in range(config["num_hidden_layers"]):
        for norm, linears in READERS.items():
            channels = np.sort(rng.choice(config["hidden_size"], count, replace=False))
            moved += count
            norm = f"model.layers.{layer}.{norm}.weight"
            before = tensors[norm].copy()
            tensors[norm][channels] *= factor
            for linear in linears:
                weight = tensors[f"model.layers.{layer}.{linear}.weight"]
                product = weight[:, channels] * before[channels].astype(np.float64)
                weight[:, channels] /= factor
                error = np.abs(weight[:, channels] * tensors[norm][channels].astype(np.float64) - product)
                worst = max(worst, (error / np.maximum(np.abs(product), np.finfo(np.float32).tiny)).max())
    args.out.mkdir(parents=True, exist_ok=False)
    for path in args.model.iterdir():
        if path.suffix != ".safetensors" and not path.name.endswith(".index.json") and path.is_file():
            shutil.copyfile(path, args.out / path.name)
    config |= {"torch_dtype": "float32"}
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(tensors, args.out / "model.safetensors", metadata={"format": "pt"})
    print(f"{args.out}: {moved} channels of {2 * config['num_hidden_layers']} norms times {args.factor:g}; "
          f"norm weight times column changed by at most {worst:.1e} of itself")
    assert worst < 2e-7, "more than f32 rounding"


main()
