"""A PostgreSQL of one's own for tests and checks: a Unix socket in a temporary folder, gone at the end."""

import contextlib
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.parse

# A test's database lives for seconds: what protects against a loss of power costs time and protects nothing.
SETTINGS = ["listen_addresses=", "fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200",
            "shared_buffers=128MB", "log_min_messages=fatal"]


def _other_user() -> dict:
    """PostgreSQL refuses to run as root: then it runs as `nobody`."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _wait_for(server: subprocess.Popen, log: pathlib.Path, ready) -> None:
    for _ in range(300):
        if server.poll() is not None:
            break
        if subprocess.run(ready, capture_output=True, check=False).returncode == 0:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(0.1)
    server.kill()
    sys.exit(f"postgres did not start:\n{log.read_text(errors='replace')[-3000:]}")


@contextlib.contextmanager
def running(install: pathlib.Path):
    """Starts PostgreSQL from the folder `install`; yields its address as a `DATABASE_URL`."""
    # Not under TMPDIR: a socket's name may have 107 bytes.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="luthier-pg-", dir="/tmp"))
    server = None
    try:
        user = _other_user()
        if user:
            # The cache may lie in a home that is closed to others.
            shutil.copytree(install, folder / "postgres", symlinks=True)
            install = folder / "postgres"
            os.chown(folder, user["user"], user["group"])
        programs, data, log = install / "bin", folder / "data", folder / "log"
        clean = {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"}
        made = subprocess.run([programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C",
                               "--no-sync"], capture_output=True, text=True, check=False, cwd="/", env=clean, **user)
        if made.returncode:
            sys.exit(f"initdb failed:\n{made.stdout}{made.stderr}")
        settings = [word for setting in SETTINGS for word in ("-c", setting)]
        with open(log, "wb") as file:
            server = subprocess.Popen([programs / "postgres", "-D", data, "-k", folder, *settings], stdout=file, stderr=file,
                                      stdin=subprocess.DEVNULL, cwd="/", env=clean, start_new_session=True, **user)
        _wait_for(server, log, [programs / "pg_isready", "-q", "-h", folder, "-U", "postgres"])
        yield f"postgres://postgres@localhost/postgres?host={urllib.parse.quote(str(folder), safe='')}"
    finally:
        if server and server.poll() is None:
            # Fast shutdown: sessions that tests left open are ended.
            server.send_signal(signal.SIGINT)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.send_signal(signal.SIGQUIT)
                server.wait()
        shutil.rmtree(folder, ignore_errors=True)
