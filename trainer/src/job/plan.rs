//! What a job will need, noted before it trains, so that whoever finds it out of memory can say how much and what fits.

use std::path::Path;

use anyhow::Result;
use formats::checkpoint::Config;
use serde::{Deserialize, Serialize};
use store::estimate::{self, Estimate, Machine, Model, Rows, Way};
use store::spec::{JobSpec, Precision};

use super::checkpoint::write_synced;
use crate::data::Data;
use crate::failure::{Failure, OUT_OF_MEMORY};
use crate::memory;

const FILE: &str = "plan.json";

/// What helps where nothing was counted.
pub const WITHOUT_A_PLAN: &str = "Take gradient_checkpointing, a smaller batch_size with more gradient_accumulation_steps, or a smaller max_length.";

/// The estimate of a job, and its settings that the estimate goes by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What it will need.
    pub estimate: Estimate,
    /// Settings that need less.
    pub ways: Vec<Way>,
    /// Memory that there is for it, in bytes, where that is known.
    pub available: Option<u64>,
    /// Rows that a step takes at once.
    pub batch_size: u32,
    /// Tokens that a row has at most.
    pub max_length: u64,
}

impl Plan {
    /// Plans a job in this process.
    ///
    /// # Errors
    /// When sizes are missing in `config.json`.
    pub fn new(
        spec: &JobSpec,
        config: &serde_json::Value,
        labels: usize,
        rows: &Rows,
        auto: Precision,
    ) -> Result<Self> {
        let model = Model::of_task(spec.task, &Config::deserialize(config)?, labels as u64)?;
        let machine = Machine { auto };
        Ok(Plan {
            estimate: estimate::estimate(&model, spec, rows, machine),
            ways: estimate::ways(&model, spec, rows, machine),
            available: memory::within_reach(),
            batch_size: spec.training.batch_size,
            max_length: rows.longest(),
        })
    }

    /// The part of it on a machine that has so many of the job's processes.
    #[must_use]
    pub fn of_machine(mut self, processes: usize) -> Self {
        let all = self.estimate.processes.max(1);
        self.estimate.processes = processes as u64;
        for way in &mut self.ways {
            way.total = way.total / all * self.estimate.processes;
        }
        self
    }

    /// Notes it beside the job's result.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, out: &Path) -> Result<()> {
        write_synced(&out.join(FILE), &serde_json::to_vec_pretty(self)?)
    }

    /// What was noted, if anything was.
    pub fn read(out: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(out.join(FILE)).ok()?).ok()
    }

    /// Whether more is needed than there is.
    pub fn exceeds(&self) -> bool {
        self.available.is_some_and(|available| self.estimate.total() > available)
    }

    /// How much is needed and what would fit: "This job needs about 5.2 GB …".
    pub fn words(&self) -> String {
        let estimate = &self.estimate;
        let processes = if estimate.processes > 1 {
            format!(" in {} processes", estimate.processes)
        } else {
            String::new()
        };
        let there_is = self
            .available
            .map_or(String::new(), |available| format!(", and there is {}", gigabytes(available)));
        format!(
            "This job needs about {}{processes} at batch_size {} and rows of up to {} tokens{there_is}. {}",
            gigabytes(estimate.total()),
            self.batch_size,
            self.max_length,
            self.advice()
        )
    }

    /// The field to change first.
    pub fn param(&self) -> &str {
        self.way().map_or("batch_size", |way| &way.param)
    }

    fn way(&self) -> Option<&Way> {
        match self.available {
            Some(available) if self.exceeds() => estimate::fitting(&self.ways, available),
            // The estimate fell short, or the machine was shared: any way is better than none.
            _ => self.ways.first(),
        }
    }

    fn advice(&self) -> String {
        match (self.way(), self.ways.last()) {
            (Some(way), _) => format!("With {} it needs about {}.", way.setting, gigabytes(way.total)),
            (None, Some(least)) => format!(
                "Even with {} it needs about {}: take a smaller model or a machine with more memory.",
                least.setting,
                gigabytes(least.total)
            ),
            (None, None) => "Take a smaller model or a machine with more memory.".to_owned(),
        }
    }
}

/// Adds to a failure for lack of memory how much was needed and what would fit, where that was noted.
pub fn explained(failure: Failure, out: &Path) -> Failure {
    if failure.code != OUT_OF_MEMORY {
        return failure;
    }
    match Plan::read(out) {
        Some(plan) => {
            let message = format!("{} {}", failure.message, plan.words());
            Failure { message, param: Some(plan.param().to_owned()), ..failure }
        }
        None => Failure { message: format!("{} {WITHOUT_A_PLAN}", failure.message), ..failure },
    }
}

/// The training rows of a job, all of them.
pub fn rows_of(dir: &Path, spec: &JobSpec, data: &Data, max_length: usize) -> Rows {
    let files = [Some(&spec.data.train), spec.data.validation.as_ref(), spec.data.test.as_ref()];
    let size = |name: &String| std::fs::metadata(dir.join("data").join(name)).map_or(0, |file| file.len());
    let bytes = files.into_iter().flatten().map(size).sum();
    let lengths = (0..data.train.len()).map(|row| data.train.tokens_of(row) as u64);
    Rows::new(data.train.len() as u64, bytes, lengths, (data.train.per_row * max_length) as u64)
}

fn gigabytes(bytes: u64) -> String {
    match bytes {
        ..1_000_000_000 => format!("{} MB", bytes.div_ceil(1_000_000)),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(available: u64) -> Plan {
        let way =
            |setting: &str, param: &str, total| Way { setting: setting.into(), param: param.into(), total };
        Plan {
            estimate: Estimate { peak: 5_200_000_000, processes: 1, ..Estimate::default() },
            ways: vec![
                way("gradient_checkpointing true", "gradient_checkpointing", 3_100_000_000),
                way("gradient_checkpointing true, max_length 64", "max_length", 900_000_000),
            ],
            available: Some(available),
            batch_size: 64,
            max_length: 512,
        }
    }

    #[test]
    fn the_first_setting_that_fits_is_named_with_its_need() {
        assert_eq!(
            plan(4_000_000_000).words(),
            "This job needs about 5.2 GB at batch_size 64 and rows of up to 512 tokens, and there is 4.0 GB. With \
             gradient_checkpointing true it needs about 3.1 GB."
        );
        assert_eq!(plan(1_000_000_000).param(), "max_length");
        assert!(!plan(6_000_000_000).exceeds());
    }

    #[test]
    fn where_nothing_fits_it_says_so() {
        let words = plan(500_000_000).words();
        assert!(
            words.ends_with("it needs about 900 MB: take a smaller model or a machine with more memory."),
            "{words}"
        );
    }
}
