//! How a job's process ended: its exit code and `result.json` must agree, otherwise the work is tried again.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::failure::OUT_OF_MEMORY;
use crate::job::plan::{Plan, WITHOUT_A_PLAN};

/// Exit codes of `luthier-trainer job`.
pub(super) mod code {
    pub(in crate::agent) const SUCCEEDED: i32 = 0;
    pub(in crate::agent) const FAILED_USER: i32 = 10;
    pub(in crate::agent) const FAILED_INTERNAL: i32 = 11;
    pub(in crate::agent) const PAUSED: i32 = 12;
    pub(in crate::agent) const CANCELLED: i32 = 13;
    pub(in crate::agent) const AGENT_LOST: i32 = 75;
}

/// `out/result.json`, the last thing that a job writes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub(super) enum JobResult {
    Succeeded(Box<Success>),
    Failed {
        fault: ResultFault,
        code: String,
        message: String,
        #[serde(default)]
        param: Option<String>,
        #[serde(default)]
        step: Option<i64>,
    },
    Paused {
        #[serde(default)]
        step: Option<i64>,
    },
    Cancelled {
        #[serde(default)]
        step: Option<i64>,
    },
}

/// What a finished job says about itself.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Success {
    pub(super) metrics: Map<String, Value>,
    pub(super) best_step: Option<i64>,
    pub(super) steps: Option<i64>,
    pub(super) trained_tokens: Option<i64>,
    /// Folder of the finished model, relative to `out/`.
    pub(super) model: Option<String>,
    /// From what the job can be run again.
    pub(super) manifest: Option<Value>,
    /// Folder of an export's artefact, relative to `out/`.
    pub(super) artifact: Option<String>,
    /// What came of comparing it with the model.
    pub(super) certificate: Option<Value>,
    /// Whether all bounds are kept.
    pub(super) ready: Option<bool>,
}

/// Whose fault a failure is, as the job says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ResultFault {
    User,
    Internal,
}

/// Why a job failed, ready for its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    /// True where trying again cannot help.
    pub(super) last: bool,
    pub(super) code: String,
    pub(super) message: String,
    pub(super) param: Option<String>,
    pub(super) step: Option<i64>,
}

/// The end of one attempt.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    Succeeded(Box<Success>),
    Failed(Reason),
    Paused,
    Cancelled,
}

/// What is known about an ended process beside its result.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) exit: ExitStatus,
    /// The kernel's count of kills for lack of memory was raised while the job ran.
    pub(super) out_of_memory: bool,
    /// The last step that an event told of.
    pub(super) step: Option<i64>,
    /// Whether its last words were those of Rust's allocator, which ends a process by signal 6.
    pub(super) allocation_failed: bool,
    /// What it had planned to need.
    pub(super) plan: Option<Plan>,
}

/// Reads `result.json`: `None` when there is none, the reason when it cannot be understood.
pub(super) fn read_result(path: &Path) -> Option<Result<JobResult, String>> {
    match std::fs::read(path) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).map_err(|error| error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(error.to_string())),
    }
}

/// Decides by exit code and result together.
pub(super) fn decide(seen: Seen, result: Option<Result<JobResult, String>>) -> End {
    let Some(exit) = seen.exit.code() else {
        return End::Failed(killed(&seen));
    };
    match (exit, result) {
        (code::SUCCEEDED, Some(Ok(JobResult::Succeeded(success)))) => End::Succeeded(success),
        (code::PAUSED, Some(Ok(JobResult::Paused { .. }))) => End::Paused,
        (code::CANCELLED, Some(Ok(JobResult::Cancelled { .. }))) => End::Cancelled,
        (code::FAILED_USER | code::FAILED_INTERNAL, Some(Ok(failed @ JobResult::Failed { .. })))
            if agrees(exit, &failed) =>
        {
            End::Failed(told(failed, seen.step))
        }
        (code::AGENT_LOST, _) => End::Failed(internal(
            "agent_lost",
            format!("The trainer ended{} because its connection to the agent was closed.", at(seen.step)),
            seen.step,
        )),
        (exit, result) => End::Failed(disagreeing(exit, result, seen.step)),
    }
}

fn agrees(exit: i32, result: &JobResult) -> bool {
    let JobResult::Failed { fault, .. } = result else {
        return false;
    };
    exit == match fault {
        ResultFault::User => code::FAILED_USER,
        ResultFault::Internal => code::FAILED_INTERNAL,
    }
}

fn told(result: JobResult, seen_step: Option<i64>) -> Reason {
    let JobResult::Failed { fault, code, message, param, step } = result else {
        unreachable!("only a failure is told")
    };
    Reason { last: fault == ResultFault::User, code, message, param, step: step.or(seen_step) }
}

fn killed(seen: &Seen) -> Reason {
    let signal = seen.exit.signal().unwrap_or(0);
    let ended = format!("The trainer was ended by signal {signal}{}{}", name(signal), at(seen.step));
    let by_kernel = seen.out_of_memory && signal == libc::SIGKILL;
    let by_itself = seen.allocation_failed && signal == libc::SIGABRT;
    if by_kernel || by_itself {
        let plan = seen.plan.as_ref();
        let words = plan.map_or_else(|| WITHOUT_A_PLAN.to_owned(), Plan::words);
        return Reason {
            last: true,
            param: Some(plan.map_or("batch_size", Plan::param).to_owned()),
            ..internal(OUT_OF_MEMORY, format!("{ended}: memory ran out. {words}"), seen.step)
        };
    }
    let core = if seen.exit.core_dumped() { " (core dumped)" } else { "" };
    internal("killed_by_signal", format!("{ended}{core}."), seen.step)
}

