#!/usr/bin/env bash
# Times prefill and decoding of two builds of qonnx on one machine, in turns: what a change costs or gains.
#
#   results/lab/time_builds.sh BEFORE AFTER ARTIFACT OUT [BENCH FLAGS…]
#
# ARTIFACT must be one that both builds read. ORT_DYLIB_PATH (and LD_LIBRARY_PATH, on CUDA) as for any run. TURNS=5 by default.
# Writes OUT/{before,after}-N.json and prints the medians of each turn's medians and their ratio.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
before=$1 after=$2 artifact=$3 out=$4
shift 4
mkdir -p "$out"
for turn in $(seq "${TURNS:-5}"); do
    # The sides take turns at going first.
    order="before after"
    [ $((turn % 2)) -eq 1 ] || order="after before"
    for side in $order; do
        "${!side}" bench "$artifact" --json "$@" >"$out/$side-$turn.json"
    done
done
python3 - "$out" <<'PYTHON'
import collections, glob, json, statistics, sys
medians = collections.defaultdict(lambda: collections.defaultdict(list))
for side in ("before", "after"):
    for file in sorted(glob.glob(f"{sys.argv[1]}/{side}-*.json")):
        for point in json.load(open(file))["points"]:
            got = point["outcome"]
            if got["outcome"] != "measured":
                continue
            for what in ("prefill_ms", "decode_ms_per_token"):
                medians[point["batch"], point["prompt_tokens"], what][side].append(got[what]["p50"])
for (batch, prompt, what), sides in sorted(medians.items()):
    before, after = (statistics.median(sides[side]) for side in ("before", "after"))
    ratios = sorted(b / a for a, b in zip(sides["before"], sides["after"]))
    print(f"batch {batch:>3} prompt {prompt:>4} {what:<20} before {before:8.4f} after {after:8.4f} ratio {statistics.median(ratios):.4f} "
          f"(turns {ratios[0]:.4f} to {ratios[-1]:.4f})")
PYTHON
