//! The files of a text-generation job: chats, prompts with their completions, plain texts.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use formats::chat::{EncodedPair, EncodedRows, Encoder, Example, Loss, are_texts, read_chats};
use formats::chat_template::ChatTemplate;
use formats::dataset::random_split;
use formats::tokenizer::{Encoding, Tokenizer};
use store::spec::JobSpec;

use super::{Data, Split};
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
    /// Tokens of a part of the data. What was cut, or has nothing to learn, is told by its number.
    fn split(&self, part: &str, file: &str, examples: &[Example], events: &mut Events) -> Result<Split> {
        // Plain texts are joined end to end, and cut only then.
        let joined = are_texts(examples);
        let encoder = Encoder {
            tokenizer: self.tokenizer,
            template: self.template.as_ref(),
            max_length: if joined { usize::MAX } else { self.max_length },
            // Of a preference the answers alone are compared.
            loss: match self.spec.training.preference {
                Some(_) => Loss::Assistant,
                None => self.spec.training.loss_on.into(),
            },
            file,
        };
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
        for notice in notices {
            events.warn(0, format!("{part}: {notice}."))?;
        }
        let encodings: Vec<Encoding> = rows
            .into_iter()
            .map(|(ids, counts)| Encoding {
                ids,
                type_ids: counts.into_iter().map(u32::from).collect(),
                truncated: false,
            })
            .collect();
        let tokens = super::Tokens::of(&encodings);
        let counted: u64 =
            encodings.iter().flat_map(|row| row.type_ids.iter().skip(1)).map(|&mark| u64::from(mark)).sum();
        events.log(
            0,
            format!(
                "{part}: {} rows, {} tokens, of which {counted} count in the loss",
                numbers.len(),
                tokens.total()
            ),
        )?;
        let (targets, texts, reference) = (Targets::Tokens, Vec::new(), Vec::new());
        Ok(Split { tokens, per_row, reference, keys: Vec::new(), numbers, targets, texts })
    }
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
