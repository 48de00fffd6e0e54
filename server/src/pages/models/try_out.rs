//! Trying a model without script.

use axum::extract::{Form, Path, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use store::model::Model;
use store::spec::Task;

use super::{detail, find_model};
use crate::inference::Served;
use crate::openai::generate::vectors_of;
use crate::openai::models::task_of;
use crate::openai::writing::Writing;
use crate::pages::view::marked::pieces;
use crate::pages::view::model::{Score, TextPart, Tried};
use crate::pages::view::text;
use crate::pages::{html, sentence};
use crate::{AppState, Error, Result};

#[derive(Deserialize)]
pub struct TryForm {
    text: String,
    #[serde(default)]
    text_pair: String,
    #[serde(default)]
    source_prefix: String,
}

/// The try-it box without script.
pub async fn try_model(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Form(form): Form<TryForm>,
) -> Result<Response> {
    let model = find_model(&state, &id).await?;
    if task_of(&model) == Task::TextGeneration {
        return Err(Error::invalid(
            "model",
            format!("{id} is a language model; talk to it in the playground"),
        ));
    }
    if task_of(&model) == Task::SentenceSimilarity {
        let tried = compare(&state, &model, form).await?;
        return html(&detail(&state, &id, Some(tried)).await?);
    }
    let answers = task_of(&model) == Task::QuestionAnswering;
    if task_of(&model).is_text_to_text() {
        let tried = write(&state, &model, form).await?;
        return html(&detail(&state, &id, Some(tried)).await?);
    }
    let files = store::model::files(&state.store.db, &id).await?;
    let input = match form.text_pair.is_empty() {
        _ if answers => json!({"question": form.text, "context": form.text_pair}),
        true => json!({"text": form.text}),
        false => json!({"text": form.text, "text_pair": form.text_pair}),
    };
    let mut tried = Tried { text: form.text, text_pair: form.text_pair, ..Tried::default() };
    match state.predictors.predict(&id, &files, &[input]).await {
        Ok(predicted) if answers => {
            let output = predicted.outputs.first().unwrap_or(&Value::Null);
            tried.scores = answer_scores(output);
            tried.pieces = pieces(&tried.text_pair, &[], place_of(output));
        }
        Ok(predicted) if task_of(&model) == Task::TokenClassification => {
            tried.parts =
                predicted.outputs.first().map(|output| parts(&tried.text, output)).unwrap_or_default();
        }
        Ok(predicted) => tried.scores = predicted.outputs.first().map(scores).unwrap_or_default(),
        Err(error @ Error::Internal(_)) => return Err(error),
        Err(error) => tried.error = sentence(&error.to_string()),
    }
    html(&detail(&state, &id, Some(tried)).await?)
}

/// What a model writes from a source.
async fn write(state: &AppState, model: &Model, form: TryForm) -> Result<Tried> {
    let files = store::model::files(&state.store.db, &model.model_id).await?;
    let mut tried = Tried { text: form.text, prefix: form.source_prefix, ..Tried::default() };
    let writing = Writing::prefixed(tried.prefix.clone());
    match writing.write(state, model, &files, &[json!(tried.text)]).await {
        Ok(predicted) => {
            let text = predicted.outputs.first().and_then(|output| output["text"].as_str());
            tried.written = text.unwrap_or_default().to_owned();
        }
        Err(error @ Error::Internal(_)) => return Err(error),
        Err(error) => tried.error = sentence(&error.to_string()),
    }
    Ok(tried)
}

/// The cosine of a text with each line of the second one, the nearest first.
async fn compare(state: &AppState, model: &Model, form: TryForm) -> Result<Tried> {
    /// Lines that are shown.
    const MOST: usize = 50;
    let lines = form.text_pair.lines().map(str::trim).filter(|line| !line.is_empty());
    let others: Vec<String> = lines.take(MOST).map(str::to_owned).collect();
    let mut tried = Tried { text: form.text, text_pair: form.text_pair, ..Tried::default() };
    if others.is_empty() {
        tried.error = "Write texts to compare with, one a line.".to_owned();
        return Ok(tried);
    }
    let inputs: Vec<Value> = std::iter::once(&tried.text).chain(&others).map(|text| json!(text)).collect();
    let answer = async {
        let served = Served::of(&state.store, model).await?;
        vectors_of(state.workers.embed(&served, &inputs).await?).await
    };
    match answer.await {
        Ok((vectors, _)) => tried.scores = nearest(&vectors, &others),
        Err(error @ Error::Internal(_)) => return Err(error),
        Err(error) => tried.error = sentence(&error.to_string()),
    }
    Ok(tried)
}

/// Cosines of the first vector with the others; all have length 1.
fn nearest(vectors: &[Vec<f64>], others: &[String]) -> Vec<Score> {
    let Some((first, rest)) = vectors.split_first() else { return Vec::new() };
    let cosine = |other: &Vec<f64>| first.iter().zip(other).map(|(a, b)| a * b).sum::<f64>();
    let mut found: Vec<(&String, f64)> = others.iter().zip(rest.iter().map(cosine)).collect();
    found.sort_by(|a, b| b.1.total_cmp(&a.1));
    let score = |(label, cosine): (&String, f64)| Score {
        label: label.clone(),
        share: (cosine >= 0.0).then_some(cosine.min(1.0)),
        text: text::value(cosine),
    };
    found.into_iter().map(score).collect()
}

/// The likeliest answers, and "no answer" where that may be one.
fn answer_scores(output: &Value) -> Vec<Score> {
    let told = |label: &str, score: f64| Score {
        label: label.to_owned(),
        share: Some(score),
        text: text::percent(score),
    };
    let candidates = output["candidates"].as_array().into_iter().flatten();
    let mut scores: Vec<Score> = candidates
        .filter_map(|candidate| Some(told(candidate["answer"].as_str()?, candidate["score"].as_f64()?)))
        .collect();
    if let Some(score) = output["null_score"].as_f64() {
        let place = if output["answer"].is_null() { 0 } else { scores.len() };
        scores.insert(place, told("no answer", score));
    }
    scores
}

/// Where the answer stands, in characters.
fn place_of(output: &Value) -> Option<(usize, usize)> {
    let number = |name: &str| output[name].as_u64().map(|number| number as usize);
    Some((number("start")?, number("end")?))
}

/// A text in parts: what was found, and what lies between. Places count characters.
fn parts(whole: &str, output: &Value) -> Vec<TextPart> {
    let characters: Vec<char> = whole.chars().collect();
    let piece = |from: usize, to: usize| characters[from..to].iter().collect::<String>();
    let place = |entity: &Value, name: &str| {
        let number = entity[name].as_u64().and_then(|number| usize::try_from(number).ok());
        number.unwrap_or_default().min(characters.len())
    };
    let (mut parts, mut at) = (Vec::new(), 0);
    for entity in output["entities"].as_array().into_iter().flatten() {
        let (start, end) = (place(entity, "start"), place(entity, "end"));
        if start < at || end <= start {
            continue;
        }
        if start > at {
            parts.push(TextPart { text: piece(at, start), ..TextPart::default() });
        }
        parts.push(TextPart {
            text: piece(start, end),
            label: entity["label"].as_str().unwrap_or_default().to_owned(),
            score: entity["score"].as_f64().map(text::percent).unwrap_or_default(),
        });
        at = end;
    }
    if at < characters.len() {
        parts.push(TextPart { text: piece(at, characters.len()), ..TextPart::default() });
    }
    parts
}

fn scores(output: &Value) -> Vec<Score> {
    let pairs = output.get("scores").and_then(Value::as_object).into_iter().flatten();
    let mut pairs: Vec<(&String, f64)> =
        pairs.filter_map(|(label, score)| Some((label, score.as_f64()?))).collect();
    pairs.sort_by(|a, b| b.1.total_cmp(&a.1));
    let probabilities = pairs.iter().all(|(_, score)| (0.0..=1.0).contains(score));
    let score = |(label, score): (&String, f64)| Score {
        label: label.clone(),
        share: probabilities.then_some(score),
        text: if probabilities { text::percent(score) } else { text::value(score) },
    };
    pairs.into_iter().map(score).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_ranked_by_their_cosine_with_the_first() {
        let vectors = [vec![1.0, 0.0], vec![-0.6, 0.8], vec![0.8, 0.6]];
        let shown = nearest(&vectors, &["far".to_owned(), "near".to_owned()]);
        assert_eq!((shown[0].label.as_str(), shown[0].share), ("near", Some(0.8)));
        assert_eq!((shown[1].label.as_str(), shown[1].share), ("far", None));
    }

    #[test]
    fn a_text_is_shown_in_parts_that_make_it_whole() {
        let found = json!({"entities": [{"start": 0, "end": 5, "label": "PER", "score": 0.9},
            {"start": 10, "end": 14, "label": "LOC", "score": 0.5}]});
        let shown = parts("Émile und Köln!", &found);
        let texts: Vec<_> = shown.iter().map(|part| (part.text.as_str(), part.label.as_str())).collect();
        assert_eq!(texts, [("Émile", "PER"), (" und ", ""), ("Köln", "LOC"), ("!", "")]);
        assert_eq!(parts("nothing", &json!({"entities": []}))[0].text, "nothing");
    }

    #[test]
    fn scores_are_shown_highest_first_and_numbers_of_a_regression_as_they_are() {
        let shown = scores(&json!({"label": "b", "score": 0.9, "scores": {"a": 0.1, "b": 0.9}}));
        assert_eq!(shown[0].label, "b");
        assert_eq!(shown[0].text, "90.0 %");
        let shown = scores(&json!({"label": "score", "score": 3.5, "scores": {"score": 3.5}}));
        assert_eq!((shown[0].share, shown[0].text.as_str()), (None, "3.500"));
    }
}
