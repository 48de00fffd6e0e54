//! Switches of libtorch that tch does not bind, and its versions.

use crate::{Result, ffi};

/// Sets how many threads an operation may use. Call it on the thread that trains, before the first
/// tensor: the number is kept for each calling thread.
///
/// # Errors
/// When `threads` is not in 1 to 4096.
pub fn set_threads(threads: usize) -> Result<()> {
    ffi::set_threads(threads)
}

/// How many threads an operation may use on this thread.
///
/// # Errors
/// When libtorch cannot say.
pub fn threads() -> Result<usize> {
    Ok(usize::try_from(ffi::threads()?).unwrap_or(1))
}

/// Demands algorithms whose result is the same on each run; an operation that has none then fails
/// with its name. As `torch.use_deterministic_algorithms`, and cuDNN is held to it too.
///
/// On a GPU cuBLAS also needs `CUBLAS_WORKSPACE_CONFIG=:4096:8` in the environment that the
/// process was started with.
///
/// # Errors
/// When libtorch refuses.
pub fn set_deterministic(on: bool) -> Result<()> {
    ffi::set_deterministic(on)
}

/// Lets a GPU round the factors of fp32 products to 19 bits (tf32), in cuBLAS and cuDNN.
///
/// # Errors
/// When libtorch refuses.
pub fn set_tf32(on: bool) -> Result<()> {
    ffi::set_tf32(on)
}

/// Whether this processor has instructions for products of bf16, by what the kernel says of it.
#[must_use]
pub fn multiplies_bf16() -> bool {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = info.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
    flags.is_some_and(|line| {
        line.split_whitespace().any(|flag| matches!(flag, "avx512_bf16" | "amx_bf16" | "bf16"))
    })
}

/// Treats denormal numbers as 0 on this thread and those of its pool: they are slow on x86-64.
/// Returns whether the processor can. Call it after [`set_threads`].
///
/// # Errors
/// When libtorch refuses.
pub fn set_flush_denormals(on: bool) -> Result<bool> {
    ffi::set_flush_denormals(on)
}

/// The libtorch that this program was compiled against, and the one it runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions {
    /// From the headers, `major.minor.patch`.
    pub compiled: String,
    /// From the loaded library, the same or `unknown`.
    pub loaded: String,
}

impl Versions {
    /// One line for the user when the two differ: memory layouts then differ too.
    #[must_use]
    pub fn mismatch(&self) -> Option<String> {
        (self.compiled != self.loaded).then(|| {
            format!(
                "built for libtorch {} but running on libtorch {}: take the library in LD_LIBRARY_PATH \
                 away or build again against it",
                self.compiled, self.loaded
            )
        })
    }
}

/// Both versions of libtorch.
///
/// # Errors
/// When libtorch cannot say how it was built.
pub fn libtorch_version() -> Result<Versions> {
    Ok(Versions {
        compiled: ffi::header_version(),
        loaded: version_in(&ffi::show_config()?).unwrap_or_else(|| "unknown".into()),
    })
}

/// Finds `TORCH_VERSION=2.11.0,` among the build settings.
fn version_in(config: &str) -> Option<String> {
    let (_, rest) = config.split_once("TORCH_VERSION=")?;
    let end = rest.find([',', ' ', '\n']).unwrap_or(rest.len());
    // A suffix such as `+cu130` names the build, not the version.
    let version = rest[..end].split(['+', 'a']).next()?;
    Some(version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_among_the_settings() {
        let config = "PyTorch built with:\n - Build settings: A=1, TORCH_VERSION=2.11.0, USE=ON, \n";
        assert_eq!(version_in(config).as_deref(), Some("2.11.0"));
        assert_eq!(version_in("TORCH_VERSION=2.12.1+cu130").as_deref(), Some("2.12.1"));
        assert_eq!(version_in("nothing"), None);
    }

    #[test]
    fn a_program_runs_on_the_libtorch_it_was_built_for() {
        let versions = libtorch_version().unwrap();
        assert_eq!(versions.mismatch(), None, "{versions:?}");
        let other = Versions { loaded: "2.10.0".into(), ..versions };
        assert!(other.mismatch().unwrap().contains("2.10.0"));
    }

    #[test]
    fn a_number_of_threads_is_set_or_refused() {
        set_threads(2).unwrap();
        assert_eq!(threads().unwrap(), 2);
        set_threads(1).unwrap();
        assert_eq!(threads().unwrap(), 1);
        assert!(set_threads(0).is_err());
        assert_eq!(threads().unwrap(), 1);
    }

    #[test]
    fn denormals_are_flushed_on_request() {
        let tiny = || {
            let x = tch::Tensor::from_slice(&[1e-38f32]);
            f64::try_from(x * 1e-3).unwrap()
        };
        assert!(tiny() > 0.0);
        if set_flush_denormals(true).unwrap() {
            assert_eq!(tiny(), 0.0);
        }
        set_flush_denormals(false).unwrap();
        assert!(tiny() > 0.0);
    }
}
