//! From the Jinja that transformers reads to the Jinja that minijinja reads. The number of lines stays, for messages.
//!
//! - `{% generation %}`, which marks what an assistant said for training, is `{% with %}`: a scope of its own, nothing else.
//! - `'…' % x` on a text literal is a filter, because minijinja's operator knows numbers only.
//! - Line ends are line feeds, as Jinja2 reads them.
//! - `a ~ b` writes lists as this program does: in Python's form, and bounded.
//! - `a + b` and `a * b` ask first how long the list `a` is: minijinja adds lists lazily and without fuel, and a list that is
//!   added to itself forty times fills all memory at once.

/// The filter that does what Python's `%` does on text.
pub(super) const PERCENT: &str = "python_percent";

/// The filter that writes a list or mapping as a text.
pub(super) const PRINTED: &str = "printed";

/// The filter that refuses a list which is too long to be added to.
pub(super) const BOUNDED: &str = "bounded";

/// Words after which an operand is still to come.
const KEYWORDS: &[&str] =
    &["and", "or", "not", "in", "is", "if", "elif", "else", "set", "for", "with", "call", "filter", "recursive"];

/// What the token before was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// A literal text.
    Text,
    /// A literal number, which is no list either.
    Number,
    /// The end of any other operand.
    Operand,
    /// Something that an operand follows.
    Other,
}

/// Translates a template; what is not valid Jinja stays as it is, for the parser to name.
pub(super) fn translate(template: &str) -> String {
    let source = template.replace("\r\n", "\n").replace('\r', "\n");
    let mut translated = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(start) = rest.find('{') {
        translated.push_str(&rest[..start]);
        rest = &rest[start..];
        let length = match rest.as_bytes().get(1) {
            Some(b'#') => rest.find("#}").map_or(rest.len(), |end| end + 2),
            Some(b'{') => inside(rest, "}}", &mut translated),
            Some(b'%') => block(rest, &mut translated),
            _ => 1,
        };
        if !matches!(rest.as_bytes().get(1), Some(b'{' | b'%')) {
            translated.push_str(&rest[..length]);
        }
        rest = &rest[length..];
    }
    translated + rest
}

/// Translates the block that `rest` begins with; returns its length.
fn block(rest: &str, translated: &mut String) -> usize {
    let before = rest[2..].find(|c: char| !(c.is_whitespace() || c == '-' || c == '+')).map_or(rest.len(), |at| at + 2);
    let name = rest[before..].split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default();
    let after = before + name.len();
    let is_alone = || rest[after..].trim_start().trim_start_matches(['-', '+']).starts_with("%}");
    let plain = match name {
        "raw" => return raw(rest, translated),
        "generation" if is_alone() => "with",
        "endgeneration" if is_alone() => "endwith",
        _ => return inside(rest, "%}", translated),
    };
    translated.push_str(&rest[..before]);
    translated.push_str(plain);
    after
}

/// Copies a raw block, to the end of its last tag; returns its length.
fn raw(rest: &str, translated: &mut String) -> usize {
    let mut from = 2;
    let end = loop {
        let Some(at) = rest[from..].find("{%") else { break rest.len() };
        let tag = from + at + 2;
        let inner = rest[tag..].trim_start_matches(['-', '+']).trim_start();
        if inner.starts_with("endraw") {
            break rest[tag..].find("%}").map_or(rest.len(), |close| tag + close + 2);
        }
        from = tag;
    };
    translated.push_str(&rest[..end]);
    end
}

