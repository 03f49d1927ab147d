//! A model's chat template: Jinja in the world that `transformers.utils.chat_template_utils` (5.17.0) sets up around it.
//!
//! A template is a program out of a checkpoint that somebody else wrote. Its text, its work, what it writes and how deep it
//! nests have bounds, and it runs on a thread whose stack is large enough for all that the bounds let through.

mod clock;
mod dialect;
mod error;
mod filters;
mod json;
mod methods;
mod printed;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind};
use serde::Deserialize;
use serde_json::Map;

use crate::host::memory;

pub use clock::{Clock, ClockError, SOURCE_DATE_EPOCH};
pub use error::ChatError;
use error::Raised;

/// Most bytes of a template. The largest of models in use have some 30 kB.
const MOST_TEMPLATE: usize = 64 << 10;

/// Instructions, and 64 bytes of text or list each, that one chat may take. Real templates take a few hundred a message.
const FUEL: u64 = 4 << 20;

/// Most bytes that a template makes of one chat.
const MOST_RENDERED: usize = 16 << 20;

/// Stack of the thread that compiles and renders. The parser and the values' own code recurse without a limit, and the
/// bounds on text and fuel let through some hundred thousand levels. Only what is touched takes memory.
const STACK: usize = 1 << 30;

/// Longest that one chat may take; real ones take milliseconds.
const MOST_TIME: Duration = Duration::from_secs(10);

/// Most that the process may grow by meanwhile.
const MOST_MEMORY: u64 = 1 << 30;

/// How often time and memory are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// One turn of a chat, with everything that its data set says of it: a template may ask for names, tool calls, reasoning.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Map<String, serde_json::Value>")]
pub struct Message(Map<String, serde_json::Value>);

impl TryFrom<Map<String, serde_json::Value>> for Message {
    type Error = &'static str;

    fn try_from(fields: Map<String, serde_json::Value>) -> Result<Message, &'static str> {
        // A turn that only calls tools may lack a content.
        let is_turn = fields.get("role").is_some_and(|role| role.is_string());
        let has_content = fields.contains_key("content") || fields.contains_key("tool_calls");
        if is_turn && has_content { Ok(Message(fields)) } else { Err("expected an object with a string `role` and a `content`") }
    }
}

/// A compiled template and the special tokens that it may write.
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    special_tokens: BTreeMap<String, String>,
    clock: Clock,
    /// Whether a chat was told the time.
    asked: Arc<AtomicBool>,
}

impl ChatTemplate {
    /// Compiles `template`; `special_tokens` are those that the tokenizer has, as it names them (`bos_token`), and `clock` is
    /// what the template is told of the time.
    ///
    /// # Errors
    /// [`ChatError::TooLong`], [`ChatError::Template`] with the line.
    pub fn new(template: &str, special_tokens: BTreeMap<String, String>, clock: Clock) -> Result<ChatTemplate, ChatError> {
        if template.len() > MOST_TEMPLATE {
            return Err(ChatError::TooLong { bytes: template.len(), most: MOST_TEMPLATE });
        }
        let (template, asked) = (template.to_owned(), Arc::new(AtomicBool::new(false)));
        let notes = asked.clone();
        let environment = on_a_large_stack(move || compile(&template, clock, notes))?;
        Ok(ChatTemplate { environment: Arc::new(environment), special_tokens, clock, asked })
    }

    /// What the chats so far were told of the time, if any asked for it.
    pub fn told_time(&self) -> Option<Clock> {
        self.asked.load(Ordering::Relaxed).then_some(self.clock)
    }

    /// The whole chat, without the beginning of an answer that is still to come.
    ///
    /// # Errors
    /// [`ChatError::Refused`] where the template itself refuses the chat, [`ChatError::Template`] where it fails,
    /// [`ChatError::TooMuch`] where it takes more than its bounds.
    pub fn render(&self, messages: &[Message]) -> Result<String, ChatError> {
        let (environment, variables) = (self.environment.clone(), self.variables(messages));
        on_a_large_stack(move || {
            let rendered = environment.get_template("chat").and_then(|template| template.render(variables))?;
            if rendered.len() > MOST_RENDERED { Err(ChatError::TooMuch) } else { Ok(rendered) }
        })
    }

    /// What `apply_chat_template` passes: a token that the model lacks is undefined and writes nothing.
    fn variables(&self, messages: &[Message]) -> Value {
        let messages: Value = messages.iter().map(|message| mapping(&message.0)).collect();
        let given = [
            ("messages", messages),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(false)),
        ];
        let tokens = self.special_tokens.iter().map(|(name, token)| (name.as_str(), Value::from(token.as_str())));
        Value::from_pairs(tokens.chain(given))
    }
}

fn compile(template: &str, clock: Clock, asked: Arc<AtomicBool>) -> Result<Environment<'static>, ChatError> {
    let mut environment = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    environment.set_syntax(syntax.build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_formatter(printed::write);
    environment.set_unknown_method_callback(methods::call);
    filters::add_to(&mut environment);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    environment.add_function("strftime_now", move |format: &str| {
        asked.store(true, Ordering::Relaxed);
        clock.strftime(format)
    });
    environment.add_template_owned("chat", dialect::translate(template))?;
    Ok(environment)
}

/// Runs `work` where deep nesting ends in an error and not in an abort.
///
/// Fuel bounds nearly all that a template can do. For the rest, such as comparing lists that hold each other many times over,
/// there is a limit on time and on the memory that the process grows by; a thread that is beyond it is left behind.
fn on_a_large_stack<T: Send + 'static>(work: impl FnOnce() -> Result<T, ChatError> + Send + 'static) -> Result<T, ChatError> {
    let (sender, result) = mpsc::channel();
    // Nobody may be there any more to take the result.
    let run = move || drop(sender.send(work()));
    let thread = thread::Builder::new().name("template".to_owned()).stack_size(STACK);
    thread.spawn(run).map_err(ChatError::Thread)?;
    let (begun, before) = (Instant::now(), memory::resident());
    loop {
        match result.recv_timeout(LOOK) {
            Ok(done) => return done,
            Err(RecvTimeoutError::Disconnected) => return Err(ChatError::Stopped),
            Err(RecvTimeoutError::Timeout) if begun.elapsed() > MOST_TIME => return Err(ChatError::TooMuch),
            Err(RecvTimeoutError::Timeout) if memory::resident() > before + MOST_MEMORY => return Err(ChatError::TooMuch),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn mapping(fields: &Map<String, serde_json::Value>) -> Value {
    Value::from_pairs(fields.iter().map(|(name, field)| (name.as_str(), value(field))))
}

/// JSON as a template sees it. Its depth is bounded by the reader of the JSON.
fn value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(flag) => Value::from(*flag),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Value::from(whole),
            (None, Some(whole)) => Value::from(whole),
            (None, None) => Value::from(number.as_f64()),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(list) => list.iter().map(value).collect(),
        serde_json::Value::Object(fields) => mapping(fields),
    }
}

#[cfg(test)]
mod tests;
