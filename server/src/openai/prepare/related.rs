//! Data of sentence similarity: texts that are near each other, in columns.

use formats::Problems;
use formats::dataset::Columns;
use formats::dataset::related::{Relation, Summary, check_related};
use formats::inspect::{Inspection, guess_related};
use store::spec::{EmbeddingLoss, Task};

use super::data::Data;
use super::{Looked, of_problem, refusal, unknown_column};
use crate::openai::request::{CreateJob, Roles};
use crate::{AppState, Error, Result};

/// Chooses the columns and reads every row of every file.
pub async fn look(state: &AppState, asked: &CreateJob, data: &Data) -> Result<Looked> {
    let (columns, found) = choose_columns(&asked.columns, &data.train.report()?.table)?;
    let within = loss_of(asked).and_then(EmbeddingLoss::scores_within);
    let fetched = data.fetch(state).await?;
    let wanted = columns.clone();
    let read = move || -> Result<Vec<Summary>, (&'static str, Problems)> {
        let Some(relation) = Relation::of(&wanted) else { return Ok(Vec::new()) };
        let check = |(param, path, name): &(&'static str, std::path::PathBuf, String)| {
            check_related(path, name, &relation, within).map_err(|wrong| (*param, wrong))
        };
        fetched.files.iter().map(check).collect()
    };
    let checked = tokio::task::spawn_blocking(read).await.map_err(|error| Error::Internal(error.into()))?;
    let summaries = checked.map_err(|(param, problems)| refusal(param, &problems))?;
    let notices = summaries.iter().flat_map(|summary| &summary.notices);
    let notices = notices.map(|notice| format!("Worth a look: {notice}.")).collect();
    Ok(Looked {
        columns,
        problem_type: asked.problem_type,
        rows: summaries.first().map_or(0, |summary| summary.rows),
        classes: Vec::new(),
        answers: [0; 2],
        found,
        notices,
    })
}

/// The loss that was named; what is wrong with it is told where all settings are read.
fn loss_of(asked: &CreateJob) -> Option<EmbeddingLoss> {
    let name = asked.hyperparameters.get("embedding")?.get("loss")?;
    serde_json::from_value(name.clone()).ok()
}

/// Columns by what was named, or all by what their names tell; says in a note what was guessed.
fn choose_columns(roles: &Roles, inspection: &Inspection) -> Result<(Columns, Vec<String>)> {
    if roles.text.is_some() || roles.text_pair.is_some() || roles.label.is_some() {
        let message = "text, text_pair and label are for text classification; name anchor and positive, or text1, text2 and \
                       score";
        return Err(Error::invalid("columns", message));
    }
    let named = Columns {
        anchor: roles.anchor.clone(),
        positive: roles.positive.clone(),
        negative: roles.negative.clone(),
        text1: roles.text1.clone(),
        text2: roles.text2.clone(),
        score: roles.score.clone(),
        ..Columns::default()
    };
    if named == Columns::default() {
        let columns = guess_related(inspection).map_err(|unclear| of_problem("columns", &unclear))?;
        let words = Relation::of(&columns).map_or_else(String::new, |relation| words(&relation));
        return Ok((columns, vec![format!("Columns by their names: {words}.")]));
    }
    let Some(relation) = Relation::of(&named) else {
        let message = "name anchor, positive and perhaps negative, or text1, text2 and score";
        return Err(Error::invalid("columns", message));
    };
    for (role, column) in relation.roles() {
        if inspection.column(column.trim()).is_none() {
            let known = inspection.column_names().collect();
            return Err(unknown_column(inspection, (role, column), known));
        }
    }
    Ok((named, Vec::new()))
}

/// "anchor `query`, positive `answer`".
pub fn words(relation: &Relation) -> String {
    let role = |(role, column): (&'static str, &str)| format!("{role} `{column}`");
    relation.roles().into_iter().map(role).collect::<Vec<_>>().join(", ")
}

/// The task that the roles of the columns, where some were named, are there for.
pub fn task_of_roles(roles: &Roles) -> Option<Task> {
    let some = roles.anchor.is_some()
        || roles.positive.is_some()
        || !roles.negative.is_empty()
        || roles.text1.is_some()
        || roles.text2.is_some()
        || roles.score.is_some();
    some.then_some(Task::SentenceSimilarity)
}
