//! Metrics of written text: BLEU, chrF, TER, ROUGE and exact match, with confidence and significance.
//!
//! A metric gives each row a vector of statistics that add up, and makes a score of a sum ([`Metric`]). [`Rows`] keeps the
//! vectors: the score of the whole corpus, scores of single rows, an interval by bootstrap and a comparison of two systems
//! ([`paired`]) all come from them, and texts are read once.
//!
//! ```
//! use scores::{Bleu, BleuOptions, Metric};
//!
//! let bleu = Bleu::new(BleuOptions::default())?;
//! let written = vec!["the cat sat on a mat".to_owned()];
//! let references = vec![vec!["the cat sat on the mat".to_owned(), "a cat sat on the mat".to_owned()]];
//! let rows = bleu.rows(&written, &references)?;
//! assert!((rows.score() - 56.234132519034915).abs() < 1e-9);
//! # Ok::<(), scores::ScoreError>(())
//! ```
//!
//! Values are those of sacrebleu and rouge-score; `docs/text-metrics.md` has the definitions.

mod bleu;
mod chrf;
mod error;
mod exact_match;
mod metric;
mod ngrams;
mod resampling;
mod rouge;
mod rows;
mod signature;
mod significance;
mod ter;
mod text;

pub use bleu::{Bleu, BleuDetails, BleuOptions, BleuTokenizer, Smoothing};
pub use chrf::{Chrf, ChrfOptions};
pub use error::ScoreError;
pub use exact_match::{ExactMatch, ExactMatchOptions};
pub use metric::Metric;
pub use resampling::{Interval, RESAMPLES, Resamples};
pub use rouge::{Rouge, RougeKind, RougeMeans};
pub use rows::Rows;
pub use signature::Trials;
pub use significance::{Paired, SWAPS, Significance, Swaps, paired, paired_bootstrap, paired_randomization};
pub use ter::{Ter, TerOptions};
