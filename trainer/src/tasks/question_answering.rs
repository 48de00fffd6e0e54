//! Question answering: the part of a text that answers a question, or that there is none.
//!
//! The loss is that of transformers' `…ForQuestionAnswering`: the mean of two cross-entropies over the tokens of a window, of
//! the place where the answer begins and of the place where it ends. A row is a window; a question is judged by the best of
//! all its windows.

use anyhow::Result;
use serde::Serialize;
use serde_json::{Map, Value, json};
use store::spec;
use tch::{Kind, Tensor};

use super::spans::{self, Choice, Ranking, Spans, rank};
use super::{Given, Objective, Predictions, Targets};
use crate::data::{Data, Split};
use crate::failure::Failure;
use crate::metrics::examples::{TEXT_LIMIT, pick};
use crate::metrics::{Metrics, Squad, f1};
use crate::models::Head;
use crate::nn::Packing;
use crate::tensors::floats;

/// Where `config.json` says how answers are chosen.
pub const SETTINGS: &str = "question_answering";

/// How answers are chosen, and the loss.
pub struct QuestionAnswering {
    settings: spec::QuestionAnswering,
    max_length: usize,
    /// Whether there are questions without an answer.
    may_be_null: bool,
}

impl QuestionAnswering {
    /// Answers as the settings say; "no answer" may be one where some question of the data has none.
    pub fn new(settings: spec::QuestionAnswering, max_length: usize, data: &Data) -> Self {
        let has_none = |split: &Split| match &split.targets {
            Targets::Spans(spans) => spans.questions.iter().any(|question| question.answers.is_empty()),
            _ => false,
        };
        let may_be_null = [Some(&*data.train), data.validation.as_ref(), data.test.as_ref()]
            .into_iter()
            .flatten()
            .any(has_none);
        QuestionAnswering { settings, max_length, may_be_null }
    }

    /// How answers are chosen.
    pub fn choice(&self) -> Choice {
        choice(&self.settings, self.may_be_null)
    }

    /// Each question of a split with its answers as ranked, and the mean loss of its windows.
    fn ranked(&self, split: &Split, predictions: &Predictions) -> Vec<(usize, Ranking, f64)> {
        let spans = spans_of(split);
        let (size, choice) = (self.outputs(), self.choice());
        let of_question = |(question, windows): (usize, Vec<usize>)| {
            let loss = windows.iter().map(|&at| predictions.losses[at]).sum::<f64>() / windows.len() as f64;
            let kept =
                windows.iter().map(|&at| (&spans.windows[at], &predictions.outputs[at * size..][..size]));
            (question, rank(kept, choice), loss)
        };
        spans.by_question().into_iter().map(of_question).collect()
    }
}

/// How answers are chosen by these settings.
pub fn choice(settings: &spec::QuestionAnswering, may_be_null: bool) -> Choice {
    Choice {
        n_best: settings.n_best as usize,
        max_answer_length: settings.max_answer_length as usize,
        threshold: may_be_null.then_some(settings.null_score_difference_threshold),
    }
}

fn spans_of(split: &Split) -> &Spans {
    match &split.targets {
        Targets::Spans(spans) => spans,
        _ => unreachable!("rows of questions are windows"),
    }
}

/// The loss of each window, `[b]`, from what the head gave for all tokens, `[n, 2]`; `places` are the tokens at which the
/// answers begin and end.
pub fn window_losses(top: &Tensor, packing: &Packing, places: &[(usize, usize)]) -> Tensor {
    let device = top.device();
    let longest = Tensor::arange(packing.longest(), (Kind::Int64, device)).unsqueeze(0); // [1, l]
    let lengths = Tensor::from_slice(&packing.lengths).to_device(device).unsqueeze(1); // [b, 1]
    let beyond = longest.ge_tensor(&lengths); // [b, l]
    let at = (packing.starts.unsqueeze(1) + &longest).clamp_max(top.size()[0] - 1); // [b, l]
    let logits = top.index_select(0, &at.view(-1)).view([places.len() as i64, -1, 2]);
    let logits = logits.masked_fill(&beyond.unsqueeze(2), f64::NEG_INFINITY);
    let own: Vec<i64> = places.iter().flat_map(|&(start, end)| [start as i64, end as i64]).collect();
    let own = Tensor::from_slice(&own).view([-1, 1, 2]).to_device(device);
    let likely = logits.log_softmax(1, Kind::Float).gather(1, &own, false); // [b, 1, 2]
    -likely.mean_dim([1_i64, 2].as_slice(), false, Kind::Float)
}

impl Objective for QuestionAnswering {
    fn head(&self) -> Head {
        Head::Span
    }

    fn weight(&self, _split: &Split, rows: &[usize]) -> f64 {
        rows.len() as f64
    }

