//! Entities of a sequence of tags, by the two rules in use: conlleval's, which makes the best of tags that break their scheme
//! (seqeval's default), and the strict one, which takes only what is whole in its scheme (seqeval's `mode="strict"`).

use super::scheme::{Scheme, parts_of};

/// An entity: its words, and what it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entity<'a> {
    /// Place of its first word, and the place after its last.
    pub words: (usize, usize),
    /// Its type.
    pub name: &'a str,
}

/// Prefix and type, as the rules take them: `L` and `U` are `E` and `S` of another scheme, and a tag without a prefix stands
/// inside of something of its name.
fn read(tag: &str) -> (char, &str) {
    match parts_of(tag) {
        (Some('L'), name) => ('E', name),
        (Some('U'), name) => ('S', name),
        (Some(prefix), name) => (prefix, name),
        (None, name) => ('I', name),
    }
}

/// conlleval's rule: an entity also begins at an `I-` or `E-` that continues nothing, and ends where anything else comes.
///
/// In the scheme [`Scheme::Plain`] each word with a tag other than `O` is an entity of its own.
pub fn lenient<'a>(tags: &[&'a str], scheme: Scheme) -> Vec<Entity<'a>> {
    let mut found = Vec::new();
    let (mut before, mut start) = (('O', ""), 0);
    for at in 0..=tags.len() {
        let now = tags.get(at).map_or(('O', ""), |tag| read(tag));
        let ((was, of), (is, name)) = (before, now);
        let changes = of != name;
        let alone = scheme == Scheme::Plain;
        let ends =
            was != 'O' && (alone || changes || matches!(was, 'E' | 'S') || matches!(is, 'B' | 'S' | 'O'));
        let begins =
            is != 'O' && (alone || changes || matches!(is, 'B' | 'S') || matches!(was, 'E' | 'S' | 'O'));
        if ends {
            found.push(Entity { words: (start, at), name: of });
        }
        if begins {
            start = at;
        }
        before = now;
    }
    found
}

/// The strict rule: only what begins, goes on and ends as its scheme says.
pub fn strict<'a>(tags: &[&'a str], scheme: Scheme) -> Vec<Entity<'a>> {
    if scheme == Scheme::Plain {
        return lenient(tags, scheme);
    }
    let of = |place: usize| tags.get(place).map_or(('O', ""), |tag| read(tag));
    let rule = Rule(scheme);
    let (mut found, mut at, mut before) = (Vec::new(), 0, ('O', ""));
    while at < tags.len() {
        let now = of(at);
        if !rule.begins(before, now) {
            before = now;
            at += 1;
            continue;
        }
        let mut end = at + 1;
        while end < tags.len() && rule.goes_on(of(end - 1), of(end)) {
            end += 1;
        }
        if rule.ends(of(end - 1), of(end)) {
            found.push(Entity { words: (at, end), name: now.1 });
        }
        before = of(end - 1);
        at = end;
    }
    found
}

type Tag<'a> = (char, &'a str);

/// What a scheme lets stand beside each other.
struct Rule(Scheme);

impl Rule {
    fn has_ends(&self) -> bool {
        matches!(self.0, Scheme::Iobes | Scheme::Bilou)
    }

    fn begins(&self, (was, of): Tag, (is, name): Tag) -> bool {
        let same = of == name;
        match (self.0, is) {
            (Scheme::Iob1, 'I') => was == 'O' || was == 'B' || !same,
            (Scheme::Iob1, 'B') => was != 'O' && same,
            (_, 'B') => true,
            (_, 'S') => self.has_ends(),
            _ => false,
        }
    }

    fn goes_on(&self, (was, of): Tag, (is, name): Tag) -> bool {
        matches!(was, 'B' | 'I') && of == name && (is == 'I' || is == 'E' && self.has_ends())
    }

    fn ends(&self, (was, of): Tag, (is, name): Tag) -> bool {
        if self.has_ends() {
            return matches!(was, 'E' | 'S');
        }
        let same = of == name;
        match (was, is) {
            ('B' | 'I', 'O') => true,
            ('I', 'B') => true,
            ('B', 'B') => self.0 != Scheme::Iob1 || same,
            ('B' | 'I', 'I') => !same,
            _ => false,
        }
    }
}
