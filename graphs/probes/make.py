#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["onnx==1.23.2", "numpy==2.4.6"]
# ///
"""Makes the probes: models of one operator, or of the few that one weight or one attention is made of, each with what to feed it and what
it must say, computed in numpy in f64.

usage: make.py FOLDER        writes FOLDER/NAME.onnx and FOLDER/probes.json:
       {NAME: {"feeds": {input: {"type", "dims", "data"}}, "want": [number, …], "tolerance": number}}
       data of float16 are its 16 bits; want is output `y`, and the tolerance the largest difference over the largest number of it.
"""
import json, os, sys
import numpy as np
from onnx import TensorProto, helper, numpy_helper

CONTRIB = "com.microsoft"
IR_VERSIONS = {21: 10, 22: 10, 23: 11, 24: 12, 25: 13}
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int64": TensorProto.INT64, "int32": TensorProto.INT32, "bool": TensorProto.BOOL}
CODES = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "int4": TensorProto.INT4, "uint4": TensorProto.UINT4,
         "int2": TensorProto.INT2, "uint2": TensorProto.UINT2}
EXACT, HALF, ROUNDED_TO_INT8 = 1e-4, 2e-3, 2e-2

IN, OUT, GROUP = 64, 32, 32                     # of a product: x [2, 3, IN] by w [IN, OUT]
VOCABULARY, HIDDEN = 16, 64                     # of a table
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 64            # of an attention

random = np.random.default_rng(0)
probes = {}


# Building blocks

def normal(*shape):
    return random.normal(size=shape).astype(np.float32)


def scales(*shape):
    return np.abs(normal(*shape)) + np.float32(0.1)


def draw(code, shape):
    bits = int(code.lstrip("uint"))
    return random.integers(0, 1 << bits, shape) if code[0] == "u" else random.integers(-(1 << bits - 1), 1 << bits - 1, shape)


def pack(codes, bits):
    """Codes of less than a byte, the first in the lowest bits; a last byte that is not full ends in zeros."""
    codes, per_byte = np.asarray(codes, np.int64).ravel() & ((1 << bits) - 1), 8 // bits
    codes = np.pad(codes, (0, -codes.size % per_byte)).reshape(-1, per_byte)
    return (codes << (bits * np.arange(per_byte))).sum(1).astype(np.uint8)


def tensor(name, array):
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


def coded(name, code, codes):
    return helper.make_tensor(name, CODES[code], codes.shape, pack(codes, int(code.lstrip("uint"))).tobytes(), raw=True)


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(" "), outputs.split(" "), **attributes)


def contrib(op, inputs, outputs, **attributes):
    # An input that is left out is written "-".
    return helper.make_node(op, [name.replace("-", "") for name in inputs.split(" ")], outputs.split(" "), domain=CONTRIB, **attributes)


def fed(value):
    value = np.asarray(value)
    bits = value.view(np.uint16) if value.dtype == np.float16 else value
    return {"type": value.dtype.name, "dims": list(value.shape), "data": [float(x) if value.dtype == np.float32 else int(x) for x in bits.ravel()]}


def add(name, nodes, feeds, weights, want, opset=21, tolerance=EXACT, dims={}, outputs=("y",), output=TensorProto.FLOAT):
    """`dims` are symbolic dimensions of inputs; outputs have none, so that a runtime must infer them."""
    inputs = [helper.make_tensor_value_info(key, TYPES[value.dtype.name], dims.get(key, value.shape)) for key, value in feeds.items()]
    outputs = [helper.make_tensor_value_info(key, output, None) for key in outputs]
    opsets = [helper.make_opsetid("", opset)] + [helper.make_opsetid(CONTRIB, 1)] * any(node.domain for node in nodes)
    graph = helper.make_graph(nodes, name, inputs, outputs, weights)
    with open(os.path.join(sys.argv[1], name + ".onnx"), "wb") as file:
        file.write(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSIONS[opset]).SerializeToString())
    assert name not in probes, name
    probes[name] = {"feeds": {key: fed(value) for key, value in feeds.items()},
                    "want": [float(x) for x in np.asarray(want, np.float64).ravel()], "tolerance": tolerance}


