//! Chats, prompts and texts, as the trainer encodes them.

use std::path::Path;

use formats::chat::{Encoded, EncodedAnswer, Encoder, Example, Loss, are_texts, messages_of, read_chats};
use formats::chat_template::{ChatTemplate, named_templates};
use formats::checkpoint::{Config, read_json};
use formats::dataset::random_split;
use formats::tokenizer::Tokenizer;
use formats::{Problem, ProblemKind};
use serde_json::{Value, json};
use store::estimate::Model;
use store::spec::{JobSpec, SamplePrompt, Task};

use super::{SAMPLE, Sample, Shares, evenly};
use crate::openai::prepare::{code_of, of_problem, refusal};
use crate::{Error, Result};

/// Where the settings stand in a request that uses the older place.
const TEMPLATE: &str = "hyperparameters.chat_template";
const MAX_LENGTH: &str = "hyperparameters.max_length";
const PROMPTS: &str = "hyperparameters.samples.prompts";

/// The settings that decide how rows become tokens.
pub(super) fn settings(spec: &JobSpec) -> Value {
    let training = &spec.training;
    match spec.task {
        Task::TextClassification | Task::TokenClassification => Value::Null,
        Task::SentenceSimilarity => json!([training.max_length, spec.embedding().0]),
        Task::QuestionAnswering => json!([training.max_length, spec.question_answering().doc_stride]),
        Task::Translation | Task::Summarization | Task::TextToText => {
            json!([training.max_length, spec.text_to_text()])
        }
        Task::TextGeneration => {
            let answers = Answers::of(spec);
            let prompts = &training.samples.prompts;
            json!([training.loss_on, training.chat_template, training.max_length, answers as u8, prompts])
        }
    }
}

/// Encodes some rows; what would end the job is an answer here. `shown` is the data's name as its owner knows it.
pub(super) fn look(folder: &Path, data: &Path, shown: &str, spec: &JobSpec, bytes: u64) -> Result<Sample> {
    let of_model = |problem: Problem| of_problem("model", &problem);
    let config: Config = read_json(folder, "config.json", ProblemKind::Config).map_err(of_model)?;
    let model = Model::new(&config, 0).map_err(of_model)?;
    let tokenizer = Tokenizer::load(folder).map_err(of_model)?;
    let stated = tokenizer.model_max_length().map(|length| length as u64);
    let max_length = max_length(&model, spec, stated)?;
    let chosen = spec.training.chat_template.as_deref();
    let template = ChatTemplate::choose(folder, chosen, tokenizer.special_tokens().clone())
        .map_err(|problem| of_problem(TEMPLATE, &problem))?;
    let examples = read_chats(data, shown, None).map_err(|problems| refusal("training_file", &problems))?;
    let split = random_split(examples.len(), spec.held_out(), spec.split.seed.into());
    let encoder = Encoder {
        tokenizer: &tokenizer,
        template: template.as_ref(),
        max_length: usize::MAX,
        loss: match spec.training.preference {
            Some(_) => Loss::Assistant,
            None => spec.training.loss_on.into(),
        },
        file: shown,
    };
    let mut found = Found { answers: Answers::of(spec), ..Found::default() };
    for row in evenly(&split.train) {
        found.add(&encoder, &examples[row], max_length)?;
    }
    check_prompts(&encoder, &examples, spec)?;
    let joined = are_texts(&examples);
    let (rows, lengths) = match joined {
        true => found.blocks(split.train.len(), max_length),
        false => found.kept(split.train.len()),
    };
    if lengths.is_empty() && found.looked_at > 0 {
        let message = format!(
            "{shown}: no row has anything to learn within {max_length} tokens; choose a greater max_length, or shorten the prompts"
        );
        return Err(Error::Invalid {
            message,
            param: Some(MAX_LENGTH.to_owned()),
            code: "conversation".into(),
        });
    }
    let shares = if joined { Shares { counted: 1.0, ..Shares::default() } } else { found.shares() };
    Ok(Sample {
        model,
        rows,
        bytes,
        target_share: 0.0,
        looked_at: found.looked_at,
        lengths,
        stated,
        shares: Some(shares),
        has_template: template.is_some(),
    })
}

/// Encodes the prompts that are asked at evaluations.
fn check_prompts(encoder: &Encoder<'_>, examples: &[Example], spec: &JobSpec) -> Result<()> {
    let are_chats = examples.first().is_some_and(|example| example.content.is_chat());
    for (number, prompt) in spec.training.samples.prompts.iter().enumerate() {
        let place = format!("{PROMPTS}[{number}]");
        let SamplePrompt::Messages(turns) = prompt.asked(are_chats) else { continue };
        let turns = messages_of(&turns, &place).map_err(|problems| refusal(&place, &problems))?;
        encoder.prompt(&turns, None).map_err(|problem| of_problem(&place, &problem))?;
    }
    Ok(())
}

