"""Tests of the bench's arithmetic (`make test` runs them); what it measures needs a machine to itself."""

import json
import pathlib
import struct
import tempfile
import unittest

import machine
import recipe
import table
import trainer

START = 1_700_000_000.0


def event(kind: str, seconds: float, step: int = 0, data=None, values=None) -> dict:
    at = f"2023-11-14T22:13:{20 + seconds:06.3f}Z"
    return {"kind": kind, "at": at, "step": step, "data": data or {}, "values": values or {}}


def step(number: int, seconds: float, tokens: int, padding: float, loss: float) -> dict:
    data = {"samples": 32 * number, "tokens": tokens, "padding": padding, "step_seconds": 2.0}
    return event("train", seconds, number, data, {"loss": loss})


class Measures(unittest.TestCase):
    EVENTS = [event("phase", 0.5, data={"phase": "loading", "precision": "bf16"}), event("phase", 1, data={"phase": "training"}),
              step(1, 3, 900, 0.1, 0.7), step(2, 5, 1700, 0.2, 0.5), event("phase", 5, data={"phase": "evaluating"}),
              event("eval", 9, 2, {"seconds": 4.0}, {"loss": 0.4, "accuracy": 0.8}), event("phase", 9, data={"phase": "training"})]

    def test_rates_count_from_the_first_phase_of_training_to_the_last_step(self):
        found = trainer.measures(self.EVENTS, START)
        self.assertAlmostEqual(found["samples_per_s"], 64 / 4)
        self.assertAlmostEqual(found["tokens_per_s"], 1700 / 4)
        self.assertEqual((found["precision"], found["steps"], found["to_first_step_s"]), ("bf16", 2, 3.0))
        self.assertEqual((found["accuracy"], found["eval_loss"]), (0.8, 0.4))

    def test_padding_is_weighed_by_the_tokens_of_its_step(self):
        self.assertAlmostEqual(trainer.measures(self.EVENTS, START)["real_share"], 1700 / (1000 + 1000))


class Encoder(unittest.TestCase):
    def test_only_the_layers_of_the_encoder_count(self):
        shapes = {"bert.embeddings.word_embeddings.weight": [100, 8], "bert.encoder.layer.0.output.dense.weight": [8, 32],
                  "bert.encoder.layer.0.output.dense.bias": [8], "bert.pooler.dense.weight": [8, 8]}
        header = json.dumps({name: {"shape": shape} for name, shape in shapes.items()}).encode()
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
            self.assertEqual(recipe.encoder_weights(pathlib.Path(folder)), 8 * 32 + 8)


def run(who: str, number: int, rate: float, precision: str = "fp32", **changes) -> dict:
    return {"who": who, "round": number, "seed": number, "valid": True, "precision": precision, "samples_per_s": rate,
            "tokens_per_s": 30 * rate, "median_step_s": 1.0, "to_first_step_s": 1.0, "train_s": 9.0, "real_share": 0.9, "tokens": 9,
            "peak_mb": 800, "train_loss": 0.3, "eval_loss": 0.36, "accuracy": 0.85, **changes}


class Sample(unittest.TestCase):
    def test_it_has_the_first_rows_whole_and_the_rest_of_the_folder(self):
        with tempfile.TemporaryDirectory() as source, tempfile.TemporaryDirectory() as folder:
            source, folder = pathlib.Path(source), pathlib.Path(folder)
            (source / "minilm").mkdir()
            (source / "reviews-validation.csv").write_text("text,label\nv,x\n")
            (source / "reviews-train.csv").write_text("text,label\n" + "".join(f'"{n},\n",x\n' for n in range(100)))
            made = recipe.sample(source, 2, folder)
            self.assertEqual(recipe.rows(made / "reviews-train.csv"), 64)
            self.assertIn('"63,\n",x\n', (made / "reviews-train.csv").read_text())
            self.assertEqual(recipe.rows(made / "reviews-validation.csv"), 1)


