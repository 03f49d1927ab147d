//! Jinja2's filters, tests and functions where minijinja has none or other ones.

use minijinja::value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, filters};
use minijinja_contrib::globals;

use super::dialect::{BOUNDED, PERCENT, PRINTED};
use super::json::tojson;
use super::methods;

/// Longest list that may be added to.
const MOST_ITEMS: usize = 1 << 20;

/// minijinja's own `format`.
const PRINTF: &str = "printf";

/// Adds them all.
pub(super) fn add_to(environment: &mut Environment<'_>) {
    environment.add_filter("tojson", tojson);
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    environment.add_filter("forceescape", escape);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("indent", indent);
    environment.add_filter("wordcount", wordcount);
    environment.add_filter("center", center);
    environment.add_filter(PERCENT, percent);
    environment.add_filter(BOUNDED, bounded);
    environment.add_filter(PRINTED, printed);
    environment.add_filter("string", string);
    environment.add_filter("join", join);
    environment.add_filter("format", format);
    environment.add_filter(PRINTF, filters::format);
    environment.add_filter("sum", sum);
    environment.add_test("sequence", is_sequence);
    environment.add_function("joiner", globals::joiner);
    environment.add_function("cycler", |items: Rest<Value>| globals::cycler(items.0));
}

/// Whether a value has a length and items by number; minijinja says Iterable of what a slice or a sum makes.
fn is_sequence(value: &Value) -> bool {
    use ValueKind::*;
    matches!(value.kind(), String | Seq | Iterable | Map | Undefined)
}

/// A value as `str()` has it.
fn text(state: &mut State, value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => state.format(value.clone()),
    }
}

/// Lists, mappings and floats as texts; other values as they are.
pub(super) fn printed(state: &mut State, value: &Value) -> Result<Value, Error> {
    let is_plain = match value.kind() {
        ValueKind::Number => value.is_integer(),
        kind => matches!(kind, ValueKind::Undefined | ValueKind::None | ValueKind::Bool | ValueKind::String),
    };
    if is_plain { Ok(value.clone()) } else { Ok(Value::from(state.format(value.clone())?)) }
}

/// Arguments of a format, with [`printed`] lists and mappings.
pub(super) fn printed_arguments(state: &mut State, arguments: &[Value]) -> Result<Vec<Value>, Error> {
    let mut print = |value: &Value| if value.kind() == ValueKind::Number { Ok(value.clone()) } else { printed(state, value) };
    let mut made = Vec::with_capacity(arguments.len());
    for argument in arguments {
        made.push(if argument.is_kwargs() {
            let named = Kwargs::try_from(argument.clone())?;
            let pairs = named.args().map(|name| Ok((name.to_owned(), print(&named.peek(name)?)?)));
            Kwargs::from_iter(pairs.collect::<Result<Vec<_>, Error>>()?).into()
        } else {
            print(argument)?
        });
    }
    Ok(made)
}

fn string(state: &mut State, value: &Value) -> Result<Value, Error> {
    if value.as_str().is_some() { Ok(value.clone()) } else { Ok(Value::from(text(state, value)?)) }
}

fn format(state: &mut State, format: Value, arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    printf(state, format, &arguments.into_values())
}

fn printf(state: &mut State, format: Value, arguments: &[Value]) -> Result<Value, Error> {
    let mut all = vec![format];
    all.extend(printed_arguments(state, arguments)?);
    state.apply_filter(PRINTF, &all)
}

/// `join(items, d='', attribute=None)`.
fn join(
    state: &mut State,
    value: &Value,
    separator: Option<Value>,
    attribute: Option<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let separator = separator.or(named.get::<Option<Value>>("d")?).unwrap_or_else(|| Value::from(""));
    let attribute = attribute.or(named.get::<Option<Value>>("attribute")?);
    named.assert_all_used()?;
    let values = match attribute {
        Some(attribute) => state.apply_filter("map", &[value.clone(), Kwargs::from_iter([("attribute", attribute)]).into()])?,
        None => value.clone(),
    };
    let separator = text(state, &separator)?;
    let mut joined = String::new();
    for (index, item) in values.try_iter()?.checked().enumerate() {
        let item = text(state, &item?)?;
        // A fuel is 64 bytes.
        state.consume_fuel(1 + (separator.len() + item.len()) as u64 / 64)?;
        joined.push_str(if index > 0 { &separator } else { "" });
        joined.push_str(&item);
    }
    Ok(Value::from(joined))
}

/// markupsafe's escapes.
fn escape(state: &mut State, value: &Value) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value.clone());
    }
    let text = text(state, value)?;
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    Ok(Value::from_safe_string(escaped.replace('"', "&#34;").replace('\'', "&#39;")))
}

/// Python's `int(text, base)`, or of a float.
fn int(value: &Value, default: Option<Value>, base: Option<u32>, named: Kwargs) -> Result<Value, Error> {
    let default = default.or(named.get::<Option<Value>>("default")?).unwrap_or_else(|| Value::from(0));
    let base = base.or(named.get::<Option<u32>>("base")?).unwrap_or(10);
    named.assert_all_used()?;
    let truncated = |number: f64| if number.is_finite() { Value::from(number.trunc() as i128) } else { default.clone() };
    match (value.kind(), value.as_str()) {
        (ValueKind::Bool, _) => Ok(Value::from(i64::from(value.is_true()))),
        (ValueKind::Number, _) if value.is_integer() => Ok(value.clone()),
        (ValueKind::Number, _) => Ok(truncated(f64::try_from(value.clone())?)),
        (_, Some(text)) if (2..=36).contains(&base) => {
            let digits = text.trim().replace('_', "");
            let whole = i128::from_str_radix(&digits, base).map(Value::from);
            Ok(whole.unwrap_or_else(|_| digits.parse().map_or(default.clone(), truncated)))
        }
        _ => Ok(default),
    }
}

