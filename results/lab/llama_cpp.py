# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.15.0", "transformers==4.57.6", "gguf==0.19.0", "xllamacpp==2026.10.11549", "numpy==2.4.6"]
# ///
"""Loads GGUF files in llama.cpp and compares them with what their quantized checkpoint says.

    uv run results/lab/llama_cpp.py MODEL QUANTIZED TEXT FOLDER...

Of each folder's model.gguf, a line of JSON:
differing      weights of quantized matrices that gguf's own `dequantize` gives otherwise than the quantized checkpoint, of `weights`
same_tokens    whether llama.cpp cuts all paragraphs of TEXT into the tokens that MODEL's tokenizer gives
logits         largest difference of llama.cpp's logits over TEXT's first tokens to transformers' (f32) with the dequantized weights, over
               the largest of these; llama.cpp's kernels round activations to 8 bits
perplexity     of those tokens in llama.cpp, over that in transformers

llama.cpp's C functions are those of the wheel xllamacpp, called through ctypes. Structures that it takes by value are larger than two
registers, so they lie on the stack, and a caller may leave more room than there is need for.
"""

import ctypes
import importlib.util
import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tests/it/targets"))
import decode

TOKENS = 512
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


class Params(ctypes.Structure):
    """llama_model_params or llama_context_params, whose first fields are n_ctx, n_batch, n_ubatch."""

    _fields_ = [("sizes", ctypes.c_uint32 * 3), ("rest", ctypes.c_uint8 * 1012)]


class Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)), ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)), ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))), ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]  # fmt: skip


def library():
    folder = pathlib.Path(importlib.util.find_spec("xllamacpp").origin).parent
    lib = ctypes.CDLL(str(next(folder.glob("xllamacpp*.so"))))
    pointer, path, flag, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_bool, ctypes.c_int32
    for name, result, arguments in [
        ("llama_model_default_params", Params, []), ("llama_context_default_params", Params, []),
        ("llama_model_load_from_file", pointer, [path, Params]), ("llama_init_from_model", pointer, [pointer, Params]),
        ("llama_model_get_vocab", pointer, [pointer]), ("llama_vocab_n_tokens", size, [pointer]),
        ("llama_tokenize", size, [pointer, path, size, ctypes.POINTER(size), size, flag, flag]),
        ("llama_batch_init", Batch, [size, size, size]), ("llama_decode", size, [pointer, Batch]),
        ("llama_get_logits", ctypes.POINTER(ctypes.c_float), [pointer]), ("llama_log_set", None, [pointer, pointer]),
    ]:  # fmt: skip
        getattr(lib, name).restype, getattr(lib, name).argtypes = result, arguments
    return lib


class Model:
    def __init__(self, path):
        self.lib = library()
        self.silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
        self.lib.llama_log_set(self.silent, None)
        self.model = self.lib.llama_model_load_from_file(str(path).encode(), self.lib.llama_model_default_params())
        assert self.model, f"llama.cpp does not load {path}"
        self.vocab = self.lib.llama_model_get_vocab(self.model)

    def tokenize(self, text, special=True):
        data, ids = text.encode(), (ctypes.c_int32 * (len(text.encode()) + 8))()
        count = self.lib.llama_tokenize(self.vocab, data, len(data), ids, len(ids), special, True)
        return list(ids[:count])

    def logits(self, ids):
        params = self.lib.llama_context_default_params()
        params.sizes[:] = [len(ids)] * 3
        context = self.lib.llama_init_from_model(self.model, params)
        batch = self.lib.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
            batch.seq_id[i][0] = 0
        assert self.lib.llama_decode(context, batch) == 0
        vocab = self.lib.llama_vocab_n_tokens(self.vocab)
        return np.ctypeslib.as_array(self.lib.llama_get_logits(context), (len(ids), vocab)).copy()


def dequantized(quantized):
    """f32 weights of a quantized checkpoint of symmetric integers, by name."""
    q, found = decode.tensors(quantized), {}
    recipe = json.loads((pathlib.Path(quantized) / "quantized.json").read_text())["recipe"]
    for name in (name.removesuffix(".codes") for name in q if name.endswith(".weight.codes")):
        codes, scales, zeros = decode.meant(name, q)
        assert zeros is None
        of = recipe.get("embedding", recipe["weights"]) if "embed_tokens" in name or "lm_head" in name else recipe["weights"]
        found[name] = (codes.astype(np.int64) - (1 << int(of["format"].removeprefix("int")) - 1)).astype(np.float32) * scales
    return found


def differing(path, config, weights):
    import gguf

    there, count = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}, 0
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for name, want in weights.items():
        module = name.removesuffix(".weight")
        if module.startswith("model.layers."):
            layer, module = module.removeprefix("model.layers.").split(".", 1)
            tensor = there[f"blk.{layer}.{NAMES[module]}.weight"]
        else:
            tensor = there[{"model.embed_tokens": "token_embd.weight", "lm_head": "output.weight"}[module]]
        got = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(want.shape)
        n = heads.get(NAMES.get(module))
        if n and config["model_type"] in ("llama", "mistral"):
            # LlamaModel.permute of convert_hf_to_gguf.py, undone.
            got = got.reshape(n, got.shape[0] // n // 2, 2, -1).swapaxes(1, 2).reshape(want.shape)
        count += int((got != want).sum())
    return {"weights": sum(w.size for w in weights.values()), "differing": count}


def perplexity(logits, ids):
    shifted = logits[:-1].astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    of_next = np.take_along_axis(shifted, np.array(ids[1:])[:, None], -1)[:, 0] - np.log(np.exp(shifted).sum(-1))
    return float(np.exp(-of_next.mean()))


def main():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, quantized, text = sys.argv[1:4]
    config = json.loads((pathlib.Path(model) / "config.json").read_text())
    weights, text = dequantized(quantized), pathlib.Path(text).read_text()
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer(text[: 16 * TOKENS])["input_ids"][:TOKENS]
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in weights.items():
            reference.get_parameter(name).copy_(torch.from_numpy(weight))
        want = reference(torch.tensor([ids])).logits[0].numpy()
    for folder in sys.argv[4:]:
        path = pathlib.Path(folder) / "model.gguf"
        loaded = Model(path)
        wrong = [part for part in text.split("\n\n") if loaded.tokenize(part) != tokenizer(part)["input_ids"]]
        got = loaded.logits(ids)
        found = differing(path, config, weights) | {
            "same_tokens": not wrong,
            "first_other_tokens": wrong[:1],
            "logits": float(np.abs(got - want).max() / np.abs(want).max()),
            "perplexity": perplexity(got, ids) / perplexity(want, ids),
        }
        print(json.dumps({"folder": folder, **found}), flush=True)


if __name__ == "__main__":
    main()
