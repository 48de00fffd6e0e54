//! Rebuilds when a migration changes, since they are compiled in.

fn main() {
    println!("cargo::rerun-if-changed=../migrations");
}