/// Copies an expression or a block with expressions, to its `close`, percent signs on literals translated; returns its length.
fn inside(rest: &str, close: &str, translated: &mut String) -> usize {
    let mut at = 2;
    translated.push_str(&rest[..2]);
    let mut depth = 0usize;
    let mut before = Before::Other;
    while at < rest.len() {
        let tail = &rest[at..];
        // White space control stands before the close.
        let is_end = |tail: &str| tail.starts_with(close);
        if depth == 0 && (is_end(tail) || tail.strip_prefix(['-', '+']).is_some_and(is_end)) {
            let length = close.len() + usize::from(!is_end(tail));
            translated.push_str(&tail[..length]);
            return at + length;
        }
        let length = token(tail);
        let word = &tail[..length];
        at += length;
        match word {
            "%" if before == Before::Text => {
                if let Some((operand, length)) = operand(&tail[length..]) {
                    translated.push_str(&format!("|{PERCENT}({operand})"));
                    at += length;
                    continue;
                }
            }
            "~" => {
                translated.push_str(&if before == Before::Operand { format!("|{PRINTED}~") } else { "~".to_owned() });
                before = Before::Other;
                if let Some((operand, length)) = operand(&tail[length..]) {
                    translated.push_str(&format!("{operand}|{PRINTED}"));
                    at += length;
                    before = Before::Operand;
                }
                continue;
            }
            "+" | "*" if before == Before::Operand => translated.push_str(&format!("|{BOUNDED}")),
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        before = after(word).unwrap_or(before);
        translated.push_str(word);
    }
    at
}

/// What a token is to the next one; white space is nothing.
fn after(word: &str) -> Option<Before> {
    let first = word.chars().next()?;
    match first {
        c if c.is_whitespace() => None,
        '\'' | '"' => Some(Before::Text),
        ')' | ']' | '}' => Some(Before::Operand),
        c if c.is_ascii_digit() => Some(Before::Number),
        c if (c.is_alphanumeric() || c == '_') && !KEYWORDS.contains(&word) => Some(Before::Operand),
        _ => Some(Before::Other),
    }
}

/// Bytes of the token that `text`, which is not empty, begins with: text, a name or number, white space, or one character.
fn token(text: &str) -> usize {
    let first = text.chars().next().unwrap_or_default();
    let run = |is_part: &dyn Fn(char) -> bool| text.find(|c| !is_part(c)).unwrap_or(text.len());
    match first {
        '\'' | '"' => {
            let mut escaped = false;
            let end = text[1..].find(|c| {
                let is_end = c == first && !escaped;
                escaped = c == '\\' && !escaped;
                is_end
            });
            end.map_or(text.len(), |end| end + 2)
        }
        c if c.is_alphanumeric() || c == '_' => run(&|c| c.is_alphanumeric() || c == '_'),
        c if c.is_whitespace() => run(&char::is_whitespace),
        '*' if text.starts_with("**") => 2,
        c => c.len_utf8(),
    }
}

/// The operand that `text` begins with, translated, and its bytes: a literal, a name or a bracket, what is called or indexed on
/// it, and filters.
fn operand(text: &str) -> Option<(String, usize)> {
    let begin = text.len() - text.trim_start().len();
    let mut end = begin + item(&text[begin..])?;
    if KEYWORDS.contains(&&text[begin..end]) {
        return None;
    }
    loop {
        let gap = text[end..].len() - text[end..].trim_start().len();
        let tail = &text[end + gap..];
        end += match tail.as_bytes().first() {
            Some(b'(' | b'[') => gap + item(tail)?,
            Some(b'.' | b'|') => {
                let space = tail[1..].len() - tail[1..].trim_start().len();
                gap + 1 + space + item(&tail[1 + space..])?
            }
            _ => break,
        };
    }
    let mut whole = String::new();
    // It may hold sums of its own.
    inside(&format!("{{{{{}", &text[begin..end]), "}}", &mut whole);
    Some((whole.split_off(2), end))
}

/// Bytes of a literal, a name, or a bracket with all that is in it.
fn item(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut end = 0;
    while end < text.len() {
        let length = token(&text[end..]);
        match &text[end..end + length] {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.checked_sub(1)?,
            word if depth == 0 && !word.starts_with(|c: char| c.is_alphanumeric() || "_'\"".contains(c)) => return None,
            _ => {}
        }
        end += length;
        if depth == 0 {
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tag_is_translated() {
        for (jinja, expected) in [
            ("a {%- generation -%} b {% endgeneration +%}", "a {%- with -%} b {% endwith +%}"),
            ("{# {% generation %} #}{{ '{% generation %}' }}", "{# {% generation %} #}{{ '{% generation %}' }}"),
            ("{% raw %}{% generation %}{% endraw %}{%generation%}", "{% raw %}{% generation %}{% endraw %}{%with%}"),
            ("{% set generation = 1 %}{% generation x %}", "{% set generation = 1 %}{% generation x %}"),
            ("{{ {'a': {}} }}{% generation %}", "{{ {'a': {}} }}{% with %}"),
            ("a\r\nb\rc", "a\nb\nc"),
            ("{", "{"),
            ("{{ 'a", "{{ 'a"),
            ("{{ é -é }}{% é", "{{ é -é }}{% é"),
            ("{% raw %}x", "{% raw %}x"),
            ("{#", "{#"),
        ] {
            assert_eq!(translate(jinja), expected);
        }
    }

    #[test]
    fn what_is_added_to_is_asked_for_its_length() {
        for (jinja, expected) in [
            ("{{ a + b[0] * c() ~ +1 }}", "{{ a |bounded+ b[0] |bounded* c() |printed~ +1 }}"),
            ("{%+ if +1 + 2 + a +%}", "{%+ if +1 + 2 + a +%}"),
            ("{{ a ** 2 - f(*b, **c) + 'd' + e }}", "{{ a ** 2 - f(*b, **c) |bounded+ 'd' + e }}"),
            ("{% if not a in + b %}{{- a -}}", "{% if not a in + b %}{{- a -}}"),
        ] {
            assert_eq!(translate(jinja), expected);
        }
    }

    #[test]
    fn what_is_strung_together_is_written_first() {
        for (jinja, expected) in [
            ("{{ a ~ b.c(d ~ 1)|upper ~ 'e' }}", "{{ a |printed~b.c(d |printed~1|printed)|upper|printed |printed~'e'|printed }}"),
            ("{{ a ~ -1 }}", "{{ a |printed~ -1 }}"),
            ("{{ a ~ (b if c else d) }}", "{{ a |printed~(b if c else d)|printed }}"),
        ] {
            assert_eq!(translate(jinja), expected);
        }
    }

    #[test]
    fn percent_on_a_literal_is_a_filter() {
        for (jinja, expected) in [
            ("{{ '%s' % x }}", "{{ '%s' |python_percent(x) }}"),
            ("{{ \"%s\\\"%%\" % (a, 'b)') ~ c }}", "{{ \"%s\\\"%%\" |python_percent((a, 'b)')) ~c|printed }}"),
            ("{{ '%s'%m['a'].b(1)|upper }}", "{{ '%s'|python_percent(m['a'].b(1)|upper) }}"),
            ("{{ x % 2 }}{{ f('a') % 2 }}{% if 'a' %}b{%- endif -%}", "{{ x % 2 }}{{ f('a') % 2 }}{% if 'a' %}b{%- endif -%}"),
            ("{{ '%s' % }}", "{{ '%s' % }}"),
            ("{{ '%s' % (a + b) }}", "{{ '%s' |python_percent((a |bounded+ b)) }}"),
        ] {
            assert_eq!(translate(jinja), expected);
        }
    }
}
