//! How text becomes words before BLEU counts them: sacrebleu's tokenizers that need no dictionary.

use std::sync::LazyLock;

use regex::Regex;

use crate::text::is_space;

/// Splits text into words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BleuTokenizer {
    /// NIST's `mteval-v13a`, the default: punctuation of ASCII stands alone, but for points and commas within numbers.
    #[default]
    V13a,
    /// NIST's `mteval-v14` with international tokenization: all punctuation and symbols of Unicode.
    International,
    /// Each character is a word.
    Character,
    /// Each Chinese character is a word, the rest as in 13a but for entities, which stay.
    Chinese,
    /// Words lie between white space already.
    None,
}

impl BleuTokenizer {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::V13a, Self::International, Self::Character, Self::Chinese, Self::None];

    /// sacrebleu's name: `13a`, `intl`, `char`, `zh`, `none`.
    pub fn label(self) -> &'static str {
        match self {
            Self::V13a => "13a",
            Self::International => "intl",
            Self::Character => "char",
            Self::Chinese => "zh",
            Self::None => "none",
        }
    }

    /// The text with its words apart by white space.
    pub(super) fn tokenize(self, text: &str) -> String {
        match self {
            Self::V13a => western(&format!(" {} ", without_entities(text))),
            Self::International => replace_all(text, &INTERNATIONAL),
            Self::Character => separated(text, |_| true),
            Self::Chinese => western(&separated(text.trim_matches(is_space), is_chinese)),
            Self::None => text.to_owned(),
        }
    }
}

/// ASCII punctuation without `'`, `,`, `-` and `.`.
static MARKS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| rules(&[(r"[ -&(-+/:-@\[-`{-~]", " $0 ")]));

/// Points and commas unless a digit is before, then unless one is after them; a dash after a digit.
static NUMBERS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    rules(&[("([^0-9])([.,])", "$1 $2 "), ("([.,])([^0-9])", " $1 $2"), ("([0-9])(-)", "$1 $2 ")])
});

/// Punctuation unless a number is before, then unless one is after it; symbols.
static INTERNATIONAL: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    rules(&[(r"(\P{N})(\p{P})", "$1 $2 "), (r"(\p{P})(\P{N})", " $1 $2"), (r"\p{S}", " $0 ")])
});

/// Ranges that sacrebleu takes for Chinese. Two of its own do not say what was meant, and are kept with their effect:
/// `\u20000`–`\u2a6d6` reads as U+2001 to U+2A6D, `\u2f800`–`\u2fa1d` as U+2F81 to U+2FA1.
const CHINESE: [(char, char); 22] = [
    ('\u{2001}', '\u{2a6d}'),
    ('\u{2600}', '\u{26ff}'),
    ('\u{2700}', '\u{27bf}'),
    ('\u{2e80}', '\u{2eff}'),
    ('\u{2f00}', '\u{2fdf}'),
    ('\u{2f81}', '\u{2fa1}'),
    ('\u{2ff0}', '\u{2fff}'),
    ('\u{3000}', '\u{303f}'),
    ('\u{3100}', '\u{312f}'),
    ('\u{31a0}', '\u{31bf}'),
    ('\u{31c0}', '\u{31ef}'),
    ('\u{3200}', '\u{32ff}'),
    ('\u{3300}', '\u{33ff}'),
    ('\u{3400}', '\u{4db5}'),
    ('\u{4e00}', '\u{9fa5}'),
    ('\u{9fa6}', '\u{9fbb}'),
    ('\u{f900}', '\u{fa2d}'),
    ('\u{fa30}', '\u{fa6a}'),
    ('\u{fa70}', '\u{fad9}'),
    ('\u{fe10}', '\u{fe1f}'),
    ('\u{fe30}', '\u{fe4f}'),
    ('\u{ff00}', '\u{ffef}'),
];

/// Compiles rules of pattern and replacement.
pub(crate) fn rules(texts: &[(&str, &'static str)]) -> Vec<(Regex, &'static str)> {
    let compile =
        |pattern: &str| Regex::new(pattern).expect("patterns of tokenizers are constant and tested");
    texts.iter().map(|(pattern, replacement)| (compile(pattern), *replacement)).collect()
}

/// Applies one rule after the other.
pub(crate) fn replace_all(text: &str, rules: &[(Regex, &str)]) -> String {
    rules.iter().fold(text.to_owned(), |text, (pattern, replacement)| {
        pattern.replace_all(&text, *replacement).into_owned()
    })
}

/// 13a's rules for Western text.
fn western(text: &str) -> String {
    numbers_whole(&marks_apart(text))
}

/// 13a's first rule: punctuation stands alone.
pub(crate) fn marks_apart(text: &str) -> String {
    replace_all(text, &MARKS)
}

/// 13a's other rules: points, commas and dashes stand alone but within numbers.
pub(crate) fn numbers_whole(text: &str) -> String {
    replace_all(text, &NUMBERS)
}

/// 13a's first part: lines are joined, skipped segments and entities go. A `&amp;` is read before the others of its kind.
fn without_entities(text: &str) -> String {
    entities(&text.replace("<skipped>", "").replace("-\n", "").replace('\n', " "))
}

/// The four entities as characters, in this order, so that `&amp;lt;` becomes `<`.
pub(crate) fn entities(text: &str) -> String {
    text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
}

/// Spaces around each character that is chosen.
fn separated(text: &str, chosen: impl Fn(char) -> bool) -> String {
    let mut spaced = String::with_capacity(2 * text.len());
    for character in text.chars() {
        if chosen(character) {
            spaced.extend([' ', character, ' ']);
        } else {
            spaced.push(character);
        }
    }
    spaced
}

fn is_chinese(character: char) -> bool {
    CHINESE.iter().any(|(first, last)| (*first..=*last).contains(&character))
}
