//! `response_format`: free text, any JSON, or JSON of a schema.

use serde_json::{Value, json};
use store::spec::{Reader, SpecError};

/// What the answer has to keep to, as a worker takes it; `None` for nothing.
pub fn format_of(reader: &mut Reader) -> Result<Option<Value>, SpecError> {
    let Some(mut format) = reader.object("response_format")? else {
        return Ok(None);
    };
    let kinds = [("text", Kind::Text), ("json_object", Kind::Json), ("json_schema", Kind::Schema)];
    let kind = format.word("type", &kinds)?;
    let shape = match kind {
        None => return Err(format.error("type", "is missing; known are text, json_object, json_schema")),
        Some(Kind::Text) => None,
        Some(Kind::Json) => Some(json!("json")),
        Some(Kind::Schema) => Some(schema(&mut format)?),
    };
    format.finish()?;
    Ok(shape)
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Json,
    Schema,
}

fn schema(format: &mut Reader) -> Result<Value, SpecError> {
    let missing = || "is missing: give an object with `name` and `schema`";
    let Some(mut outer) = format.object("json_schema")? else {
        return Err(format.error("json_schema", missing()));
    };
    // For people, or without effect: the answer always keeps to the schema.
    for name in ["name", "description", "strict"] {
        outer.value(name);
    }
    let schema = match outer.value("schema") {
        Some(schema @ Value::Object(_)) => schema.clone(),
        Some(other) => return Err(outer.wrong("schema", "a JSON schema as an object", other)),
        None => return Err(outer.error("schema", "is missing: give a JSON schema")),
    };
    outer.finish()?;
    Ok(schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: Value) -> Result<Option<Value>, SpecError> {
        let fields = json!({"response_format": format});
        format_of(&mut Reader::new("", fields.as_object().unwrap()))
    }

    #[test]
    fn formats_are_told_by_their_type() {
        assert_eq!(read(json!({"type": "text"})), Ok(None));
        assert_eq!(read(json!({"type": "json_object"})), Ok(Some(json!("json"))));
        let schema = json!({"type": "object"});
        let named =
            json!({"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}});
        assert_eq!(read(named), Ok(Some(schema)));
        for (wrong, at) in [
            (json!({}), "response_format.type"),
            (json!({"type": "xml"}), "response_format.type"),
            (json!({"type": "json_schema"}), "response_format.json_schema"),
            (
                json!({"type": "json_schema", "json_schema": {"name": "x"}}),
                "response_format.json_schema.schema",
            ),
            (json!({"type": "text", "schema": {}}), "response_format.schema"),
        ] {
            assert_eq!(read(wrong).unwrap_err().param, at);
        }
    }
}
