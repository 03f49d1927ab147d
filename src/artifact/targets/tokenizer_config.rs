//! `tokenizer_config.json` with the chat template inside, the only place where transformers.js (4.3) looks for it.

use serde_json::{Map, Value, json};

/// `config` with `template` as its `chat_template`; as it is where it says the same.
///
/// A file of its own wins over what `tokenizer_config.json` says, in transformers and here.
///
/// # Errors
/// `config` is no JSON object.
pub fn with_template(config: &str, template: &str) -> Result<String, serde_json::Error> {
    let mut object: Map<String, Value> = serde_json::from_str(config)?;
    if object.get("chat_template").is_some_and(|said| said == template) {
        return Ok(config.to_owned());
    }
    let Some(start) = config.find('{').filter(|_| !object.contains_key("chat_template")) else {
        object.insert("chat_template".to_owned(), json!(template));
        return Ok(serde_json::to_string_pretty(&Value::Object(object))? + "\n");
    };
    // Put in as text: everything else stays byte for byte, numbers that no parser holds (model_max_length) included.
    let (before, after) = config.split_at(start + 1);
    let comma = if object.is_empty() { "" } else { "," };
    Ok(format!("{before}\n  \"chat_template\": {}{comma}{after}", json!(template)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_comes_first_and_the_rest_stays_byte_for_byte() {
        let config = "{\n  \"model_max_length\": 1000000000000000019884624838656,\n  \"a\": 1.50\n}\n";
        let with = with_template(config, "{{ \"hi\" }}\n").unwrap();
        assert!(with.ends_with(&config[1..]), "{with}");
        let read: Value = serde_json::from_str(&with).unwrap();
        assert_eq!((&read["chat_template"], &read["a"]), (&json!("{{ \"hi\" }}\n"), &json!(1.5)));
        assert_eq!(with_template(&with, "{{ \"hi\" }}\n").unwrap(), with);
    }

    #[test]
    fn an_empty_file_and_another_template_give_way() {
        let read = |text: String| serde_json::from_str::<Value>(&text).unwrap();
        assert_eq!(read(with_template("{}", "t").unwrap()), json!({"chat_template": "t"}));
        let config = r#"{"chat_template": "old", "eos_token": "e"}"#;
        assert_eq!(read(with_template(config, "t").unwrap()), json!({"chat_template": "t", "eos_token": "e"}));
        assert!(with_template("[]", "t").is_err());
    }
}
