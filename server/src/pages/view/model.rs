//! Lists and pages of models.

use askama::Template;

use super::export::ExportsCard;
use super::marked::Piece;
use super::{Fact, Moment, Page, Paging, ProblemRow};

/// The list of models.
#[derive(Template)]
#[template(path = "models.html")]
pub struct ModelList {
    /// Frame of the page.
    pub page: Page,
    /// Newest first.
    pub rows: Vec<ModelRow>,
    /// Newer and older parts.
    pub paging: Paging,
    /// What is kept loaded to answer.
    pub loaded: Vec<LoadedRow>,
    /// Largest archive that is taken.
    pub limit: String,
    /// What was wrong with an upload made without script; empty for nothing.
    pub error: String,
}

/// A process that has a model loaded.
#[derive(Clone, Debug)]
pub struct LoadedRow {
    /// The models that it answers for.
    pub models: Vec<Fact>,
    /// What it computes on.
    pub device: String,
    /// Memory in use; empty where it is not known.
    pub memory: String,
    /// "2 requests", "idle for 3 min".
    pub state: String,
    /// Where to post that it is let go of.
    pub unload: String,
}

/// A model in the list.
#[derive(Clone, Debug)]
pub struct ModelRow {
    /// Its page.
    pub href: String,
    /// Its id.
    pub id: String,
    /// "uploaded", "fine-tuned" or "checkpoint".
    pub origin: &'static str,
    /// "BERT, 22.7 M parameters".
    pub architecture: String,
    /// What it can do, or that it has no head yet.
    pub task: String,
    /// "accuracy 0.847"; empty for none.
    pub result: String,
    /// Size of its files.
    pub size: String,
    /// When it came.
    pub created: Moment,
}

/// The page of a model.
#[derive(Template)]
#[template(path = "model_detail.html")]
pub struct ModelDetail {
    /// Frame of the page.
    pub page: Page,
    /// Its id.
    pub id: String,
    /// Its address.
    pub href: String,
    /// Origin in a word.
    pub origin: &'static str,
    /// Architecture, sizes, labels.
    pub facts: Vec<Fact>,
    /// What it reached on the data held out.
    pub metrics: Vec<Fact>,
    /// What is wrong with it.
    pub problems: Vec<ProblemRow>,
    /// From the first base to what was made of this.
    pub lineage: Vec<Ancestor>,
    /// Models made from this one.
    pub descendants: Vec<Fact>,
    /// Its files.
    pub files: Vec<FileRow>,
    /// The card, as written in README.md; empty for none.
    pub readme: String,
    /// Whether it can be asked for predictions.
    pub can_try: bool,
    /// Whether it answers questions.
    pub can_ask: bool,
    /// Whether it finds names in a text, or tags its words.
    pub can_tag: bool,
    /// Whether texts can be compared by their vectors.
    pub can_compare: bool,
    /// What stands before each source where it writes one text from another; none where it does not.
    pub writes: Option<String>,
    /// Where it can be talked to; empty where it cannot.
    pub playground: String,
    /// Whether it was trained on pairs of texts.
    pub pairs: bool,
    /// What was tried without script.
    pub tried: Option<Tried>,
    /// It in other formats.
    pub exports: ExportsCard,
    /// Whether a job can start from it.
    pub can_tune: bool,
    /// Addresses of the archives.
    pub download_zip: String,
    /// The same as tar.
    pub download_tar: String,
    /// How to load it with transformers.
    pub snippet: String,
}

/// A step of a lineage.
#[derive(Clone, Debug)]
pub struct Ancestor {
    /// "base", "data", "job", "this model".
    pub role: &'static str,
    /// Its name.
    pub name: String,
    /// Its page; empty when it is gone.
    pub href: String,
    /// Whether it is this model.
    pub current: bool,
}

/// A file of a checkpoint.
#[derive(Clone, Debug)]
pub struct FileRow {
    /// Path in the folder.
    pub path: String,
    /// Size.
    pub size: String,
    /// First digits of its SHA-256.
    pub hash: String,
    /// Address of the file alone; empty when there is none.
    pub href: String,
}

/// A prediction that was asked for without script.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    /// The text.
    pub text: String,
    /// The second text.
    pub text_pair: String,
    /// What stood before the text.
    pub prefix: String,
    /// What was written; empty for nothing.
    pub written: String,
    /// Classes and their scores, highest first.
    pub scores: Vec<Score>,
    /// The context with the answer marked; empty where there is none.
    pub pieces: Vec<Piece>,
    /// The text with what a tagger found in it.
    pub parts: Vec<TextPart>,
    /// What went wrong; empty for nothing.
    pub error: String,
}

/// A part of a text.
#[derive(Clone, Debug, Default)]
pub struct TextPart {
    /// Its characters.
    pub text: String,
    /// What it is; empty for nothing in particular.
    pub label: String,
    /// How sure the model is.
    pub score: String,
}

/// A class and its score.
#[derive(Clone, Debug)]
pub struct Score {
    /// The class.
    pub label: String,
    /// 0 to 1, for the bar; none for a number that is no probability.
    pub share: Option<f64>,
    /// In words.
    pub text: String,
}
