"""What both sides train: the settings, the rows, and the work in them."""

import csv
import itertools
import json
import pathlib
import struct

LABELS = ["negative", "positive"]
BATCH, LEARNING_RATE, WEIGHT_DECAY, MAX_LENGTH, MAX_GRAD_NORM = 32, 5e-5, 0.01, 128, 1.0

# What is run, in this order in every round: side and settings.
VARIANTS = {
    "luthier-fp32": {"side": "luthier", "training": {"precision": "fp32"}},
    "peer-grouped": {"side": "peer", "sampling": "group_by_length", "bf16": False},
    "luthier-auto": {"side": "luthier", "training": {"precision": "auto"}},
    "peer-grouped-bf16": {"side": "peer", "sampling": "group_by_length", "bf16": True},
    "peer-default": {"side": "peer", "sampling": "random", "bf16": False},
}


def training(changes: dict) -> dict:
    """`training` of a job's specification: one epoch."""
    return {"epochs": 1.0, "batch_size": BATCH, "learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY,
            "max_length": MAX_LENGTH, "max_grad_norm": MAX_GRAD_NORM, "lr_scheduler": {"name": "linear"},
            "optimizer": {"name": "adamw"}, "log_every": 1, **changes}


def rows(path: pathlib.Path) -> int:
    """Rows of a table."""
    with open(path, newline="", encoding="utf-8") as file:
        return sum(1 for _ in csv.reader(file)) - 1


def sample(data: pathlib.Path, steps: int, folder: pathlib.Path) -> pathlib.Path:
    """A folder like `data` with the rows of so many steps, so that both sides train the same ones."""
    with open(data / "reviews-train.csv", newline="", encoding="utf-8") as file:
        head = list(itertools.islice(csv.reader(file), 1 + steps * BATCH))
    with open(folder / "reviews-train.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(head)
    for name in ("minilm", "reviews-validation.csv"):
        (folder / name).symlink_to(data / name)
    return folder


def encoder_weights(checkpoint: pathlib.Path) -> int:
    """Parameters of the encoder's layers, by the header of `model.safetensors`: embeddings and head multiply next to nothing."""
    with open(checkpoint / "model.safetensors", "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    shapes = [entry["shape"] for name, entry in header.items() if "encoder.layer." in name]
    return sum(_product(shape) for shape in shapes)


def _product(shape: list) -> int:
    product = 1
    for side in shape:
        product *= side
    return product
