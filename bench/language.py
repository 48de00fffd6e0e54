"""SmolLM2-135M-Instruct: Luthier and transformers in turn, on this machine (part of `make bench`).

usage: language.py [--quick] [--only NAME,…] [--threads N] [--rounds N]

`lora`: an adapter (rank 16 on all linear layers) learns 400 chats. `full`: all weights learn 600 sentences, joined and cut into
blocks of 256 tokens. `generate`: greedy continuations of chats, one at a time and eight at once. Each `…-luthier` beside its
`…-peer`; the loss of each tuned model is told by both sides on the same rows. `--quick` takes a fifth of the rows.
The table is printed at the end and written into `results/`, as JSON and as Markdown.
"""

import argparse
import csv
import datetime
import json
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

TREE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TREE / "scripts"))

import machine  # noqa: E402
import table  # noqa: E402
import trainer  # noqa: E402

import samples  # noqa: E402
import setup  # noqa: E402
import venv  # noqa: E402

PROGRAM = setup.target() / "release" / "luthier-trainer"
LORA = {"kind": "lora", "rows": 400, "held_out": 200, "batch": 8, "learning_rate": 2e-4, "max_length": 512, "rank": 16, "alpha": 32}
FULL = {"kind": "full", "rows": 600, "held_out": 300, "batch": 4, "learning_rate": 5e-5, "max_length": 256}
PROMPTS = ["What is the capital of France?", "Write a short poem about rain.", "Explain gravity to a child.", "List three fruits.",
           "Why is the sky blue?", "Tell me a story about a fox.", "How do I boil an egg?", "What is a prime number?"]
TOKENS = 64
NAMES = {"lora-luthier": "LoRA, Luthier fp32", "lora-auto": "LoRA, Luthier auto", "lora-peer": "LoRA, transformers and peft",
         "full-luthier": "full, Luthier fp32", "full-auto": "full, Luthier auto", "full-peer": "full, transformers",
         "generate-luthier": "writing, Luthier", "generate-peer": "writing, transformers"}


