"""ONNX Runtime's C interface through ctypes, as far as one decoding loop on a device needs it: for machines whose Python
package has no CUDA. Used by honest_timing.py; the caches and the other inputs are bound as src/runtime/decoder.rs binds them
and the session has the options of src/runtime/session.rs.
"""
import ctypes as c, json, os
import numpy as np

API_VERSION = 23
# Places in struct OrtApi (onnxruntime_c_api.h); new functions are only ever added behind them.
PLACES = {"GetErrorMessage": 2, "CreateEnv": 3, "CreateSessionFromArray": 8, "CreateSessionOptions": 10, "SetIntraOpNumThreads": 24,
          "CreateTensorAsOrtValue": 48, "CreateTensorWithDataAsOrtValue": 49, "CreateMemoryInfo": 68, "ReleaseValue": 96,
          "AddSessionConfigEntry": 130, "CreateAllocator": 131, "RunWithBinding": 133, "CreateIoBinding": 134, "ReleaseIoBinding": 135,
          "BindInput": 136, "BindOutput": 137, "SessionOptionsAppendExecutionProvider_CUDA_V2": 204, "CreateCUDAProviderOptions": 205,
          "UpdateCUDAProviderOptions": 206}
FLOAT, INT32, INT64, FLOAT16 = 1, 6, 7, 10
DEVICE_ALLOCATOR, DEFAULT = 0, 0
ELEMENTS = {np.dtype(np.int32): INT32, np.dtype(np.int64): INT64}


class Base(c.Structure):
    _fields_ = [("get_api", c.CFUNCTYPE(c.c_void_p, c.c_uint32)), ("version", c.CFUNCTYPE(c.c_char_p))]


class Place:
    """Where a function writes an address."""

    def __init__(self, address):
        self.address = address


class Library:
    def __init__(self, library, graph, folder, cuda=True, threads=None):
        self.functions = {}
        self.library = c.CDLL(library)
        self.library.OrtGetApiBase.restype = c.POINTER(Base)
        self.table = c.cast(self.library.OrtGetApiBase().contents.get_api(API_VERSION), c.POINTER(c.c_void_p))
        config = json.load(open(os.path.join(folder, "config.json")))
        self.layers, self.kv_heads = config["num_hidden_layers"], config["num_key_value_heads"]
        self.head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        self.element = FLOAT16 if json.load(open(os.path.join(folder, "qonnx.json")))["activation"] == "f16" else FLOAT
        env = self.made("CreateEnv", c.c_int(3), b"honest_timing")
        options = self.made("CreateSessionOptions")
        entries = {"session.model_external_initializers_file_folder_path": folder}
        if cuda:
            entries |= {"ep.cuda.fpa_intb_gemm": "1", "session.use_device_allocator_for_initializers": "1", "session.disable_cpu_ep_fallback": "1"}
        for key, value in entries.items():
            self.call("AddSessionConfigEntry", options, key.encode(), value.encode())
        if threads:
            self.call("SetIntraOpNumThreads", options, c.c_int(threads))
        if cuda:
            provider = self.made("CreateCUDAProviderOptions")
            given = {"device_id": "0", "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
            strings = lambda values: (c.c_char_p * len(given))(*(value.encode() for value in values))
            self.call("UpdateCUDAProviderOptions", provider, strings(given), strings(given.values()), c.c_size_t(len(given)))
            self.call("SessionOptionsAppendExecutionProvider_CUDA_V2", options, provider)
        model = open(graph, "rb").read()
        self.session = self.made("CreateSessionFromArray", env, model, c.c_size_t(len(model)), options)
        self.host = self.made("CreateMemoryInfo", b"Cpu", c.c_int(DEVICE_ALLOCATOR), c.c_int(0), c.c_int(DEFAULT))
        device = self.made("CreateMemoryInfo", b"Cuda" if cuda else b"Cpu", c.c_int(DEVICE_ALLOCATOR), c.c_int(0), c.c_int(DEFAULT))
        self.allocator = self.made("CreateAllocator", self.session, device)
        self.binding, self.caches = None, []

    def function(self, name, result, arguments):
        """The function at a name's place, made once for each: every argument is an address, a number or bytes."""
        if name not in self.functions:
            kinds = [kind if issubclass(kind := type(argument), c._SimpleCData) else c.c_char_p if kind is bytes else c.c_void_p
                     for argument in arguments]
            self.functions[name] = c.CFUNCTYPE(result, *kinds)(self.table[PLACES[name]])
        return self.functions[name](*(argument if isinstance(argument, (bytes, c._SimpleCData)) else c.addressof(getattr(argument, "address", argument)) for argument in arguments))

    def call(self, name, *arguments):
        status = self.function(name, c.c_void_p, arguments)
        if status:
            raise RuntimeError(f"{name}: {self.function('GetErrorMessage', c.c_char_p, [c.c_void_p(status)]).decode()}")

    def made(self, name, *arguments):
        out = c.c_void_p()
        self.call(name, *arguments, Place(out))
        return out

    def allocate(self, rows, capacity):
        for cache in self.caches:
            self.function("ReleaseValue", None, [cache])
        if self.binding:
            self.function("ReleaseIoBinding", None, [self.binding])
        self.binding, self.caches = self.made("CreateIoBinding", self.session), []
        shape = (c.c_int64 * 4)(rows, self.kv_heads, capacity, self.head_dim)
        for part in (f"{layer}.{part}" for layer in range(self.layers) for part in ("key", "value")):
            cache = self.made("CreateTensorAsOrtValue", self.allocator, shape, c.c_size_t(4), c.c_int(self.element))
            self.call("BindInput", self.binding, f"past_key_values.{part}".encode(), cache)
            self.call("BindOutput", self.binding, f"present.{part}".encode(), cache)
            self.caches.append(cache)
        self.tokens = np.zeros((rows, 1), np.int64)
        self.call("BindOutput", self.binding, b"next_tokens", self.value(self.tokens))

    def value(self, array):
        shape = (c.c_int64 * max(array.ndim, 1))(*array.shape)
        return self.made("CreateTensorWithDataAsOrtValue", self.host, c.c_void_p(array.ctypes.data), c.c_size_t(array.nbytes),
                         shape, c.c_size_t(array.ndim), c.c_int(ELEMENTS[array.dtype]))

    def bind(self, name, array):
        value = self.value(array)
        self.call("BindInput", self.binding, name, value)
        return value

    def run(self, ids, seqlens_k, total, positions):
        inputs = {b"input_ids": ids, b"seqlens_k": seqlens_k, b"total_sequence_length": total, b"positions": positions}
        bound = [self.bind(name, array) for name, array in inputs.items()]
        self.call("RunWithBinding", self.session, c.c_void_p(), self.binding)
        for value in bound:
            self.function("ReleaseValue", None, [value])
        return self.tokens.copy()