/// Python's `float(text)`.
fn float(value: &Value, default: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let default = default.or(named.get::<Option<Value>>("default")?).unwrap_or_else(|| Value::from(0.0));
    named.assert_all_used()?;
    match (value.kind(), value.as_str()) {
        (ValueKind::Bool, _) => Ok(Value::from(f64::from(u8::from(value.is_true())))),
        (ValueKind::Number, _) => Ok(Value::from(f64::try_from(value.clone())?)),
        (_, Some(text)) => Ok(text.trim().replace('_', "").parse::<f64>().map_or(default, Value::from)),
        _ => Ok(default),
    }
}

fn default(value: &Value, other: Option<Value>, boolean: Option<bool>, named: Kwargs) -> Result<Value, Error> {
    let other = other.or(named.get::<Option<Value>>("default_value")?).unwrap_or_else(|| Value::from(""));
    let boolean = boolean.or(named.get::<Option<bool>>("boolean")?).unwrap_or(false);
    named.assert_all_used()?;
    Ok(if value.is_undefined() || (boolean && !value.is_true()) { other } else { value.clone() })
}

/// `indent(text, width=4, first=False, blank=False)`; the width is spaces or a text.
fn indent(state: &mut State, value: &Value, positional: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let argument = |at: usize, name: &str| match positional.get(at) {
        Some(value) => Ok(value.clone()),
        None => named.get::<Option<Value>>(name).map(Option::unwrap_or_default),
    };
    let (width, first, blank) = (argument(0, "width")?, argument(1, "first")?.is_true(), argument(2, "blank")?.is_true());
    named.assert_all_used()?;
    let value = text(state, value)?;
    let width = match (width.as_str(), width.is_undefined() || width.is_none()) {
        (Some(text), _) => text.to_owned(),
        (None, true) => " ".repeat(4),
        (None, false) => " ".repeat(methods::width(state, &width)?),
    };
    let lines: Vec<&str> = value.split('\n').collect();
    state.consume_fuel((lines.len() as u64).saturating_mul(width.len() as u64) / 64 + lines.len() as u64)?;
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        text.push_str(if index > 0 { "\n" } else { "" });
        let is_indented = if index == 0 { first } else { blank || !line.is_empty() };
        text.push_str(if is_indented { &width } else { "" });
        text.push_str(line);
    }
    Ok(text)
}

fn wordcount(state: &mut State, value: &Value) -> Result<usize, Error> {
    let text = text(state, value)?;
    Ok(text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()).count())
}

fn center(state: &mut State, value: &Value, width: Option<Value>) -> Result<String, Error> {
    let text = text(state, value)?;
    methods::padded(state, &text, methods::Side::Both, &[width.unwrap_or_else(|| Value::from(80))])
}

/// The value itself, unless it is a list that is too long to be added to.
fn bounded(value: &Value) -> Result<Value, Error> {
    let is_list = matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
    match value.len() {
        Some(length) if is_list && length > MOST_ITEMS => Err(Error::from(ErrorKind::OutOfFuel)),
        _ => Ok(value.clone()),
    }
}

/// A sum, of lists that are bounded together.
fn sum(state: &mut State, values: Value, attribute: Option<Value>, start: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let attribute = attribute.or(named.get::<Option<Value>>("attribute")?);
    let start = start.or(named.get::<Option<Value>>("start")?);
    named.assert_all_used()?;
    let values = match attribute {
        Some(attribute) => state.apply_filter("map", &[values, Kwargs::from_iter([("attribute", attribute)]).into()])?,
        None => values,
    };
    let mut items = 0;
    for value in start.iter().cloned().map(Ok).chain(values.try_iter()?.checked()) {
        state.consume_fuel(1)?;
        items += bounded(&value?)?.len().unwrap_or(0);
        if items > MOST_ITEMS {
            return Err(Error::from(ErrorKind::OutOfFuel));
        }
    }
    filters::sum(state, values, None, start, Kwargs::from_iter::<[(&str, Value); 0]>([]))
}

/// Python's `text % value`: a tuple has the values, a mapping the named ones.
fn percent(state: &mut State, format: Value, value: Value) -> Result<Value, Error> {
    let mut arguments = Vec::new();
    match value.kind() {
        ValueKind::Seq if value.is_tuple() => {
            for item in value.try_iter()?.checked() {
                arguments.push(item?);
            }
        }
        ValueKind::Map => {
            let keys = value.try_iter()?.checked().collect::<Result<Vec<_>, _>>()?;
            let pair = |key: Value| -> Result<(String, Value), Error> {
                let name = key.as_str().ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "%: a key is no text"))?;
                Ok((name.to_owned(), value.get_item(&key)?))
            };
            arguments.push(Kwargs::from_iter(keys.into_iter().map(pair).collect::<Result<Vec<_>, _>>()?).into());
        }
        _ => arguments.push(value),
    }
    printf(state, format, &arguments)
}
