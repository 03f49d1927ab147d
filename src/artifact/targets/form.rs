//! Checkpoints that other programs load: what all of them have in common.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::artifact::ArtifactError;
use crate::checkpoint::StoredNumber;
use crate::model::{StoredForm, StoredWeight};
use crate::quant::{Format, Granularity, QuantizedTensor, ScaleStorage, Scheme};
use crate::recipe::WeightRecipe;
use crate::record::Target;
use crate::tensor::DType;

/// How one program's checkpoints hold quantized matrices, and what its readers are told of them.
pub trait CheckpointForm: Sync {
    /// Whether it cannot hold the matrix: what it holds, and what to do.
    fn refuses(&self, matrix: &Matrix<'_>) -> Option<String>;

    /// Whether it cannot hold all of these in one model, each of which it can hold.
    fn refuses_together(&self, matrices: &Matrices<'_>) -> Option<String>;

    /// Whether it holds the embedding and the LM head, too, and not only linears of decoder layers.
    fn holds_tables(&self) -> bool {
        false
    }

    /// The tensors of a matrix.
    fn parts(&self, matrix: &Matrix<'_>) -> Vec<Part>;

    /// Their bytes, in that order.
    ///
    /// # Errors
    /// A number is beyond what the form's types hold.
    fn pack(&self, matrix: &Matrix<'_>, tensor: &QuantizedTensor, activation: DType) -> Result<Vec<Vec<u8>>, String>;

    /// Codes, scales and zero points of parts that have the right lengths. What parts say twice is not looked at: whoever asks
    /// packs the tensor again.
    fn unpack(&self, matrix: &Matrix<'_>, parts: &[&[u8]]) -> Option<QuantizedTensor>;

    /// Says in config.json how the matrices are stored.
    fn describe(&self, config: &mut Map<String, Value>, matrices: &Matrices<'_>);
}

/// A quantized matrix, as far as it is known before its numbers are.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// `model.layers.7.mlp.down_proj`
    pub module: &'a str,
    pub scheme: Scheme,
    pub out_features: usize,
    pub in_features: usize,
}

/// All matrices of a model.
#[derive(Debug, Clone)]
pub struct Matrices<'a> {
    pub quantized: Vec<Matrix<'a>>,
    /// Modules of linears that are not quantized, the LM head among them: a tied one is the embedding's.
    pub dense: Vec<&'a str>,
    pub activation: DType,
}

/// A tensor of a matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub name: String,
    pub number: StoredNumber,
    pub shape: Vec<usize>,
}

const EMBEDDING: &str = "model.embed_tokens";
const HEAD: &str = "lm_head";
/// Keys of config.json that say how weights are stored.
const DESCRIPTIONS: [&str; 2] = ["quantization_config", "quantization"];

impl Part {
    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.number.size()
    }
}

impl<'a> Matrix<'a> {
    /// The quantized matrix that is to be stored, if it is one.
    pub fn of(stored: &'a StoredWeight) -> Option<Matrix<'a>> {
        let (StoredForm::Quantized { scheme, .. }, &[out_features, in_features]) = (&stored.form, stored.shape.as_slice()) else {
            return None;
        };
        let module = stored.weight.strip_suffix(".weight").unwrap_or(&stored.weight);
        Some(Matrix { module, scheme: *scheme, out_features, in_features })
    }

    /// Scales in a row.
    pub fn groups(&self) -> usize {
        self.scheme.granularity.groups(self.in_features)
    }

    /// Bits of a code.
    pub fn bits(&self) -> usize {
        usize::from(self.scheme.format.bits())
    }

    /// `int4`, `uint4` for one with zero points, `nf4`.
    pub fn format(&self) -> String {
        match self.scheme.format {
            Format::Int { bits, symmetric: true } => format!("int{bits}"),
            Format::Int { bits, symmetric: false } => format!("uint{bits} with zero points"),
            Format::Codebook(codebook) if self.scheme.scale_storage == ScaleStorage::Nested => {
                format!("{} with scales in 8 bits", codebook.name())
            }
            Format::Codebook(codebook) => codebook.name().to_owned(),
        }
    }

    /// `group_size`, or −1 where each row has one scale.
    pub fn group_size(&self) -> i64 {
        match self.scheme.granularity {
            Granularity::PerChannel => -1,
            Granularity::PerGroup(size) => size as i64,
        }
    }

    /// A tensor of the module.
    pub fn part(&self, name: &str, number: StoredNumber, shape: &[usize]) -> Part {
        Part { name: format!("{}.{name}", self.module), number, shape: shape.to_vec() }
    }
}

impl<'a> Matrices<'a> {
    /// Those of the weights of a graph.
    pub fn of(weights: &'a [StoredWeight], activation: DType) -> Matrices<'a> {
        let is_dense = |stored: &&StoredWeight| matches!(stored.form, StoredForm::Dense { .. }) && stored.shape.len() == 2;
        let module = |stored: &'a StoredWeight| stored.weight.strip_suffix(".weight");
        let dense: BTreeSet<&str> =
            weights.iter().filter(is_dense).filter_map(module).filter(|&name| name != EMBEDDING).collect();
        let dense = dense.into_iter().chain([HEAD]).collect::<BTreeSet<_>>().into_iter().collect();
        Matrices { quantized: weights.iter().filter_map(Matrix::of).collect(), dense, activation }
    }

    /// The matrices of each format and granularity, in the order of the first of each.
    pub fn by_scheme(&self) -> Vec<(&Matrix<'a>, Vec<&'a str>)> {
        let mut kinds: Vec<(&Matrix<'a>, Vec<&'a str>)> = Vec::new();
        let key = |matrix: &Matrix<'_>| (matrix.scheme.format, matrix.group_size(), matrix.scheme.scale_storage);
        for matrix in &self.quantized {
            match kinds.iter_mut().find(|(first, _)| key(first) == key(matrix)) {
                Some((_, modules)) => modules.push(matrix.module),
                None => kinds.push((matrix, vec![matrix.module])),
            }
        }
        kinds
    }

    /// The one kind of matrix that a model of the form has: says of another, or of a linear that is not quantized, what it is beside.
    pub fn refuse_mixed(&self) -> Option<String> {
        let kinds = self.by_scheme();
        let (first, _) = kinds.first()?;
        let described = |matrix: &Matrix<'_>| match matrix.scheme.granularity {
            Granularity::PerChannel => format!("{} per channel", matrix.format()),
            Granularity::PerGroup(size) => format!("{} in groups of {size}", matrix.format()),
        };
        let other = kinds.get(1).map(|(matrix, _)| (matrix.module, described(matrix)));
        let dense = self.dense.iter().find(|name| **name != HEAD).map(|name| (*name, "not quantized".to_owned()));
        let (name, what) = other.or(dense)?;
        Some(format!(
            "weight {name}.weight: is {what} beside {}, which is {}, expected one form for all linears; leave out what makes them differ \
             (--override, --target-bpw, --target-size), or choose another --target",
            first.module,
            described(first)
        ))
    }
}

/// What of a model the target cannot hold, one sentence each.
pub fn refusals(
    (target, form): (Target, &dyn CheckpointForm),
    weights: &[StoredWeight],
    recipes: &BTreeMap<String, WeightRecipe>,
    rotated_head: bool,
) -> Vec<String> {
    let name = target.name();
    let mut sentences = Vec::new();
    if rotated_head {
        sentences.push(format!(
            "--target {name}: the rotation of an LM head that is the embedding's needs a matrix of its own, which only ONNX graphs have; \
             leave out --rotate, or choose --target ort"
        ));
    }
    if let Some(weight) = recipes.iter().find(|(_, recipe)| recipe.outlier_threshold.is_some() && recipe.scheme().is_some()) {
        sentences.push(format!(
            "weight {}: keeps input features with outliers in f16, which --target {name} cannot hold; choose another --method than \
             llm-int8, or --target ort",
            weight.0
        ));
    }
    let matrices = Matrices::of(weights, DType::F16);
    let is_table = |matrix: &Matrix<'_>| [EMBEDDING, HEAD].contains(&matrix.module);
    let tables = matrices.quantized.iter().filter(|matrix| is_table(matrix) && !form.holds_tables());
    sentences.extend(tables.map(|table| {
        format!(
            "weight {}.weight: is {}, expected f16, as --target {name} holds linears of decoder layers alone; leave out --embedding, or \
             choose --target ort",
            table.module,
            table.format()
        )
    }));
    let held: Vec<Matrix<'_>> =
        matrices.quantized.iter().copied().filter(|matrix| !is_table(matrix) || form.holds_tables()).collect();
    if held.iter().all(is_table) {
        sentences.push(format!("--target {name}: no linear is quantized, and it is for quantized ones; give fewer --bits"));
    }
    sentences.extend(of_each(name, &|matrix| form.refuses(matrix), &held));
    if sentences.is_empty() {
        let together = form.refuses_together(&Matrices { quantized: held, ..matrices });
        sentences.extend(together.map(|sentence| format!("--target {name}: {sentence}")));
    }
    sentences
}

/// One sentence for each reason, of the first weight that it is of.
pub(super) fn of_each(name: &str, refuses: &dyn Fn(&Matrix<'_>) -> Option<String>, matrices: &[Matrix<'_>]) -> Vec<String> {
    let mut reasons: Vec<(String, &str, usize)> = Vec::new();
    for matrix in matrices {
        let uneven = match matrix.scheme.granularity {
            Granularity::PerGroup(size) if !matrix.in_features.is_multiple_of(size) => Some(format!(
                "has {} input features, expected whole groups of {size}; choose another --group-size",
                matrix.in_features
            )),
            _ => None,
        };
        let Some(reason) = uneven.or_else(|| refuses(matrix)) else { continue };
        match reasons.iter_mut().find(|(known, ..)| *known == reason) {
            Some((.., more)) => *more += 1,
            None => reasons.push((reason, matrix.module, 0)),
        }
    }
    let sentence = |(reason, module, more): (String, &str, usize)| {
        let others = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("--target {name}: weight {module}.weight{others}: {reason}")
    };
    reasons.into_iter().map(sentence).collect()
}

/// Numbers that the target takes for a weight, in bits, with all that it stores beside the codes.
pub fn stored_bits(form: &dyn CheckpointForm, stored: &StoredWeight) -> usize {
    match Matrix::of(stored) {
        Some(matrix) => form.parts(&matrix).iter().map(|part| part.bytes() * 8).sum(),
        None => stored.stored_bits(),
    }
}

/// config.json of a model as the form's readers want it.
pub fn config(form: &dyn CheckpointForm, model: &Map<String, Value>, matrices: &Matrices<'_>) -> Map<String, Value> {
    let mut config = model.clone();
    let dtype = if matrices.activation == DType::F32 { "float32" } else { "float16" };
    let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    config.insert(key.to_owned(), dtype.into());
    form.describe(&mut config, matrices);
    config
}

/// The model's config.json, of one that [`config`] made, and what was said there of the weights.
pub fn without_description(mut config: Map<String, Value>) -> (Map<String, Value>, Vec<Value>) {
    let said = DESCRIPTIONS.iter().filter_map(|key| config.remove(*key)).collect();
    (config, said)
}

/// The tensors of a matrix with their bytes.
///
/// # Errors
/// As [`CheckpointForm::pack`].
pub fn packed(
    form: &dyn CheckpointForm,
    matrix: &Matrix<'_>,
    tensor: &QuantizedTensor,
    activation: DType,
) -> Result<Vec<(Part, Vec<u8>)>, ArtifactError> {
    let refused = |problem| ArtifactError::Refused(vec![format!("weight {}.weight: {problem}", matrix.module)]);
    let bytes = form.pack(matrix, tensor, activation).map_err(refused)?;
    let parts = form.parts(matrix);
    debug_assert!(parts.iter().map(Part::bytes).eq(bytes.iter().map(Vec::len)), "{parts:?}");
    Ok(parts.into_iter().zip(bytes).collect())
}
