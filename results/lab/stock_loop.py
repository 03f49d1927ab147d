"""The loop of `qonnx bench` in stock Python onnxruntime; a process of it is one side of honest_timing.py.

usage: stock_loop.py DIR GRAPH --batch N,... --prompt N,... --gen N --repeats N [--ep cpu|cuda] [--no-cuda-graph] [--weights stock|fused]
                     [--threads N] [--naive] [--say-points]

GRAPH comes from `qonnx bench --save-graph`, its weights from DIR. --naive drives DIR's own graph instead, as most programs do:
`session.run`, logits to the host, argmax there, caches passed back and forth. Writes [[batch, prompt, {"prefill": [ms, ...],
"decode": [ms, ...]}], ...] to stdout, smaller points first; --say-points names each on stderr before it begins, as `qonnx bench -v`
does.
"""
import argparse, json, os, sys, time
import numpy as np

CAPACITY_STEP = 64  # as src/runtime/cache.rs
CHUNK_ON_CPU = 512  # as src/runtime/decoder.rs
SIDE_BY_SIDE_TOKENS = 16384  # as src/runtime/prefill.rs


def session(model, entries, args, replays):
    import onnxruntime as ort
    options = ort.SessionOptions()
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    data = os.path.join(args.dir, "model.onnx.data")
    if os.path.islink(data):  # onnxruntime reads no file that lies outside the folder
        contents = np.memmap(data, np.uint8, "r")
        options.add_external_initializers_from_files_in_memory(["model.onnx.data"], [contents], [contents.size])
    if args.threads:
        options.intra_op_num_threads = args.threads
    if args.ep == "cpu":
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    cuda = {"device_id": "0", "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested", "enable_cuda_graph": str(int(replays))}
    made = ort.InferenceSession(model, options, providers=[("CUDAExecutionProvider", cuda)])
    if made.get_providers()[0] != "CUDAExecutionProvider":
        sys.exit("onnxruntime has no CUDA: it fell back to the CPU")
    return made


