//! One page of A4 that is filled from the top: headings, paragraphs, tables, figures. All lengths in points.

use textwrap::core::Fragment;
use textwrap::wrap_algorithms::{Penalties, wrap_first_fit, wrap_optimal_fit};

use crate::report::font;
use crate::report::scene::{Anchor, GRID, INK, MUTED, Rect, Scene, TextStyle, Weight};

pub const WIDTH: f64 = 595.28;
pub const HEIGHT: f64 = 841.89;
pub const LEFT: f64 = 54.0;
pub const RIGHT: f64 = WIDTH - 54.0;
const TOP: f64 = 58.0;
/// Content ends here; the page's number stands below.
pub const BOTTOM: f64 = HEIGHT - 56.0;
/// Line distance over text size.
const LEADING: f64 = 1.42;
/// The optimal line breaks weigh gaps in characters: about so many ems each.
const CHARACTER: f64 = 0.5;

/// A page under construction.
#[derive(Debug)]
pub struct Page {
    pub scene: Scene,
    /// Areas that open a file.
    pub links: Vec<(Rect, String)>,
    /// Where the next block begins.
    pub y: f64,
    /// Of running text.
    pub size: f64,
}

/// A column of a table: header, right edge or left edge by its anchor.
#[derive(Debug, Clone)]
pub struct TableColumn {
    pub header: &'static str,
    pub width: f64,
    pub anchor: Anchor,
}

/// A line of a table; `link` belongs to the cell at that place.
#[derive(Debug, Clone)]
pub struct TableLine {
    pub cells: Vec<String>,
    pub link: Option<(usize, String)>,
}

impl Page {
    pub fn new(number: usize, running_title: &str, size: f64) -> Self {
        let mut scene = Scene::new(WIDTH, HEIGHT);
        let small = TextStyle::new(7.5).colored(MUTED);
        if number > 1 {
            scene.text([LEFT, 36.0], fitted(running_title, small, RIGHT - LEFT - 40.0), small);
        }
        scene.text([RIGHT, 36.0], format!("{number} / 4"), small.at(Anchor::End));
        scene.line(&[[LEFT, 42.0], [RIGHT, 42.0]], GRID, 0.7);
        Page { scene, links: Vec::new(), y: TOP, size }
    }

    pub fn room(&self) -> f64 {
        BOTTOM - self.y
    }

    pub fn fits(&self) -> bool {
        self.room() >= 0.0
    }

    pub fn space(&mut self, height: f64) {
        self.y += height;
    }

    /// The page's own title.
    pub fn title(&mut self, text: &str) {
        self.block(text, TextStyle::new(self.size * 1.9).bold(), LEFT, RIGHT, 2);
        self.space(self.size * 0.5);
    }

    pub fn heading(&mut self, text: &str) {
        self.space(self.size * 0.9);
        self.block(text, TextStyle::new(self.size * 1.18).bold(), LEFT, RIGHT, 2);
        self.space(self.size * 0.2);
    }

    /// Running text of at most `most` lines.
    pub fn paragraph(&mut self, text: &str, most: usize) {
        self.block(text, TextStyle::new(self.size), LEFT, RIGHT, most);
        self.space(self.size * 0.55);
    }

    /// Small grey text, below what it belongs to.
    pub fn note(&mut self, text: &str, most: usize) {
        self.block(text, TextStyle::new(self.size * 0.84).colored(MUTED), LEFT, RIGHT, most);
        self.space(self.size * 0.6);
    }

    /// Running text under a title of its own.
    pub fn titled(&mut self, title: &str, text: &str, most: usize) {
        self.block(title, TextStyle::new(self.size).bold(), LEFT, RIGHT, 2);
        self.block(text, TextStyle::new(self.size), LEFT, RIGHT, most);
        self.space(self.size * 0.25);
    }

    /// A line of text after a bullet.
    pub fn bullet(&mut self, text: &str, most: usize) {
        let middle = self.y + self.size * (LEADING - 0.5 * font::CAP_HEIGHT) - self.size * (LEADING - 1.0) / 2.0;
        let dot = Rect::around([LEFT + 4.0, middle - self.size * 0.12], 1.3, 1.3);
        self.scene.area(dot.corners(), INK);
        self.block(text, TextStyle::new(self.size), LEFT + 12.0, RIGHT, most);
        self.space(self.size * 0.3);
    }

