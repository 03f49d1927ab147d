//! A random model written to disk the way export does it, and read back.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use qonnx::contract::{DATA_FILE, MODEL_FILE};
use qonnx::model::{Architecture, DecoderGraph, GraphForm, GraphOptions, Order, StoredForm, WeightForm, decoder};
use qonnx::onnx::{Content, DataError, DataFile, Layout, ProtoError, decode, encode};
use qonnx::quant::{Codebook, Format, Granularity, ScaleRule, ScaleStorage, Scheme};
use qonnx::tensor::DType;

const CONFIG: &str = r#"{
    "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 1, "vocab_size": 96, "attention_bias": true, "mlp_bias": true
}"#;

fn scheme(bits: u8, symmetric: bool, group_size: usize) -> WeightForm {
    let (granularity, scale_rule) = (Granularity::PerGroup(group_size), ScaleRule::AbsMax);
    WeightForm::Quantized(Scheme {
        format: Format::Int { bits, symmetric },
        granularity,
        scale_rule,
        scale_storage: ScaleStorage::F16,
    })
}

fn config() -> Architecture {
    Architecture::from_json(CONFIG).expect("the configuration is supported")
}

fn build(cfg: &Architecture, form: &dyn Fn(&str) -> WeightForm) -> DecoderGraph {
    decoder(cfg, &GraphOptions { activation: DType::F32, max_context: 64, rotated_head: false, form: GraphForm::default() }, form)
        .expect("every scheme here fits the model")
}

/// INT4 linears, an asymmetric down projection, a packed INT8 embedding table, an f16 LM head.
fn mixed(weight: &str) -> WeightForm {
    match weight {
        "model.embed_tokens.weight" => scheme(8, true, 32),
        "lm_head.weight" => WeightForm::Dense(DType::F16),
        weight if weight.ends_with("down_proj.weight") => scheme(4, false, 16),
        weight if weight.ends_with("_proj.weight") => scheme(4, true, 32),
        _ => WeightForm::Dense(DType::BF16),
    }
}

