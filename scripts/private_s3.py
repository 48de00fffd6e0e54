"""An S3 server of one's own for tests: moto on a free port of the loopback address, with one empty bucket."""

import contextlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

BUCKET = "luthier-test"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _make_bucket(server: subprocess.Popen, address: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(300):
        if server.poll() is not None:
            break
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            opener.open(urllib.request.Request(f"{address}/{BUCKET}", method="PUT"), timeout=10).close()
            return
        time.sleep(0.1)
    server.kill()
    sys.exit("the S3 server for tests did not start")


@contextlib.contextmanager
def running(python):
    """Starts the server with the interpreter of the environment `s3`; yields the variables that lead to it, none without."""
    if not python:
        yield {}
        return
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([python, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _make_bucket(server, address)
        yield {"LUTHIER_TEST_S3": f"s3://{BUCKET}/test", "AWS_ENDPOINT": address, "AWS_ALLOW_HTTP": "true",
               "AWS_ACCESS_KEY_ID": "luthier-test-key", "AWS_SECRET_ACCESS_KEY": "luthier-test-secret",
               "AWS_REGION": "us-east-1"}
    finally:
        server.terminate()
        server.wait()
