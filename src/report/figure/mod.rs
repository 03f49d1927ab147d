//! The report's figures: one scene each, made from a study and the rows to show.

mod accuracy;
mod axis;
mod bars;
mod latency;
mod memory;
mod table;
mod throughput;

#[cfg(test)]
mod tests;

pub use table::{columns, quoted_at};

use super::scene::{Anchor, MUTED, Scene, TextStyle};
use super::study::{Accuracy, Row, Study};
use super::{marks, numbers};

/// Width of every figure, logical pixels.
pub const WIDTH: f64 = 780.0;

const TITLE: TextStyle = TextStyle::new(17.0).bold();
const SUBTITLE: TextStyle = TextStyle::new(12.5).colored(MUTED);
const LABEL: TextStyle = TextStyle::new(12.0);
const TICK: TextStyle = TextStyle::new(11.5).colored(MUTED);

/// Longest name of an experiment that figures write out, characters.
const LONGEST_NAME: usize = 34;

/// A figure and what is said of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// File name without its ending.
    pub name: &'static str,
    pub title: String,
    /// What to know to read it; also the text for those who cannot see it.
    pub caption: String,
    pub scene: Scene,
}

/// All figures of the rows at places `shown`.
pub fn figures(study: &Study, shown: &[usize]) -> Vec<Figure> {
    let mut figures: Vec<Figure> = accuracy(study, shown).into_iter().collect();
    figures.extend(hardware(study, shown));
    figures.push(table::figure(study, shown));
    figures
}

/// F1 against bits per weight, where there is an F1.
pub fn accuracy(study: &Study, shown: &[usize]) -> Option<Figure> {
    undrawn(study).is_none().then(|| accuracy::figure(study, shown))
}

/// What cannot be drawn of a study, and why.
pub fn undrawn(study: &Study) -> Option<&'static str> {
    match study.accuracy() {
        Accuracy::Answers => None,
        Accuracy::Text => Some(
            "Accuracy against compression is not drawn: CoQA was not asked, so no experiment has an F1. Perplexity and KL divergence \
             stand in the summary.",
        ),
        Accuracy::Unknown => Some("Accuracy against compression is not drawn: no experiment has a score."),
    }
}

/// Size, latency and throughput in two scenes, for a page.
pub fn compact(study: &Study, shown: &[usize], curves: &[usize]) -> [Scene; 2] {
    [latency::overview(study, shown), throughput::figure(study, curves).scene]
}

/// Memory, latency, throughput.
fn hardware(study: &Study, shown: &[usize]) -> Vec<Figure> {
    vec![memory::figure(study, shown), latency::figure(study, shown), throughput::figure(study, shown)]
}

/// A scene with its title and a line below it; returns where the rest may begin.
fn titled(height: f64, title: &str, subtitle: &str) -> (Scene, f64) {
    let mut scene = Scene::new(WIDTH, height);
    scene.text([24.0, 34.0], title, TITLE);
    scene.text([24.0, 55.0], subtitle, SUBTITLE);
    (scene, 72.0)
}

fn shown_name(row: &Row) -> String {
    numbers::clipped(row.name(), LONGEST_NAME)
}

/// Marks of the methods that are shown with their names, in lines from `top` on; returns the lower edge.
fn legend(scene: &mut Scene, study: &Study, shown: &[usize], top: f64, extra: &[Extra]) -> f64 {
    let mut methods: Vec<&str> = shown.iter().map(|&at| study.rows[at].record.method.as_str()).collect();
    methods.sort_by_key(|method| (marks::order(method), *method));
    methods.dedup();
    let (mut x, mut y) = (28.0, top + 8.0);
    let mut next = |scene: &mut Scene, name: &str, draw: &dyn Fn(&mut Scene, f64, f64)| {
        let width = 28.0 + super::font::width(name, LABEL.size, LABEL.weight) + 18.0;
        if x + width > WIDTH {
            (x, y) = (28.0, y + 20.0);
        }
        draw(scene, x, y);
        scene.text_centred([x + 20.0, y], name, LABEL.at(Anchor::Start));
        x += width;
    };
    for method in methods {
        next(scene, &numbers::clipped(method, LONGEST_NAME), &|scene, x, y| {
            marks::draw(scene, marks::mark(method), [x + 6.0, y], 5.5)
        });
    }
    for extra in extra {
        next(scene, extra.name, &|scene, x, y| (extra.draw)(scene, x, y));
    }
    y + 14.0
}

/// An entry of a legend that is no method.
struct Extra {
    name: &'static str,
    draw: fn(&mut Scene, f64, f64),
}