def reviews(part: str, count: int) -> list:
    """So many reviews of a part, drawn by a fixed seed: the file is sorted."""
    with open(samples.prepare() / f"reviews-{part}.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    random.Random(0).shuffle(rows)
    return rows[:count]


def line_of(kind: str, row: dict) -> dict:
    """A row of training data."""
    if kind == "full":
        return {"text": row["text"]}
    return {"messages": [{"role": "system", "content": "You judge film reviews."},
                         {"role": "user", "content": f"Is this review positive or negative?\n\n{row['text']}"},
                         {"role": "assistant", "content": f"The review is {row['label']}."}]}


class Bench:
    """One call of this program."""

    def __init__(self, options: argparse.Namespace, folder: pathlib.Path):
        self.options, self.folder = options, folder
        self.model = samples.language_model(PROGRAM)
        self.start = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H%M%SZ")
        self.found = {}
        self.python = None
        try:
            self.python = venv.install("reference")
        except venv.Unavailable as error:
            machine.warn(f"transformers could not be installed and is left out: {error}")

    def data(self, recipe: dict) -> dict:
        """Files of rows, and the recipe with where they are."""
        part = 5 if self.options.quick else 1
        files = {}
        for name, of, count in (("train", "train", recipe["rows"] // part), ("validation", "validation", recipe["held_out"] // part)):
            files[name] = self.folder / f"{recipe['kind']}-{name}.jsonl"
            rows = [json.dumps(line_of(recipe["kind"], row)) for row in reviews(of, count)]
            files[name].write_text("\n".join(rows) + "\n", encoding="utf-8")
        return {**recipe, **{name: str(path) for name, path in files.items()}}

    def luthier(self, recipe: dict, precision: str) -> dict:
        """One training by a job, and what transformers says of the model that came out."""
        recipe = self.data(recipe)
        training = {"epochs": 1, "batch_size": recipe["batch"], "learning_rate": recipe["learning_rate"], "precision": precision,
                    "max_length": recipe["max_length"], "weight_decay": 0.0, "log_every": 1,
                    # The peer writes nothing either.
                    "samples": {"rows": 0}}
        if recipe["kind"] == "lora":
            training["lora"] = {"rank": recipe["rank"], "alpha": recipe["alpha"], "targets": "all-linear"}
        spec = {"task": "text-generation", "data": {"train": "train.jsonl", "validation": "validation.jsonl"}, "training": training,
                "split": {"fraction": 0.0}, "resources": {"device": "cpu", "threads": self.options.threads},
                "base_model": "smollm2", "name": "bench"}
        with tempfile.TemporaryDirectory(prefix="luthier-bench-") as scratch:
            job = pathlib.Path(scratch) / "job"
            (job / "data").mkdir(parents=True)
            for part in ("train", "validation"):
                (job / "data" / f"{part}.jsonl").write_bytes(pathlib.Path(recipe[part]).read_bytes())
            (job / "model").symlink_to(self.model)
            (job / "spec.json").write_text(json.dumps(spec))
            process = machine.run([PROGRAM, "job", job], pathlib.Path(scratch) / "log")
            events = [json.loads(line) for line in (job / "out" / "events.jsonl").read_text().splitlines()]
            said = [event for event in events if event["kind"] == "eval"][-1]["values"]
            found = {**process, **trainer.rates(events), "eval_loss": said["loss"], "perplexity": said["perplexity"]}
            if self.python:
                found["checked_loss"] = self.ask("check", {**recipe, "tuned": str(job / "out" / "model")})["eval_loss"]
        return found

    def ask(self, what: str, settings: dict) -> dict:
        """What transformers finds."""
        settings = {"threads": self.options.threads, "seed": 0, "weight_decay": 0.0, "bf16": False, "model": str(self.model), **settings}
        with tempfile.TemporaryDirectory(prefix="luthier-bench-") as scratch:
            scratch = pathlib.Path(scratch)
            (scratch / "settings.json").write_text(json.dumps(settings))
            process = machine.run([self.python, TREE / "bench" / "peer_language.py", what, scratch / "settings.json",
                                   scratch / "answer.json", scratch / "trainer"], scratch / "log", HF_HUB_OFFLINE="1",
                                  OMP_NUM_THREADS=str(self.options.threads), TOKENIZERS_PARALLELISM="true")
            return {**process, **json.loads((scratch / "answer.json").read_text())}

    def generate(self) -> dict:
        """Tokens a second of one request, and of eight at once."""
        process = subprocess.Popen([PROGRAM, "generate", self.model, "--device", "cpu", "--threads", str(self.options.threads)],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        json.loads(process.stdout.readline())
        ends = {str(number): -100.0 for number in self.ends()}

        def write(prompts: list) -> float:
            began = time.time()
            for number, text in enumerate(prompts):
                asked = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": TOKENS, "logit_bias": ends}
                process.stdin.write(json.dumps({"id": number, "generate": asked}) + "\n")
            process.stdin.flush()
            left = len(prompts)
            while left:
                line = json.loads(process.stdout.readline())
                assert "error" not in line, line
                left -= "done" in line
            return time.time() - began

        write(PROMPTS[:1])
        rates = {"one": [], "together": []}
        for _ in range(self.options.rounds):
            rates["one"].append(TOKENS / write(PROMPTS[:1]))
            rates["together"].append(len(PROMPTS) * TOKENS / write(PROMPTS))
        process.stdin.close()
        process.wait()
        return {name: statistics.median(values) for name, values in rates.items()}

    def ends(self) -> set:
        """Tokens that end an answer: none is to end before its time."""
        config = json.loads((self.model / "config.json").read_text())
        ids = config["eos_token_id"] if isinstance(config["eos_token_id"], list) else [config["eos_token_id"]]
        names = json.loads((self.model / "tokenizer_config.json").read_text())
        added = json.loads((self.model / "tokenizer.json").read_text())["added_tokens"]
        return {*ids, *(token["id"] for token in added if token["content"] == names.get("eos_token"))}

    def run(self) -> None:
        """Everything, in turn."""
        how = {"lora-luthier": lambda: self.luthier(LORA, "fp32"), "lora-peer": lambda: self.ask("lora", self.data(LORA)),
               "full-luthier": lambda: self.luthier(FULL, "fp32"), "full-peer": lambda: self.ask("full", self.data(FULL)),
               "generate-luthier": self.generate,
               "generate-peer": lambda: self.ask("generate", {"prompts": PROMPTS, "tokens": TOKENS, "rounds": self.options.rounds})}
        if machine.describe()["bf16"]:
            how |= {"lora-auto": lambda: self.luthier(LORA, "auto"), "full-auto": lambda: self.luthier(FULL, "auto")}
        for name, work in how.items():
            wanted = not self.options.only or name in self.options.only or name.split("-")[0] in self.options.only
            if wanted and (self.python or not name.endswith("peer")):
                load = machine.wait_until_quiet(10 if self.options.quick else 120)
                found = work()
                self.found[name] = {**found, "valid": max(load, found.get("others_load", 0.0)) <= machine.QUIET}
                machine.say(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in self.found[name].items()
                                                    if isinstance(value, float)))
        head = {"bench": self.start, "machine": machine.describe(), "threads": self.options.threads, "quick": self.options.quick}
        bars = [bar for bar in self.bars() if bar["value"] is not None]
        text = markdown(head, self.found, bars)
        table.RESULTS.mkdir(exist_ok=True)
        (table.RESULTS / f"language-{self.start}.json").write_text(json.dumps({**head, "runs": self.found, "bars": bars}, indent=1) + "\n")
        (table.RESULTS / f"language-{self.start}.md").write_text(text)
        print(text)

    def bars(self) -> list:
        """What must hold."""
        def of(name, field):
            return self.found.get(name, {}).get(field)

        def ratio(above, below):
            return above / below if above and below else None

        rows = []
        for kind, words, bar in (("lora", "LoRA", 1.4), ("full", "full tuning", 1.3)):
            peer = of(f"{kind}-peer", "tokens_per_s")
            rows.append((f"{words}: tokens/s, fp32 over transformers", ratio(of(f"{kind}-luthier", "tokens_per_s"), peer), bar, False))
            rows.append((f"{words}: tokens/s, auto over transformers", ratio(of(f"{kind}-auto", "tokens_per_s"), peer), 2.2, False))
            checked = ratio(of(f"{kind}-luthier", "checked_loss"), of(f"{kind}-luthier", "eval_loss"))
            rows.append((f"{words}: loss of the same model and rows by transformers, apart", checked and abs(checked - 1), 0.002, True))
        rows.append(("LoRA: peak memory over transformers'", ratio(of("lora-luthier", "peak_mb"), of("lora-peer", "peak_mb")), 0.5, True))
        one, together = (of("generate-luthier", name) for name in ("one", "together"))
        rows.append(("writing: tokens/s of one request over transformers", ratio(one, of("generate-peer", "one")), 1.5, False))
        rows.append(("writing: of eight at once over transformers' padded batch", ratio(together, of("generate-peer", "together")), 1.5, False))
        rows.append(("writing: of eight at once over transformers' eight in turn", ratio(together, of("generate-peer", "in_turn")), 3.0, False))
        return [{"name": name, "value": value, "bar": bar, "held": value is not None and (value <= bar if most else value >= bar)}
                for name, value, bar, most in rows]


def markdown(head: dict, found: dict, bars: list) -> str:
    """The table."""
    rows = ["| | tokens/s | peak MB | loss | eight at once | eight in turn |", "| --- | --- | --- | --- | --- | --- |"]

    def number(value, digits=1):
        return "" if value is None else f"{value:.{digits}f}"

    for name, run in found.items():
        rate = run.get("tokens_per_s", run.get("one"))
        rows.append(f"| {NAMES[name]}{'' if run['valid'] else ' (busy machine)'} | {number(rate)} | {number(run.get('peak_mb'), 0)} | "
                    f"{number(run.get('eval_loss'), 4)} | {number(run.get('together'))} | {number(run.get('in_turn'))} |")
    judged = [f"| {bar['name']} | {bar['value']:.4g} | {bar['bar']:g} | {'held' if bar['held'] else 'missed'} |" for bar in bars]
    cpu = head["machine"]
    return "\n".join([f"# SmolLM2-135M-Instruct, {head['bench']}{', a fifth of the rows' if head['quick'] else ''}", "",
                      f"{cpu['cpu']}, {head['threads']} threads{'' if cpu['bf16'] else ', no bf16'}.", "", *rows, "",
                      "| figure | value | bar | |", "| --- | --- | --- | --- |", *judged, ""])




def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a fifth of the rows")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], metavar="NAME,…")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="of writing")
    # What is for the other bench alone is passed over.
    options, _ = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="luthier-bench-") as folder:
        pathlib.Path(folder).chmod(0o755)
        try:
            Bench(options, pathlib.Path(folder)).run()
        except machine.Failed as error:
            sys.exit(f"bench: {error}")


if __name__ == "__main__":
    main()
