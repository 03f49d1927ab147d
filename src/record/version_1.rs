//! Records of version 1, whose scores had a field each, as records of version 2.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::evaluation::{
    BaselineRecord, COQA_EM, COQA_F1, EvaluationRecord, KL_MEAN, PairedRecord, QUESTIONS, ScoreName, ScoreRecord,
    TEXT_PERPLEXITY, TOKENS, TaskRecord, WINDOWS,
};

/// Of perplexity and KL as the programs measured them that wrote version 1.
const TEXT_VERSION: &str = "1.0";

/// Version 1's `evaluation`.
#[derive(Deserialize)]
struct Evaluation {
    coqa_f1: f64,
    coqa_em: f64,
    coqa_f1_stderr: Option<f64>,
    coqa_em_stderr: Option<f64>,
    protocol: String,
    data: String,
    questions: u64,
    questions_per_second: Option<f64>,
    predictions: String,
    paired: Option<Paired>,
    /// Id of a baseline that there is no comparison with.
    not_comparable_with: Option<String>,
    perplexity: Option<f64>,
    kl: Option<f64>,
    text: Option<Text>,
}

#[derive(Deserialize)]
struct Paired {
    baseline: String,
    baseline_id: String,
    f1_difference: f64,
    f1_ci95: [f64; 2],
    em_difference: f64,
    em_ci95: [f64; 2],
    p_mid: f64,
    smallest_detectable: f64,
}

/// Of both perplexity and KL.
#[derive(Deserialize)]
struct Text {
    file: String,
    windows: u64,
    tokens: u64,
}

/// The JSON of a record of version 1 as version 2 has it: the same numbers, and every other field as it was.
///
/// # Errors
/// `evaluation` is not what version 1 wrote.
pub fn upgraded(mut record: Value) -> Result<Value, serde_json::Error> {
    let name = record["baseline"].as_str().unwrap_or_default().to_owned();
    let before: Option<Evaluation> = Deserialize::deserialize(&record["evaluation"])?;
    let tasks = before.map_or(Vec::new(), |before| before.tasks(name));
    record["evaluation"] = serde_json::to_value(EvaluationRecord { tasks })?;
    record["schema"] = json!(2);
    Ok(record)
}

impl Evaluation {
    /// `baseline` is the name that the record has for its baseline.
    fn tasks(self, baseline: String) -> Vec<TaskRecord> {
        let perplexity = self.of_text(TEXT_PERPLEXITY, self.perplexity);
        let kl = self.of_text(KL_MEAN, self.kl);
        [Some(self.coqa(baseline)), perplexity, kl].into_iter().flatten().collect()
    }

    fn coqa(self, baseline: String) -> TaskRecord {
        let compared = self.paired.as_ref().map(|paired| (paired.baseline.clone(), paired.baseline_id.clone()));
        let compared = compared.or(self.not_comparable_with.map(|id| (baseline, id)));
        let f1 = self.paired.as_ref().map(|paired| PairedRecord {
            difference: paired.f1_difference,
            ci95: paired.f1_ci95,
            smallest_detectable: Some(paired.smallest_detectable),
            p_mid: None,
        });
        let em = self.paired.as_ref().map(|paired| PairedRecord {
            difference: paired.em_difference,
            ci95: paired.em_ci95,
            smallest_detectable: None,
            p_mid: Some(paired.p_mid),
        });
        TaskRecord {
            task: COQA_F1.task.to_owned(),
            version: self.protocol,
            data: self.data,
            counts: BTreeMap::from([(QUESTIONS.to_owned(), self.questions)]),
            questions_per_second: self.questions_per_second,
            predictions: Some(self.predictions),
            baseline: compared.map(|(name, id)| BaselineRecord { name, id }),
            scores: vec![
                ScoreRecord { stderr: self.coqa_f1_stderr, paired: f1, ..ScoreRecord::plain(COQA_F1, self.coqa_f1) },
                ScoreRecord { stderr: self.coqa_em_stderr, paired: em, ..ScoreRecord::plain(COQA_EM, self.coqa_em) },
            ],
        }
    }

