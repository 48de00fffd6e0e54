"""The peer's side of `reviews.py`: transformers' Trainer with its defaults. usage: reviews_peer.py SAMPLES ANSWER_JSON SCRATCH"""

import csv
import json
import pathlib
import sys
import time

started = time.monotonic()

import torch  # noqa: E402
from sklearn.metrics import f1_score  # noqa: E402
from transformers import (AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer,  # noqa: E402
                          TrainingArguments)

LABELS = ["negative", "positive"]
data, answer, scratch = map(pathlib.Path, sys.argv[1:4])
tokenizer = AutoTokenizer.from_pretrained(data / "minilm")


def rows(name):
    with open(data / name, newline="", encoding="utf-8") as file:
        content = list(csv.DictReader(file))
    encoded = tokenizer([row["text"] for row in content], truncation=True, max_length=128)
    return [{**{key: encoded[key][i] for key in encoded}, "labels": LABELS.index(row["label"])} for i, row in enumerate(content)]


def metrics(found):
    predicted = found.predictions.argmax(-1)
    return {"accuracy": float((predicted == found.label_ids).mean()), "f1": float(f1_score(found.label_ids, predicted))}


train, validation = rows("reviews-train.csv"), rows("reviews-validation.csv")
torch.manual_seed(0)
trainer = Trainer(
    AutoModelForSequenceClassification.from_pretrained(data / "minilm", num_labels=2),
    TrainingArguments(scratch, num_train_epochs=1, per_device_train_batch_size=32, per_device_eval_batch_size=32, learning_rate=5e-5,
                      lr_scheduler_type="linear", weight_decay=0.01, logging_steps=10, save_strategy="no", report_to=[], seed=0,
                      use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False),
    train_dataset=train, eval_dataset=validation, data_collator=DataCollatorWithPadding(tokenizer), compute_metrics=metrics)
ready = time.monotonic()
trainer.train()
trained = time.monotonic()
found = trainer.evaluate()
evaluated = time.monotonic()
answer.write_text(json.dumps({
    "train_s": round(trained - ready, 1), "samples_per_s": round(len(train) / (trained - ready), 1),
    "to_training_s": round(ready - started, 2), "eval_s": round(evaluated - trained, 2), "accuracy": found["eval_accuracy"],
    "f1": found["eval_f1"], "eval_loss": found["eval_loss"]}))
