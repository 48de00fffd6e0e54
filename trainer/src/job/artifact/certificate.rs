//! The certificate: what was measured, and whether it lies within the bounds of the format.
//!
//! Bounds are told in `docs/exports.md`, with the measurements behind them.

use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};
use store::spec::{Export, Format, NumberKind};

use super::compare::Compared;
use super::replay::Said;
use super::rows::Rows;
use super::write::Texts;
use crate::metrics::higher_is_better;

/// Model or artefact.
pub struct Side {
    /// Bytes of its files.
    pub bytes: u64,
    /// Seconds to load it.
    pub loading: f64,
    /// What it is worth on the rows.
    pub metrics: Vec<(String, Option<f64>)>,
    /// The replay.
    pub said: Said,
}

/// All that is known of an artefact.
pub struct Certificate<'a> {
    /// What was made.
    pub wanted: Export,
    /// What it was replayed on.
    pub device: String,
    /// CPU threads of it.
    pub threads: usize,
    /// The rows.
    pub rows: &'a Rows,
    /// The model.
    pub before: Side,
    /// The artefact.
    pub after: Side,
    /// Logits of both.
    pub compared: Compared,
    /// Tokens and templates of both.
    pub texts: Texts,
    /// What is no error and yet worth a look.
    pub notices: Vec<String>,
    /// Whether metrics are of rows that say what is right.
    pub is_tuned: bool,
}

/// What may differ, at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// The largest difference of logits as a share of their range; none where numbers are rounded coarsely, since one logit
    /// of millions says little then.
    pub relative: Option<f64>,
    /// Mean divergence of the distributions, in nats.
    pub divergence: f64,
    /// How much the loss may rise, as a share of it …
    pub loss: f64,
    /// … and beyond that, for losses near 0.
    pub loss_beside: f64,
    /// Share of the answers that must stay the same.
    pub equal: f64,
    /// How much a share (accuracy, F1, …) may fall.
    pub metric: f64,
}

impl Bounds {
    /// Those of a format.
    pub fn of(wanted: Export) -> Self {
        match wanted.kind {
            None | Some(NumberKind::F32) => Bounds {
                relative: Some(1e-4),
                divergence: 1e-5,
                loss: 1e-4,
                loss_beside: 1e-4,
                equal: 0.999,
                metric: 0.001,
            },
            Some(NumberKind::F16) => Bounds {
                relative: Some(0.01),
                divergence: 1e-3,
                loss: 0.002,
                loss_beside: 0.002,
                equal: 0.98,
                metric: 0.005,
            },
            Some(NumberKind::Bf16) => Bounds {
                relative: Some(0.05),
                divergence: 0.01,
                loss: 0.01,
                loss_beside: 0.005,
                equal: 0.95,
                metric: 0.01,
            },
            Some(NumberKind::Q8_0) => Bounds {
                relative: None,
                divergence: 0.01,
                loss: 0.01,
                loss_beside: 0.005,
                equal: 0.95,
                metric: 0.01,
            },
            Some(NumberKind::Q4KM) => Bounds {
                relative: None,
                divergence: 0.15,
                loss: 0.05,
                loss_beside: 0.02,
                equal: 0.8,
                metric: 0.03,
            },
        }
    }
}

/// One bound, and what was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// A word for programs.
    pub name: String,
    /// What was found.
    pub found: f64,
    /// What is allowed, at most or at least.
    pub bound: f64,
    /// Whether it lies within.
    pub is_kept: bool,
    /// What is wrong if it does not.
    pub reason: String,
}

/// What is judged, in plain numbers.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Whether all logits are numbers.
    pub is_finite: bool,
    /// The largest difference of logits as a share of their range.
    pub relative: f64,
    /// Mean divergence.
    pub divergence: Option<f64>,
    /// Share of equal answers.
    pub equal: Option<f64>,
    /// Answers that were compared.
    pub answers: u64,
    /// Name, the model's, the artefact's.
    pub metrics: Vec<(String, f64, f64)>,
    /// Texts, and those of the same tokens.
    pub texts: (usize, usize),
    /// Whether both write conversations the same way.
    pub same_template: Option<bool>,
}

