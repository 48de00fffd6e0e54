//! The vocabulary, by the trainers of the `tokenizers` crate.
//!
//! Their results depend on the order in which a map gives its words, and Unigram's on how a sum is shared among threads; what
//! is around them here takes both away.

use std::collections::BTreeSet;

use rayon::ThreadPoolBuilder;
use tokenizers::models::bpe::{BPE, BpeTrainer, BpeTrainerBuilder, Vocab};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, ModelWrapper};

use super::count::Counts;
use super::parts::REST;
use super::{Kind, Recipe, guarded, invalid};
use crate::problem::{Problem, ProblemKind};

const UNKNOWN: &str = "<unk>";

/// Learns the tokens and gives them to the tokenizer.
pub(super) fn learn(
    inner: &mut tokenizers::Tokenizer,
    counts: &Counts,
    recipe: &Recipe,
) -> Result<(), Problem> {
    let model: ModelWrapper = match recipe.kind {
        Kind::Bpe => {
            let alphabet = ByteLevel::alphabet();
            has_room(recipe, alphabet.len(), "bytes that every text can be spelt in")?;
            let alphabet = alphabet.into_iter().collect();
            merged(counts, recipe, Vec::new(), |builder| builder.initial_alphabet(alphabet))?.into()
        }
        Kind::WordPiece => {
            // The trainer numbers characters within words as it meets them, in no order; told as special tokens they come first.
            let within = within_words(counts);
            let letters: BTreeSet<char> = counts.words.keys().flat_map(|word| word.chars()).collect();
            has_room(
                recipe,
                letters.len() + within.len(),
                "characters, at the beginning of words and within them",
            )?;
            let bpe =
                merged(counts, recipe, within, |builder| builder.continuing_subword_prefix(REST.to_owned()))?;
            let vocabulary: Vocab = bpe.get_vocab().into_iter().collect();
            let builder = WordPiece::builder()
                .vocab(vocabulary)
                .unk_token(UNKNOWN.to_owned())
                .continuing_subword_prefix(REST.to_owned());
            guarded(|| builder.build())?.into()
        }
        Kind::Unigram => unigram(counts, recipe)?.into(),
    };
    inner.with_model(model);
    Ok(())
}

/// Refuses a vocabulary that the smallest parts alone would fill.
fn has_room(recipe: &Recipe, alphabet: usize, what: &str) -> Result<(), Problem> {
    let special = recipe.kind.special_tokens().len();
    let least = alphabet + special;
    if recipe.vocab_size >= least {
        return Ok(());
    }
    let message = format!(
        "a vocabulary of {} tokens has no room for {alphabet} {what}, and {special} special tokens",
        recipe.vocab_size
    );
    let instead = match recipe.kind {
        Kind::Bpe => String::new(),
        _ => ", or byte-level BPE, which needs no more than 260".to_owned(),
    };
    Err(invalid("vocab_size", message).hint(format!("choose at least {least}{instead}")))
}

/// Merges the neighbours that are there most often.
fn merged(
    counts: &Counts,
    recipe: &Recipe,
    first: Vec<String>,
    settings: impl FnOnce(BpeTrainerBuilder) -> BpeTrainerBuilder,
) -> Result<BPE, Problem> {
    let special = recipe.kind.special_tokens().iter().map(|token| (*token).to_owned()).chain(first);
    let builder = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(recipe.vocab_size)
        .min_frequency(recipe.min_frequency)
        .special_tokens(special.map(|token| AddedToken::from(token, true)).collect());
    let trainer = settings(builder).build();
    guarded(|| {
        let words = counts.sorted().into_iter().map(|(word, count)| (word.into(), count)).collect();
        let mut model = BPE::default();
        trainer.do_train(&words, &mut model)?;
        Ok(model)
    })
}

