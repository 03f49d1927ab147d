//! Records that belong together: checked against one another, in the order of tables, with the questions that figures ask.

use std::collections::HashMap;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::ReportError;
use super::point::Point;
use crate::record::{
    BenchRecord, COQA, COQA_F1, KL, KL_MEAN, Outcome, PairedRecord, QUESTIONS, RunRecord, ScoreName, ScoreRecord,
    TEXT_PERPLEXITY, TaskRecord,
};

/// What a relative link may not hold as it is.
const IN_LINKS: &AsciiSet =
    &CONTROLS.add(b':').add(b' ').add(b'(').add(b')').add(b'<').add(b'>').add(b'"').add(b'#').add(b'?').add(b'%').add(b'`');

/// A record and the file it was read from.
#[derive(Debug, Clone)]
pub struct RecordFile {
    /// As messages and links name it.
    pub file: String,
    pub record: RunRecord,
}

/// One experiment of a study.
#[derive(Debug, Clone)]
pub struct Row {
    /// From 1 on, in the order of tables: what short references name.
    pub number: usize,
    pub file: String,
    pub record: RunRecord,
}

/// Experiments on one model under one protocol against one baseline.
#[derive(Debug, Clone)]
pub struct Study {
    /// The baseline first, then by bits per weight of the linears from high to low; what has no artifact comes last.
    pub rows: Vec<Row>,
    /// What benchmarks ran on, with the rows of each.
    pub devices: Vec<Device>,
}

/// What a study knows of accuracy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accuracy {
    /// F1 of answers, of one experiment at least.
    Answers,
    /// How well a text is predicted, and no F1.
    Text,
    Unknown,
}

/// A device, and the points of the grid at which its rows are compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// `CPU (2 threads)`, or the GPU's name.
    pub name: String,
    pub ep: String,
    /// Places of rows in the study.
    pub rows: Vec<usize>,
    /// The longest prompt that every row tried at its smallest batch; the longest that most did where there is none.
    pub prompt: usize,
    /// Batch sizes that any row tried at this prompt length, rising.
    pub batches: Vec<usize>,
    /// The largest batch size that every row measured at this prompt length, of those that measured any.
    pub common_batch: Option<usize>,
}

impl Row {
    pub fn name(&self) -> &str {
        &self.record.experiment_name
    }

    /// The record's file without the way to it.
    pub fn file_name(&self) -> &str {
        self.file.rsplit('/').next().unwrap_or(&self.file)
    }

    /// The record's file as links write it.
    pub fn href(&self) -> String {
        utf8_percent_encode(&self.file, IN_LINKS).to_string()
    }

    pub fn is_baseline(&self) -> bool {
        self.record.baseline.is_none()
    }

    /// What a task scored, if it was asked.
    pub fn task(&self, task: &str) -> Option<&TaskRecord> {
        self.record.evaluation.task(task)
    }

    /// A metric, if it was measured.
    pub fn score(&self, name: ScoreName) -> Option<f64> {
        self.record.evaluation.value(name)
    }

    pub fn f1(&self) -> Option<f64> {
        self.score(COQA_F1)
    }

    /// F1 against the baseline's.
    pub fn paired(&self) -> Option<&PairedRecord> {
        self.record.evaluation.score(COQA_F1).and_then(|score| score.paired.as_ref())
    }

    /// Of CoQA; 0 where it was not asked.
    pub fn questions(&self) -> u64 {
        self.task(COQA).map_or(0, |coqa| coqa.count(QUESTIONS))
    }

    /// Bits per weight of the decoder's linears on disk, scales counted.
    pub fn bits(&self) -> Option<f64> {
        self.record.sizes.map(|sizes| sizes.bits_per_weight_linears)
    }

    /// `model.onnx` and its data on disk.
    pub fn model_bytes(&self) -> Option<u64> {
        self.record.sizes.map(|sizes| sizes.model_bytes)
    }

    /// Bytes of the weights once a session is made.
    pub fn weights_memory(&self) -> Option<u64> {
        self.bench().and_then(BenchRecord::weights_memory)
    }

