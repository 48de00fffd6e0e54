//! Tells the trainer's binaries where libtorch lies at run time: `../lib` beside their own folder.
//! `LD_LIBRARY_PATH` still wins, because this is a RUNPATH.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    println!("cargo:rustc-link-arg=-Wl,--enable-new-dtags");
}
