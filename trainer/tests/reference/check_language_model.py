"""Checks finished language models against transformers, row by row; an adapter is put onto its base by peft.

    python check_language_model.py TEMPLATE JOB_DIR… [--tolerance X]

TEMPLATE is the chat template as Jinja; the tokens of the assistant's last turn count. A job's folder has the model in `out/model`,
the chats in `data/validation.jsonl`, and in `out/model/predictions-validation.csv` what the trainer said of each: `row`, `tokens`
that count, their mean `loss`, `mean_token_accuracy`.

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
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(folder, problems):
    """The model, with every name that the loading did not like."""
    adapter = (folder / "adapter_config.json").exists()
    base = folder / "base" if adapter else folder
    model, info = AutoModelForCausalLM.from_pretrained(base, output_loading_info=True, dtype=torch.float32)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(key):
            problems.append(f"{key}: {sorted(map(str, info[key]))}")
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder)
    return model.eval()


def said_of(model, tokenizer, messages):
    """Counted tokens of a chat, their mean loss, and the share of them that has the greatest logit."""
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    before = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    first = len(tokenizer(before, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].float()
    targets = torch.tensor(ids[first:])
    logits = logits[first - 1 : -1]
    loss = torch.nn.functional.cross_entropy(logits, targets)
    return len(targets), loss.item(), (logits.argmax(-1) == targets).float().mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("template")
    parser.add_argument("jobs", type=Path, nargs="+")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    options = parser.parse_args()
    found = [f"{job.name}: {problem}" for job in options.jobs for problem in check(job, options)]
    print("\n".join(found) or f"{len(options.jobs)} models agree")
    return 1 if found else 0


def check(job, options):
    """What differs in one job's model."""
    problems, folder = [], job / "out" / "model"
    model = load(folder, problems)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = options.template
    chats = [json.loads(line)["messages"] for line in (job / "data" / "validation.jsonl").read_text().splitlines()]
    with open(folder / "predictions-validation.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if len(rows) != len(chats):
        problems.append(f"{len(rows)} rows of predictions for {len(chats)} chats")
    for row, messages in zip(rows, chats):
        tokens, loss, accuracy = said_of(model, tokenizer, messages)
        found = float(row["tokens"]), float(row["loss"]), float(row["mean_token_accuracy"])
        if tokens != found[0] or abs(loss - found[1]) > options.tolerance or abs(accuracy - found[2]) > 1e-6:
            problems.append(f"row {row['row']}: {found}, transformers says {(tokens, loss, accuracy)}")
    return problems


if __name__ == "__main__":
    sys.exit(main())
