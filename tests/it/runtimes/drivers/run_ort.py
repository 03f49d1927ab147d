"""Stock onnxruntime with its own defaults, in a plain loop; any version of it. Job and answer: decode.py.

With --exact no kernel rounds activations to 8 bits, as some do by default on the CPU.
"""
import glob, sys
import numpy as np, onnxruntime as ort
from decode import Loop, answer


def load(artifact):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if "--exact" in sys.argv:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    [path] = glob.glob(f"{artifact}/model.onnx") or glob.glob(f"{artifact}/onnx/model*.onnx")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    dtype = lambda value: np.float16 if value.type == "tensor(float16)" else np.float32
    names = [value.name for value in session.get_outputs()]
    return Loop({value.name: (value.shape, dtype(value)) for value in session.get_inputs()},
                lambda feed: dict(zip(names, session.run(names, feed))))


answer("onnxruntime", ort.__version__, load)
