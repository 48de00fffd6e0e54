//! What inspection found in an uploaded file: a table, and conversations where its rows are such.

use std::path::Path;

use formats::chat::{self, Layout, Survey};
use formats::dataset::tagged::{self, Tagging};
use formats::inspect::{self, Inspection, guess_tagged};
use serde::{Deserialize, Serialize};
use store::file::File;

/// A look at a file for fine-tuning.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The file as a table.
    #[serde(flatten)]
    pub table: Inspection,
    /// What a language model would learn from it, where its rows are there for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<Survey>,
    /// What a tagger would learn from it, where its columns are words and tags, or texts and entities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<tagged::Survey>,
}

impl Report {
    /// Reads a file from end to end.
    pub fn of(path: &Path, name: &str) -> Report {
        let table = inspect::inspect(path, name);
        let layout = chat::layout_of(path, name).ok().filter(|layout| is_meant(*layout, &table));
        let chat = layout.map(|layout| chat::survey(path, name, Some(layout)));
        let columns = guess_tagged(&table).ok().filter(|_| chat.is_none() && table.is_usable());
        let tagging = columns.as_ref().and_then(Tagging::of);
        let tags = tagging.map(|tagging| tagged::survey_tagged(path, name, tagging, None));
        Report { chat, tags, table }
    }

    /// The report of an uploaded file; `None` for one that was not inspected.
    pub fn of_file(file: &File) -> Option<Report> {
        serde_json::from_value(file.report.clone()?).ok()
    }

    /// Whether nothing stands in the way of training on it.
    pub fn is_usable(&self) -> bool {
        let of_tags = self.tags.as_ref().is_none_or(|tags| tags.problems.is_empty());
        self.table.is_usable() && self.chat.as_ref().is_none_or(Survey::is_usable) && of_tags
    }
}

/// A text beside other columns is more likely to be classified.
fn is_meant(layout: Layout, table: &Inspection) -> bool {
    layout != Layout::Text || table.columns.len() == 1
}
