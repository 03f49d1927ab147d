//! From the Jinja that transformers reads to the Jinja that minijinja reads. The number of lines stays, for messages.
//!
//! - `{% generation %}`, which marks what an assistant said for training, is `{% with %}`: a scope of its own, nothing else.
//! - `'…' % x` on a text literal is a filter, because minijinja's operator knows numbers only.
//! - Line ends are line feeds, as Jinja2 reads them.
//! - `a ~ b` writes lists and floats as this program does: in Python's form, and bounded. An operand of it is a whole product.
//! - `a + b` and `a * b` ask first how long the list `a` is: minijinja adds lists lazily and without fuel, and a list that is
//!   added to itself forty times fills all memory at once.

/// The filter that does what Python's `%` does on text.
pub(super) const PERCENT: &str = "python_percent";

/// The filter that writes a list or mapping as a text.
pub(super) const PRINTED: &str = "printed";

/// The filter that refuses a list which is too long to be added to.
pub(super) const BOUNDED: &str = "bounded";

/// Words that end an operand and that another one follows.
const KEYWORDS: &[&str] = &["and", "or", "not", "in", "if", "else", "recursive"];

/// What the token before was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// A literal text.
    Text,
    /// A literal number, which is no list either.
    Number,
    /// The end of any other operand.
    Operand,
    /// A dot or a bar, which a name follows, be it a keyword.
    Access,
    /// `is` or `is not`, which a test's name follows, be it a keyword.
    Test,
    /// Something that an operand follows.
    Other,
}

/// What is known of an expression at one depth of its brackets.
#[derive(Default)]
struct Level {
    /// Where in the translation the product begins that is being copied.
    product: Option<usize>,
    /// Whether the product follows a `~`.
    is_strung: bool,
    /// Whether the value of a `'…' %` is being copied, as the argument of a filter.
    is_value: bool,
}

/// An expression that is being translated, token by token.
struct Expression<'a> {
    translated: &'a mut String,
    before: Before,
    level: Level,
    /// Those of the brackets around it.
    outer: Vec<Level>,
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
            Some(b'{') => inside(rest, 2, "}}", &mut translated),
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
        _ => return inside(rest, after, "%}", translated),
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

/// Copies the rest of an expression or of a block with expressions, from byte `at` to its `close`, translated; returns its length
/// from its beginning.
fn inside(rest: &str, mut at: usize, close: &str, translated: &mut String) -> usize {
    translated.push_str(&rest[..at]);
    let mut expression = Expression { translated, before: Before::Other, level: Level::default(), outer: Vec::new() };
    while at < rest.len() {
        let tail = &rest[at..];
        // White space control stands before the close.
        let is_end = |tail: &str| tail.starts_with(close);
        if expression.outer.is_empty() && (is_end(tail) || tail.strip_prefix(['-', '+']).is_some_and(is_end)) {
            let length = close.len() + usize::from(!is_end(tail));
            expression.end_product(false);
            expression.translated.push_str(&tail[..length]);
            return at + length;
        }
        let length = token(tail);
        expression.add(&tail[..length]);
        at += length;
    }
    at
}

impl Expression<'_> {
    /// Adds a token.
    fn add(&mut self, word: &str) {
        let after = after(word, self.before);
        let is_sign = !matches!(self.before, Before::Text | Before::Number | Before::Operand);
        match word {
            blank if blank.trim().is_empty() => {}
            "(" | "[" | "{" => self.begin_product(),
            ")" | "]" | "}" => {
                self.end_product(false);
                self.level = self.outer.pop().unwrap_or_default();
            }
            "~" => self.end_product(true),
            "*" | "/" | "%" => self.end_value(),
            "**" => {}
            "+" | "-" if is_sign => self.begin_product(),
            _ if after == Before::Other => self.end_product(false),
            _ => self.begin_product(),
        }
        match (word, self.before) {
            ("%", Before::Text) => {
                self.translated.push_str(&format!("|{PERCENT}("));
                self.level.is_value = true;
            }
            ("+" | "*", Before::Operand) => self.translated.push_str(&format!("|{BOUNDED}{word}")),
            _ => self.translated.push_str(word),
        }
        if matches!(word, "(" | "[" | "{") {
            self.outer.push(std::mem::take(&mut self.level));
        }
        self.before = after;
    }

    /// What comes is of a product, the operand of a `~`.
    fn begin_product(&mut self) {
        self.level.product.get_or_insert(self.translated.len());
    }

    /// The product is over; a `~` may come.
    fn end_product(&mut self, is_strung: bool) {
        self.end_value();
        let was_strung = std::mem::replace(&mut self.level.is_strung, is_strung);
        match self.level.product.take() {
            Some(begin) if is_strung || was_strung => {
                self.translated.insert(begin, '(');
                self.close(&format!(")|{PRINTED}"));
            }
            _ => {}
        }
    }

    /// The value of a `'…' %` is over, which makes a text. Where there was none, the parser will miss the bracket.
    fn end_value(&mut self) {
        if std::mem::take(&mut self.level.is_value) && self.before != Before::Other {
            self.close(")");
            self.before = Before::Text;
        }
    }

    /// Adds what closes an operand, before the white space that parts it from a keyword.
    fn close(&mut self, by: &str) {
        let end = self.translated.trim_end().len();
        self.translated.insert_str(end, by);
    }
}

