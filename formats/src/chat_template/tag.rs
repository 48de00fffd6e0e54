//! The tags of a template and the tokens in them, as far as [`super::prepare`] needs them.

/// What a token is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    Name,
    Number,
    Text,
    Open,
    Close,
    Operator,
}

pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// One `{{ … }}` or `{% … %}`, with the places of its tokens in the text that begins with it.
pub(super) struct Tag {
    pub(super) tokens: Vec<Token>,
    /// Where the tag ends; the end of the text where it is not closed, which minijinja then says.
    pub(super) end: usize,
}

/// Where the next tag or comment begins.
pub(super) fn tag_start(text: &str) -> Option<usize> {
    text.match_indices('{')
        .map(|(at, _)| at)
        .find(|at| matches!(text.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#')))
}

/// Where a raw block whose opening tag ends at `from` ends, its closing tag included.
pub(super) fn raw_end(text: &str, from: usize) -> usize {
    let starts = text[from..].match_indices("{%").map(|(at, _)| from + at);
    for start in starts {
        let tag = Tag::read(&text[start..]);
        if tag.is(&text[start..], "endraw") {
            return start + tag.end;
        }
    }
    text.len()
}

/// Words that stand between operands.
const WORDS: [&str; 12] =
    ["and", "or", "not", "in", "is", "if", "else", "elif", "set", "for", "call", "filter"];

impl Tag {
    /// Reads the tag that `text` begins with.
    pub(super) fn read(text: &str) -> Self {
        let closing: &[u8] = if text.starts_with("{{") { b"}}" } else { b"%}" };
        let bytes = text.as_bytes();
        let mut tokens = Vec::new();
        let mut depth = 0_usize;
        let mut at = 2;
        // The sign that strips blanks belongs to the brackets.
        if matches!(bytes.get(2), Some(b'-' | b'+')) {
            at = 3;
        }
        while at < bytes.len() {
            let rest = &bytes[at..];
            let sign = usize::from(matches!(rest[0], b'-' | b'+'));
            if depth == 0 && rest[sign..].starts_with(closing) {
                return Self { tokens, end: at + sign + 2 };
            }
            let (kind, length) = match rest[0] {
                byte if byte.is_ascii_whitespace() => {
                    at += 1;
                    continue;
                }
                quote @ (b'"' | b'\'') => (TokenKind::Text, quoted(rest, quote)),
                b'(' | b'[' | b'{' => {
                    depth += 1;
                    (TokenKind::Open, 1)
                }
                b')' | b']' | b'}' => {
                    depth = depth.saturating_sub(1);
                    (TokenKind::Close, 1)
                }
                byte if byte.is_ascii_digit() => (TokenKind::Number, word(rest)),
                byte if is_word(byte) => (TokenKind::Name, word(rest)),
                _ => (TokenKind::Operator, operator(rest)),
            };
            tokens.push(Token { kind, start: at, end: at + length });
            at += length;
        }
        Self { tokens, end: text.len() }
    }

    /// Whether the tag is a statement of this one word.
    pub(super) fn is(&self, text: &str, name: &str) -> bool {
        text.starts_with("{%") && self.tokens.len() == 1 && self.word(text, 0) == Some(name)
    }

    /// Whether the tag is a statement that begins with this word.
    pub(super) fn starts(&self, text: &str, name: &str) -> bool {
        text.starts_with("{%") && self.word(text, 0) == Some(name)
    }

    /// The most signs and `not`s in a row.
    pub(super) fn longest_signs(&self, text: &str) -> usize {
        let (mut longest, mut run) = (0, 0);
        for at in 0..self.tokens.len() {
            run = if matches!(self.written(text, at), "not" | "-" | "+") { run + 1 } else { 0 };
            longest = longest.max(run);
        }
        longest
    }

    fn written<'t>(&self, text: &'t str, at: usize) -> &'t str {
        self.tokens.get(at).map_or("", |token| &text[token.start..token.end])
    }

    fn word<'t>(&self, text: &'t str, at: usize) -> Option<&'t str> {
        self.tokens.get(at).filter(|token| token.kind == TokenKind::Name).map(|_| self.written(text, at))
    }

    /// Where the value of `{% set name = value %}` begins and ends.
    pub(super) fn kept(&self, text: &str) -> Option<(usize, usize)> {
        if !self.starts(text, "set") {
            return None;
        }
        let equals = (1..self.tokens.len()).find(|at| self.written(text, *at) == "=")?;
        let last = self.tokens.last().filter(|_| equals + 1 < self.tokens.len())?;
        Some((self.tokens[equals].end, last.end))
    }

    /// Whether a value ends with this token, so that the operator after it has two operands.
    pub(super) fn ends_operand(&self, text: &str, at: usize) -> bool {
        match self.tokens[at].kind {
            TokenKind::Name => !WORDS.contains(&self.written(text, at)),
            TokenKind::Number | TokenKind::Text | TokenKind::Close => true,
            TokenKind::Open | TokenKind::Operator => false,
        }
    }

    /// Where the operand to the left of an operator ends; `None` for the name of a test, and for what needs no filter.
    pub(super) fn left(&self, text: &str, operator: usize) -> Option<usize> {
        let last = operator - 1;
        let before = |n: usize| last.checked_sub(n).and_then(|at| self.word(text, at));
        let is_test = before(1) == Some("is") || before(1) == Some("not") && before(2) == Some("is");
        let is_literal = matches!(self.tokens[last].kind, TokenKind::Text | TokenKind::Number);
        (!is_test && !is_literal).then(|| self.tokens[last].end)
    }

    /// Where the operand to the right of an operator ends; `None` where a test follows, and for what needs no filter.
    pub(super) fn right(&self, text: &str, operator: usize) -> Option<usize> {
        let mut at = operator + 1;
        while matches!(self.written(text, at), "-" | "+" | "not") {
            at += 1;
        }
        let first = self.tokens.get(at)?;
        let literal = matches!(first.kind, TokenKind::Text | TokenKind::Number);
        let mut last = self.group_end(at);
        loop {
            let next = self.written(text, last + 1);
            match (next, self.tokens.get(last + 1).map(|token| token.kind)) {
                ("." | "|", _) => last += 2,
                ("(" | "[", _) => last = self.group_end(last + 1),
                (_, Some(TokenKind::Text)) if self.tokens[last].kind == TokenKind::Text => last += 1,
                ("is", _) => return None,
                _ => break,
            }
            if last >= self.tokens.len() {
                return None;
            }
        }
        let alone = literal && last == at;
        (!alone).then(|| self.tokens[last].end)
    }

    /// The token that closes a bracket; the token itself where it opens none.
    fn group_end(&self, open: usize) -> usize {
        let mut depth = 0_usize;
        for (at, token) in self.tokens.iter().enumerate().skip(open) {
            match token.kind {
                TokenKind::Open => depth += 1,
                TokenKind::Close => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                return at;
            }
        }
        self.tokens.len() - 1
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn word(rest: &[u8]) -> usize {
    rest.iter().position(|byte| !is_word(*byte)).unwrap_or(rest.len())
}

/// The length of a text in quotation marks.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn operator(rest: &[u8]) -> usize {
    let long: [&[u8]; 6] = [b"**", b"//", b"==", b"!=", b"<=", b">="];
    if long.iter().any(|sign| rest.starts_with(sign)) { 2 } else { 1 }
}
