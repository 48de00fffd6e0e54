"""MiniLM on all review sentences: Luthier and transformers' Trainer in turn, on this machine (`make bench`).

usage: reviews.py [--rounds N] [--quick] [--only NAME,…] [--threads N] [--set KEY=JSON]…

Every round runs each variant of `recipe.py` once with the round's number as seed: three rounds give the means over three
seeds. Each run is appended to `results/reviews.jsonl` at once; the table is printed at the end and written beside it, as
JSON and as Markdown. `--quick` trains the rows of 60 steps and looks at no accuracy; `--only` takes some of the variants, and
`first-metrics`; `--set precision='"bf16_pure"'` changes a field of Luthier's `training`.
"""

import argparse
import datetime
import json
import pathlib
import sys
import tempfile

TREE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TREE / "scripts"))

import machine  # noqa: E402
import recipe  # noqa: E402
import server  # noqa: E402
import table  # noqa: E402
import trainer  # noqa: E402

import samples  # noqa: E402
import setup  # noqa: E402
import venv  # noqa: E402

QUICK_STEPS = 60
PROGRAMS = setup.target() / "release"


class Bench:
    """One call of this program: its settings, and where its lines go."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.data = recipe.sample(samples.prepare(), options.steps, options.folder) if options.steps else samples.prepare()
        self.start = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H%M%SZ")
        self.lines = []
        self.python, self.no_peer = None, None
        try:
            self.python = venv.install("reference")
        except venv.Unavailable as error:
            self.no_peer = str(error).splitlines()[0]
            machine.warn(f"transformers could not be installed and is left out: {error}")

    def tell(self, who: str, **fields) -> None:
        """Appends a line to the results."""
        line = {"bench": self.start, "who": who, **fields}
        self.lines.append(line)
        table.RESULTS.mkdir(exist_ok=True)
        with open(table.RESULTS / "reviews.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def wanted(self, name: str) -> bool:
        return not self.options.only or name in self.options.only

    def head(self) -> None:
        """What this bench is, and the memory of programs that do nothing."""
        options = self.options
        self.tell("bench", machine=machine.describe(), threads=options.threads, steps=options.steps, rounds=options.rounds,
                  batch=recipe.BATCH, rows=recipe.rows(self.data / "reviews-train.csv"), changes=options.changes,
                  encoder_weights=recipe.encoder_weights(self.data / "minilm"), no_peer=self.no_peer)
        programs = {"luthier": [PROGRAMS / "luthier-trainer", "devices"]}
        if self.python:
            programs["transformers"] = [self.python, "-c", "import torch, transformers; torch.ones(1) + 1"]
        with tempfile.TemporaryDirectory(prefix="luthier-bench-") as scratch:
            for side, command in programs.items():
                self.tell("idle", side=side, peak_mb=machine.run(command, pathlib.Path(scratch) / "log")["peak_mb"])

    def measured(self, who: str, work, **fields) -> None:
        """Runs `work(scratch)` on a quiet machine, and tells what it found."""
        before = machine.wait_until_quiet(self.options.patience)
        with tempfile.TemporaryDirectory(prefix="luthier-bench-") as scratch:
            # Postgres runs as another user where this is root.
            pathlib.Path(scratch).chmod(0o755)
            found = work(pathlib.Path(scratch))
        during = found.get("others_load", 0.0)
        if before <= machine.QUIET < during:
            machine.warn(f"others kept {during:.1f} processors busy during this run. Its times are not valid.")
        valid = max(before, during) <= machine.QUIET
        self.tell(who, **fields, load_before=round(before, 2), valid=valid, **found)

    def products(self, number: int) -> None:
        """The rate of matrix products, which the trainings of this round are measured against."""
        def work(scratch):
            process = machine.run([PROGRAMS / "luthier-trainer", "products", "--threads", self.options.threads], scratch / "log")
            rates = json.loads((scratch / "log").read_text().splitlines()[-1])
            best = {kind: rates[kind] and rates[kind]["gflops"] for kind in ("fp32", "bf16")}
            return {**best, "shapes": {kind: rates[kind] and rates[kind]["shapes"] for kind in best}, "others_load": process["others_load"]}

        self.measured("products", work, round=number)
        self.show("products")

    def variant(self, name: str, number: int) -> None:
        """One training."""
        how = recipe.VARIANTS[name]
        self.options.seed = number

        def luthier(scratch):
            changes = {**how["training"], **self.options.changes}
            return trainer.train(PROGRAMS / "luthier-trainer", self.data, scratch, changes, self.options)

        def peer(scratch):
            settings = {"sampling": how["sampling"], "bf16": how["bf16"], "seed": number, "threads": self.options.threads,
                        "evaluate": not self.options.steps}
            (scratch / "settings.json").write_text(json.dumps(settings))
            process = machine.run([self.python, TREE / "bench" / "peer.py", self.data, scratch / "settings.json",
                                   scratch / "answer.json", scratch / "trainer"], scratch / "log",
                                  OMP_NUM_THREADS=str(self.options.threads), TOKENIZERS_PARALLELISM="true")
            answer = json.loads((scratch / "answer.json").read_text())
            return {**process, **answer, "to_first_step_s": round(answer["first_step_at"] - process["started"], 2)}

        self.measured(name, luthier if how["side"] == "luthier" else peer, round=number, seed=number)
        self.show(name)

    def first_metrics(self) -> None:
        """From the POST of a job to its first metrics."""
        times = 1 if self.options.steps else 5
        self.measured("first-metrics", lambda scratch: server.first_metrics(
            PROGRAMS / "luthier", self.data, scratch, times, self.options.threads))
        self.show("first-metrics")

    def show(self, who: str) -> None:
        """The newest line in short."""
        line = self.lines[-1]
        shown = ("fp32", "bf16", "seconds", "precision", "samples_per_s", "to_first_step_s", "peak_mb", "accuracy", "valid")
        pairs = (f"{name} {round(line[name], 3) if isinstance(line[name], float) else line[name]}" for name in shown if name in line)
        machine.say(f"{who}: {', '.join(pairs)}")

    def run(self) -> None:
        """Everything, in turn."""
        self.head()
        for number in range(self.options.rounds):
            self.products(number)
            for name, how in recipe.VARIANTS.items():
                if self.wanted(name) and (self.python or how["side"] == "luthier"):
                    self.variant(name, number)
        if self.wanted("first-metrics"):
            self.first_metrics()
        found = table.summary(self.lines)
        text = table.markdown(self.lines[0], found)
        (table.RESULTS / f"reviews-{self.start}.json").write_text(
            json.dumps({**self.lines[0], **found, "ratios": table.ratios(found), "bars": table.bars(found)}, indent=1) + "\n")
        (table.RESULTS / f"reviews-{self.start}.md").write_text(text)
        print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, help="3; with --quick 1")
    parser.add_argument("--quick", action="store_true", help=f"the rows of {QUICK_STEPS} steps, no accuracy")
    parser.add_argument("--steps", type=int, help="the rows of so many steps, no accuracy")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], metavar="NAME,…")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON")
    options = parser.parse_args()
    known = [*recipe.VARIANTS, "first-metrics"]
    if unknown := [name for name in options.only if name not in known]:
        parser.error(f"there is no {unknown[0]}; there are {', '.join(known)}")
    options.steps = options.steps or (QUICK_STEPS if options.quick else None)
    options.rounds = options.rounds or (1 if options.steps else table.SEEDS)
    options.patience = 10 if options.steps else 120
    options.changes = {key: json.loads(value) for key, _, value in (word.partition("=") for word in options.set)}
    with tempfile.TemporaryDirectory(prefix="luthier-bench-") as folder:
        options.folder = pathlib.Path(folder)
        try:
            Bench(options).run()
        except machine.Failed as error:
            sys.exit(f"bench: {error}")


if __name__ == "__main__":
    main()