    pub fn bench(&self) -> Option<&BenchRecord> {
        self.record.benchmarks.as_ref()
    }

    /// Not distinguishable from the baseline: the paired 95 % interval reaches 0. None without a comparison.
    pub fn reaches_baseline(&self) -> Option<bool> {
        self.paired().map(|paired| paired.ci95[1] >= 0.0)
    }

    /// Above the baseline by more than chance explains: the paired 95 % interval lies above 0.
    pub fn beats_baseline(&self) -> bool {
        self.paired().is_some_and(|paired| paired.ci95[0] > 0.0)
    }

    /// What the benchmark found at a point of its grid.
    pub fn point(&self, batch: usize, prompt: usize) -> Point<'_> {
        let points = self.bench().map(|bench| bench.points.as_slice()).unwrap_or_default();
        match points.iter().find(|point| point.batch == batch && point.prompt_tokens == prompt).map(|point| &point.outcome) {
            Some(Outcome::Measured(measured)) => Point::Measured(measured),
            Some(Outcome::OutOfMemory { .. }) => Point::OutOfMemory,
            Some(Outcome::Failed { .. }) => Point::Failed,
            None => Point::Absent,
        }
    }

    fn device(&self) -> Option<(String, String)> {
        let (bench, environment) = (self.bench()?, &self.record.environment);
        let name = match (&environment.gpu, bench.ep.as_str()) {
            (Some(gpu), "cuda") => gpu.clone(),
            _ => format!("{} ({} threads)", environment.cpu, bench.threads),
        };
        Some((name, bench.ep.clone()))
    }
}

impl Study {
    /// Puts records in order, or says which of them does not belong.
    ///
    /// # Errors
    /// Every variant of [`ReportError`] that names a record; of no records, that the baseline's is not among them.
    pub fn new(records: Vec<RecordFile>) -> Result<Self, ReportError> {
        for RecordFile { file, record } in &records {
            refuse_senseless(file, record)?;
        }
        refuse_doubles(&records)?;
        let baseline = the_baseline(&records)?;
        for record in &records {
            refuse_foreign(record, baseline)?;
        }
        let mut records = records;
        records.sort_by(|a, b| rank(&a.record).partial_cmp(&rank(&b.record)).expect("ranks hold no NaN"));
        let rows: Vec<Row> =
            (1..).zip(records).map(|(number, RecordFile { file, record })| Row { number, file, record }).collect();
        let devices = devices(&rows);
        Ok(Study { rows, devices })
    }

    pub fn baseline(&self) -> &Row {
        &self.rows[0]
    }

    /// What is known of accuracy.
    pub fn accuracy(&self) -> Accuracy {
        match self.rows.iter().any(|row| row.f1().is_some()) {
            true => Accuracy::Answers,
            false if self.rows.iter().any(|row| row.score(TEXT_PERPLEXITY).is_some()) => Accuracy::Text,
            false => Accuracy::Unknown,
        }
    }

    /// The device that a row was measured on.
    pub fn device_of(&self, row: usize) -> Option<&Device> {
        self.devices.iter().find(|device| device.rows.contains(&row))
    }

    /// Rows that ended early.
    pub fn failed(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.record.failure.is_some())
    }

    /// Tokens a second while decoding, over the baseline's on the same device at the same point.
    pub fn speed_ratio(&self, row: usize, batch: usize) -> Option<f64> {
        let device = self.device_of(row).filter(|device| device.rows.contains(&0))?;
        let speed = |row: &Row| row.point(batch, device.prompt).tokens_per_second();
        Some(speed(&self.rows[row])? / speed(self.baseline())?)
    }

    /// Experiments that no other beats in both bits per weight and F1, from few bits to many.
    pub fn pareto(&self) -> Vec<usize> {
        let scored = |row: &Row| Some((row.bits()?, row.f1()?));
        let points: Vec<(usize, (f64, f64))> =
            self.rows.iter().enumerate().filter_map(|(at, row)| scored(row).map(|point| (at, point))).collect();
        let beaten = |&(bits, f1): &(f64, f64)| {
            points
                .iter()
                .any(|&(_, (other_bits, other_f1))| other_bits <= bits && other_f1 >= f1 && (other_bits < bits || other_f1 > f1))
        };
        let mut front: Vec<(usize, (f64, f64))> = points.iter().copied().filter(|(_, point)| !beaten(point)).collect();
        front.sort_by(|(_, a), (_, b)| a.0.total_cmp(&b.0));
        front.into_iter().map(|(at, _)| at).collect()
    }
}

