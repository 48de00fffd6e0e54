"""The peer's side: transformers' Trainer, run by the reference venv's Python.

usage: peer.py SAMPLES SETTINGS_JSON ANSWER_JSON SCRATCH
SETTINGS: {"sampling": "random" | "group_by_length", "bf16": false, "seed": 0, "threads": 2, "evaluate": true}
"""

import csv
import json
import pathlib
import statistics
import sys
import time

import torch
from transformers import (AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer,
                          TrainerCallback, TrainingArguments)

import recipe


def read(path: pathlib.Path, tokenizer) -> list:
    """Tokenized rows with the number of their label."""
    with open(path, newline="", encoding="utf-8") as file:
        content = list(csv.DictReader(file))
    encoded = tokenizer([row["text"] for row in content], truncation=True, max_length=recipe.MAX_LENGTH)
    return [{**{name: encoded[name][i] for name in encoded}, "labels": recipe.LABELS.index(row["label"])}
            for i, row in enumerate(content)]


class Counting(DataCollatorWithPadding):
    """Counts the tokens of each batch, padding apart."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer)
        self.batches = []

    def __call__(self, features):
        batch = super().__call__(features)
        mask = batch["attention_mask"]
        self.batches.append((len(features), int(mask.sum()), mask.numel()))
        return batch


class Clock(TrainerCallback):
    """When training began, and when each step ended."""

    def __init__(self):
        self.began, self.ends = None, []

    def on_train_begin(self, *_, **__):
        self.began = time.time()

    def on_step_end(self, *_, **__):
        self.ends.append(time.time())


def accuracy(found) -> dict:
    """Share of the rows whose most likely label is theirs."""
    return {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())}


def main() -> None:
    data, settings, answer, scratch = (pathlib.Path(word) for word in sys.argv[1:5])
    settings = json.loads(settings.read_text())
    torch.set_num_threads(settings["threads"])
    tokenizer = AutoTokenizer.from_pretrained(data / "minilm")
    train = read(data / "reviews-train.csv", tokenizer)
    torch.manual_seed(settings["seed"])
    arguments = TrainingArguments(
        scratch, num_train_epochs=1, per_device_train_batch_size=recipe.BATCH, per_device_eval_batch_size=recipe.BATCH,
        learning_rate=recipe.LEARNING_RATE, weight_decay=recipe.WEIGHT_DECAY, max_grad_norm=recipe.MAX_GRAD_NORM,
        lr_scheduler_type="linear", bf16=settings["bf16"],
        train_sampling_strategy=settings["sampling"], seed=settings["seed"], logging_steps=10, save_strategy="no",
        report_to=[], use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False)
    collator, clock = Counting(tokenizer), Clock()
    model = AutoModelForSequenceClassification.from_pretrained(data / "minilm", num_labels=len(recipe.LABELS))
    trainer = Trainer(model, arguments, train_dataset=train, data_collator=collator, compute_metrics=accuracy,
                      callbacks=[clock])
    trainer.train()
    seconds, steps = clock.ends[-1] - clock.began, len(clock.ends)
    taken, tokens, computed = (sum(column) for column in zip(*collator.batches))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    found = {"precision": "bf16" if settings["bf16"] else "fp32", "steps": steps, "train_s": round(seconds, 2),
             "samples_per_s": taken / seconds, "tokens_per_s": tokens / seconds, "tokens": tokens,
             "real_share": tokens / computed, "first_step_at": clock.ends[0],
             "median_step_s": statistics.median(end - start for start, end in zip([clock.began, *clock.ends], clock.ends)),
             "train_loss": statistics.fmean(losses[-2:]) if losses else None, "torch": torch.__version__}
    if settings["evaluate"]:
        started = time.time()
        values = trainer.evaluate(read(data / "reviews-validation.csv", tokenizer))
        found.update(accuracy=values["eval_accuracy"], eval_loss=values["eval_loss"], eval_s=round(time.time() - started, 2))
    answer.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
