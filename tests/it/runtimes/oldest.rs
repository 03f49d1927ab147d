//! The oldest onnxruntime that opens each form, as its manifest says, and that the version before it does not.

use qonnx::artifact::plan::{RecipeFlags, Request};
use qonnx::recipe::FormatName;
use qonnx::record::{Manifest, Target};
use qonnx::runtime::WeightKernels;
use qonnx::tensor::DType;

use super::{Runtime, Said, default_form};
use crate::support::tiny;

/// A form opens in `oldest`, with this program's tokens; `before` refuses it with these words.
#[track_caller]
fn check(flags: RecipeFlags, oldest: &'static str, before: &'static str, refusal: &str) {
    check_of(Target::Ort, flags, oldest, before, refusal);
}

/// As [`check`], of an artifact for that target.
#[track_caller]
fn check_of(target: Target, flags: RecipeFlags, oldest: &'static str, before: &'static str, refusal: &str) {
    if !Runtime::Oldest(oldest).is_here() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let artifact = folder.path().join("artifact");
    let request = tiny::request(&tiny::model(), flags, DType::F32);
    tiny::export(&Request { target, ..request }, &artifact);
    let manifest = Manifest::load(&artifact).unwrap_or_else(|error| panic!("{error}"));
    let minor = oldest.rsplit_once('.').map(|(minor, _)| minor);
    assert_eq!(manifest.oldest_onnxruntime.as_deref(), minor);
    let job = default_form::job(&artifact);
    let answer = Runtime::Oldest(oldest).greedy(&artifact, &job);
    assert_eq!(answer.version, oldest);
    match target {
        Target::Ort => {
            let ours = default_form::ours(&artifact, WeightKernels::Fused, &job.prompts);
            assert_eq!(answer.greedy, Said::Tokens(ours));
        }
        // The graph itself asks for activations of 8 bits, which are rounded otherwise from version to version.
        _ => assert!(matches!(answer.greedy, Said::Tokens(_)), "{:?}", answer.greedy),
    }
    let answer = Runtime::Oldest(before).greedy(&artifact, &job);
    assert_eq!(answer.version, before);
    assert!(matches!(&answer.greedy, Said::Refusal { error } if error.contains(refusal)), "{:?}", answer.greedy);
}

#[test]
fn int4_opens_in_1_19() {
    check(tiny::bits(FormatName::Int4), "1.19.2", "1.18.1", "tensor(int4) is not currently registered or supported");
}

#[test]
fn int3_opens_in_1_23() {
    check(tiny::bits(FormatName::Int3), "1.23.0", "1.22.0", "Cast(21)");
}

#[test]
fn an_int8_embedding_opens_in_1_23() {
    let flags = RecipeFlags { embedding: Some(FormatName::Int8), ..tiny::bits(FormatName::Int4) };
    check(flags, "1.23.0", "1.22.0", "Unrecognized attribute: bits for operator GatherBlockQuantized");
}

#[test]
fn int2_opens_in_1_24() {
    check(tiny::bits(FormatName::Int2), "1.24.1", "1.23.0", "Unsupported model IR version: 13");
}

#[test]
fn int8_as_matmulnbits_opens_in_1_22() {
    let refusal = "Only 4b quantization is supported";
    check_of(Target::MatMulNBits, tiny::bits(FormatName::Int8), "1.22.0", "1.20.1", refusal);
}

#[test]
fn int2_as_matmulnbits_opens_in_1_24() {
    check_of(Target::MatMulNBits, tiny::bits(FormatName::Int2), "1.24.1", "1.23.0", "MatMulNBits");
}
