//! Settings that need less memory, in the order in which they are worth a try.

use serde::{Deserialize, Serialize};

use super::{Machine, Model, Rows, estimate};
use crate::spec::{JobSpec, Optimizer, Precision, Task};

/// Changes of settings, and what the job takes with them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// What to set, in a request's words: `batch_size 8 with gradient_accumulation_steps 4`.
    pub setting: String,
    /// The field that was changed last.
    pub param: String,
    /// The most memory of all processes, in bytes.
    pub total: u64,
}

/// Ways that need less than `spec` as it is; each needs less than the one before it, whose changes it has as well.
///
/// First what gives the same model (layers computed again, smaller batches that are summed), then what gives another:
/// rows cut shorter, fewer bits.
pub fn ways(model: &Model, spec: &JobSpec, rows: &Rows, machine: Machine) -> Vec<Way> {
    let mut ladder = Ladder {
        model,
        machine,
        spec: spec.clone(),
        rows: rows.clone(),
        total: estimate(model, spec, rows, machine).total(),
        said: Vec::new(),
        ways: Vec::new(),
    };
    ladder.climbs("gradient_checkpointing", |spec, _| {
        spec.training.gradient_checkpointing = true;
        Some("gradient_checkpointing true".to_owned())
    });
    // Where texts of a batch are each other's wrong answers, a smaller one gives another model.
    let coupled = spec.task == Task::SentenceSimilarity;
    while !coupled && ladder.climbs("batch_size", smaller_batch) {}
    // Rows with a target are sources and targets together, and each is cut by a length of its own.
    let is_one = !spec.task.is_text_to_text();
    while is_one && ladder.climbs("max_length", shorter_rows) {}
    while coupled && ladder.climbs("batch_size", smaller_batch) {}
    ladder.climbs("precision", |spec, _| {
        spec.training.precision = Precision::Bf16;
        Some("precision bf16".to_owned())
    });
    ladder.climbs("optimizer", |spec, _| {
        let (Optimizer::Adam { betas, eps, .. } | Optimizer::Adamw { betas, eps, .. }) =
            spec.training.optimizer
        else {
            return None;
        };
        spec.training.optimizer = Optimizer::Adamw8bit { betas, eps };
        Some("optimizer adamw_8bit".to_owned())
    });
    ladder.ways
}

/// The first way that takes no more than there is.
pub fn fitting(ways: &[Way], available: u64) -> Option<&Way> {
    ways.iter().find(|way| way.total <= available)
}

/// The next smaller batch whose product with the accumulation stays, and with it the model that comes out.
fn smaller_batch(spec: &mut JobSpec, rows: &mut Rows) -> Option<String> {
    let training = &mut spec.training;
    let product = training.batch_size * training.gradient_accumulation_steps.max(1);
    // A batch never has more rows than there are: half of those is the first that needs less.
    let most = u32::try_from(rows.count).unwrap_or(u32::MAX).min(training.batch_size);
    training.batch_size = (1..=most / 2).rev().find(|size| product.is_multiple_of(*size))?;
    training.gradient_accumulation_steps = product / training.batch_size;
    let (batch, steps) = (training.batch_size, training.gradient_accumulation_steps);
    Some(format!("batch_size {batch} with gradient_accumulation_steps {steps}"))
}

fn shorter_rows(spec: &mut JobSpec, rows: &mut Rows) -> Option<String> {
    /// Shorter rows say too little.
    const LEAST: u64 = 32;
    // Each sequence of a row is cut by itself.
    let per_row = spec.per_row() as u64;
    let length = 1 << (rows.longest() / per_row).checked_sub(1)?.checked_ilog2()?;
    if length < LEAST {
        return None;
    }
    *rows = rows.cut(length * per_row);
    spec.training.max_length = u32::try_from(length).ok();
    Some(format!("max_length {length}"))
}

struct Ladder<'a> {
    model: &'a Model,
    machine: Machine,
    spec: JobSpec,
    rows: Rows,
    total: u64,
    /// Field and words of each change so far.
    said: Vec<(&'static str, String)>,
    ways: Vec<Way>,
}

impl Ladder<'_> {
    /// Keeps a change that lowers the need by a hundredth at least; says whether it did.
    fn climbs(
        &mut self,
        param: &'static str,
        change: impl FnOnce(&mut JobSpec, &mut Rows) -> Option<String>,
    ) -> bool {
        let (mut spec, mut rows) = (self.spec.clone(), self.rows.clone());
        let Some(words) = change(&mut spec, &mut rows) else { return false };
        let total = estimate(self.model, &spec, &rows, self.machine).total();
        if total > self.total - self.total / 100 {
            return false;
        }
        (self.spec, self.rows, self.total) = (spec, rows, total);
        self.said.retain(|(said, _)| *said != param);
        self.said.push((param, words));
        let words: Vec<&str> = self.said.iter().map(|(_, words)| words.as_str()).collect();
        self.ways.push(Way { setting: words.join(", "), param: param.to_owned(), total });
        true
    }
}
