//! What a template may still write.
//!
//! Fuel bounds how many steps a template takes, not how much a step makes. This counts bytes: what passes through operators that
//! join texts, what filters write, and what goes out.

use std::cell::Cell;

use minijinja::{Error, ErrorKind};

thread_local! {
    // Filters are shared by all renderings of a template, and a rendering stays on its thread.
    static LEFT: Cell<usize> = const { Cell::new(0) };
}

/// Bytes for any conversation, and for each byte of it.
const BASE: usize = 16 << 20;
const PER_BYTE: usize = 64;

pub(super) fn begin(input: usize) {
    LEFT.set(BASE.saturating_add(input.saturating_mul(PER_BYTE)));
}

pub(super) fn charge(bytes: usize) -> Result<(), Error> {
    match LEFT.get().checked_sub(bytes) {
        Some(left) => {
            LEFT.set(left);
            Ok(())
        }
        None => Err(Error::new(ErrorKind::OutOfFuel, "the template writes far more than it was given")),
    }
}
