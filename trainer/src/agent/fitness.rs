//! What this machine can train on, found out in a child process: a libtorch that cannot be loaded must not end the
//! agent, which then says so in its row and takes no job.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde::Deserialize;

use super::process::clean_command;

/// Loading the CUDA libraries of a cold disk can take tens of seconds.
const MOST: Duration = Duration::from_secs(120);

/// What `luthier-trainer devices` prints.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Devices {
    /// `cpu`, or `cuda: ` and the GPU's name.
    pub(super) device: String,
    #[serde(default)]
    pub(super) threads: i32,
    #[serde(default)]
    cuda_devices: Option<i32>,
    #[serde(default = "yes")]
    fit: bool,
    #[serde(default)]
    reason: Option<String>,
}

impl Devices {
    /// CUDA devices that a job can use.
    pub(super) fn cuda_devices(&self) -> i32 {
        self.cuda_devices.unwrap_or_else(|| i32::from(self.device.starts_with("cuda")))
    }
}

fn yes() -> bool {
    true
}

/// Asks `program`; the error is one line that a person can act on.
pub(super) async fn devices(program: &Path) -> Result<Devices, String> {
    let child = clean_command(program)
        .arg("devices")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{} cannot be started: {error}", program.display()))?;
    match tokio::time::timeout(MOST, child.wait_with_output()).await {
        Err(_) => Err(format!("`devices` gave no answer within {} s", MOST.as_secs())),
        Ok(Err(error)) => Err(format!("`devices` gave no answer: {error}")),
        Ok(Ok(output)) => answer(&output),
    }
}

fn answer(output: &Output) -> Result<Devices, String> {
    let told = serde_json::from_slice::<Devices>(&output.stdout);
    match told {
        Ok(devices) if devices.fit && output.status.success() => Ok(devices),
        Ok(Devices { reason: Some(reason), .. }) => Err(one_line(&reason)),
        Ok(_) => Err(unexplained(output)),
        Err(error) if output.status.success() => {
            Err(format!("`devices` gave an answer that cannot be read: {error}"))
        }
        Err(_) => Err(unexplained(output)),
    }
}

fn unexplained(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    match errors.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => one_line(line),
        None => format!("`devices` ended with {} and no word", output.status),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn output(code: i32, stdout: &str, stderr: &str) -> Output {
        Output { status: ExitStatus::from_raw(code << 8), stdout: stdout.into(), stderr: stderr.into() }
    }

    #[test]
    fn a_fit_machine_tells_its_device() {
        let told = answer(&output(
            0,
            r#"{"device":"cpu","threads":2,"libtorch":"2.11.0","fit":true,"reason":null}"#,
            "",
        ));
        let told = told.unwrap();
        assert_eq!((told.device.as_str(), told.threads), ("cpu", 2));
    }

    #[test]
    fn a_missing_library_gives_the_loaders_line() {
        let line = "luthier-trainer: error while loading shared libraries: libtorch_cpu.so: cannot open shared object file";
        assert_eq!(answer(&output(127, "", &format!("{line}\n"))).unwrap_err(), line);
    }

    #[test]
    fn a_wrong_version_gives_the_reason_that_was_printed() {
        let told = answer(&output(
            1,
            r#"{"device":"cpu","threads":2,"fit":false,"reason":"libtorch 2.9.0 found,\n2.11.0 wanted"}"#,
            "",
        ));
        assert_eq!(told.unwrap_err(), "libtorch 2.9.0 found, 2.11.0 wanted");
    }

    #[test]
    fn silence_is_given_a_reason_too() {
        assert!(answer(&output(3, "", "")).unwrap_err().contains("exit status: 3"));
        assert!(answer(&output(0, "cpu", "")).unwrap_err().contains("cannot be read"));
    }
}
