//! A template's source, made ready for minijinja.
//!
//! Nothing is added that holds a line end, so that an error's line is that of the original. Four things are done:
//! - `{% generation %}` becomes a filter block, whose filter marks what the assistant says.
//! - Operands of `~` pass through a filter that writes them as Python does (`True`, `None`), and operands of `~`, `+` and `*`
//!   through one that counts: without it, thirty doublings of a text fill any memory, at next to no fuel.
//! - What `set` keeps passes through a filter that bounds how deep it is nested: freeing a list in a list, a hundred thousand times
//!   over, takes more stack than a thread has.
//! - Long stretches of plain text count what they add to the output.

use std::collections::BTreeMap;

use super::tag::{Tag, TokenKind, raw_end, tag_start};

/// Filters and a function that prepared templates alone call.
pub(super) const GENERATION: &str = "luthier_generation";
pub(super) const TEXT: &str = "luthier_text";
pub(super) const BOUNDED: &str = "luthier_bounded";
pub(super) const FACTOR: &str = "luthier_factor";
pub(super) const KEPT: &str = "luthier_kept";
pub(super) const CHARGE: &str = "luthier_charge";

/// Plain text up to this length is paid for by the fuel of writing it.
const FREE_TEXT: usize = 256;
const MAX_RAW: usize = 4096;
/// minijinja's parser calls itself for each of these, and bounds only brackets and blocks.
const MAX_TOKENS: usize = 1000;
const MAX_SIGNS: usize = 20;
const MAX_ELIF: usize = 200;
const MAX_SOURCE: usize = 512 * 1024;

pub(super) struct Prepared {
    pub(super) source: String,
    pub(super) marks_assistant: bool,
}

/// # Errors
/// What makes it too large to be a chat template.
pub(super) fn prepare(source: &str) -> Result<Prepared, String> {
    if source.len() > MAX_SOURCE {
        return Err(format!("it has {} bytes, more than {MAX_SOURCE}", source.len()));
    }
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut prepared = Prepared { source: String::with_capacity(source.len()), marks_assistant: false };
    let mut rest = source.as_str();
    let mut elifs = 0;
    while let Some(start) = tag_start(rest) {
        prepared.plain(&rest[..start])?;
        rest = &rest[start..];
        let end = if rest.starts_with("{#") {
            let end = rest.find("#}").map_or(rest.len(), |end| end + 2);
            prepared.source.push_str(&rest[..end]);
            end
        } else {
            let tag = Tag::read(rest);
            if tag.is(rest, "raw") {
                let end = raw_end(rest, tag.end);
                if end - tag.end > MAX_RAW {
                    return Err(format!("a raw block has {} bytes, more than {MAX_RAW}", end - tag.end));
                }
                prepared.source.push_str(&rest[..end]);
                end
            } else {
                elifs += usize::from(tag.starts(rest, "elif"));
                if tag.tokens.len() > MAX_TOKENS || tag.longest_signs(rest) > MAX_SIGNS || elifs > MAX_ELIF {
                    return Err("a statement is longer than any that is written by hand".to_owned());
                }
                prepared.tag(rest, &tag);
                tag.end
            }
        };
        rest = &rest[end..];
    }
    prepared.plain(rest)?;
    Ok(prepared)
}

impl Prepared {
    /// Plain text. The count goes between two characters that are no blanks, where nothing strips blanks at it.
    fn plain(&mut self, text: &str) -> Result<(), String> {
        if text.len() <= FREE_TEXT {
            self.source.push_str(text);
            return Ok(());
        }
        let mut characters = text.char_indices().peekable();
        let mut spot = None;
        while let (Some((_, one)), Some((at, next))) = (characters.next(), characters.peek().copied()) {
            if !one.is_whitespace() && !next.is_whitespace() && one != '{' {
                spot = Some(at);
                break;
            }
        }
        let Some(spot) = spot else {
            return Err(format!("it holds {} bytes of blanks in one place", text.len()));
        };
        self.source.push_str(&text[..spot]);
        self.source.push_str(&format!("{{{{ {CHARGE}({}) }}}}", text.len()));
        self.source.push_str(&text[spot..]);
        Ok(())
    }

    fn tag(&mut self, text: &str, tag: &Tag) {
        if tag.is(text, "generation") || tag.is(text, "endgeneration") {
            self.marks_assistant = true;
            let name = &tag.tokens[0];
            self.source.push_str(&text[..name.start]);
            if &text[name.start..name.end] == "generation" {
                self.source.push_str(&format!("filter {GENERATION}"));
            } else {
                self.source.push_str("endfilter");
            }
            self.source.push_str(&text[name.end..tag.end]);
            return;
        }
        let mut added = filters(text, tag);
        if let Some((start, end)) = tag.kept(text) {
            added.insert(start, "(".to_owned());
            added.entry(end).or_default().push_str(&format!(")|{KEPT}"));
        }
        let mut from = 0;
        for (place, addition) in added {
            self.source.push_str(&text[from..place]);
            self.source.push_str(&addition);
            from = place;
        }
        self.source.push_str(&text[from..tag.end]);
    }
}

/// How tightly an operator binds, and with that whose operand comes first where two claim the same one.
const LOOSE: u8 = 0;
const CONCAT: u8 = 1;
const TIGHT: u8 = 2;

/// Which filter goes where.
fn filters(text: &str, tag: &Tag) -> BTreeMap<usize, String> {
    let mut places = BTreeMap::<usize, u8>::new();
    for (at, token) in tag.tokens.iter().enumerate() {
        let level = match &text[token.start..token.end] {
            "+" => LOOSE,
            "~" => CONCAT,
            "*" | "/" | "//" | "%" | "**" => TIGHT,
            _ => continue,
        };
        if at == 0 || token.kind != TokenKind::Operator || !tag.ends_operand(text, at - 1) {
            continue;
        }
        for place in [tag.left(text, at), tag.right(text, at)].into_iter().flatten() {
            let claim = places.entry(place).or_insert(level);
            *claim = level.max(*claim);
        }
    }
    let filter = |level| match level {
        CONCAT => TEXT,
        TIGHT => FACTOR,
        _ => BOUNDED,
    };
    places.into_iter().map(|(place, level)| (place, format!("|{}", filter(level)))).collect()
}
