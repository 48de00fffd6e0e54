#!/usr/bin/env python3
"""Stands in for `luthier-trainer job` where a test is about the agent: same folder, events, words and exit codes.

What it does is told by the training file, one JSON object:
  steps, checkpoint_every   how long it runs
  gate {attempt, step, file}   waits before that step until the file is there, and obeys words meanwhile
  die [{attempt, step, how}]   after that step's event: "signal:9", "torn:9" (half an event first), "exit:3", "user",
                               "internal"; "late:6" ends by a signal after the result is written
  odd [step, …]   writes lines there that are no events
  deaf   obeys no word
  prune   keeps the newest checkpoint only
"""

import json
import os
import pathlib
import shutil
import signal
import sys
import threading
import time

if sys.argv[1] == "devices":
    broken = pathlib.Path(__file__).with_name("unfit")
    if broken.exists():
        sys.exit(f"error while loading shared libraries: {broken.read_text().strip()}")
    print(json.dumps({"device": "cpu", "threads": 2, "libtorch": "0", "fit": True, "reason": None}))
    sys.exit(0)

folder, attempt = pathlib.Path(sys.argv[2]), int(sys.argv[5])
out = folder / "out"
spec = json.loads((folder / "spec.json").read_text())
script = json.loads((folder / "data" / spec["data"]["train"]).read_text())
weights = (folder / "model" / "model.safetensors").read_bytes()
asked = []
line = 0


def listen():
    for word in sys.stdin:
        asked.append(word.strip())
    os._exit(75)


def emit(kind, at, values=None, **data):
    global line
    event = {"line": line, "attempt": attempt, "kind": kind, "step": at, "at": "2026-01-02T03:04:05.678Z",
             "level": "info", "message": f"{kind} {at}", "values": values or {}, "data": data}
    append(json.dumps(event) + "\n")
    line += 1


def append(text):
    with open(out / "events.jsonl", "ab") as file:
        file.write(text.encode())
    print("event", flush=True)


def end(exit_code, **result):
    emit("result", step, **result)
    (out / ".result.json").write_text(json.dumps(result))
    os.rename(out / ".result.json", out / "result.json")
    for death in script.get("die", []):
        kind, _, number = death["how"].partition(":")
        if kind == "late" and death["attempt"] == attempt:
            die(int(number))
    sys.stdout.flush()
    os._exit(exit_code)


def die(number):
    os.kill(os.getpid(), number)
    signal.pause()


def checkpoint():
    name = f"step-{step:08}"
    partial = out / "checkpoints" / ("." + name)
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "training_state").mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(weights)
    (partial / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (partial / "training_state" / "state.json").write_text(json.dumps({"step": step, "state": state}))
    shutil.rmtree(out / "checkpoints" / name, ignore_errors=True)
    os.rename(partial, out / "checkpoints" / name)
    emit("checkpoint", step, path=f"checkpoints/{name}", best=False, metrics={"loss": state / 2**31} if step % 4 else None)
    if script.get("prune"):
        for old in (out / "checkpoints").iterdir():
            if old.name != name:
                shutil.rmtree(old)


def obey():
    if not asked or script.get("deaf"):
        return
    if "cancel" in asked:
        end(13, status="cancelled", step=step)
    checkpoint()
    end(12, status="paused", step=step)


threading.Thread(target=listen, daemon=True).start()
print(f"attempt {attempt} begins", file=sys.stderr, flush=True)
print("secret" if "DATABASE_URL" in os.environ else "no secret", file=sys.stderr, flush=True)
(out / "checkpoints").mkdir(parents=True, exist_ok=True)
step, state = 0, spec["seed"] + 1
emit("phase", 0, phase="loading", device="cpu")
found = sorted(path for path in (out / "checkpoints").iterdir() if path.name.startswith("step-"))
if found:
    saved = json.loads((found[-1] / "training_state" / "state.json").read_text())
    step, state = saved["step"], saved["state"]
    emit("resume", step, from_step=step)
emit("phase", step, phase="training")

while step < script["steps"]:
    gate = script.get("gate")
    if gate and gate["step"] == step + 1 and gate.get("attempt", 1) == attempt:
        while not os.path.exists(gate["file"]):
            obey()
            time.sleep(0.005)
    obey()
    step, state = step + 1, (state * 1103515245 + 12345) % 2**31
    emit("train", step, {"loss": state / 2**31}, total_steps=script["steps"])
    if step in script.get("odd", []):
        append('this is no event\n')
        emit("log", step, note="a \u0000 character")
    for death in script.get("die", []):
        if death["attempt"] != attempt or death.get("step") != step:
            continue
        print(f"about to end: {death['how']}", file=sys.stderr, flush=True)
        kind, _, number = death["how"].partition(":")
        if kind == "torn":
            append('{"line": 99, "attempt": 1, "kind": "tr')
        if kind in ("signal", "torn"):
            die(int(number))
        if kind == "exit":
            os._exit(int(number))
        fault = {"status": "failed", "fault": kind, "code": "made_up", "message": "It was told to fail.",
                 "param": "columns" if kind == "user" else None, "step": step}
        end(10 if kind == "user" else 11, **fault)
    if step % script.get("checkpoint_every", 10) == 0:
        checkpoint()

model = out / "model"
shutil.rmtree(model, ignore_errors=True)
model.mkdir()
(model / "model.safetensors").write_bytes(weights)
(model / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertForSequenceClassification"]}))
(model / "state.json").write_text(json.dumps(state))
(model / "metrics.csv").write_text("step,loss\n1,0.5\n")
end(0, status="succeeded", metrics={"accuracy": 0.5}, best_step=step, steps=step, trained_tokens=7, model="model",
    manifest={"seed": spec["seed"]})
