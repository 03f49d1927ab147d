//! Whether an artifact is what its manifest says, and does what its weights say.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context;
use half::f16;
use memmap2::Mmap;
use serde::Serialize;

use super::hashing;
use super::{RuntimeChoice, packing, progress};
use crate::generate::{Generate, GenerateError, GenerateOptions, Score};
use crate::model::{self, GraphOptions, LlamaConfig, StoredCodes, StoredForm, StoredWeight, WeightForm};
use crate::onnx::{self, Content, DATA_FILE, MODEL_FILE};
use crate::quant::{Codebook, Format, Granularity, QuantizedTensor, ScaleRule, ScaleStorage, Scheme};
use crate::record::{Manifest, WeightRecord};
use crate::runtime::{self, Engine, EngineOptions, Weights};
use crate::tensor::DType;

/// Text that both ways of running the weights continue.
const PROMPT: &str = "Once upon a time there was a little white cat who lived in a house near the river.";
const GOLDEN_TOKENS: usize = 24;

/// One check.
#[derive(Debug, Serialize)]
pub struct Check {
    pub what: &'static str,
    pub passed: bool,
    pub detail: String,
}

/// `qonnx verify`'s answer.
#[derive(Debug, Serialize)]
pub struct VerifyReport {
    pub artifact: PathBuf,
    pub checks: Vec<Check>,
}

/// `qonnx verify`.
pub fn run(artifact: &Path, runtime: &RuntimeChoice) -> anyhow::Result<VerifyReport> {
    let manifest = Manifest::load(artifact)?;
    let mut checks = vec![hashes(artifact, &manifest)?];
    // What does not have its recorded bytes is not worth running.
    if checks[0].passed {
        checks.extend(weights(artifact, &manifest)?);
        checks.push(golden(artifact, &manifest, &runtime.options())?);
    }
    Ok(VerifyReport { artifact: artifact.to_owned(), checks })
}

fn check(what: &'static str, failures: &[String], passed: String) -> Check {
    match failures {
        [] => Check { what, passed: true, detail: passed },
        [first, ..] => Check { what, passed: false, detail: format!("{} wrong: {first}", failures.len()) },
    }
}

/// Every file has the size and BLAKE3 that the manifest records.
fn hashes(artifact: &Path, manifest: &Manifest) -> anyhow::Result<Check> {
    let mut failures = Vec::new();
    for file in &manifest.outputs {
        let path = artifact.join(&file.file);
        match std::fs::metadata(&path) {
            Err(_) => failures.push(format!("{} is missing", file.file)),
            Ok(meta) if meta.len() != file.bytes => {
                failures.push(format!("{} has {} bytes, expected {}", file.file, meta.len(), file.bytes));
            }
            Ok(_) if hashing::of_file(&path)? != file.blake3 => {
                failures.push(format!("{} has another BLAKE3 than recorded", file.file));
            }
            Ok(_) => {}
        }
    }
    Ok(check("hashes", &failures, format!("{} files", manifest.outputs.len())))
}

