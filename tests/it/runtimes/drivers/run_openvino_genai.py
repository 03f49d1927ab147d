"""openvino_genai.LLMPipeline, which opens no ONNX file: the artifact is made OpenVINO's own stateful model first, as optimum-intel makes it
of a PyTorch model. Job and answer: decode.py."""
import os, tempfile
import numpy as np, openvino as ov, openvino_genai
from openvino import opset13 as op
from openvino._offline_transformations import apply_make_stateful_transformation
from decode import answer, pad_rows


def named(ports, start):
    """The ports whose name starts so, by what follows."""
    names = {next((name for name in port.get_names() if name.startswith(start)), None): port for port in ports}
    return {name.removeprefix(start): port for name, port in names.items() if name is not None}


def make_stateful(model):
    """Caches become variables inside the model, which begin empty and follow `beam_idx`."""
    batch = model.input("input_ids").get_partial_shape()[0]
    beams = op.parameter(name="beam_idx", dtype=np.int32, shape=ov.PartialShape([batch]))
    beams.output(0).get_tensor().add_names({"beam_idx"})
    model.add_parameters([beams])
    past, present = named(model.inputs, "past_key_values."), named(model.outputs, "present.")
    for cache in past.values():
        users = cache.get_target_inputs()
        chosen = op.gather(cache, beams, op.constant(np.int64(0)))
        for user in users:
            user.replace_source_output(chosen.output(0))
    model.validate_nodes_and_infer_types()
    for end, port in present.items():
        port.get_tensor().set_names({"present." + end})
    apply_make_stateful_transformation(model, {f"past_key_values.{end}": f"present.{end}" for end in past})
    rows = op.gather(op.shape_of(model.input("input_ids"), output_type="i64"), op.constant(np.array([0])), op.constant(np.int64(0)))
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            dims = [dim.get_min_length() for dim in node.get_output_partial_shape(0)]
            shape = op.concat([rows] + [op.constant(np.array([dim], np.int64)) for dim in dims[1:]], 0)
            node.set_arguments([op.broadcast(op.constant(0.0, dtype=node.get_output_element_type(0)), shape)])
    model.validate_nodes_and_infer_types()


class Pipeline:
    def __init__(self, artifact):
        self.folder = tempfile.TemporaryDirectory()
        model = ov.Core().read_model(f"{artifact}/model.onnx")
        make_stateful(model)
        ov.save_model(model, f"{self.folder.name}/openvino_model.xml", compress_to_fp16=False)
        for name in ("config.json", "generation_config.json"):
            if os.path.exists(f"{artifact}/{name}"):
                with open(f"{artifact}/{name}", "rb") as source, open(f"{self.folder.name}/{name}", "wb") as copy:
                    copy.write(source.read())
        self.pipeline = openvino_genai.LLMPipeline(self.folder.name, "CPU", INFERENCE_PRECISION_HINT="f32")

    def greedy(self, rows, side, pad, new_tokens, eos):
        if side == "right":
            raise ValueError("LLMPipeline takes rows that are padded on the left")
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.do_sample, config.stop_token_ids = new_tokens, False, set(eos)
        ids, mask = pad_rows(rows, side, pad)
        inputs = openvino_genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(mask))
        return self.pipeline.generate(inputs, config).tokens


answer("openvino-genai", openvino_genai.__version__, Pipeline)
