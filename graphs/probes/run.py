#!/usr/bin/env python3
"""Asks one runtime the probes, and prints what it said.

usage: run.py onnxruntime|openvino|node|wasm FOLDER        FOLDER as make.py wrote it
       onnxruntime and openvino are those of the Python that runs this, which needs numpy beside; node and wasm are the onnxruntime-node and
       onnxruntime-web that transformers.js pins, in the Node of QONNX_RUNTIME_NODE and in the Chromium of QONNX_CHROMIUM.

       {"runtime": NAME, "version": V, "answers": {PROBE: {"said": "ok" | "wrong", "error": largest difference / largest number} |
                                                          {"said": "refused", "why": MESSAGE}}}
"""
import http.server, json, os, pathlib, queue, signal, subprocess, sys, tempfile, threading
import numpy as np

HERE, WAIT_S = pathlib.Path(__file__).resolve().parent, 300


def main(runtime, folder):
    folder = pathlib.Path(folder).resolve()
    probes = json.loads((folder / "probes.json").read_text())
    version, raw = {"onnxruntime": ask_onnxruntime, "openvino": ask_openvino, "node": ask_node, "wasm": ask_wasm}[runtime](folder, probes)
    answers = {name: judge(raw[name], probe, folder) for name, probe in probes.items()}
    print(json.dumps({"runtime": runtime, "version": version, "answers": answers}, indent=1))


def judge(said, probe, folder):
    """What was said is the numbers of output `y`, or why there are none."""
    if isinstance(said, str):
        words = " ".join(said.replace(str(folder), "").split())
        return {"said": "refused", "why": words if len(words) <= 200 else "… " + words[-200:].partition(" ")[2]}
    want, got = np.array(probe["want"]), np.array([np.nan if number is None else number for number in said], np.float64)
    if got.shape != want.shape:
        return {"said": "wrong", "error": None}
    error = float(np.abs(got - want).max() / np.abs(want).max())
    return {"said": "ok" if error <= probe["tolerance"] else "wrong", "error": float(f"{error:.0e}") if np.isfinite(error) else None}


def feeds(probe):
    for name, value in probe["feeds"].items():
        stored = np.array(value["data"], "uint16" if value["type"] == "float16" else value["type"])
        yield name, (stored.view(np.float16) if value["type"] == "float16" else stored).reshape(value["dims"])


def ask_each(probes, ask):
    raw = {}
    for name, probe in probes.items():
        try:
            raw[name] = np.asarray(ask(name, dict(feeds(probe))), np.float64).ravel().tolist()
        except Exception as error:
            raw[name] = str(error)
    return raw


def ask_onnxruntime(folder, probes):
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # Activations of a fused product stay f32, as the probe says.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    session = lambda name: ort.InferenceSession(f"{folder}/{name}.onnx", options, providers=["CPUExecutionProvider"])
    return ort.__version__, ask_each(probes, lambda name, feed: session(name).run(["y"], feed)[0])


def ask_openvino(folder, probes):
    import openvino as ov
    core, exact = ov.Core(), {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    model = lambda name: core.compile_model(core.read_model(f"{folder}/{name}.onnx"), "CPU", exact)
    return ov.__version__.split("-")[0], ask_each(probes, lambda name, feed: model(name)(feed)["y"])


def ask_node(folder, _):
    output = subprocess.run([os.environ["QONNX_RUNTIME_NODE"], HERE / "run_node.mjs", folder], check=True, stdout=subprocess.PIPE)
    said = json.loads(output.stdout)
    return said["version"], said["answers"]


def ask_wasm(folder, _):
    node = [os.environ["QONNX_RUNTIME_NODE"], "-p", "process.env.QONNX_NODE_MODULES"]
    modules = pathlib.Path(subprocess.run(node, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())
    version = json.loads((modules / "onnxruntime-web/package.json").read_text())["version"]
    said = queue.Queue()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), serving({"page": HERE, "modules": modules, "probes": folder}, said))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/page/page.html"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = subprocess.Popen([os.environ["QONNX_CHROMIUM"], "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                                    "--disable-background-networking", f"--user-data-dir={profile}", address],
                                   # Its processes may outlive it: none is to hold what a caller reads to the end, all are ended.
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            return version, json.loads(said.get(timeout=WAIT_S))
        except queue.Empty:
            sys.exit(f"Chromium did not answer in {WAIT_S} s")
        finally:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()


def serving(roots, said):
    """GET /ROOT/FILE are files of a root; what is posted goes to the queue."""
    types = {".html": "text/html", ".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm", ".json": "application/json"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            root, _, path = self.path[1:].partition("/")
            file = roots.get(root, HERE) / path
            found = root in roots and file.is_file()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", types.get(file.suffix, "application/octet-stream"))
            # Threads in wasm need an isolated page.
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            self.end_headers()
            if found:
                self.wfile.write(file.read_bytes())

        def do_POST(self):
            said.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    return Handler


if __name__ == "__main__":
    main(*sys.argv[1:])