    /// Version 1 did not say which baseline KL was measured from.
    fn of_text(&self, name: ScoreName, value: Option<f64>) -> Option<TaskRecord> {
        let counts = self.text.iter().flat_map(|text| [(WINDOWS, text.windows), (TOKENS, text.tokens)]);
        Some(TaskRecord {
            task: name.task.to_owned(),
            version: TEXT_VERSION.to_owned(),
            data: self.text.as_ref().map(|text| text.file.clone()).unwrap_or_default(),
            counts: counts.map(|(unit, count)| (unit.to_owned(), count)).collect(),
            questions_per_second: None,
            predictions: None,
            baseline: None,
            scores: vec![ScoreRecord::plain(name, value?)],
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::record::{COQA, KL, PERPLEXITY, RUN_SUFFIX, RunRecord};

    /// Every committed record of a study, all of version 1.
    fn committed() -> Vec<PathBuf> {
        let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        let folders = ["coqa-45m", "tiny-coqa", "coqa-45m-h200"].map(|study| results.join(study));
        let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
        files.filter(|path| path.to_string_lossy().ends_with(RUN_SUFFIX)).collect()
    }

    fn json(path: &Path) -> Value {
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    /// The numbers of `evaluation` as version 1 wrote them, null where there is none.
    fn as_version_1(record: &RunRecord) -> Value {
        let coqa = record.evaluation.task(COQA).unwrap();
        let (f1, em) = (coqa.score("f1").unwrap(), coqa.score("em").unwrap());
        let text = record.evaluation.task(PERPLEXITY);
        let paired = f1.paired.as_ref().zip(em.paired.as_ref()).map(|(f1, em)| {
            let baseline = coqa.baseline.as_ref().unwrap();
            json!({
                "baseline": baseline.name, "baseline_id": baseline.id,
                "f1_difference": f1.difference, "f1_ci95": f1.ci95, "em_difference": em.difference, "em_ci95": em.ci95,
                "p_mid": em.p_mid.unwrap(), "smallest_detectable": f1.smallest_detectable.unwrap(),
            })
        });
        json!({
            "coqa_f1": f1.value, "coqa_em": em.value, "coqa_f1_stderr": f1.stderr, "coqa_em_stderr": em.stderr,
            "protocol": coqa.version, "data": coqa.data, "questions": coqa.count("questions"),
            "questions_per_second": coqa.questions_per_second, "predictions": coqa.predictions, "paired": paired,
            "perplexity": text.map(|task| task.score("perplexity").unwrap().value),
            "kl": record.evaluation.task(KL).map(|task| task.score("kl_mean").unwrap().value),
            "text": text.map(|task| json!({"file": task.data, "windows": task.count("windows"), "tokens": task.count("tokens")})),
        })
    }

    #[test]
    fn every_number_of_the_committed_records_comes_through() {
        let (mut compared, mut texts) = (0, 0);
        for path in committed() {
            let (before, record) = (json(&path), RunRecord::load(&path).unwrap());
            assert_eq!((before["schema"].as_u64(), record.schema), (Some(1), 2), "{}", path.display());
            assert_eq!(as_version_1(&record), before["evaluation"], "{}", path.display());
            compared += usize::from(before["evaluation"]["paired"].is_object());
            texts += usize::from(before["evaluation"]["kl"].is_f64());
        }
        assert!(compared > 35 && texts > 20, "{compared} comparisons, {texts} texts");
    }

    #[test]
    fn nothing_but_the_scores_changes() {
        for path in committed() {
            let [mut before, mut after] = [json(&path), upgraded(json(&path)).unwrap()];
            for record in [&mut before, &mut after] {
                record.as_object_mut().unwrap().retain(|name, _| name != "evaluation" && name != "schema");
            }
            assert_eq!(after, before, "{}", path.display());
        }
    }

    #[test]
    fn what_is_read_of_version_1_is_written_as_version_2_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        for path in committed() {
            let record = RunRecord::load(&path).unwrap();
            let written = record.write(folder.path()).unwrap();
            assert_eq!(json(&written)["evaluation"][0]["task"], "coqa");
            assert_eq!(RunRecord::load(&written).unwrap(), record, "{}", path.display());
        }
    }

    #[test]
    fn a_comparison_that_there_is_none_of_and_scores_that_there_are_none_of_stay_so() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/tiny-coqa/int8_rtn_results.json");
        let mut record = json(&path);
        record["evaluation"]["paired"] = Value::Null;
        record["evaluation"]["not_comparable_with"] = "b0c1".into();
        let read = |record: &Value| RunRecord::parse(&path, &record.to_string()).unwrap();
        let coqa = read(&record).evaluation.task(COQA).unwrap().clone();
        let baseline = BaselineRecord { name: "fp16_baseline".into(), id: "b0c1".into() };
        assert_eq!((coqa.scores[0].paired.as_ref(), coqa.baseline), (None, Some(baseline)));
        assert_eq!(read(&record).compared_with().map(String::as_str), Some("b0c1"));
        record["evaluation"] = Value::Null;
        assert_eq!(read(&record).evaluation, EvaluationRecord::default());
        record["evaluation"] = json!({"coqa_f1": "much"});
        let error = RunRecord::parse(&path, &record.to_string()).unwrap_err().to_string();
        assert!(error.contains("int8_rtn_results.json: damaged (invalid type: string \"much\", expected f64)"), "{error}");
    }
}