/// The numbers in the file are those that were computed, and ONNX Runtime dequantizes them to the same bits.
fn weights(artifact: &Path, manifest: &Manifest) -> anyhow::Result<[Check; 2]> {
    let data = Data::open(artifact)?;
    let stored = stored_weights(artifact, manifest)?;
    let activation = activation(manifest);
    let bar = progress::count(stored.len() as u64, "weights");
    let (mut changed, mut differing, mut compared) = (Vec::new(), Vec::new(), 0);
    for (stored, record) in stored.iter().zip(&manifest.weights) {
        bar.set_message(record.name.clone());
        let (digest, same) = match &stored.form {
            StoredForm::Dense { .. } => (data.dense_digest(stored)?, None),
            StoredForm::Quantized { .. } => {
                let quantized = packing::read(stored, &|name| data.bytes(name))?;
                (packing::digest(&quantized), data.same_in_onnxruntime(stored, &quantized, activation)?)
            }
        };
        if digest != record.digest {
            changed.push(record.name.clone());
        }
        if same == Some(false) {
            differing.push(record.name.clone());
        }
        compared += usize::from(same.is_some());
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok([
        check("weights as computed", &changed, format!("{} weights", stored.len())),
        check("ONNX Runtime's dequantization", &differing, format!("{compared} weights bit for bit")),
    ])
}

/// What each weight became, made again from the manifest.
fn stored_weights(artifact: &Path, manifest: &Manifest) -> anyhow::Result<Vec<StoredWeight>> {
    let path = artifact.join("config.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let config = LlamaConfig::from_json(&text)?;
    let records: HashMap<&str, &WeightRecord> = manifest.weights.iter().map(|record| (record.name.as_str(), record)).collect();
    let form = |name: &str| records.get(name).and_then(|record| form_of(record)).unwrap_or(WeightForm::Dense(DType::F32));
    let rotated_head = records.contains_key("model.norm.rotation.weight");
    let options = GraphOptions { activation: activation(manifest), max_context: manifest.max_context, rotated_head };
    Ok(model::decoder(&config, &options, &form)?.weights)
}

fn activation(manifest: &Manifest) -> DType {
    if manifest.activation == "f32" { DType::F32 } else { DType::F16 }
}

fn form_of(record: &WeightRecord) -> Option<WeightForm> {
    let dense = |dtype| Some(WeightForm::Dense(dtype));
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
    let in_features = *record.shape.last()?;
    let granularity = match record.group_size? {
        size if size == in_features && !(size.is_power_of_two() && size <= 256) => Granularity::PerChannel,
        size => Granularity::PerGroup(size),
    };
    // The rule is of no meaning for what is already rounded.
    let scale_storage = if record.double_quantization { ScaleStorage::Nested } else { ScaleStorage::F16 };
    let scheme = Scheme { format, granularity, scale_rule: ScaleRule::AbsMax, scale_storage };
    Some(match record.outliers {
        0 => WeightForm::Quantized(scheme),
        outliers => WeightForm::Outliers { scheme, outliers },
    })
}

/// An artifact's initializers by name.
struct Data {
    folder: PathBuf,
    model: onnx::Model,
    map: Mmap,
    places: HashMap<String, Content>,
}

impl Data {
    fn open(artifact: &Path) -> anyhow::Result<Data> {
        let path = artifact.join(DATA_FILE);
        let file = File::open(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
        // SAFETY: read-only, and nobody writes to a finished artifact.
        let map = unsafe { Mmap::map(&file)? };
        let model = onnx::decode(&std::fs::read(artifact.join(MODEL_FILE))?)?;
        let place = |initializer: &onnx::Initializer| (model.name_of(initializer.value).to_owned(), initializer.content.clone());
        let places = model.initializers().iter().map(place).collect();
        Ok(Data { folder: artifact.to_owned(), model, map, places })
    }

    fn bytes(&self, name: &str) -> anyhow::Result<&[u8]> {
        let missing = || format!("initializer {name} is not in the artifact; export it again");
        match self.places.get(name).with_context(missing)? {
            Content::Inline(bytes) => Ok(bytes),
            Content::External(range) => {
                let (start, length) = (range.offset as usize, range.length as usize);
                start.checked_add(length).and_then(|end| self.map.get(start..end)).with_context(missing)
            }
            Content::Declared => anyhow::bail!(missing()),
        }
    }

    fn dense_digest(&self, stored: &StoredWeight) -> anyhow::Result<String> {
        let StoredForm::Dense { initializer, dtype, order } = &stored.form else { unreachable!("called for dense weights") };
        Ok(super::quantize::digest_of_dense(self.bytes(initializer)?, &stored.shape, *dtype, *order))
    }

    /// `None` where only MatMulNBits and GatherBlockQuantized read the weight, whose shapes leave no way to see it alone.
    fn same_in_onnxruntime(
        &self,
        stored: &StoredWeight,
        quantized: &QuantizedTensor,
        activation: DType,
    ) -> anyhow::Result<Option<bool>> {
        let StoredForm::Quantized { codes, .. } = &stored.form else { return Ok(None) };
        if let StoredCodes::MatMulNBits(_) = codes {
            return Ok(None);
        }
        let name = codes.initializers().next().expect("codes lie in at least one initializer");
        let theirs = runtime::dequantize(&self.folder, &self.model, name)?;
        let ours = as_computed(quantized, activation);
        // Added to zero on both sides: the sign of a zero is no difference.
        Ok(Some(ours.iter().zip(&theirs).all(|(a, b)| (a + 0.0).to_bits() == (b + 0.0).to_bits())))
    }
}

/// What a runtime with activations of that type computes from the codes: outliers have a product of their own, and the columns
/// of their codes stand for zero.
fn as_computed(quantized: &QuantizedTensor, activation: DType) -> Vec<f32> {
    let round = |x: &f32| if activation == DType::F16 { f16::from_f32(*x).to_f32() } else { *x };
    let scales = quantized.scales.iter().map(round).collect();
    let quantized = QuantizedTensor { outliers: None, scales, ..quantized.clone() };
    quantized.dequantize().iter().map(round).collect()
}

/// The artifact's kernels continue a text as its dequantized weights do.
fn golden(artifact: &Path, manifest: &Manifest, options: &EngineOptions) -> anyhow::Result<Check> {
    let what = "golden generation";
    let ids = |weights| -> anyhow::Result<(Vec<u32>, Vec<Vec<f32>>)> {
        let mut engine = Engine::load(artifact, &EngineOptions { weights, ..*options })?;
        let prompt = engine.encode(PROMPT)?;
        let greedy = GenerateOptions { max_new_tokens: GOLDEN_TOKENS, stop: Vec::new() };
        let completion = engine.generate(std::slice::from_ref(&prompt), &greedy, &mut |_| {})?.remove(0);
        let mut logits = Vec::new();
        let text: Vec<u32> = prompt.iter().chain(&completion.ids).copied().collect();
        engine.logits(&text, &mut |_, rows| logits.extend(rows.rows().into_iter().map(|row| row.to_vec())))?;
        Ok((completion.ids, logits.split_off(prompt.len() - 1)))
    };
    let (fused, _) = match ids(Weights::Fused) {
        // The artifact is what fails, not the check.
        Err(error) if matches!(error.downcast_ref(), Some(GenerateError::NotANumber { .. })) => {
            return Ok(Check { what, passed: false, detail: error.to_string() });
        }
        ids => ids?,
    };
    let (reference, logits) = ids(Weights::Dequantized)?;
    let Some(first) = fused.iter().zip(&reference).position(|(a, b)| a != b) else {
        let tokens = fused.len();
        return Ok(Check {
            what,
            passed: fused == reference,
            detail: format!("{tokens} tokens as the dequantized weights give them"),
        });
    };
    // A kernel may sum in another order; what it must not do is prefer a token that the reference finds clearly worse.
    let tolerance = if manifest.activation == "f32" { 2e-3 } else { 0.25 };
    let margin = logits[first][reference[first] as usize] - logits[first][fused[first] as usize];
    let detail = format!("token {first} differs from the dequantized weights', whose logits are {margin:.4} apart");
    Ok(Check { what, passed: margin <= tolerance, detail })
}

impl VerifyReport {
    /// Whether every check passed.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |check: &Check| format!("{:<5} {:<34}{}", if check.passed { "ok" } else { "FAIL" }, check.what, check.detail);
        f.write_str(&self.checks.iter().map(line).collect::<Vec<_>>().join("\n"))
    }
}
