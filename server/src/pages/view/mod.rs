//! What the templates print: values that need no further thought, one struct a page.
//!
//! Nothing here knows the database or a request, so a page can be drawn from a test.

pub mod chart;
pub mod data;
pub mod export;
pub mod form;
pub mod home;
pub mod job;
pub mod marked;
pub mod model;
pub mod playground;
pub mod samples;
pub mod text;
pub mod tokens;

use askama::Template;

use super::assets;

pub use text::Moment;

/// What every page has: title, place in the navigation, scripts.
#[derive(Clone, Debug)]
pub struct Page {
    /// Shown in the tab, before "Luthier".
    pub title: String,
    /// Name of the navigation entry that is current; empty for none.
    pub section: &'static str,
    /// Module scripts, by their path under `static`.
    pub scripts: &'static [&'static str],
    /// Whether charts are on the page, which need uPlot and its style.
    pub charts: bool,
}

impl Page {
    /// A page without scripts of its own.
    pub fn new(title: impl Into<String>, section: &'static str) -> Self {
        Page { title: title.into(), section, scripts: &[], charts: false }
    }

    /// The page with module scripts.
    pub fn with(mut self, scripts: &'static [&'static str]) -> Self {
        self.scripts = scripts;
        self
    }

    /// The page with charts.
    pub fn with_charts(mut self) -> Self {
        self.charts = true;
        self
    }

    /// Whether `section` is the current one.
    pub fn is(&self, section: &str) -> bool {
        self.section == section
    }

    /// Address of an embedded file.
    pub fn asset(&self, path: &str) -> String {
        assets::url(path)
    }

    /// The program's version.
    pub fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }
}

/// A sentence instead of a page.
#[derive(Template)]
#[template(path = "error.html")]
pub struct ErrorPage {
    /// Frame of the page.
    pub page: Page,
    /// HTTP status, as a number.
    pub status: u16,
    /// What is wrong, in a few words.
    pub heading: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// A question before something that cannot be taken back; a page of its own without script, a dialog with it.
#[derive(Template)]
#[template(path = "confirm.html")]
pub struct Confirm {
    /// Frame of the page.
    pub page: Page,
    /// The question.
    pub question: ConfirmQuestion,
}

/// The question alone.
#[derive(Clone, Debug, Template)]
#[template(path = "_confirm.html")]
pub struct ConfirmQuestion {
    /// The question.
    pub heading: String,
    /// What will happen.
    pub message: String,
    /// Where the answer "yes" is posted.
    pub action: String,
    /// Label of "yes".
    pub yes: &'static str,
    /// Where "no" leads.
    pub back: String,
}

/// A problem found in a file.
#[derive(Clone, Debug)]
pub struct ProblemRow {
    /// Line, row, column, tensor; empty when it concerns the whole file.
    pub place: String,
    /// What is wrong and what to do.
    pub message: String,
    /// Whether the file cannot be used before this is mended.
    pub fatal: bool,
}

/// A name and its value.
#[derive(Clone, Debug)]
pub struct Fact {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
    /// Where the value leads; empty for nowhere.
    pub href: String,
}

impl Fact {
    /// A fact without a link.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Fact { name: name.into(), value: value.into(), href: String::new() }
    }

    /// A fact that leads to `href`.
    pub fn linked(name: impl Into<String>, value: impl Into<String>, href: impl Into<String>) -> Self {
        Fact { name: name.into(), value: value.into(), href: href.into() }
    }
}

/// A choice of a list: one file, one model.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Value of the input.
    pub value: String,
    /// Name for people.
    pub name: String,
    /// A line below the name.
    pub note: String,
    /// Whether it is chosen.
    pub checked: bool,
    /// Whether it cannot be chosen; the note says why.
    pub disabled: bool,
    /// The task that the form is about once it is chosen; empty where that does not change.
    pub task: &'static str,
}

/// Where an older part of a list continues.
#[derive(Clone, Debug, Default)]
pub struct Paging {
    /// Address of the newest part; empty when this is it.
    pub newest: String,
    /// Address of the next older part; empty when there is none.
    pub older: String,
}
