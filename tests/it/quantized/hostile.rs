//! Quantized checkpoints that somebody has tampered with, every hash made right again: refused by name, and no artifact is left.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use qonnx::artifact::parts::PARTS;
use qonnx::artifact::shards::digest;
use qonnx::checkpoint::{RawTensor, StoredNumber, write_tensors};
use qonnx::record::QuantizedManifest;
use qonnx::tensor::DType;
use safetensors::{Dtype, SafeTensors};

use super::{Place, done, model, qonnx, refused};

const WEIGHT: &str = "model.layers.1.mlp.down_proj.weight";
const OTHER: &str = "model.layers.1.input_layernorm.weight";
/// The file of its layer.
const FILE: &str = "model-00003-of-00008.safetensors";

type Tensors = Vec<RawTensor<'static>>;

/// A tensor of [`WEIGHT`].
fn part<'t>(tensors: &'t mut Tensors, part: &str) -> &'t mut RawTensor<'static> {
    let name = format!("{WEIGHT}{part}");
    tensors.iter_mut().find(|tensor| tensor.name == name).expect("the weight has it")
}

fn fill(tensors: &mut Tensors, of: &str, number: &[u8]) {
    let bytes = part(tensors, of).bytes.to_mut();
    bytes.chunks_mut(number.len()).for_each(|chunk| chunk.copy_from_slice(number));
}

/// Half of the rows.
fn halve(tensors: &mut Tensors, of: &str) {
    let tensor = part(tensors, of);
    tensor.shape[0] /= 2;
    let half = tensor.bytes.len() / 2;
    tensor.bytes.to_mut().truncate(half);
}

fn manifest(q: &Path) -> QuantizedManifest {
    serde_json::from_str(&fs::read_to_string(q.join("quantized.json")).unwrap()).unwrap()
}

fn tensors(file: &Path) -> Tensors {
    let bytes = fs::read(file).unwrap();
    let raw = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let number = match view.dtype() {
            Dtype::U8 => StoredNumber::U8,
            Dtype::U32 => StoredNumber::U32,
            Dtype::F16 => StoredNumber::Weight(DType::F16),
            Dtype::BF16 => StoredNumber::Weight(DType::BF16),
            Dtype::F32 => StoredNumber::Weight(DType::F32),
            other => panic!("{name} is {other:?}"),
        };
        RawTensor { name, number, shape: view.shape().to_vec(), bytes: Cow::Owned(view.data().to_vec()) }
    };
    SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter().map(raw).collect()
}

/// What a case does to the layer's tensors and to the manifest.
type Tamper = fn(&mut Tensors, &mut QuantizedManifest);

/// Tampers with `q`, and makes digests and the manifest's hash right.
fn tamper(q: &Path, change: Tamper) {
    let (mut all, mut says) = (tensors(&q.join(FILE)), manifest(q));
    change(&mut all, &mut says);
    for record in says.weights.iter_mut().filter(|record| record.name.starts_with("model.layers.1.")) {
        let bytes = |part: &&str| {
            let name = format!("{}{part}", record.name);
            all.iter().find(|tensor| tensor.name == name).map(|tensor| tensor.bytes.as_ref())
        };
        record.digest = digest(PARTS.iter().chain([&""]).filter_map(bytes));
    }
    write_tensors(&q.join(FILE), &all).unwrap();
    says.seal();
    fs::write(q.join("quantized.json"), says.to_json()).unwrap();
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// Each case of a checkpoint quantized with `flags` is refused.
fn refuse_all(flags: &[&str], cases: &[(&str, Tamper)]) {
    let place = Place::new();
    let (q, t, out) = (place.text("q"), place.text("t"), place.text("out"));
    done(&[&["quantize", &model(), "-o", &q], flags].concat());
    for (what, change) in cases {
        copy(&place.path("q"), &place.path("t"));
        tamper(&place.path("t"), *change);
        for dtype in ["f16", "f32"] {
            let output = qonnx(&["export", &t, "--dtype", dtype, "-o", &out]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{flags:?}, {what}: {said}");
            assert!(said.contains("weight model.layers.") && said.contains("is not what the recipe says"), "{what}: {said}");
        }
        assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 2, "{what}: nothing beside it");
    }
}

#[test]
fn numbers_that_no_rounding_gives_are_refused() {
    refuse_all(
        &["--bits", "4"],
        &[
            ("codes beyond four bits", |tensors, _| fill(tensors, ".codes", &[200])),
            ("scales that are NaN", |tensors, _| fill(tensors, ".scales", &f32::NAN.to_le_bytes())),
            ("scales that are infinite", |tensors, _| fill(tensors, ".scales", &f32::INFINITY.to_le_bytes())),
            ("scales beyond f16", |tensors, _| fill(tensors, ".scales", &1e6f32.to_le_bytes())),
            ("scales between those of f16", |tensors, _| fill(tensors, ".scales", &1.000_01f32.to_le_bytes())),
            ("half of the scales", |tensors, _| halve(tensors, ".scales")),
            ("no scales", |tensors, _| tensors.retain(|tensor| tensor.name != format!("{WEIGHT}.scales"))),
            ("codes of codes", |tensors, _| part(tensors, ".codes").name += ".codes"),
            ("other groups", |_, says| says.recipe.weights.granularity = qonnx::recipe::GranularityName::Group(16)),
            ("zero points that are not there", |_, says| says.recipe.weights.symmetric = false),
            ("codes of what is not quantized", |_, says| says.recipe.weights.format = qonnx::recipe::FormatName::F16),
            ("outliers that are not there", |_, says| says.outliers.extend([(WEIGHT.to_owned(), 3)])),
            ("outliers without end", |_, says| says.outliers.extend([(WEIGHT.to_owned(), usize::MAX)])),
            ("a quantized weight that was changed", |_, says| says.changed.extend([WEIGHT.to_owned()])),
            ("a weight twice", |_, says| {
                let twice = says.weights.iter().find(|record| record.name == WEIGHT).unwrap().clone();
                says.weights.push(twice);
            }),
            ("a weight not at all", |_, says| says.weights.retain(|record| record.name != WEIGHT)),
            ("a dense weight that is not", |_, says| {
                says.weights.iter_mut().find(|record| record.name == OTHER).unwrap().is_quantized = true;
            }),
        ],
    );
}

#[test]
fn zero_points_and_scales_of_scales_are_looked_at_too() {
    refuse_all(
        &["--bits", "4", "--asymmetric"],
        &[
            ("zero points beyond four bits", |tensors, _| fill(tensors, ".zero_points", &[16])),
            ("half of the zero points", |tensors, _| halve(tensors, ".zero_points")),
        ],
    );
    refuse_all(
        &["--recipe", "nf4-g64-nested-rtn"],
        &[
            ("other scales than theirs", |tensors, _| fill(tensors, ".scales", &1f32.to_le_bytes())),
            ("half of the scales", |tensors, _| halve(tensors, ".nested.codes")),
            ("no maximum", |tensors, _| halve(tensors, ".nested.absmax")),
            ("an offset that is NaN", |tensors, _| fill(tensors, ".nested.offset", &f32::NAN.to_le_bytes())),
        ],
    );
}

#[test]
fn outliers_are_input_features_in_order() {
    fn features(tensors: &mut Tensors, change: impl FnOnce(&mut Vec<u32>)) {
        let bytes = part(tensors, ".outliers.in_features").bytes.to_mut();
        let mut features: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word)).collect();
        assert!(features.len() > 1, "{features:?}");
        change(&mut features);
        *bytes = features.into_iter().flat_map(u32::to_le_bytes).collect();
    }
    refuse_all(
        &["--recipe", "int8-outlier-rtn"],
        &[
            ("a feature that there is none of", |tensors, _| features(tensors, |all| *all.last_mut().unwrap() = 768)),
            ("features out of order", |tensors, _| features(tensors, |all| all.reverse())),
            ("a feature twice", |tensors, _| features(tensors, |all| all[1] = all[0])),
            ("weights that are infinite", |tensors, _| fill(tensors, ".outliers.weights", &f32::INFINITY.to_le_bytes())),
            ("half of the weights", |tensors, _| halve(tensors, ".outliers.weights")),
        ],
    );
}

