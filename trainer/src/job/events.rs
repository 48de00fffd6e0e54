//! The events of a job: one JSON object a line, appended to `out/events.jsonl`.
//!
//! The file is the truth; a line on stdout only wakes whoever waits for it. `values` holds what a repeat of the same
//! step must give again, bit for bit; times, rates and memory go into `data`.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use anyhow::{Context, Result};
use chrono::{SecondsFormat, Utc};
use serde_json::{Map, Value, json};

/// Appends events.
pub struct Events {
    file: File,
    attempt: u32,
    line: u64,
    wake: bool,
    /// Steps whose checkpoint was already told of in this file.
    told: Vec<u64>,
}

/// What an event says.
#[derive(Default)]
pub struct Event<'a> {
    /// Sort of event: `phase`, `log`, `train`, `eval`, `test`, `examples`, `checkpoint`, `resume`, `result`.
    pub kind: &'a str,
    /// Optimizer steps made so far.
    pub step: u64,
    /// For people.
    pub message: String,
    /// What a repeat gives again.
    pub values: Value,
    /// Everything else.
    pub data: Value,
}

impl Events {
    /// Opens the file, cutting off a last line that was not written to its end.
    pub fn open(path: &Path, attempt: u32, wake: bool) -> Result<Self> {
        let (mut line, mut told, mut whole) = (0, Vec::new(), 0);
        if path.exists() {
            let mut reader = BufReader::new(File::open(path)?);
            let mut text = Vec::new();
            while reader.read_until(b'\n', &mut text)? > 0 && text.ends_with(b"\n") {
                whole += text.len() as u64;
                let event: Value = serde_json::from_slice(&text).unwrap_or_default();
                if event["attempt"] == json!(attempt) {
                    line = event["line"].as_u64().map_or(line, |last| last + 1);
                }
                if event["kind"] == "checkpoint" {
                    told.extend(event["step"].as_u64());
                }
                text.clear();
            }
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("opening {}", path.display()))?;
        if file.metadata()?.len() > whole {
            file.set_len(whole)?;
        }
        Ok(Events { file, attempt, line, wake, told })
    }

    /// Of a process that is not its job's first: what it would tell, the first one tells.
    pub fn silent() -> Result<Self> {
        let file = OpenOptions::new().write(true).open("/dev/null")?;
        Ok(Events { file, attempt: 0, line: 0, wake: false, told: Vec::new() })
    }

    /// Appends an event of level info.
    pub fn emit(&mut self, event: Event) -> Result<()> {
        self.write("info", event)
    }

    /// Appends a line for the log.
    pub fn log(&mut self, step: u64, message: impl Into<String>) -> Result<()> {
        let message = message.into();
        tracing::info!(step, "{message}");
        self.write("info", Event { kind: "log", step, message, ..Event::default() })
    }

    /// Appends a warning for the log.
    pub fn warn(&mut self, step: u64, message: impl Into<String>) -> Result<()> {
        let message = message.into();
        tracing::warn!(step, "{message}");
        self.write("warn", Event { kind: "log", step, message, ..Event::default() })
    }

    /// Tells in which part of its work the job is.
    pub fn phase(&mut self, step: u64, phase: &str, mut data: Map<String, Value>) -> Result<()> {
        data.insert("phase".into(), phase.into());
        let event =
            Event { kind: "phase", step, message: phase.into(), data: data.into(), ..Event::default() };
        self.emit(event)
    }

    /// Whether the checkpoint of this step was told of, by this attempt or an earlier one in the same folder.
    pub fn has_told(&self, step: u64) -> bool {
        self.told.contains(&step)
    }

    /// Forces everything to the disk.
    pub fn sync(&self) -> Result<()> {
        // A silent one has nothing to force.
        if !self.file.metadata()?.is_file() {
            return Ok(());
        }
        Ok(self.file.sync_data()?)
    }

    fn write(&mut self, level: &str, event: Event) -> Result<()> {
        let object = |value: Value| if value.is_null() { json!({}) } else { value };
        let line = json!({
            "line": self.line,
            "attempt": self.attempt,
            "kind": event.kind,
            "step": event.step,
            "at": Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
            "level": level,
            "message": event.message,
            "values": object(event.values),
            "data": object(event.data),
        });
        // One write a line: a reader never sees half of one unless the process is killed within it.
        self.file.write_all(format!("{line}\n").as_bytes()).context("writing events.jsonl")?;
        self.line += 1;
        if self.wake {
            // Nobody may be listening any more; the file is what counts.
            let _ = writeln!(std::io::stdout(), "event").and_then(|()| std::io::stdout().flush());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_torn_last_line_is_cut_off_and_numbering_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        Events::open(&path, 1, false).unwrap().log(0, "first").unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"line\":1,\"att").unwrap();
        Events::open(&path, 1, false).unwrap().log(0, "second").unwrap();
        Events::open(&path, 2, false).unwrap().log(0, "third").unwrap();
        let numbers: Vec<_> =
            lines(&path).iter().map(|e| (e["attempt"].clone(), e["line"].clone())).collect();
        assert_eq!(numbers, [(json!(1), json!(0)), (json!(1), json!(1)), (json!(2), json!(0))]);
    }
}
