//! Scripts that drive a server with a client library as its users do.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::process::Command;

/// The Python of an environment, or why the test does not run: in CI that is a failure.
pub fn python(test: &str, variable: &str) -> Option<PathBuf> {
    match std::env::var_os(variable) {
        Some(python) => Some(PathBuf::from(python)),
        None if std::env::var("CI").is_ok_and(|ci| ci == "true") => {
            panic!("{variable} is not set, and this is CI")
        }
        None => {
            println!("SKIPPED {test}: {variable} is not set");
            None
        }
    }
}

/// A script of `tests/clients` that is given the address of a server's API.
pub fn command(program: &Path, script: &str, base: &str) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let mut command = Command::new(program);
    command.arg(script).arg(base).stdin(Stdio::null()).kill_on_drop(true);
    // A proxy of the environment is not for this server.
    command.env("NO_PROXY", "*").env("no_proxy", "*");
    command
}

/// What it said is shown; its last word is `ok`.
pub fn ends_well(output: &Output) {
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.ends_with("ok\n"), "{said}\n{wrong}");
    print!("{said}");
}
