"""Checks a finished model that answers questions against transformers, question by question.

    python check_answers.py CHECKPOINT_DIR ANSWERS_JSON

ANSWERS_JSON is what the trainer said: `[{"question": "…", "context": "…", "answer": "…" or null, "score": 0.9, "null_score": …}, …]`.
How contexts are cut and answers chosen stands in `config.json`. Prints what differs and ends with 1, or with 0 when nothing does.
There is no network: the folder must be complete.
"""

import json
import os
import sys
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fixtures"))
import make_questions as rules

TOLERANCE = 1e-4


def load(folder, problems):
    """The model, with every name that the loading did not like."""
    model, info = AutoModelForQuestionAnswering.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(key):
            problems.append(f"{key}: {sorted(str(name) for name in info[key])}")
    return model


def load_adapter(folder, problems):
    """The base in `base/` with the adapter merged into it, as people are told to load them."""
    from peft import PeftModel

    options = {"config": AutoConfig.from_pretrained(folder), "dtype": torch.float32, "ignore_mismatched_sizes": True}
    base = AutoModelForQuestionAnswering.from_pretrained(folder / "base", **options)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, folder)
    problems += [f"peft: {warning.message}" for warning in told if "adapter" in str(warning.message)]
    return model.merge_and_unload()


def main():
    folder, said = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    config = json.loads((folder / "config.json").read_text())
    settings, problems = config["question_answering"], []
    model = (load_adapter if (folder / "adapter_config.json").exists() else load)(folder, problems)
    if config["architectures"] != [type(model).__name__]:
        problems.append(f"config.json says {config['architectures']}, transformers made {type(model).__name__}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rules.MAX_LENGTH, rules.STRIDE = settings["max_length"], settings["doc_stride"]
    rules.N_BEST, rules.MAX_ANSWER = settings["n_best"], settings["max_answer_length"]
    rules.QUESTIONS = [(row["question"], row["context"], []) for row in said]
    windows = rules.windows_of(tokenizer)
    with torch.no_grad():
        outputs = [model.eval()(**rules.batch_of(window)) for window in windows]
    logits = [(output.start_logits[0].numpy(), output.end_logits[0].numpy()) for output in outputs]
    may_be_null = settings["may_be_unanswerable"]
    for row, right in zip(said, rules.answers(windows, logits, may_be_null)):
        if (row["answer"] or "") != right["answer"]:
            problems.append(f"{row['question']!r}: {row['answer']!r}, transformers says {right['answer']!r}")
        shares = {entry[0] is None: entry[3] for entry in reversed(right["ranked"])}
        for name, share in (("score", shares.get(row["answer"] is None)), ("null_score", shares.get(True))):
            if (row[name] is None) != (share is None) or (share is not None and abs(row[name] - share) > TOLERANCE):
                problems.append(f"{row['question']!r}: {name} {row[name]}, transformers gives {share}")
    print("\n".join(problems))
    return 1 if problems or not said else 0


if __name__ == "__main__":
    sys.exit(main())
