//! A text with parts of it marked.

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its words.
    pub text: String,
    /// "" for none, `right` for what is right, `said` for what was said, `both`.
    pub mark: &'static str,
}

/// The text in pieces; `right` and `said` are parts of it in characters, first and one past the last.
pub fn pieces(text: &str, right: &[(usize, usize)], said: Option<(usize, usize)>) -> Vec<Piece> {
    let within = |(start, end): (usize, usize), at: usize| (start..end).contains(&at);
    let mut pieces: Vec<Piece> = Vec::new();
    for (at, letter) in text.chars().enumerate() {
        let is_right = right.iter().any(|part| within(*part, at));
        let mark = match (is_right, said.is_some_and(|part| within(part, at))) {
            (true, true) => "both",
            (true, false) => "right",
            (false, true) => "said",
            (false, false) => "",
        };
        match pieces.last_mut().filter(|piece| piece.mark == mark) {
            Some(piece) => piece.text.push(letter),
            None => pieces.push(Piece { text: letter.to_string(), mark }),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_right_and_what_was_said_are_marked_where_they_meet_and_where_not() {
        let shown = pieces("né à Paris en mai", &[(5, 10)], Some((8, 13)));
        let shown: Vec<(&str, &str)> = shown.iter().map(|piece| (piece.text.as_str(), piece.mark)).collect();
        assert_eq!(shown, [("né à ", ""), ("Par", "right"), ("is", "both"), (" en", "said"), (" mai", "")]);
    }
}
