//! Reading a checkpoint: conversions in bytes of source a second, and opening the headers of an 8B model.

use std::fs;
use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qonnx::checkpoint::Index;
use qonnx::tensor::{DType, convert};

/// One q_proj of Llama-3.2-1B: more than the second-level cache holds.
const ELEMENTS: usize = 2048 * 2048;

fn conversions(c: &mut Criterion) {
    let values: Vec<f32> = (0..ELEMENTS).map(|i| ((i * 7919) % 65521) as f32 / 65521.0 - 0.5).collect();
    for from in [DType::BF16, DType::F16, DType::F32] {
        let mut group = c.benchmark_group("convert");
        let mut bytes = vec![0; from.bytes_of(ELEMENTS)];
        convert::encode(&values, from, &mut bytes).expect("in range");
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let mut out = vec![0.0; ELEMENTS];
        group.bench_function(format!("{from} to values"), |b| {
            b.iter(|| convert::decode(from, black_box(&bytes), black_box(&mut out)))
        });
        let mut halves = vec![0; DType::F16.bytes_of(ELEMENTS)];
        group.bench_function(format!("{from} to f16 bytes"), |b| {
            b.iter(|| convert::convert(from, black_box(&bytes), DType::F16, black_box(&mut halves)))
        });
        let mut copy = vec![0; bytes.len()];
        group.bench_function(format!("copy of {from}"), |b| b.iter(|| black_box(&mut copy).copy_from_slice(black_box(&bytes))));
    }
}

/// Sparse files with the headers of Llama-3.1-8B: 291 tensors in 4 shards.
fn write_8b(dir: &Path) {
    let layer = [
        ("self_attn.q_proj", 4096 * 4096),
        ("self_attn.k_proj", 1024 * 4096),
        ("self_attn.v_proj", 1024 * 4096),
        ("self_attn.o_proj", 4096 * 4096),
        ("mlp.gate_proj", 14336 * 4096),
        ("mlp.up_proj", 14336 * 4096),
        ("mlp.down_proj", 4096 * 14336),
        ("input_layernorm", 4096),
        ("post_attention_layernorm", 4096),
    ];
    let layers = (0..32).flat_map(|i| layer.map(|(part, elements)| (format!("model.layers.{i}.{part}.weight"), elements)));
    let ends = [("model.embed_tokens.weight", 128256 * 4096), ("lm_head.weight", 128256 * 4096), ("model.norm.weight", 4096)];
    let tensors: Vec<(String, u64)> = layers.chain(ends.map(|(name, elements)| (name.to_owned(), elements))).collect();
    let mut map = Vec::new();
    for (i, shard) in tensors.chunks(tensors.len().div_ceil(4)).enumerate() {
        let name = format!("model-{:05}-of-00004.safetensors", i + 1);
        let (mut entries, mut end) = (Vec::new(), 0);
        for (tensor, elements) in shard {
            let start = end;
            end += 2 * elements;
            entries.push(format!(r#""{tensor}":{{"dtype":"BF16","shape":[{elements}],"data_offsets":[{start},{end}]}}"#));
            map.push(format!(r#""{tensor}":"{name}""#));
        }
        let header = format!("{{{}}}", entries.join(","));
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
        fs::write(dir.join(&name), &bytes).expect("written");
        let file = fs::File::options().write(true).open(dir.join(&name)).expect("there");
        file.set_len(bytes.len() as u64 + end).expect("sparse");
    }
    fs::write(dir.join("model.safetensors.index.json"), format!("{{\"weight_map\":{{{}}}}}", map.join(","))).expect("written");
}

fn headers(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a folder");
    write_8b(dir.path());
    assert_eq!(Index::open(dir.path()).expect("valid").iter().count(), 291);
    c.bench_function("headers of Llama-3.1-8B", |b| b.iter(|| Index::open(black_box(dir.path()))));
}

criterion_group!(benches, conversions, headers);
criterion_main!(benches);
