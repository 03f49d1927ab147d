//! Draws and writes up a study: figures, tables, a recommendation with its evidence. Sees records and nothing else.
//!
//! Records become a [`Study`] (`study`), which refuses what does not belong together. Figures are scenes (`scene`, `figure/`)
//! that plotters draws as SVG and PNG (`plot`); `markdown`, `html` and `pdf` put the same numbers, written by `numbers`, on pages.

mod error;
mod figure;
mod findings;
mod font;
mod html;
mod labels;
mod limits;
#[cfg(test)]
mod made_up;
mod markdown;
mod marks;
mod method;
mod numbers;
mod pdf;
mod plot;
mod point;
mod recommend;
mod render;
mod scene;
mod selection;
mod study;

pub use error::ReportError;
pub use findings::Finding;
pub use recommend::{Fastest, Recommendation, Smallest, recommend};
pub use render::Rendered;
pub use study::{Device, RecordFile, Row, Study};
