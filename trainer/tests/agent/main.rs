//! The agent against a real database: with a stand-in for the job program where the agent is what matters, and with
//! the real one on a tiny checkpoint where bits are.

mod faults;
mod kills;
mod machines;
mod memory;
mod postgres;
mod runs;
mod support;
