# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy==2.4.6"]
# ///
"""GPTQ as its paper has it (arXiv 2210.17323, Algorithm 1), for tests/it/gptq_golden.rs to compare with.

    golden_gptq.py tests/goldens/gptq.json

One column after the other, no lazy updates but where scales depend on them, the inverse by numpy in f64: written from the paper
and from the authors' rules for groups and dead columns, not from qonnx.
"""

import json
import sys

import numpy as np

NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]  # fmt: skip


def f16(x):
    return float(np.float16(x))


class Grid:
    """What codes mean: `fit` gives (scale, zero point), `nearest` a code, `value` the weight that a code stands for."""

    def __init__(self, bits, kind):
        self.bits, self.kind = bits, kind

    def fit(self, w):
        if self.kind == "nf4":
            return f16(np.abs(w).max()) or 1.0, 0
        half, qmax = 2 ** (self.bits - 1), 2**self.bits - 1
        if self.kind == "symmetric":
            return f16(np.abs(w).max() / (half - 0.5)) or 1.0, half
        low, high = min(w.min(), 0.0), max(w.max(), 0.0)
        scale = f16((high - low) / qmax) or 1.0
        return scale, int(np.clip(np.round(-low / scale), 0, qmax))

    def nearest(self, w, scale, zero_point):
        if self.kind == "nf4":
            return int(np.argmin(np.abs(np.array(NF4) - w / scale)))
        return int(np.clip(np.round(w / scale) + zero_point, 0, 2**self.bits - 1))

    def value(self, code, scale, zero_point):
        return NF4[code] * scale if self.kind == "nf4" else (code - zero_point) * scale


def gptq(w, gram, grid, group_size, damping, act_order, dynamic, column_block):
    """w [out, in], gram [in, in] → codes [out, in], scales and zero points [out, groups]."""
    w, h = w.copy(), gram.copy()
    out_features, in_features = w.shape
    dead = np.diag(h) == 0
    w[:, dead] = 0
    h += damping * np.diag(gram).mean() * np.eye(in_features)
    starts = range(0, in_features, group_size)
    params = [[grid.fit(row[start : start + group_size]) for start in starts] for row in w]
    order = np.argsort(-np.diag(gram), kind="stable") if act_order else np.arange(in_features)
    hinv = np.linalg.cholesky(np.linalg.inv(h[np.ix_(order, order)])).T  # upper: H⁻¹ = Hinvᵀ·Hinv
    codes = np.zeros(w.shape, int)
    done = w  # weights with the corrections of all earlier column blocks
    for i, column in enumerate(order):
        if i % column_block == 0:
            done = w.copy()
        for row in range(out_features):
            if dynamic and column % group_size == 0:
                params[row][column // group_size] = grid.fit(done[row, column : column + group_size])
            scale, zero_point = params[row][column // group_size]
            codes[row, column] = grid.nearest(w[row, column], scale, zero_point)
            err = (w[row, column] - grid.value(codes[row, column], scale, zero_point)) / hinv[i, i]
            w[row, order[i:]] -= err * hinv[i, i:]
    return codes, [[p[0] for p in row] for row in params], [[p[1] for p in row] for row in params], int(dead.sum())


def problem(rng, out_features, in_features, dead=()):
    """Weights with a few large ones; inputs that hang together and differ in strength. All exact in f32, and short in decimal."""
    w = rng.standard_normal((out_features, in_features)) * np.where(rng.random((out_features, in_features)) < 0.03, 4, 1)
    mixing = rng.standard_normal((in_features, in_features)) * 0.3 + np.eye(in_features)
    x = np.round(rng.standard_normal((256, in_features)) @ mixing * np.exp(rng.standard_normal(in_features)) * 4) / 4
    x[:, list(dead)] = 0
    return np.round(w * 128) / 1024, x.T @ x / len(x)


def case(problems, name, problem, bits, kind, group_size, damping=0.01, act_order=False, dynamic=False, column_block=32):
    w, gram = problems[problem]
    grid = Grid(bits, kind)
    size = group_size or w.shape[1]
    codes, scales, zero_points, dead_channels = gptq(w, gram, grid, size, damping, act_order, dynamic, column_block)
    value = lambda r, c: grid.value(codes[r, c], scales[r][c // size], zero_points[r][c // size])  # noqa: E731
    dequantized = np.array([[value(r, c) for c in range(w.shape[1])] for r in range(len(w))])
    loss = lambda d: float(np.einsum("ri,ij,rj", d, gram, d))  # noqa: E731
    return {
        "name": name, "problem": problem, "bits": bits, "kind": kind, "group_size": group_size, "damping": damping,
        "act_order": act_order, "dynamic": dynamic, "column_block": column_block, "dead_channels": dead_channels,
        "codes": codes.ravel().tolist(), "scales": np.ravel(scales).tolist(), "zero_points": np.ravel(zero_points).tolist(),
        "dequantized": dequantized.ravel().tolist(), "output_error": loss(w - dequantized) / loss(w),
    }  # fmt: skip


def main():
    rng = np.random.default_rng(20221017)
    problems = [problem(rng, 6, 64), problem(rng, 5, 64, dead=(0, 17, 40, 63)), problem(rng, 3, 40)]
    cases = [
        case(problems, "int4 symmetric, storage order", 0, 4, "symmetric", 16),
        case(problems, "int4 symmetric, act order", 0, 4, "symmetric", 16, act_order=True),
        case(problems, "int4 symmetric, dynamic groups", 0, 4, "symmetric", 16, dynamic=True),
        case(problems, "int4 symmetric, dynamic groups across blocks", 0, 4, "symmetric", 32, dynamic=True, column_block=24),
        case(problems, "int4 asymmetric, act order", 0, 4, "asymmetric", 32, act_order=True),
        case(problems, "int4 asymmetric, dynamic groups", 0, 4, "asymmetric", 16, dynamic=True),
        case(problems, "int4 symmetric, little damping", 0, 4, "symmetric", 32, damping=0.0001),
        case(problems, "int4 symmetric, much damping", 0, 4, "symmetric", 32, damping=0.5, act_order=True),
        case(problems, "int2 symmetric", 0, 2, "symmetric", 16, act_order=True),
        case(problems, "int2 asymmetric", 0, 2, "asymmetric", 16),
        case(problems, "int3 asymmetric", 0, 3, "asymmetric", 32, act_order=True),
        case(problems, "int8 symmetric per channel", 0, 8, "symmetric", 0),
        case(problems, "nf4, act order", 0, 4, "nf4", 16, act_order=True),
        case(problems, "nf4, storage order", 0, 4, "nf4", 64),
        case(problems, "dead columns", 1, 4, "symmetric", 16, act_order=True),
        case(problems, "dead columns, asymmetric", 1, 4, "asymmetric", 32),
        case(problems, "last group short", 2, 4, "symmetric", 32, act_order=True),
    ]
    stored = [{"in_features": w.shape[1], "weights": w.ravel().tolist(), "gram": gram.ravel().tolist()} for w, gram in problems]
    with open(sys.argv[1], "w") as out:
        json.dump({"problems": stored, "cases": cases}, out)
        out.write("\n")


main()
