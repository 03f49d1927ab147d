//! A sweep as it is written, and what the command line puts in its place.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::SweepError;
use super::axes::{Axes, Combination, Exclude, Excluded};
use super::words::DtypeWord;
use crate::host::{in_full, read};
use crate::record::BenchSettings;
use crate::runtime::ExecutionProvider;
use crate::study::StudyError;
use crate::study::experiment::{
    Ask, CoqaMeasure, Device, Embedded, Experiment, Measure, ProtocolName, ScoringWeights, TextMeasure, bench_settings, placed,
};

/// What differences are against unless the file says otherwise.
const BASELINE: &str = "fp16_baseline";
/// Prompts of CoQA that are decoded together.
const BATCH: usize = 16;

/// The file. Names of files in it are relative to its folder.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepFile {
    /// Folder of a checkpoint, or a hub repo id.
    model: Option<String>,
    baseline: Option<String>,
    ep: Option<ExecutionProvider>,
    dtype: Option<DtypeWord>,
    /// A calibration set in place of that of every recipe that has one.
    calibration: Option<String>,
    #[serde(default)]
    experiments: Vec<String>,
    axes: Option<Axes>,
    #[serde(default)]
    exclude: Vec<Exclude>,
    #[serde(default)]
    measure: MeasureWords,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MeasureWords {
    coqa: Option<CoqaWords>,
    text: Option<TextWords>,
    bench: Option<BenchWords>,
    weights: Option<ScoringWeights>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct CoqaWords {
    data: String,
    protocol: ProtocolName,
    limit: Option<usize>,
    batch: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct TextWords {
    file: PathBuf,
    window: Option<usize>,
    windows: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct BenchWords {
    batches: Option<Vec<usize>>,
    prompts: Option<Vec<usize>>,
    new_tokens: Option<usize>,
    warmup: Option<usize>,
    min_repeats: Option<usize>,
    max_repeats: Option<usize>,
    confidence: Option<f64>,
    /// Of every decoding step of a sweep on CUDA, those that are scored too.
    cuda_graph: Option<bool>,
}

/// What the command line says in place of the file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Overrides {
    pub model: Option<String>,
    pub calibration: Option<String>,
    pub coqa: Option<String>,
    pub protocol: Option<ProtocolName>,
    pub limit: Option<usize>,
    pub text: Option<PathBuf>,
    pub ep: Option<ExecutionProvider>,
    pub f32: Option<bool>,
    pub threads: Option<usize>,
    pub no_coqa: bool,
    pub no_bench: bool,
    pub keep: bool,
}

/// An experiment of a sweep, and how the file came to name it.
pub struct Member {
    pub experiment: Experiment,
    /// `method = gptq, bits = 4` of an element of the product.
    pub combination: Option<String>,
}

impl SweepFile {
    /// Reads the file.
    pub fn load(path: &Path) -> Result<SweepFile, SweepError> {
        let file = path.display().to_string();
        let text = read::text(path, read::SETTINGS).map_err(|source| SweepError::Unreadable { file: file.clone(), source })?;
        Self::parse(&file, &text)
    }

    /// Parses TOML; `file` is for messages.
    pub fn parse(file: &str, text: &str) -> Result<SweepFile, SweepError> {
        let name = || file.to_owned();
        let sweep: SweepFile =
            toml::from_str(text).map_err(|error| SweepError::Syntax { file: name(), message: placed(text, &error) })?;
        if sweep.experiments.is_empty() && sweep.axes.is_none() {
            return Err(SweepError::Empty { file: name() });
        }
        if !sweep.exclude.is_empty() && sweep.axes.is_none() {
            return Err(SweepError::ExcludeOfNothing { file: name() });
        }
        Ok(sweep)
    }

    /// What every experiment of the sweep is asked.
    pub fn ask(&self, path: &Path, results: PathBuf, overrides: Overrides) -> Result<Ask, StudyError> {
        let beside = |name: &str| beside(path, name);
        let model = match overrides.model.or(self.model.as_deref().map(beside)) {
            Some(model) => model,
            None => Embedded::find()?.model(),
        };
        let provider = overrides.ep.or(self.ep).unwrap_or_default();
        let f32 = overrides.f32.or(self.dtype.map(|dtype| dtype == DtypeWord::F32)).unwrap_or(!provider.is_gpu());
        let words = &self.measure;
        let data = overrides.coqa.or(words.coqa.as_ref().map(|coqa| beside(&coqa.data)));
        let coqa = data.filter(|_| !overrides.no_coqa).map(|data| CoqaMeasure {
            data,
            protocol: overrides.protocol.or(words.coqa.as_ref().map(|coqa| coqa.protocol)).unwrap_or(ProtocolName::Official),
            limit: overrides.limit.or(words.coqa.as_ref().and_then(|coqa| coqa.limit)),
            batch: words.coqa.as_ref().and_then(|coqa| coqa.batch).unwrap_or(BATCH),
        });
        let file = overrides.text.or(words.text.as_ref().map(|text| beside(&text.file.to_string_lossy()).into()));
        let text = file.map(|file| TextMeasure {
            file,
            window: words.text.as_ref().and_then(|text| text.window),
            windows: words.text.as_ref().and_then(|text| text.windows),
        });
        let graph = words.bench.as_ref().and_then(|bench| bench.cuda_graph);
        if graph == Some(true) && !provider.is_gpu() {
            let (what, expected) = ("bench cuda_graph", "true on CUDA only");
            return Err(SweepError::Senseless { file: path.display().to_string(), what, expected }.into());
        }
        let eager = provider.is_gpu() && graph == Some(false);
        let bench = words.bench.as_ref().filter(|_| !overrides.no_bench).map(|bench| bench.settings(provider.is_gpu() && !eager));
        refuse_senseless(path, coqa.as_ref(), text.as_ref(), bench.as_ref())?;
        Ok(Ask {
            model,
            results,
            device: Device { provider, threads: overrides.threads, f32, eager },
            measure: Measure { coqa, text, bench, weights: words.weights.unwrap_or(ScoringWeights::of(provider)) },
            calibration: overrides.calibration.or(self.calibration.as_deref().map(beside)),
            baseline: self.baseline()?,
            keep: overrides.keep,
        })
    }

    fn baseline(&self) -> Result<String, SweepError> {
        let named = self.baseline.as_deref().unwrap_or(BASELINE);
        let stem = Path::new(named).file_stem().filter(|_| named.ends_with(".toml"));
        Ok(stem.map_or_else(|| named.to_owned(), |stem| stem.to_string_lossy().into_owned()))
    }

    /// The experiments, the baseline first, and the combinations that are left out.
    ///
    /// # Errors
    /// One is wrong, or named twice; combinations whose values do not go together, all of them.
    pub fn members(&self, path: &Path) -> Result<(Vec<Member>, Vec<Excluded>), StudyError> {
        let file = path.display().to_string();
        let load = |name: &str| Experiment::load(&if name.ends_with(".toml") { beside(path, name) } else { name.to_owned() });
        let mut members = Vec::new();
        for name in &self.experiments {
            members.push(Member { experiment: load(name)?, combination: None });
        }
        let (combinations, excluded) = match &self.axes {
            Some(axes) => axes.product(&self.exclude, &file)?,
            None => (Vec::new(), Vec::new()),
        };
        let mut refusals = Vec::new();
        for combination in combinations {
            match self.placed(path, &combination).experiment() {
                Ok(experiment) => members.push(Member { experiment, combination: Some(combination.shown()) }),
                Err(error) => refusals.push(format!("{}: {}", combination.shown(), in_full(&error))),
            }
        }
        if !refusals.is_empty() {
            return Err(SweepError::Refused { file, refusals }.into());
        }
        let baseline = self.baseline()?;
        match members.iter().position(|member| member.experiment.name == baseline) {
            Some(place) => members[..=place].rotate_right(1),
            None => {
                let experiment = load(self.baseline.as_deref().unwrap_or(BASELINE))?;
                members.insert(0, Member { experiment, combination: None });
            }
        }
        for (place, member) in members.iter().enumerate() {
            let name = &member.experiment.name;
            if members[..place].iter().any(|before| before.experiment.name == *name) {
                return Err(SweepError::DuplicateName { file, name: name.clone() }.into());
            }
        }
        Ok((members, excluded))
    }

    /// With the calibration set's file found beside the sweep's.
    fn placed(&self, path: &Path, combination: &Combination) -> Combination {
        combination.with_calibration(|set| beside(path, set))
    }
}

impl BenchWords {
    fn settings(&self, cuda_graph: bool) -> BenchSettings {
        let default = bench_settings(cuda_graph);
        BenchSettings {
            batches: self.batches.clone().unwrap_or(default.batches),
            prompts: self.prompts.clone().unwrap_or(default.prompts),
            new_tokens: self.new_tokens.unwrap_or(default.new_tokens),
            warmup: self.warmup.unwrap_or(default.warmup),
            min_repeats: self.min_repeats.unwrap_or(default.min_repeats),
            max_repeats: self.max_repeats.unwrap_or(default.max_repeats),
            confidence: self.confidence.unwrap_or(default.confidence),
            cuda_graph,
        }
    }
}

/// Values that the command line would not take either.
fn refuse_senseless(
    path: &Path,
    coqa: Option<&CoqaMeasure>,
    text: Option<&TextMeasure>,
    bench: Option<&BenchSettings>,
) -> Result<(), SweepError> {
    let refuse = |senseless: bool, what: &'static str, expected: &'static str| match senseless {
        true => Err(SweepError::Senseless { file: path.display().to_string(), what, expected }),
        false => Ok(()),
    };
    if let Some(coqa) = coqa {
        refuse(coqa.limit == Some(0), "coqa limit", "a whole number from 1 on")?;
        refuse(coqa.batch == 0, "coqa batch", "a whole number from 1 on")?;
    }
    if let Some(text) = text {
        refuse(text.window.is_some_and(|window| window < 2), "text window", "a whole number from 2 on")?;
        refuse(text.windows == Some(0), "text windows", "a whole number from 1 on")?;
    }
    if let Some(bench) = bench {
        let is_grid = |values: &[usize]| !values.is_empty() && !values.contains(&0);
        refuse(!is_grid(&bench.batches), "bench batches", "whole numbers from 1 on")?;
        refuse(!is_grid(&bench.prompts), "bench prompts", "whole numbers from 1 on")?;
        refuse(bench.new_tokens < 2, "bench new_tokens", "a whole number from 2 on")?;
        refuse(bench.min_repeats == 0, "bench min_repeats", "a whole number from 1 on")?;
        refuse(bench.max_repeats < bench.min_repeats, "bench max_repeats", "at least min_repeats")?;
        let is_fraction = bench.confidence > 0.0 && bench.confidence < 1.0;
        refuse(!is_fraction, "bench confidence", "a fraction between 0 and 1, such as 0.02")?;
    }
    Ok(())
}

/// A file or folder that is there relative to the sweep's folder, or that can be nothing else; any other name as it is.
fn beside(sweep: &Path, name: &str) -> String {
    let there = sweep.parent().unwrap_or(Path::new("")).join(name);
    let is_path = name.starts_with("./") || name.starts_with("../") || there.exists();
    if !is_path || Path::new(name).is_absolute() {
        return name.to_owned();
    }
    std::fs::canonicalize(&there).unwrap_or(there).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        SweepFile::parse("s.toml", text).unwrap_err().to_string()
    }

    /// The usual length gives way to a shorter context, the same number in the file does not.
    #[test]
    fn a_window_that_is_said_is_not_one_that_is_left_out() {
        let window = |text: &str| {
            let coqa = "coqa = { data = \"q.json\", protocol = \"official\" }";
            let file = format!("experiments = [\"int8_rtn\"]\n[measure]\n{coqa}\ntext = {{ file = \"t.txt\"{text} }}");
            let sweep = SweepFile::parse("s.toml", &file).unwrap();
            let ask = sweep.ask(Path::new("s.toml"), "results".into(), Overrides::default()).unwrap();
            ask.measure.text.unwrap().window
        };
        assert_eq!([window(""), window(", window = 1024"), window(", window = 64")], [None, Some(1024), Some(64)]);
    }

    #[test]
    fn a_text_may_be_all_that_is_measured() {
        let both = "coqa = { data = \"q.json\", protocol = \"official\" }\ntext = { file = \"t.txt\" }";
        let measured = |measure: &str, no_coqa| {
            let sweep = SweepFile::parse("s.toml", &format!("experiments = [\"int8_rtn\"]\n[measure]\n{measure}")).unwrap();
            let overrides = Overrides { no_coqa, ..Overrides::default() };
            let measure = sweep.ask(Path::new("s.toml"), "results".into(), overrides).unwrap().measure;
            (measure.coqa.is_some(), measure.text.is_some())
        };
        assert_eq!(measured("text = { file = \"t.txt\" }", false), (false, true));
        assert_eq!((measured(both, false), measured(both, true)), ((true, true), (false, true)));
    }

    #[test]
    fn what_cannot_be_measured_is_refused_before_any_work() {
        let ask = |measure: &str| {
            let text = format!("experiments = [\"int8_rtn\"]\n[measure]\n{measure}");
            let sweep = SweepFile::parse("s.toml", &text).unwrap();
            sweep.ask(Path::new("s.toml"), "results".into(), Overrides::default()).map(drop)
        };
        let coqa = "coqa = { data = \"q.json\", protocol = \"official\" }\n";
        let cases = [
            ("coqa = { data = \"q.json\", protocol = \"official\", limit = 0 }".to_owned(), "coqa limit"),
            ("coqa = { data = \"q.json\", protocol = \"official\", batch = 0 }".to_owned(), "coqa batch"),
            (format!("{coqa}text = {{ file = \"t.txt\", window = 0 }}"), "text window"),
            ("bench = { new_tokens = 1 }".to_owned(), "bench new_tokens"),
            ("bench = { batches = [] }".to_owned(), "bench batches"),
            ("bench = { prompts = [0] }".to_owned(), "bench prompts"),
            ("bench = { confidence = nan }".to_owned(), "bench confidence"),
            ("bench = { max_repeats = 0 }".to_owned(), "bench max_repeats"),
            ("bench = { cuda_graph = true }".to_owned(), "bench cuda_graph"),
        ];
        for (measure, expected) in cases {
            let error = ask(&measure).unwrap_err().to_string();
            assert!(error.contains(&format!("sweep s.toml: {expected} of [measure]")), "{measure}: {error}");
        }
        ask("bench = { new_tokens = 2, batches = [1] }").unwrap();
    }

    #[test]
    fn what_is_wrong_is_named_with_file_and_line() {
        let cases = [
            ("experiments = [\"int8_rtn\"]\nmodels = \"x\"", "s.toml: line 2: unknown field `models`"),
            ("experiments = [\"int8_rtn\"]\n[measure]\nspeed = 1", "s.toml: line 3: unknown field `speed`"),
            ("experiments = [\"a\"]\n[measure.coqa]\ndata = \"x\"\nprotocol = \"best\"", "line 4: unknown variant `best`"),
            ("experiments = [\"a\"]\n[measure.bench]\nbatch = [1]", "line 3: unknown field `batch`"),
            ("[axes]\nmethod = [\"rtn\"]\nwidth = [4]", "line 3: unknown field `width`"),
            ("[axes]\nmethod = [\"best\"]", "line 2: unknown variant `best`"),
            ("[axes]\nmethod = [\"rtn\"]\ngroup_size = [\"row\"]", "line 3: unknown variant `row`, expected `channel`"),
            ("[axes]\nmethod = [\"rtn\"]\n[[exclude]]\nmethod = \"rtn\"", "missing field `reason`"),
            ("[axes]\nmethod = [\"rtn\"]\n[[exclude]]\nmethods = \"rtn\"\nreason = \"x\"", "line 4: unknown field `methods`"),
            ("model = \"x\"", "names no experiments"),
            ("experiments = [\"a\"]\n[[exclude]]\nbits = 4\nreason = \"x\"", "without [axes] excludes nothing"),
        ];
        for (text, expected) in cases {
            let error = refusal(text);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_baseline_is_first_and_no_name_is_there_twice() {
        let path = Path::new("benches/sweeps/s.toml");
        let names = |text: &str| {
            let members = SweepFile::parse("s.toml", text).unwrap().members(path)?.0;
            Ok::<_, StudyError>(members.into_iter().map(|member| member.experiment.name).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(names("experiments = [\"int8_rtn\"]").unwrap(), "fp16_baseline int8_rtn");
        let named = "experiments = [\"int8_rtn\", \"int4_rtn_g32\", \"fp16_baseline\"]";
        assert_eq!(names(named).unwrap(), "fp16_baseline int8_rtn int4_rtn_g32");
        let other = "baseline = \"int8_rtn\"\nexperiments = [\"int4_rtn_g32\"]";
        assert_eq!(names(other).unwrap(), "int8_rtn int4_rtn_g32");
        let twice = names("experiments = [\"int8_rtn\", \"int8_rtn\"]").unwrap_err().to_string();
        assert!(twice.contains("experiment int8_rtn is named twice"), "{twice}");
        let refused = names("[axes]\nmethod = [\"rtn\", \"nf4\"]\nbits = [8, 4]\nsymmetric = [false]").unwrap_err().to_string();
        assert!(refused.contains("2 experiments cannot be run:\n  method = nf4, bits = 8"), "{refused}");
    }

    #[test]
    fn flags_take_the_place_of_what_the_file_says() {
        let path = Path::new("/nowhere/s.toml");
        let text = "model = \"./m\"\nexperiments = [\"a\"]\nep = \"cuda\"\n[measure]\ncoqa = { data = \"./q.json\", protocol = \"lm-eval\", \
                    limit = 5 }\nbench = { batches = [1, 4] }";
        let sweep = SweepFile::parse("s.toml", text).unwrap();
        let ask = sweep.ask(path, "r".into(), Overrides::default()).unwrap();
        assert_eq!((ask.model.as_str(), ask.device.provider, ask.device.f32), ("/nowhere/./m", ExecutionProvider::Cuda, false));
        let bench = ask.measure.bench.unwrap();
        assert_eq!((bench.batches, bench.prompts, bench.cuda_graph), (vec![1, 4], vec![128], true));
        assert_eq!(ask.measure.coqa.unwrap().data, "/nowhere/./q.json");
        let graph = |text: &str, ep: Option<ExecutionProvider>| {
            let overrides = Overrides { ep, ..Overrides::default() };
            let ask = SweepFile::parse("s.toml", text).unwrap().ask(path, "r".into(), overrides).unwrap();
            ask.measure.bench.unwrap().cuda_graph
        };
        let launched = text.replace("batches", "cuda_graph = false, batches");
        assert_eq!((graph(text, None), graph(&launched, None), graph(text, Some(ExecutionProvider::Cpu))), (true, false, false));
        assert!(SweepFile::parse("s.toml", &launched).unwrap().ask(path, "r".into(), Overrides::default()).unwrap().device.eager);
        let overrides = Overrides {
            model: Some("org/name".into()),
            coqa: Some("mine.json".into()),
            ep: Some(ExecutionProvider::Cpu),
            no_bench: true,
            ..Overrides::default()
        };
        let ask = sweep.ask(path, "r".into(), overrides).unwrap();
        assert_eq!((ask.model.as_str(), ask.device.provider, ask.device.f32), ("org/name", ExecutionProvider::Cpu, true));
        let coqa = ask.measure.coqa.unwrap();
        assert_eq!((coqa.data.as_str(), coqa.protocol, coqa.limit), ("mine.json", ProtocolName::LmEval, Some(5)));
        assert_eq!(ask.measure.bench, None);
    }
}
