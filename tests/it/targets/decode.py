"""Decodes checkpoints for other programs by what their formats' sources say, and compares every weight with what its quantized
checkpoint says it is, bit for bit. Needs numpy alone; knows nothing of qonnx but the form of a quantized checkpoint.

    decode.py QUANTIZED FOLDER...    prints a JSON line for each folder
"""

import json
import math
import pathlib
import sys

import numpy as np

DTYPES = {"U8": np.uint8, "I8": np.int8, "I32": np.int32, "U32": np.uint32, "I64": np.int64, "F16": np.float16, "F32": np.float32, "BF16": np.uint16}
# bitsandbytes 0.50.2, functional.py, get_4bit_type.
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
       0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
FP4 = [0, 0.0625, 8, 12, 4, 6, 2, 3, -0.0, -0.0625, -8, -12, -4, -6, -2, -3]


def tensors(folder):
    """Every tensor of a folder, as the index says where it lies where there is one; bf16 widened to f32."""
    folder, found = pathlib.Path(folder), {}
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            array = np.frombuffer(data[start:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
            if entry["dtype"] == "BF16":
                array = (array.astype(np.uint32) << 16).view(np.float32)
            found[name] = (array, path.name)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        said = json.loads(index.read_text())["weight_map"]
        assert said == {name: file for name, (_, file) in found.items()}, "the index says where each tensor lies"
    return {name: array for name, (array, _) in found.items()}


def meant(name, q):
    """The f32 weight of a quantized checkpoint."""
    codes, scales = q[name + ".codes"], q[name + ".scales"]
    group = codes.shape[1] // scales.shape[1]
    scales = np.repeat(scales.astype(np.float32), group, 1)
    return codes, scales, np.repeat(q[name + ".zero_points"], group, 1) if name + ".zero_points" in q else None


def stream(words, bits, count):
    """[rows, words] of 32 bits -> [rows, count]: element i at bit i * bits, low bits first."""
    words = np.ascontiguousarray(words).view(np.uint32).astype(np.uint64)
    words = np.concatenate([words, np.zeros((len(words), 1), np.uint64)], 1)
    bit = np.arange(count) * bits
    word, shift = bit // 32, (bit % 32).astype(np.uint64)
    pair = words[:, word] | words[:, word + 1] << np.uint64(32)
    return (pair >> shift & np.uint64((1 << bits) - 1)).astype(np.int64)


def compressed_tensors(module, t, config):
    """compressed-tensors 0.20.1, compressors/pack_quantized: unpack_from_int32 takes element i from bit i * num_bits and subtracts
    2^(num_bits - 1); zero points are packed along dimension 0; quantization/lifecycle/forward.py: (x_q - zero_point) * scale."""
    groups = config["quantization_config"]["config_groups"].values()
    (args,) = [g["weights"] for g in groups if g["targets"] == ["Linear"] or module in g["targets"]]
    assert module not in config["quantization_config"]["ignore"]
    bits, half = args["num_bits"], 1 << (args["num_bits"] - 1)
    rows, columns = t[module + ".weight_shape"]
    scale = t[module + ".weight_scale"].astype(np.float32)
    assert scale.shape == (rows, columns // args["group_size"] if args["strategy"] == "group" else 1)
    q = stream(t[module + ".weight_packed"], bits, columns) - half
    repeat = columns // scale.shape[1]
    if not args["symmetric"]:
        zero = stream(t[module + ".weight_zero_point"].T, bits, rows).T - half
        q = q - np.repeat(zero, repeat, 1)
    return q.astype(np.float32) * np.repeat(scale, repeat, 1)


def gptq_unpacked(words, bits, count):
    """auto-gptq 0.7.1, qlinear_cuda_old.py, pack: for 2, 4 and 8 bits word row holds codes j - i at bits * (j - i); for 3 bits three
    words hold 32 codes: ten, two bits of the eleventh; its third bit, ten, one bit of the twenty-second; its other two, ten."""
    words = words.astype(np.int64) & 0xFFFFFFFF  # [words, columns]
    if bits != 3:
        per = 32 // bits
        shifts = np.arange(per) * bits
        return (words[:, None, :] >> shifts[None, :, None] & ((1 << bits) - 1)).reshape(-1, words.shape[1])[:count]
    out = np.zeros((count, words.shape[1]), np.int64)
    for block in range(count // 32):
        a, b, c = words[3 * block : 3 * block + 3]
        i = 32 * block
        for j in range(10):
            out[i + j] = a >> (3 * j) & 7
            out[i + 11 + j] = b >> (3 * j + 1) & 7
            out[i + 22 + j] = c >> (3 * j + 2) & 7
        out[i + 10] = (a >> 30 & 3) | (b & 1) << 2
        out[i + 21] = (b >> 31 & 1) | (c & 3) << 1
    return out


def gptq(module, t, config):
    """auto-gptq 0.7.1, qlinear_cuda_old.py, forward: zeros = zeros + 1 (in version 1); weights = scales[g_idx] * (weight - zeros[g_idx])."""
    said = config["quantization_config"]
    bits, g_idx = said["bits"], t[module + ".g_idx"]
    scales = t[module + ".scales"].astype(np.float32)
    columns, rows = len(g_idx), scales.shape[1]
    weight = gptq_unpacked(t[module + ".qweight"], bits, columns)
    zeros = gptq_unpacked(t[module + ".qzeros"].T, bits, rows).T
    if said["checkpoint_format"] == "gptq":
        zeros = zeros + 1
    size = said["group_size"] if said["group_size"] > 0 else columns
    assert (g_idx == np.arange(columns) // size).all() and scales.shape[0] == math.ceil(columns / size)
    return (scales[g_idx] * (weight - zeros[g_idx]).astype(np.float32)).T


def mlx(module, t, config):
    """mlx 0.32.4, mlx.core.dequantize: w = s * q + b, elements of a row low bits first."""
    said = config["quantization"].get(module, config["quantization"])
    assert config["quantization"] == config["quantization_config"]
    scales, biases = (t[f"{module}.{part}"].astype(np.float32) for part in ("scales", "biases"))
    q = stream(t[module + ".weight"], said["bits"], scales.shape[1] * said["group_size"])
    wide = [np.repeat(part, said["group_size"], 1) for part in (scales, biases)]
    return wide[0] * q.astype(np.float32) + wide[1]


def bitsandbytes(module, t, config):
    """bitsandbytes 0.50.2, functional.py: QuantState.from_dict; dequantize_4bit takes the high half of a byte first; the absmax of double
    quantization is nested_quant_map[absmax] * nested_absmax[block of 256] + nested_offset."""
    (key,) = [name for name in t if name.startswith(module + ".weight.quant_state.bitsandbytes__")]
    state, kind = json.loads(bytes(t[key])), key.rsplit("__", 1)[1]
    assert kind == state["quant_type"] == config["quantization_config"]["bnb_4bit_quant_type"]
    packed, absmax = t[module + ".weight"].reshape(-1), t[module + ".weight.absmax"]
    table = {"nf4": np.float32(NF4), "fp4": np.float32(np.float32(FP4) / np.float32(12))}[kind]
    levels = t[module + ".weight.quant_map"]
    assert np.abs(levels - table).max() < 1e-7
    if "nested_offset" in state:
        blocks = np.repeat(t[module + ".weight.nested_absmax"], state["nested_blocksize"])[: len(absmax)]
        absmax = t[module + ".weight.nested_quant_map"][absmax] * blocks + np.float32(state["nested_offset"])
    codes = np.stack([packed >> 4, packed & 15], 1).reshape(-1)
    return (levels[codes] * np.repeat(absmax, state["blocksize"])).reshape(state["shape"])


FORMS = {"compressed-tensors": compressed_tensors, "gptq": gptq, "bitsandbytes": bitsandbytes}


def main():
    q = tensors(sys.argv[1])
    recipe = json.loads((pathlib.Path(sys.argv[1]) / "quantized.json").read_text())["recipe"]

    def middle(name):
        """The code of weight 0 in a symmetric format; overrides are by whole names here."""
        named = [over["format"] for over in recipe.get("override", []) if name.removesuffix(".weight").endswith(over["match"].lstrip("*"))]
        return 1 << int((named or [recipe["weights"]["format"]])[-1].removeprefix("int")) - 1

    for folder in sys.argv[2:]:
        t, config = tensors(folder), json.loads((pathlib.Path(folder) / "config.json").read_text())
        decode = FORMS.get(config["quantization_config"].get("quant_method"), mlx)
        linears, weights, differing = 0, 0, 0
        for name in [name.removesuffix(".codes") for name in q if name.endswith(".weight.codes")]:
            codes, scales, zeros = meant(name, q)
            got = decode(name.removesuffix(".weight"), t, config)
            if decode is bitsandbytes:
                want = t[name + ".quant_map"][codes] * scales
            else:
                want = (codes.astype(np.int64) - (middle(name) if zeros is None else zeros)).astype(np.float32) * scales
            # Added to zero on both sides: the sign of a zero is no difference.
            differing += int(((got + 0.0).view(np.uint32) != (want + 0.0).view(np.uint32)).sum())
            linears, weights = linears + 1, weights + want.size
        dense = [name for name in q if not any(part in name for part in (".codes", ".scales", ".zero_points", ".nested", ".outliers"))]
        for name in dense:
            differing += int((t[name].astype(np.float32) != q[name].astype(np.float16 if t[name].dtype == np.float16 else np.float32)).sum())
        print(json.dumps({"folder": folder, "linears": linears, "weights": weights, "dense": len(dense), "differing": differing}))


if __name__ == "__main__":
    main()