/// Compares what was found with the bounds; all that was looked at, kept or not.
pub fn judge(found: &Found, bounds: &Bounds) -> Vec<Judged> {
    let mut judged = Vec::new();
    let mut at_most = |name: &str, value: f64, bound: f64, reason: String| {
        judged.push(Judged { name: name.to_owned(), found: value, bound, is_kept: value <= bound, reason });
    };
    let broken = f64::from(u8::from(!found.is_finite));
    at_most("not_finite", broken, 0.0, "Some logits of the artefact are not numbers.".to_owned());
    if let Some(most) = bounds.relative {
        let reason = format!(
            "The largest difference of logits is {} of their range; {} is the most that this format may differ by.",
            percent(found.relative),
            percent(most)
        );
        at_most("logits", found.relative, most, reason);
    }
    if let Some(divergence) = found.divergence {
        let most = bounds.divergence;
        let reason = format!(
            "The mean divergence of its distributions from the model's is {divergence:.4} nats; {most} is the most."
        );
        at_most("divergence", divergence, most, reason);
    }
    for (name, own, other) in &found.metrics {
        let (most, worse) = match name.as_str() {
            "loss" => (bounds.loss * own.abs() + bounds.loss_beside, other - own),
            // A function of the loss, or of a scale of its own.
            _ if !is_share(name) => continue,
            _ if higher_is_better(name) == Some(false) => (bounds.metric, other - own),
            _ => (bounds.metric, own - other),
        };
        // A share of few rows moves in steps: one row is no reason.
        let step = if name == "loss" || found.answers == 0 { 0.0 } else { 1.0 / found.answers as f64 };
        let most = if step > most { 2.0 * step } else { most };
        let reason = format!("{name} went from {own:.4} to {other:.4}; {most:.4} worse is the most.");
        at_most(name, worse, most, reason);
    }
    if let Some(equal) = found.equal {
        let different = 1.0 - equal;
        // As above.
        let most = (1.0 - bounds.equal).max(1.0 / found.answers.max(1) as f64);
        let reason = format!(
            "It gives another answer than the model at {} of the places; {} is the most.",
            percent(different),
            percent(most)
        );
        at_most("answers", different, most, reason);
    }
    let (texts, equal) = found.texts;
    let others = texts - equal;
    at_most(
        "tokens",
        others as f64,
        0.0,
        format!("Its tokenizer cuts {others} of {texts} texts into other tokens."),
    );
    if found.same_template == Some(false) {
        at_most("chat_template", 1.0, 0.0, "It does not have the model's chat template.".to_owned());
    }
    judged
}

/// Metrics between 0 and 1 that are means over rows or classes.
fn is_share(name: &str) -> bool {
    const SHARES: [&str; 4] = ["accuracy", "f1", "precision", "recall"];
    SHARES.iter().any(|share| name.contains(share)) || name.contains("roc_auc")
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        share if share >= 0.1 || share == 0.0 => format!("{share:.1} %"),
        share => format!("{share:.1e} %"),
    }
}

impl Certificate<'_> {
    fn found(&self) -> Found {
        let both = self.before.metrics.iter().zip(&self.after.metrics);
        let pairs = both.filter_map(|((name, own), (_, other))| Some((name.clone(), (*own)?, (*other)?)));
        Found {
            is_finite: self.compared.is_finite,
            relative: self.compared.relative(),
            divergence: self.compared.mean_divergence(),
            equal: self.compared.equal_share(),
            answers: self.compared.places,
            metrics: pairs.collect(),
            texts: (self.texts.texts, self.texts.equal),
            same_template: self.texts.same_template,
        }
    }

    fn judged(&self) -> Vec<Judged> {
        judge(&self.found(), &Bounds::of(self.wanted))
    }

    /// Whether all bounds are kept.
    pub fn is_ready(&self) -> bool {
        self.judged().iter().all(|judged| judged.is_kept)
    }

    /// Sentences about bounds that are not kept.
    pub fn reasons(&self) -> Vec<String> {
        self.judged().into_iter().filter(|judged| !judged.is_kept).map(|judged| judged.reason).collect()
    }

    /// As it is written and shown.
    pub fn to_json(&self) -> Value {
        let (before, after, compared) = (&self.before, &self.after, &self.compared);
        let both = before.metrics.iter().zip(&after.metrics);
        let metrics: Vec<Value> = both
            .map(|((name, own), (_, other))| {
                let change = own.zip(*other).map(|(own, other)| other - own);
                json!({"name": name, "model": own, "artifact": other, "change": change})
            })
            .collect();
        let judged = |judged: &Judged| json!({"name": judged.name, "found": judged.found, "most": judged.bound, "kept": judged.is_kept});
        json!({
            "ready": self.is_ready(),
            "reasons": self.reasons(),
            "format": self.wanted.format,
            "kind": self.wanted.kind,
            "loaded_by": loaded_by(self.wanted),
            "replayed": {
                "rows": after.said.rows,
                "of": self.rows.of,
                "tokens": after.said.tokens,
                "about": self.rows.words(after.said.rows),
                "labelled": self.is_tuned,
            },
            "logits": {
                "places": compared.places,
                "largest_difference": compared.largest,
                "range": compared.range(),
                "relative": compared.relative(),
                "mean_divergence": compared.mean_divergence(),
                "largest_divergence": compared.mean_divergence().map(|_| compared.largest_divergence),
                "equal_share": compared.equal_share(),
            },
            "metrics": metrics,
            "bytes": {"model": before.bytes, "artifact": after.bytes},
            "speed": {
                "device": self.device,
                "threads": self.threads,
                "model": speed(before),
                "artifact": speed(after),
                "about": "of the replay, in fp32 by Luthier's own engine, one after the other on the same threads",
            },
            "texts": {
                "compared": self.texts.texts,
                "same_tokens": self.texts.equal,
                "same_chat_template": self.texts.same_template,
            },
            "bounds": self.judged().iter().map(judged).collect::<Vec<_>>(),
            "notices": self.notices,
            "luthier": env!("CARGO_PKG_VERSION"),
            "at": Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
        })
    }
}

