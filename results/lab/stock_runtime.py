#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["onnxruntime==1.32.0", "onnx==1.23.2", "numpy"]
# ///
"""Runs artifacts the way any other program would: stock onnx and onnxruntime, nothing of qonnx.

For each artifact: checks the graph (onnx.checker with full check), loads it, decodes greedily with the ecosystem's
inputs (input_ids, attention_mask, past_key_values.*; position_ids where a graph asks for them), and counts what the optimizer fused: every
DequantizeLinear must be gone with all that unpacks codes, as many MatMulNBits must have come, and logits must be finite. Prints one JSON line per
artifact, with the greedy ids of each prompt; exit code 1 if any artifact fails.

usage: stock_runtime.py DIR... [--prompts PROMPTS.json] [--new-tokens N] [--cuda] [--logits OUT.npy]
       PROMPTS.json: [[token id, ...], ...]; --logits keeps every prompt position's logits of the last artifact
"""
import argparse, collections, json, os, sys, tempfile
import numpy as np, onnx, onnxruntime as ort

COUNTED = ("MatMulNBits", "MatMulBnb4", "MatMul", "FusedMatMul", "Gemm", "DequantizeLinear", "BitShift", "BitwiseAnd", "BitwiseOr", "Slice")


def count(path):
    return collections.Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


def session(path, cuda):
    options = ort.SessionOptions()
    # As qonnx scores: the default level 4 rounds activations to 8 bits on the CPU.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as scratch:
        options.optimized_model_filepath = f"{scratch}/optimized.onnx"
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.data")
        model = ort.InferenceSession(path, options, providers=["CUDAExecutionProvider" if cuda else "CPUExecutionProvider"])
        if cuda and model.get_providers()[0] != "CUDAExecutionProvider":
            sys.exit("onnxruntime did not take the CUDA execution provider")
        return model, count(options.optimized_model_filepath)


def empty_cache(model):
    cache = {}
    for value in model.get_inputs():
        if value.name.startswith("past_key_values."):
            dtype = np.float16 if "float16" in value.type else np.float32
            cache[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), dtype)
    return cache


def greedy(model, prompt, new_tokens):
    """Produced ids, and the logits of every position of the prompt."""
    names = [value.name for value in model.get_outputs()]
    known = {value.name for value in model.get_inputs()}
    cache, ids, produced, prompt_logits = empty_cache(model), list(prompt), [], None
    step = ids
    for _ in range(new_tokens):
        total = len(ids)
        feed = {"input_ids": np.array([step], np.int64), "attention_mask": np.ones((1, total), np.int64),
                "position_ids": np.arange(total - len(step), total, dtype=np.int64)[None]}
        out = dict(zip(names, model.run(None, {k: v for k, v in (feed | cache).items() if k in known})))
        logits = out["logits"][0].astype(np.float32)
        prompt_logits = logits if prompt_logits is None else prompt_logits
        cache = {name: out[name.replace("past_key_values", "present")] for name in cache}
        step = [int(logits[-1].argmax())]
        ids, produced = ids + step, produced + step
    return produced, prompt_logits


def check(folder, prompts, new_tokens, cuda):
    path = os.path.join(folder, "model.onnx")
    onnx.checker.check_model(path, full_check=True)
    before = count(path)
    model, after = session(path, cuda)
    results = [greedy(model, prompt, new_tokens) for prompt in prompts]
    logits = np.concatenate([logits for _, logits in results])
    fused, finite = after["MatMulNBits"] - before["MatMulNBits"], bool(np.isfinite(logits).all())
    ok = fused == before["DequantizeLinear"] and not any(after[op] for op in ("DequantizeLinear", "BitShift", "BitwiseAnd", "BitwiseOr")) and finite
    return {"artifact": folder, "checker": "ok", "dequantized": before["DequantizeLinear"], "fused": fused, "finite": finite,
            "ok": ok, "ids": [ids for ids, _ in results], "nodes": {op: after[op] for op in COUNTED}}, logits


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dirs", nargs="+", metavar="DIR"); parser.add_argument("--prompts"); parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--cuda", action="store_true"); parser.add_argument("--logits")
    args = parser.parse_args()
    prompts = json.load(open(args.prompts)) if args.prompts else [list(range(2, 10))]
    passed = True
    for folder in args.dirs:
        result, logits = check(folder, prompts, max(args.new_tokens, 1), args.cuda)
        print(json.dumps(result), flush=True)
        passed &= result["ok"]
    if args.logits:
        np.save(args.logits, logits)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
