"""The cache of fetched things: `${LUTHIER_CACHE:-~/.cache/luthier}/<sha256>/`, shared by clones.

An entry is made in a temporary folder beside it and appears by one rename, so it is whole or absent
whatever was interrupted, and two processes that make the same entry cannot disturb each other.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import pathlib
import shutil
import signal
import sys
import tempfile

PENDING = ".pending-"


def root() -> pathlib.Path:
    """The cache folder; `LUTHIER_CACHE` moves it."""
    configured = os.environ.get("LUTHIER_CACHE")
    folder = pathlib.Path(configured) if configured else pathlib.Path.home() / ".cache" / "luthier"
    return folder.expanduser().absolute()


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


def stop_on_terminate() -> None:
    """Lets `finally` blocks run when this process is asked to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def sha256_of(path: pathlib.Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def key_of(*parts: str) -> str:
    """The key of an entry that is made of several things."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@contextlib.contextmanager
def pending():
    """A temporary folder in the cache, held by a lock for as long as its maker lives."""
    root().mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix=PENDING, dir=root()))
    # mkdtemp makes it private; what is installed may be read by others (Postgres under root runs as another user).
    folder.chmod(0o755)
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def sweep() -> None:
    """Removes temporary folders whose maker was killed."""
    for folder in root().glob(PENDING + "*"):
        try:
            held = os.open(folder, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(held)


def entry(key: str, make) -> pathlib.Path:
    """The folder of `key`; where it is missing, `make(folder, scratch, final)` fills `folder` first.

    `scratch` is a second temporary folder, `final` the place where the entry will be.
    """
    final = root() / key
    if final.is_dir():
        return final
    with pending() as temporary:
        content, scratch = temporary / "content", temporary / "scratch"
        content.mkdir()
        scratch.mkdir()
        make(content, scratch, final)
        try:
            os.rename(content, final)
        except OSError as error:
            # Another process was faster: its entry has the same content.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    return final


def place(source: pathlib.Path, destination: pathlib.Path) -> None:
    """A second name for a file of the cache; a copy where the file system has no hard links."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, destination)
    except OSError:
        shutil.copy2(source, destination)


def link(place: pathlib.Path, target: pathlib.Path) -> None:
    """Makes `place` a symbolic link to `target`, in one step where it pointed elsewhere."""
    if place.is_symlink():
        if os.readlink(place) == str(target):
            return
    elif place.exists():
        sys.exit(f"setup: {place} is in the way: set-up puts a link there. Move it aside and run again.")
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f"{place.name}.{os.getpid()}")
    fresh.symlink_to(target)
    os.replace(fresh, place)