/// Characters behind others in a word, as WordPiece writes them, in their order.
fn within_words(counts: &Counts) -> Vec<String> {
    let letters: BTreeSet<char> = counts.words.keys().flat_map(|word| word.chars().skip(1)).collect();
    letters.into_iter().map(|letter| format!("{REST}{letter}")).collect()
}

/// The likeliest pieces, by expectation and maximization.
fn unigram(counts: &Counts, recipe: &Recipe) -> Result<Unigram, Problem> {
    let words: Vec<(String, u32)> = counts
        .sorted()
        .into_iter()
        .filter(|(_, count)| *count >= recipe.min_frequency)
        .map(|(word, count)| (word.to_owned(), u32::try_from(count).unwrap_or(u32::MAX)))
        .collect();
    if words.is_empty() {
        let message = format!("no word is there {} times", recipe.min_frequency);
        return Err(Problem::new(ProblemKind::MissingText, super::NAME, message)
            .in_column("min_frequency")
            .hint("choose a smaller min_frequency, or give more text"));
    }
    let letters: BTreeSet<char> = words.iter().flat_map(|(word, _)| word.chars()).collect();
    has_room(recipe, letters.len(), "characters")?;
    let special = recipe.kind.special_tokens();
    let trainer = guarded(|| {
        let trainer = UnigramTrainer::builder()
            .show_progress(false)
            .vocab_size(recipe.vocab_size as u32)
            .unk_token(Some(UNKNOWN.to_owned()))
            .special_tokens(special.iter().map(|token| AddedToken::from(*token, true)).collect())
            .build()?;
        Ok(trainer)
    })?;
    // On one thread: sums are then added in one order, and come out the same to the last bit.
    let pool = ThreadPoolBuilder::new().num_threads(1).build().map_err(|error| {
        Problem::new(ProblemKind::Unreadable, super::NAME, format!("no thread was to be had: {error}"))
    })?;
    let mut model = pool.install(|| {
        guarded(|| {
            let mut model = Unigram::default();
            trainer.do_train(words, &mut model)?;
            Ok(model)
        })
    })?;
    let mut pieces: Vec<(String, f64)> = model.iter().skip(special.len()).cloned().collect();
    // A text that spells a special token out must not make a second one.
    pieces.retain(|(piece, _)| !special.contains(&piece.as_str()));
    settle(&mut pieces);
    // The trainer goes beyond the size where characters alone fill it.
    let mut room = recipe.vocab_size - special.len() - letters.len();
    pieces.retain(|(piece, _)| {
        let is_letter = piece.chars().count() == 1;
        let stays = is_letter || room > 0;
        room -= usize::from(!is_letter && stays);
        stays
    });
    let unknown = special.iter().position(|token| *token == UNKNOWN);
    let special = special.iter().map(|token| ((*token).to_owned(), 0.0));
    model = guarded(|| Unigram::from(special.chain(pieces).collect(), unknown, false))?;
    Ok(model)
}

/// Orders pieces by their scores, and gives scores to characters in their order where the trainer did in none.
///
/// A character that no piece of its own was left for gets the least score, each a little more than the one before; which comes
/// first is a matter of chance there.
fn settle(pieces: &mut [(String, f64)]) {
    const STEP: f64 = 0.0001;
    let least = pieces.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
    let (mut chosen, mut beyond) = (Vec::new(), 0.0);
    loop {
        let before = chosen.len();
        let found = pieces
            .iter()
            .enumerate()
            .filter(|(_, (piece, score))| *score == least + beyond && piece.chars().count() == 1);
        chosen.extend(found.map(|(at, _)| at));
        if chosen.len() == before {
            break;
        }
        beyond += STEP;
    }
    let mut letters: Vec<String> = chosen.iter().map(|at| pieces[*at].0.clone()).collect();
    letters.sort_unstable();
    for (at, letter) in chosen.into_iter().zip(letters) {
        pieces[at].0 = letter;
    }
    pieces.sort_by(|(first, score), (second, other)| other.total_cmp(score).then_with(|| first.cmp(second)));
}
