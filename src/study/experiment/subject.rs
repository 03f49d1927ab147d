//! What is studied: one model, what is measured of it and where; makes experiments into jobs with ids.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Device, Experiment, Job, Measure, work};
use crate::artifact::plan::{Facts, Plan, with_facts};
use crate::artifact::source::{self, Source};
use crate::artifact::{dataset, hashing};
use crate::checkpoint::Index;
use crate::commands::bench;
use crate::commands::claims::{self, Asked};
use crate::companions::Companions;
use crate::compress;
use crate::compress::calibrate;
use crate::contract::{COMPANIONS, Companion};
use crate::host::{FileError, sealed};
use crate::recipe::{BudgetRecipe, CalibrationRecipe, Recipe};
use crate::record::FileRecord;
use crate::study::StudyError;
use crate::tensor::DType;

/// Hexadecimal digits of an id.
const ID_DIGITS: usize = 16;
/// Hashes of models' files that were read before.
const HASHES: &str = "models.json";

/// What is asked of every experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    pub model: String,
    pub results: PathBuf,
    pub device: Device,
    pub measure: Measure,
    /// A calibration set in place of that of every recipe that has one.
    pub calibration: Option<String>,
    pub baseline: String,
    /// Whether artifacts stay, in `artifacts/` of the results.
    pub keep: bool,
}

/// A model, and all that ids depend on.
pub struct Subject {
    ask: Ask,
    source: Source,
    index: Index,
    /// Hashes of everything but the recipe; `None` where the model or the data are not here yet.
    fixed: Option<Value>,
    model_blake3: String,
    /// Of CoQA, as far as they are known.
    questions: usize,
    /// Tokens and hash of each calibration set that was looked at.
    sets: BTreeMap<String, (usize, String)>,
}

/// An experiment that can be run, and what its artifact will take.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    pub job: Job,
    /// Where its chosen numbers lie if another experiment has the same; `None` where nothing is calibrated or hashes are not known.
    pub numbers: Option<PathBuf>,
    /// Bits per weight of the decoder's linears, scales counted; of a budget, its target.
    pub bits_per_weight: f64,
    /// Every file of the artifact; of a budget, at most about so many.
    pub artifact_bytes: u64,
    pub parameters: u64,
    /// Tokens of its calibration set, where it has one.
    pub calibration_tokens: usize,
    pub questions: usize,
}

impl Subject {
    /// The model is downloaded and hashed, the data as well.
    pub fn open(ask: Ask) -> Result<Subject, StudyError> {
        work::root(&ask.results)?;
        Self::whole(ask)
    }

    /// From headers alone where the model is not here yet: ids are then not known. Leaves nothing in the results folder.
    pub fn glance(ask: Ask) -> Result<Subject, StudyError> {
        if Path::new(&ask.model).is_dir() {
            return Self::whole(ask);
        }
        let (source, index) = source::resolve_headers(&ask.model).map_err(StudyError::at(|| format!("model {}", ask.model)))?;
        Self::with(ask, source, index)
    }

    fn whole(ask: Ask) -> Result<Subject, StudyError> {
        let source = source::resolve(&ask.model)?;
        let (_, index) = source::resolve_headers(&source.dir.to_string_lossy())?;
        let mut subject = Self::with(ask, source, index)?;
        subject.model_blake3 = subject.hash_model()?;
        subject.fixed = Some(subject.fixed()?);
        Ok(subject)
    }

    fn with(ask: Ask, source: Source, index: Index) -> Result<Subject, StudyError> {
        source.architecture()?;
        let sets = BTreeMap::new();
        Ok(Subject { ask, source, index, fixed: None, model_blake3: String::new(), questions: 0, sets })
    }

    /// What the model is called: its hub id, or its folder's name.
    pub fn model(&self) -> &str {
        &self.source.name
    }

