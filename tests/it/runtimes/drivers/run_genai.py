"""onnxruntime-genai: its own loop, cache and padding, told by the artifact's genai_config.json alone. Job and answer: decode.py."""
import numpy as np, onnxruntime_genai as genai
from decode import answer, pad_rows


class Generator:
    def __init__(self, artifact):
        self.model = genai.Model(artifact)

    def greedy(self, rows, side, pad, new_tokens, eos):
        if side == "left" and len(rows) > 1:
            raise ValueError("onnxruntime-genai takes rows that are padded on the right")
        ids, _ = pad_rows(rows, side, pad)
        params = genai.GeneratorParams(self.model)
        params.set_search_options(batch_size=len(rows), max_length=ids.shape[1] + new_tokens, do_sample=False)
        generator = genai.Generator(self.model, params)
        generator.append_tokens(ids.astype(np.int32) if len(rows) > 1 else ids[0].astype(np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return [list(generator.get_sequence(row))[ids.shape[1]:] for row in range(len(rows))]


answer("onnxruntime-genai", genai.__version__, Generator)
