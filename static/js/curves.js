// The points of a job's curves: loaded once, then grown by events. Knows nothing of the page, so it is tested alone.

/** An exponential moving average without the pull of its start; a missing value stays missing. */
export function smooth(values, weight) {
  if (weight <= 0) return values;
  let sum = 0;
  let count = 0;
  return values.map((value) => {
    if (value == null) return value;
    sum = sum * weight + (1 - weight) * value;
    count += 1;
    return sum / (1 - weight ** count);
  });
}

/** Horizontal positions in rising order: two points never share one, or a join by position would lose the second. */
export function positions(points, mode, start) {
  const raw = mode === "time" ? points.at.map((at) => (at - start) / 1000) : mode === "epoch" ? points.epoch : points.step;
  let last = -Infinity;
  return raw.map((x, index) => {
    let place = x ?? points.step[index];
    if (place <= last) place = last + Math.max(1e-9, Math.abs(last) * 1e-12);
    last = place;
    return place;
  });
}

const finite = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);

export class Curves {
  constructor() {
    /** Number of the newest event that is in here. */
    this.last = 0;
    /** kind → { step: [], epoch: [], at: [], fields: { name: [] } } */
    this.kinds = {};
    /** Where a later attempt went on: { step, at, epoch }. */
    this.seams = [];
  }

  /** Takes the answer of the series route in place of everything known. */
  load(answer) {
    this.last = answer.last;
    this.kinds = answer.kinds;
    this.seams = answer.seams;
  }

  /** Points of one kind; empty before the first. */
  of(kind) {
    return (this.kinds[kind] ??= { step: [], epoch: [], at: [], fields: {} });
  }

  /** Number of points of the longest curve. */
  get size() {
    return Math.max(0, ...Object.values(this.kinds).map((points) => points.step.length));
  }

  /** Time of the first point, in milliseconds. */
  get start() {
    return Math.min(...Object.values(this.kinds).map((points) => points.at[0] ?? Infinity));
  }

  /** Adds an event of the stream; false when it was known already or is no point. */
  add(event) {
    if (event.number <= this.last) return false;
    this.last = event.number;
    if (event.kind === "resume") {
      this.seams.push({ step: event.step, at: event.at, epoch: null });
      return true;
    }
    if (!["train", "eval"].includes(event.kind)) return false;
    const points = this.of(event.kind);
    // A series read while events arrive may hold one that the stream sends again.
    if (points.step.length > 0 && event.step <= points.step.at(-1)) return false;
    const length = points.step.length;
    points.step.push(event.step);
    points.at.push(event.at);
    points.epoch.push(finite(event.fields.epoch));
    for (const [name, value] of Object.entries(event.fields)) {
      if (name === "epoch") continue;
      (points.fields[name] ??= new Array(length).fill(null)).push(finite(value));
    }
    for (const values of Object.values(points.fields)) if (values.length === length) values.push(null);
    return true;
  }

  /** Position of a seam on the axis `mode`; in epochs, that of the nearest training point. */
  seamAt(seam, mode) {
    if (mode === "step") return seam.step;
    if (mode === "time") return (seam.at - this.start) / 1000;
    const train = this.of("train");
    const index = train.step.findLastIndex((step) => step <= seam.step);
    return index < 0 ? 0 : train.epoch[index];
  }
}
