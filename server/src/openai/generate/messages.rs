//! A conversation as a chat template takes it: each message a role and one text.

use serde_json::{Map, Value};
use store::spec::SpecError;

const ROLES: [&str; 5] = ["developer", "system", "user", "assistant", "tool"];

/// Reads the messages of a request.
pub fn read_messages(value: Option<&Value>) -> Result<Vec<Value>, SpecError> {
    let expected = "expected a list of messages with `role` and `content`, at least one";
    let list = value.and_then(Value::as_array).filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| SpecError::new("messages", expected))?;
    list.iter().enumerate().map(|(at, message)| read_message(message, &format!("messages[{at}]"))).collect()
}

fn read_message(message: &Value, place: &str) -> Result<Value, SpecError> {
    let fields = message
        .as_object()
        .ok_or_else(|| SpecError::new(place, "expected a message, as an object with `role` and `content`"))?;
    let role = role(fields, place)?;
    let mut told = fields.clone();
    // What it is called differs by vendor; templates know the older name.
    let shown = if role == "developer" { "system" } else { role };
    told.insert("role".to_owned(), shown.into());
    let calls = calls(&mut told, place)?;
    let content = content(fields.get("content"), &format!("{place}.content"), role == "assistant" && calls)?;
    told.insert("content".to_owned(), content);
    // Null stands for nothing in OpenAI's clients, and templates would print it.
    told.retain(|name, value| name == "content" || !value.is_null());
    Ok(Value::Object(told))
}

fn role<'f>(fields: &'f Map<String, Value>, place: &str) -> Result<&'f str, SpecError> {
    let at = format!("{place}.role");
    match fields.get("role").and_then(Value::as_str) {
        Some(role) if ROLES.contains(&role) => Ok(role),
        Some(other) => {
            let other: String = other.chars().take(40).collect();
            Err(SpecError::new(at, format!("there is no role \"{other}\"; write {}", ROLES.join(", "))))
        }
        None => Err(SpecError::new(at, format!("is missing; write {}", ROLES.join(", ")))),
    }
}

/// A text or texts in parts; null where the assistant called a tool instead.
fn content(content: Option<&Value>, place: &str, may_be_silent: bool) -> Result<Value, SpecError> {
    match content {
        Some(Value::String(text)) => Ok(text.clone().into()),
        Some(Value::Array(parts)) => {
            let texts = parts.iter().enumerate().map(|(at, part)| text_of(part, &format!("{place}[{at}]")));
            Ok(texts.collect::<Result<Vec<&str>, _>>()?.concat().into())
        }
        None | Some(Value::Null) if may_be_silent => Ok(Value::Null),
        None | Some(Value::Null) => Err(SpecError::new(place, "is missing: write the text of the message")),
        Some(_) => Err(SpecError::new(place, "expected a text, or a list of parts of type text")),
    }
}

fn text_of<'p>(part: &'p Value, place: &str) -> Result<&'p str, SpecError> {
    let kind = part.get("type").and_then(Value::as_str);
    match (kind, part.get("text").and_then(Value::as_str)) {
        (None | Some("text"), Some(text)) => Ok(text),
        (None | Some("text"), None) => {
            Err(SpecError::new(place, "expected {\"type\": \"text\", \"text\": \"…\"}"))
        }
        (Some(other), _) => {
            let other: String = other.chars().take(40).collect();
            let message = format!(
                "the models here read text alone, and this part is of type \"{other}\"; send its text"
            );
            Err(SpecError::new(place, message))
        }
    }
}

/// Whether a message calls tools. Arguments that are JSON in a text become what it says, as in training.
fn calls(fields: &mut Map<String, Value>, place: &str) -> Result<bool, SpecError> {
    let Some(calls) = fields.get_mut("tool_calls").filter(|calls| !calls.is_null()) else {
        return Ok(false);
    };
    let wrong =
        || SpecError::new(format!("{place}.tool_calls"), "expected a list of calls, each with `function`");
    for call in calls.as_array_mut().ok_or_else(wrong)? {
        let function = call.get_mut("function").and_then(Value::as_object_mut).ok_or_else(wrong)?;
        let said = function.get("arguments").and_then(Value::as_str).map(serde_json::from_str);
        if let Some(Ok(arguments @ Value::Object(_))) = said {
            function.insert("arguments".to_owned(), arguments);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_are_joined_and_a_developer_speaks_as_the_system() {
        let messages = json!([
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": null},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "2"},
        ]);
        let read = read_messages(Some(&messages)).unwrap();
        assert_eq!(read[0], json!({"role": "system", "content": "Be brief."}));
        assert_eq!(read[1], json!({"role": "user", "content": "ab"}));
        assert_eq!(read[2]["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
        assert_eq!(read[3]["tool_call_id"], "1");
    }

    #[test]
    fn what_cannot_be_read_is_named_by_its_place() {
        for (wrong, at) in [
            (json!([]), "messages"),
            (json!("hi"), "messages"),
            (json!(["hi"]), "messages[0]"),
            (json!([{"content": "hi"}]), "messages[0].role"),
            (json!([{"role": "bot", "content": "hi"}]), "messages[0].role"),
            (json!([{"role": "user"}]), "messages[0].content"),
            (json!([{"role": "user", "content": null}]), "messages[0].content"),
            (
                json!([{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "a"},
                {"type": "image_url", "image_url": {"url": "x"}}]}]),
                "messages[1].content[1]",
            ),
            (json!([{"role": "assistant", "tool_calls": 3}]), "messages[0].tool_calls"),
        ] {
            assert_eq!(read_messages(Some(&wrong)).unwrap_err().param, at, "{wrong}");
        }
    }
}
