//! How tags say where an entity begins and ends.

use serde::{Deserialize, Serialize};

/// Ways to write entities as a tag a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scheme {
    /// `I-` inside, `B-` only where an entity follows one of its type (L. Ramshaw, M. Marcus, 1995).
    #[serde(rename = "IOB1")]
    Iob1,
    /// `B-` at each beginning, `I-` inside.
    #[default]
    #[serde(rename = "IOB2")]
    Iob2,
    /// As IOB2, with `E-` at the end and `S-` for an entity of one word.
    #[serde(rename = "IOBES")]
    Iobes,
    /// The same as IOBES, with `L-` for `E-` and `U-` for `S-`.
    #[serde(rename = "BILOU")]
    Bilou,
    /// A name a word, without beginnings: parts of speech.
    #[serde(rename = "plain")]
    Plain,
}

impl Scheme {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Iob1 => "IOB1",
            Scheme::Iob2 => "IOB2",
            Scheme::Iobes => "IOBES",
            Scheme::Bilou => "BILOU",
            Scheme::Plain => "plain",
        }
    }
}

/// Prefix and type of a tag: `B-LOC` is `B` and `LOC`, a mere `B` is of the type `_`, `O` is `O` and nothing. A tag without a
/// prefix of any scheme gives `None` and itself.
///
/// ```
/// use formats::dataset::tagged::parts_of;
/// assert_eq!(parts_of("B-LOC"), (Some('B'), "LOC"));
/// assert_eq!(parts_of("I-a-b"), (Some('I'), "a-b"));
/// assert_eq!(parts_of("O"), (Some('O'), ""));
/// assert_eq!(parts_of("B"), (Some('B'), "_"));
/// assert_eq!(parts_of("NOUN"), (None, "NOUN"));
/// ```
pub fn parts_of(tag: &str) -> (Option<char>, &str) {
    match tag.as_bytes() {
        b"O" => (Some('O'), ""),
        [prefix @ (b'B' | b'I' | b'E' | b'S' | b'L' | b'U')] => (Some(char::from(*prefix)), "_"),
        [prefix @ (b'B' | b'I' | b'E' | b'S' | b'L' | b'U'), b'-', _, ..] => {
            (Some(char::from(*prefix)), &tag[2..])
        }
        _ => (None, tag),
    }
}

/// What the tags of a file say of their scheme.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    /// Tags with each prefix: B, I, E or S, L or U, none.
    begin: u64,
    inside: u64,
    ends: u64,
    lasts: u64,
    plain: u64,
    /// `I-` tags that no tag of their type is before.
    pub(super) orphans: u64,
    /// `B-` tags that no tag of their type is before.
    openings: u64,
}

impl Evidence {
    pub(super) fn add(&mut self, tags: &[String]) {
        let mut before = "";
        for tag in tags {
            let (prefix, name) = parts_of(tag);
            let follows = !name.is_empty() && before == name;
            match prefix {
                Some('B') => {
                    self.begin += 1;
                    self.openings += u64::from(!follows);
                }
                Some('I') => {
                    self.inside += 1;
                    self.orphans += u64::from(!follows);
                }
                Some('E' | 'S') => self.ends += 1,
                Some('L' | 'U') => self.lasts += 1,
                Some(_) => {}
                None => self.plain += 1,
            }
            before = name;
        }
    }

    /// The scheme that the tags are most likely written in.
    pub(super) fn scheme(&self) -> Scheme {
        let prefixed = self.begin + self.inside + self.ends + self.lasts;
        if self.plain > prefixed {
            Scheme::Plain
        } else if self.lasts > self.ends {
            Scheme::Bilou
        } else if self.ends > 0 {
            Scheme::Iobes
        } else if self.orphans > 0 && self.openings == 0 {
            Scheme::Iob1
        } else {
            Scheme::Iob2
        }
    }
}
