//! Exports on a model's page.

use askama::Template;

use super::home::Status;
use super::text::Moment;

/// The section of a model's page; alone where a script asks for it again.
#[derive(Template)]
#[template(path = "_exports.html")]
pub struct ExportsCard {
    /// Where to ask for one, and for this section.
    pub href: String,
    /// What can be asked for.
    pub choices: Vec<ExportChoice>,
    /// Why nothing can; empty where something can.
    pub refused: String,
    /// Newest first.
    pub rows: Vec<ExportRow>,
    /// Whether one is not over, so that the section changes by itself.
    pub is_live: bool,
    /// What was wrong with what was asked for; empty for nothing.
    pub error: String,
}

/// A format with its kind of numbers.
#[derive(Clone, Debug)]
pub struct ExportChoice {
    /// `gguf:q4_k_m`
    pub value: String,
    /// "GGUF, q4_k_m".
    pub name: String,
    /// What it is for.
    pub about: &'static str,
    /// "about 90 MB"; empty where it is not known.
    pub size: String,
    /// Whether it is the one that is proposed.
    pub chosen: bool,
}

/// An export.
#[derive(Clone, Debug)]
pub struct ExportRow {
    /// Its id.
    pub id: String,
    /// "GGUF, q4_k_m".
    pub name: String,
    /// Where it stands; none where it is made, which `ready` says.
    pub status: Option<Status>,
    /// Whether it is made, and all bounds are kept.
    pub ready: bool,
    /// Which bounds are not.
    pub reasons: Vec<String>,
    /// "checking it: 12 of 50 rows"; empty unless it runs.
    pub progress: String,
    /// Share that is done of that, where it is known.
    pub share: Option<f64>,
    /// Why it failed; empty for nothing.
    pub error: String,
    /// Size; empty before it is made.
    pub size: String,
    /// Addresses of downloads and their names; none before it is made.
    pub downloads: Vec<(String, &'static str)>,
    /// Where to ask whether to download it all the same; empty for one that is ready.
    pub warn: String,
    /// Where to post that it is cancelled; empty for one that is over.
    pub cancel: String,
    /// Where to ask whether to delete it; empty for one that is not over.
    pub delete: String,
    /// When it was asked for.
    pub created: Moment,
    /// What was measured; none before it is made.
    pub certificate: Option<CertificateView>,
}

/// A certificate, in words.
#[derive(Clone, Debug, Default)]
pub struct CertificateView {
    /// "It was replayed on all 8 rows …".
    pub about: String,
    /// What it is, the model's value, the artefact's, the change.
    pub metrics: Vec<[String; 4]>,
    /// What differs, and what may, at most.
    pub facts: Vec<CertificateFact>,
    /// What is no error and yet worth a look.
    pub notices: Vec<String>,
}

/// Something that was measured.
#[derive(Clone, Debug)]
pub struct CertificateFact {
    /// "Largest difference of logits".
    pub name: String,
    /// In words.
    pub value: String,
}
