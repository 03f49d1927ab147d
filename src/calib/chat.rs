//! A model's chat template: Jinja as `transformers.utils.chat_template_utils` (5.17.0) sets it up.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Deserialize;

/// One turn of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

/// A compiled template and the special tokens that it may write.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: Option<String>,
    eos: Option<String>,
}

impl ChatTemplate {
    /// Compiles `template`; the error is Jinja's sentence.
    pub fn new(template: String, bos: Option<String>, eos: Option<String>) -> Result<ChatTemplate, String> {
        let mut environment = Environment::new();
        let mut syntax = SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true);
        environment.set_syntax(syntax.build().map_err(|error| error.to_string())?);
        // Templates call Python's methods: strip, split, startswith, items.
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_template_owned("chat", template).map_err(|error| error.to_string())?;
        Ok(ChatTemplate { environment, bos, eos })
    }

    /// The whole chat, without the beginning of an answer that is still to come.
    ///
    /// `strftime_now` stays undefined, so a template that writes today's date takes its fixed one: the same set gives the same
    /// token ids tomorrow.
    pub fn render(&self, messages: &[Message]) -> Result<String, String> {
        let template = self.environment.get_template("chat").map_err(|error| error.to_string())?;
        let messages = messages.iter().map(|message| context! { role => &message.role, content => &message.content });
        let rendered = template.render(context! {
            messages => messages.collect::<Vec<_>>(),
            add_generation_prompt => false,
            bos_token => or_undefined(&self.bos),
            eos_token => or_undefined(&self.eos),
        });
        rendered.map_err(|error| error.detail().map_or_else(|| error.to_string(), str::to_owned))
    }
}

/// A token that the model does not have is undefined to its template, and writes nothing.
fn or_undefined(token: &Option<String>) -> Value {
    token.as_deref().map_or(Value::UNDEFINED, Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<Message> {
        let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        vec![message("user", " Hi! "), message("assistant", "Hello.")]
    }

    fn render(template: &str) -> Result<String, String> {
        ChatTemplate::new(template.into(), Some("<s>".into()), Some("</s>".into()))?.render(&messages())
    }

    #[test]
    fn llama_3_writes_headers_and_strips() {
        let template = "{{- bos_token }}\n{%- if strftime_now is defined %}{{- strftime_now('%d') }}{% endif %}\n\
            {%- for message in messages %}\n    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}\n    \
            {{- message['content'] | trim + '<|eot_id|>' }}\n{%- endfor %}\n\
            {%- if add_generation_prompt %}{{- 'no' }}{%- endif %}\n";
        assert_eq!(
            render(template).unwrap(),
            "<s><|start_header_id|>user<|end_header_id|>\n\nHi!<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
        );
    }

    #[test]
    fn python_methods_and_block_white_space_are_as_in_transformers() {
        let template =
            "{% for m in messages %}\n{{ m.content.strip() }}{% if loop.last %}{{ eos_token }}{% endif %}\n{% endfor %}";
        assert_eq!(render(template).unwrap(), "Hi!Hello.</s>");
    }

    #[test]
    fn a_token_that_the_model_lacks_writes_nothing() {
        let template = ChatTemplate::new("{{ bos_token }}{{ messages[0].content }}".into(), None, None).unwrap();
        assert_eq!(template.render(&messages()).unwrap(), " Hi! ");
    }

    #[test]
    fn a_template_may_refuse() {
        let template = "{% if messages[0].role != 'system' %}{{ raise_exception('a system message first') }}{% endif %}";
        assert_eq!(render(template).unwrap_err(), "a system message first");
        assert!(render("{% for %}").is_err());
    }
}
