//! The home page and the list of jobs.

use askama::Template;

use super::{Moment, Page, Paging};

/// What is running, what ran last, how to start.
#[derive(Template)]
#[template(path = "home.html")]
pub struct Home {
    /// Frame of the page.
    pub page: Page,
    /// The part that is fetched again while something runs.
    pub live: HomeLive,
    /// Whether there is data to train on.
    pub has_data: bool,
    /// Whether there is a checkpoint to start from.
    pub has_model: bool,
    /// Whether a job was ever made.
    pub has_job: bool,
}

/// Jobs and trainers as they are now.
#[derive(Template)]
#[template(path = "_home_live.html")]
pub struct HomeLive {
    /// Jobs that are queued, running or paused.
    pub active: Vec<JobRow>,
    /// The newest finished jobs.
    pub recent: Vec<JobRow>,
    /// Trainers that were heard of lately.
    pub trainers: Vec<TrainerRow>,
}

/// A list of jobs.
#[derive(Template)]
#[template(path = "jobs.html")]
pub struct Jobs {
    /// Frame of the page.
    pub page: Page,
    /// Rows, fetched again while one of them is active.
    pub rows: JobRows,
    /// Links that keep only some states.
    pub filters: Vec<Filter>,
    /// Newer and older parts.
    pub paging: Paging,
}

/// The rows of a list of jobs.
#[derive(Template)]
#[template(path = "_job_rows.html")]
pub struct JobRows {
    /// Newest first.
    pub rows: Vec<JobRow>,
    /// Address of this fragment; empty when nothing can change any more.
    pub refresh: String,
}

/// A link that keeps only some of a list.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Label.
    pub name: &'static str,
    /// Address.
    pub href: String,
    /// Whether the list shows this now.
    pub current: bool,
}

/// A job in a list.
#[derive(Clone, Debug)]
pub struct JobRow {
    /// Its page.
    pub href: String,
    /// Its name.
    pub name: String,
    /// Its state.
    pub status: Status,
    /// Name of the base model.
    pub model: String,
    /// Page of the base model; empty when it is gone.
    pub model_href: String,
    /// Name of the training file.
    pub data: String,
    /// Page of the training file; empty when it is gone.
    pub data_href: String,
    /// How far it is.
    pub progress: Progress,
    /// "accuracy 0.847", the reason of a failure, or empty.
    pub result: String,
    /// When it was made.
    pub created: Moment,
    /// How long it ran; empty before it began.
    pub took: String,
    /// Points of the small curve of the training loss.
    pub spark: Option<String>,
}

/// The state of a job as shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The API's word, which is also the style's name.
    pub word: &'static str,
    /// For people.
    pub label: &'static str,
    /// Symbol of the sprite; empty for the breathing dot.
    pub icon: &'static str,
}

impl Status {
    /// The state with the API's name `word`; `asked` is what was asked for but has not happened yet.
    pub fn of(word: &str, asked: Option<&str>) -> Self {
        let (word, label, icon) = match (word, asked) {
            ("running", Some("cancel")) => ("running", "Cancelling", ""),
            ("running", Some("pause")) => ("running", "Pausing", ""),
            ("running", _) => ("running", "Running", ""),
            ("paused", _) => ("paused", "Paused", "pause"),
            ("succeeded", _) => ("succeeded", "Succeeded", "check"),
            ("failed", _) => ("failed", "Failed", "cross"),
            ("cancelled", _) => ("cancelled", "Cancelled", "stop"),
            _ => ("queued", "Queued", "clock"),
        };
        Status { word, label, icon }
    }
}

/// How far a job is.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Steps in all; 0 while unknown.
    pub total: u64,
    /// "step 120 of 298".
    pub text: String,
    /// "40 %"; empty while unknown.
    pub percent: String,
    /// "1 min 12 s left"; empty when unknown.
    pub left: String,
}

/// A trainer, as it told the database.
#[derive(Clone, Debug)]
pub struct TrainerRow {
    /// Its name.
    pub name: String,
    /// "cpu, 2 threads".
    pub device: String,
    /// "working", "idle" or why it cannot train.
    pub state: String,
    /// Style of the chip.
    pub chip: &'static str,
    /// When it was heard of last.
    pub seen: Moment,
}
