//! The CUDA part of libtorch, opened at run time.
//!
//! The program is linked against libtorch_cpu alone, so that it starts on a machine without CUDA's
//! libraries. libtorch_cuda registers its kernels when it is opened; that must come before the
//! first tensor, since libtorch looks for them once.

use std::env;
use std::path::{Path, PathBuf};

use tch::TchError;

use crate::{Result, ffi};

const LIBRARY: &str = "libtorch_cuda.so";

/// Opens `libtorch_cuda.so` for good; call it first thing in `main`, before any tensor.
///
/// It is looked for in `lib_dir`, in the folders of `LD_LIBRARY_PATH`, and beside the
/// libtorch_cpu that this process runs on. Returns false, which is no error, where the NVIDIA
/// driver (`libcuda.so.1`) cannot be loaded or the library lies in none of these.
///
/// # Errors
/// When there are a driver and the library but it cannot be opened: the message is the loader's and
/// names the library that is missing or does not fit.
pub fn open(lib_dir: Option<&Path>) -> Result<bool> {
    if !ffi::has_driver() {
        return Ok(false);
    }
    let Some(library) = find(lib_dir, LIBRARY) else {
        return Ok(false);
    };
    ffi::open_global(&library)
        .map(|()| true)
        .map_err(|e| TchError::Torch(format!("cannot open {}: {e}", library.display())))
}

/// Whether tensors can live on a GPU: after [`open`], and with a device that answers.
#[must_use]
pub fn available() -> bool {
    tch::Cuda::is_available()
}

/// The first folder's that has it, see [`open`].
pub(crate) fn find(lib_dir: Option<&Path>, library: &str) -> Option<PathBuf> {
    let path = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    lib_dir
        .map(Path::to_owned)
        .into_iter()
        .chain(env::split_paths(&path))
        .chain(ffi::cpu_library().and_then(|cpu| cpu.parent().map(Path::to_owned)))
        // An empty entry would mean the current folder, from which nothing is to be loaded.
        .filter(|dir| !dir.as_os_str().is_empty())
        .map(|dir| dir.join(library))
        .find(|library| library.is_file())
}

/// Compute capability of the first GPU, `(major, minor)`, by the driver; `None` without one.
#[must_use]
pub fn compute_capability() -> Option<(i32, i32)> {
    ffi::compute_capability()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_that_was_named_is_searched_first() {
        let dir = env::temp_dir().join(format!("native-cuda-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let library = dir.join(LIBRARY);
        std::fs::write(&library, "not a library").unwrap();
        assert_eq!(find(Some(&dir), LIBRARY), Some(library));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_loaders_words_name_a_library_that_is_none() {
        let dir = env::temp_dir().join(format!("native-bad-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let library = dir.join(LIBRARY);
        std::fs::write(&library, "not a library").unwrap();
        let error = ffi::open_global(&library).unwrap_err().to_string();
        assert!(error.contains(LIBRARY), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_library_in_use_can_be_found() {
        let cpu = ffi::cpu_library().unwrap();
        assert!(cpu.ends_with("libtorch_cpu.so"), "{}", cpu.display());
    }
}
