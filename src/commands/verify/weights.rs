//! The numbers in the file are those that were computed, and ONNX Runtime dequantizes them to the same bits.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::Path;

use half::f16;
use memmap2::Mmap;

use super::{Check, check as checked, sizes};
use crate::artifact::packing;
use crate::artifact::plan::draft_record;
use crate::artifact::targets;
use crate::commands::CommandError;
use crate::contract::GraphFile;
use crate::host::{FileError, in_full, progress, read, shown};
use crate::model::{self, Architecture, DecoderGraph, GraphOptions, StoredCodes, StoredForm, StoredWeight, WeightForm};
use crate::onnx::{self, Content, Layout, WeightFinder};
use crate::quant::{Granularity, QuantizedTensor};
use crate::record::{Manifest, Target, WeightRecord};
use crate::runtime::{self, ArtifactFolder};
use crate::tensor::DType;

pub(super) const COMPUTED: &str = "weights as computed";
const TENSORRT: &str = "TensorRT's rules";
const DEQUANTIZED: &str = "ONNX Runtime's dequantization";

/// Both checks; the second only where the first can be made.
///
/// # Errors
/// A file cannot be read.
pub fn check(artifact: &Path, manifest: &Manifest) -> Result<Vec<Check>, CommandError> {
    let data = match Data::open(artifact, manifest) {
        Ok(data) => data,
        Err(error) => return Ok(vec![checked(COMPUTED, &[in_full(&error)], String::new())]),
    };
    let graph = match made_again(artifact, manifest, data.bytes) {
        Ok(graph) => graph,
        Err(failures) => return Ok(vec![checked(COMPUTED, &failures, String::new())]),
    };
    let named = data.named_otherwise(&graph, manifest);
    let disagreements = [weights_disagree(&graph, manifest), named, data.disagreements(&graph)].concat();
    if !disagreements.is_empty() {
        return Ok(vec![checked(COMPUTED, &disagreements, String::new())]);
    }
    Ok(numbers(&data, &graph, manifest))
}

/// The artifact's graph, made again from config.json and the forms in the manifest.
fn made_again(artifact: &Path, manifest: &Manifest, bytes: u64) -> Result<DecoderGraph, Vec<String>> {
    let path = artifact.join("config.json");
    let text = read::text(&path, read::SETTINGS).map_err(|error| vec![format!("config.json: {error}")])?;
    let config = Architecture::from_json(&text).map_err(|error| vec![format!("config.json: {error}")])?;
    let forms = sizes::forms(&config, manifest, bytes)?;
    let weight_form = |name: &str| forms.get(name).copied().unwrap_or(WeightForm::Dense(DType::F32));
    let rotated_head = forms.contains_key(sizes::ROTATED_HEAD);
    let (activation, form) = (sizes::activation(manifest), targets::graph_form(manifest.target));
    let options = GraphOptions { activation, max_context: manifest.max_context, rotated_head, form };
    model::decoder(&config, &options, &weight_form).map_err(|error| vec![format!("the manifest's forms make no graph: {error}")])
}

/// The manifest's weights are the graph's, in its order, and take as much as they take there.
pub(super) fn weights_disagree(graph: &DecoderGraph, manifest: &Manifest) -> Vec<String> {
    let (want, got) = (graph.weights.len(), manifest.weights.len());
    let mut failures = Vec::new();
    if want != got {
        failures.push(format!("the graph has {want} weights, the manifest {got}"));
    }
    let activation = sizes::activation(manifest);
    for (stored, record) in graph.weights.iter().zip(&manifest.weights) {
        let says = |stored: &StoredWeight| {
            let WeightRecord { relative_error, calibrated, digest, .. } = record.clone();
            WeightRecord { relative_error, calibrated, digest, ..draft_record(stored, activation, manifest.target) } == *record
        };
        if !says(stored) && !by_channel(stored).is_some_and(|stored| says(&stored)) {
            failures.push(format!("{} stands where {} belongs, or says another size", shown(&record.name), stored.weight));
        }
    }
    failures
}

/// A weight whose only group is as wide as it is, if it is: a scale for each output feature takes the same bytes in the file, and
/// others in memory.
fn by_channel(stored: &StoredWeight) -> Option<StoredWeight> {
    let mut stored = stored.clone();
    let in_features = *stored.shape.last()?;
    match &mut stored.form {
        StoredForm::Quantized { scheme, .. } if scheme.granularity == Granularity::PerGroup(in_features) => {
            scheme.granularity = Granularity::PerChannel;
            Some(stored)
        }
        _ => None,
    }
}

