//! Tests of the metrics, all in one program.

mod cases;
mod common;
mod misuse;
mod rouge;
mod sacrebleu;
mod significance;
