#!/usr/bin/env python3
"""Makes a markdown table of what `cargo bench` left in target/criterion.

    cargo bench && results/lab/criterion_table.py --machine "2 cores, shared" > results/benches/README.md

One row a benchmark: median of an iteration with its 95 % interval, throughput at the median, and the change of the median
against the run before, where there was one ("no change": its interval holds zero). Standard library only.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys


def load(path):
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        sys.exit(f"criterion_table.py: {path}: {error}; remove target/criterion and run cargo bench again")


def in_units(value, units):
    """`value` in the largest unit in which it is at least 1; `units` are (factor, name), ascending."""
    factor, name = next(((f, n) for f, n in reversed(units) if value >= f), units[0])
    value /= factor
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} {name}"


def time_of(nanoseconds):
    return in_units(nanoseconds, [(1, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s")])


def throughput_of(throughput, nanoseconds):
    if not throughput:
        return ""
    (kind, count), = throughput.items()
    unit = {"Elements": "/s", "Bytes": "B/s", "BytesDecimal": "B/s"}.get(kind, f" {kind}/s")
    return in_units(count / nanoseconds * 1e9, [(1, unit), (1e3, "k" + unit), (1e6, "M" + unit), (1e9, "G" + unit), (1e12, "T" + unit)])


def change_of(change):
    if change is None:
        return "–"
    median, interval = change["median"]["point_estimate"], change["median"]["confidence_interval"]
    low, high = interval["lower_bound"], interval["upper_bound"]
    return "no change" if low <= 0 <= high else f"{100 * median:+.1f} % ({100 * low:+.1f} … {100 * high:+.1f})"


def rows(folder):
    for path in sorted(folder.glob("**/new/benchmark.json")):
        benchmark, estimates = load(path), load(path.with_name("estimates.json"))
        if estimates is None:
            sys.exit(f"criterion_table.py: {path.parent} has no estimates.json; run cargo bench again")
        median = estimates["median"]
        interval = median["confidence_interval"]
        nanoseconds = median["point_estimate"]
        yield (
            benchmark["full_id"].replace("|", "\\|"),
            time_of(nanoseconds),
            f"{time_of(interval['lower_bound'])} – {time_of(interval['upper_bound'])}",
            throughput_of(benchmark["throughput"], nanoseconds),
            change_of(load(path.parent.parent / "change" / "estimates.json")),
        )


def processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit():
    told = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    return told.stdout.strip() or "unknown"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default="target/criterion", type=pathlib.Path, help="what cargo bench wrote [%(default)s]")
    parser.add_argument("--machine", help="what to say of the machine beside its processor, like 'shared with other work'")
    arguments = parser.parse_args()
    table = list(rows(arguments.folder))
    if not table:
        sys.exit(f"criterion_table.py: {arguments.folder} holds no benchmarks; run cargo bench first")
    machine = f"{len(os.sched_getaffinity(0))} cores of {processor()}" + (f", {arguments.machine}" if arguments.machine else "")
    print("# Speed of the CPU's hot loops\n")
    print("    cargo bench && results/lab/criterion_table.py > results/benches/README.md\n")
    print(f"{machine}; {platform.system()} {platform.machine()}; commit {commit()}; {datetime.date.today()}. Of an iteration: median and its 95 % interval;")
    print("change of the median against the run before on the same machine. Throughput counts weights, products, prompts, answers or bytes.\n")
    print("| benchmark | median | 95 % interval | throughput | change |\n|---|---|---|---|---|")
    for row in table:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