/// What a token is to the next one, after what was `before`; white space is nothing.
fn after(word: &str, before: Before) -> Before {
    let first = word.chars().next().unwrap_or_default();
    match first {
        c if c.is_whitespace() => before,
        '\'' | '"' => Before::Text,
        ')' | ']' | '}' => Before::Operand,
        '.' | '|' => Before::Access,
        c if c.is_alphanumeric() || c == '_' => match word {
            "not" if before == Before::Test => Before::Test,
            _ if matches!(before, Before::Access | Before::Test) => Before::Operand,
            "is" => Before::Test,
            word if KEYWORDS.contains(&word) => Before::Other,
            _ if c.is_ascii_digit() => Before::Number,
            _ => Before::Operand,
        },
        _ => Before::Other,
    }
}

/// Bytes of the token that `text`, which is not empty, begins with: text, a name or number, white space, or one character.
fn token(text: &str) -> usize {
    let first = text.chars().next().unwrap_or_default();
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
        c if c.is_ascii_digit() => number(text),
        c if is_of_a_name(c) => text.find(|c| !is_of_a_name(c)).unwrap_or(text.len()),
        c if c.is_whitespace() => text.find(|c: char| !c.is_whitespace()).unwrap_or(text.len()),
        '*' if text.starts_with("**") => 2,
        c => c.len_utf8(),
    }
}

fn is_of_a_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Bytes of a number, which may have a fraction and an exponent with a sign.
fn number(text: &str) -> usize {
    let run = |from: usize| text[from..].find(|c| !is_of_a_name(c)).map_or(text.len(), |end| from + end);
    let is_digit = |c: char| c.is_ascii_digit();
    let goes_on = |end: usize, by: &[char]| text[end..].strip_prefix(by).is_some_and(|rest| rest.starts_with(is_digit));
    let mut end = run(0);
    if goes_on(end, &['.']) {
        end = run(end + 1);
    }
    let has_exponent = !text.starts_with("0x") && text[..end].ends_with(['e', 'E']);
    if has_exponent && goes_on(end, &['+', '-']) { run(end + 1) } else { end }
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
            ("{{ a + b[0] * c() - d }}", "{{ a |bounded+ b[0] |bounded* c() - d }}"),
            ("{{ x.0 + 1.5 * 2 + y }}", "{{ x.0 |bounded+ 1.5 * 2 + y }}"),
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
            (
                "{{ a ~ b.c(d ~ 1)|upper ~ 'e' }}",
                "{{ (a)|printed ~ (b.c((d)|printed ~ (1)|printed)|upper)|printed ~ ('e')|printed }}",
            ),
            ("{{ a ~ -1 ~ +b }}", "{{ (a)|printed ~ (-1)|printed ~ (+b)|printed }}"),
            ("{{ a ~ (b if c else d) }}", "{{ (a)|printed ~ ((b if c else d))|printed }}"),
            ("{{ a - 2 * b ~ c // -d ** e - f }}", "{{ a - (2 * b)|printed ~ (c // -d ** e)|printed - f }}"),
            (
                "{% if a ~ b == c if d ~ e else f %}",
                "{% if (a)|printed ~ (b)|printed == c if (d)|printed ~ (e)|printed else f %}",
            ),
            (
                "{% set x.not = 1.5e-7 ~ a is not in [b] and 0xe-7 ~ c %}",
                "{% set x.not = (1.5e-7)|printed ~ (a is not in [b])|printed and 0xe-(7)|printed ~ (c)|printed %}",
            ),
            ("{{ a ~ '%d' % b * 2 }}", "{{ (a)|printed ~ ('%d' |python_percent( b) * 2)|printed }}"),
            ("{{ {a ~ b: c[d ~ e:]} }}", "{{ {(a)|printed ~ (b)|printed: c[(d)|printed ~ (e)|printed:]} }}"),
            ("{{ a ~ ) }}{{ ~ a }}", "{{ (a)|printed ~ ) }}{{ ~ (a)|printed }}"),
        ] {
            assert_eq!(translate(jinja), expected);
        }
    }

    #[test]
    fn percent_on_a_literal_is_a_filter() {
        for (jinja, expected) in [
            ("{{ '%s' % x }}", "{{ '%s' |python_percent( x) }}"),
            ("{{ \"%s\\\"%%\" % (a, 'b)') - c }}", "{{ \"%s\\\"%%\" |python_percent( (a, 'b)')) - c }}"),
            ("{{ '%s'%m['a'].b(1)|upper }}", "{{ '%s'|python_percent(m['a'].b(1)|upper) }}"),
            ("{{ x % 2 }}{{ f('a') % 2 }}{% if 'a' %}b{%- endif -%}", "{{ x % 2 }}{{ f('a') % 2 }}{% if 'a' %}b{%- endif -%}"),
            ("{{ '%s' % }}", "{{ '%s' |python_percent( }}"),
            ("{{ '%s' % (a + b) }}", "{{ '%s' |python_percent( (a |bounded+ b)) }}"),
            ("{{ '%s' % '%s' % -x ** 2 + y }}", "{{ '%s' |python_percent( '%s') |python_percent( -x ** 2) + y }}"),
            ("{{ '%s' % x is odd or y }}", "{{ '%s' |python_percent( x is odd) or y }}"),
        ] {
            assert_eq!(translate(jinja), expected);
        }
    }
}
