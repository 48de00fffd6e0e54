//! What a job's evaluations said, as its page shows it.

use chrono::Utc;
use serde_json::Value;
use sqlx::PgPool;
use store::event::{Event, Kind};
use store::job::Job;

use super::convert::{self, metric_name};
use super::view::Fact;
use super::view::job::{
    CheckpointRow, ClassRow, Confusion, Evaluation, Example, ExampleGroup, ExampleWord, JobResults,
};
use super::view::marked::pieces;
use super::view::text::{self, Moment};
use super::{job_samples, job_written};
use crate::Result;

/// Classes up to which a confusion matrix can be read.
const MOST_CLASSES: usize = 40;

/// Order of the metrics; the database keeps none. Others follow by name.
const ORDER: [&str; 34] = [
    "loss",
    "exact_match",
    "perplexity",
    "mean_token_accuracy",
    "reward_accuracy",
    "reward_margin",
    "chosen_reward",
    "rejected_reward",
    "kl",
    "accuracy",
    "subset_accuracy",
    "f1",
    "precision",
    "recall",
    "matthews_correlation",
    "roc_auc",
    "r2",
    "mse",
    "ndcg_at_10",
    "mrr_at_10",
    "map_at_100",
    "accuracy_at_1",
    "accuracy_at_3",
    "accuracy_at_5",
    "accuracy_at_10",
    "bleu",
    "chrf",
    "chrf_plus_plus",
    "ter",
    "rouge1",
    "rouge2",
    "rougeL",
    "rougeLsum",
    "exact_match",
];

/// Evaluation, test, examples and checkpoints. Once the job has ended they are those of the weights that were chosen.
pub async fn results(db: &PgPool, job: &Job) -> Result<JobResults> {
    let mut checkpoints = Vec::new();
    for checkpoint in store::checkpoint::list(db, job.job_id, None, 50).await?.items {
        checkpoints.push(checkpoint_row(&checkpoint));
    }
    let examples = shown(db, job, Kind::Examples).await?;
    Ok(JobResults {
        href: convert::job_href(job.job_id),
        live: !job.status.is_final(),
        evaluation: shown(db, job, Kind::Eval).await?.map(|event| evaluation("Validation", &event, job)),
        test: newest(db, job, Kind::Test).await?.map(|event| evaluation("Test", &event, job)),
        samples: job_samples::samples(db, job).await?,
        written: examples.as_ref().and_then(job_written::written),
        examples: examples.map(|event| example_groups(&event)).unwrap_or_default(),
        checkpoints,
    })
}

async fn shown(db: &PgPool, job: &Job, kind: Kind) -> Result<Option<Event>> {
    if let Some(step) = job.best_step
        && let Some(event) = store::event::at_step(db, job.job_id, kind, step).await?
    {
        return Ok(Some(event));
    }
    newest(db, job, kind).await
}

async fn newest(db: &PgPool, job: &Job, kind: Kind) -> Result<Option<Event>> {
    Ok(store::event::latest(db, job.job_id, &[kind], 1).await?.pop())
}

fn evaluation(title: &str, event: &Event, job: &Job) -> Evaluation {
    let data = &event.data;
    let labels = strings(data.get("labels"));
    let counts: Option<Vec<Vec<u64>>> =
        data.get("confusion_matrix").and_then(|matrix| serde_json::from_value(matrix.clone()).ok());
    let mut note: Vec<String> = Vec::new();
    note.extend(event.step.map(|step| format!("step {}", text::count(step.max(0) as u64))));
    note.extend(data.get("epoch").and_then(Value::as_f64).map(|epoch| format!("epoch {epoch:.2}")));
    note.extend(data.get("rows").and_then(Value::as_u64).map(|rows| text::plural(rows, "row", "rows")));
    if job.best_step.is_some() && job.best_step == event.step {
        note.push("the chosen weights".to_owned());
    }
    let undefined = strings(data.get("undefined"));
    Evaluation {
        title: title.to_owned(),
        note: note.join(" · "),
        metrics: metric_facts(&event.values),
        classes: class_rows(data.get("per_class")),
        confusion: counts
            .filter(|counts| (2..=MOST_CLASSES).contains(&counts.len()))
            .map(|counts| Confusion::new(&labels, &counts)),
        undefined: undefined.join(" "),
    }
}

/// Metrics with their names for people, in the order of [`ORDER`].
pub fn metric_facts(values: &Value) -> Vec<Fact> {
    let Some(values) = values.as_object() else { return Vec::new() };
    let place = |name: &str| ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len());
    let mut names: Vec<&String> =
        values.keys().filter(|name| !matches!(name.as_str(), "step" | "epoch")).collect();
    names.sort_by_key(|name| (place(name), name.to_owned()));
    let shown = |value: &Value| match value {
        Value::Number(number) => number.as_f64().map(text::value),
        Value::Null => Some("undefined".to_owned()),
        _ => None,
    };
    names.into_iter().filter_map(|name| Some(Fact::new(metric_name(name), shown(&values[name])?))).collect()
}