    /// A term in bold with its meaning right of it.
    pub fn term(&mut self, term: &str, meaning: &str, indent: f64, most: usize) {
        let style = TextStyle::new(self.size).bold();
        self.scene.text([LEFT, self.y + baseline(self.size)], fitted(term, style, indent - 6.0), style);
        self.block(meaning, TextStyle::new(self.size), LEFT + indent, RIGHT, most);
        self.space(self.size * 0.15);
    }

    /// Text from outside a block's flow that opens `address`.
    pub fn linked(&mut self, text: &str, address: &str) {
        let style = TextStyle::new(self.size * 0.84).colored(MUTED);
        let text = fitted(text, style, RIGHT - LEFT);
        let width = font::width(&text, style.size, style.weight);
        let area = Rect { left: LEFT, right: LEFT + width, top: self.y, bottom: self.y + style.size * LEADING };
        self.links.push((area, address.to_owned()));
        self.scene.text([LEFT, self.y + baseline(style.size)], text, style);
        self.y += style.size * LEADING;
    }

    /// A scene over the page's width, or smaller where `height` allows no more.
    pub fn figure(&mut self, figure: &Scene, height: f64) {
        let scale = ((RIGHT - LEFT) / figure.width).min(height / figure.height);
        self.scene.place(figure, [LEFT + (RIGHT - LEFT - figure.width * scale) / 2.0, self.y], scale);
        self.y += figure.height * scale;
    }

    pub fn table(&mut self, columns: &[TableColumn], lines: &[TableLine]) {
        let size = self.size * 0.84;
        let head: Vec<String> = columns.iter().map(|column| column.header.to_owned()).collect();
        self.table_line(columns, &head, TextStyle::new(size).bold().colored(MUTED), None);
        self.scene.line(&[[LEFT, self.y], [RIGHT, self.y]], INK, 0.8);
        for line in lines {
            self.table_line(columns, &line.cells, TextStyle::new(size), line.link.as_ref());
            self.scene.line(&[[LEFT, self.y], [RIGHT, self.y]], GRID, 0.5);
        }
        self.space(self.size * 0.5);
    }

    /// Height of a table with `lines` lines.
    pub fn table_height(&self, lines: usize) -> f64 {
        (lines + 1) as f64 * self.size * 0.84 * TABLE_LEADING + self.size * 0.5
    }

    fn table_line(&mut self, columns: &[TableColumn], cells: &[String], style: TextStyle, link: Option<&(usize, String)>) {
        let height = style.size * TABLE_LEADING;
        let mut left = LEFT;
        for (at, (column, cell)) in columns.iter().zip(cells).enumerate() {
            let right = left + column.width;
            let x = if column.anchor == Anchor::Start { left } else { right - 5.0 };
            let numeric = style.weight == Weight::Regular && column.anchor == Anchor::End;
            let style = if numeric { TextStyle { weight: Weight::Figures, ..style } } else { style };
            let text = fitted(cell, style, column.width - 5.0);
            self.scene.text_centred([x, self.y + height / 2.0], text, style.at(column.anchor));
            if let Some((_, address)) = link.filter(|(place, _)| *place == at) {
                self.links.push((Rect { left, right, top: self.y, bottom: self.y + height }, address.clone()));
            }
            left = right;
        }
        self.y += height;
    }

    fn block(&mut self, text: &str, style: TextStyle, left: f64, right: f64, most: usize) {
        for line in clamped(lines(text, style, right - left), most, style, right - left) {
            self.scene.text([left, self.y + baseline(style.size)], line, style);
            self.y += style.size * LEADING;
        }
    }
}

const TABLE_LEADING: f64 = 1.72;

/// From a line's top to its baseline.
fn baseline(size: f64) -> f64 {
    size * (LEADING + font::CAP_HEIGHT) / 2.0
}

