// The points behind the charts, without a browser.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

const source = readFileSync(join(import.meta.dirname, "../../../static/js/curves.js"), "utf8");
const { Curves, positions, smooth } = await import(`data:text/javascript,${encodeURIComponent(source)}`);

const train = (number, step, loss) => ({ number, kind: "train", step, at: 1000 * step, fields: { loss, epoch: step / 10 } });

function loaded() {
  const curves = new Curves();
  curves.load({
    last: 5,
    kinds: { train: { step: [1, 2], epoch: [0.1, 0.2], at: [1000, 2000], fields: { loss: [0.9, 0.8] } } },
    seams: [],
  });
  return curves;
}

test("an event that is known by its number is passed over", () => {
  const curves = loaded();
  assert.equal(curves.add(train(5, 3, 0.7)), false);
  assert.equal(curves.add(train(6, 3, 0.7)), true);
  assert.equal(curves.add(train(6, 3, 0.7)), false);
  assert.deepEqual(curves.of("train").step, [1, 2, 3]);
});

test("a point that the series and the stream both hold is there once", () => {
  const curves = loaded();
  assert.equal(curves.add(train(6, 2, 0.8)), false);
  assert.deepEqual(curves.of("train").fields.loss, [0.9, 0.8]);
});

test("a value that is not finite is a gap, and a new field begins with one", () => {
  const curves = loaded();
  curves.add({ ...train(6, 3, null), fields: { loss: null, grad_norm: 2 } });
  assert.deepEqual(curves.of("train").fields, { loss: [0.9, 0.8, null], grad_norm: [null, null, 2] });
});

test("every field has as many values as there are points", () => {
  const curves = loaded();
  curves.add({ ...train(6, 3), fields: { epoch: 0.3 } });
  assert.deepEqual(curves.of("train").fields.loss, [0.9, 0.8, null]);
  assert.equal(curves.of("train").epoch.length, 3);
});

test("a resume is a seam at the step it went on from", () => {
  const curves = loaded();
  curves.add({ number: 6, kind: "resume", step: 2, at: 9000, fields: {} });
  assert.equal(curves.seamAt(curves.seams[0], "step"), 2);
  assert.equal(curves.seamAt(curves.seams[0], "epoch"), 0.2);
  assert.equal(curves.seamAt(curves.seams[0], "time"), 8);
});

test("smoothing has no pull of its start and keeps gaps", () => {
  assert.deepEqual(smooth([1, 1, 1], 0.9).map((value) => value.toFixed(6)), ["1.000000", "1.000000", "1.000000"]);
  assert.deepEqual(smooth([2, null, 2], 0.5), [2, null, 2]);
  const raw = [3, 1];
  assert.equal(smooth(raw, 0), raw);
});

test("positions rise even where two points came in the same millisecond", () => {
  const points = { step: [1, 2, 3], at: [5000, 5000, 5001], epoch: [0.5, null, 0.6] };
  const time = positions(points, "time", 5000);
  assert.ok(time[0] < time[1] && time[1] < time[2]);
  const epoch = positions(points, "epoch", 0);
  assert.ok(epoch[0] < epoch[1] && epoch[1] < epoch[2], `${epoch}`);
});