    fn loss(&self, of: &Given, by: f64) -> Tensor {
        losses(of).sum(Kind::Float) * by
    }

    fn outputs(&self) -> usize {
        spans::kept(self.settings.n_best as usize)
    }

    fn look(&self, of: &Given) -> Result<(Vec<f32>, Vec<f32>)> {
        let losses = floats(&losses(of))?;
        let (all, n_best) = (floats(of.top)?, self.settings.n_best as usize);
        let mut kept = Vec::with_capacity(of.rows.len() * self.outputs());
        let mut start = 0;
        for (&row, &length) in of.rows.iter().zip(&of.batch.inputs.packing.lengths) {
            let own = &all[2 * start..2 * (start + length as usize)];
            kept.extend(spans::keep(own, spans_of(of.split).windows[row].cls, n_best));
            start += length as usize;
        }
        Ok((kept, losses))
    }

    fn metrics(&self, split: &Split, predictions: &Predictions) -> Result<Metrics> {
        let spans = spans_of(split);
        let ranked = self.ranked(split, predictions);
        let rows = predictions.losses.len();
        let text = |question: usize, place: Option<&spans::Candidate>| {
            let context = &spans.questions[question].context;
            place.map_or("", |place| spans::part(context, place.start, place.end))
        };
        let gold: Vec<Vec<&str>> = ranked
            .iter()
            .map(|(question, ..)| {
                spans.questions[*question].answers.iter().map(|answer| answer.text.as_str()).collect()
            })
            .collect();
        let said: Vec<&str> =
            ranked.iter().map(|(question, ranking, _)| text(*question, ranking.answer())).collect();
        let best: Vec<&str> =
            ranked.iter().map(|(question, ranking, _)| text(*question, ranking.best())).collect();
        // Without any other answer "no answer" is never too low.
        let differences: Vec<f64> =
            ranked.iter().map(|(_, ranking, _)| ranking.difference().unwrap_or(f64::MAX)).collect();
        Ok(Squad {
            loss: (rows > 0).then(|| predictions.losses.iter().sum::<f64>() / rows as f64),
            gold: &gold,
            said: &said,
            otherwise: self.may_be_null.then_some((best.as_slice(), differences.as_slice())),
        }
        .metrics()?)
    }

    /// The best, worst and some random answers, by their F1 and then by their loss.
    fn examples(&self, split: &Split, predictions: &Predictions, seed: u64) -> Option<Value> {
        const SHOWN: usize = 5;
        let spans = spans_of(split);
        let ranked = self.ranked(split, predictions);
        let answered: Vec<Answered> = ranked
            .iter()
            .map(|(question, ranking, loss)| Answered::new(spans, *question, ranking, *loss))
            .collect();
        let mut order: Vec<usize> = (0..answered.len()).collect();
        order.sort_by(|&a, &b| {
            let by_loss = ranked[a].2.total_cmp(&ranked[b].2);
            answered[b].f1.total_cmp(&answered[a].f1).then(by_loss)
        });
        let mut places = vec![0.0; order.len()];
        order.into_iter().enumerate().for_each(|(place, at)| places[at] = place as f64);
        Some(pick(&places, SHOWN, seed).shown(|at| &answered[at]))
    }

    /// Row, question, right answers (JSON), answer, its start and end in characters, its probability, the difference to "no
    /// answer" where that may be one, and F1 in percent.
    fn predictions_csv(&self, split: &Split, predictions: &Predictions) -> Result<String> {
        let spans = spans_of(split);
        let mut csv = csv::Writer::from_writer(Vec::new());
        csv.write_record([
            "row",
            "question",
            "answers",
            "predicted",
            "start",
            "end",
            "probability",
            "null_score_difference",
            "f1",
        ])?;
        let number = |number: Option<f64>| number.map_or_else(String::new, |number| number.to_string());
        for (question, ranking, loss) in self.ranked(split, predictions) {
            let of = &spans.questions[question];
            let answered = Answered::new(spans, question, &ranking, loss);
            let place = ranking.answer();
            csv.write_record([
                of.row.to_string(),
                of.question.clone(),
                serde_json::to_string(&of.answers)?,
                answered.predicted.text,
                place.map_or_else(String::new, |place| place.start.to_string()),
                place.map_or_else(String::new, |place| place.end.to_string()),
                number(answered.probability),
                number(ranking.difference()),
                (100.0 * answered.f1).to_string(),
            ])?;
        }
        Ok(String::from_utf8(csv.into_inner()?)?)
    }

