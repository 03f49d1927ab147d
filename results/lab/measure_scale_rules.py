# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy==2.4.6", "torch==2.15.0", "transformers==5.17.0"]
# ///
"""Which scale rule is best: the rules of src/quant/scale.rs in numpy, judged by KL and perplexity of the whole model.

    measure_scale_rules.py --model DIR --windows windows.json --out results/scale-rules   # the table
    measure_scale_rules.py --golden tests/goldens/scale_rules.json                        # what the Rust test compares with
    measure_scale_rules.py --model DIR --search 3,5,6                                     # candidates for least squares

All decoder linears are fake-quantized, the tied embedding is left alone, the model runs in f32 on the CPU. KL is
KL(f32 || quantized) in nats a token, mean over the first --kl-windows windows; perplexity over the first --ppl-windows.
"""

import argparse
import itertools
import json
import math
import time
from pathlib import Path

import numpy as np

F = np.float32
DIVISORS = {  # src/quant/scale.rs, SYMMETRIC_DIVISORS, over 2^(bits-1)
    8: [-0.86, -0.9, -0.92, -0.94, -0.96, -0.98],
    6: [-1.01, -0.97, -0.94, -1.02, -0.91, -0.99],
    5: [-1.03, -0.94, -1.06, -1.01, -0.99, -0.88],
    4: [-0.9, -0.97, -1.03, -1.06, -1.11, -1.18],
    3: [-1.19, -1.33, -1.09, 1.15, -1.46, -1.14],
    2: [-0.92, -1.13, -1.28, -1.45, 1.15, 1.3],
}
SHRINKS = {  # src/quant/scale.rs, ASYMMETRIC_SHRINKS
    8: [(1.02, 1.0), (1.0, 1.02), (1.02, 1.02), (1.05, 1.0), (1.0, 1.05), (1.05, 1.05), (0.97, 0.97)],
    6: [(1.05, 1.0), (1.05, 1.05), (1.0, 1.05), (1.1, 1.05), (1.1, 1.1), (1.1, 1.0), (1.0, 1.1)],
    5: [(0.95, 1.0), (1.05, 1.0), (1.0, 0.95), (1.1, 1.05), (0.95, 0.95), (1.1, 1.0), (1.1, 1.1)],
    4: [(0.95, 0.95), (1.05, 1.05), (0.95, 1.0), (1.0, 0.95), (0.9, 0.9), (0.9, 0.95), (0.95, 0.9)],
    3: [(0.85, 0.85), (0.8, 0.75), (0.9, 0.95), (0.7, 0.75), (0.9, 0.9), (0.75, 0.85), (1.1, 1.1)],
    2: [(0.85, 0.85), (0.7, 0.7), (0.6, 0.6), (0.75, 0.55), (0.55, 0.75), (0.65, 0.45), (0.45, 0.65)],
}


def f16_scale(scale):
    magnitude = np.clip(np.abs(scale), F(2**-24), F(65504)).astype(np.float16).astype(F)
    return np.copysign(magnitude, scale)


def level(w, scale, zero_point, bits):
    return np.clip(np.rint(w * (F(1) / scale)), -zero_point, F(2**bits - 1) - zero_point)


def in_order(terms):
    """Sum over the first axis, one term after the other, as the Rust code does: its roundings depend on the order."""
    total = np.zeros_like(terms[0])
    for term in terms:
        total = total + term
    return total


def squared_error(w, scale, zero_point, bits):
    error = w - scale * level(w, scale, zero_point, bits)
    return in_order(error * error)


def least_squares(w, bits, candidates):
    best_error, best_scale, best_zero = None, None, None
    for scale, zero_point in candidates:
        error = squared_error(w, scale, zero_point, bits)
        if best_error is None:
            best_error, best_scale, best_zero = error, scale, zero_point
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_scale = np.where(better, scale, best_scale)
        best_zero = np.where(better, zero_point, best_zero)
    q = level(w, best_scale, best_zero, bits)
    with np.errstate(invalid="ignore", divide="ignore"):
        refined = f16_scale(in_order(w * q) / in_order(q * q))
        better = squared_error(w, refined, best_zero, bits) < best_error
    return np.where(better, refined, best_scale), best_zero


