"""check_checkpoint.py accepts what transformers says and refuses what differs: `python -m unittest` in this folder."""

import contextlib
import io
import json
import math
import shutil
import tempfile
import unittest
from pathlib import Path

from safetensors.torch import load_file, save_file

import check_checkpoint

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"


def softmax(logits):
    odds = [math.exp(x) for x in logits]
    return [x / sum(odds) for x in odds]


def sigmoid(logits):
    return [1.0 / (1.0 + math.exp(-x)) for x in logits]


class CheckCheckpoint(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.root = Path(scratch.name)

    def checkpoint(self, family, **config):
        folder = self.root / family
        shutil.copytree(FIXTURES / family, folder)
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return folder

    def expected(self, family):
        return json.loads((FIXTURES / "expected" / f"{family}.json").read_text())

    def rows(self, family, batch="singles"):
        expected = self.expected(family)
        batch, names = expected["batches"][batch], expected["labels"]
        rows = []
        for text, pair, label, logits in zip(batch["texts"], batch["text_pairs"] or [None] * len(batch["texts"]), batch["labels"], batch["logits"]):
            scores = softmax(logits)
            rows.append({"text": text, "text_pair": pair, "label_id": label, "scores": scores, "predicted": names[scores.index(max(scores))]})
        return rows

    def check(self, folder, rows, *options):
        predictions = self.root / "predictions.json"
        predictions.write_text(json.dumps(rows))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            code = check_checkpoint.main([str(folder), str(predictions), "--max-length", "24", *options])
        report = json.loads(printed.getvalue())
        self.assertEqual(code, 0 if report["ok"] else 1)
        return report

    def test_every_family_agrees_alone_and_padded(self):
        for family in ("bert", "roberta", "xlm_roberta", "distilbert"):
            folder = self.checkpoint(family, problem_type="single_label_classification")
            rows = self.rows(family) + self.rows(family, "pairs")
            report = self.check(folder, rows, "--batch-size", "3", "--tokenizer-from", str(FIXTURES / family))
            self.assertEqual(report["problems"], [], family)
            self.assertEqual(report["rows"], 10)
            self.assertLess(report["largest_score_difference"], 1e-5)

    def test_multi_label_agrees(self):
        expected, folder = self.expected("bert"), self.checkpoint("bert", problem_type="multi_label_classification")
        rows = []
        for text, logits in zip(expected["batches"]["singles"]["texts"], expected["multi_label"]["logits"]):
            names = [name for name, logit in zip(expected["labels"], logits) if logit > 0]
            rows.append({"text": text, "scores": sigmoid(logits), "predicted": names})
        self.assertEqual(self.check(folder, rows)["problems"], [])
        rows[0]["predicted"] = []
        self.assertEqual(len(self.check(folder, rows)["problems"]), 1)

    def test_regression_agrees(self):
        expected = self.expected("distilbert")
        folder = self.checkpoint(
            "distilbert", problem_type="regression", id2label={"0": "score"}, label2id={"score": 0})
        tensors = load_file(folder / "model.safetensors")
        head = load_file(FIXTURES / "expected" / "distilbert.safetensors")
        tensors |= {name: head[f"regression.{name}"] for name in expected["regression"]["head"]}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        texts = expected["batches"]["singles"]["texts"]
        rows = [{"text": text, "scores": [value]} for text, value in zip(texts, expected["regression"]["logits"])]
        self.assertEqual(self.check(folder, rows)["problems"], [])
        rows[3]["scores"][0] += 2e-4
        self.assertEqual(self.check(folder, rows)["rows_that_differ"], 1)

    def test_what_differs_is_named(self):
        folder = self.checkpoint("bert", problem_type="single_label_classification")
        rows = self.rows("bert")
        rows[0]["scores"][1] += 2e-4
        rows[1]["predicted"] = "positive"
        rows[2]["scores"] = [None, None, None]
        problems = self.check(folder, rows)["problems"]
        self.assertEqual([problem.split(":")[0] for problem in problems], ["row 0", "row 1", "row 2"])

    def test_names_that_do_not_fit_are_a_difference(self):
        folder = self.checkpoint("bert", problem_type="single_label_classification")
        tensors = load_file(folder / "model.safetensors")
        tensors["extra"] = tensors.pop("bert.pooler.dense.bias")
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        problems = self.check(folder, self.rows("bert"))["problems"]
        self.assertEqual(problems[:2], ["missing_keys: bert.pooler.dense.bias", "unexpected_keys: extra"])

    def test_a_config_that_says_too_little_is_a_difference(self):
        folder = self.checkpoint("bert", architectures=None, label2id={"negative": 1, "neutral": 0, "positive": 2})
        problems = " ".join(self.check(folder, self.rows("bert"))["problems"])
        for word in ("architectures", "label2id", "problem_type"):
            self.assertIn(word, problems)

    def test_a_changed_tokenizer_file_is_a_difference(self):
        folder = self.checkpoint("bert", problem_type="single_label_classification")
        path = folder / "tokenizer_config.json"
        path.write_text(path.read_text() + "\n")
        problems = self.check(folder, self.rows("bert"), "--tokenizer-from", str(FIXTURES / "bert"))["problems"]
        self.assertEqual(problems, ["tokenizer_config.json: not byte-equal to the source of the tokenizer"])


if __name__ == "__main__":
    unittest.main()
