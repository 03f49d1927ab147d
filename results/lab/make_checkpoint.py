#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy"]
# ///
"""Writes a checkpoint of a known model's shape with random bf16 weights: speed and memory need the shape only.

usage: make_checkpoint.py SHAPE DIR [--tokenizer FROM] [--layers N] [--seed N] [--sparse]
       SHAPE: llama-3.2-1b, llama-3.1-8b, qwen3-0.6b, or the path of a config.json
       --sparse writes headers and a hole for the weights: enough for `qonnx plan`
       --tokenizer copies tokenizer files from another checkpoint (its vocabulary may be smaller)
"""
import argparse, json, os, shutil, struct
import numpy as np

ROPE = {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}
BASE = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "max_position_embeddings": 131072, "vocab_size": 128256, "bos_token_id": 128000, "eos_token_id": 128001, "torch_dtype": "bfloat16",
        "attention_bias": False, "mlp_bias": False}
SHAPES = {
    "llama-3.2-1b": BASE | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
                            "num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True, "rope_scaling": ROPE},
    "llama-3.1-8b": BASE | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
                            "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": False, "rope_scaling": ROPE | {"factor": 8.0}},
    "qwen3-0.6b": BASE | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
                          "max_position_embeddings": 40960, "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072,
                          "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
                          "tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": None, "max_window_layers": 28},
}


def tensors(config):
    hidden, inter, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    yield "model.embed_tokens.weight", (vocab, hidden)
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (hidden,)
        yield p + "mlp.down_proj.weight", (hidden, inter)
        yield p + "mlp.gate_proj.weight", (inter, hidden)
        yield p + "mlp.up_proj.weight", (inter, hidden)
        yield p + "post_attention_layernorm.weight", (hidden,)
        if config["model_type"] == "qwen3":
            yield p + "self_attn.k_norm.weight", (dim,)
        yield p + "self_attn.k_proj.weight", (kv, hidden)
        yield p + "self_attn.o_proj.weight", (hidden, q)
        if config["model_type"] == "qwen3":
            yield p + "self_attn.q_norm.weight", (dim,)
        yield p + "self_attn.q_proj.weight", (q, hidden)
        yield p + "self_attn.v_proj.weight", (kv, hidden)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (vocab, hidden)


def bf16(values):
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("shape"); parser.add_argument("dir"); parser.add_argument("--tokenizer")
    parser.add_argument("--layers", type=int); parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sparse", action="store_true")
    args = parser.parse_args()
    config = SHAPES.get(args.shape) or json.load(open(args.shape))
    if args.layers: config = config | {"num_hidden_layers": args.layers}
    os.makedirs(args.dir, exist_ok=True)
    json.dump(config, open(f"{args.dir}/config.json", "w"), indent=2)
    if args.tokenizer:
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
            if os.path.exists(f"{args.tokenizer}/{name}"): shutil.copy(f"{args.tokenizer}/{name}", args.dir)
    header, offset = {}, 0
    for name, shape in tensors(config):
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # A block of normal numbers is drawn once and rolled: drawing billions would take minutes and change nothing.
    rng = np.random.default_rng(args.seed)
    block = bf16((rng.standard_normal(1 << 24) * 0.02).astype(np.float32))
    with open(f"{args.dir}/model.safetensors", "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        if args.sparse:
            out.truncate(8 + len(text) + offset)
            return
        for name, shape in tensors(config):
            left = int(np.prod(shape))
            if name.endswith("norm.weight"):
                out.write(bf16(np.ones(left, np.float32)).tobytes()); continue
            while left:
                start = int(rng.integers(0, len(block) // 2)); take = min(left, len(block) - start)
                out.write(block[start:start + take].tobytes()); left -= take
    print(f"{args.dir}: {offset / 2 / 1e9:.2f} G weights")


if __name__ == "__main__":
    main()
