//! Tercom's preparation of text.

use std::sync::LazyLock;

use regex::Regex;

use super::TerOptions;
use crate::bleu::{entities, marks_apart, numbers_whole, replace_all, rules};
use crate::text::trim_end;

/// Ideographs and strokes, each a word; then Asian and full-width punctuation. The fourth range ends in U+3F22 where
/// U+32FF was meant; what it has too much is in another range as well, or is set apart by sacrebleu too.
static ASIAN: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    rules(&[
        (r"[\u4e00-\u9fff\u3400-\u4dbf]", " $0 "),
        (r"[\u31c0-\u31ef\u2e80-\u2eff]", " $0 "),
        (r"[\u3300-\u33ff\uf900-\ufaff\ufe30-\ufe4f]", " $0 "),
        (r"[\u3200-\u3f22]", " $0 "),
        (ASIAN_PUNCTUATION, " $0 "),
        (FULL_WIDTH_PUNCTUATION, " $0 "),
    ])
});

static PUNCTUATION: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| rules(&[(r#"[.,?:;!"()]"#, "")]));

static ALL_PUNCTUATION: LazyLock<Vec<(Regex, &str)>> =
    LazyLock::new(|| rules(&[(ASIAN_PUNCTUATION, ""), (FULL_WIDTH_PUNCTUATION, "")]));

const ASIAN_PUNCTUATION: &str = r"[\u3001\u3002\u3008-\u3011\u3014-\u301f\uff61-\uff65\u30fb]";
const FULL_WIDTH_PUNCTUATION: &str = r"[\uff0e\uff0c\uff1f\uff1a\uff1b\uff01\uff02\uff08\uff09]";

/// The text with its words apart by white space.
pub(super) fn tokenize(text: &str, options: &TerOptions) -> String {
    let mut text = trim_end(text).to_owned();
    if !options.case_sensitive {
        text = text.to_lowercase();
    }
    if options.normalized {
        text = normalized(&text);
        if options.asian_support {
            // Tercom would set runs of kana apart from other text. sacrebleu's patterns for it match at the start of the
            // text alone, where normalized text has a space: kana stay as they are.
            text = replace_all(&text, &ASIAN);
        }
    }
    if options.no_punctuation {
        text = replace_all(&text, &PUNCTUATION);
        if options.asian_support {
            text = replace_all(&text, &ALL_PUNCTUATION);
        }
    }
    text
}

/// Lines joined, entities read, punctuation and the possessive 's set apart. The possessive comes before points do: in
/// `John's.` it stays.
fn normalized(text: &str) -> String {
    let text = entities(&text.replace("\n-", "").replace('\n', " "));
    numbers_whole(&marks_apart(&format!(" {text} ")).replace("'s ", " 's "))
}
