//! Data of text generation: chats, prompts with their completions, plain texts.

use std::path::Path;

use formats::chat::{Layout, Survey, advised_weights, survey};
use formats::dataset::Columns;
use store::spec::JobSpec;

use super::data::Data;
use super::task_of_roles;
use super::{Looked, refusal};
use crate::openai::request::{Answers, CreateJob, Roles};
use crate::openai::sample::{no_template, sample};
use crate::{AppState, Error, Result};

/// Judges every row of every file.
pub async fn look(state: &AppState, asked: &CreateJob, data: &Data) -> Result<Looked> {
    let Roles { text, text_pair, label, .. } = &asked.columns;
    let related = task_of_roles(&asked.columns).is_some();
    if related || [text, text_pair, label].iter().any(|column| column.is_some()) {
        let message = "rows of text generation say by their keys what they are; leave it out";
        return Err(Error::invalid("columns", message));
    }
    let surveys = surveys(state, data).await?;
    for (part, survey) in data.parts().zip(&surveys) {
        check(part.param, survey, asked.answers())?;
    }
    let notices = surveys.iter().flat_map(|survey| &survey.notices);
    let notices = notices.map(|notice| format!("Worth a look: {notice}.")).collect();
    Ok(Looked {
        columns: Columns::default(),
        problem_type: asked.problem_type,
        rows: surveys.first().map_or(0, |survey| survey.rows),
        classes: Vec::new(),
        answers: surveys.first().map_or([0; 2], |survey| [survey.desirable, survey.undesirable]),
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

fn check(param: &'static str, survey: &Survey, answers: Answers) -> Result<()> {
    if !survey.problems.is_empty() {
        return Err(refusal(param, &survey.problems));
    }
    let wrong = |message: &str| Err(Error::invalid(param, format!("{}: {message}", survey.name)));
    match (survey.layout, answers) {
        (Some(Layout::Preference), Answers::Right) => wrong(
            "the rows are preferences (`chosen` and `rejected`): choose the method \"dpo\" or \"kto\", or give rows with the \
             right answer alone, such as `messages` or `prompt` and `completion`",
        ),
        (Some(Layout::Unpaired), Answers::Right) => wrong(
            "the rows say by `label` whether their answer is desirable: choose the method \"kto\", or leave out the undesirable \
             answers and `label`",
        ),
        (Some(Layout::Unpaired), Answers::Pairs) => wrong(
            "the method learns from pairs of a better and a worse answer, and the rows are single answers with a `label`: choose \
             the method \"kto\", or give `prompt`, `chosen` and `rejected`",
        ),
        (layout, Answers::Pairs) if layout != Some(Layout::Preference) => wrong(
            "the method learns from pairs of a better and a worse answer, and the rows are none: give `prompt`, `chosen` and \
             `rejected`, or choose the method \"supervised\"",
        ),
        (layout, Answers::Labelled) if !matches!(layout, Some(Layout::Preference | Layout::Unpaired)) => {
            wrong(
                "the method learns from answers that are desirable or not, and the rows do not say which: give `prompt`, \
             `completion` and `label`, which is true or false, or `prompt`, `chosen` and `rejected`",
            )
        }
        _ => Ok(()),
    }
}

/// What is worth a look once the settings are known: answers of one side that outweigh the others.
pub fn advice(spec: &JobSpec, [desirable, undesirable]: [u64; 2]) -> Option<String> {
    let rule = spec.training.preference.as_ref().filter(|rule| rule.loss.is_unpaired())?;
    let weights = [rule.desirable_weight, rule.undesirable_weight];
    let advice = advised_weights(desirable, undesirable, weights)?;
    Some(format!("Worth a look: {advice}."))
}

/// "Rows by their keys: messages, 120 rows, 300 turns, of which 150 count."
fn words(survey: &Survey) -> String {
    let layout = survey.layout.map(|layout| serde_json::json!(layout)).unwrap_or_default();
    let layout = layout.as_str().unwrap_or_default().replace('_', " ");
    let turns = match survey.turns {
        0 => String::new(),
        turns => format!(", {turns} turns, of which {} count", survey.counted_turns),
    };
    let labels = match survey.layout {
        Some(Layout::Unpaired) => {
            format!(", {} answers are desirable and {} are not", survey.desirable, survey.undesirable)
        }
        _ => String::new(),
    };
    format!("Rows by their keys: {layout}, {} rows{turns}{labels}.", survey.rows)
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
