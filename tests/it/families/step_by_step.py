"""Stock onnxruntime runs an artifact a token at a time, keys and values handed on. usage: step_by_step.py ARTIFACT < ids as JSON

Prints the logits behind each token, as JSON.
"""
import json
import sys

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(f"{sys.argv[1]}/model.onnx", providers=["CPUExecutionProvider"])
pasts = [value for value in session.get_inputs() if value.name.startswith("past_key_values.")]
names = [value.name for value in session.get_outputs()]
cache = {past.name: np.zeros((1, past.shape[1], 0, past.shape[3]), np.float32) for past in pasts}
rows = []
for position, token in enumerate(json.load(sys.stdin)):
    fed = {"input_ids": np.array([[token]], np.int64), "attention_mask": np.ones((1, position + 1), np.int64), **cache}
    outputs = dict(zip(names, session.run(None, fed)))
    rows.append([float(value) for value in outputs["logits"][0, 0]])
    cache = {name: outputs[name.replace("past_key_values", "present")] for name in cache}
print(json.dumps(rows))
