//! A text with its entities, as words with tags.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// Letters and digits together, every other character but blanks on its own.
static WORDS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\w+|[^\w\s]").expect("a regular expression that is tried in tests"));

/// Something named in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its first character, counted from 0.
    pub start: usize,
    /// The first character after it.
    pub end: usize,
    /// What it is.
    pub label: String,
}

/// A text in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// The words, in their order.
    pub words: Vec<String>,
    /// An IOB2 tag for each.
    pub tags: Vec<String>,
    /// How many borders of entities lie within a word, which is cut there.
    pub cut_words: u64,
}

/// The words of a text, as places in it: runs of letters and digits, and each other character but blanks.
pub fn words_of(text: &str) -> Vec<Range<usize>> {
    WORDS.find_iter(text).map(|word| word.range()).collect()
}

/// Cuts a text into words, also at the borders of its entities, and gives them IOB2 tags.
///
/// # Errors
/// A sentence for each span that ends before it begins, lies outside of the text, has no label, covers no word or lies over
/// another one.
pub fn tagged(text: &str, spans: &[Span]) -> Result<Words, Vec<String>> {
    let mut ordered: Vec<&Span> = spans.iter().collect();
    ordered.sort_by_key(|span| (span.start, span.end));
    // The byte at which each character begins, and the end.
    let bytes: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let mut wrong: Vec<String> = ordered.iter().filter_map(|span| fault(span, bytes.len() - 1)).collect();
    for pair in ordered.windows(2) {
        if pair[1].start < pair[0].end {
            wrong.push(format!("the entities {} and {} lie over each other", shown(pair[0]), shown(pair[1])));
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let of_spans: Vec<(Range<usize>, &str)> =
        ordered.iter().map(|span| (bytes[span.start]..bytes[span.end], span.label.as_str())).collect();
    let mut made = Words::default();
    let mut used = vec![false; of_spans.len()];
    let mut next = 0;
    for word in words_of(text) {
        let mut from = word.start;
        while from < word.end {
            while next < of_spans.len() && of_spans[next].0.end <= from {
                next += 1;
            }
            // Up to the next border, if there is one within the word.
            let (to, span) = match of_spans.get(next) {
                Some((range, _)) if range.start <= from => (range.end.min(word.end), Some(next)),
                Some((range, _)) => (range.start.min(word.end), None),
                None => (word.end, None),
            };
            made.cut_words += u64::from(to < word.end);
            made.words.push(text[from..to].to_owned());
            made.tags.push(match span {
                None => "O".to_owned(),
                Some(span) => {
                    let first = !std::mem::replace(&mut used[span], true);
                    format!("{}-{}", if first { "B" } else { "I" }, of_spans[span].1)
                }
            });
            from = to;
        }
    }
    let empty = used.iter().zip(&ordered).filter(|(used, _)| !**used);
    let empty: Vec<String> =
        empty.map(|(_, span)| format!("the entity {} covers no word", shown(span))).collect();
    if empty.is_empty() { Ok(made) } else { Err(empty) }
}

fn fault(span: &Span, length: usize) -> Option<String> {
    if span.start >= span.end {
        Some(format!("the entity {} ends before it begins", shown(span)))
    } else if span.end > length {
        Some(format!("the entity {} lies outside of its text, which has {length} characters", shown(span)))
    } else if span.label.is_empty() {
        Some(format!("the entity {} has no label", shown(span)))
    } else {
        None
    }
}

/// "3–9 `LOC`".
fn shown(span: &Span) -> String {
    format!("{}–{} `{}`", span.start, span.end, span.label)
}
