//! What a language model may be asked at its evaluations.

use super::Check;
use crate::spec::{SamplePrompt, Samples};

impl Samples {
    pub(super) fn check(&self, check: &mut Check) {
        let path = |name: &str| format!("training.samples.{name}");
        let (given, rows) = (self.prompts.len(), self.rows.unwrap_or(0) as usize);
        check.range(&path("rows"), rows, 0..=Self::MOST, "0 to 16");
        check.that(given <= Self::MOST, &path("prompts"), || {
            format!("are {given}; at most {} are answered at an evaluation", Self::MOST)
        });
        let fits = given > Self::MOST || rows > Self::MOST || given + rows <= Self::MOST;
        check.that(fits, &path("rows"), || {
            format!(
                "are {rows} beside {given} prompts; together they may be {}, so ask for {} at most",
                Self::MOST,
                Self::MOST.saturating_sub(given)
            )
        });
        check.range(&path("max_tokens"), self.max_tokens, 1..=1024, "1 to 1024");
        check.range(&path("temperature"), self.temperature, 0.0..=2.0, "0 to 2");
        check.range(&path("seed"), self.seed, ..=2_147_483_647, "0 to 2147483647");
        for (number, prompt) in self.prompts.iter().enumerate() {
            prompt.check(check, &path(&format!("prompts[{number}]")));
        }
    }
}

impl SamplePrompt {
    fn check(&self, check: &mut Check, place: &str) {
        let turns = match self {
            SamplePrompt::Text(text) => {
                let empty = text.trim().is_empty();
                return check.that(!empty, place, || "is empty; write a prompt or leave it out".to_owned());
            }
            SamplePrompt::Messages(turns) => turns,
        };
        if turns.is_empty() {
            return check.add(place, "has no messages; write some or leave it out".to_owned());
        }
        match formats::chat::messages_of(turns, place) {
            Ok(messages) => {
                let answered =
                    messages.last().is_some_and(|last| last.role == formats::chat::Role::Assistant);
                let last = format!("{place}[{}].role", turns.len() - 1);
                check.that(!answered, &last, || {
                    "is the assistant's, so there is nothing to answer; end with the user's turn".to_owned()
                });
            }
            Err(problems) => {
                for problem in problems.listed {
                    let hint = problem.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
                    check.add(
                        problem.column.as_deref().unwrap_or(place),
                        format!("{}{hint}", problem.message),
                    );
                }
            }
        }
    }
}