fn disagreeing(exit: i32, result: Option<Result<JobResult, String>>, step: Option<i64>) -> Reason {
    let said = match result {
        None => "without a result".to_owned(),
        Some(Err(error)) => format!("with a result that cannot be read ({error})"),
        Some(Ok(result)) => format!("although its result says {}", status(&result)),
    };
    internal("trainer_exit", format!("The trainer ended with exit code {exit}{}, {said}.", at(step)), step)
}

fn status(result: &JobResult) -> &'static str {
    match result {
        JobResult::Succeeded(_) => "succeeded",
        JobResult::Failed { .. } => "failed",
        JobResult::Paused { .. } => "paused",
        JobResult::Cancelled { .. } => "cancelled",
    }
}

/// A failure that is not the person's fault, to be tried again.
pub(super) fn internal(code: &str, message: String, step: Option<i64>) -> Reason {
    Reason { last: false, code: code.to_owned(), message, param: None, step }
}

fn at(step: Option<i64>) -> String {
    step.map_or_else(|| " before its first step".to_owned(), |step| format!(" at step {step}"))
}

fn name(signal: i32) -> String {
    let name = match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGSYS => "SIGSYS",
        _ => return String::new(),
    };
    format!(" ({name})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: i32) -> Seen {
        Seen {
            exit: ExitStatus::from_raw(code << 8),
            out_of_memory: false,
            step: Some(7),
            allocation_failed: false,
            plan: None,
        }
    }

    fn signalled(signal: i32) -> Seen {
        Seen { exit: ExitStatus::from_raw(signal), ..exited(0) }
    }

    fn parsed(text: &str) -> Option<Result<JobResult, String>> {
        Some(serde_json::from_str(text).map_err(|error| error.to_string()))
    }

    fn reason(end: End) -> Reason {
        match end {
            End::Failed(reason) => reason,
            other => panic!("expected a failure, got {other:?}"),
        }
    }

    const SUCCESS: &str = r#"{"status":"succeeded","metrics":{"f1":0.5},"steps":9,"model":"model"}"#;
    const USER: &str = r#"{"status":"failed","fault":"user","code":"bad_row","message":"Row 3.","param":"columns","step":2}"#;

    #[test]
    fn success_needs_both_the_exit_code_and_the_result() {
        assert!(matches!(decide(exited(0), parsed(SUCCESS)), End::Succeeded(s) if s.steps == Some(9)));
        let lost = reason(decide(exited(0), None));
        assert_eq!(lost.message, "The trainer ended with exit code 0 at step 7, without a result.");
        assert!(!lost.last);
        let late = reason(decide(signalled(libc::SIGABRT), parsed(SUCCESS)));
        assert_eq!(late.message, "The trainer was ended by signal 6 (SIGABRT) at step 7.");
        assert!(!late.last);
        let other = reason(decide(exited(101), parsed(SUCCESS)));
        assert_eq!(
            other.message,
            "The trainer ended with exit code 101 at step 7, although its result says succeeded."
        );
    }

    #[test]
    fn a_failure_by_the_user_is_final_and_keeps_its_words() {
        let failed = reason(decide(exited(10), parsed(USER)));
        assert!(failed.last);
        assert_eq!((failed.code.as_str(), failed.message.as_str()), ("bad_row", "Row 3."));
        assert_eq!((failed.param.as_deref(), failed.step), (Some("columns"), Some(2)));
    }

    #[test]
    fn a_result_that_contradicts_the_exit_code_is_tried_again() {
        assert!(!reason(decide(exited(11), parsed(USER))).last);
        assert!(!reason(decide(exited(12), parsed(USER))).last);
        assert!(!reason(decide(exited(10), parsed("{\"status\":"))).last);
    }

    #[test]
    fn a_kill_for_lack_of_memory_is_told_from_a_kill_by_hand_and_is_final() {
        let by_hand = reason(decide(signalled(libc::SIGKILL), None));
        assert_eq!(by_hand.message, "The trainer was ended by signal 9 (SIGKILL) at step 7.");
        assert!(!by_hand.last);
        let by_kernel = reason(decide(Seen { out_of_memory: true, ..signalled(libc::SIGKILL) }, None));
        assert!(by_kernel.last);
        assert_eq!(by_kernel.code, "out_of_memory");
        let plan = Plan {
            estimate: store::estimate::Estimate { peak: 3 << 30, processes: 1, ..Default::default() },
            ways: Vec::new(),
            available: Some(1 << 30),
            batch_size: 64,
            max_length: 512,
        };
        let seen = Seen { out_of_memory: true, plan: Some(plan), ..signalled(libc::SIGKILL) };
        let message = reason(decide(seen, None)).message;
        assert!(
            message.contains("needs about 3.2 GB at batch_size 64 and rows of up to 512 tokens"),
            "{message}"
        );
        let aborted = Seen { allocation_failed: true, ..signalled(libc::SIGABRT) };
        assert_eq!(reason(decide(aborted, None)).code, "out_of_memory");
        let fault = Seen { out_of_memory: true, ..signalled(libc::SIGSEGV) };
        assert!(!reason(decide(fault, None)).last);
    }

    #[test]
    fn pause_and_cancel_are_no_failures() {
        assert_eq!(decide(exited(12), parsed(r#"{"status":"paused","step":4}"#)), End::Paused);
        assert_eq!(decide(exited(13), parsed(r#"{"status":"cancelled","step":4}"#)), End::Cancelled);
    }
}
