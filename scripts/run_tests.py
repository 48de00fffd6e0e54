"""Runs every test (`make test`): Rust, database, scripts, browser, checkpoints against the peer's values.

usage: run_tests.py [--soak] [FILTER]
       FILTER: only the Rust tests whose names contain it; --soak: the long ones alone, which are marked `#[ignore]`

Logs lie in `target/test-logs`. With CI=true whatever cannot run is a failure instead of a skip.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import cache
import private_postgres
import private_s3
import results
import samples
import setup
import venv

TREE = setup.TREE
LOGS = setup.target() / "test-logs"
CI = os.environ.get("CI") == "true"


class Run:
    """The stages of one run, their environment and what came of them."""

    def __init__(self, url: str, soak: bool):
        self.soak = soak
        self.results = results.Results()
        self.environment = {**os.environ, "DATABASE_URL": url, "SQLX_OFFLINE": "true", "RUST_BACKTRACE": "1"}
        LOGS.mkdir(parents=True, exist_ok=True)

    def lacks(self, name: str, why: str) -> None:
        """Something that cannot run here."""
        print(f"{name}: {why}", flush=True)
        if CI:
            self.results.failed += 1
            self.results.failures.append(f"{name}: {why}")

    def command(self, stage: str, command: list, **environment) -> tuple:
        """Runs one stage, on the screen and into its log; its exit code and what it printed."""
        print(f"\n== {stage}", flush=True)
        started, log = time.monotonic(), LOGS / f"{stage}.log"
        with open(log, "w", encoding="utf-8") as file:
            process = subprocess.Popen([str(word) for word in command], cwd=TREE, env={**self.environment, **environment},
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                       text=True, errors="replace")
            for line in process.stdout:
                file.write(line)
                sys.stdout.write(line)
                sys.stdout.flush()
        code = process.wait()
        print(f"== {stage}: {'ok' if code == 0 else f'exit code {code}'}, {time.monotonic() - started:.0f} s", flush=True)
        return code, log.read_text(encoding="utf-8")

    def settle(self, stage: str, code: int, failed_before: int) -> None:
        """A stage that failed without a failed test (it did not build, it crashed) fails by its own name."""
        if code and self.results.failed == failed_before:
            self.results.failed += 1
            self.results.failures.append(f"{stage}: exit code {code}, see {LOGS / (stage + '.log')}")

    def environments(self) -> None:
        """The Python environments that tests compare with."""
        for name, variable in venv.VARIABLES.items():
            try:
                self.environment[variable] = str(venv.install(name))
            except venv.Unavailable as error:
                self.environment.pop(variable, None)
                self.lacks(f"{name} venv", f"not installed, its tests are skipped: {error}")

    def scripts(self) -> None:
        """The tests of these scripts, of the bench, and of the one that compares a checkpoint with transformers."""
        self.unittest("scripts", sys.executable, "scripts")
        self.unittest("bench", sys.executable, "bench")
        reference = self.environment.get("LUTHIER_REFERENCE_PYTHON")
        if reference:
            self.unittest("reference", reference, "trainer/tests/reference")

    def unittest(self, stage: str, python: str, folder: str) -> None:
        """A folder of Python tests."""
        before = self.results.failed
        code, text = self.command(stage, [python, "-m", "unittest", "discover", "-v", "-s", folder, "-p", "test_*.py"])
        self.results.read_unittest(text)
        self.settle(stage, code, before)

    def rust(self, name_filter: list) -> None:
        """Every Rust test, by nextest where it is installed; then the examples in the documentation."""
        code, _ = self.command("build", ["cargo", "build", "--release", "--workspace", "--bins"])
        if code:
            self.settle("build", code, self.results.failed)
            return
        if self.soak:
            model = samples.language_model(setup.target() / "release" / "luthier-trainer")
            self.environment["LUTHIER_LANGUAGE_MODEL"] = str(model)
        before = self.results.failed
        if shutil.which("cargo-nextest"):
            report = setup.target() / "nextest" / "default" / "junit.xml"
            report.unlink(missing_ok=True)
            code, _ = self.command("rust", ["cargo", "nextest", "run", "--release", "--workspace", "--no-tests=pass",
                                            "--config-file", "scripts/nextest.toml",
                                            *(["--run-ignored", "only"] if self.soak else []), *name_filter])
            if report.exists():
                self.results.read_junit(report)
        else:
            code, text = self.command("rust", ["cargo", "test", "--release", "--workspace", "--no-fail-fast", "--lib", "--bins",
                                               "--tests", *name_filter, "--", "--show-output",
                                               *(["--ignored"] if self.soak else [])])
            self.results.read_libtest(text)
        self.settle("rust", code, before)
        if not name_filter and not self.soak:
            before = self.results.failed
            # The examples run from a temporary folder, where no `../lib` is.
            code, text = self.command("doc", ["cargo", "test", "--release", "--workspace", "--doc"],
                                      LD_LIBRARY_PATH=str(setup.target() / "lib"))
            self.results.read_libtest(text)
            self.settle("doc", code, before)

    def browser(self) -> None:
        """The tests that click through the pages in a headless Chromium."""
        folder = TREE / "server" / "tests" / "browser"
        files = sorted(folder.glob("*.test.mjs")) or sorted(folder.glob("*.mjs"))
        if not files:
            return
        chromium = find_chromium()
        if not chromium:
            names = ", ".join(path.name for path in files)
            self.lacks("browser", "no chromium: `apt-get install -y chromium` (Debian) or `dnf install chromium` brings it")
            self.results.skipped.append(f"{names}: chromium is not installed")
            return
        before = self.results.failed
        code, _ = self.command("npm", ["npm", "ci", "--ignore-scripts"])
        self.settle("npm", code, before)
        report = LOGS / "browser.tap"
        before = self.results.failed
        code, _ = self.command("browser", ["node", "--test", "--test-concurrency=1", "--test-reporter=spec",
                                           "--test-reporter-destination=stdout", "--test-reporter=tap",
                                           f"--test-reporter-destination={report}", *files], LUTHIER_CHROMIUM=chromium)
        if report.exists():
            self.results.read_tap(report.read_text(encoding="utf-8"))
        self.settle("browser", code, before)


def find_chromium():
    """The browser's path; on Debian under root it is installed where it is missing."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found or os.geteuid() != 0 or not shutil.which("apt-get"):
        return found
    print("browser: installing chromium from Debian's packages", flush=True)
    quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "stdout": subprocess.DEVNULL, "check": False}
    subprocess.run(["apt-get", "update", "-q"], **quiet)
    subprocess.run(["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium", "fonts-dejavu-core"], **quiet)
    return next(filter(None, map(shutil.which, names)), None)


def main() -> None:
    cache.stop_on_terminate()
    setup.main()
    soak = "--soak" in sys.argv
    name_filter = [word for word in sys.argv[1:] if word != "--soak"]
    everything = not soak and not name_filter
    with private_postgres.running(setup.target() / "postgres") as url:
        run = Run(url, soak)
        run.environments()
        if everything:
            run.scripts()
        with private_s3.running(run.environment.get("LUTHIER_S3_PYTHON")) as variables:
            run.environment.update(variables)
            run.rust(name_filter)
        if everything:
            run.browser()
    print(run.results.summary(), flush=True)
    # No test at all is no success: something kept them from being found.
    sys.exit(1 if run.results.failed or not run.results.passed else 0)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("test: interrupted")
