# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy==2.4.6"]
# ///
"""AWQ (arXiv 2306.00978) written plainly from the paper and its code, for tests/it/awq_golden.rs to compare with.

    golden_awq.py tests/goldens/awq.json

Everything is judged on the samples themselves, ‖x·ΔWᵀ‖², as the paper's code does; the Rust code sees the Gram matrix only.
Weights, scales and what is quantized are f32, sums are f64; scales of the grid are f16, as in src/quant/scale.rs.
"""

import json
import sys

import numpy as np

F = np.float32
STEPS = 20


def quantize(group, bits, symmetric):
    """Rounds one group to nearest; absmax rule."""
    top = F(2**bits - 1)
    if symmetric:
        half = F(2 ** (bits - 1))
        scale = np.abs(group).max() / (half - F(0.5))
        low, high = -half, half - F(1)
    else:
        scale = (max(group.max(), F(0)) - min(group.min(), F(0))) / top
    scale = F(np.float16(max(scale, F(2**-24))))
    if not symmetric:
        zero = np.clip(np.rint(-min(group.min(), F(0)) / scale), F(0), top)
        low, high = -zero, top - zero
    return np.clip(np.rint(group * (F(1) / scale)), low, high) * scale


def fake_quantize(w, case):
    groups = [[quantize(row[i:i + case["group_size"]], case["bits"], case["symmetric"])
               for i in range(0, len(row), case["group_size"])] for row in w]
    return np.array([np.concatenate(row) for row in groups], F)


def outputs_differ(x, d):
    return (x.astype(np.float64) @ d.astype(np.float64).T) ** 2


def pooled(values, case):
    """Copies of a feature take the mean of them all."""
    runs = values.reshape(-1, case["repeats"], case["run"])
    return np.broadcast_to(runs.mean(axis=1, keepdims=True), runs.shape).ravel()


def search(x, weights, case):
    x64 = x.astype(np.float64)
    if case["basis"] == "activation":
        of_x, of_w = pooled(np.abs(x64).mean(axis=0), case), np.ones(x.shape[1])
    else:
        of_x = np.sqrt(pooled((x64**2).mean(axis=0), case))
        of_w = np.sqrt(pooled((np.concatenate(weights).astype(np.float64) ** 2).mean(axis=0), case))

    def loss(s):
        return sum(outputs_differ(x, fake_quantize(w * s, case).astype(np.float64) / s - w).sum() for w in weights)

    norm = sum(outputs_differ(x, w).sum() for w in weights)
    before = loss(np.ones(x.shape[1], F)) / norm
    best = (before, None, np.ones(x.shape[1], F))
    for step in range(STEPS):
        ratio = step / STEPS
        s = of_x**ratio / of_w ** (1 - ratio)
        s = (s / np.sqrt(s.max() * s.min())).astype(F)
        after = loss(s) / norm
        if after < best[0]:
            best = (after, ratio, s)
    return before, *best


def clip(x, w, case):
    """The paper's auto_clip: each group of each row by itself, on its own part of the samples."""
    clipped = w.copy()
    size = case["group_size"]
    for row in range(len(w)):
        for start in range(0, w.shape[1], size):
            group, part = w[row, start:start + size], x[:, start:start + size].astype(np.float64)
            largest, best = np.abs(group).max(), None
            for step in range(STEPS // 2):
                bound = largest * (F(1) - F(step) / F(STEPS))
                held = np.clip(group, -bound, bound)
                error = ((part @ (quantize(held, case["bits"], case["symmetric"]).astype(np.float64) - group)) ** 2).sum()
                if best is None or error < best:
                    best, clipped[row, start:start + size] = error, held
    return clipped


def main():
    rng = np.random.default_rng(6)
    cases = []
    settings = [(4, True, 16, [5, 3], (1, 1)), (4, False, 32, [6], (1, 1)), (3, True, 32, [4, 4, 4], (1, 1)),
                (2, False, 16, [7, 2], (1, 1)), (4, True, 16, [8], (8, 2)), (8, True, 32, [3], (1, 1))]
    for basis in ("activation", "activation-and-weight"):
        for bits, symmetric, group_size, rows, (run, repeats) in settings:
            features = 48  # the last group of 32 is short
            spread = np.exp(rng.normal(0, 1, features))
            x = (rng.normal(0, 1, (96, features)) @ (np.eye(features) + rng.normal(0, 0.1, (features,) * 2)) * spread).astype(F)
            weights = [(rng.standard_t(4, (n, features)) * 0.05 / spread**0.5).astype(F) for n in rows]
            case = dict(bits=bits, symmetric=symmetric, group_size=group_size, basis=basis, run=run, repeats=repeats)
            before, after, ratio, s = search(x, weights, case)
            gram = (x.astype(np.float64).T @ x.astype(np.float64) / len(x)).astype(F)
            mean_abs = np.abs(x.astype(np.float64)).mean(axis=0).astype(F)
            flat = lambda a: np.asarray(a, F).view(np.uint32).ravel().tolist()
            cases.append(case | dict(
                gram_bits=flat(gram), mean_abs_bits=flat(mean_abs), weight_bits=[flat(w) for w in weights],
                ratio=ratio, scale_bits=flat(s), loss_before=before, loss_after=after,
                clipped_bits=[flat(clip(x, w, case)) for w in weights]))
            print(basis, bits, symmetric, group_size, rows, "ratio", ratio, f"loss {before:.3e} to {after:.3e}")
    with open(sys.argv[1], "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")


main()