#[test]
fn a_manifest_is_as_it_was_written() {
    let place = Place::new();
    let (q, out) = (place.text("q"), place.text("out"));
    done(&["quantize", &model(), "--bits", "4", "-o", &q]);
    let path = place.path("q").join("quantized.json");
    let sound = fs::read_to_string(&path).unwrap();
    for (from, to) in [("\"relative_error\": 0.0,", "\"relative_error\": 0.5,"), ("\"tiny-coqa\"", "\"another\"")] {
        fs::write(&path, sound.replacen(from, to, 1)).unwrap();
        let said = refused(&["export", &q, "-o", &out]);
        assert!(said.contains("quantized.json is damaged (it has changed since it was written)"), "{said}");
    }
    let mut says = manifest(&place.path("q"));
    says.activation = "bf16".to_owned();
    says.seal();
    fs::write(&path, says.to_json()).unwrap();
    assert!(refused(&["export", &q, "-o", &out]).contains("activation bf16, expected f16 or f32"));
    fs::write(&path, &sound).unwrap();
    let mut says = manifest(&place.path("q"));
    says.files.push("../model.safetensors".to_owned());
    says.model.parameters = 1;
    says.seal();
    fs::write(&path, says.to_json()).unwrap();
    let said = refused(&["export", &q, "-o", &out]);
    assert!(said.contains("../model.safetensors is listed by quantized.json and not there"), "{said}");
    says.files.pop();
    says.seal();
    fs::write(&path, says.to_json()).unwrap();
    done(&["export", &q, "-o", &out]);
    let parameters = qonnx::record::Manifest::load(&place.path("out")).unwrap().model.parameters;
    assert!(parameters > 1_000_000, "{parameters} are counted, not believed");
}

#[test]
fn what_lies_beside_the_weights_is_what_they_were_quantized_with() {
    let place = Place::new();
    let (q, out) = (place.text("q"), place.text("out"));
    done(&["quantize", &model(), "--bits", "4", "-o", &q]);
    let config = place.path("q").join("config.json");
    let sound = fs::read_to_string(&config).unwrap();
    fs::write(&config, sound.replacen("\"rope_theta\": ", "\"rope_theta\": 1", 1)).unwrap();
    let said = refused(&["export", &q, "-o", &out]);
    assert!(said.contains("config.json was removed, added or changed since the model was quantized"), "{said}");
    fs::write(&config, &sound).unwrap();
    fs::rename(place.path("q").join("tokenizer_config.json"), place.path("aside")).unwrap();
    assert!(refused(&["export", &q, "-o", &out]).contains("tokenizer_config.json was removed, added or changed"));
    fs::rename(place.path("aside"), place.path("q").join("tokenizer_config.json")).unwrap();
    fs::write(place.path("q").join("chat_template.jinja"), "{{ messages }}").unwrap();
    assert!(refused(&["export", &q, "-o", &out]).contains("chat_template.jinja was removed, added or changed"));
    fs::remove_file(place.path("q").join("chat_template.jinja")).unwrap();
    done(&["export", &q, "-o", &out]);
}