# Weights behind DequantizeLinear

def blocked(name, code, opset=21, zero_points=None, scale=np.float32, activation=np.float32, stored="[K, N]"):
    """One scale for GROUP weights of an output. `stored` is how codes lie: as MatMul reads them, transposed, or in blocks."""
    blocks = IN // GROUP
    codes, steps = draw(code, (IN, OUT)), scales(blocks, OUT).astype(np.float16).astype(np.float32)
    zeros = {None: np.zeros((blocks, OUT), int), "zero": np.zeros((blocks, OUT), int), "drawn": draw(code, (blocks, OUT))}[zero_points]
    want = x.astype(np.float64) @ ((codes - np.repeat(zeros, GROUP, 0)) * np.repeat(steps, GROUP, 0))
    axis, lay, lay_scales = {"[K, N]": (0, lambda a: a, lambda a: a), "[N, K]": (1, np.transpose, np.transpose),
                             "[N, blocks, GROUP]": (2, lambda a: a.T.reshape(OUT, blocks, GROUP), lambda a: a.T.reshape(OUT, blocks, 1))}[stored]
    weights = [coded("codes", code, lay(codes)), tensor("scales", lay_scales(steps).astype(scale))]
    nodes, inputs = [], "codes scales"
    if scale != activation:
        nodes.append(node("Cast", "scales", "wide", to=TYPES[np.dtype(activation).name]))
        inputs = "codes wide"
    if zero_points:
        weights.append(coded("zeros", code, lay_scales(zeros)))
        inputs += " zeros"
    nodes.append(node("DequantizeLinear", inputs, "w", axis=axis, block_size=GROUP))
    if stored == "[N, blocks, GROUP]":
        weights.append(tensor("flat", np.array([OUT, IN])))
        nodes.append(node("Reshape", "w flat", "w2"))
    if stored != "[K, N]":
        nodes.append(node("Transpose", nodes[-1].output[0], "wt", perm=[1, 0]))
    nodes.append(helper.make_node("MatMul", ["x", nodes[-1].output[0]], ["y"]))
    add(name, nodes, {"x": x.astype(activation)}, weights, want, opset, HALF if activation == np.float16 else EXACT,
        output=TYPES[np.dtype(activation).name])


def dequantized():
    for code in ("int4", "uint4", "int8", "uint8"):
        blocked(f"dq_{code}_b32_axis0", code)
        blocked(f"dq_{code}_b32_zp", code, zero_points="drawn")
    blocked("dq_int4_b32_f16scale_cast", "int4", scale=np.float16)
    blocked("dq_int4_b32_f16", "int4", scale=np.float16, activation=np.float16)
    blocked("dq_int4_b32_NK_axis1_transpose", "int4", stored="[N, K]")
    blocked("dq_uint4_3d_reshape_transpose", "uint4", zero_points="drawn", stored="[N, blocks, GROUP]")
    blocked("dq_int4_b32_zero_zp", "int4", zero_points="zero")
    blocked("dq_int4_b32_opset24", "int4", opset=24)
    blocked("dq_int2_b32", "int2", opset=25)
    blocked("dq_uint2_b32_zp", "uint2", opset=25, zero_points="drawn")
    for code in ("int8", "uint8", "int4"):
        codes, steps = draw(code, (IN, OUT)), scales(OUT)
        nodes = [node("DequantizeLinear", "codes scales", "w", axis=1), node("MatMul", "x w", "y")]
        add(f"dq_{code}_channel", nodes, {"x": x}, [coded("codes", code, codes), tensor("scales", steps)], x.astype(np.float64) @ (codes * steps))


# Weights in operators of ONNX Runtime's own

NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]


