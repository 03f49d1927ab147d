#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["onnx==1.23.0", "torch", "transformers", "numpy", "ml_dtypes"]
# ///
"""KL(checkpoint ‖ artifact) without ONNX Runtime: the artifact's weights decoded by onnx's reference evaluator, put into transformers.

    python results/lab/predicted_kl.py CHECKPOINT ARTIFACT WINDOWS.json [--windows 30] [--perplexity] [--json]

It shares no code with qonnx and none with ONNX Runtime, so that its agreement with `qonnx eval --task kl` says that the runtime
computes with the weights that are on the disk. Decodes DequantizeLinear, bit planes and MatMulBnb4; an artifact whose graph does
more than weights can say (a rotated head, outlier columns) is refused.
"""

import argparse
import json
import pathlib

import numpy as np
import onnx
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator
from transformers import AutoModelForCausalLM

# bitsandbytes 0.50.2, functional.py, get_4bit_type("nf4") and ("fp4"): values of the codes 0 to 15.
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
FP4 = [0.0, 0.0625 / 12, 8 / 12, 1.0, 4 / 12, 6 / 12, 2 / 12, 3 / 12]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "artifact", "text"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--windows", type=int, default=30)
    parser.add_argument("--perplexity", action="store_true", help="of the artifact's weights, over all windows")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.checkpoint, dtype=torch.float32).eval()
    quantized = AutoModelForCausalLM.from_pretrained(args.checkpoint, dtype=torch.float32).eval()
    replaced = replace(quantized, onnx.load(args.artifact / "model.onnx"))
    windows = json.loads(args.text.read_text())
    every = windows if isinstance(windows, list) else windows["windows"]
    windows = every[: args.windows]
    kl = np.mean([divergence(model, quantized, ids) for ids in windows])
    result = {"artifact": str(args.artifact), "windows": len(windows), "weights_replaced": replaced, "kl_mean": kl}
    if args.perplexity:
        result["perplexity"] = float(np.exp(np.mean([loss(quantized, ids) for ids in every])))
    print(json.dumps(result) if args.json else f"{args.artifact}: KL {kl:.6f} over {len(windows)} windows, {replaced} weights decoded")


def divergence(model, quantized, ids):
    """Mean over the window's predicted tokens of KL(model ‖ quantized), nats."""
    ids = torch.tensor([ids])
    with torch.no_grad():
        p, q = (m(ids).logits[0, :-1].log_softmax(-1) for m in (model, quantized))
    return (p.exp() * (p - q)).sum(-1).mean().item()


def loss(model, ids):
    """Mean over the window's predicted tokens of their negative log-likelihood, nats."""
    ids = torch.tensor([ids])
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:]).item()


def replace(quantized, proto):
    """Writes every decoded linear and every norm into `quantized`; how many linears there were."""
    graph = proto.graph
    makers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    parameters = dict(quantized.named_parameters())
    replaced = 0
    for node in graph.node:
        module = node.output[0].rsplit("/", 1)[0]
        if node.op_type == "MatMul" and module.startswith("model.layers"):
            weight = constant(node.input[1], makers, constants, proto)
        elif node.op_type == "MatMulBnb4":
            weight = codebook(node, makers, constants, proto)
        else:
            continue
        put(parameters, module + ".weight", weight.T)
        replaced += 1
    linears = [name for name in parameters if "layers" in name and name.endswith("proj.weight")]
    if replaced != len(linears):
        raise SystemExit(f"{replaced} products of weights in the graph, expected {len(linears)}: more than weights differs")
    for name in parameters:
        if name.endswith("norm.weight"):
            put(parameters, name, onnx.numpy_helper.to_array(constants[name]))
    return replaced


def put(parameters, name, value):
    value = torch.from_numpy(np.ascontiguousarray(value).astype(np.float32))
    if parameters[name].shape != value.shape:
        raise SystemExit(f"{name}: {tuple(value.shape)} in the artifact, {tuple(parameters[name].shape)} in the checkpoint")
    parameters[name].data.copy_(value)


def constant(name, makers, constants, proto):
    """The value of `name`, which only initializers may feed, by onnx's reference evaluator."""
    nodes, leaves, wanted = [], {}, [name]
    while wanted:
        value = wanted.pop()
        if value in constants:
            leaves[value] = constants[value]
        elif value in makers:
            if makers[value] not in nodes:
                nodes.insert(0, makers[value])
                wanted += [i for i in makers[value].input if i]
        else:
            raise SystemExit(f"{name} depends on the input {value}: it is no constant")
    if not nodes:
        return onnx.numpy_helper.to_array(constants[name])
    order = {output: place for place, node in enumerate(proto.graph.node) for output in node.output}
    nodes.sort(key=lambda node: order[node.output[0]])
    output = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
    part = helper.make_graph(nodes, "weight", [], [output], list(leaves.values()))
    model = helper.make_model(part, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    return ReferenceEvaluator(model).run(None, {})[0]


def codebook(node, makers, constants, proto):
    """`[in_features, out_features]` of a MatMulBnb4: two codes a byte, the high half first, absmax a block of the flat weight."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    packed = constant(node.input[1], makers, constants, proto).astype(np.uint8).ravel()
    absmax = constant(node.input[2], makers, constants, proto).astype(np.float32).ravel()
    values = np.array(NF4 if attributes["quant_type"] == 1 else FP4 + [-v for v in FP4], np.float32)
    codes = np.stack([packed >> 4, packed & 15], 1).ravel()
    shape = attributes["N"], attributes["K"]
    flat = values[codes][: shape[0] * shape[1]]
    return (flat * np.repeat(absmax, attributes["block_size"])[: flat.size]).reshape(shape).T


if __name__ == "__main__":
    main()
