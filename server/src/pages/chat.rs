//! Data that a language model learns from, as pages show it.

use formats::chat::{Layout, PreviewExample, Survey};

use super::data::lines_of;
use super::view::Fact;
use super::view::data::{Conversation, Conversations, Turn};
use super::view::text;

/// "120 rows, 300 turns, of which 150 are learnt".
pub fn words(chat: &Survey) -> String {
    let rows = text::plural(chat.rows, "row", "rows");
    match chat.turns {
        0 => format!("{rows} of {}", layout_words(chat)),
        turns => format!(
            "{rows}, {}, of which {} learnt",
            text::plural(turns, "turn", "turns"),
            text::plural(chat.counted_turns, "is", "are")
        ),
    }
}

/// What is known of the rows.
pub fn facts(chat: &Survey) -> Vec<Fact> {
    let mut facts = vec![Fact::new("Rows are", layout_words(chat))];
    let counts = [
        ("Turns", chat.turns),
        ("Turns that are learnt", chat.counted_turns),
        ("Desirable answers", chat.desirable),
        ("Undesirable answers", chat.undesirable),
        ("Rows with a system message", chat.with_system),
        ("Rows with tools", chat.with_tools),
        ("Rows that cannot be used", chat.unusable),
        ("Characters", chat.characters),
    ];
    facts.extend(
        counts
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| Fact::new(*name, text::count(*count))),
    );
    facts
}

fn layout_words(chat: &Survey) -> &'static str {
    match chat.layout {
        None => "in no known layout",
        Some(Layout::Messages) => "conversations (messages)",
        Some(Layout::ShareGpt) => "conversations (ShareGPT)",
        Some(Layout::Alpaca) => "instructions with an answer (Alpaca)",
        Some(Layout::PromptCompletion) => "prompts with a completion",
        Some(Layout::Text) => "plain texts",
        Some(Layout::Preference) => "preferences between two answers",
        Some(Layout::Unpaired) => "answers that are desirable or not",
    }
}

/// The first rows, of a file at this address; without one they are not shown as tokens.
pub fn conversations(chat: &Survey, href: &str) -> Conversations {
    let shown = chat.preview.len() as u64;
    let rows = text::plural(chat.rows, "row", "rows");
    let total = if shown < chat.rows { format!("{} of {rows}", text::count(shown)) } else { rows };
    let tokens = if href.is_empty() { String::new() } else { format!("{href}/tokens") };
    Conversations { rows: chat.preview.iter().map(conversation).collect(), total, tokens }
}

fn conversation(row: &PreviewExample) -> Conversation {
    let turn = |turn: &formats::chat::PreviewTurn| Turn {
        role: turn.role.clone(),
        text: turn.text.clone(),
        counts: turn.counts,
    };
    let more = match row.more {
        0 => String::new(),
        more => format!("and {}", text::plural(more, "more turn", "more turns")),
    };
    Conversation { line: lines_of(row.lines), turns: row.turns.iter().map(turn).collect(), more }
}