def fit_symmetric(w, bits, rule):
    half = F(2 ** (bits - 1))
    largest = np.take_along_axis(w, np.abs(w).argmax(0)[None], 0)[0]
    zero_point = np.full_like(largest, half)
    magnitude = lambda: np.copysign(half - F(0.5), largest)
    with np.errstate(invalid="ignore"):
        if rule == "abs-max":
            scale = f16_scale(largest / magnitude())
        elif rule == "signed-max":
            scale = f16_scale(largest / -half)
        elif rule == "least-squares-positive":
            divisors = [np.copysign(d, largest) for d in [half] + [magnitude()] + [F(d) * half for d in DIVISORS[bits]]]
            scale, _ = least_squares(w, bits, ((f16_scale(largest / d), zero_point) for d in divisors))
        else:
            divisors = [-half, magnitude()] + [F(d) * half for d in DIVISORS[bits]]
            scale, _ = least_squares(w, bits, ((f16_scale(largest / d), zero_point) for d in divisors))
    return np.where(largest == 0, F(1), scale), zero_point


def fit_asymmetric(w, bits, rule):
    qmax = F(2**bits - 1)
    low, high = np.minimum(w.min(0), F(0)), np.maximum(w.max(0), F(0))

    def params(shrink):
        a, b = low * F(shrink[0]), high * F(shrink[1])
        scale = f16_scale((b - a) / qmax)
        return scale, np.clip(np.rint(-a / scale), F(0), qmax)

    scale, zero_point = params((1, 1)) if not rule.startswith("least-squares") else least_squares(
        w, bits, (params(s) for s in [(1, 1), *SHRINKS[bits]]))
    empty = low == high
    return np.where(empty, F(1), scale), np.where(empty, F(0), zero_point)


def quantize(weight, bits, group_size, symmetric, rule):
    """Codes, scales and zero points of groups along the last axis; the group is the first axis in between."""
    w = np.ascontiguousarray(weight.reshape(-1, group_size or weight.shape[1]).T)
    scale, zero_point = (fit_symmetric if symmetric else fit_asymmetric)(w, bits, rule)
    q = level(w, scale, zero_point, bits)
    return (q + zero_point).T.astype(np.uint8), scale, zero_point, (scale * q).T.reshape(weight.shape)


def cases():
    symmetric, asymmetric = ["signed-max", "least-squares", "least-squares-positive", "abs-max"], ["abs-max", "least-squares"]
    for bits, group_size in ((4, 32), (2, 32), (8, 0), (4, 128)):
        yield from ((bits, group_size, True, rule) for rule in symmetric)
        yield from ((bits, group_size, False, rule) for rule in asymmetric)


def measure(args):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(args.threads)
    windows = json.loads(Path(args.windows).read_text())["windows"]
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
    original = {n: m.weight.detach().numpy().copy() for n, m in linears.items()}

    @torch.no_grad()
    def log_probs(window):
        return torch.log_softmax(model(torch.tensor([window])).logits[0], -1)

    def nll(log_p, window):
        return -log_p[:-1].gather(1, torch.tensor(window[1:])[:, None]).double().mean().item()

    used = windows[: max(args.kl_windows, args.ppl_windows)]
    reference = [log_probs(w) for w in used[: args.kl_windows]]

    def score():
        kl, top1, loss = [], [], []
        for i, window in enumerate(used):
            log_p = log_probs(window)
            if i < args.kl_windows:
                ref = reference[i]
                kl.append((ref.exp() * (ref - log_p)).sum(-1).double().mean().item())
                top1.append((ref.argmax(-1) == log_p.argmax(-1)).double().mean().item())
            if i < args.ppl_windows:
                loss.append(nll(log_p, window))
        return dict(kl=float(np.mean(kl)), same_top1=float(np.mean(top1)), perplexity=math.exp(np.mean(loss)))

    rows = [dict(bits=32, **score())]
    print(rows[0], flush=True)
    for bits, group_size, symmetric, rule in cases():
        start, error, power = time.time(), 0.0, 0.0
        for name, linear in linears.items():
            w = original[name]
            fake = quantize(w, bits, group_size, symmetric, rule)[3]
            error += float(((w - fake).astype(np.float64) ** 2).sum())
            power += float((w.astype(np.float64) ** 2).sum())
            linear.weight.data.copy_(torch.from_numpy(fake))
        row = dict(bits=bits, group_size=group_size or "channel", symmetric=symmetric, rule=rule,
                   relative_squared_error=error / power, **score())
        rows.append(row)
        print(json.dumps(row), f"{time.time() - start:.0f} s", flush=True)
        Path(args.out).mkdir(parents=True, exist_ok=True)
        record = dict(model=Path(args.model).name, kl_windows=args.kl_windows, ppl_windows=args.ppl_windows, rows=rows)
        (Path(args.out) / "scale_rules.json").write_text(json.dumps(record, indent=1) + "\n")


