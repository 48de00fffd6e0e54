//! The queue: who may do what to a job, and when.
//!
//! ```text
//!            enqueue            claim              finish
//!               └──► queued ───────────► running ─────────► succeeded
//!                    ▲ ▲  │ pause/cancel   │ │ └─ fail ───► failed     (user's fault, or the last attempt)
//!          resume ───┘ │  ▼                │ │
//!             paused ──┴─ paused ◄─ release┘ └─ release ──► cancelled
//!                      └───── fail / reap / reclaim / release: another attempt
//! ```
//!
//! A claim commits at once and leaves a lease: job, agent and attempt, with an end that the agent moves on by renewing.
//! Every write of an agent is fenced by these three; whoever comes late changes nothing and is told so. A running job
//! is never stopped from outside: pause and cancel leave a mark, which its agent or, if that is dead, the reaper obeys.
//!
//! A job that is larger than its agent's machine has further agents as members, see [`called`].

mod claim;
mod end;
pub(crate) mod enqueue;
mod gang;
mod missing;
mod order;
mod reap;
mod stats;

pub use claim::{Lease, Renewal, claim, renew};
pub use end::{Failure, Fault, Finished, Outcome, Released, ResultFile, fail, finish, release};
pub use enqueue::{Dedup, EnqueueError, Enqueued, NewJob, enqueue, enqueue_once};
pub use gang::{
    Absent, Joined, Member, Membership, PATIENCE, called, failures, leave, renew_member, set_rendezvous,
};
pub use missing::tell_missing;
pub use order::{OrderError, Refused, cancel, pause, resume, set_priority};
pub use reap::{reap, reclaim};
pub use stats::{Stats, position, stats};
