//! Everything SQL and every stored byte.

pub mod spec;