def search(args):
    """What least squares should try: greedily from a fine grid, for least squared error at groups of 32 and of 128."""
    from safetensors import safe_open

    rng, samples = np.random.default_rng(3), {32: [], 128: []}
    with safe_open(Path(args.model) / "model.safetensors", "pt") as model:
        for name in model.keys():
            if name.endswith("_proj.weight"):
                weight = model.get_tensor(name).float().numpy()
                for group_size, sample in samples.items():
                    groups = weight.reshape(-1, group_size)
                    sample.append(groups[rng.permutation(len(groups))[: 800 // (group_size // 32)]])
    samples = [np.ascontiguousarray(np.concatenate(sample).T) for sample in samples.values()]
    for bits in (int(b) for b in args.search.split(",")):
        half, qmax = F(2 ** (bits - 1)), F(2**bits - 1)
        divisors = [-1.0, *(sign * d / 100 for sign in (-1, 1) for d in range(70, 181))]
        shrinks = [(1.0, 1.0), *((a / 100, b / 100) for a in range(40, 111, 5) for b in range(40, 111, 5))]
        symmetric, asymmetric = [], []
        for w in samples:
            power, zero_point = float((w.astype(np.float64) ** 2).sum()), np.full(w.shape[1], half)
            largest = np.take_along_axis(w, np.abs(w).argmax(0)[None], 0)[0]
            low, high = np.minimum(w.min(0), F(0)), np.maximum(w.max(0), F(0))
            magnitude = f16_scale(largest / np.copysign(half - F(0.5), largest))
            scales = [f16_scale(largest / (F(d) * half)) for d in divisors]
            first = np.minimum(squared_error(w, scales[0], zero_point, bits), squared_error(w, magnitude, zero_point, bits))
            symmetric.append(np.stack([first, *(squared_error(w, s, zero_point, bits) for s in scales[1:])]) / power)
            errors = []
            for a, b in shrinks:
                scale = f16_scale((high * F(b) - low * F(a)) / qmax)
                errors.append(squared_error(w, scale, np.clip(np.rint(-low * F(a) / scale), F(0), qmax), bits))
            asymmetric.append(np.stack(errors) / power)
        for grid, errors, count in ((divisors, symmetric, 6), (shrinks, asymmetric, 7)):
            least, chosen = [e[0] for e in errors], []
            totals = [sum(float(e.sum()) for e in least)]
            for _ in range(count):
                gains = sum(np.minimum(e, b).sum(1, dtype=np.float64) for e, b in zip(errors, least))
                best = int(gains.argmin())
                chosen.append(grid[best])
                least = [np.minimum(e[best], b) for e, b in zip(errors, least)]
                totals.append(float(gains[best]))
            everything = sum(float(e.min(0).sum()) for e in errors)
            print(bits, chosen, [round(total / everything, 4) for total in totals], "of the whole grid's error", flush=True)


def golden(path):
    rng = np.random.default_rng(20)
    cases = []
    # The rule that came later has numbers of its own, and leaves the others theirs.
    for rules in (("abs-max", "signed-max", "least-squares"), ("least-squares-positive",)):
        for bits, symmetric, rule in itertools.product((8, 4, 2, 3, 5, 6), (True, False), rules):
            w = (rng.standard_t(4, (3, 32)) * 0.03).astype(F)
            codes, scale, zero_point, _ = quantize(w, bits, 16, symmetric, rule)
            cases.append(dict(
                bits=bits, symmetric=symmetric, rule=rule, group_size=16, weight_bits=w.view(np.uint32).ravel().tolist(),
                codes=codes.ravel().tolist(), scale_bits=scale.astype(F).view(np.uint32).tolist(),
                zero_points=zero_point.astype(int).tolist()))
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    Path(path).write_text("[\n" + lines + "\n]\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--windows")
    parser.add_argument("--out", default="results/scale-rules")
    parser.add_argument("--kl-windows", type=int, default=30)
    parser.add_argument("--ppl-windows", type=int, default=98)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--search", help="widths, such as 3,5,6")
    parser.add_argument("--golden")
    args = parser.parse_args()
    if args.golden:
        golden(args.golden)
    elif args.search:
        search(args)
    else:
        measure(args)


main()