fn speed(side: &Side) -> Value {
    let rate = |count: f64| (side.said.seconds > 0.0).then(|| count / side.said.seconds);
    json!({
        "tokens_per_second": rate(side.said.tokens as f64),
        "rows_per_second": rate(side.said.rows as f64),
        "load_seconds": side.loading,
    })
}

fn loaded_by(wanted: Export) -> &'static str {
    match wanted.format {
        Format::Safetensors => "read from the folder as a checkpoint",
        Format::Adapter => "read from the folder and put onto its base",
        Format::Gguf => "read by Luthier's own GGUF reader, back into fp32",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(kind: NumberKind) -> Bounds {
        Bounds::of(Export { format: Format::Gguf, kind: Some(kind) })
    }

    fn good() -> Found {
        Found {
            is_finite: true,
            relative: 1e-6,
            divergence: Some(1e-7),
            equal: Some(1.0),
            answers: 1000,
            metrics: vec![("loss".to_owned(), 2.0, 2.0), ("mean_token_accuracy".to_owned(), 0.6, 0.6)],
            texts: (10, 10),
            same_template: Some(true),
        }
    }

    fn failed(found: &Found, kind: NumberKind) -> Vec<String> {
        let judged = judge(found, &bounds(kind)).into_iter();
        judged.filter(|judged| !judged.is_kept).map(|judged| judged.name).collect()
    }

    #[test]
    fn what_does_not_differ_keeps_every_bound() {
        for kind in NumberKind::ALL {
            assert!(failed(&good(), kind).is_empty(), "{}", kind.name());
        }
    }

    #[test]
    fn each_bound_is_looked_at_on_its_own() {
        type Change = Box<dyn Fn(&mut Found)>;
        let cases: [(&str, Change); 7] = [
            ("not_finite", Box::new(|found| found.is_finite = false)),
            ("logits", Box::new(|found| found.relative = 0.02)),
            ("divergence", Box::new(|found| found.divergence = Some(0.002))),
            ("loss", Box::new(|found| found.metrics[0].2 = 2.01)),
            ("mean_token_accuracy", Box::new(|found| found.metrics[1].2 = 0.594)),
            ("answers", Box::new(|found| found.equal = Some(0.97))),
            ("tokens", Box::new(|found| found.texts.1 = 9)),
        ];
        for (name, change) in cases {
            let mut found = good();
            change(&mut found);
            assert_eq!(failed(&found, NumberKind::F16), [name]);
        }
        let other = Found { same_template: Some(false), ..good() };
        assert_eq!(failed(&other, NumberKind::F16), ["chat_template"]);
    }

    #[test]
    fn what_is_no_number_is_never_within_a_bound() {
        let mut found = good();
        found.metrics[0].2 = f64::NAN;
        found.divergence = Some(f64::NAN);
        assert_eq!(failed(&found, NumberKind::Q4KM), ["divergence", "loss"]);
    }

    #[test]
    fn a_better_artefact_is_ready_and_fewer_bits_may_differ_by_more() {
        let mut found = good();
        found.metrics[0].2 = 1.9;
        found.metrics[1].2 = 0.7;
        assert!(failed(&found, NumberKind::F16).is_empty());
        let rounded = Found { divergence: Some(0.02), relative: 0.2, equal: Some(0.9), ..good() };
        assert!(failed(&rounded, NumberKind::Q4KM).is_empty());
        assert_eq!(failed(&rounded, NumberKind::Q8_0), ["divergence", "answers"]);
    }

    #[test]
    fn of_few_rows_one_may_fall_on_the_other_side() {
        let few = Found {
            equal: Some(0.9),
            answers: 10,
            divergence: None,
            metrics: vec![("accuracy".to_owned(), 1.0, 0.9), ("mse".to_owned(), 1.0, 2.0)],
            ..good()
        };
        assert!(failed(&few, NumberKind::F16).is_empty());
        let more = Found { equal: Some(0.7), metrics: vec![("accuracy".to_owned(), 1.0, 0.7)], ..few };
        assert_eq!(failed(&more, NumberKind::F16), ["accuracy", "answers"]);
    }

    #[test]
    fn a_reason_names_what_was_found_and_the_bound() {
        let mut found = good();
        found.metrics[0].2 = 2.5;
        let judged = judge(&found, &bounds(NumberKind::Q8_0));
        let loss = judged.iter().find(|judged| judged.name == "loss").unwrap();
        assert_eq!(loss.reason, "loss went from 2.0000 to 2.5000; 0.0250 worse is the most.");
    }
}