def products():
    blocks = IN // GROUP
    for bits in (2, 4, 8):
        for drawn in (False, True):
            codes, steps = draw(f"uint{bits}", (OUT, blocks, GROUP)), scales(OUT, blocks)
            zeros = draw(f"uint{bits}", (OUT, blocks)) if drawn else np.full((OUT, blocks), 1 << bits - 1)
            want = x.astype(np.float64) @ ((codes - zeros[:, :, None]) * steps[:, :, None]).reshape(OUT, IN).T
            weights = [tensor("codes", pack(codes, bits).reshape(OUT, blocks, -1)), tensor("scales", steps)]
            if drawn:
                weights.append(tensor("zeros", np.stack([pack(row, bits) for row in zeros])))
            inputs, attributes = "x codes scales" + " zeros" * drawn, dict(K=IN, N=OUT, bits=bits, block_size=GROUP)
            add(f"MatMulNBits_{bits}{'_zp' * drawn}", [contrib("MatMulNBits", inputs, "y", **attributes)], {"x": x}, weights, want)
            if bits != 2 and not drawn:
                nodes = [contrib("MatMulNBits", inputs, "y", accuracy_level=4, **attributes)]
                add(f"MatMulNBits_{bits}_acc4", nodes, {"x": x}, weights, want, tolerance=ROUNDED_TO_INT8)
    codes, largest = random.integers(0, 16, (OUT, IN)), scales(OUT * IN // 64)
    want = x.astype(np.float64) @ (np.array(NF4)[codes] * np.repeat(largest, 64).reshape(OUT, IN)).T
    # The first of two codes lies in the high bits.
    packed = pack(codes.reshape(-1, 2)[:, ::-1], 4)
    nodes = [contrib("MatMulBnb4", "x codes absmax", "y", K=IN, N=OUT, block_size=64, quant_type=1)]
    add("MatMulBnb4_nf4", nodes, {"x": x}, [tensor("codes", packed), tensor("absmax", largest)], want)
    w = normal(OUT, IN)
    add("FusedMatMul_transB", [contrib("FusedMatMul", "x w", "y", transB=1)], {"x": x}, [tensor("w", w)], x.astype(np.float64) @ w.T)


def tables():
    ids, blocks = np.array([[3, 7, 0]], np.int64), HIDDEN // GROUP
    shape = tensor("shape", np.array([0, 0, HIDDEN]))
    gather = lambda output, **attributes: contrib("GatherBlockQuantized", "codes ids scales", output, block_size=GROUP, gather_axis=0, **attributes)
    for bits in (4, 8):
        codes, steps = draw(f"uint{bits}", (VOCABULARY, blocks, GROUP)), scales(VOCABULARY, blocks)
        want = ((codes - (1 << bits - 1)) * steps[:, :, None]).reshape(VOCABULARY, HIDDEN)[ids]
        nodes = [gather("rows", bits=bits, quantize_axis=2), node("Reshape", "rows shape", "y")]
        weights = [tensor("codes", pack(codes, bits).reshape(VOCABULARY, blocks, -1)), tensor("scales", steps[:, :, None]), shape]
        add(f"GatherBlockQuantized_{bits}_3d", nodes, {"ids": ids}, weights, want)
        weights = [tensor("codes", pack(codes, bits).reshape(VOCABULARY, -1)), tensor("scales", steps)]
        add(f"GatherBlockQuantized_{bits}_2d", [gather("y", bits=bits, quantize_axis=1)], {"ids": ids}, weights, want)
    codes, steps = draw("int4", (VOCABULARY, HIDDEN)), scales(VOCABULARY, blocks)
    wide = np.repeat(steps, GROUP, 1)
    weights = [coded("codes", "int4", codes), tensor("scales", steps)]
    add("GatherBlockQuantized_int4", [gather("y", quantize_axis=1)], {"ids": ids}, weights, (codes * wide)[ids])
    codes, zeros = draw("uint4", (VOCABULARY, HIDDEN)), np.full((VOCABULARY, blocks), 8)
    nodes = [contrib("GatherBlockQuantized", "codes ids scales zeros", "y", block_size=GROUP, gather_axis=0, quantize_axis=1)]
    weights = [coded("codes", "uint4", codes), tensor("scales", steps), coded("zeros", "uint4", zeros)]
    add("GatherBlockQuantized_uint4_zp", nodes, {"ids": ids}, weights, ((codes - 8) * wide)[ids])
    codes = draw("int8", (VOCABULARY, HIDDEN)).astype(np.int8)
    nodes = [node("Gather", "codes ids", "row"), node("Cast", "row", "wide", to=TensorProto.FLOAT), node("Reshape", "wide blocks", "blocked"),
             node("Gather", "scales ids", "steps"), node("Mul", "blocked steps", "product"), node("Reshape", "product shape", "y")]
    weights = [tensor("codes", codes), tensor("scales", steps[:, :, None]), tensor("blocks", np.array([0, 0, blocks, GROUP])), shape]
    add("int8_rows_gather_mul", nodes, {"ids": ids}, weights, (codes * wide)[ids])


# Element types and bits

def casts():
    ones = x.astype(np.float64) @ np.ones((IN, OUT))
    bfloat16 = (np.ones((IN, OUT), np.float32).view(np.uint32) >> 16).astype(np.uint16)
    nodes = [node("Cast", "w", "wide", to=TensorProto.FLOAT), node("MatMul", "x wide", "y")]
    add("Cast_bf16_f32", nodes, {"x": x}, [helper.make_tensor("w", TensorProto.BFLOAT16, [IN, OUT], bfloat16.tobytes(), raw=True)], ones)
    add("Cast_f16_f32", nodes, {"x": x}, [tensor("w", np.ones((IN, OUT), np.float16))], ones)
    every = np.arange(256, dtype=np.uint8).reshape(IN, 4)
    nodes = [node("Cast", "codes", "low", to=TensorProto.INT4), node("DequantizeLinear", "low scales", "w", axis=0, block_size=GROUP), node("MatMul", "x w", "y")]
    weights = [tensor("codes", every), tensor("scales", np.ones((IN // GROUP, 4), np.float32))]
    add("Cast_uint8_int4_wraps", nodes, {"x": x}, weights, x.astype(np.float64) @ (((every.astype(int) & 15) ^ 8) - 8))
    nodes = [node("Sub", "codes offset", "low"), node("Cast", "low", "signed", to=TensorProto.INT8), node("Cast", "signed", "w", to=TensorProto.FLOAT),
             node("MatMul", "x w", "y")]
    weights = [tensor("codes", every & 63), tensor("offset", np.array(32, np.uint8))]
    add("Sub_uint8_wraps", nodes, {"x": x}, weights, x.astype(np.float64) @ ((every.astype(int) & 63) - 32))
    nodes = [node("BitShift", "codes two", "shifted", direction="RIGHT"), node("BitwiseAnd", "shifted mask", "low"), node("BitwiseOr", "low eight", "both"),
             node("Cast", "both", "w", to=TensorProto.FLOAT), node("MatMul", "x w", "y")]
    weights = [tensor("codes", every)] + [tensor(name, np.array(value, np.uint8)) for name, value in (("two", [2]), ("mask", 3), ("eight", 8))]
    add("BitShift_And_Or_uint8", nodes, {"x": x}, weights, x.astype(np.float64) @ (((every.astype(int) >> 2) & 3) | 8))


# Norms and rotary positions

ANGLES = np.outer(np.arange(128), 1e4 ** -(np.arange(HEAD_DIM // 2) / (HEAD_DIM // 2)))
COS, SIN = np.cos(ANGLES).astype(np.float32), np.sin(ANGLES).astype(np.float32)


def split(flat, heads):
    """[batch, tokens, heads · HEAD_DIM] → [batch, heads, tokens, HEAD_DIM]"""
    return flat.reshape(*flat.shape[:2], heads, HEAD_DIM).transpose(0, 2, 1, 3)


def join(heads):
    return heads.transpose(0, 2, 1, 3).reshape(heads.shape[0], heads.shape[2], -1)


def rotate(heads, positions):
    cos, sin = COS[positions][:, None], SIN[positions][:, None]
    low, high = np.split(heads, 2, -1)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], -1)


def norms():
    stream, more, gain = normal(2, 3, HIDDEN), normal(2, 3, HIDDEN), normal(HIDDEN)
    normed = lambda v: v / np.sqrt((v.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-5) * gain
    weights = [tensor("gain", gain)]
    add("RMSNormalization_23", [node("RMSNormalization", "x gain", "y", axis=-1, epsilon=1e-5)], {"x": stream}, weights, normed(stream), 23)
    nodes = [node("SimplifiedLayerNormalization", "x gain", "y", axis=-1, epsilon=1e-5, stash_type=1)]
    add("SimplifiedLayerNormalization", nodes, {"x": stream}, weights, normed(stream))
    nodes = [contrib("SkipSimplifiedLayerNormalization", "x more gain", "y", epsilon=1e-5)]
    add("SkipSimplifiedLayerNormalization", nodes, {"x": stream, "more": more}, weights, normed(stream + more))
    add("Swish_24", [node("Swish", "x", "y")], {"x": stream}, [], stream / (1 + np.exp(-stream.astype(np.float64))), 24)


def rotaries():
    q, positions = normal(2, 3, HEADS * HEAD_DIM), np.array([[0, 1, 2], [5, 6, 7]], np.int64)
    want, feeds, weights = join(rotate(split(q, HEADS), positions)), {"x": q, "positions": positions}, [tensor("cos", COS), tensor("sin", SIN)]
    add("RotaryEmbedding_23", [node("RotaryEmbedding", "x cos sin positions", "y", num_heads=HEADS)], feeds, weights, want, 23)
    nodes = [contrib("RotaryEmbedding", "x positions cos sin", "y", num_heads=HEADS, rotary_embedding_dim=0, interleaved=0)]
    add("RotaryEmbedding_contrib", nodes, feeds, weights, want)


# Attention

SYMBOLIC = {"q": ["b", "s", HEADS * HEAD_DIM], "k": ["b", "s", KV_HEADS * HEAD_DIM], "v": ["b", "s", KV_HEADS * HEAD_DIM],
            "past_k": ["b", KV_HEADS, "p", HEAD_DIM], "past_v": ["b", KV_HEADS, "p", HEAD_DIM], "lengths": ["b"],
            "positions": ["b", "s"], "mask": ["b", 1, "s", "t"], "bias": ["b", 1, "s", "t"]}
CACHED = dict(outputs=("y", "present_k", "present_v"), dims=SYMBOLIC)


def attend(q, k, v, allowed):
    k, v = (np.repeat(heads, HEADS // KV_HEADS, 1) for heads in (k, v))
    scores = np.einsum("bhqd,bhkd->bhqk", q.astype(np.float64), k) / np.sqrt(HEAD_DIM) + np.where(allowed, 0, -1e30)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return join(np.einsum("bhqk,bhkd->bhqd", scores / scores.sum(-1, keepdims=True), v))


def qkv(batch, tokens):
    return normal(batch, tokens, HEADS * HEAD_DIM), normal(batch, tokens, KV_HEADS * HEAD_DIM), normal(batch, tokens, KV_HEADS * HEAD_DIM)


def attentions():
    for name, batch, tokens, past in (("prefill_b1", 1, 8, 0), ("prefill_b1_s58", 1, 58, 0), ("prefill_b2", 2, 8, 0),
                                      ("decode_b1", 1, 1, 8), ("decode_b2", 2, 1, 8), ("chunk_b1", 1, 4, 8)):
        attention(name, batch, tokens, past)


def attention(name, batch, tokens, past):
    q, k, v = qkv(batch, tokens)
    past_k, past_v = normal(batch, KV_HEADS, past, HEAD_DIM), normal(batch, KV_HEADS, past, HEAD_DIM)
    total, positions = past + tokens, np.arange(past, past + tokens)[None].repeat(batch, 0)
    causal = (np.arange(total)[None] <= positions[0][:, None])[None, None].repeat(batch, 0)
    keys = lambda new: np.concatenate([past_k, new], 2)
    values = np.concatenate([past_v, split(v, KV_HEADS)], 2)
    cached = {"q": q, "k": k, "v": v, "past_k": past_k, "past_v": past_v}
    lengths = {"lengths": np.full(batch, total - 1, np.int32), "total": np.array(total, np.int32)}
    sizes = dict(num_heads=HEADS, kv_num_heads=KV_HEADS)
    nodes = [contrib("GroupQueryAttention", "q k v past_k past_v lengths total cos sin positions", "y present_k present_v", do_rotary=1, **sizes)]
    want = attend(rotate(split(q, HEADS), positions), keys(rotate(split(k, KV_HEADS), positions)), values, causal)
    add("GQA_rotary_" + name, nodes, cached | lengths | {"positions": positions}, [tensor("cos", COS), tensor("sin", SIN)], want, **CACHED)
    # The first row of a batch that decodes is padded on the left.
    allowed = causal.copy()
    if batch == 2 and past:
        allowed[0, :, :, :3] = False
    want = attend(split(q, HEADS), keys(split(k, KV_HEADS)), values, allowed)
    sizes = dict(q_num_heads=HEADS, kv_num_heads=KV_HEADS)
    for opset in (23, 24):
        nodes = [node("Attention", "q k v mask past_k past_v", "y present_k present_v", **sizes)]
        add(f"Attention{opset}_mask_{name}", nodes, cached | {"mask": allowed}, [], want, opset, **CACHED)
    nodes = [helper.make_node("Attention", ["q", "k", "v", "", "past_k", "past_v"], ["y", "present_k", "present_v"], is_causal=1, **sizes)]
    add("Attention24_iscausal_" + name, nodes, cached, [], attend(split(q, HEADS), keys(split(k, KV_HEADS)), values, causal), 24, **CACHED)
    if batch == 2 or tokens == 58:
        nodes = [contrib("GroupQueryAttention", "q k v past_k past_v lengths total - - - bias", "y present_k present_v", num_heads=HEADS, kv_num_heads=KV_HEADS)]
        add("GQA_bias_" + name, nodes, cached | lengths | {"bias": np.where(allowed, 0, -3e38).astype(np.float32)}, [], want, **CACHED)


def scattered():
    """A cache of 16 places that keys are written into, rows at places of their own."""
    batch, places, lengths = 2, 16, np.array([5, 8], np.int64)
    q, k, v = qkv(batch, 1)
    caches = {"k_cache": normal(batch, KV_HEADS, places, HEAD_DIM), "v_cache": normal(batch, KV_HEADS, places, HEAD_DIM)}
    keys, values = caches["k_cache"].copy(), caches["v_cache"].copy()
    for row, place in enumerate(lengths):
        keys[row, :, place], values[row, :, place] = split(k, KV_HEADS)[row, :, 0], split(v, KV_HEADS)[row, :, 0]
    allowed = (np.arange(places)[None] <= lengths[:, None])[:, None, None]
    nodes = [node("TensorScatter", "k_cache k lengths", "keys", axis=2), node("TensorScatter", "v_cache v lengths", "values", axis=2),
             helper.make_node("Attention", ["q", "keys", "values", "", "", "", "filled"], ["heads"], is_causal=0),
             node("Transpose", "heads", "tokens", perm=[0, 2, 1, 3]), node("Reshape", "tokens flat", "y")]
    feeds = {"q": split(q, HEADS), "k": split(k, KV_HEADS), "v": split(v, KV_HEADS), **caches, "lengths": lengths, "filled": lengths + 1}
    feeds = {key: np.ascontiguousarray(value) for key, value in feeds.items()}
    add("TensorScatter24_Attention24", nodes, feeds, [tensor("flat", np.array([0, 0, -1]))], attend(feeds["q"], keys, values, allowed), 24)


os.makedirs(sys.argv[1], exist_ok=True)
x = normal(2, 3, IN)
for make in (dequantized, products, tables, casts, norms, rotaries, attentions, scattered):
    make()
with open(os.path.join(sys.argv[1], "probes.json"), "w") as file:
    json.dump(probes, file)
