//! Why a job ended before its end: whose fault it is decides whether it is tried again.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::{Deserialize, Serialize};

/// The code of a failure for lack of memory.
pub const OUT_OF_MEMORY: &str = "out_of_memory";

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Data, checkpoint or settings: trying again would end the same way.
    User,
    /// Ours, or the machine's: trying again may help.
    Internal,
}

/// A failure with a message for the person who started the job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    /// Whose fault it is.
    pub fault: Fault,
    /// A stable name, in snake case.
    pub code: String,
    /// What is wrong, where, and what to do.
    pub message: String,
    /// The field of the specification that it belongs to.
    pub param: Option<String>,
}

impl Failure {
    /// The user's fault: final.
    pub fn user(code: &str, message: impl Into<String>) -> Self {
        Failure { fault: Fault::User, code: code.into(), message: message.into(), param: None }
    }

    /// Ours: the job may be tried again.
    pub fn internal(code: &str, message: impl Into<String>) -> Self {
        Failure { fault: Fault::Internal, code: code.into(), message: message.into(), param: None }
    }

    /// Names the field at fault.
    pub fn at(mut self, param: &str) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Does some work, whose errors and panics become failures with a message for people.
    pub fn contain<T>(work: impl FnOnce() -> anyhow::Result<T>) -> Result<T, Self> {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(done) => done.map_err(|error| Failure::of(&error)),
            Err(payload) => Err(Failure::of_panic(payload.as_ref())),
        }
    }

    /// The failure behind an error: the one that was raised, or an internal one with the whole chain as its message.
    pub fn of(error: &anyhow::Error) -> Self {
        if let Some(failure) = error.downcast_ref::<Failure>() {
            return failure.clone();
        }
        if let Some(problem) = error.downcast_ref::<formats::Problem>() {
            return problem.into();
        }
        if let Some(problems) = error.downcast_ref::<formats::Problems>() {
            return problems.into();
        }
        let text = format!("{error:#}");
        Failure::of_memory(&text).unwrap_or_else(|| Failure::internal("internal_error", text))
    }

    /// The failure that a panic's payload tells of.
    ///
    /// libtorch's errors arrive as panics of tch's plain operations; running out of memory is told from the rest.
    pub fn of_panic(payload: &(dyn std::any::Any + Send)) -> Self {
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("the reason is unknown");
        let short = first_lines(text);
        Failure::of_memory(text).unwrap_or_else(|| {
            Failure::internal("panic", format!("The training stopped on an error inside: {short}"))
        })
    }

    /// The failure that an allocator's words tell of, on a CPU or a GPU; `None` for other words.
    fn of_memory(text: &str) -> Option<Self> {
        const WORDS: [&str; 4] =
            ["out of memory", "can't allocate memory", "std::bad_alloc", "Cannot allocate memory"];
        if !WORDS.iter().any(|words| text.contains(words)) {
            return None;
        }
        let asked = text.split("you tried to allocate ").nth(1).and_then(|rest| rest.split(' ').next());
        let asked = asked.and_then(|bytes| bytes.parse::<f64>().ok());
        let asked =
            asked.map_or(String::new(), |bytes| format!(" when {:.0} MB more were asked for", bytes / 1e6));
        Some(Failure::user(OUT_OF_MEMORY, format!("Memory ran out{asked}.")).at("batch_size"))
    }
}

/// What a message says before the C++ stack that libtorch appends.
fn first_lines(text: &str) -> &str {
    text.split("\nException raised from").next().unwrap_or(text).trim()
}

impl From<&formats::Problem> for Failure {
    fn from(problem: &formats::Problem) -> Self {
        Failure::user(&code_of(problem.kind), problem.to_string())
    }
}

impl From<&formats::Problems> for Failure {
    fn from(problems: &formats::Problems) -> Self {
        let code = problems.listed.first().map_or("invalid_data".into(), |first| code_of(first.kind));
        Failure::user(&code, problems.to_string())
    }
}

/// The stable name that a kind of problem is serialized as.
fn code_of(kind: formats::ProblemKind) -> String {
    serde_json::to_value(kind).ok().and_then(|name| Some(name.as_str()?.to_string())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_out_of_memory_is_not_tried_again() {
        let failure =
            Failure::of_panic(&"DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes");
        assert_eq!((failure.fault, failure.code.as_str()), (Fault::User, "out_of_memory"));
    }

    #[test]
    fn an_allocator_is_heard_behind_an_error_as_well() {
        let error = anyhow::anyhow!("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9000000 bytes. Error code 12 (Cannot allocate memory)")
            .context("the backward pass");
        let failure = Failure::of(&error);
        assert_eq!((failure.fault, failure.code.as_str()), (Fault::User, "out_of_memory"));
        assert_eq!(failure.message, "Memory ran out when 9 MB more were asked for.");
    }

    #[test]
    fn the_stack_of_libtorch_is_not_shown() {
        let failure = Failure::of_panic(&"shape mismatch\nException raised from here\nframe #0".to_string());
        assert_eq!(failure.message, "The training stopped on an error inside: shape mismatch");
    }
}
