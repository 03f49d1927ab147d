//! The Gram matrix of a linear's input, as calibration computes it on the CPU: products a second. Needs ONNX Runtime.
//! `cargo bench --bench gram`.

use std::hint::black_box;
use std::ops::ControlFlow;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ndarray::Array1;
use qonnx::calib::{ActivationStream, StreamOptions, TooFewTokens, Weight};
use qonnx::model::Architecture;
use qonnx::runtime::ExecutionProvider;
use serde_json::json;

const TOKENS: usize = 2048;

/// One layer whose first input is `hidden_size` wide.
fn config(hidden_size: usize) -> Architecture {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 256,
        "hidden_size": hidden_size, "intermediate_size": hidden_size, "num_hidden_layers": 1, "num_attention_heads": 8,
        "num_key_value_heads": 8, "head_dim": hidden_size / 8, "max_position_embeddings": TOKENS, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "torch_dtype": "float32",
    });
    Architecture::from_json(&config.to_string()).expect("a configuration of Llama's")
}

fn gram(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gram");
    group.sample_size(10);
    for width in [512, 1536, 2048] {
        let (config, folder) = (config(width), tempfile::tempdir().expect("a folder"));
        let options = StreamOptions {
            provider: ExecutionProvider::Cpu,
            threads: None,
            reference: false,
            batch_tokens: None,
            scratch: folder.path().to_owned(),
            too_few_tokens: TooFewTokens::Refuse,
            artifact: qonnx::tensor::DType::F32,
        };
        let sequences: Vec<Vec<u32>> =
            (0..TOKENS as u32 / 256).map(|start| (0..256).map(|i| (start + 7 * i) % 256).collect()).collect();
        // Bell-shaped enough; what they are does not matter to speed.
        let mut embedding = |id: u32, row: &mut [f32]| {
            row.iter_mut().enumerate().for_each(|(i, x)| *x = ((id as usize * 7919 + i * 104_729) % 65521) as f32 / 65521.0 - 0.5)
        };
        let observe = Box::new(|_| ControlFlow::Continue(()));
        let mut stream =
            ActivationStream::start(&config, &options, &sequences, &mut embedding, observe).expect("ONNX Runtime is there");
        stream.advance(&[Weight::same(Array1::ones(width).view().into_dyn())]).expect("a norm");
        group.throughput(Throughput::Elements((TOKENS * width * width) as u64));
        group.bench_function(format!("{TOKENS} tokens of {width}"), |b| {
            b.iter(|| black_box(stream.statistics().expect("finite")))
        });
    }
}

criterion_group!(benches, gram);
criterion_main!(benches);
