//! Luthier.
fn main() {}