class Package:
    """The Python package with the options of src/runtime/session.rs, prompts read as src/runtime/prefill.rs reads them, caches
    bound as src/runtime/decoder.rs binds them, steps recorded and replayed as src/runtime/replay.rs does."""

    def __init__(self, args):
        import onnxruntime as ort
        entries = {"session.model_external_initializers_file_folder_path": args.dir}
        if args.weights == "fused":
            entries |= {"session.qdq_matmulnbits_accuracy_level": "0"} | ({"ep.cuda.fpa_intb_gemm": "1"} if args.ep == "cuda" else {})
        if args.ep == "cuda":
            entries |= {"session.use_device_allocator_for_initializers": "1", "session.disable_cpu_ep_fallback": "1"}
        self.ort, self.device, self.replays = ort, args.ep, args.ep == "cuda" and not args.no_cuda_graph
        self.session = session(open(args.graph, "rb").read(), entries, args, self.replays)
        self.recordings = 0

    def numbered(self, number):
        options = self.ort.RunOptions()
        if self.replays:
            options.add_run_config_entry("gpu_graph_id", str(number))
        return options

    def binding(self, rows):
        binding = self.session.io_binding()
        for name, (cache, _) in self.caches[rows].items():
            binding.bind_ortvalue_input(name, cache)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), cache)
        return binding

    def allocate(self, rows, capacity):
        dtype = lambda value: np.float16 if "float16" in value.type else np.float32

        def cache(value, rows):
            array = np.zeros((rows, value.shape[1], capacity, value.shape[3]), dtype(value))
            return self.value(array), array  # on the CPU both are one memory

        inputs = [value for value in self.session.get_inputs() if value.name.startswith("past_key_values.")]
        counts = {rows, 1} if self.device == "cpu" else {rows}
        self.caches = {count: {value.name: cache(value, count) for value in inputs} for count in counts}
        self.capacity, self.runs = capacity, {}

    def value(self, array, device=None):
        return self.ort.OrtValue.ortvalue_from_numpy(array, device or self.device, 0)

    def prefill(self, ids):
        """On a GPU side by side; on the CPU each prompt by itself, chunk by chunk, and its cache copied to its row."""
        rows, prompt = ids.shape
        if self.device == "cuda":
            if ids.size > SIDE_BY_SIDE_TOKENS:
                sys.exit(f"stock_loop.py: qonnx reads {rows} prompts of {prompt} tokens in several runs, this loop in one")
            return self.run(ids, 0)
        return np.concatenate([self.prefill_row(ids[row:row + 1], row, rows) for row in range(rows)])

    def prefill_row(self, ids, row, rows):
        if rows > 1:
            for _, alone in self.caches[1].values():
                alone.fill(0)
        for past in range(0, ids.shape[1], CHUNK_ON_CPU):
            tokens = self.run(ids[:, past:past + CHUNK_ON_CPU], past)
        if rows > 1:
            for name, (_, cache) in self.caches[rows].items():
                cache[row] = self.caches[1][name][1][0]
        return tokens.copy()  # the next run may write over them

    def run(self, ids, past):
        rows, length = ids.shape
        if (rows, length) not in self.runs:
            self.runs[rows, length] = (self.recorded if self.replays and length == 1 else self.launched)(rows, length)
        run = self.runs[rows, length]
        run.ids.write(ids)
        run.seqlens_k.fill(past + length - 1)
        if run.total is not None:
            run.total.fill(past + length)
        self.session.run_with_iobinding(run.binding, run.options)
        return run.tokens.read()[..., 0]

    def run_anew(self, ids, past, total):
        """The same as a run that is launched, with nothing bound before."""
        rows, length = ids.shape
        binding, tokens = self.binding(rows), self.value(np.zeros((rows, 1, 1), np.int64), "cpu")
        seqlens_k, positions = np.full(rows, past + length - 1, np.int32), np.full((rows, 1, 1), length - 1, np.int64)
        inputs = {"input_ids": ids, "seqlens_k": seqlens_k, "total_sequence_length": np.array(total, np.int32), "positions": positions}
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        binding.bind_ortvalue_output("next_tokens", tokens)
        self.session.run_with_iobinding(binding, self.numbered(-1))
        return tokens.numpy()[..., 0].copy()  # it shares memory that dies with this call

    def check(self, ids, other_ids, steps):
        """What is written in place must reach the session: two prompts, and steps behind the second, choose what they choose
        with inputs that are bound anew."""
        prompt = ids.shape[1]
        self.compare(ids, 0, prompt)
        tokens = self.compare(other_ids, 0, prompt)
        for past in range(prompt, min(prompt + steps, self.capacity)):
            tokens = self.compare(tokens, past, self.capacity if self.replays else past + 1)

    def compare(self, ids, past, total):
        ids = ids.copy()  # the run may write over its own earlier tokens
        tokens = (self.prefill(ids) if past == 0 else self.run(ids, past)).copy()
        if not np.array_equal(tokens, self.run_anew(ids, past, total)):
            sys.exit(f"stock_loop.py: tokens after position {past} differ from those of inputs that are bound anew")
        return tokens

    def launched(self, rows, length):
        run = Run(self, rows, length, self.numbered(-1), tokens_on="cpu")
        run.total = Tensor(self, np.array(0, np.int32), "cpu")
        run.binding.bind_ortvalue_input("total_sequence_length", run.total.value)
        return run

    def recorded(self, rows, length):
        self.recordings += 1
        run = Run(self, rows, length, self.numbered(self.recordings), tokens_on=self.device)
        run.total = None  # stays as it is when the steps are recorded
        run.binding.bind_cpu_input("total_sequence_length", np.array(self.capacity, np.int32))
        return run


class Tensor:
    """An OrtValue that is written and read in place. On the CPU it shares the array's memory."""

    def __init__(self, package, array, device):
        self.array, self.shares, self.value = array, device == "cpu", package.value(array, device)

    def write(self, array):
        if self.shares:
            np.copyto(self.array, array)
        else:
            self.value.update_inplace(array)

    def fill(self, number):
        self.array.fill(number)
        if not self.shares:
            self.value.update_inplace(self.array)

    def read(self):
        """What the next run may write over."""
        return self.array if self.shares else self.value.numpy()


