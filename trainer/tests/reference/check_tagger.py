"""Checks a finished tagger against transformers, word by word.

    python check_tagger.py CHECKPOINT_DIR PREDICTIONS_CSV [--tolerance NUMBER]

PREDICTIONS_CSV is what the trainer wrote: row, word, token, tag, predicted, score, a line a word. The folder must be complete
and load without a missing or unused tensor; of every word the likeliest tag of its first token must be the same, and its
probability within the tolerance. Prints a JSON report and ends with 0 when everything agrees, with 1 when something differs.
"""

import argparse
import csv
import json
import os
import sys
from itertools import groupby
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import torch
import transformers
from transformers import AutoModelForTokenClassification, AutoTokenizer

# Two tags whose probabilities are nearer than this are a tie, which rounding may decide either way.
TIE = 1e-6


def load(folder, problems):
    model, info = AutoModelForTokenClassification.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(str(name) for name in info.get(key) or [])
        if names:
            problems.append(f"{key}: {', '.join(names)}")
    config = json.loads((folder / "config.json").read_text())
    if config.get("architectures") != [type(model).__name__]:
        problems.append(f"config.json says {config.get('architectures')}, transformers made {type(model).__name__}")
    if config["label2id"] != {name: int(i) for i, name in config["id2label"].items()}:
        problems.append("config.json: label2id is not the inverse of id2label")
    return model.eval()


@torch.no_grad()
def compare(model, tokenizer, rows, tolerance, problems):
    largest, words = 0.0, 0
    for number, lines in groupby(rows, key=lambda line: line["row"]):
        lines = list(lines)
        encoded = tokenizer([line["token"] for line in lines], is_split_into_words=True, truncation=True, return_tensors="pt")
        said = model(**encoded).logits[0].softmax(-1)
        first = {}
        for token, word in enumerate(encoded.word_ids()):
            first.setdefault(word, token)
        for word, line in enumerate(lines):
            words += 1
            if word not in first:
                if line["predicted"]:
                    problems.append(f"row {number} word {word}: transformers has no token")
                continue
            scores = said[first[word]]
            best = scores.max().item()
            own = scores[model.config.label2id[line["predicted"]]].item()
            apart = abs(own - float(line["score"]))
            largest = max(largest, apart)
            if best - own > TIE or not apart <= tolerance:
                problems.append(f"row {number} word {word}: {line['predicted']} {line['score']}, transformers gives {scores.tolist()}")
    return {"words": words, "largest_difference": largest}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    problems = []
    model = load(options.checkpoint, problems)
    tokenizer = AutoTokenizer.from_pretrained(options.checkpoint)
    with open(options.predictions, newline="") as lines:
        report = compare(model, tokenizer, csv.DictReader(lines), options.tolerance, problems)
    print(json.dumps({"ok": not problems, **report, "problems": problems[:20]}, indent=2))
    return 1 if problems or not report["words"] else 0


if __name__ == "__main__":
    sys.exit(main())
