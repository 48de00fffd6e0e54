//! Compiles `cpp/` against the libtorch in `LIBTORCH` and tells test binaries where it lies at run time.

use std::{env, path::PathBuf};

const SOURCES: [&str; 10] = [
    "cpp/adafactor.cpp",
    "cpp/adam.cpp",
    "cpp/adam_8bit.cpp",
    "cpp/dropout.cpp",
    "cpp/gradients.cpp",
    "cpp/lion.cpp",
    "cpp/muon.cpp",
    "cpp/optim.cpp",
    "cpp/optim_common.cpp",
    "cpp/runtime.cpp",
];

fn main() {
    println!("cargo:rerun-if-changed=cpp");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Some(libtorch) = env::var_os("LIBTORCH").map(PathBuf::from) else {
        panic!("LIBTORCH is not set: it names the folder with libtorch's include/ and lib/");
    };
    let include = libtorch.join("include");
    assert!(
        include.join("torch/csrc/api/include/torch/torch.h").exists(),
        "no libtorch headers under {}: run `make setup` first",
        include.display()
    );

    cc::Build::new()
        .cpp(true)
        .pic(true)
        .std("c++17")
        .include("cpp")
        // System headers, so that only our own code is held to -Wall.
        .flag("-isystem")
        .flag(&include)
        .flag("-isystem")
        .flag(include.join("torch/csrc/api/include"))
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .flag("-O3")
        .flag("-fopenmp")
        // A product and a sum fused on one processor and not on another would give other bits.
        .flag("-ffp-contract=off")
        // Lets the compiler vectorize sqrt; results are unchanged.
        .flag("-fno-math-errno")
        .warnings(true)
        .flag("-Wno-unknown-pragmas")
        .files(SOURCES)
        .compile("luthier_native");

    println!("cargo:rustc-link-search=native={}", libtorch.join("lib").display());
    for lib in ["torch_cpu", "c10", "gomp"] {
        println!("cargo:rustc-link-lib=dylib={lib}");
    }
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    println!("cargo:rustc-link-arg=-Wl,--enable-new-dtags");
}
