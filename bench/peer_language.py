"""The peer's side of `language.py`: transformers, with peft, run by the reference venv's Python.

usage: peer_language.py lora|full|generate|check SETTINGS_JSON ANSWER_JSON SCRATCH

`check` has no time of its own: it gives the loss of rows by a model that Luthier has tuned.
"""

import json
import math
import pathlib
import statistics
import sys
import time

import torch
from transformers import (AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainerCallback,
                          TrainingArguments)


class Clock(TrainerCallback):
    """When training began and when it ended, without what is loaded before and saved after."""

    def on_train_begin(self, *_, **__):
        self.began = time.time()

    def on_step_end(self, *_, **__):
        self.ended = time.time()


def lines(path) -> list:
    return [json.loads(line) for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines()]


def chat_rows(tokenizer, path, limit: int) -> list:
    """Chats as tokens; those of the last turn count."""
    rows = []
    for chat in lines(path):
        said = chat["messages"]
        whole = tokenizer.apply_chat_template(said, tokenize=False)
        asked = tokenizer.apply_chat_template(said[:-1], tokenize=False, add_generation_prompt=True)
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"][:limit]
        first = len(tokenizer(asked, add_special_tokens=False)["input_ids"])
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * min(first, len(ids)) + ids[first:]})
    return rows


def text_blocks(tokenizer, path, length: int) -> list:
    """Texts end to end, an end mark after each, cut into blocks; the last may be shorter."""
    ids = [i for row in lines(path)
           for i in tokenizer(row["text"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]]
    blocks = [ids[at:at + length] for at in range(0, len(ids), length)]
    return [{"input_ids": block, "attention_mask": [1] * len(block), "labels": block} for block in blocks if len(block) > 1]


@torch.no_grad()
def loss(model, rows) -> dict:
    """Of all tokens that count together."""
    model.eval()
    total = tokens = 0.0
    for row in rows:
        labels = torch.tensor([row["labels"]])
        count = int((labels[:, 1:] != -100).sum())
        total += float(model(input_ids=torch.tensor([row["input_ids"]]), labels=labels).loss) * count
        tokens += count
    return {"eval_loss": total / tokens, "perplexity": math.exp(total / tokens), "eval_tokens": int(tokens)}


def rows_of(tokenizer, settings: dict, part: str) -> list:
    read = chat_rows if settings["kind"] == "lora" else text_blocks
    return read(tokenizer, settings[part], settings["max_length"])


def train(settings: dict, scratch: str) -> dict:
    """One epoch."""
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    rows = rows_of(tokenizer, settings, "train")
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32)
    if settings["kind"] == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=settings["rank"], lora_alpha=settings["alpha"], lora_dropout=0.0,
                                                 target_modules="all-linear", task_type="CAUSAL_LM"))
    arguments = TrainingArguments(
        scratch, num_train_epochs=1, per_device_train_batch_size=settings["batch"], learning_rate=settings["learning_rate"],
        lr_scheduler_type="linear", weight_decay=settings["weight_decay"], bf16=settings["bf16"], logging_steps=5,
        save_strategy="no", report_to=[], seed=settings["seed"], use_cpu=True, disable_tqdm=True,
        train_sampling_strategy="group_by_length" if settings["kind"] == "lora" else "random", dataloader_pin_memory=False)
    clock = Clock()
    Trainer(model, arguments, train_dataset=rows, data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
            callbacks=[clock]).train()
    tokens = sum(len(row["input_ids"]) for row in rows)
    seconds = clock.ended - clock.began
    return {"precision": "bf16" if settings["bf16"] else "fp32", "tokens": tokens, "train_s": round(seconds, 2),
            "tokens_per_s": tokens / seconds, **loss(model, rows_of(tokenizer, settings, "validation"))}


def generate(settings: dict) -> dict:
    """Greedy continuations of so many tokens: of one prompt, of all as a padded batch, of all in turn."""
    tokenizer = AutoTokenizer.from_pretrained(settings["model"], padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32).eval()
    asked = [tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
             for text in settings["prompts"]]
    count = settings["tokens"]

    def write(texts: list) -> float:
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        began = time.time()
        model.generate(**batch, max_new_tokens=count, min_new_tokens=count, do_sample=False)
        return time.time() - began

    write(asked[:1])
    rates = {"one": [], "together": [], "in_turn": []}
    for _ in range(settings["rounds"]):
        rates["one"].append(count / write(asked[:1]))
        rates["together"].append(len(asked) * count / write(asked))
        rates["in_turn"].append(len(asked) * count / sum(write([text]) for text in asked))
    return {name: statistics.median(values) for name, values in rates.items()}


def check(settings: dict) -> dict:
    """The loss of the validation rows by a tuned model, an adapter or a checkpoint."""
    folder = pathlib.Path(settings["tuned"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    adapter = (folder / "adapter_config.json").exists()
    model = AutoModelForCausalLM.from_pretrained(folder / "base" if adapter else folder, dtype=torch.float32)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder)
    return loss(model, rows_of(tokenizer, settings, "validation"))


def main() -> None:
    what, settings, answer, scratch = sys.argv[1:5]
    settings = json.loads(pathlib.Path(settings).read_text())
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(settings["seed"])
    found = {"generate": generate, "check": check}.get(what, lambda settings: train(settings, scratch))(settings)
    pathlib.Path(answer).write_text(json.dumps({**found, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
