//! The files of a text-generation job: chats, prompts with their completions, plain texts.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use formats::chat::{
    Encoded, EncodedAnswer, EncodedPair, EncodedRows, Encoder, Example, Loss, advised_weights, are_texts,
    read_chats,
};
use formats::chat_template::ChatTemplate;
use formats::dataset::random_split;
use formats::tokenizer::{Encoding, Tokenizer};
use store::spec::{JobSpec, Preference, PreferenceLoss};

use super::prompts::{Prompt, prompts};
use super::{Data, Order, Split, Tokens};
use crate::failure::Failure;
use crate::job::Events;
use crate::tasks::Targets;

/// How the examples of a job become tokens.
struct Maker<'a> {
    spec: &'a JobSpec,
    tokenizer: &'a Tokenizer,
    template: Option<ChatTemplate>,
    max_length: usize,
}

impl Data {
    /// Reads the files under `DIR/data`; `model` is the folder whose template writes chats. What is held out comes from
    /// files of their own, or from the training file.
    pub fn generated(
        (dir, model): (&Path, &Path),
        spec: &JobSpec,
        tokenizer: &Tokenizer,
        max_length: usize,
        events: &mut Events,
    ) -> Result<Self> {
        let template = chosen_template(model, spec, tokenizer)?;
        let maker = Maker { spec, tokenizer, template, max_length };
        let read = |file: &String| -> Result<Vec<Example>> {
            Ok(read_chats(&dir.join("data").join(file), file, None)?)
        };
        let optional = |file: &Option<String>| file.as_ref().map(read).transpose();
        let all = read(&spec.data.train)?;
        let (validation, test) = (optional(&spec.data.validation)?, optional(&spec.data.test)?);
        let split = random_split(all.len(), spec.held_out(), u64::from(spec.split.seed));
        let take = |rows: &[usize]| rows.iter().map(|&row| all[row].clone()).collect::<Vec<_>>();
        let validation = validation.unwrap_or_else(|| take(&split.validation));
        let test = test.unwrap_or_else(|| take(&split.test));
        let prompts = maker.prompts(&all, &validation, events)?;
        let held_out = |name: &str, file: &Option<String>, examples: Vec<Example>, events: &mut Events| {
            if examples.is_empty() {
                return Ok(None);
            }
            maker.split(name, file.as_ref().unwrap_or(&spec.data.train), &examples, events).map(Some)
        };
        Ok(Data {
            train: Arc::new(maker.split("train", &spec.data.train, &take(&split.train), events)?),
            validation: held_out("validation", &spec.data.validation, validation, events)?,
            test: held_out("test", &spec.data.test, test, events)?,
            prompts,
        })
    }
}

/// The template that is asked for by name or in full, or the checkpoint's own.
pub fn chosen_template(model: &Path, spec: &JobSpec, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>> {
    let tokens = tokenizer.special_tokens().clone();
    let made = ChatTemplate::choose(model, spec.training.chat_template.as_deref(), tokens);
    made.map_err(|problem| {
        Failure::user("bad_chat_template", format!("{problem}.")).at("training.chat_template").into()
    })
}

impl Maker<'_> {
    fn encoder<'m>(&'m self, max_length: usize, file: &'m str) -> Encoder<'m> {
        Encoder {
            tokenizer: self.tokenizer,
            template: self.template.as_ref(),
            max_length,
            // Of a preference the answers alone are compared.
            loss: match self.spec.training.preference {
                Some(_) => Loss::Assistant,
                None => self.spec.training.loss_on.into(),
            },
            file,
        }
    }

    /// What the model is asked at its evaluations. The training rows say whether texts are what a user says.
    fn prompts(&self, train: &[Example], validation: &[Example], events: &mut Events) -> Result<Vec<Prompt>> {
        let are_chats = train.first().is_some_and(|example| example.content.is_chat());
        let file = self.spec.data.validation.as_ref().unwrap_or(&self.spec.data.train);
        let encoder = self.encoder(self.max_length, file);
        let (prompts, notices) = prompts(&encoder, &self.spec.training.samples, validation, are_chats)?;
        notices.into_iter().try_for_each(|notice| events.log(0, format!("{notice}.")))?;
        Ok(prompts)
    }

    /// Tokens of a part of the data. What was cut, or has nothing to learn, is told by its number.
    fn split(&self, part: &str, file: &str, examples: &[Example], events: &mut Events) -> Result<Split> {
        if let Some(rule) = self.spec.training.preference.as_ref().filter(|rule| rule.loss.is_unpaired()) {
            return self.unpaired(rule, part, file, examples, events);
        }
        // Plain texts are joined end to end, and cut only then.
        let joined = are_texts(examples);
        let encoder = self.encoder(if joined { usize::MAX } else { self.max_length }, file);
        let per_row = if self.spec.training.preference.is_some() { 2 } else { 1 };
        let (numbers, rows, notices) = match per_row {
            2 => pairs(encoder.encode_pairs(examples)?, self.max_length),
            _ => {
                let made = encoder.encode_rows(examples)?;
                let notices = made.notices(self.max_length);
                let rows = made.rows.into_iter().map(|row| (row.ids, row.counts));
                match joined {
                    false => (made.numbers, rows.collect(), notices),
                    true => {
                        let blocks = blocks(rows.map(|(ids, _)| ids), self.max_length);
                        ((0..blocks.len() as u64).collect(), blocks, notices)
                    }
                }
            }
        };
        tell_notices(part, &notices, events)?;
        let tokens = tokens_of(rows);
        tell_size(part, &tokens, numbers.len(), events)?;
        let (targets, texts, reference) = (Targets::Tokens, Vec::new(), Vec::new());
        let keys = Vec::new();
        Ok(Split {
            tokens,
            per_row,
            reference,
            mismatched: None,
            answers: None,
            keys,
            numbers,
            targets,
            texts,
        })
    }

    /// Answers that are desirable or not; a preference becomes two of them. Beside them, for a rule that asks how far the
    /// model went from where it began, each prompt with the answer of another row of its step; held-out rows are one step.
    fn unpaired(
        &self,
        rule: &Preference,
        part: &str,
        file: &str,
        examples: &[Example],
        events: &mut Events,
    ) -> Result<Split> {
        let made = self.encoder(self.max_length, file).encode_unpaired(examples)?;
        tell_notices(part, &made.notices(self.max_length), events)?;
        let (answers, numbers) = (made.rows, made.numbers);
        let rows =
            |made: Vec<Encoded>| tokens_of(made.into_iter().map(|row| (row.ids, row.counts)).collect());
        let tokens = rows(answers.iter().map(|answer| answer.cut(self.max_length)).collect());
        tell_size(part, &tokens, answers.len(), events)?;
        let desirable: Vec<bool> = answers.iter().map(|answer| answer.desirable).collect();
        tell_balance(part, rule, &desirable, events)?;
        let split = |tokens, mismatched| Split {
            tokens,
            per_row: 1,
            reference: Vec::new(),
            mismatched,
            answers: None,
            keys: Vec::new(),
            numbers: numbers.clone(),
            targets: Targets::Answers(desirable.clone()),
            texts: Vec::new(),
        };
        if rule.loss != PreferenceLoss::Kto {
            return Ok(split(tokens, None));
        }
        if answers.len() == 1 {
            let message =
                format!("{part}: kto compares answers with each other, and there is one; give 2 or more.");
            return Err(Failure::user("too_few_rows", message).into());
        }
        let training = &self.spec.training;
        let (batch, steps) = match part {
            "train" => (training.batch_size as usize, training.gradient_accumulation_steps as usize),
            _ => (answers.len(), 1),
        };
        let partners = Order::new(answers.len(), batch, steps, u64::from(self.spec.seed)).partners();
        let other =
            |(own, &other): (&EncodedAnswer, &usize)| own.answered_by(&answers[other], self.max_length);
        let others = rows(answers.iter().zip(&partners).map(other).collect());
        let mismatched = Some(Box::new(split(others, None)));
        Ok(split(tokens, mismatched))
    }
}

