//! What inspection found in an uploaded file: a table, and conversations where its rows are such.

use std::path::Path;

use formats::chat::{self, Layout, Survey};
use formats::inspect::{self, Inspection};
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
}

impl Report {
    /// Reads a file from end to end.
    pub fn of(path: &Path, name: &str) -> Report {
        let table = inspect::inspect(path, name);
        let layout = chat::layout_of(path, name).ok().filter(|layout| is_meant(*layout, &table));
        Report { chat: layout.map(|layout| chat::survey(path, name, Some(layout))), table }
    }

    /// The report of an uploaded file; `None` for one that was not inspected.
    pub fn of_file(file: &File) -> Option<Report> {
        serde_json::from_value(file.report.clone()?).ok()
    }

    /// Whether nothing stands in the way of training on it.
    pub fn is_usable(&self) -> bool {
        self.table.is_usable() && self.chat.as_ref().is_none_or(Survey::is_usable)
    }
}

/// A text beside other columns is more likely to be classified.
fn is_meant(layout: Layout, table: &Inspection) -> bool {
    layout != Layout::Text || table.columns.len() == 1
}