fn class_rows(classes: Option<&Value>) -> Vec<ClassRow> {
    let classes = classes.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let number = |class: &Value, name: &str| {
        class.get(name).and_then(Value::as_f64).map_or("–".to_owned(), |value| format!("{value:.3}"))
    };
    let row = |class: &Value| ClassRow {
        name: class.get("label").and_then(Value::as_str).unwrap_or_default().to_owned(),
        precision: number(class, "precision"),
        recall: number(class, "recall"),
        f1: number(class, "f1"),
        support: class.get("support").and_then(Value::as_u64).map(text::count).unwrap_or_default(),
    };
    classes.iter().map(row).collect()
}

fn strings(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect()
}

fn example_groups(event: &Event) -> Vec<ExampleGroup> {
    let group = |key: &'static str, title, note| {
        let rows = event.data.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        ExampleGroup { key, title, note, rows: rows.iter().map(example).collect() }
    };
    let asks = event.data.pointer("/worst/0/question").is_some();
    let (worst, best) = match asks {
        true => (
            "Questions with the lowest F1, among equals those with the highest loss. Wrong answers of the data gather here.",
            "Questions with the highest F1, among equals those with the lowest loss.",
        ),
        false => (
            "Validation rows with the highest loss. Wrong labels gather here.",
            "Validation rows with the lowest loss.",
        ),
    };
    let groups = [
        group("worst", "Worst", worst),
        group("best", "Best", best),
        group(
            "random",
            "Random",
            "Validation rows drawn by the run's seed; the same ones at every evaluation.",
        ),
    ];
    groups.into_iter().filter(|group| !group.rows.is_empty()).collect()
}

fn example(row: &Value) -> Example {
    if row.get("question").is_some() {
        return answered(row);
    }
    if row.get("words").is_some_and(Value::is_array) {
        return tagged_example(row);
    }
    let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |name: &str| row.get(name).and_then(Value::as_f64);
    let (label, predicted) = (row.get("label"), row.get("predicted"));
    let is_number = label.is_some_and(Value::is_number);
    let cut = if row.get("cut").and_then(Value::as_bool) == Some(true) { " …" } else { "" };
    Example {
        text: format!("{}{cut}", text("text")),
        words: Vec::new(),
        text_pair: text("text_pair"),
        pieces: Vec::new(),
        row: row.get("row").and_then(Value::as_u64).map(|row| text::count(row + 1)).unwrap_or_default(),
        label: answer(label),
        predicted: answer(predicted),
        probability: number("probability").map(text::percent).unwrap_or_default(),
        loss: number("loss").map_or("not finite".to_owned(), text::value),
        right: (!is_number).then(|| label == predicted),
    }
}

/// A question, with the right answers and the model's marked in its context.
fn answered(row: &Value) -> Example {
    const NONE: &str = "no answer";
    let place = |part: &Value| {
        let number = |name: &str| part[name].as_u64().map(|number| number as usize);
        Some((number("start")?, number("end")?))
    };
    let words =
        |part: &Value| part["text"].as_str().filter(|text| !text.is_empty()).unwrap_or(NONE).to_owned();
    let number = |name: &str| row.get(name).and_then(Value::as_f64);
    let answers = row["answers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut right: Vec<String> = answers.iter().map(words).collect();
    right.dedup();
    let places: Vec<(usize, usize)> = answers.iter().filter_map(place).collect();
    let context = row["context"].as_str().unwrap_or_default();
    Example {
        text: row["question"].as_str().unwrap_or_default().to_owned(),
        text_pair: String::new(),
        words: Vec::new(),
        pieces: pieces(context, &places, place(&row["predicted"])),
        row: row.get("row").and_then(Value::as_u64).map(|row| text::count(row + 1)).unwrap_or_default(),
        label: if right.is_empty() { NONE.to_owned() } else { right.join(" · ") },
        predicted: words(&row["predicted"]),
        probability: number("probability").map(text::percent).unwrap_or_default(),
        loss: number("loss").map_or("not finite".to_owned(), text::value),
        right: number("f1").map(|f1| f1 >= 1.0),
    }
}

/// A row of tagged words: what is right and what is wrong is told word by word.
fn tagged_example(row: &Value) -> Example {
    let (words, tags) = (strings(row.get("words")), strings(row.get("tags")));
    let said = row.get("predicted").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let name = |tag: &str| if tag == "O" { String::new() } else { tag.to_owned() };
    let word = |((word, tag), said): ((String, &String), &Value)| ExampleWord {
        word,
        tag: name(tag),
        predicted: name(said.as_str().unwrap_or_default()),
        style: match said.as_str() {
            None => "word-unseen",
            Some(said) if said != tag => "word-wrong",
            Some("O") => "",
            Some(_) => "word-right",
        },
    };
    let words: Vec<ExampleWord> = words.into_iter().zip(&tags).zip(said).map(word).collect();
    let count = |style: &str| words.iter().filter(|word| word.style == style).count() as u64;
    let (wrong, unseen) = (count("word-wrong"), count("word-unseen"));
    let more = row.get("more").and_then(Value::as_u64).unwrap_or(0);
    let unseen = if unseen == 0 { String::new() } else { format!(", {} not seen", text::count(unseen)) };
    Example {
        text: if more == 0 {
            String::new()
        } else {
            format!("… and {}", text::plural(more, "more word", "more words"))
        },
        text_pair: String::new(),
        row: row.get("row").and_then(Value::as_u64).map(|row| text::count(row + 1)).unwrap_or_default(),
        label: String::new(),
        predicted: format!("{}{unseen}", text::plural(wrong, "word wrong", "words wrong")),
        probability: String::new(),
        loss: row.get("loss").and_then(Value::as_f64).map_or("not finite".to_owned(), text::value),
        right: Some(words.iter().all(|word| word.style.is_empty() || word.style == "word-right")),
        words,
        pieces: Vec::new(),
    }
}

fn answer(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(label)) => label.clone(),
        Some(Value::Array(labels)) if labels.is_empty() => "none".to_owned(),
        Some(Value::Array(_)) => strings(value).join(", "),
        Some(Value::Number(number)) => number.as_f64().map(text::value).unwrap_or_default(),
        _ => "–".to_owned(),
    }
}

