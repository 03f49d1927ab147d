#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# ///
"""Faults that the program once had, each shown by the commands that showed it. Prints a line for each: `gone`, or
`REPRODUCED` and how, and exits with 1 if any is.

    QONNX=target/debug/qonnx FIXTURE=fixtures/tiny-coqa ORT_DYLIB_PATH=… tests/attack/attack.py [NAME…]

Needs strace, and bindfs for `nfs`; `nfs` and a part of `hub` mount, which needs root.
"""

import copy
import gzip
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import hub as hubs
import small

QONNX, FIXTURE = os.path.abspath(os.environ["QONNX"]), Path(os.environ["FIXTURE"]).resolve()
WORK = Path(tempfile.mkdtemp(prefix="qonnx-attack-"))
USUAL = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
    "HF_HUB_OFFLINE": "1", "HF_HOME": str(WORK / "hf"), "RUST_BACKTRACE": "0", "LC_ALL": "C.UTF-8"}
ENDED = (0, 1, 2)  # exit codes of a program that knows what it did
ATTACKS, FOUND = {}, []


def attack(function):
    ATTACKS[function.__name__] = function
    return function


def report(name, is_there, how):
    FOUND.append(is_there)
    print(f"{'REPRODUCED' if is_there else 'gone      '} {name}: {str(how).strip()[:400]}", flush=True)


def qonnx(*arguments, timeout=120, env=(), memory=None, before=()):
    """Runs the program; a run that does not end has the exit code `timeout`."""
    command = [*before, QONNX, *map(str, arguments)]
    if memory:
        command = ["bash", "-c", f'ulimit -v {memory}; exec "$@"', "bash", *command]
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", env={**USUAL, **dict(env)}, timeout=timeout)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, "timeout", "", "")


def export(model, output, *more, **how):
    return qonnx("export", model, "--bits", "4", "--dtype", "f32", "-o", output, *more, **how)


def calibrated(model, output, *more, **how):
    return export(model, output, "--method", "gptq", "--calibration", SET, *more, **how)


def place(name):
    """A new folder."""
    folder = WORK / name
    folder.mkdir()
    return folder


def changed(name, file, change, model=None):
    """A copy of a model whose JSON file `file` is `change`d."""
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(model or MODEL, folder)
    value = json.loads((folder / file).read_text())
    change(value)
    (folder / file).write_text(json.dumps(value))
    return folder


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


MODEL = small.write(WORK / "small")
(WORK / "t.txt").write_text((FIXTURE / "perplexity.txt").read_text()[:4000])
SET, CHATS, PROMPTS = WORK / "set.toml", WORK / "chats.toml", WORK / "prompts.jsonl"
SET.write_text('licence = "x"\nform = "text"\npacking = "packed"\nsamples = 6\nlength = 48\nseed = 1\n[source]\nfile = "t.txt"\n')
CHAT = {"messages": [{"role": "user", "content": "hello there how are you today my friend"}, {"role": "assistant", "content": "well, thanks"}]}
(WORK / "chats.jsonl").write_text((json.dumps(CHAT) + "\n") * 60)
CHATS.write_text('licence = "x"\nform = "chat"\npacking = "packed"\nsamples = 6\nlength = 48\nseed = 1\n'
                 '[source]\nfile = "chats.jsonl"\nfield = "messages"\n')
PROMPTS.write_text("".join(json.dumps({"id": str(n), "prompt": f"Q: what is {n}?\n\nA:", "golds": ["four"]}) + "\n" for n in range(4)))


@attack
def truncation():
    """What a tokenizer was last called with cuts texts."""
    block = {"direction": "Right", "max_length": 512, "strategy": "LongestFirst", "stride": 0}
    cut = changed("cut", "tokenizer.json", lambda t: t.update(truncation=block), FIXTURE)
    tokens = []
    for model, name in ((FIXTURE, "whole-artifact"), (cut, "cut-artifact")):
        export(model, WORK / name)
        tokens.append(json.loads(qonnx("eval", WORK / name, "--task", "perplexity", "--text", FIXTURE / "perplexity.txt", "--json").stdout)["tokens"])
    report("truncation", tokens[0] != tokens[1], f"perplexity over {tokens[0]} tokens, with the block over {tokens[1]}")


