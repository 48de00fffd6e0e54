//! The template of a checkpoint folder.

use std::path::Path;

use serde_json::{Map, Value};

use super::{ChatTemplate, Place, SpecialTokens};
use crate::checkpoint::{read_json, read_text};
use crate::problem::{Problem, ProblemKind};

const FILE: &str = "chat_template.jinja";
const CONFIG: &str = "tokenizer_config.json";
const FIELD: &str = "chat_template";

impl ChatTemplate {
    /// The template that `chosen` gives, by name or in full; the checkpoint's own where nothing is chosen.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`], [`ChatTemplate::named`] and [`ChatTemplate::load`].
    pub fn choose(dir: &Path, chosen: Option<&str>, tokens: SpecialTokens) -> Result<Option<Self>, Problem> {
        match chosen {
            Some(source) if source.contains("{%") || source.contains("{{") => {
                Self::new(source, FIELD, tokens).map(Some)
            }
            Some(name) => Self::named(name, tokens).map(Some),
            None => Self::load(dir, tokens),
        }
    }

    /// The template of a checkpoint folder: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`, of several
    /// the one named `default`. `None` where the checkpoint has none.
    ///
    /// # Errors
    /// [`ProblemKind::ChatTemplate`] where there is one that cannot be read or used.
    pub fn load(dir: &Path, tokens: SpecialTokens) -> Result<Option<Self>, Problem> {
        if dir.join(FILE).exists() {
            let text = read_text(dir, FILE, ProblemKind::ChatTemplate)?;
            let source = String::from_utf8(text).map_err(|error| {
                let message = format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to());
                Problem::new(ProblemKind::ChatTemplate, FILE, message).hint("save the template as UTF-8")
            })?;
            return Self::new(&source, FILE, tokens).map(Some);
        }
        if !dir.join(CONFIG).exists() {
            return Ok(None);
        }
        let config: Map<String, Value> = read_json(dir, CONFIG, ProblemKind::ChatTemplate)?;
        let Some(source) = chosen(config.get(FIELD))? else { return Ok(None) };
        let place = Place { file: CONFIG.to_owned(), is_whole_file: false };
        Self::at_place(source, place, tokens).map(Some).map_err(|problem| problem.in_column(FIELD))
    }
}

/// The template that the field holds.
fn chosen(field: Option<&Value>) -> Result<Option<&str>, Problem> {
    let wrong = |message: String| {
        Problem::new(ProblemKind::ChatTemplate, CONFIG, message)
            .in_column(FIELD)
            .hint("write one template as a text, or a list of objects with `name` and `template`, one of them named `default`")
    };
    let several: Vec<(&str, &str)> = match field {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(source)) => return Ok(Some(source)),
        Some(Value::Object(by_name)) => {
            by_name.iter().filter_map(|(name, template)| Some((name.as_str(), template.as_str()?))).collect()
        }
        Some(Value::Array(list)) => {
            let mut pairs = Vec::with_capacity(list.len());
            for (at, entry) in list.iter().enumerate() {
                let field = |name: &str| entry.get(name).and_then(Value::as_str);
                let (Some(name), Some(template)) = (field("name"), field("template")) else {
                    return Err(wrong(format!("entry {at} of the list has no `name` and `template`")));
                };
                pairs.push((name, template));
            }
            pairs
        }
        Some(_) => return Err(wrong("expected a template, found something that is no text".to_owned())),
    };
    match several.iter().find(|(name, _)| *name == "default") {
        Some((_, source)) => Ok(Some(source)),
        None => {
            let names: Vec<&str> = several.iter().map(|(name, _)| *name).collect();
            Err(wrong(format!("none of its templates is named `default`; it has {}", names.join(", "))))
        }
    }
}