    fn tuned_config(&self, base: &Value) -> Result<Value> {
        let class = match base["model_type"].as_str().unwrap_or_default() {
            "bert" => "BertForQuestionAnswering",
            "roberta" => "RobertaForQuestionAnswering",
            "xlm-roberta" => "XLMRobertaForQuestionAnswering",
            "distilbert" => "DistilBertForQuestionAnswering",
            other => {
                return Err(Failure::internal("internal_error", format!("no class name for {other}")).into());
            }
        };
        let mut config: Map<String, Value> = base.as_object().cloned().unwrap_or_default();
        // The labels of another head: transformers would make an output for each.
        for gone in ["id2label", "label2id", "num_labels", "_num_labels", "problem_type"] {
            config.shift_remove(gone);
        }
        config.insert("architectures".into(), json!([class]));
        let mut settings = serde_json::to_value(&self.settings)?;
        settings["max_length"] = json!(self.max_length);
        settings["may_be_unanswerable"] = json!(self.may_be_null);
        config.insert(SETTINGS.into(), settings);
        Ok(config.into())
    }

    fn peft_task(&self) -> &'static str {
        "QUESTION_ANS"
    }

    fn usage(&self, adapter: bool) -> &'static str {
        if adapter { USE_OF_ADAPTER } else { USE }
    }
}

fn losses(of: &Given) -> Tensor {
    let windows = &spans_of(of.split).windows;
    let places: Vec<(usize, usize)> =
        of.rows.iter().map(|&row| (windows[row].start, windows[row].end)).collect();
    window_losses(of.top, &of.batch.inputs.packing, &places)
}

/// An answer beside the right ones, ready to be shown. Places are characters of the part of the context that is shown.
#[derive(Debug, Serialize)]
struct Answered {
    row: u64,
    question: String,
    context: String,
    /// Whether the context was cut for showing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
    answers: Vec<Marked>,
    predicted: Marked,
    probability: Option<f64>,
    /// 0 to 1.
    f1: f64,
    loss: Option<f64>,
}

/// A part of the context; without a place where it lies outside of what is shown, or is "no answer".
#[derive(Debug, Serialize)]
struct Marked {
    text: String,
    start: Option<usize>,
    end: Option<usize>,
}

impl Answered {
    fn new(spans: &Spans, question: usize, ranking: &Ranking, loss: f64) -> Self {
        let of = &spans.questions[question];
        let answer = ranking.answer();
        let text = answer.map_or("", |place| spans::part(&of.context, place.start, place.end));
        let gold: Vec<&str> = of.answers.iter().map(|answer| answer.text.as_str()).collect();
        // What is shown begins a little before the first of the answers.
        let length = of.context.chars().count();
        let first = of.answers.iter().map(|answer| answer.start).chain(answer.map(|place| place.start)).min();
        let before = match length <= TEXT_LIMIT {
            true => 0,
            false => first.unwrap_or(0).saturating_sub(TEXT_LIMIT / 5).min(length - TEXT_LIMIT),
        };
        let after = length.min(before + TEXT_LIMIT);
        let mark = |text: &str, start: usize, end: usize| {
            let inside = (before <= start && end <= after).then(|| (start - before, end - before));
            let text = text.chars().take(TEXT_LIMIT).collect();
            Marked { text, start: inside.map(|(start, _)| start), end: inside.map(|(_, end)| end) }
        };
        Answered {
            row: of.row,
            question: of.question.chars().take(TEXT_LIMIT).collect(),
            context: spans::part(&of.context, before, after).to_owned(),
            cut: length > TEXT_LIMIT,
            answers: of.answers.iter().map(|answer| mark(&answer.text, answer.start, answer.end())).collect(),
            predicted: match answer {
                Some(place) => mark(text, place.start, place.end),
                None => Marked { text: String::new(), start: None, end: None },
            },
            probability: match answer {
                Some(place) => Some(place.probability),
                None => ranking.null.map(|(_, probability)| probability),
            },
            f1: f1(&gold, text),
            loss: Some(loss).filter(|loss| loss.is_finite()),
        }
    }
}

const USE: &str = "```python\nfrom transformers import pipeline\n\nanswer = pipeline(\"question-answering\", \
                   model=\"path/to/this/folder\")\nprint(answer(question=\"…\", context=\"…\"))\n```\n";

const USE_OF_ADAPTER: &str = "This is an adapter; the model that it was trained on is in `base/`.\n\n```python\nfrom peft \
                              import PeftModel\nfrom transformers import AutoConfig, AutoModelForQuestionAnswering, \
                              AutoTokenizer, pipeline\n\nfolder = \"path/to/this/folder\"\nbase = \
                              AutoModelForQuestionAnswering.from_pretrained(f\"{folder}/base\", \
                              config=AutoConfig.from_pretrained(folder), ignore_mismatched_sizes=True)\nmodel = \
                              PeftModel.from_pretrained(base, folder).merge_and_unload()\nanswer = \
                              pipeline(\"question-answering\", model=model, \
                              tokenizer=AutoTokenizer.from_pretrained(folder))\nprint(answer(question=\"…\", \
                              context=\"…\"))\n```\n";
