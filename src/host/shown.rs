//! Text from a file or a server as a message may hold it.

use std::fmt;

/// Characters of foreign text that a message shows.
const MOST: usize = 200;

/// A whole message without what steers a terminal: lines stay lines, other control characters are escaped. The last guard, for
/// what libraries quote of foreign files.
pub fn printable(message: &str) -> String {
    let safe = |character: char| match character {
        '\n' => "\n".to_owned(),
        steering if is_steering(steering) => steering.escape_default().to_string(),
        plain => plain.to_string(),
    };
    message.chars().map(safe).collect()
}

/// Things of one kind that a message names; the others are counted.
pub const NAMED: usize = 3;

/// The first three of `names` as messages may show them, and how many more there are.
pub fn few<T: AsRef<str>>(names: &[T]) -> String {
    let named: Vec<String> = names.iter().take(NAMED).map(|name| shown(name.as_ref()).to_string()).collect();
    match names.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// Displays foreign text on one line: escaped and cut, see [`shown`].
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a>(&'a str);

/// `text` as a message may show it: control characters and those that change the direction of writing as escapes, so
/// that a name in a file cannot steer the terminal, and no more than 200 characters.
pub fn shown(text: &str) -> Shown<'_> {
    Shown(text)
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars().take(MOST) {
            match character {
                steering if is_steering(steering) => write!(f, "{}", steering.escape_default())?,
                plain => write!(f, "{plain}")?,
            }
        }
        match self.0.chars().count() {
            count if count > MOST => write!(f, "… ({count} characters)"),
            _ => Ok(()),
        }
    }
}

/// Control characters, and Unicode's marks, embeddings, overrides and isolates of direction (UAX #9, section 2), line
/// separators and the byte order mark.
fn is_steering(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        assert_eq!(shown("\x1b[2Jq\u{202e}x\r\n").to_string(), r"\u{1b}[2Jq\u{202e}x\r\n");
        assert_eq!(shown("größe “ñ” 小").to_string(), "größe “ñ” 小");
    }

    #[test]
    fn a_message_keeps_its_lines_and_nothing_else_that_steers() {
        assert_eq!(printable("error: a\n  \u{1b}[31mred\u{9b}\tö"), "error: a\n  \\u{1b}[31mred\\u{9b}\\tö");
    }

    #[test]
    fn three_are_named_and_the_others_counted() {
        assert_eq!(few(&["a", "b\n", "c"]), r"a, b\n, c");
        assert_eq!(few(&["a", "b", "c", "d", "e"]), "a, b, c and 2 more");
        assert_eq!(few::<&str>(&[]), "");
    }

    #[test]
    fn long_text_is_cut_and_counted() {
        let text = shown(&"ä".repeat(201)).to_string();
        assert_eq!(text, format!("{}… (201 characters)", "ä".repeat(200)));
        assert_eq!(shown(&"ä".repeat(200)).to_string(), "ä".repeat(200));
    }
}
