//! How far a job is: a bar on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};

use serde_json::Value;

/// Characters of the bar.
const WIDTH: usize = 30;

/// Shows a job's progress as it is asked for.
pub struct Bar {
    on_terminal: bool,
    last: String,
    tenth: Option<i64>,
}

impl Bar {
    /// Looks where the output goes.
    pub fn new() -> Self {
        Bar { on_terminal: std::io::stdout().is_terminal(), last: String::new(), tenth: None }
    }

    /// Shows the job as it is now.
    pub fn show(&mut self, job: &Value) {
        let (line, tenth) = describe(job);
        if self.on_terminal {
            if line != self.last {
                print!("\r\x1b[2K{line}");
                drop(std::io::stdout().flush());
            }
        } else if tenth != self.tenth || tenth.is_none() && line != self.last {
            println!("{line}");
        }
        self.last = line;
        self.tenth = tenth;
    }

    /// Leaves the last line standing.
    pub fn end(&self) {
        if self.on_terminal {
            println!();
        }
    }
}

/// The line, and how many tenths are done.
fn describe(job: &Value) -> (String, Option<i64>) {
    let state = job["phase"].as_str().or(job["status"].as_str()).unwrap_or_default();
    let progress = &job["progress"];
    let (Some(step), Some(total)) = (progress["step"].as_i64(), progress["total_steps"].as_i64()) else {
        return (state.to_owned(), None);
    };
    let share = step as f64 / total.max(1) as f64;
    let done = ((share * WIDTH as f64) as usize).min(WIDTH);
    let mut line = format!(
        "{}{} {:3.0} %  step {step}/{total}",
        "█".repeat(done),
        "░".repeat(WIDTH - done),
        share * 100.0
    );
    if let Some(loss) = progress["loss"].as_f64() {
        line.push_str(&format!("  loss {loss:.3}"));
    }
    if let Some(rate) = progress["samples_per_second"].as_f64() {
        line.push_str(&format!("  {rate:.0} rows/s"));
    }
    match progress["eta_seconds"].as_f64() {
        Some(left) if state == "training" && step < total => line.push_str(&format!("  {left:.0} s left")),
        _ => line.push_str(&format!("  {state}")),
    }
    (line, Some(step * 10 / total.max(1)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_is_described_by_its_step_or_its_state() {
        let (line, tenth) = describe(&json!({"status": "running", "phase": "training",
            "progress": {"step": 25, "total_steps": 100, "loss": 0.5, "eta_seconds": 30.2}}));
        assert!(line.contains("step 25/100  loss 0.500  30 s left"), "{line}");
        assert_eq!(tenth, Some(2));
        assert_eq!(
            describe(&json!({"status": "queued", "phase": null, "progress": {}})),
            ("queued".to_owned(), None)
        );
    }
}
