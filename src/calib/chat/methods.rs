//! Python's methods of text, lists and mappings.

use minijinja::value::{Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::filters::printed_arguments;

/// Widest field of a format, and of what is filled.
const MOST_WIDTH: usize = 1 << 20;

/// Where a text is filled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
    Both,
}

/// Calls a method that minijinja does not have itself. What makes more than it was given is done here, where the work is
/// counted before it is begun; the rest is minijinja-contrib's.
pub(super) fn call(state: &mut State, value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let own = match (value.as_str(), value.kind()) {
        (Some(text), _) if method == "format" => {
            refuse_wide(text, arguments)?;
            let arguments = printed_arguments(state, arguments)?;
            return unknown_method_callback(state, value, method, &arguments);
        }
        (Some(text), _) => text_method(state, text, method, arguments)?,
        // What a slice or a sum makes is no Seq to minijinja.
        (None, ValueKind::Seq | ValueKind::Iterable) => list_method(state, value, method, arguments)?,
        _ => None,
    };
    own.map_or_else(|| unknown_method_callback(state, value, method, arguments), Ok)
}

fn text_method(state: &State, text: &str, method: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    let one = || -> Result<&str, Error> { from_args(arguments).map(|(other,): (&str,)| other) };
    Ok(Some(match method {
        "split" | "rsplit" => split(state, text, arguments, method == "rsplit")?,
        "splitlines" => split_lines(state, text, arguments)?,
        "partition" => parts(text, text.find(one()?), one()?, false),
        "rpartition" => parts(text, text.rfind(one()?), one()?, true),
        "removeprefix" => Value::from(text.strip_prefix(one()?).unwrap_or(text)),
        "removesuffix" => Value::from(text.strip_suffix(one()?).unwrap_or(text)),
        "index" => Value::from(position(text, text.find(one()?))?),
        "rindex" => Value::from(position(text, text.rfind(one()?))?),
        "replace" => replaced(state, text, arguments)?,
        "join" => joined(state, text, arguments)?,
        "center" => Value::from(padded(state, text, Side::Both, arguments)?),
        "ljust" => Value::from(padded(state, text, Side::Right, arguments)?),
        "rjust" => Value::from(padded(state, text, Side::Left, arguments)?),
        "zfill" => Value::from(zero_filled(state, text, arguments)?),
        "isdecimal" => Value::from(!text.is_empty() && text.chars().all(|c| c.is_ascii_digit())),
        "title" => Value::from(titled(text)),
        "casefold" => Value::from(text.to_lowercase().replace('ß', "ss")),
        "swapcase" => {
            let swapped = |c: char| if c.is_lowercase() { c.to_uppercase().to_string() } else { c.to_lowercase().to_string() };
            Value::from(text.chars().map(swapped).collect::<String>())
        }
        _ => return Ok(None),
    }))
}

fn list_method(state: &State, value: &Value, method: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    if !matches!(method, "index" | "count") {
        return Ok(None);
    }
    let (wanted,): (&Value,) = from_args(arguments)?;
    let (mut first, mut count) = (None, 0);
    for (index, item) in value.try_iter()?.checked().enumerate() {
        pay(state, 1, 0)?;
        if item? == *wanted {
            first = first.or(Some(index));
            count += 1;
        }
    }
    if method == "count" {
        return Ok(Some(Value::from(count)));
    }
    first.map(|index| Some(Value::from(index))).ok_or_else(|| failed("index: the value is not in the list"))
}

fn failed(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

/// Pays for `items` values of a list and `bytes` of text before they are made.
fn pay(state: &State, items: usize, bytes: usize) -> Result<(), Error> {
    state.consume_fuel((items as u64).saturating_add(bytes as u64 / 64))
}

/// Python's `split` and `rsplit`: at white space without a separator.
fn split(state: &State, text: &str, arguments: &[Value], from_the_right: bool) -> Result<Value, Error> {
    let (separator, most): (Option<&str>, Option<i64>) = from_args(arguments)?;
    let most = usize::try_from(most.unwrap_or(-1)).unwrap_or(usize::MAX);
    let mut pieces: Vec<&str> = match separator {
        Some("") => return Err(failed("split: the separator is empty")),
        Some(separator) => {
            pay(state, text.matches(separator).count().min(most).saturating_add(1), 0)?;
            match from_the_right {
                true => text.rsplitn(most.saturating_add(1), separator).collect(),
                false => text.splitn(most.saturating_add(1), separator).collect(),
            }
        }
        None => {
            pay(state, text.split_whitespace().count().min(most).saturating_add(1), 0)?;
            words(text, most, from_the_right)
        }
    };
    if from_the_right {
        pieces.reverse();
    }
    Ok(pieces.into_iter().map(Value::from).collect())
}

/// Words cut off one end, at most so many, and what is left, which keeps the white space at its other end.
fn words(text: &str, most: usize, from_the_right: bool) -> Vec<&str> {
    let mut rest = if from_the_right { text.trim_end() } else { text.trim_start() };
    let mut found = Vec::new();
    while !rest.is_empty() {
        let cut = if from_the_right { rest.rfind(char::is_whitespace) } else { rest.find(char::is_whitespace) };
        let Some(at) = cut.filter(|_| found.len() < most) else {
            found.push(rest);
            break;
        };
        let (left, right) = rest.split_at(at);
        found.push(if from_the_right { right.trim_start() } else { left });
        rest = if from_the_right { left.trim_end() } else { right.trim_start() };
    }
    found
}

/// Python's `title`: a capital after whatever has no case, an apostrophe too.
fn titled(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    let mut is_within = false;
    for character in text.chars() {
        if is_within {
            titled.extend(character.to_lowercase());
        } else {
            // A letter such as ß has two capitals, of which the first alone stays one.
            let mut capitals = character.to_uppercase();
            titled.extend(capitals.next());
            titled.extend(capitals.flat_map(char::to_lowercase));
        }
        is_within = character.is_lowercase() || character.is_uppercase();
    }
    titled
}

/// Python's `splitlines`, which knows more line ends than the line feed.
fn split_lines(state: &State, text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (keep_ends,): (Option<bool>,) = from_args(arguments)?;
    let is_end =
        |c: char| matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    pay(state, text.matches(is_end).count() + 1, 0)?;
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(is_end).unwrap_or(rest.len());
        let length = match &rest[end..] {
            tail if tail.starts_with("\r\n") => 2,
            tail => tail.chars().next().map_or(0, char::len_utf8),
        };
        lines.push(Value::from(&rest[..if keep_ends == Some(true) { end + length } else { end }]));
        rest = &rest[end + length..];
    }
    Ok(Value::from(lines))
}

