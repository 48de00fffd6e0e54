//! What a tagger found in a text, from what it says of each token: as transformers' `TokenClassificationPipeline` puts it together.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// How tokens become entities; the names are transformers' `aggregation_strategy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aggregation {
    /// Neighbouring tokens of one type, each by its own tag.
    Simple,
    /// Words have the tag of their first token, as in training; then neighbouring words of one type.
    #[default]
    First,
}

/// A token of a text.
#[derive(Clone, Debug)]
pub struct Token<'a> {
    /// Its characters in the text, counted from 0.
    pub place: Range<usize>,
    /// Whether it goes on the word of the token before.
    pub goes_on: bool,
    /// Its likeliest tag.
    pub tag: &'a str,
    /// The probability of that.
    pub score: f64,
}

/// Something found in a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// Its first character, counted from 0.
    pub start: usize,
    /// The first character after it.
    pub end: usize,
    /// Its characters.
    pub text: String,
    /// What it is.
    pub label: String,
    /// The mean probability of its parts' tags.
    pub score: f64,
}

/// The entities of a text, in their order; what is tagged `O` is none.
pub fn entities(text: &str, tokens: &[Token], aggregation: Aggregation) -> Vec<Found> {
    let parts = match aggregation {
        Aggregation::Simple => tokens.to_vec(),
        Aggregation::First => words(tokens),
    };
    let mut found: Vec<(&str, Vec<Token>)> = Vec::new();
    for part in parts {
        let (begins, name) = read(part.tag);
        match found.last_mut() {
            Some((last, group)) if *last == name && !begins => group.push(part),
            _ => found.push((name, vec![part])),
        }
    }
    // The byte at which each character begins, and the end.
    let bytes: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let named = found.into_iter().filter(|(name, _)| *name != "O");
    named
        .map(|(name, group)| {
            let (start, end) = (group[0].place.start, group[group.len() - 1].place.end);
            Found {
                start,
                end,
                text: text[bytes[start]..bytes[end]].to_owned(),
                label: name.to_owned(),
                score: group.iter().map(|token| token.score).sum::<f64>() / group.len() as f64,
            }
        })
        .collect()
}

/// Tokens of a word put together, with the tag of the first.
fn words<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let mut words: Vec<Token<'a>> = Vec::new();
    for token in tokens {
        match words.last_mut() {
            Some(word) if token.goes_on => word.place.end = token.place.end,
            _ => words.push(token.clone()),
        }
    }
    words
}

/// Whether a tag begins something, and its type. Tags of other schemes than IOB2 go on what is before them, if it has their name.
fn read(tag: &str) -> (bool, &str) {
    match tag.split_at_checked(2) {
        Some(("B-", name)) => (true, name),
        Some(("I-", name)) => (false, name),
        _ => (false, tag),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(place: Range<usize>, goes_on: bool, tag: &str, score: f64) -> Token<'_> {
        Token { place, goes_on, tag, score }
    }

    #[test]
    fn the_first_token_speaks_for_its_word_where_that_is_asked_for() {
        let text = "Émile visits London";
        let tokens = [
            token(0..3, false, "B-PER", 0.9),
            token(3..5, true, "O", 0.8),
            token(6..12, false, "O", 1.0),
            token(13..16, false, "B-LOC", 0.5),
            token(16..19, true, "I-LOC", 0.7),
        ];
        let first = entities(text, &tokens, Aggregation::First);
        let shown: Vec<_> = first.iter().map(|found| (found.text.as_str(), found.score)).collect();
        assert_eq!(shown, [("Émile", 0.9), ("London", 0.5)]);
        let simple = entities(text, &tokens, Aggregation::Simple);
        assert_eq!((simple[0].text.as_str(), simple[0].end), ("Émi", 3));
        assert_eq!((simple[1].text.as_str(), simple[1].label.as_str()), ("London", "LOC"));
        assert!((simple[1].score - 0.6).abs() < 1e-12);
    }

    #[test]
    fn a_beginning_parts_neighbours_of_one_type() {
        let tokens = [
            token(0..1, false, "I-A", 1.0),
            token(2..3, false, "B-A", 1.0),
            token(4..5, false, "I-A", 1.0),
            token(6..7, false, "I-B", 1.0),
        ];
        let found = entities("a b c d", &tokens, Aggregation::Simple);
        let places: Vec<_> = found.iter().map(|found| (found.start, found.end)).collect();
        assert_eq!(places, [(0, 1), (2, 5), (6, 7)]);
    }
}
