//! Where config.json and the checkpoint speak of different models, in as few sentences as it takes.

use crate::checkpoint::{CheckpointError, Index};
use crate::host::{NAMED, few, shown};
use crate::model::{Architecture, DecoderConfig, ExpectedTensor, Survey};
use crate::onnx::GraphError;

/// What the checkpoint's tensors are called instead: part of a name, what that means and what to do.
const FOREIGN: [(&str, &str); 6] = [
    (
        ".weight.codes",
        "they are codes that `qonnx quantize` wrote; give the folder to `qonnx export` (a repository is downloaded first), or take the unquantized model",
    ),
    (".qweight", "they are codes of a checkpoint that is quantized already (GPTQ or AWQ); take the unquantized one"),
    (".weight_packed", "they are codes of a checkpoint that is quantized already (compressed-tensors); take the unquantized one"),
    (".quant_state.", "they are codes of a checkpoint that is quantized already (bitsandbytes); take the unquantized one"),
    (".base_layer.", "an adapter is laid over them (peft); merge it with merge_and_unload and save the model again"),
    (".lora_A.", "they are an adapter (peft); merge it into its base model with merge_and_unload and give that one"),
];

/// What the architecture asks of the checkpoint, or sentences about all that this lacks, stores or shapes otherwise.
///
/// Nothing is made from what config.json claims before the checkpoint has as many layers.
pub(super) fn agreed(architecture: &Architecture, index: &Index) -> Result<Result<Survey, Vec<String>>, GraphError> {
    let (claimed, there) = (architecture.num_hidden_layers, index.layers());
    if claimed <= there {
        let survey = architecture.survey()?;
        let sentences = of_tensors(&survey.tensors, index);
        return Ok(if sentences.is_empty() { Ok(survey) } else { Err(sentences) });
    }
    let config = DecoderConfig { num_hidden_layers: there.max(1), ..architecture.config.clone() };
    let some = Architecture { config, family: architecture.family.clone() }.expected_tensors()?;
    let (missing, _) = split(&some, index);
    if there == 0 && !missing.is_empty() {
        return Ok(Err(vec![names_compared(&missing, index)]));
    }
    Ok(Err(vec![format!(
        "config.json says {claimed} layers, the checkpoint has {there}: no tensor in {} begins with model.layers.{there}.; take both \
         from the same model",
        index.dir().display()
    )]))
}

fn of_tensors(expected: &[ExpectedTensor], index: &Index) -> Vec<String> {
    let (missing, unfit) = split(expected, index);
    let shapes = expected.iter().filter_map(|tensor| match index.get(&tensor.name) {
        Some(info) if info.shape != tensor.shape => Some(format!(
            "weight {}: config.json expects the shape {:?}, the checkpoint has {}; take both files from the same model",
            tensor.name,
            tensor.shape,
            shown(&format!("{:?}", info.shape))
        )),
        _ => None,
    });
    let shapes: Vec<String> = shapes.collect();
    let missing = (!missing.is_empty()).then(|| names_compared(&missing, index));
    let unfit = unfit.iter().map(ToString::to_string).collect();
    missing.into_iter().chain(first(unfit)).chain(first(shapes)).collect()
}

/// Names that are not there, and other reasons why a tensor cannot be had.
fn split<'a>(expected: &'a [ExpectedTensor], index: &Index) -> (Vec<&'a str>, Vec<CheckpointError>) {
    let (mut missing, mut unfit) = (Vec::new(), Vec::new());
    for tensor in expected {
        match index.require(&tensor.name) {
            Ok(_) => {}
            Err(CheckpointError::NoTensor { .. }) => missing.push(tensor.name.as_str()),
            Err(error) => unfit.push(error),
        }
    }
    (missing, unfit)
}

/// One sentence: the names that are wanted, those that are there instead, and what that tells.
fn names_compared(missing: &[&str], index: &Index) -> String {
    let checkpoint = index.dir().display();
    let names: Vec<&str> = index.names().into_iter().collect();
    let wanted = few(missing);
    if names.is_empty() {
        return format!("checkpoint {checkpoint}: there is no tensor in it, and the model needs {wanted}; download it again");
    }
    let there = few(&names);
    if let Some((part, what)) = FOREIGN.iter().find(|(part, _)| names.iter().any(|name| name.contains(part))) {
        let such: Vec<&str> = names.iter().copied().filter(|name| name.contains(part)).collect();
        return format!("checkpoint {checkpoint}: there is no {wanted}, but {}: {what}", few(&such));
    }
    if let Some(prefix) = prefix(missing, &names) {
        let how = if prefix.starts_with("base_model.model.") {
            "as peft's state does; merge the adapter with merge_and_unload and save the model again"
        } else {
            "so they were saved from inside something else; save the model again by itself"
        };
        return format!(
            "checkpoint {checkpoint}: there is no {wanted}; the names there begin with {} ({there}), {how}",
            shown(prefix)
        );
    }
    format!(
        "checkpoint {checkpoint}: there is no {wanted}, which the model needs; its tensors are {there}; a file may be missing, or \
         config.json is of another model"
    )
}

/// What stands before the names that are wanted, where it is the same for one of them that is there.
fn prefix<'a>(missing: &[&str], names: &[&'a str]) -> Option<&'a str> {
    let found = missing.iter().find_map(|wanted| names.iter().find_map(|name| name.strip_suffix(wanted)));
    found.filter(|prefix| prefix.ends_with('.'))
}

/// The first sentences of one kind, and how many more there are.
pub(super) fn first(mut sentences: Vec<String>) -> Vec<String> {
    let more = sentences.len().saturating_sub(NAMED);
    sentences.truncate(NAMED);
    if more > 0 {
        sentences.push(format!("and the same of {more} more"));
    }
    sentences
}
