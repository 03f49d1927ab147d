# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.15.0", "transformers==4.57.6", "compressed-tensors==0.20.1", "bitsandbytes==0.50.2", "accelerate==1.15.0", "auto-gptq==0.7.1; python_version == '3.11'", "mlx==0.32.4", "mlx-cpu==0.32.4", "numpy==2.4.6"]
# ///
"""Loads checkpoints for other programs in those programs and compares them with what their quantized checkpoint says.

    uv run results/lab/checkpoint_readers.py MODEL QUANTIZED FOLDER...

compressed-tensors and bitsandbytes: transformers loads the folder, and its logits on a prompt are compared with those of MODEL with the
dequantized weights in place of its own (f32). compressed-tensors with zero points: its own `decompress`, weight by weight, because
transformers 4.57.6 gets their shape wrong (it expects them unpacked; so of checkpoints that llm-compressor writes). mlx:
`mlx.core.dequantize`, weight by weight, scales widened to f32. gptq: what auto-gptq's `QuantLinear` (its torch path, version 1) makes of the
unit matrix, scales widened to f32; auto-gptq has wheels for Python 3.11 alone, and of gptqmodel, which reads gptq_v2, there are none:
`tests/it/targets/decode.py` decodes both by the formula of the source.
"""

import importlib.machinery
import importlib.util
import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tests/it/targets"))
import decode

PROMPT = [0, 17, 300, 1200, 45, 9, 2048, 511, 77, 3000, 8, 64]


def dequantized(quantized):
    """Weights of a quantized checkpoint by name, f32: codebooks' levels are bitsandbytes' own."""
    q, found = decode.tensors(quantized), {}
    recipe = json.loads((pathlib.Path(quantized) / "quantized.json").read_text())["recipe"]["weights"]
    levels = {"nf4": np.float32(decode.NF4), "fp4": np.float32(decode.FP4) / np.float32(12)}.get(recipe["format"])
    for name in q:
        if not name.endswith(".weight.codes"):
            continue
        weight = name.removesuffix(".codes")
        codes, scales, zeros = decode.meant(weight, q)
        if levels is None:
            zeros = (1 << int(recipe["format"].removeprefix("int")) - 1) if zeros is None else zeros
            found[weight] = (codes.astype(np.int64) - zeros).astype(np.float32) * scales
        else:
            found[weight] = levels[codes] * scales
    return found


def in_transformers(model, weights, folder):
    import torch
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([PROMPT])
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in weights.items():
            reference.get_parameter(name).copy_(torch.from_numpy(weight))
        want = reference(ids).logits.numpy()
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu").eval()
        got = loaded(ids).logits.float().numpy()
        tokens = [m.generate(ids, max_new_tokens=32, do_sample=False, pad_token_id=1)[0].tolist() for m in (reference, loaded)]
    return {"logits": float(np.abs(got - want).max() / np.abs(want).max()), "same_tokens": tokens[0] == tokens[1]}


def in_compressed_tensors(weights, folder, args):
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from safetensors.torch import load_file

    args = {key: value for key, value in args.items() if key != "block_structure"}
    scheme, t = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args)), {}
    for path in pathlib.Path(folder).glob("*.safetensors"):
        t.update(load_file(path))
    differing = 0
    for name, want in weights.items():
        module = name.removesuffix(".weight")
        parts = {part: t[f"{module}.{part}"] for part in ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point")}
        parts["weight_scale"] = parts["weight_scale"].float()
        differing += int((PackedQuantizationCompressor.decompress(parts, scheme)["weight"].numpy() != want).sum())
    return {"weights": sum(w.size for w in weights.values()), "differing": differing}


def in_auto_gptq(weights, folder, said):
    import torch
    from safetensors.torch import load_file

    # One file of it: the package as a whole asks for more than that file.
    (package,) = importlib.machinery.PathFinder.find_spec("auto_gptq").submodule_search_locations
    spec = importlib.util.spec_from_file_location("qlinear", pathlib.Path(package) / "nn_modules/qlinear/qlinear_cuda_old.py")
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    differing, t = 0, {}
    for path in pathlib.Path(folder).glob("*.safetensors"):
        t.update(load_file(path))
    assert said["checkpoint_format"] == "gptq", "auto-gptq reads version 1 alone"
    for name, want in weights.items():
        rows, columns = want.shape
        linear = reader.QuantLinear(said["bits"], said["group_size"], columns, rows, False, use_cuda_fp16=False, weight_dtype=torch.float32)
        linear.load_state_dict({part: t[f"{name.removesuffix('weight')}{part}"] for part in ("qweight", "qzeros", "scales", "g_idx")})
        linear.scales = linear.scales.float()
        differing += int((linear(torch.eye(columns)).detach().T.numpy() != want).sum())
    return {"weights": sum(w.size for w in weights.values()), "differing": differing}


def in_mlx(weights, folder):
    import mlx.core as mx

    t, config = {}, json.loads((pathlib.Path(folder) / "config.json").read_text())["quantization"]
    for path in pathlib.Path(folder).glob("*.safetensors"):
        t.update(mx.load(str(path)))
    differing = 0
    for name, want in weights.items():
        module = name.removesuffix(".weight")
        said = config.get(module, config)
        scales, biases = (t[f"{module}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
        got = mx.dequantize(t[name], scales, biases, group_size=said["group_size"], bits=said["bits"])
        differing += int((np.array(got) != want).sum())
    return {"weights": sum(w.size for w in weights.values()), "differing": differing}


def main():
    model, quantized = sys.argv[1:3]
    weights = dequantized(quantized)
    for folder in sys.argv[3:]:
        said = json.loads((pathlib.Path(folder) / "config.json").read_text())
        groups = said["quantization_config"].get("config_groups", {}).values()
        asymmetric = [group["weights"] for group in groups if not group["weights"]["symmetric"]]
        if "quantization" in said:
            found = in_mlx(weights, folder)
        elif said["quantization_config"]["quant_method"] == "gptq":
            found = in_auto_gptq(weights, folder, said["quantization_config"])
        elif asymmetric:
            found = in_compressed_tensors(weights, folder, asymmetric[0])
        else:
            found = in_transformers(model, weights, folder)
        print(json.dumps({"folder": folder, **found}), flush=True)


if __name__ == "__main__":
    main()
