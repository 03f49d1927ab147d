//! `json.dumps` as a template's `tojson` calls it.

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use super::printed::{MOST_NESTED, MOST_WRITTEN, float, too_much};

/// How JSON is laid out.
struct JsonLayout {
    ensure_ascii: bool,
    /// What a level is indented by; on one line without it.
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(state: &State, value: &Value, positional: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let layout = JsonLayout::of(&positional, &named)?;
    named.assert_all_used()?;
    let mut text = String::new();
    layout.write(value, 0, &mut text)?;
    // Walking a value costs more than copying its text.
    state.consume_fuel(text.len() as u64 / 8)?;
    Ok(text)
}

fn wrong(what: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {what}"))
}

impl JsonLayout {
    fn of(positional: &[Value], named: &Kwargs) -> Result<JsonLayout, Error> {
        if positional.len() > 4 {
            return Err(Error::from(ErrorKind::TooManyArguments));
        }
        let argument = |at: usize, name: &str| match positional.get(at) {
            Some(value) => Ok(value.clone()),
            None => named.get::<Option<Value>>(name).map(Option::unwrap_or_default),
        };
        let indent = indent(&argument(1, "indent")?)?;
        let separators = argument(2, "separators")?;
        let (item_separator, key_separator) = match (separators.is_none() || separators.is_undefined(), &indent) {
            (true, None) => (", ".to_owned(), ": ".to_owned()),
            (true, Some(_)) => (",".to_owned(), ": ".to_owned()),
            (false, _) => {
                let parts: Vec<Value> = separators.try_iter()?.checked().take(3).collect::<Result<_, _>>()?;
                match parts.iter().map(Value::as_str).collect::<Option<Vec<_>>>().as_deref() {
                    Some([item, key]) => ((*item).to_owned(), (*key).to_owned()),
                    _ => return Err(wrong("separators: expected two texts".to_owned())),
                }
            }
        };
        let ensure_ascii = argument(0, "ensure_ascii")?.is_true();
        Ok(JsonLayout { ensure_ascii, indent, item_separator, key_separator, sort_keys: argument(3, "sort_keys")?.is_true() })
    }

    fn write(&self, value: &Value, depth: usize, text: &mut String) -> Result<(), Error> {
        if depth > MOST_NESTED || text.len() > MOST_WRITTEN {
            return Err(too_much());
        }
        match value.kind() {
            ValueKind::None => text.push_str("null"),
            ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => text.push_str(&number(value)?),
            ValueKind::String => self.quote(value.as_str().unwrap_or_default(), text),
            // What a slice or a sum makes is no Seq to minijinja.
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.checked();
                self.container(['[', ']'], depth, text, items, |item, text| self.write(item, depth + 1, text))?;
            }
            ValueKind::Map => {
                let mut keys = value.try_iter()?.checked().collect::<Result<Vec<_>, _>>()?;
                if self.sort_keys {
                    keys.sort_by(|a, b| a.as_str().cmp(&b.as_str()).then_with(|| a.cmp(b)));
                }
                self.container(['{', '}'], depth, text, keys.into_iter().map(Ok), |key, text| {
                    self.quote(&name(key)?, text);
                    text.push_str(&self.key_separator);
                    self.write(&value.get_item(key)?, depth + 1, text)
                })?;
            }
            kind => return Err(wrong(format!("{kind} cannot be written as JSON"))),
        }
        Ok(())
    }

    fn container(
        &self,
        brackets: [char; 2],
        depth: usize,
        text: &mut String,
        items: impl Iterator<Item = Result<Value, Error>>,
        mut write: impl FnMut(&Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        text.push(brackets[0]);
        let mut is_empty = true;
        for item in items {
            if !is_empty {
                text.push_str(&self.item_separator);
            }
            is_empty = false;
            self.new_line(depth + 1, text)?;
            write(&item?, text)?;
        }
        if !is_empty {
            self.new_line(depth, text)?;
        }
        text.push(brackets[1]);
        Ok(())
    }

    fn new_line(&self, depth: usize, text: &mut String) -> Result<(), Error> {
        let Some(indent) = &self.indent else { return Ok(()) };
        if text.len() + depth.saturating_mul(indent.len()) > MOST_WRITTEN {
            return Err(too_much());
        }
        text.push('\n');
        (0..depth).for_each(|_| text.push_str(indent));
        Ok(())
    }

    fn quote(&self, value: &str, text: &mut String) {
        text.push('"');
        for character in value.chars() {
            match character {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\u{8}' => text.push_str("\\b"),
                '\u{c}' => text.push_str("\\f"),
                c if c < ' ' || self.ensure_ascii && !(' '..='~').contains(&c) => {
                    c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
                }
                c => text.push(c),
            }
        }
        text.push('"');
    }
}

/// What a level is indented by: so many spaces, or a text.
fn indent(value: &Value) -> Result<Option<String>, Error> {
    if value.is_none() || value.is_undefined() {
        return Ok(None);
    }
    if let Some(text) = value.as_str() {
        return Ok(Some(text.to_owned()));
    }
    let width = i64::try_from(value.clone()).map_err(|_| wrong("indent: expected a whole number or a text".to_owned()))?;
    match usize::try_from(width.max(0)) {
        Ok(width) if width <= MOST_WRITTEN => Ok(Some(" ".repeat(width))),
        _ => Err(too_much()),
    }
}

fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    Ok(match f64::try_from(value.clone())? {
        nan if nan.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        finite => float(finite),
    })
}

/// A key as JSON has it.
fn name(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::Number => number(key),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        kind => Err(wrong(format!("{kind} cannot be a key"))),
    }
}
