"""optimum-onnx, as most Python users call it: ORTModelForCausalLM.from_pretrained(folder).generate(). Job and answer: decode.py."""
import importlib.metadata, os, warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
import torch
from optimum.onnxruntime import ORTModelForCausalLM
from decode import answer, pad_rows


class Generator:
    def __init__(self, artifact):
        self.model = ORTModelForCausalLM.from_pretrained(artifact)

    def greedy(self, rows, side, pad, new_tokens, eos):
        if side == "right":
            raise ValueError("generate() of transformers takes rows that are padded on the left")
        ids, mask = map(torch.from_numpy, pad_rows(rows, side, pad))
        out = self.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False,
                                  eos_token_id=eos, pad_token_id=pad)
        return out[:, ids.shape[1]:].tolist()


answer("optimum-onnx", importlib.metadata.version("optimum-onnx"), Generator)
