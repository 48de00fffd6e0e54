//! Compiles `cpp/` against the libtorch in `LIBTORCH` and tells test binaries where it lies at run time.

use std::{env, path::PathBuf};

const SOURCES: [&str; 23] = [
    "cpp/adafactor.cpp",
    "cpp/adam.cpp",
    "cpp/adam_8bit.cpp",
    "cpp/attention_ops.cpp",
    "cpp/c10d.cpp",
    "cpp/c10d_autograd.cpp",
    "cpp/cross_entropy.cpp",
    "cpp/dropout.cpp",
    "cpp/gated.cpp",
    "cpp/gradients.cpp",
    "cpp/linear.cpp",
    "cpp/lion.cpp",
    "cpp/low_rank.cpp",
    "cpp/maker.cpp",
    "cpp/muon.cpp",
    "cpp/nf4.cpp",
    "cpp/norm.cpp",
    "cpp/optim.cpp",
    "cpp/optim_common.cpp",
    "cpp/reducer.cpp",
    "cpp/rms_norm.cpp",
    "cpp/rotary.cpp",
    "cpp/runtime.cpp",
];

/// Sources whose inner loops are products of matrices: there a product and a sum are one instruction where the
/// processor has it. Results are the same on every processor that does.
const FUSED: [&str; 3] = ["cpp/attention.cpp", "cpp/decode_attention.cpp", "cpp/skinny.cpp"];

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

    build(&include).flag("-ffp-contract=fast").files(FUSED).compile("luthier_native_fused");
    let mut rest = build(&include);
    if let Some(gloo) = gloo() {
        rest.define("USE_C10D_GLOO", None).flag("-isystem").flag(gloo);
    }
    // A product and a sum fused on one processor and not on another would give other bits.
    rest.flag("-ffp-contract=off").files(SOURCES).compile("luthier_native");

    println!("cargo:rustc-link-search=native={}", libtorch.join("lib").display());
    for lib in ["torch_cpu", "c10", "gomp"] {
        println!("cargo:rustc-link-lib=dylib={lib}");
    }
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    println!("cargo:rustc-link-arg=-Wl,--enable-new-dtags");
}

fn build(include: &std::path::Path) -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .pic(true)
        .std("c++17")
        .include("cpp")
        // System headers, so that only our own code is held to -Wall.
        .flag("-isystem")
        .flag(include)
        .flag("-isystem")
        .flag(include.join("torch/csrc/api/include"))
        .define("USE_DISTRIBUTED", None)
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .flag("-O3")
        .flag("-fopenmp")
        // Lets the compiler vectorize sqrt; results are unchanged.
        .flag("-fno-math-errno")
        .warnings(true)
        .flag("-Wno-unknown-pragmas")
        // Vectors are passed by reference or inlined, so the convention for passing them is of no concern.
        .flag("-Wno-psabi");
    build
}

/// The folder that holds `gloo/`, in the one that `LUTHIER_GLOO` names. Without it there are no process groups.
fn gloo() -> Option<PathBuf> {
    println!("cargo:rerun-if-env-changed=LUTHIER_GLOO");
    let folder = env::var_os("LUTHIER_GLOO").map(PathBuf::from).filter(|folder| folder.exists());
    if let Some(folder) = &folder {
        println!("cargo:rerun-if-changed={}", folder.display());
    }
    let include =
        folder.map(|folder| folder.join("usr/include")).filter(|include| include.join("gloo").exists());
    if include.is_none() {
        println!(
            "cargo:warning=built without Gloo: training runs in one process (`make setup` fetches its headers)"
        );
    }
    include
}
