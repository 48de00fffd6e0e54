"""Checks a finished checkpoint against transformers, row by row; an adapter is put onto its base by peft.

    python check_checkpoint.py CHECKPOINT_DIR PREDICTIONS_JSON [--tokenizer-from DIR] [--max-length N] [--batch-size N]

PREDICTIONS_JSON is what the trainer said of each row:

    [{"text": "…", "text_pair": "…"?, "label_id": 1?, "predicted": "positive", "scores": [0.1, 0.9]}, …]

`scores` has one number per label, in the order of the label ids: softmax (single label), sigmoid (multi label) or the
value itself (regression; then one number, and `predicted` may be left out). `predicted` is a label's name, or a list of names
for multi label. `label_id` is the gold label; where every row has one, the report holds the accuracy.

Prints a JSON report and ends with 0 when everything agrees, with 1 when something differs, with 2 when the arguments or the
predictions cannot be read. There is no network: the folder must be complete.
"""

import argparse
import json
import math
import os
import sys
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import torch
import transformers
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

TOLERANCE = 1e-4
# Two scores nearer than this are a tie, which rounding may decide either way.
TIE = 1e-6
PROBLEMS = ("single_label_classification", "multi_label_classification", "regression")
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json",
    "merges.txt", "sentencepiece.bpe.model", "spiece.model", "chat_template.jinja",
)
SHOWN = 20


def arguments(words=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--tokenizer-from", type=Path, help="the folder that the tokenizer files must be byte-equal to")
    parser.add_argument("--max-length", type=int, help="tokens a row; by default what the tokenizer and the model allow")
    parser.add_argument("--batch-size", type=int, default=1, help="rows at a time; 1 means no padding at all")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help=f"of a score, absolute (default {TOLERANCE})")
    return parser.parse_args(words)


def check_config(folder, problems):
    """What must be in config.json, read as plain JSON: transformers would fill gaps with defaults."""
    config = json.loads((folder / "config.json").read_text())
    names, ids = config.get("id2label"), config.get("label2id")
    if not isinstance(names, dict) or not names:
        problems.append("config.json: id2label is missing")
    elif sorted(names, key=int) != [str(i) for i in range(len(names))]:
        problems.append(f"config.json: the keys of id2label are {sorted(names)}, not 0 to {len(names) - 1}")
    elif ids != {name: int(i) for i, name in names.items()}:
        problems.append(f"config.json: label2id {ids} is not the inverse of id2label {names}")
    architectures = config.get("architectures")
    if not (isinstance(architectures, list) and len(architectures) == 1 and architectures[0].endswith("ForSequenceClassification")):
        problems.append(f"config.json: architectures is {architectures}")
    if config.get("problem_type") not in PROBLEMS:
        problems.append(f"config.json: problem_type is {config.get('problem_type')!r}, not one of {', '.join(PROBLEMS)}")
    return config


def load(folder, config, problems):
    """The model, with every name that the loading did not like."""
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(str(name) for name in info.get(key) or [])
        if names:
            problems.append(f"{key}: {', '.join(names)}")
    if info.get("error_msgs"):
        problems.append(f"loading: {info['error_msgs']}")
    architectures = config.get("architectures") or [None]
    if type(model).__name__ != architectures[0]:
        problems.append(f"config.json says {architectures[0]}, transformers made {type(model).__name__}")
    names = config.get("id2label") or {}
    if model.num_labels != len(names):
        problems.append(f"the head has {model.num_labels} outputs, id2label has {len(names)} names")
    return model.eval()


def in_nf4(model):
    """The numbers that linear layers have in bitsandbytes' NF4 with double quantization; the classifier stays as it is."""
    from bitsandbytes import functional

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.startswith("classifier"):
            codes, state = functional.quantize_4bit(module.weight.data, compress_statistics=True, quant_type="nf4")
            module.weight.data = functional.dequantize_4bit(codes, state)
    return model


def load_adapter(folder, config, problems):
    """The base in `base/` with the adapter on it, as people are told to load them."""
    from peft import PeftModel

    tuned = AutoConfig.from_pretrained(folder)
    # A base may have a head of other labels, in whose place the adapter's comes.
    options = {"config": tuned, "dtype": torch.float32, "ignore_mismatched_sizes": True}
    model = AutoModelForSequenceClassification.from_pretrained(folder / "base", **options)
    if config.get("base_quantization") == "nf4":
        model = in_nf4(model)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(model, folder)
    problems += [f"peft: {warning.message}" for warning in told if "adapter" in str(warning.message)]
    return model.eval()


def check_tokenizer(folder, source, problems):
    """Every tokenizer file of the source is here, byte for byte, and no other one is."""
    compared = []
    for name in TOKENIZER_FILES:
        here, there = folder / name, source / name
        if here.exists() != there.exists():
            problems.append(f"{name}: only in {'the checkpoint' if here.exists() else 'the source of the tokenizer'}")
        elif here.exists():
            compared.append(name)
            if here.read_bytes() != there.read_bytes():
                problems.append(f"{name}: not byte-equal to the source of the tokenizer")
    if not compared:
        problems.append("no tokenizer file in both folders: nothing was compared")
    return compared


