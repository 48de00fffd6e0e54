//! The programs themselves: server, private Postgres, agent and job as processes, killed and restarted.
//!
//! Needs `luthier-trainer` beside the server's program, and an installed Postgres.

mod clients;
#[path = "../api/decoder.rs"]
mod decoder;
mod faults;
mod running;
#[path = "../api/script.rs"]
mod script;
mod whole_way;
