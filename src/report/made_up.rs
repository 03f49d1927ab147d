//! Studies for tests: the records of `tests/report/records`, and variations of them.

use std::path::Path;

use super::study::{RecordFile, Study};
use crate::record::{COQA, Outcome, RunRecord, ScoreRecord, TaskRecord};

/// Every record of the fixture, by file name.
pub fn records() -> Vec<RecordFile> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report/records");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: std::path::PathBuf| RecordFile {
        file: path.file_name().unwrap().to_str().unwrap().to_owned(),
        record: RunRecord::load(&path).unwrap(),
    };
    paths.into_iter().map(read).collect()
}

/// One record of the fixture.
pub fn record(name: &str) -> RecordFile {
    records().into_iter().find(|file| file.record.experiment_name == name).unwrap()
}

pub fn baseline() -> RecordFile {
    record("fp16_baseline")
}

/// An experiment of other bits, F1 difference, interval and decoding speed (tokens a second at batch 1) than the fixture's.
pub fn experiment(name: &str, bits: f64, difference: f64, half_interval: f64, speed: f64) -> RecordFile {
    let mut file = record("int8_rtn");
    file.file = format!("{name}_results.json");
    file.record.experiment_name = name.to_owned();
    file.record.id = format!("id of {name}");
    let sizes = file.record.sizes.as_mut().unwrap();
    sizes.bits_per_weight_linears = bits;
    sizes.model_bytes = (bits * 1e6) as u64;
    let f1 = f1(&mut file);
    f1.value = 0.412 + difference;
    let paired = f1.paired.as_mut().unwrap();
    paired.difference = difference;
    paired.ci95 = [difference - half_interval, difference + half_interval];
    for point in &mut file.record.benchmarks.as_mut().unwrap().points {
        let Outcome::Measured(measured) = &mut point.outcome else { continue };
        measured.decode_tokens_per_second = speed * point.batch as f64;
    }
    file
}

/// A task of a record that has it.
pub fn task<'a>(file: &'a mut RecordFile, task: &str) -> &'a mut TaskRecord {
    file.record.evaluation.tasks.iter_mut().find(|record| record.task == task).unwrap()
}

/// The F1 of a record that has one.
pub fn f1(file: &mut RecordFile) -> &mut ScoreRecord {
    &mut task(file, COQA).scores[0]
}

/// The fixture as a sweep without CoQA would have left it.
pub fn text_alone() -> Study {
    let mut records = records();
    records.iter_mut().for_each(|file| file.record.evaluation.tasks.retain(|task| task.task != COQA));
    study(records)
}

pub fn study(records: Vec<RecordFile>) -> Study {
    Study::new(records).unwrap()
}

/// The fixture as it is.
pub fn whole() -> Study {
    study(records())
}

/// The baseline and so many others, more than the fixture has: copies with scores and bits moved a little.
pub fn of_size(count: usize) -> Study {
    let mut all = vec![baseline()];
    let others: Vec<RecordFile> = records().into_iter().filter(|file| file.record.baseline.is_some()).collect();
    for at in 0..count - 1 {
        let mut file = others[at % others.len()].clone();
        let copy = at / others.len();
        if copy > 0 {
            let name = format!("{}_copy{copy}", file.record.experiment_name);
            file.file = format!("{name}_results.json");
            file.record.id = format!("{}{copy}", file.record.id);
            file.record.experiment_name = name;
            let moved = 0.004 * copy as f64;
            if file.record.evaluation.task(COQA).is_some() {
                let f1 = f1(&mut file);
                f1.value -= moved;
                let paired = f1.paired.as_mut().unwrap();
                paired.difference -= moved;
                paired.ci95 = paired.ci95.map(|end| end - moved);
            }
            if let Some(sizes) = &mut file.record.sizes {
                sizes.bits_per_weight_linears += 0.11 * copy as f64;
            }
        }
        all.push(file);
    }
    study(all)
}

/// The fixture as a CUDA device would have left it.
pub fn on_cuda() -> Study {
    let mut records = records();
    for file in &mut records {
        let environment = &mut file.record.environment;
        (environment.ep, environment.gpu) = ("cuda".to_owned(), Some("NVIDIA H200".to_owned()));
        if let Some(bench) = &mut file.record.benchmarks {
            bench.ep = "cuda".to_owned();
            bench.peak_device_bytes = Some(bench.peak_rss_bytes);
        }
    }
    study(records)
}

/// Names, titles and messages as unkind as a record can hold.
pub fn hostile() -> Study {
    let mut records = records();
    for file in &mut records {
        let record = &mut file.record;
        if record.baseline.is_some() {
            record.experiment_name = format!("<script>alert('{}')</script>|`_*[x](y)\n\u{7}&{}", record.id, "long".repeat(40));
        }
        record.title = "</style><script>\"'&|\\ #set page()".to_owned();
        record.model.source = "</title><b>|*_model_*|".repeat(6);
        record.warnings = vec!["<img src=x onerror=alert(1)> | [a](b)".to_owned()];
        if let Some(failure) = &mut record.failure {
            failure.message = "<i>disk</i> ".repeat(60);
        }
    }
    study(records)
}
