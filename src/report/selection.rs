//! Which experiments are drawn where there are more than a picture holds.

use std::collections::BTreeSet;

use super::recommend::{Recommendation, Smallest};
use super::study::Study;

/// Most experiments in a figure of their own file: more are not told apart, and a picture of thousands takes gigabytes to draw.
pub const MOST_DRAWN: usize = 60;

/// What a caption says where not all rows are drawn.
pub fn selection(study: &Study, shown: usize) -> String {
    match study.rows.len() - shown {
        0 => String::new(),
        more => format!(
            " {shown} of {} experiments are shown: the baseline, those recommended, the Pareto front, then by F1; the other {more} stand in REPORT.md.",
            study.rows.len()
        ),
    }
}

/// At most `most` rows, in the study's order: the baseline, what is recommended, the Pareto front, then by F1.
pub fn chosen(study: &Study, recommendation: &Recommendation, most: usize) -> Vec<usize> {
    let mut wanted = vec![0];
    if let Smallest::Found { row } = recommendation.smallest {
        wanted.push(row);
    }
    wanted.extend(recommendation.fastest.iter().flat_map(|fastest| [Some(fastest.row), fastest.safe]).flatten());
    wanted.extend(&recommendation.pareto);
    let mut by_score: Vec<usize> = (0..study.rows.len()).collect();
    by_score.sort_by(|&a, &b| study.rows[b].f1().unwrap_or(-1.0).total_cmp(&study.rows[a].f1().unwrap_or(-1.0)));
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
}