class Run:
    """What runs of one shape read and write, bound once and written in place, as qonnx does where it replays steps. Where it
    launches them it binds tensors anew, which costs an interpreter more."""

    def __init__(self, package, rows, length, options, tokens_on):
        self.options, self.binding = options, package.binding(rows)
        self.ids = Tensor(package, np.zeros((rows, length), np.int64), package.device)
        self.seqlens_k = Tensor(package, np.zeros(rows, np.int32), package.device)
        self.positions = Tensor(package, np.full((rows, 1, 1), length - 1, np.int64), package.device)
        self.tokens = Tensor(package, np.zeros((rows, 1, 1), np.int64), tokens_on)
        self.binding.bind_ortvalue_input("input_ids", self.ids.value)
        self.binding.bind_ortvalue_input("seqlens_k", self.seqlens_k.value)
        self.binding.bind_ortvalue_input("positions", self.positions.value)
        self.binding.bind_ortvalue_output("next_tokens", self.tokens.value)


class Naive:
    """The artifact's own graph, as most programs drive it."""

    def __init__(self, args):
        self.session = session(os.path.join(args.dir, "model.onnx"), {}, args, replays=False)
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = [value.name for value in self.session.get_outputs()]

    def allocate(self, rows, capacity):
        self.caches = {}

    def check(self, *_):
        pass

    def prefill(self, ids):
        return self.run(ids, 0)

    def run(self, ids, past):
        rows, length = ids.shape
        if length > 1:
            empty = lambda value: np.zeros((rows, value.shape[1], 0, value.shape[3]), np.float16 if "float16" in value.type else np.float32)
            self.caches = {name: empty(value) for name, value in self.inputs.items() if name.startswith("past_key_values.")}
        total = past + length
        feed = {"input_ids": ids, "attention_mask": np.ones((rows, total), np.int64),
                "position_ids": np.tile(np.arange(total - length, total, dtype=np.int64), (rows, 1)), **self.caches}
        out = dict(zip(self.outputs, self.session.run(None, {name: feed[name] for name in self.inputs})))
        self.caches = {name: out[name.replace("past_key_values", "present")] for name in self.caches}
        return out["logits"][:, -1:].argmax(-1)


def sample(model, batch, prompt, new_tokens, repeats, vocabulary=256):
    """Milliseconds of each prefill and of each step; the loop of src/bench/point.rs."""
    model.allocate(batch, -(-(prompt + new_tokens - 1) // CAPACITY_STEP) * CAPACITY_STEP)
    ids, other_ids = np.random.default_rng(0).integers(3, vocabulary, (2, batch, prompt))
    model.check(ids, other_ids, min(3, new_tokens - 1))
    prefill, decode = [], []

    def timed(times, run):
        started = time.perf_counter()
        tokens = run()
        times.append((time.perf_counter() - started) * 1e3)
        return tokens

    for repeat in range(2 + repeats):
        if repeat == 2:  # the first two warm up
            prefill.clear(), decode.clear()
        tokens = timed(prefill, lambda: model.prefill(ids))
        for past in range(prompt, prompt + new_tokens - 1):
            tokens = timed(decode, lambda: model.run(tokens, past))
    return {"prefill": prefill, "decode": decode}


def points(args):
    """Smaller ones first, as src/bench/grid.rs orders them."""
    return sorted({(batch, prompt) for batch in args.batch for prompt in args.prompt},
                  key=lambda point: (point[0] * (point[1] + args.gen), *point))


def main():
    numbers = lambda text: [int(number) for number in text.split(",")]
    parser = argparse.ArgumentParser()
    parser.add_argument("dir"); parser.add_argument("graph"); parser.add_argument("--ep", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--no-cuda-graph", action="store_true"); parser.add_argument("--weights", choices=("stock", "fused"), default="stock")
    parser.add_argument("--batch", type=numbers, required=True); parser.add_argument("--prompt", type=numbers, required=True)
    parser.add_argument("--gen", type=int, required=True); parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--threads", type=int); parser.add_argument("--naive", action="store_true"); parser.add_argument("--say-points", action="store_true")
    args = parser.parse_args()
    model, all_points, measured = (Naive if args.naive else Package)(args), points(args), []
    for number, (batch, prompt) in enumerate(all_points, 1):
        if args.say_points:
            print(f"point {number} of {len(all_points)}: batch {batch}, prompt {prompt}", file=sys.stderr, flush=True)
        measured.append([batch, prompt, sample(model, batch, prompt, args.gen, args.repeats)])
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
