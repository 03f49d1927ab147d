"""OpenVINO on the CPU, which reads the ONNX file itself, in a plain loop. Job and answer: decode.py.

In f32 throughout: what the graph says, not what the processor at hand would round.
"""
import numpy as np, openvino as ov
from decode import Loop, answer

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0", "KV_CACHE_PRECISION": "f32"}


def name(port):
    """A port may have more names than the graph's."""
    known = ("input_ids", "attention_mask", "position_ids", "num_logits_to_keep", "logits", "past_key_values.", "present.")
    return next(name for name in port.names if name.startswith(known))


def load(artifact):
    core = ov.Core()
    model = core.compile_model(core.read_model(f"{artifact}/model.onnx"), "CPU", EXACT)
    dims = lambda port: [dim.get_length() if dim.is_static else None for dim in port.partial_shape]
    dtype = lambda port: np.float16 if port.element_type == ov.Type.f16 else np.float32
    inputs = {name(port): (dims(port), dtype(port)) for port in model.inputs}
    return Loop(inputs, lambda feed: {name(port): np.array(value, np.float32 if name(port) == "logits" else None)
                                      for port, value in model(feed).items()})


answer("openvino", ov.__version__, load)