    /// The job of `experiment`, its id and what it will take.
    ///
    /// # Errors
    /// The recipe is refused for this model, or its calibration set is.
    pub fn plan(&mut self, experiment: &Experiment) -> Result<Planned, StudyError> {
        let ask = &self.ask;
        let mut recipe = experiment.recipe.clone();
        if let (Some(set), Some(_)) = (&ask.calibration, &recipe.calibration) {
            recipe.calibration = Some(CalibrationRecipe { set: set.clone() });
        }
        let is_baseline = experiment.name == ask.baseline;
        let f32 = experiment.activation.map_or(ask.device.f32, |activation| activation == DType::F32);
        let mut job = Job {
            name: experiment.name.clone(),
            id: String::new(),
            title: experiment.title.clone(),
            method: experiment.method,
            recipe,
            model: ask.model.clone(),
            model_blake3: self.model_blake3.clone(),
            baseline: (!is_baseline).then(|| ask.baseline.clone()),
            results: ask.results.clone(),
            device: Device { f32, ..ask.device },
            measure: ask.measure.clone(),
            save_stats: None,
            quantized: None,
            keep: ask.keep.then(|| work::kept_artifact(&ask.results, &experiment.name)),
            reference: Some(work::kept_artifact(&ask.results, &ask.baseline)),
            awaits: None,
        };
        let plan = with_facts(&job.request(), job.recipe.clone(), &Facts::default(), &self.source, &self.index)?;
        if let Some(bench) = &job.measure.bench {
            bench::check(bench, plan.manifest.max_context)?;
        }
        let (set, calibration_tokens) = self.calibration(&job, &plan)?;
        let numbers = set.as_ref().map(|set| work::quantized(&job.results, &self.numbers(&job, set)));
        if let Some(fixed) = &self.fixed {
            // What the set is called says nothing that its hash does not.
            let recipe = Recipe { calibration: None, ..job.recipe.clone() };
            let mut decided = json!({ "fixed": fixed, "recipe": recipe, "calibration": set, "baseline": job.baseline });
            if let Some(activation) = experiment.activation {
                decided["activation"] = activation.name().into();
            }
            job.id = blake3::hash(decided.to_string().as_bytes()).to_hex()[..ID_DIGITS].to_owned();
        }
        let (bits_per_weight, artifact_bytes) = expected_size(&plan);
        let parameters = plan.manifest.model.parameters;
        let questions = self.questions;
        Ok(Planned { job, numbers, bits_per_weight, artifact_bytes, parameters, calibration_tokens, questions })
    }

    /// Hash of all that the numbers of the job's artifact depend on, the type of activations apart; `set` is that of its
    /// calibration set.
    fn numbers(&self, job: &Job, set: &str) -> blake3::Hash {
        let recipe = Recipe { calibration: None, ..job.recipe.clone() };
        let decided = json!({
            "program": env!("QONNX_NUMERICS"),
            "model": self.model_blake3,
            "recipe": recipe,
            "calibration": set,
            "ep": job.device.provider.name(),
            "threads": job.device.threads,
        });
        blake3::hash(decided.to_string().as_bytes())
    }

    /// Hash and tokens of the job's calibration set, which must be there and share no passage with the questions.
    fn calibration(&mut self, job: &Job, plan: &Plan) -> Result<(Option<String>, usize), StudyError> {
        let Some(calibration) = job.recipe.calibration.as_ref().filter(|_| self.fixed.is_some()) else { return Ok((None, 0)) };
        if !self.sets.contains_key(&calibration.set) {
            let options = compress::Options { evaluation: job.evaluation(), ..compress::Options::default() };
            let set = calibrate::set(plan, &self.source, &options)?.expect("the recipe names a set");
            self.sets.insert(calibration.set.clone(), (set.tokens(), set.hash().to_owned()));
        }
        let (tokens, hash) = &self.sets[&calibration.set];
        Ok((Some(hash.clone()), *tokens))
    }

    /// Everything that the results of every experiment depend on.
    fn fixed(&mut self) -> Result<Value, StudyError> {
        let Ask { measure, device, .. } = &self.ask;
        let (questions, dir) = (&mut self.questions, &self.source.dir);
        let coqa = measure.coqa.as_ref().map(|coqa| {
            let protocol = coqa.protocol.protocol();
            let (dataset, data) = dataset::load_hashed(&coqa.data)?;
            // What would be refused at the end is refused before the work.
            let asked = Asked { dataset: &dataset, protocol: &protocol, limit: coqa.limit };
            claims::notes(dir, &Companions::read(dir)?, &asked)?;
            let all = protocol.stories(&dataset).iter().map(|story| story.questions.len()).sum();
            *questions = coqa.limit.unwrap_or(usize::MAX).min(all);
            Ok::<_, StudyError>(json!({
                "data": data, "protocol": protocol.name, "version": protocol.version, "limit": coqa.limit, "batch": coqa.batch,
            }))
        });
        let text = measure.text.as_ref().map(|text| {
            let file = hashing::of_file(&text.file).map_err(StudyError::at(|| format!("--text {}", text.file.display())))?;
            Ok::<_, StudyError>(json!({ "file": file, "window": text.window, "windows": text.windows }))
        });
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": self.model_blake3,
            "device": device,
            "coqa": coqa.transpose()?,
            "text": text.transpose()?,
            "weights": measure.weights,
            "bench": measure.bench,
        }))
    }

    fn hash_model(&self) -> Result<String, StudyError> {
        let noted = work::folder(&self.ask.results).join(HASHES);
        let mut hashes = Hashes::read(&noted);
        let files = self.index.files().iter().map(|file| {
            let blake3 = hashes.of(&self.source.dir.join(&file.name))?;
            Ok(FileRecord { file: file.name.clone(), bytes: file.bytes, blake3 })
        });
        let files = files.collect::<Result<Vec<_>, StudyError>>()?;
        // A dry run leaves nothing.
        if work::folder(&self.ask.results).is_dir() {
            hashes.write(&noted)?;
        }
        model_blake3(&self.source, &files)
    }
}

