//! The page of one job.

use askama::Template;

use super::home::{Progress, Status};
use super::marked::Piece;
use super::samples::SampleTable;
use super::{Fact, Moment, Page};

/// Everything about a job; the parts that change are fragments of their own.
#[derive(Template)]
#[template(path = "job.html")]
pub struct JobPage {
    /// Frame of the page.
    pub page: Page,
    /// The job's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// State, progress, buttons.
    pub status: JobStatus,
    /// Evaluation, confusion matrix, examples, checkpoints.
    pub results: JobResults,
    /// Charts and the curves on them.
    pub charts: Vec<ChartCard>,
    /// The newest lines of the log, oldest first.
    pub log: Vec<LogLine>,
    /// Address of the page of older log lines; empty when all are shown.
    pub older_log: String,
    /// Number of an event up to which everything is shown; later ones may be.
    pub last_event: i64,
    /// Settings, by group.
    pub settings: Vec<FactGroup>,
    /// What the run can be repeated from, as JSON; empty before the end.
    pub manifest: String,
    /// Evaluations as a table, for a browser without script.
    pub evaluations: ValueTable,
}

/// State, progress and what can be done; fetched again on every change.
#[derive(Template)]
#[template(path = "_job_status.html")]
pub struct JobStatus {
    /// Address of the job's page.
    pub href: String,
    /// State.
    pub status: Status,
    /// Whether the job can still change.
    pub live: bool,
    /// "training", "evaluating"; empty when it is not running.
    pub phase: String,
    /// How far it is.
    pub progress: Progress,
    /// Small measured values below the bar.
    pub tiles: Vec<Fact>,
    /// When the last event came; none before the first.
    pub last_event: Option<Moment>,
    /// Why it ended, or waits, when there is more to say than the state.
    pub trouble: Option<Trouble>,
    /// Earlier attempts that ended early.
    pub attempts: Vec<Trouble>,
    /// Whether it may be paused now.
    pub can_pause: bool,
    /// Whether it may be resumed now.
    pub can_resume: bool,
    /// Whether it may be cancelled now.
    pub can_cancel: bool,
    /// Address of the form with this job's settings.
    pub again: String,
    /// Page of the tuned model; empty while there is none.
    pub model_href: String,
    /// Where the model can be talked to; empty where it cannot.
    pub playground: String,
    /// Address of the model's archive; empty while there is none.
    pub download: String,
    /// A sentence while the job waits; empty otherwise.
    pub waiting: String,
}

/// A failure with what is known about it.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// What is wrong, in a few words.
    pub heading: String,
    /// Cause and advice.
    pub message: String,
    /// The last lines of the trainer's log; empty when there are none.
    pub log: String,
    /// Style: `bad` or `warn`.
    pub style: &'static str,
}

/// What the evaluations said; fetched again after each.
#[derive(Template)]
#[template(path = "_job_results.html")]
pub struct JobResults {
    /// Address of the job's page.
    pub href: String,
    /// Whether the job can still change.
    pub live: bool,
    /// The shown evaluation of the validation rows.
    pub evaluation: Option<Evaluation>,
    /// The evaluation of the test rows.
    pub test: Option<Evaluation>,
    /// Answers to prompts, in text generation.
    pub samples: Option<SampleTable>,
    /// Example predictions, in three groups.
    pub examples: Vec<ExampleGroup>,
    /// Targets that were written, of a model that writes one text from another.
    pub written: Option<Written>,
    /// Checkpoints that are kept, newest first.
    pub checkpoints: Vec<CheckpointRow>,
}

/// One evaluation.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// "Validation" or "Test".
    pub title: String,
    /// "step 298, epoch 1, 1,054 rows".
    pub note: String,
    /// Metrics with their values.
    pub metrics: Vec<Fact>,
    /// Names and values of each class; empty for a regression.
    pub classes: Vec<ClassRow>,
    /// Counts of true against predicted.
    pub confusion: Option<Confusion>,
    /// What could not be computed, and why.
    pub undefined: String,
}

/// Metrics of one class.
#[derive(Clone, Debug)]
pub struct ClassRow {
    /// Its name.
    pub name: String,
    /// Precision.
    pub precision: String,
    /// Recall.
    pub recall: String,
    /// F1.
    pub f1: String,
    /// Rows of this class.
    pub support: String,
}

/// A confusion matrix, ready to print.
#[derive(Clone, Debug)]
pub struct Confusion {
    /// Predicted classes.
    pub columns: Vec<String>,
    /// True classes with their counts.
    pub rows: Vec<ConfusionRow>,
}

/// A true class.
#[derive(Clone, Debug)]
pub struct ConfusionRow {
    /// Its name.
    pub name: String,
    /// Counts by predicted class.
    pub cells: Vec<ConfusionCell>,
}

/// A count.
#[derive(Clone, Debug)]
pub struct ConfusionCell {
    /// The count.
    pub count: String,
    /// Its share of the row.
    pub share: String,
    /// 0 to 8, by share of the row.
    pub heat: u8,
    /// Whether prediction and truth agree.
    pub diagonal: bool,
}

