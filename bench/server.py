"""From the POST of a job to its first metrics at a client, over REST and server-sent events, as any program sees it."""

import contextlib
import http.client
import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import time
import urllib.parse

import machine
import recipe

LONGEST_START = 120
LONGEST_JOB = 600


class Client:
    """A client of one server."""

    def __init__(self, port: int):
        self.port = port

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONGEST_JOB)

    def call(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> dict:
        """One request, its answer read as JSON."""
        with contextlib.closing(self._connection()) as connection:
            connection.request(method, path, body=body or None, headers={"Content-Type": kind} if body else {})
            answer = connection.getresponse()
            content = answer.read()
        if answer.status >= 300:
            raise machine.Failed(f"{method} {path} answered {answer.status}: {content.decode(errors='replace')[:1000]}")
        return json.loads(content) if answer.headers.get_content_type() == "application/json" else {}

    def post(self, path: str, value: dict) -> dict:
        """POST of JSON."""
        return self.call("POST", path, json.dumps(value).encode())

    def upload(self, path: str, fields: dict, files: list) -> dict:
        """POST of a form with files, each a pair of input and path."""
        boundary = secrets.token_hex(16)
        parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
                 for name, value in fields.items()]
        for name, file in files:
            head = f'Content-Disposition: form-data; name="{name}"; filename="{file.name}"\r\nContent-Type: application/octet-stream'
            parts += [f"--{boundary}\r\n{head}\r\n\r\n".encode(), file.read_bytes(), b"\r\n"]
        return self.call("POST", path, b"".join([*parts, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}")

    def events(self, job: str):
        """The job's events as they come, to its end."""
        with contextlib.closing(self._connection()) as connection:
            connection.request("GET", f"/v1/fine_tuning/jobs/{urllib.parse.quote(job)}/events?stream=true")
            answer = connection.getresponse()
            if answer.status != 200:
                raise machine.Failed(f"the stream of {job} answered {answer.status}")
            for line in iter(answer.readline, b""):
                if line.startswith(b"data:"):
                    content = line[len(b"data:"):].strip()
                    if content == b"[DONE]":
                        return
                    yield json.loads(content)


@contextlib.contextmanager
def serving(program: pathlib.Path, scratch: pathlib.Path):
    """A server with a trainer of its own on a free port, everything it keeps below `scratch`; its client."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Settings of the caller's own server must not lead this one to its database.
    ours = {name: value for name, value in os.environ.items() if name != "DATABASE_URL" and not name.startswith("LUTHIER_")}
    command = [program, "serve", "--listen", f"127.0.0.1:{port}", "--data", scratch / "data", "--trainer", "local"]
    with open(scratch / "server.log", "wb") as log:
        process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ours)
    try:
        client = Client(port)
        _wait_until_ready(client, process, scratch / "server.log")
        yield client
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=200)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(client: Client, process: subprocess.Popen, log: pathlib.Path) -> None:
    deadline = time.monotonic() + LONGEST_START
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException, machine.Failed):
            client.call("GET", "/readyz")
            return
        time.sleep(0.1)
    raise machine.Failed(f"the server did not come up:\n{log.read_text(errors='replace')[-3000:]}")


def first_metrics(program: pathlib.Path, data: pathlib.Path, scratch: pathlib.Path, times: int, threads: int) -> dict:
    """Seconds from sending the POST to receiving the first event with metrics, of each of some jobs.

    A short job goes before them: agent, checkpoint and tokenized rows are then there, as they are for everyone's
    second job on the same data.
    """
    with serving(program, scratch) as client:
        model = client.upload("/v1/models", {"id": "minilm"}, [("files", path) for path in sorted((data / "minilm").iterdir())])
        files = {part: client.upload("/v1/files", {"purpose": "fine-tune"}, [("file", data / f"reviews-{part}.csv")])["id"]
                 for part in ("train", "validation")}

        def request(**changes):
            return {"model": model["id"], "training_file": files["train"], "validation_file": files["validation"],
                    "task": "text-classification", "columns": {"text": "text", "label": "label"}, "seed": 1,
                    "resources": {"device": "cpu", "threads": threads},
                    "method": {"type": "supervised", "supervised": {"hyperparameters": recipe.training({"precision": "fp32", **changes})}}}

        warm = client.post("/v1/fine_tuning/jobs", request(max_steps=2))["id"]
        for _ in client.events(warm):
            pass
        state = client.call("GET", f"/v1/fine_tuning/jobs/{warm}")
        if state["status"] != "succeeded":
            raise machine.Failed(f"the job before the measured ones {state['status']}: {state['error']}")
        return {"seconds": [_one(client, request()) for _ in range(times)]}


def _one(client: Client, request: dict) -> float:
    started = time.monotonic()
    job = client.post("/v1/fine_tuning/jobs", request)["id"]
    events = client.events(job)
    for event in events:
        if event["type"] == "metrics":
            took = time.monotonic() - started
            break
    else:
        raise machine.Failed(f"{job} ended without metrics")
    client.call("POST", f"/v1/fine_tuning/jobs/{job}/cancel")
    for _ in events:
        pass
    return round(took, 3)
