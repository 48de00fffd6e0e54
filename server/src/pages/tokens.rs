//! A row of a file as the tokens that a model is given, and which of them are learnt.

mod reader;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use formats::Problem;
use formats::chat::{Encoder, Example, Layout, Loss, ShownSequence, ShownToken, Survey, read_chat};
use store::FileId;
use store::file::File;
use store::spec::{Training, request};

use self::reader::Reader;
pub use self::reader::Readers;
use super::view::form::{Field, FieldKind};
use super::view::tokens::{Sequence, Token, TokenTurn, TokensPage};
use super::view::{Choice, Page, text};
use super::{convert, data, html, models, sentence, settings};
use crate::openai::models::task_of;
use crate::openai::report::Report;
use crate::{AppState, Error, Result};

/// Tokens of a sequence that are drawn; more would make the page slow, and say no more.
const DRAWN: usize = 4000;

/// Settings that decide how a row becomes tokens.
const SETTINGS: [&str; 4] = ["chat_template", "chat_template.jinja", "loss_on", "max_length"];

/// Models to choose from.
const OFFERED: i64 = 100;

/// `GET /data/tokens`: where the form of a new fine-tune leads.
pub async fn find_tokens(Query(values): Query<settings::Values>) -> Result<Response> {
    let given = |name: &str| values.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let file = given("training_file").ok_or_else(|| {
        Error::invalid("training_file", "choose data first: its rows are what is shown as tokens")
    })?;
    let file: FileId =
        file.parse().map_err(|_| Error::not_found(format!("there is no data {file} on this server")))?;
    let kept = ["model"].into_iter().chain(SETTINGS).filter_map(|name| Some((name, given(name)?)));
    let query = address(kept);
    Ok(Redirect::to(&format!("/data/{file}/tokens{query}")).into_response())
}

/// `GET /data/{id}/tokens`
pub async fn show_tokens(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(given): Query<settings::Values>,
) -> Result<Response> {
    let file = data::find_file(&state, &id).await?;
    let chat = Report::of_file(&file).and_then(|report| report.chat);
    let (Some(chat), href) = (chat, convert::data_href(file.file_id)) else {
        return Err(Error::not_found(format!(
            "{} holds nothing that a language model learns from",
            file.name
        )));
    };
    let rows = (chat.rows + chat.unusable).max(1);
    let row = given.get("row").and_then(|row| row.trim().parse().ok()).unwrap_or(1).clamp(1, rows);
    let mut values = settings::defaults();
    values.insert("task".to_owned(), "text-generation".to_owned());
    values.extend(given.into_iter().filter(|(name, _)| name == "model" || SETTINGS.contains(&name.as_str())));
    let models = choose_model(&state, &mut values).await?;
    let (sequences, error) = match look(&state, &file, &chat, row - 1, &values).await {
        Ok(sequences) => (sequences, String::new()),
        Err(error) if error.status().is_client_error() => (Vec::new(), sentence(&error.to_string())),
        Err(error) => return Err(error),
    };
    let to_row = |row: u64| {
        let row = row.to_string();
        let kept = kept(&values).chain([("row", row.as_str())]);
        format!("{href}/tokens{}", address(kept))
    };
    html(&TokensPage {
        page: Page::new(format!("{} as tokens", file.name), "data").with(&["js/tokens.js"]),
        name: file.name.clone(),
        models,
        fields: fields(&values),
        row,
        rows: text::count(rows),
        previous: if row > 1 { to_row(row - 1) } else { String::new() },
        next: if row < rows { to_row(row + 1) } else { String::new() },
        joined: chat.layout == Some(Layout::Text),
        sequences,
        error,
        href,
    })
}

/// The settings that are not as they are by default, and the model.
fn kept(values: &settings::Values) -> impl Iterator<Item = (&str, &str)> {
    let given =
        |name: &'static str| Some((name, values.get(name)?.as_str())).filter(|(_, value)| !value.is_empty());
    ["model"].into_iter().chain(SETTINGS).filter_map(given)
}