fn tell_notices(part: &str, notices: &[String], events: &mut Events) -> Result<()> {
    notices.iter().try_for_each(|notice| events.warn(0, format!("{part}: {notice}.")))
}

fn tell_size(part: &str, tokens: &Tokens, rows: usize, events: &mut Events) -> Result<()> {
    let of_row = |at: usize| tokens.row(at).1.iter().skip(1).filter(|&&mark| mark > 0).count();
    let counted: usize = (0..tokens.len()).map(of_row).sum();
    let total = tokens.total();
    events.log(0, format!("{part}: {rows} rows, {total} tokens, of which {counted} count in the loss"))
}

/// How many answers are desirable; a warning where one side outweighs the other in training.
fn tell_balance(part: &str, rule: &Preference, desirable: &[bool], events: &mut Events) -> Result<()> {
    let good = desirable.iter().filter(|desirable| **desirable).count();
    let bad = desirable.len() - good;
    events.log(0, format!("{part}: {good} answers are desirable, {bad} are not"))?;
    let weights = [rule.desirable_weight, rule.undesirable_weight];
    match advised_weights(good as u64, bad as u64, weights).filter(|_| part == "train") {
        Some(advice) => events.warn(0, format!("{part}: {advice}.")),
        None => Ok(()),
    }
}

fn tokens_of(rows: Vec<Marked>) -> Tokens {
    let encoding = |(ids, counts): Marked| Encoding {
        ids,
        type_ids: counts.into_iter().map(u32::from).collect(),
        truncated: false,
    };
    Tokens::of(&rows.into_iter().map(encoding).collect::<Vec<_>>())
}

/// Token ids, and which of them count.
type Marked = (Vec<u32>, Vec<bool>);

/// The better and the worse answer of each row, one after the other; numbers of the rows, and what is to be told of them.
fn pairs(made: EncodedRows<EncodedPair>, max_length: usize) -> (Vec<u64>, Vec<Marked>, Vec<String>) {
    let notices = made.notices(max_length);
    let both = made.rows.into_iter().flat_map(|pair| [pair.chosen, pair.rejected]);
    (made.numbers, both.map(|row| (row.ids, row.counts)).collect(), notices)
}

/// Texts end to end, cut into blocks of `length` tokens, of which all count; the last may be shorter. So does transformers'
/// `run_clm.py`, but for the last one.
fn blocks(texts: impl Iterator<Item = Vec<u32>>, length: usize) -> Vec<Marked> {
    let ids: Vec<u32> = texts.flatten().collect();
    ids.chunks(length)
        .filter(|block| block.len() > 1)
        .map(|block| (block.to_vec(), vec![true; block.len()]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_where_a_block_is_full() {
        let made = blocks([vec![1, 2, 3], vec![4, 5], vec![6, 7]].into_iter(), 3);
        let ids: Vec<Vec<u32>> = made.into_iter().map(|(ids, _)| ids).collect();
        // A last block of one token has nothing that foretells it.
        assert_eq!(ids, [vec![1, 2, 3], vec![4, 5, 6]]);
    }
}