impl Confusion {
    /// The matrix of `counts[truth][predicted]` with the classes' names.
    pub fn new(labels: &[String], counts: &[Vec<u64>]) -> Self {
        let rows = counts
            .iter()
            .enumerate()
            .map(|(truth, row)| {
                let sum: u64 = row.iter().sum();
                let share = |count: u64| if sum == 0 { 0.0 } else { count as f64 / sum as f64 };
                let cell = |(predicted, count): (usize, &u64)| ConfusionCell {
                    count: super::text::count(*count),
                    share: format!("{:.0} %", share(*count) * 100.0),
                    heat: (share(*count) * 8.0).ceil() as u8,
                    diagonal: truth == predicted,
                };
                ConfusionRow {
                    name: labels.get(truth).cloned().unwrap_or_default(),
                    cells: row.iter().enumerate().map(cell).collect(),
                }
            })
            .collect();
        Confusion { columns: labels.to_vec(), rows }
    }
}

/// Targets that an evaluation wrote.
#[derive(Clone, Debug)]
pub struct Written {
    /// "step 298, worst first".
    pub note: String,
    /// What the score of a row is.
    pub metric: String,
    /// Row by row.
    pub rows: Vec<WrittenRow>,
}

/// A source, its target and what was written.
#[derive(Clone, Debug)]
pub struct WrittenRow {
    /// Its number in the file, from 1.
    pub row: String,
    /// What was read.
    pub source: String,
    /// What should have been written.
    pub target: String,
    /// What was written.
    pub prediction: String,
    /// The metric of this row; empty where it has none.
    pub score: String,
    /// Whether the target was written.
    pub right: bool,
}

/// Examples of one kind.
#[derive(Clone, Debug)]
pub struct ExampleGroup {
    /// Word for the tab: `best`, `worst`, `random`.
    pub key: &'static str,
    /// Label of the tab.
    pub title: &'static str,
    /// What these rows have in common.
    pub note: &'static str,
    /// Rows.
    pub rows: Vec<Example>,
}

/// A row of the validation data with what the model said.
#[derive(Clone, Debug)]
pub struct Example {
    /// The text.
    pub text: String,
    /// Of tagged words each one, in place of the text; empty for others.
    pub words: Vec<ExampleWord>,
    /// The second text; empty for none.
    pub text_pair: String,
    /// The context of a question, with the answers marked; empty for others.
    pub pieces: Vec<Piece>,
    /// The row's number in its file; empty when unknown.
    pub row: String,
    /// What the file says.
    pub label: String,
    /// What the model says.
    pub predicted: String,
    /// How sure it is; empty for a regression.
    pub probability: String,
    /// Loss of the row.
    pub loss: String,
    /// Whether both agree; none where there is no right or wrong.
    pub right: Option<bool>,
}

/// A word of a row with its tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExampleWord {
    /// The word.
    pub word: String,
    /// What the file says; empty for `O`.
    pub tag: String,
    /// What the model says; empty for `O`.
    pub predicted: String,
    /// Style: `word-right`, `word-wrong`, `word-unseen`, empty where both say `O`.
    pub style: &'static str,
}

/// A checkpoint that is kept.
#[derive(Clone, Debug)]
pub struct CheckpointRow {
    /// Step it was written at.
    pub step: String,
    /// Its metrics in a line.
    pub metrics: String,
    /// Size of its files.
    pub size: String,
    /// When it was written.
    pub created: Moment,
    /// Whether it is the best by the chosen metric.
    pub best: bool,
    /// Address of its archive.
    pub download: String,
}

/// A card with a chart.
#[derive(Clone, Debug)]
pub struct ChartCard {
    /// Word for the script: `loss`, `metrics`, `learning_rate`, `throughput`, `grad_norm`.
    pub key: &'static str,
    /// Heading.
    pub title: &'static str,
    /// Style of its width: `wide`, `half`, `third`.
    pub width: &'static str,
}

/// A line of the log.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// Number of the event.
    pub number: i64,
    /// When.
    pub at: Moment,
    /// "info", "warn", "error".
    pub level: &'static str,
    /// Style: "", "warn", "error-line", "mark".
    pub style: &'static str,
    /// The line.
    pub message: String,
}

/// A group of settings.
#[derive(Clone, Debug)]
pub struct FactGroup {
    /// Heading.
    pub title: &'static str,
    /// Settings.
    pub facts: Vec<Fact>,
}

/// A table of values by step.
#[derive(Clone, Debug, Default)]
pub struct ValueTable {
    /// Heads of the columns after "Step".
    pub columns: Vec<String>,
    /// Step and values.
    pub rows: Vec<Vec<String>>,
}

/// All values of a job as tables.
#[derive(Template)]
#[template(path = "values.html")]
pub struct ValuesPage {
    /// Frame of the page.
    pub page: Page,
    /// The job's page.
    pub href: String,
    /// The job's name.
    pub name: String,
    /// Evaluations.
    pub evaluations: ValueTable,
    /// Training steps, thinned out.
    pub training: ValueTable,
}

/// A page of the log.
#[derive(Template)]
#[template(path = "log.html")]
pub struct LogPage {
    /// Frame of the page.
    pub page: Page,
    /// The job's page.
    pub href: String,
    /// The job's name.
    pub name: String,
    /// Lines, oldest first.
    pub log: Vec<LogLine>,
    /// Address of the older part; empty when there is none.
    pub older: String,
    /// Address of the newer part; empty when there is none.
    pub newer: String,
}
