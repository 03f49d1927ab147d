# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy==2.4.6", "ml_dtypes==0.6.0", "onnx==1.23.2", "onnxruntime==1.32.0"]
# ///
"""What ONNX packs and ONNX Runtime dequantizes, for tests/it/quant_golden.rs to compare with.

    golden_dequantize.py tests/goldens/dequantize.json

Codes, scales and zero points are drawn at random. onnx's own numpy conversion packs the DequantizeLinear tensors, ONNX
Runtime's DequantizeLinear and MatMulNBits (times the unit matrix) turn bytes into weights; nothing here is qonnx's.
"""

import json
import sys

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

SIGNED = {8: np.int8, 4: ml_dtypes.int4, 2: ml_dtypes.int2}
UNSIGNED = {8: np.uint8, 4: ml_dtypes.uint4, 2: ml_dtypes.uint2}


def run(nodes, inputs, initializers, feeds, out_type=TensorProto.FLOAT):
    graph = helper.make_graph(nodes, "golden", inputs, [helper.make_tensor_value_info("y", out_type, None)], initializers)
    opsets = [helper.make_opsetid("", 25), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=13)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, feeds)[0]


def dequantize_linear(codes, scales, zero_points, bits, group_size):
    """codes [out, in], scales and zero_points [out, groups] → packed tensors and weights [in, out]."""
    symmetric = zero_points is None
    levels = codes.astype(int) - (1 << (bits - 1) if symmetric else 0)
    dtype = (SIGNED if symmetric else UNSIGNED)[bits]
    turn = (lambda a: np.ascontiguousarray(a.T)) if group_size else (lambda a: np.ascontiguousarray(a[:, 0]))
    tensors = [numpy_helper.from_array(np.ascontiguousarray(levels.T).astype(dtype), "codes"),
               numpy_helper.from_array(turn(scales), "scales")]
    if not symmetric:
        tensors.append(numpy_helper.from_array(turn(zero_points).astype(dtype), "zero_points"))
    attributes = dict(axis=0, block_size=group_size) if group_size else dict(axis=1)
    node = helper.make_node("DequantizeLinear", [t.name for t in tensors], ["y"], **attributes)
    return tensors, run([node], [], tensors, {})


def pack_rows(elements, bits):
    """Low bits first along the last axis, each row padded with zero bits."""
    per_byte = 8 // bits
    padded = np.pad(elements.astype(np.uint8), [(0, 0)] * (elements.ndim - 1) + [(0, -elements.shape[-1] % per_byte)])
    parts = padded.reshape(*padded.shape[:-1], -1, per_byte)
    return np.bitwise_or.reduce(parts << (np.arange(per_byte, dtype=np.uint8) * bits), axis=-1).astype(np.uint8)


def matmul_nbits(codes, scales, zero_points, bits, block_size):
    out_features, in_features = codes.shape
    blocks = -(-in_features // block_size)
    last = np.full((out_features, 1), 1 << (bits - 1)) if zero_points is None else zero_points[:, -1:]
    padded = np.concatenate([codes, np.repeat(last, blocks * block_size - in_features, axis=1).astype(np.uint8)], axis=1)
    packed = pack_rows(padded.reshape(out_features, blocks, block_size), bits)
    tensors = [numpy_helper.from_array(packed, "codes"), numpy_helper.from_array(scales, "scales")]
    packed_zero_points = None
    if zero_points is not None:
        packed_zero_points = pack_rows(zero_points, bits)
        tensors.append(numpy_helper.from_array(packed_zero_points, "zero_points"))
    node = helper.make_node("MatMulNBits", ["x", *(t.name for t in tensors)], ["y"], domain="com.microsoft",
                            K=in_features, N=out_features, bits=bits, block_size=block_size)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [in_features, in_features])
    weights = run([node], [x], tensors, {"x": np.eye(in_features, dtype=np.float32)})
    return packed, packed_zero_points, weights


def main():
    rng = np.random.default_rng(2)
    cases = []
    shapes = [(3, 16, 16), (8, 32, 16), (5, 37, 32), (6, 20, 0), (4, 33, 16)]
    for bits in (8, 4, 2):
        for symmetric in (True, False):
            for out_features, in_features, group_size in shapes:
                groups = -(-in_features // group_size) if group_size else 1
                codes = rng.integers(0, 1 << bits, (out_features, in_features)).astype(np.uint8)
                signs = rng.choice([-1, 1], (out_features, groups)) if symmetric else 1
                scales = (np.exp(rng.normal(-4, 1, (out_features, groups))) * signs).astype(np.float16).astype(np.float32)
                zero_points = None if symmetric else rng.integers(0, 1 << bits, (out_features, groups)).astype(np.uint8)
                tensors, weights = dequantize_linear(codes, scales, zero_points, bits, group_size)
                case = dict(
                    bits=bits, symmetric=symmetric, out_features=out_features, in_features=in_features, group_size=group_size,
                    codes=codes.ravel().tolist(), scale_bits=scales.view(np.uint32).ravel().tolist(),
                    zero_points=None if symmetric else zero_points.ravel().tolist(),
                    dequantize_linear=dict(
                        codes=tensors[0].raw_data.hex(), zero_points=None if symmetric else tensors[2].raw_data.hex()),
                    weight_bits=np.ascontiguousarray(weights.T).view(np.uint32).ravel().tolist())
                if group_size:
                    packed, packed_zero_points, product = matmul_nbits(codes, scales, zero_points, bits, group_size)
                    assert np.array_equal(product, weights), "MatMulNBits and DequantizeLinear disagree"
                    case["matmul_nbits"] = dict(
                        codes=packed.tobytes().hex(), zero_points=None if symmetric else packed_zero_points.tobytes().hex())
                cases.append(case)
    with open(sys.argv[1], "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
    print(len(cases), "cases, ONNX Runtime", ort.__version__, "onnx", onnx.__version__)


main()
