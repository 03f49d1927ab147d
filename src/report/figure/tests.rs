//! What every figure must hold to, on the fixture's records and on more of them.

use super::*;
use crate::report::scene::{Color, PAPER, Rect, Shape};
use crate::report::{made_up, plot};

fn all_figures(study: &Study) -> Vec<Figure> {
    let shown: Vec<usize> = (0..study.rows.len()).collect();
    figures(study, &shown)
}

fn studies() -> Vec<(&'static str, Study)> {
    vec![
        ("fixture", made_up::whole()),
        ("3", made_up::of_size(3)),
        ("40", made_up::of_size(40)),
        ("CUDA", made_up::on_cuda()),
        ("hostile", made_up::hostile()),
        ("text alone", made_up::text_alone()),
        ("baseline alone", made_up::study(vec![made_up::baseline()])),
    ]
}

#[test]
fn no_text_covers_another_or_leaves_the_figure() {
    for (study_name, study) in studies() {
        for figure in all_figures(&study) {
            let boxes = figure.scene.text_boxes();
            let whole = Rect { left: 0.0, top: 0.0, right: figure.scene.width, bottom: figure.scene.height };
            for (at, (area, text)) in boxes.iter().enumerate() {
                assert!(area.inside(&whole), "{study_name}, {}: {text:?} at {area:?} leaves {whole:?}", figure.name);
                if let Some((_, other)) = boxes[..at].iter().find(|(other, _)| area.overlaps(other)) {
                    panic!("{study_name}, {}: {text:?} covers {other:?}", figure.name);
                }
            }
        }
    }
}

#[test]
fn every_experiment_is_named_in_every_figure_and_its_svg_is_xml() {
    for (study_name, study) in studies() {
        for figure in all_figures(&study) {
            let svg = plot::svg(&figure.scene).unwrap();
            let document = roxmltree::Document::parse(&svg).unwrap_or_else(|error| panic!("{}: {error}", figure.name));
            let texts: Vec<&str> = document.descendants().filter_map(|node| node.text()).map(str::trim).collect();
            for row in &study.rows {
                // A score is what the one figure shows; a row without one is in its caption's count.
                if figure.name == "accuracy_vs_compression" && row.f1().is_none() {
                    continue;
                }
                let start: String = row.name().chars().take(12).filter(|c| !c.is_control()).collect();
                assert!(texts.iter().any(|text| text.starts_with(&start)), "{study_name}, {}: {start} of {texts:?}", figure.name);
            }
        }
    }
}

#[test]
fn every_drawn_point_is_a_spot_of_its_record() {
    let study = made_up::whole();
    for figure in all_figures(&study) {
        for row in 0..study.rows.len() {
            let drawn = match figure.name {
                "accuracy_vs_compression" => study.rows[row].f1().is_some(),
                "throughput_vs_batch" => study.rows[row].bench().is_some(),
                _ => true,
            };
            assert_eq!(figure.scene.spots.iter().any(|spot| spot.row == row), drawn, "{}, row {row}", figure.name);
        }
    }
}

#[test]
fn a_collapsed_score_does_not_flatten_the_scale() {
    let study = made_up::whole();
    let scene = accuracy(&study, &(0..study.rows.len()).collect::<Vec<_>>()).unwrap().scene;
    let texts: Vec<&str> = scene.text_boxes().into_iter().map(|(_, text)| text).collect();
    assert!(texts.contains(&"int2_rtn_g32 (0.028)"), "{texts:?}");
    assert!(texts.contains(&"0.36") && !texts.contains(&"0.10"), "{texts:?}");
}

#[test]
fn without_a_score_no_accuracy_is_drawn_and_the_summary_has_what_there_is() {
    let study = made_up::text_alone();
    let figures = all_figures(&study);
    let names: Vec<&str> = figures.iter().map(|figure| figure.name).collect();
    assert_eq!(names, ["memory_comparison", "latency_comparison", "throughput_vs_batch", "summary_table"]);
    let texts: Vec<&str> = figures[3].scene.text_boxes().into_iter().map(|(_, text)| text).collect();
    // int8_rtn's, of its record.
    assert!(["Perplexity", "KL, nats", "21.5", "0.0019"].iter().all(|text| texts.contains(text)), "{texts:?}");
    assert!(!texts.contains(&"ΔF1"), "{texts:?}");
    assert_eq!((undrawn(&made_up::whole()), undrawn(&study).map(|why| why.contains("CoQA was not asked"))), (None, Some(true)));
}

#[test]
fn what_ran_out_of_memory_says_so() {
    let study = made_up::whole();
    let shown: Vec<usize> = (0..study.rows.len()).collect();
    let scene = throughput::figure(&study, &shown).scene;
    assert!(scene.text_boxes().iter().any(|(_, text)| *text == "bnb_8bit (out of memory at 16)"));
}

#[test]
fn every_axis_says_its_unit() {
    let units: [(&str, &[&str]); 4] = [
        ("accuracy_vs_compression", &["F1 (0 to 1)", "bits per weight of the linears (log scale)"]),
        ("memory_comparison", &["MB"]),
        ("latency_comparison", &["prefill, ms", "decode, ms per token"]),
        ("throughput_vs_batch", &["tokens/s (log scale)", "batch size, sequences (log scale)"]),
    ];
    let study = made_up::whole();
    for figure in all_figures(&study) {
        let Some((_, wanted)) = units.iter().find(|(name, _)| *name == figure.name) else { continue };
        let boxes = figure.scene.text_boxes();
        for unit in *wanted {
            assert!(boxes.iter().any(|(_, text)| text.contains(unit)), "{}: {unit}", figure.name);
        }
    }
}

/// Contrast of two colours by their luminance, 1 to 21 (WCAG 2.2): what is left of them in grey.
fn contrast(a: Color, b: Color) -> f64 {
    let linear = |value: u8| {
        let value = f64::from(value) / 255.0;
        if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    };
    let luminance = |Color(red, green, blue): Color| 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

/// WCAG's level AA: 4.5 for text. Marks have an outline in ink, so that their form stands where their colour is gone.
#[test]
fn texts_are_legible_in_grey() {
    assert!((contrast(Color(0, 0, 0), PAPER) - 21.0).abs() < 1e-9);
    for (study_name, study) in studies() {
        for figure in all_figures(&study) {
            for shape in &figure.scene.shapes {
                if let Shape::Text { text, style, .. } = shape {
                    let contrast = contrast(style.color, PAPER);
                    assert!(contrast >= 4.5, "{study_name}, {}: {text:?} has contrast {contrast:.1}", figure.name);
                }
            }
        }
    }
}
