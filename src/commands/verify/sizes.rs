//! Whether config.json and the manifest can be of the artifact whose files lie there: before a graph is made again from them,
//! whose tables and lists are as large as they say.

use std::collections::HashMap;

use crate::host::shown;
use crate::model::{Architecture, WeightForm};
use crate::quant::{Codebook, Format, Granularity, ScaleRule, ScaleStorage, Scheme};
use crate::record::{Manifest, WeightRecord};
use crate::tensor::DType;

/// The matrix before the head of a rotated model whose table is tied, which no checkpoint has.
pub const ROTATED_HEAD: &str = "model.norm.rotation.weight";
/// No weight takes fewer bits than this.
const FEWEST_BITS: u128 = 2;

/// The form of each weight by name; the artifact's graph and data have `bytes`.
///
/// # Errors
/// What disagrees, one sentence each.
pub fn forms(config: &Architecture, manifest: &Manifest, bytes: u64) -> Result<HashMap<String, WeightForm>, Vec<String>> {
    let most = u128::from(bytes) * 8;
    let count = manifest.weights.len();
    // Every layer has several.
    if config.num_hidden_layers > count {
        return Err(vec![format!("config.json has {} layers, the manifest {count} weights", config.num_hidden_layers)]);
    }
    let positions = manifest.max_context;
    let table_bits = positions as u128 * (config.head_dim / 2) as u128 * 16;
    if !(1..=config.max_position_embeddings).contains(&positions) || table_bits > most {
        return Err(vec![format!("max_context is {positions}, for which the files have no rotary tables")]);
    }
    let mut failures = Vec::new();
    if !["f16", "f32"].contains(&manifest.activation.as_str()) {
        failures.push(format!("activation is {}, expected f16 or f32", shown(&manifest.activation)));
    }
    let tensors = config.expected_tensors().map_err(|error| vec![format!("config.json: {error}")])?;
    let expected = tensors.into_iter().map(|tensor| (tensor.name, tensor.shape));
    let rotated = (ROTATED_HEAD.to_owned(), vec![config.hidden_size; 2]);
    let shapes: HashMap<String, Vec<usize>> = expected.chain([rotated]).collect();
    let mut forms = HashMap::new();
    for record in &manifest.weights {
        let name = shown(&record.name);
        let bits = record.shape.iter().fold(FEWEST_BITS, |bits, &size| bits.saturating_mul(size as u128));
        match (shapes.get(&record.name), form_of(record)) {
            (None, _) => failures.push(format!("{name} is no weight of this model")),
            (Some(shape), _) if *shape != record.shape => {
                failures.push(format!("{name} has the shape {:?} in the manifest, expected {shape:?}", record.shape));
            }
            (Some(_), _) if bits > most => failures.push(format!("{name} is larger than the files")),
            (Some(_), None) => failures.push(format!("{name} has a form that no export writes")),
            (Some(_), Some(form)) => drop(forms.insert(record.name.clone(), form)),
        }
    }
    if failures.is_empty() { Ok(forms) } else { Err(failures) }
}

/// The activation type that the manifest names.
pub fn activation(manifest: &Manifest) -> DType {
    if manifest.activation == "f32" { DType::F32 } else { DType::F16 }
}

fn form_of(record: &WeightRecord) -> Option<WeightForm> {
    let dense = |dtype| Some(WeightForm::Dense(dtype)).filter(|_| record.group_size.is_none() && record.outliers == 0);
    let format = match record.format.as_str() {
        "f32" => return dense(DType::F32),
        "f16" => return dense(DType::F16),
        "bf16" => return dense(DType::BF16),
        "nf4" => Format::Codebook(Codebook::Nf4),
        "fp4" => Format::Codebook(Codebook::Fp4),
        name => {
            let (bits, symmetric) = match name.strip_prefix("uint") {
                Some(bits) => (bits, false),
                None => (name.strip_prefix("int")?, true),
            };
            Format::Int { bits: bits.parse().ok().filter(|bits| matches!(bits, 2..=6 | 8))?, symmetric }
        }
    };
    let &[_, in_features] = record.shape.as_slice() else { return None };
    let granularity = match record.group_size? {
        size if size.is_power_of_two() && (16..=256).contains(&size) => Granularity::PerGroup(size),
        size if size == in_features => Granularity::PerChannel,
        _ => return None,
    };
    // The rule is of no meaning for what is already rounded.
    let scale_storage = if record.double_quantization { ScaleStorage::Nested } else { ScaleStorage::F16 };
    let scheme = Scheme { format, granularity, scale_rule: ScaleRule::AbsMax, scale_storage };
    match record.outliers {
        0 => Some(WeightForm::Quantized(scheme)),
        outliers if outliers <= in_features => Some(WeightForm::Outliers { scheme, outliers }),
        _ => None,
    }
}
