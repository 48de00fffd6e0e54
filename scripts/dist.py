"""Packs what runs on a bare machine: programs, libtorch, PostgreSQL, samples, licences.

usage: dist.py                   writes dist/luthier-VERSION-linux-x86_64.tar.gz
       dist.py --folder FOLDER   only lays the same out in FOLDER
With LUTHIER_CUDA=1 the libraries for NVIDIA GPUs are in it (gigabytes), and its name ends in `-cuda13`.
"""

import gzip
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

import cache
import samples
import setup

TREE = setup.TREE
PROGRAMS = ("luthier", "luthier-trainer")
README = """Luthier {version}: fine-tune models on your own machine.

  bin/luthier demo     serves, fine-tunes the sample and shows what came of it
  bin/luthier serve    serves on http://127.0.0.1:8080; its data goes to ./data
  bin/luthier --help   says the rest

It needs Linux on x86-64 with glibc {glibc} or newer and libstdc++ (the package libstdc++6 or libstdc++), nothing else.
Licences: LICENSE is Luthier's own; licences/ holds those of everything that is packed here.
"""


def _metadata() -> dict:
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"]
    return json.loads(subprocess.run(command, cwd=TREE, check=True, capture_output=True).stdout)


def _shipped_crates(metadata: dict) -> list:
    """The crates that go into the programs, without those that only tests use."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    packages = {package["id"]: package for package in metadata["packages"]}
    waiting = [package["id"] for package in metadata["packages"] if package["name"] in PROGRAMS]
    seen = set(waiting)
    while waiting:
        for dependency in nodes[waiting.pop()]["deps"]:
            if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"]) and dependency["pkg"] not in seen:
                seen.add(dependency["pkg"])
                waiting.append(dependency["pkg"])
    return sorted((packages[key] for key in seen if packages[key]["source"]), key=lambda package: package["name"])


def _crate_licences(metadata: dict) -> str:
    """One text with the licences of all crates, each text once, with the crates that it covers."""
    texts, without = {}, []
    for package in _shipped_crates(metadata):
        name = f"{package['name']} {package['version']} ({package['license'] or 'see its text'})"
        folder = pathlib.Path(package["manifest_path"]).parent
        found = sorted(path for path in folder.iterdir()
                       if path.is_file() and re.match(r"(?i)(licen[cs]e|copying|notice|copyright|unlicense)", path.name))
        for path in found:
            texts.setdefault(path.read_text(encoding="utf-8", errors="replace").strip(), []).append(name)
        if not found:
            without.append(name)
    parts = [f"{'=' * 100}\n" + "\n".join(names) + f"\n{'-' * 100}\n{text}\n" for text, names in texts.items()]
    if without:
        parts.append(f"{'=' * 100}\nThese carry no text of their own; the licence named is the common one:\n" + "\n".join(without) + "\n")
    return "\n".join(parts)


def _copy_tree(source: pathlib.Path, destination: pathlib.Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file():
            cache.place(path.resolve(), destination / path.relative_to(source))


def _newest_glibc(program: pathlib.Path) -> str:
    symbols = subprocess.run(["readelf", "--version-info", program], check=True, capture_output=True, text=True).stdout
    return ".".join(map(str, max(tuple(map(int, version.split("."))) for version in re.findall(r"GLIBC_([\d.]+)", symbols))))


def lay_out(folder: pathlib.Path, cuda: bool) -> str:
    """Fills `folder` with what the archive holds; the version."""
    metadata = _metadata()
    version = next(package["version"] for package in metadata["packages"] if package["name"] == "luthier")
    (folder / "bin").mkdir(parents=True)
    for program in PROGRAMS:
        built = setup.target() / "release" / program
        if not built.exists():
            sys.exit(f"dist: {built} is not there: `make build` makes it")
        shutil.copy2(built, folder / "bin" / program)
    libtorch = setup.libtorch()
    libraries = setup.libtorch_cuda(libtorch) if cuda else libtorch
    _copy_tree(libraries / "lib", folder / "lib")
    _copy_tree(setup.postgres(), folder / "postgres")
    _copy_tree(samples.prepare(), folder / "samples")
    licences = folder / "licences"
    for part, source in (("libtorch", libtorch / "licences"), ("libtorch", libraries / "licences"),
                         ("postgres", folder / "postgres" / "licences"), ("samples", folder / "samples" / "licences")):
        for path in sorted(source.iterdir()):
            if not (licences / part / path.name).exists():
                cache.place(path, licences / part / path.name)
    for path in sorted(setup.web().glob("*LICENSE*")):
        cache.place(path, licences / "web" / path.name)
    (licences / "rust-crates.txt").write_text(_crate_licences(metadata), encoding="utf-8")
    shutil.copy2(TREE / "LICENSE", folder / "LICENSE")
    glibc = max((_newest_glibc(folder / "bin" / program) for program in PROGRAMS), key=lambda text: tuple(map(int, text.split("."))))
    (folder / "README.txt").write_text(README.format(version=version, glibc=glibc), encoding="utf-8")
    return version


def _pack(folder: pathlib.Path, name: str, archive: pathlib.Path) -> None:
    """The archive of `folder`, the same bytes for the same content."""
    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mtime = 0
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    with open(archive, "wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed, \
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tarball:
        for path in [folder, *sorted(folder.rglob("*"))]:
            # Two names of one file in the cache are two files here: what unpacks it need not know of links.
            tarball.inodes.clear()
            tarball.add(path, pathlib.PurePath(name, path.relative_to(folder)), recursive=False, filter=plain)


def main() -> None:
    cuda = os.environ.get("LUTHIER_CUDA") == "1"
    if sys.argv[1:2] == ["--folder"]:
        lay_out(pathlib.Path(sys.argv[2]), cuda)
        return
    dist = TREE / "dist"
    dist.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=dist) as temporary:
        folder = pathlib.Path(temporary) / "luthier"
        name = f"luthier-{lay_out(folder, cuda)}-linux-x86_64{'-cuda13' if cuda else ''}"
        print(f"dist: packing {name}.tar.gz", flush=True)
        _pack(folder, name, pathlib.Path(temporary) / "archive")
        os.replace(pathlib.Path(temporary) / "archive", dist / f"{name}.tar.gz")
    archive = dist / f"{name}.tar.gz"
    print(f"{archive.relative_to(TREE)}: {archive.stat().st_size / 1e6:.0f} MB, SHA-256 {cache.sha256_of(archive)}")


if __name__ == "__main__":
    main()