def longest(model, tokenizer):
    """How many tokens a row may have; RoBERTa's positions start after the padding id."""
    limits = [tokenizer.model_max_length]
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions:
        offset = model.config.pad_token_id + 1 if "roberta" in model.config.model_type else 0
        limits.append(positions - offset)
    return min(limits)


@torch.no_grad()
def scores_of(model, tokenizer, rows, max_length, problem):
    pairs = [row.get("text_pair") for row in rows]
    if any(pair is not None for pair in pairs):
        encoded = [tokenizer(row["text"], pair, truncation=True, max_length=max_length) for row, pair in zip(rows, pairs)]
        batch = tokenizer.pad(encoded, return_tensors="pt")
    else:
        batch = tokenizer([row["text"] for row in rows], truncation=True, max_length=max_length, padding=True, return_tensors="pt")
    logits = model(**batch).logits
    if problem == "regression":
        return logits.tolist()
    return (logits.sigmoid() if problem == "multi_label_classification" else logits.softmax(-1)).tolist()


def predicted_of(scores, names, problem):
    if problem == "multi_label_classification":
        return [name for name, score in zip(names, scores) if score > 0.5]
    return names[max(range(len(scores)), key=scores.__getitem__)]


def same_label(said, expected, scores, problem, names):
    """Equal, or apart only by a tie."""
    if problem == "multi_label_classification":
        differ = set(said) ^ set(expected)
        return all(name in names and abs(scores[names.index(name)] - 0.5) < TIE for name in differ)
    return said == expected or (said in names and max(scores) - scores[names.index(said)] < TIE)


def compare_row(index, row, scores, names, problem, tolerance):
    said, found = row.get("scores"), []
    if not isinstance(said, list) or len(said) != len(scores):
        found.append(f"row {index}: {len(said) if isinstance(said, list) else 'no'} scores, expected {len(scores)}")
        return found, math.inf
    # A null or NaN is a difference without measure.
    apart = max(abs(a - b) if isinstance(a, (int, float)) and math.isfinite(a) else math.inf for a, b in zip(said, scores))
    if not apart <= tolerance:
        found.append(f"row {index}: scores {said}, transformers gives {scores}")
    if problem == "regression":
        return found, apart
    expected = predicted_of(scores, names, problem)
    if "predicted" not in row:
        found.append(f"row {index}: predicted is missing")
    elif not same_label(row["predicted"], expected, scores, problem, names):
        found.append(f"row {index}: predicted {row['predicted']!r}, transformers says {expected!r} ({row['text'][:80]!r})")
    return found, apart


def compare(model, tokenizer, rows, config, options, problems):
    problem = config.get("problem_type")
    names = [config["id2label"][str(i)] for i in range(len(config["id2label"]))]
    max_length = options.max_length or longest(model, tokenizer)
    wrong, largest, right, judged = 0, 0.0, 0, 0
    for start in range(0, len(rows), options.batch_size):
        part = rows[start:start + options.batch_size]
        for i, (row, scores) in enumerate(zip(part, scores_of(model, tokenizer, part, max_length, problem)), start):
            found, apart = compare_row(i, row, scores, names, problem, options.tolerance)
            problems += found[: max(0, SHOWN - wrong)]
            wrong += bool(found)
            largest = max(largest, apart)
            if isinstance(row.get("label_id"), int) and problem == "single_label_classification":
                judged += 1
                right += names[row["label_id"]] == predicted_of(scores, names, problem)
    report = {"rows": len(rows), "rows_that_differ": wrong, "max_length": max_length}
    report["largest_score_difference"] = largest if math.isfinite(largest) else None
    report["accuracy"] = right / judged if judged and judged == len(rows) else None
    return report


def check(options, rows):
    folder, problems, report = options.checkpoint, [], {}
    try:
        config = check_config(folder, problems)
        is_adapter = (folder / "adapter_config.json").exists()
        model = (load_adapter if is_adapter else load)(folder, config, problems)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if options.tokenizer_from:
            report["tokenizer_files"] = check_tokenizer(folder, options.tokenizer_from, problems)
        report["architecture"] = type(model).__name__
        report["labels"] = config.get("id2label")
        report["problem_type"] = config.get("problem_type")
        # Without a sound label map the rows cannot be read; the reason is among the problems already.
        if not any(problem.startswith("config.json") for problem in problems):
            report |= compare(model, tokenizer, rows, config, options, problems)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        problems.append(f"{type(error).__name__}: {error}")
    return {"ok": not problems, **report, "transformers": transformers.__version__, "problems": problems}


def main(words=None):
    options = arguments(words)
    try:
        rows = json.loads(options.predictions.read_text())
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and isinstance(row.get("text"), str) for row in rows):
            raise ValueError("a list of at least one object with a text is needed")
    except (OSError, ValueError) as error:
        print(f"{options.predictions}: {error}", file=sys.stderr)
        return 2
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    report = check(options, rows)
    print(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False))
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
