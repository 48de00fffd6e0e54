//! How a model that writes one text from another is asked: what stands before a source, and how the target is looked for.

use serde_json::{Map, Value, json};
use store::StoredFile;
use store::model::Model;
use store::spec::{Reader, TextToText};

use crate::predictor::Predicted;
use crate::{AppState, Error, Result};

/// The settings of a request, by name; what is not there is as the model learnt it.
#[derive(Debug, Default)]
pub struct Writing {
    source_prefix: Option<String>,
    asked: Map<String, Value>,
}

impl Writing {
    /// Reads the settings that a request has for such models.
    pub fn read(reader: &mut Reader) -> Result<Writing> {
        let mut asked = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            asked.extend(value.map(|value| (name.to_owned(), value)));
        };
        put("num_beams", whole(reader, "num_beams", 1, 16)?);
        put("max_new_tokens", whole(reader, "max_new_tokens", 1, 131_072)?);
        put("no_repeat_ngram_size", whole(reader, "no_repeat_ngram_size", 0, 100)?);
        let penalty = reader.number("length_penalty")?;
        if let Some(penalty) = penalty.filter(|penalty| !(-10.0..=10.0).contains(penalty)) {
            return Err(Error::invalid("length_penalty", format!("must be -10 to 10, found {penalty}")));
        }
        put("length_penalty", penalty.map(Value::from));
        put("early_stopping", reader.flag("early_stopping")?.map(Value::from));
        for name in ["source_lang", "target_lang", "forced_bos_token"] {
            put(name, reader.text(name)?.map(Value::from));
        }
        Ok(Writing { source_prefix: reader.text("source_prefix")?.map(str::to_owned), asked })
    }

    /// With this text before each source.
    pub fn prefixed(source_prefix: String) -> Writing {
        Writing { source_prefix: Some(source_prefix), ..Writing::default() }
    }

    /// Refuses settings that a model of another kind does not know.
    pub fn refuse(&self, model: &Model) -> Result<()> {
        let prefix = self.source_prefix.as_ref().map(|_| "source_prefix");
        match prefix.or_else(|| self.asked.keys().map(String::as_str).next()) {
            None => Ok(()),
            Some(name) => {
                let message = format!(
                    "is for models that write one text from another, and {} is none; leave it out",
                    model.model_id
                );
                Err(Error::invalid(name, message))
            }
        }
    }

    /// Asks the model, whose files these are, for a target of each source.
    pub async fn write(
        self,
        state: &AppState,
        model: &Model,
        files: &[StoredFile],
        sources: &[Value],
    ) -> Result<Predicted> {
        let learnt = learnt(state, model).await?;
        let prefix = match (&self.source_prefix, &learnt) {
            (Some(asked), _) => asked.as_str(),
            (None, Some(learnt)) => learnt.source_prefix.as_str(),
            (None, None) => "",
        };
        let mut inputs = Vec::with_capacity(sources.len());
        for (place, source) in sources.iter().enumerate() {
            let text = match source {
                Value::String(text) => Some(text.as_str()),
                Value::Object(fields) if fields.get("text_pair").is_none_or(Value::is_null) => {
                    fields["text"].as_str()
                }
                _ => None,
            };
            let text = text.ok_or_else(|| {
                Error::invalid(
                    "inputs",
                    format!("input {place} is a pair, and {} reads one text", model.model_id),
                )
            })?;
            inputs.push(json!(format!("{prefix}{text}")));
        }
        let mut settings = learnt.as_ref().map(settings_of).unwrap_or_default();
        settings.extend(self.asked);
        state.predictors.predict_with(&model.model_id, files, &inputs, &Value::Object(settings)).await
    }
}

fn whole(reader: &mut Reader, name: &'static str, least: u64, most: u64) -> Result<Option<Value>> {
    match reader.whole(name)? {
        Some(number) if !(least..=most).contains(&number) => {
            Err(Error::invalid(name, format!("must be {least} to {most}, found {number}")))
        }
        number => Ok(number.map(Value::from)),
    }
}

/// How the job that made a model wrote targets; `None` for an uploaded one, whose own configuration says it.
pub async fn learnt(state: &AppState, model: &Model) -> Result<Option<TextToText>> {
    let Some(job) = model.job_id else { return Ok(None) };
    let job = store::job::get(&state.store.db, job).await?;
    Ok(job.filter(|job| job.spec.task.is_text_to_text()).map(|job| job.spec.text_to_text()))
}

/// The settings of a job by the names that a request has for them.
fn settings_of(learnt: &TextToText) -> Map<String, Value> {
    let mut settings = Map::new();
    let mut put = |name: &str, value: Value| drop(settings.insert(name.to_owned(), value));
    put("num_beams", learnt.num_beams.into());
    put("max_new_tokens", learnt.target_length().into());
    put("length_penalty", learnt.length_penalty.into());
    put("no_repeat_ngram_size", learnt.no_repeat_ngram_size.into());
    put("early_stopping", learnt.early_stopping.into());
    for (name, value) in [
        ("source_lang", &learnt.source_lang),
        ("target_lang", &learnt.target_lang),
        ("forced_bos_token", &learnt.forced_bos_token),
    ] {
        if let Some(value) = value {
            put(name, value.as_str().into());
        }
    }
    settings
}
