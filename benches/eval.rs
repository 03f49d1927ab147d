//! What evaluation does on the CPU beside the model: prompts a second, answers scored a second. `cargo bench --bench eval`.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qonnx::eval::coqa::{self, Dataset, Protocol};
use qonnx::eval::score::score_answer;

fn dataset() -> Dataset {
    coqa::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-coqa/coqa-mini.json")).expect("the fixture is CoQA")
}

/// From conversations to questions with prompt, golds and the prompt's hash.
fn prompts(criterion: &mut Criterion) {
    let dataset = dataset();
    let mut group = criterion.benchmark_group("prompts");
    for protocol in Protocol::EACH {
        let prompts = protocol.stories(&dataset).iter().map(|story| story.questions.len()).sum::<usize>();
        group.throughput(Throughput::Elements(prompts as u64));
        group.bench_function(protocol.name, |b| b.iter(|| protocol.stories(black_box(&dataset))));
    }
}

/// Exact match and F1 against all golds: of a right answer, and of a sentence that has the right words in it.
fn scores(criterion: &mut Criterion) {
    let stories = Protocol::OFFICIAL.stories(&dataset());
    let golds: Vec<Vec<String>> = stories.into_iter().flat_map(|story| story.questions).map(|question| question.golds).collect();
    let mut group = criterion.benchmark_group("score");
    group.throughput(Throughput::Elements(golds.len() as u64));
    for (name, say) in [("the gold", ""), ("a sentence", "I think that, as the story's narrator says, it was ")] {
        let answers: Vec<String> = golds.iter().map(|golds| format!("{say}{}", golds[0])).collect();
        group.bench_function(name, |b| {
            b.iter(|| {
                let pairs = golds.iter().zip(&answers);
                pairs.map(|(golds, answer)| score_answer(black_box(golds), black_box(answer)).f1).sum::<f64>()
            })
        });
    }
}

criterion_group!(benches, prompts, scores);
criterion_main!(benches);