@attack
def padding():
    """What a tokenizer was last called with lengthens prompts."""
    block = {"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 1, "pad_type_id": 0, "pad_token": "<|end_of_text|>"}
    export(changed("padded", "tokenizer.json", lambda t: t.update(padding=block), FIXTURE), WORK / "padded-artifact")
    read = json.loads(qonnx("generate", WORK / "padded-artifact", "The village", "--max-new-tokens", "1", "--json").stdout)["prompt_tokens"]
    report("padding", read >= 64, f"a prompt of 3 tokens is read as {read}")


@attack
def predictions():
    """--predictions empties a file that has no line feed."""
    export(MODEL, WORK / "predicting")
    file = WORK / "coqa-dev.json"
    file.write_text('{"version": "1.0", "data": ["one line, as json.dump writes it"]}')
    ran = qonnx("eval", WORK / "predicting", "--task", "coqa", "--data", PROMPTS, "--limit", "2", "--predictions", file)
    report("predictions", "one line" not in file.read_text() or ran.returncode != 2, f"rc {ran.returncode}, the file begins {file.read_text()[:40]!r}")


@attack
def predictions_shared():
    """Two runs on one --predictions file: no lock."""
    export(FIXTURE, WORK / "shared-4")
    qonnx("export", FIXTURE, "--bits", "2", "--dtype", "f32", "-o", WORK / "shared-2")
    lines = WORK / "two.jsonl"
    asked = ["--task", "coqa", "--protocol", "official", "--data", FIXTURE / "coqa-mini.json", "--limit", "30", "--predictions", lines]
    both = [subprocess.Popen([QONNX, "eval", WORK / name, *asked], env=USUAL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for name in ("shared-4", "shared-2")]
    codes = [run.wait() for run in both]
    whole = [json.loads(line) for line in lines.read_text().splitlines()]
    models = {line["model"] for line in whole}
    report("predictions_shared", codes == [0, 0] or len(models) != 1, f"exit codes {codes}, {len(whole)} lines of {len(models)} models")


@attack
def tokenizer_panics():
    """Tokenizers that the library panics or aborts on."""
    usual, cases = json.loads((MODEL / "tokenizer.json").read_text()), {}

    def case(name, change):
        cases[name] = copy.deepcopy(usual)
        change(cases[name])

    charsmap = lambda text: {"type": "Precompiled", "precompiled_charsmap": text}
    pad = {"strategy": {"Fixed": 2**40}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"}
    case("template without its special token", lambda t: t["post_processor"].update(special_tokens={}))
    case("regex (a+)+$", lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": "(a+)+$"}))
    case("precompiled charsmap AAAAAA==", lambda t: t.update(normalizer=charsmap("AAAAAA==")))
    case("precompiled charsmap 0xff", lambda t: t.update(normalizer=charsmap("/////////////////////w==")))
    case("padding to 2^40", lambda t: t.update(padding=pad))
    texts = {name: json.dumps(value) for name, value in cases.items()}
    texts["decoder with 1e999"] = json.dumps(usual | {"decoder": {"type": "WordPiece", "prefix": "@@", "cleanup": True}}).replace('"@@"', "1e999")
    for name, text in texts.items():
        folder, artifact = changed("panicking", "config.json", lambda _: None), WORK / "panicking-artifact"
        (folder / "tokenizer.json").write_text(text)
        shutil.rmtree(artifact, ignore_errors=True)
        made, ran = export(folder, artifact), qonnx("generate", artifact, "a" * 60 + "b", "--max-new-tokens", "2")
        bad = made.returncode not in ENDED or ran.returncode not in ENDED or "panicked" in made.stderr + ran.stderr
        report(f"tokenizer_panics, {name}", bad, f"export rc {made.returncode}, generate rc {ran.returncode} {ran.stderr.strip()[-140:]}")


@attack
def tokenizer_unread():
    """Export publishes a tokenizer that nothing can read."""
    folder = changed("unread", "config.json", lambda _: None)
    (folder / "tokenizer.json").write_text('{"version":"1.0"}')
    made = export(folder, WORK / "unread-artifact")
    report("tokenizer_unread", made.returncode != 2, f"export rc {made.returncode}: {made.stderr}")


@attack
def config_twice():
    """A key twice is read one way by export and refused by the artifact's readers."""
    folder = changed("twice", "config.json", lambda _: None)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"hidden_size": 32', '"hidden_size": 64, "hidden_size": 32'))
    made, ran = export(folder, WORK / "twice-artifact"), qonnx("generate", WORK / "twice-artifact", "x")
    report("config_twice", made.returncode == 0 and ran.returncode != 0, f"export rc {made.returncode}; generate rc {ran.returncode}: {ran.stderr}")


@attack
def layers():
    """num_hidden_layers is believed before the checkpoint is looked at."""
    for count in (1000, 1_000_000, 2_000_000_000):
        ran = qonnx("plan", changed("layers", "config.json", lambda c: c.update(num_hidden_layers=count)), memory=3_000_000)
        report(f"layers, {count}", ran.returncode != 2 or len(ran.stdout + ran.stderr) > 4000, f"rc {ran.returncode}, {len(ran.stdout + ran.stderr)} bytes")


@attack
def jinja():
    """Chat templates that abort, hang or fill memory."""
    cases = {
        "a chain of 50,000 signs": "{{ " + "-" * 50000 + "1 }}",
        "nested ranges": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "a doubling string": "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "format of a width": "{{ '%1000000000d' | format(1) }}" * 3,
        "tojson with an indent": "{{ messages | tojson(indent=1000000000) }}",
    }
    for name, template in cases.items():
        folder = changed("jinja", "tokenizer_config.json", lambda c: c.update(chat_template=template))
        ran = export(folder, WORK / "jinja-artifact", "--method", "gptq", "--calibration", CHATS, timeout=40, memory=3_000_000)
        report(f"jinja, {name}", ran.returncode not in ENDED, f"rc {ran.returncode} {ran.stderr.strip()[-120:]}")
        shutil.rmtree(WORK / "jinja-artifact", ignore_errors=True)


@attack
def glob_panic():
    """An override pattern of 300 nested braces."""
    recipe = WORK / "globs.toml"
    pattern = "{a," * 300 + "b" + "}" * 300
    recipe.write_text(f'[weights]\nformat = "int4"\ngranularity = {{ group = 32 }}\n[[override]]\nmatch = "{pattern}"\nformat = "int8"\n')
    ran = qonnx("plan", MODEL, "--recipe", recipe)
    report("glob_panic", ran.returncode not in ENDED or "panicked" in ran.stderr, f"rc {ran.returncode} {ran.stderr[:120]}")


def tampered(name, change, *more):
    """The exit code and the output of verify after a change of the manifest."""
    artifact = WORK / name
    calibrated(MODEL, artifact) if more else export(MODEL, artifact)
    edit(artifact / "qonnx.json", change)
    return artifact, qonnx("verify", artifact, timeout=30)


@attack
def verify_panic():
    _, ran = tampered("renamed", lambda m: m["weights"][2].update(name="x"))
    report("verify_panic", ran.returncode not in (1, 2) or "panicked" in ran.stderr, f"rc {ran.returncode} {ran.stdout + ran.stderr}")


@attack
def verify_nothing():
    """An emptied manifest passes over damaged weights."""
    artifact, _ = tampered("emptied", lambda m: m.update(weights=[], outputs=[]))
    data = artifact / "model.onnx.data"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 0x55
    data.write_bytes(content)
    ran = qonnx("verify", artifact)
    report("verify_nothing", ran.returncode not in (1, 2), f"rc {ran.returncode} {ran.stdout + ran.stderr}")


@attack
def verify_outside():
    """verify reads what the manifest names, here a FIFO outside the folder."""
    os.mkfifo(WORK / "fifo")
    _, ran = tampered("outside", lambda m: m["outputs"].append({"file": "../fifo", "bytes": 0, "blake3": "0" * 64}))
    report("verify_outside", ran.returncode not in (1, 2), f"rc {ran.returncode} {ran.stdout + ran.stderr}")


@attack
def manifest_edit():
    """A manifest without its calibration record switches the leak guard off."""
    artifact, ran = tampered("unguarded", lambda m: m.pop("calibration"), "calibrated")
    asked = qonnx("eval", artifact, "--task", "perplexity", "--text", WORK / "t.txt")
    report("manifest_edit", ran.returncode not in (1, 2) or asked.returncode == 0, f"verify rc {ran.returncode}, eval rc {asked.returncode} {asked.stderr}")


@attack
def overwrite():
    """--overwrite whose second step fails, or is killed, loses the old artifact."""
    for name, inject in (("fails", "error=ENOSPC:when=2"), ("killed", "signal=KILL:when=2"), ("fails at once", "error=EIO:when=1"), ("killed at once", "signal=KILL:when=1")):
        folder = place(f"overwrite-{name.replace(' ', '-')}")
        export(MODEL, folder / "out")
        before = (folder / "out/qonnx.json").read_bytes()
        calls = "rename,renameat,renameat2"
        strace = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={calls}:{inject}"]
        export(MODEL, folder / "out", "--overwrite", before=strace)
        again = export(MODEL, folder / "out", "--overwrite")
        left = sorted(os.listdir(folder))
        whole = (folder / "out/qonnx.json").exists() and (folder / "out/qonnx.json").read_bytes() == before
        report(f"overwrite, {name}", not whole or left != ["out"], f"then again rc {again.returncode}: {left} {again.stderr}")
        # Nothing may be lost without another run either.
        shutil.rmtree(folder)
        folder.mkdir()
        export(MODEL, folder / "out")
        export(MODEL, folder / "out", "--overwrite", before=strace)
        kept = any((Path(at) / "qonnx.json").exists() for at, _, _ in os.walk(folder))
        report(f"overwrite, {name}, before another run", not kept, sorted(os.listdir(folder)))


@attack
def fsync():
    """Files and folders are on the disk before the layers that could make them again are removed."""
    folder, log = place("fsync"), WORK / "fsync.log"
    calls = "fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat"
    calibrated(MODEL, folder / "out", before=["strace", "-f", "-y", "-o", str(log), "-e", f"trace={calls}"])
    lines = log.read_text().splitlines()
    put = max(number for number, line in enumerate(lines) if "rename" in line and f'/out"' in line)
    synced = lambda name: any("sync(" in line and re.search(rf"/{re.escape(name)}>", line) for line in lines[:put])
    unsynced = [path.name for path in (folder / "out").iterdir() if not synced(path.name)]
    removed = [number for number, line in enumerate(lines) if "unlink" in line and "layer-" in line]
    parent = [number for number, line in enumerate(lines) if number > put and "fsync(" in line and re.search(r"/fsync>", line)]
    too_early = not parent or any(number < parent[0] for number in removed)
    report("fsync", bool(unsynced) or too_early, f"not synced: {unsynced}; layers removed before the parent folder was synced: {too_early}")


@attack
def killed_leaves():
    """SIGKILL of an export leaves a folder for ever."""
    folder = place("killed")
    run = subprocess.Popen([QONNX, "export", FIXTURE, "--bits", "4", "--dtype", "f32", "-o", folder / "out"], env=USUAL,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not any("partial" in name for name in os.listdir(folder)) and run.poll() is None:
        time.sleep(0.002)
    time.sleep(0.02)
    run.kill()
    run.wait()
    export(FIXTURE, folder / "out")
    report("killed_leaves", os.listdir(folder) != ["out"], f"after SIGKILL and a whole export: {os.listdir(folder)}")


@attack
def sigbus():
    """A checkpoint that is cut short while it is mapped ends the process without a word."""
    model, folder = WORK / "cut-short", place("sigbus")
    shutil.copytree(FIXTURE, model)
    run = subprocess.Popen([QONNX, "export", model, "--bits", "4", "--dtype", "f32", "-o", folder / "out"], env=USUAL,
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not os.listdir(folder) and run.poll() is None:
        time.sleep(0.001)
    os.truncate(model / "model.safetensors", 100_000)
    said = run.communicate()[1]
    report("sigbus", run.returncode not in ENDED or "error: " not in said, f"rc {run.returncode} {said!r}")


@attack
def kept_layer():
    """A flipped bit in saved statistics changes the artifact without a word."""
    folder = place("kept")
    calibrated(MODEL, folder / "a", "--save-stats", folder / "stats")
    stats = sorted(path for path in (folder / "stats").rglob("*") if path.suffix == ".safetensors")[0]
    content = bytearray(stats.read_bytes())
    content[len(content) // 2 + 1] ^= 0x40
    stats.write_bytes(content)
    ran = calibrated(MODEL, folder / "b", "--save-stats", folder / "stats")
    same = ran.returncode == 0 and (folder / "a/model.onnx.data").read_bytes() == (folder / "b/model.onnx.data").read_bytes()
    report("kept_layer", ran.returncode == 0 and not same, f"rc {ran.returncode}, the same bytes: {same} {ran.stderr}")


@attack
def nfs():
    """On a file system that keeps deleted open files, a calibrated export fails after its work."""
    under, over = place("nfs-under"), place("nfs-over")
    subprocess.run(["bindfs", under, over], check=True)
    try:
        ran = calibrated(MODEL, over / "out")
    finally:
        subprocess.run(["umount", over], check=True)
    report("nfs", ran.returncode != 0 or not (under / "out/qonnx.json").exists(), f"rc {ran.returncode} {ran.stderr}")


@attack
def telemetry():
    """ONNX Runtime writes below the home."""
    home = place("home")
    export(MODEL, WORK / "quiet")
    qonnx("generate", WORK / "quiet", "x", "--max-new-tokens", "1", env={"HOME": str(home), "XDG_CACHE_HOME": ""})
    files = [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]
    report("telemetry", bool(files), files)


@attack
def stderr_full():
    ran = subprocess.run(["bash", "-c", f"{QONNX} plan /nonexistent 2>/dev/full"], env=USUAL)
    report("stderr_full", ran.returncode != 2, f"rc {ran.returncode}")
    ran = subprocess.run(["bash", "-c", f"{QONNX} --help >/dev/full"], env=USUAL, capture_output=True)
    report("stderr_full, --help", ran.returncode != 1, f"rc {ran.returncode}")


@attack
def home_unset():
    env = {name: value for name, value in USUAL.items() if name not in ("HOME", "HF_HOME", "XDG_CACHE_HOME")}
    ran = subprocess.run([QONNX, "plan", MODEL], env=env, capture_output=True, text=True)
    report("home_unset", ran.returncode != 0, f"rc {ran.returncode} for a local folder: {ran.stderr}")


@attack
def escape():
    """A tensor's name steers the terminal."""
    folder = changed("escape", "config.json", lambda _: None)
    header = json.dumps({"\x1b[2J\x1b]0;owned\x07": {"dtype": "Q", "shape": [0], "data_offsets": [0, 0]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    ran = qonnx("plan", folder)
    report("escape", ran.returncode != 2 or "\x1b" in ran.stderr, f"rc {ran.returncode} {ran.stderr[:120]!r}")


@attack
def gz_bomb():
    """A compressed set of 9 MB takes 4 GB."""
    with gzip.open(WORK / "t.txt.gz", "wb", compresslevel=1) as packed:
        for _ in range(3000):
            packed.write(b"the cat sat on the mat " * 45000)
    packed_set = WORK / "packed.toml"
    packed_set.write_text(SET.read_text().replace("t.txt", "t.txt.gz"))
    ran = qonnx("export", MODEL, "--method", "gptq", "--bits", "4", "--dtype", "f32", "--calibration", packed_set, "-o", WORK / "gz-out", memory=2_500_000)
    report("gz_bomb", ran.returncode not in ENDED or "out of memory" in ran.stderr, f"rc {ran.returncode} {ran.stderr[-160:]}")


@attack
def hub():
    """The token at another port, one refusal with Retry-After, a cache that cannot be written, six processes on an empty one."""

    def ask(server, *arguments, home=None):
        env = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": server.url, "HF_HOME": str(home or tempfile.mkdtemp(dir=WORK)), "HF_TOKEN": "hf_secret"}
        return qonnx(*arguments, env=env)

    other = hubs.Hub(MODEL)
    elsewhere = lambda h: "/resolve/" in h.path and h.command == "GET" and (h.answer(302, Location=other.url + h.path) or True)
    ran = ask(hubs.Hub(MODEL, elsewhere), "plan", "org/tiny")
    told = sum("Authorization" in headers for _, _, headers in other.requests)
    report("hub, token at another port", told > 0 or ran.returncode != 0, f"rc {ran.returncode}, {told} of {len(other.requests)} requests had it {ran.stderr}")

    refused = []
    busy = lambda h: not refused and (refused.append(h.path) or h.answer(429, Retry_After="1") or True)
    ran = ask(hubs.Hub(MODEL, busy), "plan", "org/tiny")
    report("hub, one 429", ran.returncode != 0, ran.stderr)

    server, home = hubs.Hub(MODEL), tempfile.mkdtemp(dir=WORK)
    ask(server, "export", "org/tiny", "--bits", "4", "--dtype", "f32", "-o", WORK / "hub-1", home=home)
    subprocess.run(f"mount --bind {home} {home} && mount -o remount,ro,bind {home}", shell=True, check=True)
    try:
        ran = ask(server, "export", "org/tiny", "--bits", "4", "--dtype", "f32", "-o", WORK / "hub-2", home=home)
    finally:
        subprocess.run(["umount", home], check=True)
    report("hub, a whole cache that cannot be written", ran.returncode != 0, ran.stderr)

    failed = []
    for _ in range(6):
        env = USUAL | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": server.url, "HF_HOME": tempfile.mkdtemp(dir=WORK)}
        runs = [subprocess.Popen([QONNX, "plan", "org/tiny"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(6)]
        failed += [said for run in runs for said in [run.communicate()[1]] if run.returncode != 0]
    report("hub, six at once on an empty cache", bool(failed), f"{len(failed)} of 36 failed {failed[:1]}")


@attack
def baseline_crash():
    """A baseline that died once leaves every other record without its comparison."""
    folder = place("baseline")
    questions = json.loads((FIXTURE / "coqa-mini.json").read_text())
    questions["data"] = questions["data"][:2]
    (folder / "q.json").write_text(json.dumps(questions))
    (folder / "s.toml").write_text(f'model = "{MODEL}"\nbaseline = "fp16_baseline"\nexperiments = ["fp16_baseline", "int8_rtn"]\n'
                                   f'[measure]\ncoqa = {{ data = "{folder}/q.json", protocol = "official" }}\n')
    sweep = ["sweep", str(folder / "s.toml"), "--no-bench", "--results", str(folder / "r")]
    run = subprocess.Popen([QONNX, *sweep], env=USUAL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    workers = []
    while not workers and run.poll() is None:
        workers = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True).stdout.split()
        time.sleep(0.005)
    for worker in workers[:1]:
        os.kill(int(worker), signal.SIGKILL)
    run.wait()
    ran = qonnx(*sweep, "--retry-failed")
    record = json.loads((folder / "r/int8_rtn_results.json").read_text())
    report("baseline_crash", ran.returncode != 0 or "paired" not in record["evaluation"][0]["scores"][0], f"rc {ran.returncode}; {record['warnings']} {ran.stderr[-200:]}")


@attack
def plan_default():
    """plan refuses a model of fewer positions than its default context."""
    ran = qonnx("plan", changed("short", "config.json", lambda c: c.update(max_position_embeddings=256)))
    report("plan_default", ran.returncode != 0, f"rc {ran.returncode} {ran.stderr}")


def main():
    unknown = [name for name in sys.argv[1:] if name not in ATTACKS]
    if unknown:
        sys.exit(f"attack.py: no attack {', '.join(unknown)}; there are {', '.join(ATTACKS)}")
    try:
        for name in sys.argv[1:] or ATTACKS:
            ATTACKS[name]()
    finally:
        shutil.rmtree(WORK, ignore_errors=True)
    sys.exit(1 if any(FOUND) or not FOUND else 0)


if __name__ == "__main__":
    main()
