"""Checks finished encoder–decoder models against transformers, row by row; an adapter is put onto its base by peft.

    python check_text_to_text.py JOB_DIR… [--tolerance X]

A job's folder has `spec.json`, the model in `out/model`, its rows in `data/validation.jsonl`, and in
`out/model/predictions-validation.csv` what the trainer said of each: `tokens` of the target, their mean `loss`, and the
`prediction` that it wrote.

Ends with 0 when everything agrees, with 1 when something differs.
"""

import argparse
import csv
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer


def load(folder, problems):
    """The model, with every name that the loading did not like."""
    adapter = (folder / "adapter_config.json").exists()
    base = folder / "base" if adapter else folder
    model, info = AutoModelForSeq2SeqLM.from_pretrained(base, output_loading_info=True, dtype=torch.float32)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(key):
            problems.append(f"{key}: {sorted(map(str, info[key]))}")
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder)
    return model.eval()


@torch.no_grad()
def check(job, options):
    """What differs in one job's model."""
    problems, folder = [], job / "out" / "model"
    model, tokenizer = load(folder, problems), AutoTokenizer.from_pretrained(folder)
    settings = json.loads((job / "spec.json").read_text())["training"]["text_to_text"]
    with open(folder / "predictions-validation.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = (job / "data" / "validation.jsonl").read_text().splitlines()
    if len(rows) != len(lines):
        problems.append(f"{len(rows)} rows of predictions for {len(lines)} rows")
    for row in rows:
        inputs = tokenizer(settings.get("source_prefix", "") + row["source"], return_tensors="pt", return_token_type_ids=False)
        labels = tokenizer(text_target=row["target"], return_tensors="pt")["input_ids"]
        loss = model(**inputs, labels=labels).loss.item()
        if labels.numel() != float(row["tokens"]) or abs(loss - float(row["loss"])) > options.tolerance:
            problems.append(f"row {row['row']}: {row['tokens']} tokens, loss {row['loss']}; transformers says {labels.numel()}, {loss}")
        written = model.generate(
            **inputs, do_sample=False, num_beams=settings["num_beams"], max_new_tokens=settings["max_target_length"],
            no_repeat_ngram_size=settings.get("no_repeat_ngram_size", 0))
        text = tokenizer.decode(written[0], skip_special_tokens=True)
        if text != row["prediction"]:
            problems.append(f"row {row['row']}: wrote {row['prediction']!r}, transformers {text!r}")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("jobs", type=Path, nargs="+")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    options = parser.parse_args()
    found = [f"{job.name}: {problem}" for job in options.jobs for problem in check(job, options)]
    print("\n".join(found) or f"{len(options.jobs)} models agree")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