class Bars(unittest.TestCase):
    def lines(self, seeds: int = 3) -> list:
        header = {"who": "bench", "bench": "now", "machine": {"cpu": "one", "cores": 2, "memory_gb": 8}, "steps": None, "threads": 2,
                  "rounds": seeds, "batch": 32, "rows": 100, "encoder_weights": 10_000_000, "no_peer": None}
        lines = [header, {"who": "first-metrics", "seconds": [0.5, 3.0, 0.7], "valid": True}]
        for number in range(seeds):
            lines += [{"who": "products", "round": number, "fp32": 200.0, "bf16": 400.0, "valid": True},
                      run("luthier-fp32", number, 90.0), run("peer-grouped", number, 60.0), run("peer-default", number, 40.0),
                      run("luthier-auto", number, 130.0, "bf16", accuracy=0.845, eval_loss=0.361)]
        return lines

    def test_each_bar_is_held_or_missed_by_its_value(self):
        bars = {bar["name"]: bar for bar in table.bars(table.summary(self.lines()))}
        self.assertAlmostEqual(bars["samples/s, fp32 over transformers' best fp32"]["value"], 1.5)
        self.assertAlmostEqual(bars["samples/s, fp32 over transformers' default"]["value"], 2.25)
        # 6 × 10⁷ × 30 × 90 operations a second.
        self.assertAlmostEqual(bars["FLOP/s achieved over the product's peak, fp32"]["value"], 162 / 200)
        self.assertAlmostEqual(bars["POST to the first metrics at a client, s"]["value"], 0.7)
        self.assertAlmostEqual(bars["accuracy, auto apart from fp32, means of 3 seeds"]["value"], 0.005)
        self.assertEqual({bar["state"] for name, bar in bars.items() if "any precision" not in name}, {"held"})
        self.assertEqual(bars["samples/s, auto over transformers' best of any precision"]["state"], "missed")

    def test_an_accuracy_of_too_few_seeds_is_no_measurement(self):
        states = [bar["state"] for bar in table.bars(table.summary(self.lines(seeds=2))) if "seeds" in bar["name"]]
        self.assertEqual(states, ["not measured", "not measured"])

    def test_without_the_peer_its_ratios_are_not_measured_and_the_rest_is(self):
        lines = [line for line in self.lines() if not line["who"].startswith("peer")]
        states = [bar["state"] for bar in table.bars(table.summary(lines))]
        self.assertEqual(states, ["not measured"] * 3 + ["held"] * 7)

    def test_times_of_a_busy_machine_do_not_count_beside_those_of_a_quiet_one(self):
        lines = [*self.lines(), run("luthier-fp32", 0, 10.0, valid=False), run("luthier-fp32", 1, 10.0, valid=False)]
        found = table.summary(lines)
        self.assertEqual(found["variants"]["luthier-fp32"]["samples_per_s"], 90.0)
        self.assertEqual((found["busy_runs"], found["doubtful"]), (2, []))
        self.assertNotIn("not valid", table.markdown(lines[0], found))

    def test_times_are_called_invalid_where_no_run_was_quiet(self):
        lines = [{**line, "valid": False} if line["who"] == "peer-grouped" else line for line in self.lines()]
        text = table.markdown(lines[0], table.summary(lines))
        self.assertIn("Times are not valid: there was no quiet run of peer-grouped.", text)
        self.assertIn("| ≥ 1.4 | held (times not valid) |", text)
        self.assertIn("| ≤ 900 | held |", text)

    def test_a_peak_of_a_busy_machine_flatters_nobody(self):
        lines = [{**line, "valid": False, "fp32": 100.0} if (line["who"], line.get("round")) == ("products", 1) else line
                 for line in self.lines()]
        found = table.summary(lines)
        self.assertAlmostEqual(found["variants"]["luthier-fp32"]["of_peak"], 162 / 200)

    def test_the_table_has_a_row_for_each_variant_and_each_bar(self):
        lines = self.lines()
        text = table.markdown(lines[0], table.summary(lines))
        for part in ("| Luthier, auto (bf16) |", "| transformers, grouped by length |", "| ≤ 900 | held |", "| 2.25 |"):
            self.assertIn(part, text)
        self.assertNotIn("different tokens", text)

    def test_sides_that_train_other_tokens_are_told(self):
        lines = [{**line, "tokens": 10} if line["who"] == "peer-default" else line for line in self.lines()]
        self.assertIn("different tokens (9, 10)", table.markdown(lines[0], table.summary(lines)))

    def test_a_ratio_above_one_is_better_for_times_and_memory_too(self):
        lines = [{**line, "peak_mb": 1600, "to_first_step_s": 5.0} if line["who"] == "peer-default" else line for line in self.lines()]
        found = table.ratios(table.summary(lines))
        self.assertAlmostEqual(found["Luthier, fp32: peak memory"]["peer-default"], 2.0)
        self.assertAlmostEqual(found["Luthier, fp32: time to the first step"]["peer-default"], 5.0)
        self.assertAlmostEqual(found["Luthier, fp32: samples/s"]["peer-default"], 2.25)


class Machine(unittest.TestCase):
    def test_the_memory_of_a_program_is_its_own_and_a_failure_shows_its_last_words(self):
        with tempfile.TemporaryDirectory() as folder:
            log = pathlib.Path(folder) / "log"
            found = machine.run(["python3", "-c", "x = b'x' * 200_000_000"], log)
            self.assertTrue(190 < found["peak_mb"] < 400, found)
            with self.assertRaisesRegex(machine.Failed, "ended with 3:\nlast words"):
                machine.run(["sh", "-c", "echo last words; exit 3"], log)


if __name__ == "__main__":
    unittest.main()
