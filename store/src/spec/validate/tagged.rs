//! What a job on tagged words may say of its columns.

use formats::dataset::tagged::Tagging;

use super::Check;
use crate::spec::{Columns, JobSpec};

impl JobSpec {
    /// Words and their tags, or a text and its entities; each from a column of its own.
    pub(super) fn check_tagged(&self, check: &mut Check) {
        let columns = &self.columns;
        let own = Columns {
            text: columns.text.clone(),
            tokens: columns.tokens.clone(),
            tags: columns.tags.clone(),
            entities: columns.entities.clone(),
            ..Columns::default()
        };
        check.that(own == *columns, "columns", || {
            "token classification has the roles tokens and tags, or text and entities; leave the others out".to_owned()
        });
        let Some(tagging) = Tagging::of(columns) else {
            return check.add("columns", "name tokens and tags, or text and entities".to_owned());
        };
        let [(first, one), (second, other)] = tagging.roles();
        for (role, name) in [(first, one), (second, other)] {
            check.that(!name.is_empty(), &format!("columns.{role}"), || {
                "the name of a column is missing".to_owned()
            });
        }
        check.that(one != other, &format!("columns.{second}"), || {
            format!("is the same column as {first}: \"{one}\"")
        });
    }
}