/// What a checkpoint without a chat template is answered where rows need one.
pub fn no_template(file: &str) -> Error {
    let names: Vec<&str> = named_templates().iter().map(|template| template.name).collect();
    let message = format!(
        "{file}: the rows are conversations, and the checkpoint has no chat template to write them with; choose one of {}, \
         or give one in Jinja",
        names.join(", ")
    );
    let code = code_of(ProblemKind::ChatTemplate).into();
    Error::Invalid { message, param: Some(TEMPLATE.to_owned()), code }
}

fn max_length(model: &Model, spec: &JobSpec, stated: Option<u64>) -> Result<u64> {
    match spec.training.max_length {
        Some(asked) if u64::from(asked) > model.positions => Err(Error::invalid(
            MAX_LENGTH,
            format!("is {asked}, and this model has {} positions", model.positions),
        )),
        _ => Ok(model.max_length(&spec.training, stated)),
    }
}

/// What is trained on of a row.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Answers {
    /// All of it, as one sequence.
    #[default]
    One,
    /// Two answers to one prompt, together.
    Pair,
    /// Its answers, each on its own.
    Each,
}

impl Answers {
    fn of(spec: &JobSpec) -> Self {
        match &spec.training.preference {
            None => Self::One,
            Some(rule) if rule.loss.is_unpaired() => Self::Each,
            Some(_) => Self::Pair,
        }
    }
}

/// Sums over the rows that were encoded.
#[derive(Default)]
struct Found {
    answers: Answers,
    /// Rows of the file.
    examples: u64,
    /// What is trained on of them.
    looked_at: u64,
    /// Tokens of the rows that have something to learn, uncut.
    lengths: Vec<u64>,
    /// Tokens of all rows, uncut; of those kept, cut; and those of them that count.
    all: u64,
    tokens: u64,
    counted: u64,
    truncated: u64,
}

impl Found {
    fn add(&mut self, encoder: &Encoder<'_>, example: &Example, max_length: u64) -> Result<()> {
        if example.content.is_chat() && encoder.template.is_none() {
            return Err(no_template(encoder.file));
        }
        let whole = |answer: &EncodedAnswer| vec![answer.cut(usize::MAX)];
        let rows = match self.answers {
            Answers::One => encoder.encode(example).map(|row| vec![vec![row]]),
            Answers::Pair => encoder.encode_pair(example).map(|pair| vec![vec![pair.chosen, pair.rejected]]),
            Answers::Each => {
                encoder.encode_answers(example).map(|answers| answers.iter().map(whole).collect())
            }
        };
        let rows = rows.map_err(|problem| of_problem("training_file", &problem))?;
        self.examples += 1;
        rows.iter().for_each(|sequences| self.add_row(sequences, max_length));
        Ok(())
    }

    /// Adds a row that is trained on: its sequences, uncut.
    fn add_row(&mut self, rows: &[Encoded], max_length: u64) {
        let lengths = || rows.iter().map(|row| row.ids.len() as u64);
        let counted = |row: &Encoded| {
            row.counts.iter().take(max_length as usize).filter(|counts| **counts).count() as u64
        };
        self.looked_at += 1;
        self.all += lengths().sum::<u64>();
        if rows.iter().all(|row| counted(row) > 0) {
            // Each answer of a pair is cut on its own.
            let cut = lengths().map(|length| length.min(max_length)).sum();
            self.lengths.push(if self.answers == Answers::Pair { cut } else { lengths().sum() });
            self.tokens += cut;
            self.counted += rows.iter().map(counted).sum::<u64>();
            self.truncated += u64::from(lengths().any(|length| length > max_length));
        }
    }

    /// The rows with something to learn, of so many, and their lengths.
    fn kept(&self, rows: usize) -> (u64, Vec<u64>) {
        let kept = rows as f64 * self.lengths.len() as f64 / self.examples.max(1) as f64;
        (kept.round() as u64, self.lengths.clone())
    }

    /// Texts are joined end to end and cut into blocks.
    fn blocks(&self, rows: usize, max_length: u64) -> (u64, Vec<u64>) {
        let all = (rows as f64 * self.all as f64 / self.examples.max(1) as f64).round() as u64;
        let (full, rest) = (all / max_length.max(1), all % max_length.max(1));
        let mut lengths = vec![max_length; full.min(SAMPLE as u64) as usize];
        // A last block of one token has nothing that foretells it.
        lengths.extend(Some(rest).filter(|rest| *rest > 1));
        (full + u64::from(rest > 1), lengths)
    }

    fn shares(&self) -> Shares {
        let share = |part: u64, of: u64| part as f64 / of.max(1) as f64;
        Shares {
            truncated: share(self.truncated, self.looked_at),
            counted: share(self.counted, self.tokens),
            left_out: share(self.looked_at - self.lengths.len() as u64, self.looked_at),
        }
    }
}
