//! What a language model answered at its evaluations, side by side.

/// Prompts with their answers, the newest first.
#[derive(Clone, Debug)]
pub struct SampleTable {
    /// "6 of 40 evaluations".
    pub note: String,
    /// Whether the data has an answer to any of the prompts.
    pub has_expected: bool,
    /// Evaluations.
    pub columns: Vec<SampleColumn>,
    /// A row a prompt.
    pub rows: Vec<SampleRow>,
}

/// An evaluation.
#[derive(Clone, Debug)]
pub struct SampleColumn {
    /// "Step 50", or "Before training".
    pub title: String,
    /// Whether its weights were chosen.
    pub chosen: bool,
}

/// A prompt.
#[derive(Clone, Debug)]
pub struct SampleRow {
    /// What is asked.
    pub turns: Vec<SampleTurn>,
    /// The row of the validation data that it is from; empty for one of the settings.
    pub row: String,
    /// What the data answers.
    pub expected: Option<Folded>,
    /// What the model answered, an evaluation each.
    pub answers: Vec<SampleAnswer>,
}

/// A turn of a prompt.
#[derive(Clone, Debug)]
pub struct SampleTurn {
    /// Who speaks; empty where only one does.
    pub role: String,
    /// What is said.
    pub text: Folded,
}

/// An answer; `None` in its place where the prompt was not asked.
#[derive(Clone, Debug)]
pub struct SampleAnswer {
    /// Title of its evaluation.
    pub title: String,
    /// What was said.
    pub text: Option<Folded>,
    /// Whether it ended at the number of tokens that it might have.
    pub cut: bool,
    /// Whether it is the same as at the evaluation before.
    pub unchanged: bool,
    /// Whether it is what the data answers.
    pub right: bool,
}

/// A text, of which a long one shows its beginning until it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folded {
    /// Id of the part that opens.
    pub id: String,
    /// What is seen at first.
    pub head: String,
    /// What follows; empty where that is all.
    pub rest: String,
}

/// Characters and lines that are seen of a long text, and how much longer one may be that is shown whole.
const HEAD: (usize, usize) = (220, 5);
const SLACK: usize = 60;

impl Folded {
    /// Folds a text where it is long.
    pub fn new(id: String, text: &str) -> Self {
        let by_characters = match text.char_indices().nth(HEAD.0 + SLACK) {
            Some(_) => text.char_indices().nth(HEAD.0).map(|(at, _)| at),
            None => None,
        };
        let by_lines = text.match_indices('\n').nth(HEAD.1).map(|(at, _)| at);
        let at = by_characters.into_iter().chain(by_lines).min().unwrap_or(text.len());
        Folded { id, head: text[..at].to_owned(), rest: text[at..].to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(text: &str) -> (usize, usize) {
        let Folded { head, rest, .. } = Folded::new(String::new(), text);
        assert_eq!(format!("{head}{rest}"), text);
        (head.chars().count(), rest.chars().count())
    }

    #[test]
    fn a_long_text_shows_its_beginning_and_a_short_one_all_of_it() {
        assert_eq!(folded(""), (0, 0));
        assert_eq!(folded(&"ä".repeat(280)), (280, 0));
        assert_eq!(folded(&"ä".repeat(281)), (220, 61));
        assert_eq!(folded("1\n2\n3\n4\n5\n6"), (11, 0));
        assert_eq!(folded("1\n2\n3\n4\n5\n6\n7"), (11, 2));
    }
}