/// The baseline, then by bits from high to low, then by size and name.
fn rank(record: &RunRecord) -> (bool, f64, std::cmp::Reverse<u64>, String) {
    let bits = record.sizes.map_or(f64::INFINITY, |sizes| -sizes.bits_per_weight_linears);
    let bytes = record.sizes.map_or(0, |sizes| sizes.model_bytes);
    (record.baseline.is_some(), bits, std::cmp::Reverse(bytes), record.experiment_name.clone())
}

/// What a number may be, and how that is said.
type Range = (std::ops::RangeInclusive<f64>, &'static str);
const POSITIVE: Range = (f64::MIN_POSITIVE..=1e18, "more than 0");

/// Numbers that nothing can have measured, which no axis could show.
fn refuse_senseless(file: &str, record: &RunRecord) -> Result<(), ReportError> {
    let mut numbers: Vec<(String, f64, Range)> = Vec::new();
    let mut number = |what: &str, value: f64, range: Range| numbers.push((what.to_owned(), value, range));
    if let Some(sizes) = &record.sizes {
        let bits = (f64::MIN_POSITIVE..=64.0, "more than 0, at most 64");
        number("bits_per_weight_linears", sizes.bits_per_weight_linears, bits);
        number("model_bytes", sizes.model_bytes as f64, POSITIVE);
    }
    for task in &record.evaluation.tasks {
        task.scores.iter().for_each(|score| check_score(&task.task, score, &mut number));
    }
    for point in record.benchmarks.iter().flat_map(|bench| &bench.points) {
        let Outcome::Measured(measured) = &point.outcome else { continue };
        number("decode_tokens_per_second", measured.decode_tokens_per_second, POSITIVE);
        number("p50 of decode_ms_per_token", measured.decode_ms_per_token.p50, POSITIVE);
        number("p50 of prefill_ms", measured.prefill_ms.p50, POSITIVE);
    }
    let wrong = numbers.into_iter().find(|(_, got, (range, _))| !range.contains(got));
    wrong.map_or(Ok(()), |(what, got, (_, expected))| Err(ReportError::OutOfRange { file: file.to_owned(), what, got, expected }))
}

/// A score is a fraction unless it is known to be none.
fn check_score(task: &str, score: &ScoreRecord, number: &mut dyn FnMut(&str, f64, Range)) {
    let range = match score.metric.as_str() {
        metric if metric == TEXT_PERPLEXITY.metric => (1.0..=f64::MAX, "at least 1"),
        // Of the same numbers, summed in another order, it may come out a hair below.
        metric if metric == KL_MEAN.metric => (-1e-3..=f64::MAX, "at least 0"),
        _ => (0.0..=1.0, "0 to 1"),
    };
    let name = format!("{} of {task}", score.metric);
    number(&name, score.value, range);
    if let Some(PairedRecord { difference, ci95: [low, high], .. }) = score.paired {
        number(&format!("the difference in {name}"), difference, (-1.0..=1.0, "-1 to 1"));
        number(&format!("the lower end of ci95 of {name}"), low, (-1.0..=difference, "-1 to the difference"));
        number(&format!("the upper end of ci95 of {name}"), high, (difference..=1.0, "the difference to 1"));
    }
}

fn refuse_doubles(records: &[RecordFile]) -> Result<(), ReportError> {
    let (mut names, mut ids) = (HashMap::new(), HashMap::new());
    for RecordFile { file, record } in records {
        if let Some(first) = names.insert(&record.experiment_name, file) {
            let (name, first, second) = (record.experiment_name.clone(), first.clone(), file.clone());
            return Err(ReportError::SameName { name, first, second });
        }
        if let Some(first) = ids.insert(&record.id, file) {
            return Err(ReportError::SameId { id: record.id.clone(), first: first.clone(), second: file.clone() });
        }
    }
    Ok(())
}

fn the_baseline(records: &[RecordFile]) -> Result<&RecordFile, ReportError> {
    let mut baselines = records.iter().filter(|file| file.record.baseline.is_none());
    match (baselines.next(), baselines.next()) {
        (Some(baseline), None) => Ok(baseline),
        (Some(first), Some(second)) => Err(ReportError::TwoBaselines { first: first.file.clone(), second: second.file.clone() }),
        (None, _) => {
            let name = records.iter().find_map(|file| file.record.baseline.clone());
            Err(ReportError::NoBaseline {
                count: records.len(),
                wanted: name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default(),
                command: name.unwrap_or_default(),
            })
        }
    }
}

/// A record of another baseline, model or protocol than the baseline's own record says.
fn refuse_foreign(RecordFile { file, record }: &RecordFile, baseline: &RecordFile) -> Result<(), ReportError> {
    let (file, reference, base) = (file.clone(), baseline.file.clone(), &baseline.record);
    if let Some(got) = record.baseline.clone().filter(|name| *name != base.experiment_name) {
        return Err(ReportError::OtherBaseline { file, got, expected: base.experiment_name.clone(), reference });
    }
    if record.model.blake3 != base.model.blake3 {
        let of = |record: &RunRecord| format!("{} (blake3 {})", record.model.source, short(&record.model.blake3));
        return Err(ReportError::OtherModel { file, got: of(record), expected: of(base), reference });
    }
    for task in &record.evaluation.tasks {
        let asked = base.evaluation.task(&task.task);
        if let Some((what, got, expected)) = asked.and_then(|expected| difference(task, expected)) {
            return Err(ReportError::OtherProtocol { file, what, got, expected, reference });
        }
    }
    match record.evaluation.tasks.iter().find_map(|task| Some((task, stale(task, &base.id)?))) {
        Some((task, got)) => {
            let (task, got, expected) = (task.task.clone(), got.to_owned(), base.id.clone());
            Err(ReportError::StaleBaseline { file, task, got, expected, reference })
        }
        None => Ok(()),
    }
}

/// Id of the baseline that a task's scores are set against, where it is not `id`.
fn stale<'a>(task: &'a TaskRecord, id: &str) -> Option<&'a str> {
    // KL is a difference itself.
    let is_set_against = task.task == KL || task.scores.iter().any(|score| score.paired.is_some());
    task.baseline.as_ref().map(|baseline| baseline.id.as_str()).filter(|got| is_set_against && *got != id)
}