fn checkpoint_row(checkpoint: &store::checkpoint::Checkpoint) -> CheckpointRow {
    let download = checkpoint.model_id.as_ref().map(|id| format!("/v1/models/{id}/content?format=zip"));
    CheckpointRow {
        step: text::count(checkpoint.step.max(0) as u64),
        metrics: checkpoint_metrics(&checkpoint.metrics),
        size: text::bytes(checkpoint.bytes.max(0) as u64),
        created: Moment::at(checkpoint.created_at, Utc::now()),
        best: checkpoint.best,
        download: download.unwrap_or_default(),
    }
}

/// "loss 0.3553, accuracy 0.8472"; the trainer writes the names with or without `eval_`.
fn checkpoint_metrics(metrics: &Value) -> String {
    let find = |name: &str| {
        [name.to_owned(), format!("eval_{name}")].iter().find_map(|name| metrics.get(name)?.as_f64())
    };
    let names = [
        "loss",
        "perplexity",
        "mean_token_accuracy",
        "reward_accuracy",
        "reward_margin",
        "accuracy",
        "subset_accuracy",
        "f1",
        "f1_macro",
        "exact_match",
        "r2",
        "ndcg_at_10",
        "accuracy_at_1",
        "spearman",
        "f1",
        "bleu",
        "rougeL",
        "chrf",
    ];
    let parts = names.iter().filter_map(|name| {
        let value = find(name)?;
        Some(format!("{} {}", if *name == "r2" { "R²" } else { name }, text::value(value)).replace('_', " "))
    });
    parts.take(3).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_undefined_metric_is_said_to_be_so() {
        let facts = metric_facts(&json!({"roc_auc": null, "loss": 0.5, "step": 3, "f1": 0.25}));
        let shown: Vec<(&str, &str)> = facts.iter().map(|f| (f.name.as_str(), f.value.as_str())).collect();
        assert_eq!(shown, [("Loss", "0.5000"), ("F1", "0.2500"), ("ROC AUC", "undefined")]);
    }

    #[test]
    fn words_are_coloured_by_what_was_said_of_them() {
        let row = json!({"row": 4, "words": ["Anna", "in", "Rome", "x"], "tags": ["B-PER", "O", "B-LOC", "O"],
            "predicted": ["B-PER", "O", "O", null], "more": 0, "loss": 0.5});
        let shown = example(&row);
        let styles: Vec<&str> = shown.words.iter().map(|word| word.style).collect();
        assert_eq!(styles, ["word-right", "", "word-wrong", "word-unseen"]);
        assert_eq!((shown.right, shown.predicted.as_str()), (Some(false), "1 word wrong, 1 not seen"));
        assert_eq!((shown.words[2].tag.as_str(), shown.words[2].predicted.as_str()), ("B-LOC", ""));
    }

    #[test]
    fn an_example_of_a_regression_is_neither_right_nor_wrong() {
        let row =
            json!({"row": 0, "text": "a", "label": 2.5, "predicted": 2.0, "probability": null, "loss": 0.25});
        assert_eq!(example(&row).right, None);
        let row = json!({"row": 0, "text": "a", "label": ["x"], "predicted": ["x"], "probability": null, "loss": 0.1});
        assert_eq!(example(&row).right, Some(true));
    }
}
