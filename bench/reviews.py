"""One epoch of MiniLM on all review sentences: Luthier and transformers' Trainer in turn, on this machine.

usage: reviews.py [--rounds N] [--only luthier|peer] [--set KEY=JSON]...     (`make bench`)

batch 32, AdamW, learning rate 5e-5 linear to 0, weight decay 0.01, at most 128 tokens, fp32: 9,514 sentences to train on,
1,054 to validate. `--set` changes a field of the job's `training` (`--set precision='"bf16"'`). The times of one machine
at one hour compare; they say nothing of another machine. Results are appended to `bench/results/reviews.jsonl`.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time

TREE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TREE / "scripts"))

import samples  # noqa: E402
import setup  # noqa: E402
import venv  # noqa: E402

TRAINING = {"epochs": 1.0, "batch_size": 32, "learning_rate": 5e-5, "weight_decay": 0.01, "max_length": 128,
            "lr_scheduler": {"name": "linear"}, "max_grad_norm": 1.0}


def _measured(command: list, **options) -> tuple:
    """Runs a program to its end: seconds, peak memory in MB, exit code."""
    started = time.monotonic()
    process = subprocess.Popen([str(word) for word in command], **options)
    _, status, usage = os.wait4(process.pid, 0)
    return time.monotonic() - started, usage.ru_maxrss // 1024, os.waitstatus_to_exitcode(status)


def _events(folder: pathlib.Path) -> list:
    return [json.loads(line) for line in (folder / "out" / "events.jsonl").read_text().splitlines()]


def _at(event: dict) -> float:
    return datetime.datetime.fromisoformat(event["at"].replace("Z", "+00:00")).timestamp()


def luthier(data: pathlib.Path, scratch: pathlib.Path, changes: dict) -> dict:
    """Luthier's trainer on a job directory, as an agent runs it."""
    folder = scratch / "job"
    (folder / "data").mkdir(parents=True)
    for part in ("train", "validation"):
        shutil.copy(data / f"reviews-{part}.csv", folder / "data" / f"{part}.csv")
    (folder / "model").symlink_to(data / "minilm")
    spec = {"task": "text-classification", "problem_type": "single_label_classification",
            "columns": {"text": "text", "label": "label"}, "data": {"train": "train.csv", "validation": "validation.csv"},
            "training": {**TRAINING, **changes}, "resources": {"device": "cpu"}, "base_model": "minilm", "name": "bench"}
    (folder / "spec.json").write_text(json.dumps(spec))
    with open(scratch / "log", "wb") as log:
        seconds, memory, code = _measured([setup.target() / "release" / "luthier-trainer", "job", folder],
                                          stdout=subprocess.DEVNULL, stderr=log, stdin=subprocess.DEVNULL)
    if code:
        sys.exit(f"bench: the trainer ended with {code}:\n{(scratch / 'log').read_text()[-3000:]}")
    events = _events(folder)
    steps = [event for event in events if event["kind"] == "train"]
    phases = [event for event in events if event["kind"] == "phase"]
    training = next(event for event in phases if event["data"]["phase"] == "training")
    evaluation = [event for event in events if event["kind"] == "eval"][-1]
    spent = _at(steps[-1]) - _at(training)
    rows = sum(1 for _ in open(data / "reviews-train.csv", encoding="utf-8")) - 1
    return {"train_s": round(spent, 1), "samples_per_s": round(rows / spent, 1), "wall_s": round(seconds, 1),
            "to_training_s": round(_at(training) - _at(events[0]), 2), "eval_s": evaluation["data"].get("seconds"),
            "accuracy": evaluation["values"]["accuracy"], "f1": evaluation["values"].get("f1"),
            "eval_loss": evaluation["values"]["loss"], "peak_mb": memory}


def peer(data: pathlib.Path, scratch: pathlib.Path, _changes: dict) -> dict:
    """transformers' Trainer with the same settings, in a process of its own."""
    answer = scratch / "peer.json"
    seconds, memory, code = _measured([venv.install("reference"), TREE / "bench" / "reviews_peer.py", data, answer, scratch / "peer"])
    if code:
        sys.exit(f"bench: the peer ended with {code}")
    return {**json.loads(answer.read_text()), "wall_s": round(seconds, 1), "peak_mb": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=("luthier", "peer"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON")
    arguments = parser.parse_args()
    changes = {key: json.loads(value) for key, _, value in (word.partition("=") for word in arguments.set)}
    data = samples.prepare()
    results = TREE / "bench" / "results" / "reviews.jsonl"
    results.parent.mkdir(exist_ok=True)
    machine = {"cores": len(os.sched_getaffinity(0)), "kernel": platform.release(),
               "at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}
    for _ in range(arguments.rounds):
        for run in (luthier, peer):
            if arguments.only in (None, run.__name__):
                with tempfile.TemporaryDirectory(prefix="luthier-bench-") as scratch:
                    line = {"who": run.__name__, **run(data, pathlib.Path(scratch), changes), "changes": changes, **machine}
                print(json.dumps(line), flush=True)
                with open(results, "a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
