//! The line that tells how a score was made, in sacrebleu's form.

use crate::metric::Metric;

/// Draws that a score was compared or bounded by, for its signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trials {
    /// Bootstrap resamples: `bs`.
    Bootstrap {
        /// Number of resamples.
        samples: usize,
        /// The generator's seed.
        seed: u64,
    },
    /// Trials of approximate randomization: `ar`.
    Randomization {
        /// Number of trials.
        samples: usize,
        /// The generator's seed.
        seed: u64,
    },
}

/// `nrefs:1|bs:1000|seed:12345|case:mixed|…|version:…`; `references` is none where rows have unequal numbers.
pub(crate) fn signature(metric: &dyn Metric, references: Option<usize>, trials: Option<Trials>) -> String {
    let mut pairs = vec![("nrefs", references.map_or("var".to_owned(), |number| number.to_string()))];
    if let Some(trials) = trials {
        let (key, samples, seed) = match trials {
            Trials::Bootstrap { samples, seed } => ("bs", samples, seed),
            Trials::Randomization { samples, seed } => ("ar", samples, seed),
        };
        pairs.extend([(key, samples.to_string()), ("seed", seed.to_string())]);
    }
    pairs.extend(metric.settings());
    pairs.push(("version", version(metric.reference_version())));
    pairs.iter().map(|(key, value)| format!("{key}:{value}")).collect::<Vec<_>>().join("|")
}

/// The reference package's version with ours behind a plus: its values, but not its program.
fn version(reference: Option<&str>) -> String {
    let own = concat!("luthier.", env!("CARGO_PKG_VERSION"));
    reference.map_or_else(|| own.to_owned(), |reference| format!("{reference}+{own}"))
}

/// `yes` or `no`.
pub(crate) fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

/// `lc` or `mixed`.
pub(crate) fn case(lowercase: bool) -> String {
    if lowercase { "lc" } else { "mixed" }.to_owned()
}