fn address<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    if query.is_empty() { query } else { format!("?{query}") }
}

/// The language models to choose from; the newest is chosen where none is.
async fn choose_model(state: &AppState, values: &mut settings::Values) -> Result<Field> {
    let chosen = values.get("model").cloned().unwrap_or_default();
    let mut models = models::whole_models(state, None, OFFERED).await?.items;
    if !chosen.is_empty() && models.iter().all(|model| model.model_id != chosen) {
        models.extend(store::model::get(&state.store.db, &chosen).await?);
    }
    models.retain(|model| task_of(model) == store::spec::Task::TextGeneration || model.model_id == chosen);
    if chosen.is_empty()
        && let Some(newest) = models.first()
    {
        values.insert("model".to_owned(), newest.model_id.clone());
    }
    let choice = |model: &store::model::Model| Choice {
        value: model.model_id.clone(),
        name: convert::short_model(&model.model_id),
        ..Choice::default()
    };
    Ok(Field {
        name: "model".to_owned(),
        label: "Model".to_owned(),
        help: "Whose tokenizer and chat template are used.".to_owned(),
        value: values.get("model").cloned().unwrap_or_default(),
        kind: FieldKind::Select(models.iter().map(choice).collect()),
        ..Field::default()
    })
}

fn fields(values: &settings::Values) -> Vec<Field> {
    let (first, groups) = settings::fields(values, &settings::Values::new());
    let all: Vec<Field> =
        first.into_iter().chain(groups.into_iter().flat_map(|group| group.fields)).collect();
    let own = values.get("chat_template").is_some_and(|template| template == "jinja");
    SETTINGS
        .iter()
        .filter(|name| own || **name != "chat_template.jinja")
        .filter_map(|name| all.iter().find(|field| field.name == *name).cloned())
        .collect()
}

/// The sequences of a row, as a job with these settings would make them.
async fn look(
    state: &AppState,
    file: &File,
    chat: &Survey,
    row: u64,
    values: &settings::Values,
) -> Result<Vec<Sequence>> {
    let model = values.get("model").filter(|model| !model.is_empty());
    let model =
        model.ok_or_else(|| Error::invalid("model", "there is no language model yet; upload one first"))?;
    let training = training(values)?;
    let reader = reader::find(state, model, training.chat_template.as_deref()).await?;
    let layout = chat.layout.ok_or_else(|| Error::invalid("row", "the rows are in no known layout"))?;
    let folder = tempfile::TempDir::with_prefix_in("tokens-", state.config.data.join("cache"))?;
    let ending = file.name.rsplit_once('.').map_or("csv", |(_, ending)| ending).to_ascii_lowercase();
    let ending = ending.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
    let path = folder.path().join(format!("rows.{ending}"));
    state.store.objects.fetch(&file.hash, &path).await?;
    let name = file.name.clone();
    let shown = move || -> Result<Vec<Sequence>> {
        let example =
            read_chat(&path, &name, layout, row).map_err(|wrong| Error::invalid("row", wrong.to_string()))?;
        drop(folder);
        let example = example.ok_or_else(|| Error::invalid("row", "the file has fewer rows"))?;
        show(&reader, &training, &name, &example).map_err(|wrong| Error::invalid("row", wrong.to_string()))
    };
    tokio::task::spawn_blocking(shown).await.map_err(|error| Error::Internal(error.into()))?
}

/// What the API would read of these settings.
fn training(values: &settings::Values) -> Result<Training> {
    let wrong = |errors: settings::Values| {
        let first = errors.into_iter().next().unwrap_or_default();
        Error::invalid(first.0, first.1)
    };
    let body = settings::request(values).map_err(wrong)?;
    let fields = body["method"]["supervised"]["hyperparameters"].as_object().cloned().unwrap_or_default();
    let training = request::hyperparameters(&fields, None)
        .map_err(|wrong| Error::invalid(wrong.param, wrong.message))?;
    Ok(training.training)
}

