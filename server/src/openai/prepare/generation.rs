//! Data of text generation: chats, prompts with their completions, plain texts.

use std::path::Path;

use formats::chat::{Layout, Survey, survey};
use formats::dataset::Columns;
use store::spec::JobSpec;

use super::data::Data;
use super::{Looked, refusal};
use crate::openai::request::{CreateJob, Roles};
use crate::openai::sample::{no_template, sample};
use crate::{AppState, Error, Result};

/// Judges every row of every file.
pub async fn look(state: &AppState, asked: &CreateJob, data: &Data) -> Result<Looked> {
    let Roles { text, text_pair, label } = &asked.columns;
    if [text, text_pair, label].iter().any(|column| column.is_some()) {
        let message = "rows of text generation say by their keys what they are; leave it out";
        return Err(Error::invalid("columns", message));
    }
    let surveys = surveys(state, data).await?;
    for (part, survey) in data.parts().zip(&surveys) {
        check(part.param, survey, asked.prefers())?;
    }
    let notices = surveys.iter().flat_map(|survey| &survey.notices);
    let notices = notices.map(|notice| format!("Worth a look: {notice}.")).collect();
    Ok(Looked {
        columns: Columns::default(),
        problem_type: asked.problem_type,
        rows: surveys.first().map_or(0, |survey| survey.rows),
        classes: Vec::new(),
        found: surveys.first().map(words).into_iter().collect(),
        notices,
    })
}

/// What each file holds, as it was seen when it came; looked at anew where it was taken for a table.
async fn surveys(state: &AppState, data: &Data) -> Result<Vec<Survey>> {
    let mut known = Vec::new();
    for part in data.parts() {
        known.push(part.report()?.chat);
    }
    if known.iter().all(Option::is_some) {
        return Ok(known.into_iter().flatten().collect());
    }
    let fetched = data.fetch(state).await?;
    let look = move || {
        let anew = |(_, path, name): &(&str, _, String)| survey(AsRef::<Path>::as_ref(path), name, None);
        fetched.files.iter().zip(known).map(|(file, known)| known.unwrap_or_else(|| anew(file))).collect()
    };
    tokio::task::spawn_blocking(look).await.map_err(|error| Error::Internal(error.into()))
}

fn check(param: &'static str, survey: &Survey, prefers: bool) -> Result<()> {
    if !survey.problems.is_empty() {
        return Err(refusal(param, &survey.problems));
    }
    let name = &survey.name;
    match (survey.layout == Some(Layout::Preference), prefers) {
        (true, false) => Err(Error::invalid(
            param,
            format!(
                "{name}: the rows are preferences (`chosen` and `rejected`): choose the method \"dpo\", or give rows with the \
                 right answer alone, such as `messages` or `prompt` and `completion`"
            ),
        )),
        (false, true) => Err(Error::invalid(
            param,
            format!(
                "{name}: the method learns from pairs of a better and a worse answer, and the rows are none: give `prompt`, \
                 `chosen` and `rejected`, or choose the method \"supervised\""
            ),
        )),
        _ => Ok(()),
    }
}

/// "Rows by their keys: messages, 120 rows, 300 turns, of which 150 count."
fn words(survey: &Survey) -> String {
    let layout = survey.layout.map(|layout| serde_json::json!(layout)).unwrap_or_default();
    let layout = layout.as_str().unwrap_or_default().replace('_', " ");
    let turns = match survey.turns {
        0 => String::new(),
        turns => format!(", {turns} turns, of which {} count", survey.counted_turns),
    };
    format!("Rows by their keys: {layout}, {} rows{turns}.", survey.rows)
}

/// Encodes some of the rows: whatever the template or the length does not allow is told before the job is made.
pub async fn check_tokens(state: &AppState, spec: &JobSpec, asked: &CreateJob, data: &Data) -> Result<()> {
    let looked = async {
        let sample = sample(state, spec, &asked.model, Some(asked.training_file)).await?;
        for part in data.parts().skip(1).filter(|_| !sample.has_template) {
            if part.report()?.chat.is_some_and(|chat| chat.turns > 0) {
                return Err(no_template(&part.file.name));
            }
        }
        Ok(())
    };
    looked.await.map_err(|error| match error {
        Error::Invalid { message, param: Some(param), code } => {
            let setting = param.strip_prefix("hyperparameters.");
            let param = setting.map_or(param.clone(), |name| format!("{}.{name}", asked.hyperparameters_at));
            Error::Invalid { message, param: Some(param), code }
        }
        other => other,
    })
}
