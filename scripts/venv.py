"""Python environments: the reference that tests compare with (torch, transformers, sentence-transformers, scikit-learn,
openai), openai 1.x,
an S3 server, and what lint reads the Compose file with.

usage: venv.py [reference|openai1|s3|lint]...        installs what is missing (all without a name)
       venv.py path [reference|openai1|s3|lint]      prints the interpreter's path, installed or not
Each lies in the cache under the SHA-256 of its requirements file and the Python that made it.
"""

import pathlib
import subprocess
import sys

import cache

HERE = pathlib.Path(__file__).resolve().parent
REQUIREMENTS = {"reference": "requirements-reference.txt", "openai1": "requirements-openai-1.txt",
                "s3": "requirements-s3.txt", "lint": "requirements-lint.txt"}
SIZES = {"reference": "5.4 GB, some minutes", "openai1": "40 MB", "s3": "60 MB", "lint": "20 MB"}
# What a test asks for: set by `make test` where the environment is there.
VARIABLES = {"reference": "LUTHIER_REFERENCE_PYTHON", "openai1": "LUTHIER_OPENAI1_PYTHON",
             "s3": "LUTHIER_S3_PYTHON"}


class Unavailable(Exception):
    """The environment could not be installed; the message says why."""


def _key(name: str) -> str:
    requirements = (HERE / REQUIREMENTS[name]).read_text()
    return cache.key_of("venv", requirements, sys.version.split()[0], sys.base_prefix)


def python_of(name: str) -> pathlib.Path:
    """The interpreter's path, whether it is installed or not."""
    return cache.root() / _key(name) / "bin" / "python"


def _run(command, log: pathlib.Path) -> None:
    with open(log, "ab") as file:
        # Not from here: Python would take this very file for its module `venv`.
        code = subprocess.call(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=log.parent)
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise Unavailable(f"{' '.join(map(str, command[:4]))} … ended with {code}:\n{tail}")


def _make(name: str):
    def make(folder, scratch, final):
        cache.say(f"venv: installing {name} from scripts/{REQUIREMENTS[name]} ({SIZES[name]})")
        log = scratch / "log"
        _run([sys.executable, "-m", "venv", folder], log)
        _run([folder / "bin" / "python", "-m", "pip", "install", "--no-input", "--no-deps", "--no-cache-dir",
              "--only-binary=:all:", "-r", HERE / REQUIREMENTS[name]], log)
        # The environment was made beside its place: its scripts name the folder that it is about to leave.
        for script in [*(folder / "bin").iterdir(), folder / "pyvenv.cfg"]:
            if script.is_file() and not script.is_symlink():
                script.write_bytes(script.read_bytes().replace(bytes(folder), bytes(final)))

    return make


def install(name: str) -> pathlib.Path:
    """Installs the environment where it is missing; its interpreter's path. Raises `Unavailable`."""
    try:
        cache.entry(_key(name), _make(name))
    except OSError as error:
        raise Unavailable(str(error)) from error
    return python_of(name)


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["path"]:
        for name in arguments[1:] or ["reference"]:
            print(python_of(name))
        return
    if unknown := [name for name in arguments if name not in REQUIREMENTS]:
        sys.exit(f"venv: no environment is called {unknown[0]}; there are {', '.join(REQUIREMENTS)}")
    for name in arguments or REQUIREMENTS:
        try:
            print(install(name))
        except Unavailable as error:
            sys.exit(f"venv: {name} could not be installed: {error}")


if __name__ == "__main__":
    main()