fn show(
    reader: &Reader,
    training: &Training,
    file: &str,
    example: &Example,
) -> std::result::Result<Vec<Sequence>, Problem> {
    let compared = matches!(
        example.content,
        formats::chat::Content::Preference { .. } | formats::chat::Content::Unpaired { .. }
    );
    let encoder = Encoder {
        tokenizer: &reader.tokenizer,
        template: reader.template.as_ref(),
        max_length: usize::try_from(reader.max_length(training)).unwrap_or(usize::MAX),
        // Of a preference the answers alone are compared.
        loss: if compared { Loss::Assistant } else { training.loss_on.into() },
        file,
    };
    Ok(encoder.show(example)?.iter().map(|shown| sequence(shown, encoder.max_length)).collect())
}

fn sequence(shown: &ShownSequence, max_length: usize) -> Sequence {
    let number = |which: fn(&ShownToken) -> bool| shown.tokens().filter(|token| which(token)).count();
    let all = shown.tokens().count();
    let cut = number(|token| token.cut);
    let mut left = DRAWN;
    let turns = shown.turns.iter().map_while(|turn| {
        let drawn = turn.tokens.len().min(left);
        left -= drawn;
        (drawn > 0).then(|| TokenTurn {
            role: turn.role,
            silent: turn.silent,
            runs: runs(&turn.tokens[..drawn]),
        })
    });
    Sequence {
        answer: shown.answer.unwrap_or_default(),
        turns: turns.collect(),
        tokens: text::plural(all as u64, "token", "tokens"),
        learnt: text::count(number(|token| token.counts) as u64),
        cut: if cut == 0 { String::new() } else { text::count(cut as u64) },
        longest: text::count(max_length as u64),
        more: if all > DRAWN { text::count((all - DRAWN) as u64) } else { String::new() },
    }
}

/// Neighbours that are alike, together: whoever listens is told once.
fn runs(tokens: &[ShownToken]) -> Vec<(&'static str, Vec<Token>)> {
    let kind = |token: &ShownToken| match (token.cut, token.counts) {
        (true, _) => "cut",
        (false, true) => "learnt",
        (false, false) => "plain",
    };
    let together = tokens.chunk_by(|one, other| kind(one) == kind(other));
    together.map(|run| (kind(&run[0]), run.iter().map(token).collect())).collect()
}

/// Blanks at the ends and line breaks are drawn.
fn token(token: &ShownToken) -> Token {
    let mut text = String::with_capacity(token.text.len());
    for letter in token.text.chars() {
        match letter {
            '\n' => text.push('⏎'),
            '\t' => text.push('⇥'),
            ' ' => text.push('·'),
            other if other.is_control() => text.push('\u{fffd}'),
            other => text.push(other),
        }
    }
    Token {
        id: token.id,
        // A part of a character that a later token completes.
        text: if token.text.is_empty() { "…".to_owned() } else { text },
        special: token.special,
        after: "\n".repeat(token.text.matches('\n').count()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_are_drawn_and_neighbours_that_are_alike_stand_together() {
        let made = |text: &str, counts, cut| ShownToken {
            id: 1,
            text: text.to_owned(),
            special: false,
            counts,
            cut,
        };
        let tokens = [
            made(" a", false, false),
            made("b\n", true, false),
            made("", true, false),
            made("c", false, true),
        ];
        let runs = runs(&tokens);
        let kinds: Vec<_> = runs.iter().map(|(kind, tokens)| (*kind, tokens.len())).collect();
        assert_eq!(kinds, [("plain", 1), ("learnt", 2), ("cut", 1)]);
        let texts: Vec<&str> =
            runs.iter().flat_map(|(_, tokens)| tokens).map(|token| token.text.as_str()).collect();
        assert_eq!(texts, ["·a", "b⏎", "…", "c"]);
        assert_eq!(runs[1].1[0].after, "\n");
    }
}
