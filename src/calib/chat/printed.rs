//! How Python writes values: what a template prints.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, Output, State};
use regex::Regex;
use std::sync::LazyLock;

/// Lists in lists that are written. Python has a limit too, at about a thousand.
pub(super) const MOST_NESTED: usize = 900;

/// Most bytes that one value is written as.
pub(super) const MOST_WRITTEN: usize = super::MOST_RENDERED;

/// Writes a value where a template prints it.
pub(super) fn write(output: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    let failed = |_| Error::from(ErrorKind::WriteFailure);
    if value.is_undefined() {
        return Ok(());
    }
    if let Some(text) = value.as_str() {
        return output.write_str(text).map_err(failed);
    }
    let mut text = String::new();
    repr(value, 0, &mut text)?;
    // Walking a value costs more than copying its text.
    state.consume_fuel(text.len() as u64 / 8)?;
    output.write_str(&text).map_err(failed)
}

/// The error for a value that is too deep or too large to be written.
pub(super) fn too_much() -> Error {
    Error::from(ErrorKind::OutOfFuel)
}

/// Adds `repr(value)`.
fn repr(value: &Value, depth: usize, text: &mut String) -> Result<(), Error> {
    if depth > MOST_NESTED || text.len() > MOST_WRITTEN {
        return Err(too_much());
    }
    match value.kind() {
        ValueKind::Undefined => text.push_str("Undefined"),
        ValueKind::String => quote(value.as_str().unwrap_or_default(), text),
        ValueKind::Number if !value.is_integer() => text.push_str(&float(f64::try_from(value.clone())?)),
        ValueKind::Map => {
            text.push('{');
            for (index, key) in value.try_iter()?.checked().enumerate() {
                let key = key?;
                text.push_str(if index > 0 { ", " } else { "" });
                repr(&key, depth + 1, text)?;
                text.push_str(": ");
                repr(&value.get_item(&key)?, depth + 1, text)?;
            }
            text.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let is_tuple = value.is_tuple();
            text.push(if is_tuple { '(' } else { '[' });
            let mut count = 0;
            for item in value.try_iter()?.checked() {
                text.push_str(if count > 0 { ", " } else { "" });
                repr(&item?, depth + 1, text)?;
                count += 1;
            }
            text.push_str(if is_tuple && count == 1 { "," } else { "" });
            text.push(if is_tuple { ')' } else { ']' });
        }
        _ => text.push_str(&value.to_string()),
    }
    Ok(())
}

/// A float as Python's `repr` has it: the shortest digits that read back, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float(number: f64) -> String {
    if !number.is_finite() {
        return number.to_string().to_lowercase();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse().unwrap_or(0) {
        -4..=15 => format!("{number:?}"),
        exponent => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, i32::abs(exponent)),
    }
}

/// Adds `repr` of a text: in single quotes unless it holds one and no double quote.
fn quote(value: &str, text: &mut String) {
    let quote = if value.contains('\'') && !value.contains('"') { '"' } else { '\'' };
    text.push(quote);
    for character in value.chars() {
        match character {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\\' => text.push_str("\\\\"),
            c if c == quote => text.extend(['\\', c]),
            ' '..='~' => text.push(character),
            c if is_printable(c) => text.push(c),
            c => match u32::from(c) {
                code @ ..=0xff => text.push_str(&format!("\\x{code:02x}")),
                code @ ..=0xffff => text.push_str(&format!("\\u{code:04x}")),
                code => text.push_str(&format!("\\U{code:08x}")),
            },
        }
    }
    text.push(quote);
}

/// `str.isprintable`: no control, format, private, unassigned character, and no separator.
fn is_printable(character: char) -> bool {
    static OTHER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[\p{C}\p{Z}]").expect("general categories"));
    !OTHER.is_match(character.encode_utf8(&mut [0; 4]))
}