/// What is before the separator, the separator, and what is after it.
fn parts(text: &str, at: Option<usize>, separator: &str, from_the_right: bool) -> Value {
    let parts = match at {
        Some(at) => [&text[..at], separator, &text[at + separator.len()..]],
        None if from_the_right => ["", "", text],
        None => [text, "", ""],
    };
    Value::from(Tuple::from(parts.map(Value::from)))
}

/// A place in characters.
fn position(text: &str, at: Option<usize>) -> Result<usize, Error> {
    at.map(|at| text[..at].chars().count()).ok_or_else(|| failed("index: the text does not occur"))
}

fn replaced(state: &State, text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (old, new, most): (&str, &str, Option<i64>) = from_args(arguments)?;
    let most = usize::try_from(most.unwrap_or(-1)).unwrap_or(usize::MAX);
    let times = text.matches(old).count().min(most);
    pay(state, 0, text.len().saturating_add(times.saturating_mul(new.len())))?;
    Ok(Value::from(text.replacen(old, new, most)))
}

fn joined(state: &State, separator: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (items,): (&Value,) = from_args(arguments)?;
    let mut text = String::new();
    for (index, item) in items.try_iter()?.checked().enumerate() {
        let item = item?;
        let piece = item.as_str().ok_or_else(|| failed("join: an item is no text"))?;
        pay(state, 1, separator.len() + piece.len())?;
        text.push_str(if index > 0 { separator } else { "" });
        text.push_str(piece);
    }
    Ok(Value::from(text))
}

/// A width as a number of characters that a text may have.
pub(super) fn width(state: &State, value: &Value) -> Result<usize, Error> {
    let width = i64::try_from(value.clone()).map_err(|_| failed("a width is no whole number"))?;
    let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
    pay(state, 0, width)?;
    Ok(width)
}

/// `center`, `ljust`, `rjust`.
pub(super) fn padded(state: &State, text: &str, side: Side, arguments: &[Value]) -> Result<String, Error> {
    let (wanted, fill): (&Value, Option<&str>) = from_args(arguments)?;
    let wanted = width(state, wanted)?;
    let missing = wanted.saturating_sub(text.chars().count());
    let before = match side {
        Side::Left => missing,
        Side::Right => 0,
        // CPython's rounding.
        Side::Both => missing / 2 + (missing & wanted & 1),
    };
    let fill = fill.unwrap_or(" ");
    Ok(format!("{}{text}{}", fill.repeat(before), fill.repeat(missing - before)))
}

fn zero_filled(state: &State, text: &str, arguments: &[Value]) -> Result<String, Error> {
    let (wanted,): (&Value,) = from_args(arguments)?;
    let missing = width(state, wanted)?.saturating_sub(text.chars().count());
    let sign = usize::from(text.starts_with(['+', '-']));
    Ok(format!("{}{}{}", &text[..sign], "0".repeat(missing), &text[sign..]))
}

/// Refuses a format whose fields are wider than any text: minijinja would make them before it counts them.
fn refuse_wide(format: &str, arguments: &[Value]) -> Result<(), Error> {
    let number = |digits: &str| digits.parse::<usize>().map_or(!digits.is_empty(), |width| width > MOST_WIDTH);
    let is_wide = format.split(|c: char| !c.is_ascii_digit()).any(number);
    // A field's width may be an argument: {:{}}.
    let is_nested = format.split('{').skip(1).any(|field| field.contains(':') && !field.contains('}'));
    let has_wide = arguments.iter().any(|value| value.as_usize().is_some_and(|width| width > MOST_WIDTH));
    if is_wide || (is_nested && has_wide) { Err(Error::from(ErrorKind::OutOfFuel)) } else { Ok(()) }
}
