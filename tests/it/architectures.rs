//! Each way in which Llama checkpoints differ gives the logits of Hugging Face transformers.
//!
//! Goldens come from tests/goldens/make/golden_architectures.py.

use qonnx::generate::Score;
use qonnx::recipe::FormatName;
use qonnx::runtime::{Engine, EngineOptions, ExecutionProvider, Launch, WeightKernels};
use qonnx::tensor::DType;
use serde_json::Value;

use crate::support::{made_up, tiny};

/// Logits at the golden's positions.
fn logits(config: &Value, stored: DType, ids: &[u32]) -> Vec<Vec<f32>> {
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    let (checkpoint, artifact) = (place.path().join("checkpoint"), place.path().join("artifact"));
    made_up::write_checkpoint(&checkpoint, config, stored);
    tiny::export(&tiny::request(&checkpoint, tiny::bits(FormatName::F16), DType::F32), &artifact);
    let options = EngineOptions {
        provider: ExecutionProvider::Cpu,
        threads: Some(1),
        weights: WeightKernels::Fused,
        launch: Launch::Replayed,
    };
    let mut engine = Engine::load(&artifact, &options).unwrap_or_else(|error| panic!("{error}"));
    let mut rows = Vec::new();
    let collect =
        &mut |_: usize, chunk: ndarray::ArrayView2<'_, f32>| rows.extend(chunk.rows().into_iter().map(|row| row.to_vec()));
    engine.logits(ids, collect).unwrap_or_else(|error| panic!("{error}"));
    rows
}

#[test]
fn every_architecture_and_element_type_gives_the_logits_of_transformers() {
    let text = std::fs::read(tiny::root().join("tests/goldens/architectures.json")).expect("the golden is committed");
    let cases: Vec<Value> = serde_json::from_slice(&text).expect("the golden is JSON");
    assert_eq!(cases.len(), 6);
    for case in &cases {
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids are numbers");
        let positions: Vec<usize> = serde_json::from_value(case["positions"].clone()).expect("positions are numbers");
        let expected: Vec<Vec<f32>> = serde_json::from_value(case["logits"].clone()).expect("logits are numbers");
        for stored in [DType::BF16, DType::F16, DType::F32] {
            let rows = logits(&case["config"], stored, &ids);
            let pairs = positions.iter().zip(&expected).flat_map(|(&position, row)| rows[position].iter().zip(row));
            let largest = pairs.map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f32::max);
            println!("{}, {stored}: largest difference {largest:.1e}", case["name"]);
            assert!(largest < 1e-4, "{}, {stored}: logits differ by {largest}", case["name"]);
        }
    }
}
