"""Everything that can be said of the code without running it (`make lint`)."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import artifacts
import cache
import setup
import venv

TREE = setup.TREE
CI = os.environ.get("CI") == "true"


READ_COMPOSE = """
import sys, compose_spec
try:
    compose_spec.PyCompose.from_yaml(open("docker-compose.yml").read()).validate()
except ValueError as error:
    sys.exit(f"docker-compose.yml: {error}")
"""


def _program(artifact: artifacts.Artifact, name: str) -> pathlib.Path:
    """A program that came in a wheel."""
    found = next(artifacts.fetch(artifact).glob(f"*.data/scripts/{name}"))
    if not os.access(found, os.X_OK):
        found.chmod(0o755)
    return found


def _run(*command, quiet: bool = False) -> bool:
    return subprocess.run([str(word) for word in command], cwd=TREE, check=False, capture_output=quiet).returncode == 0


def form() -> bool:
    """Rust's form."""
    return _run("cargo", "fmt", "--all", "--check")


def clippy() -> bool:
    """Rust's lints. In the release profile: it shares what build scripts made with the build."""
    return _run("cargo", "clippy", "--quiet", "--release", "--workspace", "--all-targets", "--", "-D", "warnings")


def queries() -> bool:
    """`.sqlx` against the migrations and the code."""
    return _run(sys.executable, "scripts/sqlx.py", "check")


def dependencies() -> bool:
    """Licences, sources and bans; known vulnerabilities where their list can be fetched."""
    deny = _program(artifacts.CARGO_DENY, "cargo-deny")
    if not _run("cargo", "fetch", "--quiet", "--locked", "--target", "x86_64-unknown-linux-gnu"):
        return False
    good = _run(deny, "--offline", "--log-level", "error", "check", "--hide-inclusion-graph", "licenses", "bans", "sources")
    if _run(deny, "fetch", "db", quiet=True):
        return _run(deny, "--log-level", "error", "check", "advisories") and good
    print("lint: known vulnerabilities were NOT checked: their list (the RustSec database) cannot be fetched from here")
    return good


def docker() -> bool:
    """The Dockerfile and the Compose file, without an engine."""
    good = _run(_program(artifacts.HADOLINT, "hadolint"), "--failure-threshold", "warning", "Dockerfile")
    try:
        python = venv.install("lint")
    except venv.Unavailable as error:
        print(f"lint: docker-compose.yml was NOT checked: {error}")
        return good and not CI
    return _run(python, "-c", READ_COMPOSE) and good


def scripts() -> bool:
    """The scripts compile; shell ones where shellcheck is at hand."""
    good = True
    for path in sorted(TREE.glob("**/scripts/*.py")) + sorted(TREE.glob("bench/*.py")):
        try:
            compile(path.read_text(), str(path), "exec")
        except SyntaxError as error:
            print(f"lint: {path.relative_to(TREE)}: {error}")
            good = False
    if shutil.which("shellcheck"):
        good = _run("shellcheck", *TREE.glob("scripts/*.sh"), TREE / ".ci" / "run") and good
    return good


def main() -> None:
    cache.stop_on_terminate()
    setup.main()
    failed = []
    for check in (form, scripts, docker, dependencies, queries, clippy):
        started = time.monotonic()
        good = check()
        print(f"lint: {check.__name__}: {'ok' if good else 'FAILED'}, {time.monotonic() - started:.0f} s", flush=True)
        if not good:
            failed.append(check.__name__)
    if failed:
        sys.exit(f"lint: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