/// Bytes that depend on the name and the place, from a linear congruential generator.
fn noise(name: &str, length: usize) -> Vec<u8> {
    let mut state = name.bytes().fold(1u64, |state, byte| state.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Initializers that wait for bytes, with what they get.
fn awaited(graph: &DecoderGraph) -> HashMap<String, Vec<u8>> {
    let model = &graph.model;
    let declared = model.initializers().iter().filter(|initializer| initializer.content == Content::Declared);
    let bytes = |name: &str, length| (name.to_owned(), noise(name, length));
    declared.map(|initializer| bytes(model.name_of(initializer.value), model.initializer_bytes(initializer))).collect()
}

fn write(graph: &DecoderGraph, dir: &Path) -> HashMap<String, Vec<u8>> {
    let (layout, contents) = (Layout::of(&graph.model), awaited(graph));
    let file = DataFile::create(dir, &layout).expect("the folder is writable");
    let halves = contents.iter().collect::<Vec<_>>();
    std::thread::scope(|scope| {
        for half in halves.chunks(halves.len().div_ceil(2)) {
            let file = &file;
            let write = move || half.iter().for_each(|(name, bytes)| file.write(name, bytes).expect("each name is awaited"));
            scope.spawn(write);
        }
    });
    fs::write(dir.join(MODEL_FILE), file.finish().expect("everything was written")).expect("the folder is writable");
    contents
}

#[test]
fn every_tensor_is_read_back_where_the_model_says_it_lies() {
    let (graph, dir) = (build(&config(), &mixed), tempfile::tempdir().expect("a temporary folder"));
    let contents = write(&graph, dir.path());
    let data = fs::read(dir.path().join(DATA_FILE)).expect("it was written");
    let model = decode(&fs::read(dir.path().join(MODEL_FILE)).expect("it was written")).expect("it is a model");
    let (mut external, mut inline) = (0, 0);
    for initializer in model.initializers() {
        let name = model.name_of(initializer.value);
        let found = match &initializer.content {
            Content::External(range) => {
                external += 1;
                assert_eq!((range.location.as_str(), range.offset % 4096), (DATA_FILE, 0));
                &data[range.offset as usize..][..range.length as usize]
            }
            Content::Inline(bytes) => {
                inline += 1;
                assert!(bytes.len() < 1024, "{name} belongs into the data file");
                bytes.as_slice()
            }
            Content::Declared => unreachable!("a file says where its bytes are"),
        };
        match contents.get(name) {
            Some(expected) => assert_eq!(found, expected, "{name}"),
            None => assert!(name.starts_with("constant.") || name.starts_with("model.rotary_emb."), "{name}"),
        }
    }
    assert!(external > 10 && inline > 10, "both places are used: {external} and {inline}");
    let cos = model.initializers().iter().find(|initializer| model.name_of(initializer.value) == "model.rotary_emb.cos");
    let Some(Content::External(range)) = cos.map(|initializer| &initializer.content) else {
        panic!("64 × 8 × 4 bytes are external")
    };
    assert_eq!(data[range.offset as usize..][..4], 1f32.to_le_bytes(), "the cosine of position 0");
}

#[test]
fn sizes_are_known_before_any_weight() {
    let (graph, dir) = (build(&config(), &mixed), tempfile::tempdir().expect("a temporary folder"));
    let layout = Layout::of(&graph.model);
    let predicted = (layout.model_bytes(), layout.data_bytes());
    write(&graph, dir.path());
    let size = |name: &str| fs::metadata(dir.path().join(name)).expect("it was written").len();
    assert_eq!(predicted, (size(MODEL_FILE), size(DATA_FILE)));
    assert_eq!(layout.total_bytes(), size(MODEL_FILE) + size(DATA_FILE));
}

#[test]
fn the_same_weights_give_the_same_bytes_and_reading_loses_nothing() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a temporary folder"));
    for dir in &folders {
        write(&build(&config(), &mixed), dir.path());
    }
    let read = |dir: &tempfile::TempDir, name: &str| fs::read(dir.path().join(name)).expect("it was written");
    for name in [MODEL_FILE, DATA_FILE] {
        assert!(read(&folders[0], name) == read(&folders[1], name), "{name} differs");
    }
    let bytes = read(&folders[0], MODEL_FILE);
    assert!(encode(&decode(&bytes).expect("it is a model")).expect("every place is known") == bytes);
}

#[test]
fn the_weights_of_the_graph_are_those_of_the_checkpoint() {
    for changes in ["", r#""tie_word_embeddings": true, "#, r#""attention_bias": false, "#] {
        let cfg = Architecture::from_json(&CONFIG.replacen('{', &format!("{{{changes}"), 1));
        let cfg = cfg.expect("the configuration is supported");
        let graph = build(&cfg, &mixed);
        let mut stored: Vec<_> = graph.weights.iter().map(|w| (w.weight.clone(), w.shape.clone())).collect();
        let mut expected: Vec<_> =
            cfg.expected_tensors().expect("sizes that fit").into_iter().map(|t| (t.name, t.shape)).collect();
        stored.sort();
        expected.sort();
        assert_eq!(stored, expected);
        let mut names: Vec<String> = graph.weights.iter().flat_map(|weight| weight.initializers().map(str::to_owned)).collect();
        let mut declared: Vec<String> = awaited(&graph).into_keys().collect();
        names.sort();
        declared.sort();
        assert_eq!(names, declared, "export is told of every initializer that waits for bytes");
    }
}

#[test]
fn a_dense_linear_is_stored_transposed_and_a_tied_table_is_not() {
    let cfg = Architecture::from_json(&CONFIG.replacen('{', r#"{"tie_word_embeddings": true, "#, 1));
    let graph = build(&cfg.expect("the configuration is supported"), &|_| WeightForm::Dense(DType::F32));
    let stored = |name: &str| {
        let form = &graph.weights.iter().find(|weight| weight.weight == name).expect("the model has it").form;
        let StoredForm::Dense { initializer, order, .. } = form else { panic!("{name} is dense") };
        let value = graph.model.find(initializer).expect("the initializer is in the graph");
        (*order, graph.model.type_of(value).to_string())
    };
    assert_eq!(stored("model.layers.0.mlp.down_proj.weight"), (Order::InOut, "f32[160, 64]".to_owned()));
    assert_eq!(stored("model.embed_tokens.weight"), (Order::OutIn, "f32[96, 64]".to_owned()));
}

#[test]
fn writing_checks_names_lengths_and_completeness() {
    let (graph, dir) = (build(&config(), &mixed), tempfile::tempdir().expect("a temporary folder"));
    let (layout, contents) = (Layout::of(&graph.model), awaited(&graph));
    let file = DataFile::create(dir.path(), &layout).expect("the folder is writable");
    let message = |result: Result<(), DataError>| result.expect_err("this must be refused").to_string();
    assert_eq!(
        message(file.write("model.rotary_emb.cos", &[])),
        "initializer model.rotary_emb.cos is not in the graph, or its value is already known"
    );
    for name in ["model.layers.0.mlp.gate_proj.weight", "model.norm.weight"] {
        let bytes = &contents[name];
        let expected = format!("initializer {name}: expected {} bytes, got {}", bytes.len(), bytes.len() - 1);
        assert_eq!(message(file.write(name, &bytes[1..])), expected);
        file.write(name, bytes).expect("the length is right now");
        assert_eq!(message(file.write(name, bytes)), format!("initializer {name} was written twice"));
    }
    let error = file.finish().expect_err("most are missing").to_string();
    let expected = format!("{} initializers were never written, the first is model.embed_tokens.weight", contents.len() - 2);
    assert_eq!(error, expected);
    let error = DataFile::create(&dir.path().join("absent"), &layout).expect_err("the folder does not exist");
    assert!(matches!(error, DataError::Io { .. }));
    assert!(matches!(encode(&graph.model), Err(ProtoError::Unwritten(name)) if name == "model.embed_tokens.weight"));
}

#[test]
fn a_damaged_model_file_is_refused_without_a_panic() {
    let (graph, dir) = (build(&config(), &mixed), tempfile::tempdir().expect("a temporary folder"));
    write(&graph, dir.path());
    let bytes = fs::read(dir.path().join(MODEL_FILE)).expect("it was written");
    for end in (0..bytes.len()).step_by(97) {
        assert!(decode(&bytes[..end]).is_err(), "the first {end} of {} bytes are no model", bytes.len());
    }
    for place in (0..bytes.len()).step_by(31) {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0x55;
        if let Ok(model) = decode(&damaged) {
            encode(&model).expect("what could be read can be written");
        }
    }
}

#[test]
fn schemes_that_do_not_fit_are_refused_by_weight() {
    let refusal = |form: &dyn Fn(&str) -> WeightForm| {
        let error = decoder(
            &config(),
            &GraphOptions { activation: DType::F16, max_context: 64, rotated_head: false, form: GraphForm::default() },
            form,
        );
        error.expect_err("this scheme must be refused").to_string()
    };
    let linears = |scheme: WeightForm| {
        move |weight: &str| if weight.ends_with("_proj.weight") { scheme } else { WeightForm::Dense(DType::F16) }
    };
    let table =
        |scheme: WeightForm| move |weight: &str| if weight.contains("embed") { scheme } else { WeightForm::Dense(DType::F16) };
    let q_proj = "model.layers.0.self_attn.q_proj: linear: group_size must be a power of two from 16 to 256, got";
    assert_eq!(refusal(&linears(scheme(4, true, 48))), format!("{q_proj} 48"));
    assert_eq!(refusal(&linears(scheme(4, true, 0))), format!("{q_proj} 0"));
    let embed = "model.embed_tokens: table:";
    let expected = format!("{embed} format must be symmetric for the embedding table, got asymmetric");
    assert_eq!(refusal(&table(scheme(8, false, 32))), expected);
    let expected = format!("{embed} group_size must be a divisor of hidden_size for the embedding table, got 128");
    assert_eq!(refusal(&table(scheme(8, true, 128))), expected);
    let of = |format, granularity, scale_storage| {
        WeightForm::Quantized(Scheme { format, granularity, scale_rule: ScaleRule::AbsMax, scale_storage })
    };
    let (nf4, int3) = (Format::Codebook(Codebook::Nf4), Format::Int { bits: 3, symmetric: true });
    let nf4_of = |group_size| of(nf4, Granularity::PerGroup(group_size), ScaleStorage::F16);
    let expected = format!("{embed} format must be int8 or int4 for the embedding table, got a codebook");
    assert_eq!(refusal(&table(nf4_of(32))), expected);
    let expected = format!("{embed} bits must be 8 or 4 for the embedding table, whose rows are looked up packed, got 3");
    assert_eq!(refusal(&table(scheme(3, true, 32))), expected);
    let WeightForm::Quantized(int8) = scheme(8, true, 32) else { unreachable!("it is quantized") };
    let expected = format!("{embed} outliers must be none in the embedding table, which is no product, got some");
    assert_eq!(refusal(&table(WeightForm::Outliers { scheme: int8, outliers: 2 })), expected);
    let q_proj = "model.layers.0.self_attn.q_proj: linear:";
    let expected = format!("{q_proj} group_size must be a divisor of in_features 64 with a codebook, got 128");
    assert_eq!(refusal(&linears(nf4_of(128))), expected);
    let expected = format!("{q_proj} group_size must be a power of two from 16 to 256, got 0");
    assert_eq!(refusal(&linears(nf4_of(0))), expected);
    let expected = format!("{q_proj} granularity must be groups with a codebook, got one scale for each output feature");
    assert_eq!(refusal(&linears(of(nf4, Granularity::PerChannel, ScaleStorage::F16))), expected);
    let expected = format!("{q_proj} double quantization must be of a codebook's scales, got of an integer format's");
    assert_eq!(refusal(&linears(of(int3, Granularity::PerChannel, ScaleStorage::Nested))), expected);
    let expected = format!("{q_proj} outliers must be at most in_features 64, got 65");
    assert_eq!(refusal(&linears(WeightForm::Outliers { scheme: int8, outliers: 65 })), expected);
    let expected = "model.norm: vector: weight form must be dense for norms and biases, got quantized";
    let norms = |weight: &str| if weight == "model.norm.weight" { scheme(8, true, 32) } else { WeightForm::Dense(DType::F16) };
    assert_eq!(refusal(&norms), expected);

    let odd = Architecture::from_json(&CONFIG.replace("160", "162")).expect("the configuration is supported");
    let options = GraphOptions { activation: DType::F16, max_context: 64, rotated_head: false, form: GraphForm::default() };
    let error = decoder(&odd, &options, &linears(scheme(2, true, 32))).expect_err("162 outputs of 2 bits");
    let expected = "model.layers.0.mlp.gate_proj: linear: out_features must be a multiple of 4 with 2-bit codes, got 162";
    assert!(error.to_string().starts_with(expected), "{error}");
    let error = decoder(&odd, &options, &linears(scheme(5, true, 32))).expect_err("162 inputs of 5 bits");
    let expected = "model.layers.0.mlp.down_proj: from_planes: in_features must be a multiple of 8 with 5-bit codes, got 162";
    assert!(error.to_string().starts_with(expected), "{error}");
}

#[test]
fn claims_beyond_all_memory_are_refused_before_they_are_built() {
    let refusal = |cfg: &Architecture, max_context: usize| {
        let options = GraphOptions { activation: DType::F16, max_context, rotated_head: false, form: GraphForm::default() };
        decoder(cfg, &options, &|_| WeightForm::Dense(DType::F16)).expect_err("it would take all memory").to_string()
    };
    let mut deep = config();
    deep.config.num_hidden_layers = 2_000_000_000;
    assert_eq!(refusal(&deep, 64), "model: layers: num_hidden_layers must be at most 16384, got 2000000000");
    let said = refusal(&config(), usize::MAX);
    assert!(
        said.starts_with("model: rotary_emb: max_context must be at most ") && said.ends_with(" got 18446744073709551615"),
        "{said}"
    );
}
