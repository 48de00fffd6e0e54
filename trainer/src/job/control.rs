//! How a running job is told to stop: lines on stdin from the agent, or a signal.

use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::Result;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What was asked of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Write a checkpoint and end; the job goes on later.
    Pause,
    /// End without a checkpoint.
    Cancel,
}

impl Asked {
    /// A number that grows with how much it asks.
    pub fn code(asked: Option<Asked>) -> i64 {
        asked.map_or(0, |asked| if asked == Asked::Pause { 1 } else { 2 })
    }

    /// What a number of [`Asked::code`] means.
    pub fn of_code(code: i64) -> Option<Asked> {
        match code {
            0 => None,
            1 => Some(Asked::Pause),
            _ => Some(Asked::Cancel),
        }
    }
}

const NOTHING: u8 = 0;
const PAUSE: u8 = 1;
const CANCEL: u8 = 2;

/// A flag that the training loop reads once a step.
#[derive(Clone, Default)]
pub struct Control(Arc<AtomicU8>);

impl Control {
    /// Listens to SIGTERM and SIGINT (pause; a second one ends at once) and, when `attached`, to stdin.
    pub fn listen(attached: bool) -> Result<Self> {
        let control = Control::default();
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let flag = control.clone();
        std::thread::spawn(move || {
            for signal in signals.forever() {
                if flag.0.fetch_max(PAUSE, Ordering::Relaxed) != NOTHING && signal == SIGINT {
                    end_now();
                }
            }
        });
        if attached {
            let flag = control.clone();
            std::thread::spawn(move || flag.follow(std::io::stdin().lock()));
        }
        Ok(control)
    }

    /// What was asked, if anything.
    pub fn asked(&self) -> Option<Asked> {
        match self.0.load(Ordering::Relaxed) {
            PAUSE => Some(Asked::Pause),
            CANCEL => Some(Asked::Cancel),
            _ => None,
        }
    }

    /// Asks as the agent would.
    pub fn ask(&self, asked: Asked) {
        let value = if asked == Asked::Cancel { CANCEL } else { PAUSE };
        self.0.fetch_max(value, Ordering::Relaxed);
    }

    fn follow(&self, lines: impl BufRead) {
        for line in lines.lines().map_while(Result::ok) {
            match line.trim() {
                "pause" => self.ask(Asked::Pause),
                "cancel" => self.ask(Asked::Cancel),
                other => tracing::warn!("not understood on stdin: {other:?}"),
            }
        }
        // The agent is gone, and with it the right to this job: another may be starting it already.
        end_now();
    }
}

/// Ends the process without waiting for the training thread, which may be deep in a computation.
fn end_now() {
    use rustix::process::{Signal, getpid, kill_process};
    let _ = kill_process(getpid(), Signal::KILL);
}
