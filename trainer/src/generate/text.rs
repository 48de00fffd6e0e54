//! The text of tokens as they come: whole characters, held back where they may begin a stop string.

use anyhow::Result;
use formats::tokenizer::Tokenizer;

/// Tokens that are decoded again with each new one: some decoders write a token otherwise at the beginning of a text.
const CONTEXT: usize = 6;

/// What may be shown of a text that is being written.
pub struct Writer {
    ids: Vec<u32>,
    /// Tokens from `start` are decoded with what is new; those up to `shown` are in the text already.
    start: usize,
    shown: usize,
    stops: Vec<String>,
    /// Text that may be the beginning of a stop string.
    held: String,
}

impl Writer {
    /// Begins after a prompt.
    pub fn new(prompt: &[u32], stops: Vec<String>) -> Self {
        let ids = prompt[prompt.len().saturating_sub(CONTEXT)..].to_vec();
        Writer { start: 0, shown: ids.len(), ids, stops, held: String::new() }
    }

    /// What can be shown after one more token, and whether a stop string has come.
    pub fn push(&mut self, id: u32, tokenizer: &Tokenizer) -> Result<(String, bool)> {
        self.ids.push(id);
        let before = tokenizer.decode(&self.ids[self.start..self.shown], false)?;
        let all = tokenizer.decode(&self.ids[self.start..], false)?;
        // The first bytes of a character are no text yet.
        if all.len() <= before.len() || all.ends_with('\u{FFFD}') {
            return Ok((String::new(), false));
        }
        let Some(new) = all.get(before.len()..) else { return Ok((String::new(), false)) };
        self.held.push_str(new);
        self.start = self.shown;
        self.shown = self.ids.len();
        Ok(self.release())
    }

    /// What is left at the end.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String> {
        let before = tokenizer.decode(&self.ids[self.start..self.shown], false)?;
        let all = tokenizer.decode(&self.ids[self.start..], false)?;
        self.held.push_str(all.get(before.len()..).unwrap_or_default());
        self.shown = self.ids.len();
        Ok(std::mem::take(&mut self.held))
    }

    /// Whether all that was written has been shown.
    pub fn is_clear(&self) -> bool {
        self.held.is_empty() && self.shown == self.ids.len()
    }

    fn release(&mut self) -> (String, bool) {
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = found {
            let shown = self.held[..at].to_owned();
            self.held.clear();
            return (shown, true);
        }
        let begins = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        let places = self.held.char_indices().map(|(at, _)| at);
        let keep = places.into_iter().find(begins).unwrap_or(self.held.len());
        let rest = self.held.split_off(keep);
        (std::mem::replace(&mut self.held, rest), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets text come in pieces.
    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let stops = stops.iter().map(|&stop| stop.to_owned()).collect();
        let mut writer = Writer::new(&[], stops);
        let mut shown = Vec::new();
        for piece in pieces {
            writer.held.push_str(piece);
            let (text, stopped) = writer.release();
            shown.push(text);
            if stopped {
                return (shown, true);
            }
        }
        (shown, false)
    }

    #[test]
    fn what_may_begin_a_stop_string_is_held_back() {
        let (shown, stopped) = run(&["\n\nUser:", "END"], &["one\n", "two\n", "\nUs", "e", "d E", "ND more"]);
        assert_eq!(shown, ["one", "\ntwo", "", "", "\n\nUsed ", ""]);
        assert!(stopped);
    }

    #[test]
    fn the_earliest_stop_string_counts() {
        assert_eq!(run(&["b", "ab"], &["xxab"]), (vec!["xx".to_owned()], true));
        assert_eq!(run(&[], &["xxab"]), (vec!["xxab".to_owned()], false));
    }
}
