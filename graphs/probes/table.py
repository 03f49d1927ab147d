#!/usr/bin/env python3
"""Makes this folder's README.md of answers.json.

usage: table.py                     prints README.md
       table.py ANSWERS.json…       first takes over what run.py printed into answers.json, and writes both files
"""
import json, pathlib, sys

HERE = pathlib.Path(__file__).resolve().parent
RUNTIMES = {"onnxruntime": "onnxruntime", "openvino": "OpenVINO", "node": "Node", "wasm": "wasm"}
HEAD = """# Probes

Which operators, types and shapes a runtime really takes: {count} models of one operator, or of the few that one weight or one attention is made of. Each is fed,
and what it says is compared with numpy: the table by which forms of artifacts are made for a target. WebGPU is not asked, it needs a GPU.
`tests/it/runtimes/probes.rs` asks them again and fails where an answer is another than here.

| script | what it does | called |
|---|---|---|
| `ask.mjs` | asks the probes in JavaScript: a part of the next two | imported |
| `make.py` | makes the probes, which are not kept: they are {size} | `$QONNX_PYTHON make.py FOLDER` |
| `run.py` | asks one runtime (`page.html` is its page in the browser) | `PYTHON run.py onnxruntime\\|openvino\\|node\\|wasm FOLDER > ANSWERS.json` |
| `run_node.mjs` | onnxruntime-node's side of it | by `run.py` |
| `table.py` | makes `answers.json` and this page | `python3 table.py ANSWERS.json…` |

`scripts/python-env.sh`, `scripts/runtime-env.sh` and `scripts/get-chromium.sh` give QONNX_PYTHON, the Pythons, QONNX_RUNTIME_NODE and QONNX_CHROMIUM.

Names say the operator, the bits, and how the weight is laid out or the attention called: `b32` is a scale for 32 weights, `zp` has zero points, `acc4` is
accuracy_level 4; `b2` are two sequences, `chunk` some tokens behind a cache. In a masked `decode_b2` the first sequence is padded on the left.

"""


def main(files):
    answers = json.loads((HERE / "answers.json").read_text()) if (HERE / "answers.json").exists() else {}
    for file in files:
        new = json.loads(pathlib.Path(file).read_text())
        answers[new["runtime"]] = {"version": new["version"], "answers": new["answers"]}
    answers = {runtime: answers[runtime] for runtime in RUNTIMES}
    page = readme(answers)
    if not files:
        print(page, end="")
        return
    (HERE / "answers.json").write_text(compact(answers))
    (HERE / "README.md").write_text(page)


def compact(answers):
    """JSON with a line a probe."""
    runtimes = []
    for runtime, its in answers.items():
        lines = ",\n".join(f"    {json.dumps(probe)}: {json.dumps(answer)}" for probe, answer in its["answers"].items())
        runtimes.append(f'  {json.dumps(runtime)}: {{"version": {json.dumps(its["version"])}, "answers": {{\n{lines}\n  }}}}')
    return "{\n" + ",\n".join(runtimes) + "\n}\n"


def readme(answers):
    notes = []
    def cell(answer):
        if answer["said"] == "ok":
            return "ok"
        if answer["said"] == "wrong":
            return "**wrong**" + (f", off by {answer['error']:g} of the largest" if answer["error"] is not None else "")
        if answer["why"] not in notes:
            notes.append(answer["why"])
        return f"**no** [{notes.index(answer['why']) + 1}]"
    names = list(answers["onnxruntime"]["answers"])
    head = " | ".join(f"{title} {answers[runtime]['version']}" for runtime, title in RUNTIMES.items())
    rows = [f"| {name} | " + " | ".join(cell(answers[runtime]["answers"][name]) for runtime in RUNTIMES) + " |" for name in names]
    table = "\n".join([f"| probe | {head} |", "|---" * (len(RUNTIMES) + 1) + "|", *rows])
    ends = "\n".join(f"{place}. `{why}`" for place, why in enumerate(notes, 1))
    return HEAD.format(count=len(names), size="9 MB, with what they are fed") + table + "\n\nWhat the refusals say:\n\n" + ends + "\n"


main(sys.argv[1:])