/// BLAKE3 of a model by the hashes of its weight files: of these, and of the files beside them.
pub fn model_blake3(source: &Source, weights: &[FileRecord]) -> Result<String, StudyError> {
    let mut hasher = blake3::Hasher::new();
    for Companion { file, is_needed } in COMPANIONS {
        let path = source.dir.join(file);
        if is_needed || path.exists() {
            hasher.update(format!("{file} {}\n", hashing::of_file(&path)?).as_bytes());
        }
    }
    for file in weights {
        hasher.update(format!("{} {}\n", file.file, file.blake3).as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Bits per weight of the decoder's linears and bytes of the artifact; of a budget, what its target comes to.
fn expected_size(plan: &Plan) -> (f64, u64) {
    let sizes = plan.manifest.sizes;
    let bytes = plan.artifact_bytes();
    let linears = plan.graph.weights.iter().filter(|weight| weight.is_decoder_linear());
    let elements = linears.map(|weight| weight.elements()).sum::<usize>() as f64;
    let rest = bytes as f64 - sizes.bits_per_weight_linears * elements / 8.0;
    match plan.manifest.recipe.budget {
        None => (sizes.bits_per_weight_linears, bytes),
        Some(BudgetRecipe::Bpw(bits)) => (bits, (rest + bits * elements / 8.0) as u64),
        Some(BudgetRecipe::Size(most)) => (8.0 * (most as f64 - rest).max(0.0) / elements, most),
    }
}

/// Hashes of files, with what tells that a file is still the same.
#[derive(Default, Serialize, Deserialize)]
struct Hashes(BTreeMap<PathBuf, Noted>);

#[derive(Serialize, Deserialize)]
struct Noted {
    bytes: u64,
    /// Of the last change, nanoseconds since 1970.
    changed: u64,
    blake3: String,
}

impl Hashes {
    /// What an earlier run noted; nothing if that cannot be read, which costs a second reading of the model.
    fn read(path: &Path) -> Hashes {
        sealed::text(path).ok().flatten().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    fn write(&self, path: &Path) -> Result<(), StudyError> {
        let text = serde_json::to_string(self)?;
        Ok(sealed::write(path, &text).map_err(FileError::at(path, "cannot be written"))?)
    }

    fn of(&mut self, path: &Path) -> Result<String, StudyError> {
        let path = fs::canonicalize(path).map_err(FileError::at(path, "cannot be read"))?;
        let meta = fs::metadata(&path).map_err(FileError::at(&path, "cannot be read"))?;
        // A file system that keeps no times has every file hashed.
        let since = meta.modified().unwrap_or(UNIX_EPOCH).duration_since(UNIX_EPOCH).unwrap_or_default();
        let (bytes, changed) = (meta.len(), u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        if let Some(noted) = self.0.get(&path).filter(|noted| changed > 0 && (noted.bytes, noted.changed) == (bytes, changed)) {
            return Ok(noted.blake3.clone());
        }
        let blake3 = hashing::of_file(&path)?;
        self.0.insert(path, Noted { bytes, changed, blake3: blake3.clone() });
        Ok(blake3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_hashed_again_only_when_it_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, kept) = (folder.path().join("w"), folder.path().join("hashes"));
        fs::write(&file, "one").unwrap();
        let mut hashes = Hashes::read(&kept);
        let first = hashes.of(&file).unwrap();
        hashes.0.values_mut().for_each(|noted| noted.blake3 = "noted".to_owned());
        hashes.write(&kept).unwrap();
        assert_eq!(Hashes::read(&kept).of(&file).unwrap(), "noted");
        fs::write(&file, "three").unwrap();
        let second = Hashes::read(&kept).of(&file).unwrap();
        assert!(second != first && second != "noted");
        fs::write(&kept, "{").unwrap();
        assert_eq!(Hashes::read(&kept).of(&file).unwrap(), second);
    }
}
