# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy==2.4.6", "torch==2.15.0", "safetensors==0.8.0", "bitsandbytes==0.50.2"]
# ///
"""What bitsandbytes makes of weights and of their scales, for tests/it/bitsandbytes_golden.rs to compare with.

    golden_bnb.py fixtures/tiny-coqa tests/goldens/bitsandbytes.json [--device cuda]

absmax, codes and double quantization come from bitsandbytes' functions. Its backends do not agree about FP4: on the CPU, thresholds are
computed anew, ties go to the lower level instead of the smaller magnitude, and +0 and -0 change places. `cuda_codes` are
therefore what the branches of its CUDA kernels (dQuantizeNF4, dQuantizeFP4) say in IEEE arithmetic, written down here once more.
Arrays are hexadecimal: one digit a code, eight a float (its bits, most significant first).
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from bitsandbytes import functional as bnb
from safetensors import safe_open

F = np.float32
NF4_TREE = [
    -0.8480964004993439, -0.6106329262256622, -0.4599952697753906, -0.33967943489551544, -0.23460740596055984,
    -0.13791173323988914, -0.045525018125772476, 0.03979014977812767, 0.1202552504837513, 0.2035212516784668,
    0.2920137718319893, 0.3893125355243683, 0.5016634166240692, 0.6427869200706482, 0.8614784181118011,
]
FP4_TREE = [0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333]
FP4_MAGNITUDES = np.array([0b000, 0b001, 0b110, 0b111, 0b100, 0b101, 0b010, 0b011])


def cuda_codes(w, kind, group_size):
    blocks = w.reshape(-1, group_size)
    absmax = np.abs(blocks).max(1)
    x = (blocks * (F(1) / np.maximum(absmax, F(1e-38)))[:, None]).reshape(-1)
    if kind == "nf4":
        return (x[:, None] > np.array(NF4_TREE, F)).sum(1)
    return FP4_MAGNITUDES[(np.abs(x)[:, None] > np.array(FP4_TREE, F)).sum(1)] + 8 * (x < 0)


def floats(array):
    return "".join(f"{bits:08x}" for bits in np.asarray(array, F).reshape(-1).view(np.uint32))


def digits(codes):
    return "".join(f"{code:x}" for code in codes)


def case(name, w, kind, group_size, device, stored):
    packed, state = bnb.quantize_4bit(torch.from_numpy(w).to(device), quant_type=kind, blocksize=group_size)
    packed = packed.cpu().numpy().reshape(-1)
    codes = np.stack([packed >> 4, packed & 15], 1).reshape(-1)
    return dict(name=name, kind=kind, group_size=group_size, in_features=w.shape[1], weights=floats(w) if stored else None,
                absmax=floats(state.absmax.cpu()), codes=digits(codes), cuda_codes=digits(cuda_codes(w, kind, group_size)))


def nested(name, absmax, device):
    """As quantize_4bit(compress_statistics=True) and back."""
    absmax = torch.from_numpy(absmax).to(device)
    offset = absmax.mean()
    codes, state = bnb.quantize_blockwise(absmax - offset, blocksize=256)
    back = bnb.dequantize_blockwise(codes, state) + offset
    return dict(name=name, scales=floats(absmax.cpu()), codes="".join(f"{c:02x}" for c in codes.cpu().numpy()),
                absmax=floats(state.absmax.cpu()), offset=floats([offset.item()]), back=floats(back.cpu()))


def made_up():
    """Rows of five blocks of 64; the last row's blocks are the awkward ones."""
    w = (np.random.default_rng(64).standard_t(4, (7, 320)) * 0.03).astype(F)
    tree = np.array(NF4_TREE + FP4_TREE + [-t for t in FP4_TREE] + [1.0], F)  # absmax 1: every threshold is met exactly
    awkward = w[-1].reshape(5, 64)
    awkward[0] = 0.0
    awkward[1] = 0.02
    awkward[2, : len(tree)] = tree
    awkward[3] *= F(1e-30)
    awkward[4] = np.where(np.arange(64) % 2, F(-3e4), F(0.0))
    return w


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("golden")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    with safe_open(Path(args.model) / "model.safetensors", "pt") as model:
        real_name = "model.layers.0.mlp.down_proj.weight"
        real = model.get_tensor(real_name).float().numpy()
    cases = []
    for kind in ("nf4", "fp4"):
        cases += [case("made up", made_up(), kind, 64, args.device, stored=True),
                  case(real_name, real[:32], kind, 64, args.device, stored=False),
                  case(real_name, real[:32], kind, 128, args.device, stored=False)]
    random = np.abs(np.random.default_rng(256).standard_normal(700) * 0.02 + 0.1).astype(F)
    scales = [nested("made up", random, args.device), nested("one scale", random[:1], args.device),
              nested(real_name, np.abs(real.reshape(-1, 64)).max(1), args.device)]
    golden = dict(
        device=args.device, nf4=floats(bnb.get_4bit_type("nf4", "cpu")), fp4=floats(bnb.get_4bit_type("fp4", "cpu")),
        dynamic_map=floats(bnb.create_dynamic_map()), cases=cases, nested=scales)
    Path(args.golden).write_text(json.dumps(golden, indent=0) + "\n")


main()