/// A word for the line breaker; widths in about characters.
#[derive(Debug)]
struct Word<'a> {
    text: &'a str,
    width: f64,
    space: f64,
}

impl Fragment for Word<'_> {
    fn width(&self) -> f64 {
        self.width
    }

    fn whitespace_width(&self) -> f64 {
        self.space
    }

    fn penalty_width(&self) -> f64 {
        0.0
    }
}

/// Breaks text into lines no wider than `width`, all of about equal length; a word that is wider by itself is cut up.
fn lines(text: &str, style: TextStyle, width: f64) -> Vec<String> {
    let unit = CHARACTER * style.size;
    let measured = |text: &str| font::width(text, style.size, style.weight) / unit;
    let room = width / unit;
    let space = measured(" ");
    let parts = text.split_whitespace().flat_map(|word| cut(word, room, &measured));
    let words: Vec<Word<'_>> = parts.map(|text| Word { text, width: measured(text), space }).collect();
    // A line is never a little too long for the sake of the others.
    let penalties = Penalties { overflow_penalty: 1_000_000, ..Penalties::new() };
    let broken = wrap_optimal_fit(&words, &[room], &penalties).unwrap_or_else(|_| wrap_first_fit(&words, &[room]));
    broken.into_iter().map(|line| line.iter().map(|word| word.text).collect::<Vec<_>>().join(" ")).collect()
}

/// Pieces of a word that each fit into `room`.
fn cut<'a>(word: &'a str, room: f64, measured: &dyn Fn(&str) -> f64) -> Vec<&'a str> {
    let mut pieces = Vec::new();
    let mut rest = word;
    while measured(rest) > room {
        let ends = rest.char_indices().skip(1).map(|(end, _)| end);
        // One character is taken even where it is too wide, or this would not end.
        let end = ends.take_while(|&end| measured(&rest[..end]) <= room).last();
        let (piece, tail) = rest.split_at(end.or_else(|| rest.char_indices().nth(1).map(|(end, _)| end)).unwrap_or(rest.len()));
        pieces.push(piece);
        rest = tail;
    }
    if !rest.is_empty() {
        pieces.push(rest);
    }
    pieces
}

/// The first `most` lines; where there are more, the last says where to read on.
fn clamped(mut lines: Vec<String>, most: usize, style: TextStyle, width: f64) -> Vec<String> {
    const ON: &str = " … (in full in REPORT.md)";
    if lines.len() > most {
        lines.truncate(most.max(1));
        if let Some(last) = lines.last_mut() {
            let room = width - font::width(ON, style.size, style.weight);
            *last = fitted(last, style, room).trim_end_matches('…').trim_end().to_owned() + ON;
        }
    }
    lines
}

/// As much of `text` as `width` holds, with an ellipsis where it is cut.
pub fn fitted(text: &str, style: TextStyle, width: f64) -> String {
    let wide = |text: &str| font::width(text, style.size, style.weight) > width;
    let mut most = text.chars().count();
    let mut clipped = crate::report::numbers::clipped(text, most);
    while wide(&clipped) && most > 1 {
        most -= 1;
        clipped = crate::report::numbers::clipped(text, most);
    }
    clipped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STYLE: TextStyle = TextStyle::new(9.5);

    #[test]
    fn text_is_broken_between_words_and_none_is_lost() {
        let text = "How few bits can the weights of a model have before its answers get worse, and what does that save?";
        let lines = lines(text, STYLE, 200.0);
        assert!(lines.len() > 1);
        assert_eq!(lines.join(" "), text);
    }

    #[test]
    fn what_is_cut_says_where_to_read_on() {
        let text = "word ".repeat(200);
        let cut = clamped(lines(&text, STYLE, 200.0), 2, STYLE, 200.0);
        assert_eq!(cut.len(), 2);
        assert!(cut[1].ends_with("… (in full in REPORT.md)"), "{cut:?}");
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_its_room(text in "[a-zΔ0-9 _]{0,400}", width in 60.0..400.0) {
            for line in lines(&text, STYLE, width) {
                prop_assert!(font::width(&line, STYLE.size, STYLE.weight) <= width + 0.5, "{line}");
            }
        }
    }
}
