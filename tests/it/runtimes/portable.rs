//! An artifact in ONNX's own operators, in the runtimes that it is for: rows padded on either side, widths that they have no type for.

use qonnx::artifact::plan::{RecipeFlags, Request};
use qonnx::recipe::{FormatName, GranularityName};
use qonnx::record::Target;
use qonnx::runtime::WeightKernels;
use qonnx::tensor::DType;

use super::Runtime;
use super::default_form::Outcome::{Refused, Same};
use super::default_form::{Expected, NO_LEFT, NO_RIGHT, check_answer, export, job, ours};
use crate::support::tiny;

/// Numbers that every one of them holds.
fn forms() -> [(&'static str, RecipeFlags); 5] {
    let groups = |format, size| RecipeFlags { granularity: Some(GranularityName::Group(size)), ..tiny::bits(format) };
    [
        ("f32", tiny::bits(FormatName::F16)),
        ("int8", tiny::bits(FormatName::Int8)),
        ("int4", tiny::bits(FormatName::Int4)),
        ("int3", groups(FormatName::Int3, 64)),
        ("int5 asymmetric", RecipeFlags { asymmetric: true, ..groups(FormatName::Int5, 32) }),
    ]
}

/// Every form in a runtime that computes by kernels of that kind; this program says the words of the default form.
#[track_caller]
fn check(runtime: Runtime, weights: WeightKernels, forms: &[(&str, RecipeFlags)], expected: &Expected) {
    if !runtime.is_here() {
        return;
    }
    for (name, flags) in forms.iter().cloned() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let (default, portable) = (folder.path().join("default"), folder.path().join("portable"));
        export(flags.clone(), &default);
        let request = tiny::request(&tiny::model(), flags, DType::F32);
        tiny::export(&Request { target: Target::Portable, ..request }, &portable);
        let job = job(&default);
        let ours = ours(&default, weights, &job.prompts);
        let answer = runtime.greedy(&portable, &job);
        check_answer(&format!("{name} in {runtime:?} {}", answer.version), &answer, &ours, expected);
    }
}

#[test]
fn openvino_answers_as_this_program_with_batches() {
    check(Runtime::OpenVino, WeightKernels::Fused, &forms(), &Expected { alone: Same, left: Same, right: Same });
}

#[test]
fn openvinos_pipeline_answers_as_this_program() {
    check(Runtime::OpenVinoGenai, WeightKernels::Fused, &forms(), &Expected { alone: Same, left: Same, right: NO_RIGHT });
}

#[test]
fn the_oldest_onnxruntime_answers_as_this_program() {
    check(Runtime::Oldest("1.24.1"), WeightKernels::Fused, &forms(), &Expected { alone: Same, left: Same, right: Same });
}

#[test]
fn one_that_is_older_refuses_it() {
    let why = Refused("Unsupported model IR version: 11");
    check(Runtime::Oldest("1.22.0"), WeightKernels::Fused, &forms(), &Expected { alone: why, left: why, right: why });
}

#[test]
fn genai_answers_as_this_program() {
    // Its kernels round activations to 8 bits; these are the forms in which no token has a rival so near (`default_form::PROMPTS`).
    let [f32, _, int4, ..] = forms();
    let expected = Expected { alone: Same, left: NO_LEFT, right: Same };
    check(Runtime::Genai, WeightKernels::FusedFast, &[f32, int4], &expected);
}
