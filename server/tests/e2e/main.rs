//! The programs themselves: server, private Postgres, agent and job as processes, killed and restarted.
//!
//! Needs `luthier-trainer` beside the server's program, and an installed Postgres.

#[path = "../api/decoder.rs"]
mod decoder;
mod faults;
mod running;
mod whole_way;