fn numbers(data: &Data, graph: &DecoderGraph, manifest: &Manifest) -> Vec<Check> {
    let activation = sizes::activation(manifest);
    let finder = WeightFinder::new(&data.model);
    let bar = progress::count(graph.weights.len() as u64, "weights");
    let (mut changed, mut differing, mut compared) = (Vec::new(), Vec::new(), 0);
    let mut unlike_tensorrt = onnx::tensorrt::violations(&data.model);
    for (stored, record) in graph.weights.iter().zip(&manifest.weights) {
        bar.set_message(record.name.clone());
        let same = data.digest(stored).and_then(|(digest, quantized)| {
            if digest != record.digest {
                changed.push(record.name.clone());
            }
            if quantized.as_ref().is_some_and(|quantized| quantized.scales.iter().any(|scale| *scale <= 0.0)) {
                unlike_tensorrt.push(format!("{} has scales that are not positive", record.name));
            }
            quantized.map_or(Ok(None), |quantized| data.same_in_onnxruntime(stored, &quantized, activation, &finder))
        });
        match same {
            Ok(same) => {
                compared += usize::from(same.is_some());
                differing.extend((same == Some(false)).then(|| record.name.clone()));
            }
            Err(error) => differing.push(format!("{}: {}", record.name, in_full(&error))),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let mut checks = vec![
        checked(COMPUTED, &changed, format!("{} weights", graph.weights.len())),
        checked(DEQUANTIZED, &differing, compared_weights(compared, manifest.target)),
    ];
    if manifest.target == Target::TensorRt {
        let nodes = data.model.nodes().len();
        checks.push(checked(
            TENSORRT,
            &unlike_tensorrt,
            format!("{nodes} nodes, positive scales; documented rules, not TensorRT itself"),
        ));
    }
    checks
}

fn compared_weights(compared: usize, target: Target) -> String {
    match (compared, target) {
        (0, Target::MatMulNBits | Target::TransformersJs) => "not asked: nothing but the product reads these weights".to_owned(),
        _ => format!("{compared} weights bit for bit"),
    }
}

/// An artifact's initializers by name.
struct Data {
    folder: ArtifactFolder,
    file: GraphFile,
    model: onnx::Model,
    /// The data files.
    chunks: Vec<Mmap>,
    places: HashMap<String, Content>,
    /// Of graph and data.
    bytes: u64,
}

impl Data {
    fn open(artifact: &Path, manifest: &Manifest) -> Result<Data, CommandError> {
        let graph = manifest.graph_file().unwrap_or_default();
        let chunks = manifest.data_files(&graph).into_iter().map(|recorded| mapped(artifact, &recorded.file));
        let chunks = chunks.collect::<Result<Vec<_>, _>>()?;
        let unread = FileError::at(Path::new(graph.path()), "cannot be read");
        let encoded = std::fs::read(artifact.join(graph.path())).map_err(unread)?;
        let model = onnx::decode(&encoded).map_err(|source| CommandError::Model { file: graph.path().to_owned(), source })?;
        let place = |initializer: &onnx::Initializer| (model.name_of(initializer.value).to_owned(), initializer.content.clone());
        let places = model.initializers().iter().map(place).collect();
        let bytes = (chunks.iter().map(|chunk| chunk.len()).sum::<usize>() + encoded.len()) as u64;
        Ok(Data { folder: ArtifactFolder::of(artifact), file: graph, model, chunks, places, bytes })
    }

    /// The graph is called as the readers of its target look for it.
    fn named_otherwise(&self, graph: &DecoderGraph, manifest: &Manifest) -> Vec<String> {
        let expected = targets::graph_file(manifest.target, &graph.weights, sizes::activation(manifest));
        let is_other = self.file != expected;
        is_other.then(|| format!("the graph is {}, expected {}", self.file.path(), expected.path())).into_iter().collect()
    }

    /// Every initializer of a weight has the bytes that the graph made again gives it, and the data file holds nothing else.
    fn disagreements(&self, graph: &DecoderGraph) -> Vec<String> {
        let sizes: HashMap<&str, usize> = graph
            .model
            .initializers()
            .iter()
            .map(|one| (graph.model.name_of(one.value), graph.model.initializer_bytes(one)))
            .collect();
        let mut failures = Vec::new();
        for name in graph.weights.iter().flat_map(StoredWeight::initializers) {
            match (self.bytes(name), sizes.get(name)) {
                (Ok(bytes), Some(&size)) if bytes.len() == size => {}
                (Ok(bytes), size) => failures.push(format!(
                    "initializer {} has {} bytes, the manifest says {}",
                    shown(name),
                    bytes.len(),
                    size.copied().unwrap_or_default()
                )),
                (Err(error), _) => failures.push(in_full(&error)),
            }
        }
        for constant in graph.model.initializers() {
            let name = graph.model.name_of(constant.value);
            let Content::Inline(numbers) = &constant.content else { continue };
            match self.bytes(name) {
                Ok(stored) if stored == numbers.as_slice() => {}
                Ok(_) => failures.push(format!("{} holds other numbers than config.json gives it", shown(name))),
                Err(error) => failures.push(in_full(&error)),
            }
        }
        let known: HashSet<&str> = sizes.keys().copied().collect();
        let external = self.places.iter().filter(|(_, content)| matches!(content, Content::External(_)));
        failures.extend(
            external
                .filter(|(name, _)| !known.contains(name.as_str()))
                .map(|(name, _)| format!("initializer {} belongs to no weight", shown(name))),
        );
        if failures.is_empty() { self.wrong_sizes(graph) } else { failures }
    }

    /// The data files are as long as they are with these weights.
    fn wrong_sizes(&self, graph: &DecoderGraph) -> Vec<String> {
        let got: Vec<u64> = self.chunks.iter().map(|chunk| chunk.len() as u64).collect();
        // What was the limit of a file when they were written, or less: the longest of them makes the same files.
        let most = got.iter().copied().max().filter(|_| got.len() > 1).unwrap_or(u64::MAX);
        let layout = Layout::in_chunks(&graph.model, self.file.clone(), most);
        let wanted = layout.chunks().iter().copied().map(Some).chain(std::iter::repeat(None));
        let differ = got.iter().zip(wanted).enumerate().filter(|(_, (got, wanted))| Some(**got) != *wanted);
        let sentence = |(chunk, (got, wanted)): (usize, (&u64, Option<u64>))| {
            format!("{} has {got} bytes, the manifest's weights take {}", self.file.data_path(chunk), wanted.unwrap_or_default())
        };
        differ.map(sentence).collect()
    }

    fn bytes(&self, name: &str) -> Result<&[u8], CommandError> {
        let refused = |problem: String| CommandError::Initializer { name: name.to_owned(), problem };
        let missing = || refused("is not in the artifact; export it again".to_owned());
        match self.places.get(name).ok_or_else(missing)? {
            Content::Inline(bytes) => Ok(bytes),
            Content::External(range) => {
                let chunk = (0..self.chunks.len()).find(|&chunk| self.file.data_name(chunk) == range.location);
                let Some(chunk) = chunk else {
                    let (location, own) = (shown(&range.location), self.file.data_name(0));
                    return Err(refused(format!("lies in {location}, expected {own}; export the artifact again")));
                };
                let place = || Some((usize::try_from(range.offset).ok()?, usize::try_from(range.length).ok()?));
                let (start, length) = place().ok_or_else(missing)?;
                start.checked_add(length).and_then(|end| self.chunks[chunk].get(start..end)).ok_or_else(missing)
            }
            Content::Declared => Err(missing()),
        }
    }

    /// Of a weight's numbers, and these where they are quantized.
    fn digest(&self, stored: &StoredWeight) -> Result<(String, Option<QuantizedTensor>), CommandError> {
        match &stored.form {
            StoredForm::Dense { initializer, dtype, order } => {
                let bytes = self.bytes(initializer)?;
                Ok((crate::artifact::quantize::digest_of_dense(bytes, &stored.shape, *dtype, *order), None))
            }
            StoredForm::Quantized { .. } => {
                let quantized = packing::read(stored, &|name| self.bytes(name))?;
                Ok((packing::digest(&quantized), Some(quantized)))
            }
        }
    }

    /// `None` where only MatMulNBits and GatherBlockQuantized read the weight, whose shapes leave no way to see it alone.
    fn same_in_onnxruntime(
        &self,
        stored: &StoredWeight,
        quantized: &QuantizedTensor,
        activation: DType,
        finder: &WeightFinder<'_>,
    ) -> Result<Option<bool>, CommandError> {
        let StoredForm::Quantized { codes, .. } = &stored.form else { return Ok(None) };
        if let StoredCodes::MatMulNBits { .. } = codes {
            return Ok(None);
        }
        let name = codes.initializers().next().expect("codes lie in at least one initializer");
        let theirs = runtime::dequantize(&self.folder, finder, name)?;
        let ours = as_computed(quantized, activation);
        // Added to zero on both sides: the sign of a zero is no difference.
        let same = |(a, b): (&f32, &f32)| (a + 0.0).to_bits() == (b + 0.0).to_bits();
        Ok(Some(ours.len() == theirs.len() && ours.iter().zip(&theirs).all(same)))
    }
}

fn mapped(artifact: &Path, file: &str) -> Result<Mmap, FileError> {
    let unread = || FileError::at(Path::new(file), "cannot be read");
    let opened = File::open(artifact.join(file)).map_err(unread())?;
    // SAFETY: read-only, and nobody writes to a finished artifact.
    unsafe { Mmap::map(&opened) }.map_err(unread())
}

/// What a runtime with activations of that type computes from the codes: outliers have a product of their own, and the columns
/// of their codes stand for zero.
fn as_computed(quantized: &QuantizedTensor, activation: DType) -> Vec<f32> {
    let round = |x: &f32| if activation == DType::F16 { f16::from_f32(*x).to_f32() } else { *x };
    let scales = quantized.scales.iter().map(round).collect();
    let quantized = QuantizedTensor { outliers: None, scales, ..quantized.clone() };
    quantized.dequantize().iter().map(round).collect()
}