/// What makes the scores of a task ones that are not compared: what it is, and both.
fn difference(task: &TaskRecord, other: &TaskRecord) -> Option<(String, String, String)> {
    let name = &task.task;
    let mut compared = vec![
        (format!("protocol of {name}"), task.version.clone(), other.version.clone()),
        (format!("data of {name}"), task.data.clone(), other.data.clone()),
    ];
    let units = task.counts.keys().chain(other.counts.keys());
    compared.extend(
        units.map(|unit| (format!("number of {unit} of {name}"), task.count(unit).to_string(), other.count(unit).to_string())),
    );
    compared.into_iter().find(|(_, got, expected)| got != expected)
}

/// The first twelve characters of a hash.
pub fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

fn devices(rows: &[Row]) -> Vec<Device> {
    let mut devices: Vec<((String, String), Vec<usize>)> = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let Some(device) = row.device() else { continue };
        match devices.iter_mut().find(|(known, _)| *known == device) {
            Some((_, members)) => members.push(at),
            None => devices.push((device, vec![at])),
        }
    }
    devices.into_iter().map(|((name, ep), members)| device(name, ep, members, rows)).collect()
}

fn device(name: String, ep: String, members: Vec<usize>, rows: &[Row]) -> Device {
    let points = || members.iter().flat_map(|&at| rows[at].bench().map(|bench| bench.points.as_slice()).unwrap_or_default());
    let tried = |prompt: usize| {
        members
            .iter()
            .filter(|&&at| rows[at].bench().is_some_and(|bench| bench.points.iter().any(|p| p.prompt_tokens == prompt)))
            .count()
    };
    let prompt = points().map(|point| point.prompt_tokens).max_by_key(|&prompt| (tried(prompt), prompt)).unwrap_or_default();
    let mut batches: Vec<usize> = points().filter(|point| point.prompt_tokens == prompt).map(|point| point.batch).collect();
    batches.sort_unstable();
    batches.dedup();
    let ran = |batch: usize, at: usize| rows[at].point(batch, prompt).measured().is_some();
    let running: Vec<usize> = members.iter().copied().filter(|&at| batches.iter().any(|&batch| ran(batch, at))).collect();
    let everywhere = |batch: usize| !running.is_empty() && running.iter().all(|&at| ran(batch, at));
    let common_batch = batches.iter().copied().filter(|&batch| everywhere(batch)).max();
    Device { name, ep, rows: members, prompt, batches, common_batch }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::made_up;

    fn refused(records: Vec<RecordFile>) -> String {
        Study::new(records).unwrap_err().to_string()
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut RecordFile, &mut RecordFile), sentence: &str) {
        let (mut baseline, mut other) = (made_up::baseline(), made_up::record("int8_rtn"));
        change(&mut baseline, &mut other);
        assert_eq!(refused(vec![baseline, other]), sentence);
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        check(
            |_, other| made_up::f1(other).value = 41.2,
            "record int8_rtn_results.json: f1 of coqa is 41.2, expected 0 to 1; remove it and run the experiment again",
        );
        check(
            |_, other| other.record.sizes.as_mut().unwrap().bits_per_weight_linears = -4.0,
            "record int8_rtn_results.json: bits_per_weight_linears is -4, expected more than 0, at most 64; remove it and run the \
             experiment again",
        );
        check(
            |_, other| other.record.sizes.as_mut().unwrap().model_bytes = 0,
            "record int8_rtn_results.json: model_bytes is 0, expected more than 0; remove it and run the experiment again",
        );
        check(
            |_, other| {
                let paired = made_up::f1(other).paired.as_mut().unwrap();
                (paired.difference, paired.ci95) = (-0.25, [0.5, -0.5]);
            },
            "record int8_rtn_results.json: the lower end of ci95 of f1 of coqa is 0.5, expected -1 to the difference; remove it and run the \
             experiment again",
        );
        check(
            |_, other| other.record.experiment_name = "fp16_baseline".into(),
            "record int8_rtn_results.json: is of experiment fp16_baseline, and so is fp16_baseline_results.json; remove one of them",
        );
        check(
            |_, other| other.record.id = "b0c1d2e3f4a5".into(),
            "record int8_rtn_results.json: has the id b0c1d2e3f4a5, and so has fp16_baseline_results.json; remove one of them",
        );
        check(
            |_, other| other.record.baseline = None,
            "record int8_rtn_results.json: is a baseline (it names none of its own), and so is fp16_baseline_results.json; keep one \
             baseline in a folder",
        );
        check(
            |_, other| other.record.baseline = Some("f32".into()),
            "record int8_rtn_results.json: is compared with baseline f32, expected fp16_baseline as in fp16_baseline_results.json; keep \
             the studies of two baselines in two folders",
        );
        check(
            |_, other| other.record.model.blake3 = "00ff00ff00ff00ff".into(),
            "record int8_rtn_results.json: is of model coqa-45m (blake3 00ff00ff00ff), expected coqa-45m (blake3 4f9d2c4f9d2c) as in \
             fp16_baseline_results.json; keep the studies of two models in two folders",
        );
        check(
            |_, other| made_up::task(other, "coqa").version = "lm-eval 3.0".into(),
            "record int8_rtn_results.json: protocol of coqa is lm-eval 3.0, expected official 1.0 as in fp16_baseline_results.json; scores of two \
             protocols are not compared, keep them in two folders",
        );
        check(
            |_, other| {
                made_up::task(other, "coqa").counts.insert("questions".into(), 3);
            },
            "record int8_rtn_results.json: number of questions of coqa is 3, expected 500 as in fp16_baseline_results.json; scores of two protocols \
             are not compared, keep them in two folders",
        );
        check(
            |_, other| made_up::task(other, "coqa").baseline.as_mut().unwrap().id = "old".into(),
            "record int8_rtn_results.json: coqa was compared with a baseline of id old, expected b0c1d2e3f4a5 as \
             fp16_baseline_results.json has; run the experiment again",
        );
    }

    #[test]
    fn records_without_their_baseline_s_are_refused() {
        assert_eq!(
            refused(vec![made_up::record("int8_rtn")]),
            "results: none of the 1 records is the baseline's (fp16_baseline); run it into the same folder first (`qonnx run fp16_baseline`)"
        );
    }

    #[test]
    fn rows_go_from_many_bits_to_few_and_failures_come_last() {
        let study = made_up::whole();
        let names: Vec<&str> = study.rows.iter().map(Row::name).collect();
        assert_eq!(names[..4], ["fp16_baseline", "bnb_8bit", "int8_rtn", "gptq_4bit_g32"]);
        assert_eq!(names[names.len() - 1], "int3_rtn_g128");
        assert!(study.rows.iter().zip(1..).all(|(row, number)| row.number == number));
    }

    #[test]
    fn times_are_quoted_at_the_longest_prompt_that_all_tried() {
        let study = made_up::whole();
        let [device] = &study.devices[..] else { panic!("{:?}", study.devices) };
        assert_eq!((device.prompt, &device.batches[..], device.common_batch), (512, &[1, 4, 16][..], Some(4)));
        assert_eq!(device.name, "Intel Xeon (made up) (2 threads)");
        let mut longer = made_up::record("int8_rtn");
        longer.record.benchmarks.as_mut().unwrap().points[0].prompt_tokens = 4096;
        let study = made_up::study(vec![made_up::baseline(), longer]);
        assert_eq!(study.devices[0].prompt, 512);
    }

    #[test]
    fn speeds_on_another_device_have_no_ratio() {
        let mut other = made_up::record("int8_rtn");
        other.record.environment.gpu = Some("NVIDIA H200".into());
        other.record.benchmarks.as_mut().unwrap().ep = "cuda".into();
        let study = made_up::study(vec![made_up::baseline(), other]);
        assert_eq!(study.devices.len(), 2);
        assert_eq!(study.speed_ratio(1, 1), None);
        let ratio = made_up::study(vec![made_up::baseline(), made_up::record("int8_rtn")]).speed_ratio(1, 1).unwrap();
        assert!((ratio - 1.61).abs() < 0.03, "{ratio}");
    }

    #[test]
    fn the_front_is_what_nothing_beats() {
        let rows = |points: &[(&str, f64, f64)]| {
            let mut records = vec![made_up::baseline()];
            records
                .extend(points.iter().map(|(name, bits, difference)| made_up::experiment(name, *bits, *difference, 0.01, 100.0)));
            let study = made_up::study(records);
            study.pareto().into_iter().map(|at| study.rows[at].name().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(rows(&[("a", 4.0, -0.02), ("b", 4.0, -0.01), ("c", 5.0, -0.01)]), ["b", "fp16_baseline"]);
        assert_eq!(rows(&[("a", 4.0, 0.01), ("b", 8.0, 0.0)]), ["a"]);
        assert_eq!(rows(&[("a", 4.0, -0.01), ("b", 4.0, -0.01)]), ["a", "b", "fp16_baseline"]);
    }
}
