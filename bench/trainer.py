"""Luthier's side: `luthier-trainer job` on a directory, as an agent runs it, and what its events tell."""

import datetime
import json
import pathlib
import shutil
import statistics

import machine
import recipe


def train(program: pathlib.Path, data: pathlib.Path, scratch: pathlib.Path, changes: dict, options) -> dict:
    """One training; the numbers of `measures`, beside those of the process."""
    folder = scratch / "job"
    (folder / "data").mkdir(parents=True)
    files = {"train": "train.csv"}
    shutil.copy(data / "reviews-train.csv", folder / "data" / "train.csv")
    if not options.steps:
        files["validation"] = "validation.csv"
        shutil.copy(data / "reviews-validation.csv", folder / "data" / "validation.csv")
    (folder / "model").symlink_to(data / "minilm")
    spec = {"task": "text-classification", "problem_type": "single_label_classification",
            "columns": {"text": "text", "label": "label"}, "data": files, "split": {"fraction": 0.0},
            "training": recipe.training(changes), "seed": options.seed,
            "resources": {"device": "cpu", "threads": options.threads}, "base_model": "minilm", "name": "bench"}
    (folder / "spec.json").write_text(json.dumps(spec))
    process = machine.run([program, "job", folder], scratch / "log")
    lines = (folder / "out" / "events.jsonl").read_text().splitlines()
    return {**process, **measures([json.loads(line) for line in lines], process["started"])}


def _at(event: dict) -> float:
    return datetime.datetime.fromisoformat(event["at"].replace("Z", "+00:00")).timestamp()


def rates(events: list) -> dict:
    """From the phase `training` to the last step; evaluation and export come after it."""
    phases = {event["data"]["phase"]: event for event in reversed(events) if event["kind"] == "phase"}
    last = [event for event in events if event["kind"] == "train"][-1]
    seconds, tokens = _at(last) - _at(phases["training"]), last["data"]["tokens"]
    return {"precision": phases["loading"]["data"]["precision"], "steps": last["step"], "train_s": round(seconds, 2),
            "samples_per_s": last["data"]["samples"] / seconds, "tokens_per_s": tokens / seconds, "tokens": tokens}


def measures(events: list, started: float) -> dict:
    """Rates, accuracy and loss."""
    steps = [event for event in events if event["kind"] == "train"]
    counts = [event["data"]["tokens"] for event in steps]
    computed = sum((now - before) / (1 - event["data"]["padding"])
                   for before, now, event in zip([0, *counts], counts, steps))
    found = {**rates(events), "real_share": counts[-1] / computed,
             "median_step_s": statistics.median(event["data"]["step_seconds"] for event in steps),
             "to_first_step_s": round(_at(steps[0]) - started, 2),
             "train_loss": statistics.fmean(event["values"]["loss"] for event in steps[-20:])}
    evaluations = [event for event in events if event["kind"] == "eval"]
    if evaluations:
        values = evaluations[-1]["values"]
        found.update(accuracy=values["accuracy"], eval_loss=values["loss"], eval_s=evaluations[-1]["data"]["seconds"])
    return found
