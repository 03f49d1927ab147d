//! Which experiments are drawn where there are more than a picture holds.

use std::collections::BTreeSet;

use super::recommend::{Recommendation, Smallest};
use super::study::{Accuracy, Study};
use crate::record::TEXT_PERPLEXITY;

/// Most experiments in a figure of their own file: more are not told apart, and a picture of thousands takes gigabytes to draw.
pub const MOST_DRAWN: usize = 60;

/// What a caption says where not all rows are drawn.
pub fn selection(study: &Study, shown: usize) -> String {
    let by = if study.accuracy() == Accuracy::Text { "perplexity" } else { "F1" };
    match study.rows.len() - shown {
        0 => String::new(),
        more => format!(
            " {shown} of {} experiments are shown: the baseline, those recommended, the Pareto front, then by {by}; the other {more} stand in REPORT.md.",
            study.rows.len()
        ),
    }
}

/// At most `most` rows, in the study's order: the baseline, what is recommended, the Pareto front, then by F1, or by
/// perplexity where that is what there is.
pub fn chosen(study: &Study, recommendation: &Recommendation, most: usize) -> Vec<usize> {
    let mut wanted = vec![0];
    if let Smallest::Found { row } = recommendation.smallest {
        wanted.push(row);
    }
    wanted.extend(recommendation.fastest.iter().flat_map(|fastest| [Some(fastest.row), fastest.safe]).flatten());
    wanted.extend(&recommendation.pareto);
    let mut by_score: Vec<usize> = (0..study.rows.len()).collect();
    let accuracy = study.accuracy();
    let score = |at: usize| match accuracy {
        Accuracy::Text => study.rows[at].score(TEXT_PERPLEXITY).map_or(f64::NEG_INFINITY, |perplexity| -perplexity),
        Accuracy::Answers | Accuracy::Unknown => study.rows[at].f1().unwrap_or(-1.0),
    };
    by_score.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
    wanted.extend(by_score);
    let mut rows = BTreeSet::new();
    for row in wanted {
        if rows.len() < most {
            rows.insert(row);
        }
    }
    rows.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::figure::figures;
    use crate::report::made_up;
    use crate::report::recommend::recommend;

    #[test]
    fn however_many_there_are_a_figure_draws_so_many_and_says_so() {
        let study = made_up::of_size(140);
        let recommendation = recommend(&study);
        let drawn = chosen(&study, &recommendation, MOST_DRAWN);
        assert_eq!((drawn.len(), drawn[0]), (MOST_DRAWN, 0));
        assert!(recommendation.pareto.iter().all(|row| drawn.contains(row)));
        let tallest = figures(&study, &drawn).iter().map(|figure| figure.scene.height).fold(0.0, f64::max);
        assert!(tallest < 6000.0, "a figure is {tallest} pixels tall");
        let said = selection(&study, drawn.len());
        assert!(
            said.starts_with(" 60 of 140 experiments are shown") && said.contains("the other 80 stand in REPORT.md"),
            "{said}"
        );
        assert_eq!(selection(&study, study.rows.len()), "");
    }

    #[test]
    fn without_an_f1_perplexity_chooses() {
        let study = made_up::text_alone();
        let mut recommendation = recommend(&study);
        recommendation.fastest.clear();
        let names: Vec<&str> = chosen(&study, &recommendation, 3).into_iter().map(|at| study.rows[at].name()).collect();
        // LLM.int8's is the lowest, INT8's the lowest but the baseline's own.
        assert_eq!(names, ["fp16_baseline", "bnb_8bit", "int8_rtn"]);
        assert!(selection(&study, 3).contains("the Pareto front, then by perplexity;"));
    }
}
