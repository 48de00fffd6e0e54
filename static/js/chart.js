// A chart in its card: uPlot with smoothing, log scale, legend, zoom and read-out.
import { positions, smooth } from "./curves.js";
import { duration, tick, value } from "./text.js";

const probe = document.createElement("span");
probe.hidden = true;
document.body.append(probe);
let colours = new Map();
addEventListener("theme-changed", () => (colours = new Map()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dispatchEvent(new Event("theme-changed")));

/** The colour that a property stands for now; canvas knows no `light-dark()`. */
function colour(property, alpha = 1) {
  const key = `${property}/${alpha}`;
  if (!colours.has(key)) {
    probe.style.color = alpha === 1 ? `var(${property})` : `color-mix(in srgb, var(${property}) ${alpha * 100}%, transparent)`;
    colours.set(key, getComputedStyle(probe).color);
  }
  return colours.get(key);
}

const AXIS_NAMES = { step: "step", epoch: "epoch", time: "time" };

// New points wait while a part is being chosen with the mouse: they would move the axis below it.
let dragging = false;
addEventListener("mouseup", () => setTimeout(() => (dragging = false)));

/** Whether a drag is under way on one of the charts. */
export const isDragging = () => dragging;

export class Chart {
  /**
   * `lines` answers, for the curves as they are now, `[{ kind, field, name, smoothed, hidden }]`;
   * `view` is shared by all charts: `{ x, smoothing, log }`.
   */
  constructor(card, curves, view, { lines, log = false, format = value }) {
    this.card = card;
    this.plot = card.querySelector(".chart-plot");
    this.legend = card.querySelector(".legend");
    this.now = card.querySelector(".chart-now");
    this.curves = curves;
    this.view = view;
    this.linesOf = lines;
    this.canLog = log;
    this.format = format;
    this.shown = new Map();
    this.zoomed = false;
    this.lines = [];
    this.plot.tabIndex = 0;
    this.plot.setAttribute("role", "application");
    this.plot.setAttribute("aria-label", `${card.getAttribute("aria-label")}: arrow keys read values, plus and minus zoom, 0 shows all`);
    this.plot.addEventListener("keydown", (event) => this.onKey(event));
    this.plot.addEventListener("mousedown", () => (dragging = true));
    new ResizeObserver(() => this.resize()).observe(this.plot);
    addEventListener("theme-changed", () => this.uplot?.redraw(false));
  }

  /** Draws what the curves hold now; builds the plot anew when lines or scales changed. */
  draw() {
    const lines = this.linesOf(this.curves);
    const drawn = JSON.stringify([lines, this.view.x, this.canLog && this.view.log, this.view.smoothing > 0]);
    const data = this.table(lines);
    if (data[0].length === 0) return;
    this.card.dataset.points = data[0].length;
    if (drawn === this.drawn) {
      this.update(data);
    } else {
      this.drawn = drawn;
      this.lines = lines;
      this.build(data);
    }
    this.readOut(this.uplot.cursor.idx);
  }

  /** One table for uPlot: positions, then for each line the raw and the smoothed values. */
  table(lines) {
    const log = this.canLog && this.view.log;
    const byKind = new Map();
    for (const line of lines) {
      if (!byKind.has(line.kind)) byKind.set(line.kind, [positions(this.curves.of(line.kind), this.view.x, this.curves.start)]);
      const raw = this.curves.of(line.kind).fields[line.field] ?? [];
      const values = log ? raw.map((number) => (number > 0 ? number : null)) : raw;
      byKind.get(line.kind).push(values, line.smoothed ? smooth(values, this.view.smoothing) : values);
    }
    const tables = [...byKind.values()];
    if (tables.length === 0) return [[]];
    return tables.length === 1 ? tables[0] : uPlot.join(tables);
  }

  build(data) {
    this.uplot?.destroy();
    this.zoomed = false;
    this.card.querySelector(".chart-empty").hidden = true;
    this.uplot = new uPlot(this.options(), data, this.plot);
    this.buildLegend();
  }

  update(data) {
    if (!this.zoomed) return this.uplot.setData(data);
    const { min, max } = this.uplot.scales.x;
    this.uplot.setData(data, false);
    this.uplot.setScale("x", { min, max });
  }

  options() {
    const log = this.canLog && this.view.log;
    const text = () => colour("--ink-faint");
    const axis = { stroke: text, font: `12px ${getComputedStyle(document.body).fontFamily}`, grid: { stroke: () => colour("--grid"), width: 1 }, ticks: { show: false } };
    const x = { ...axis, size: 30, values: (_, ticks) => ticks.map(this.view.x === "time" ? duration : tick), grid: { show: false } };
    if (this.view.x === "time") x.incrs = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400];
    if (this.view.x === "step") x.incrs = [1, 2, 5].flatMap((n) => Array.from({ length: 9 }, (_, power) => n * 10 ** power)).sort((a, b) => a - b);
    return {
      ...this.size(),
      padding: [10, 12, 0, 0],
      legend: { show: false },
      scales: { x: { time: false }, y: log ? { distr: 3 } : {} },
      axes: [x, { ...axis, size: 56, values: (_, ticks) => ticks.map((number) => (number == null ? "" : this.format === value ? tick(number) : this.format(number))) }],
      series: [{}, ...this.lines.flatMap((line, index) => this.pair(line, index))],
      cursor: {
        sync: { key: "job", scales: ["x", null] },
        drag: { x: true, y: false, dist: 6 },
        points: { size: 7, stroke: (u, index) => u.series[index].stroke(), fill: () => colour("--surface") },
      },
      hooks: {
        draw: [(u) => this.drawSeams(u)],
        setCursor: [(u) => this.readOut(u.cursor.idx)],
        setSelect: [(u) => (this.zoomed ||= u.select.width > 0)],
      },
    };
  }

  /** The faint raw curve and the strong one above it; without smoothing the first is not drawn. */
  pair(line, index) {
    const property = `--curve-${(index % 6) + 1}`;
    const smoothed = line.smoothed && this.view.smoothing > 0;
    const show = this.isShown(line);
    const points = line.kind === "train" ? { show: false } : { show: true, size: 6, fill: () => colour(property), stroke: () => colour(property) };
    return [
      { label: `${line.name} raw`, show: show && smoothed, stroke: () => colour(property, 0.28), width: 1, points: { show: false } },
      { label: line.name, show, stroke: () => colour(property), width: 2, points },
    ];
  }

  isShown(line) {
    return this.shown.get(line.name) ?? !line.hidden;
  }

  buildLegend() {
    this.legend.replaceChildren(
      ...this.lines.map((line, index) => {
        const button = document.createElement("button");
        button.type = "button";
        button.setAttribute("aria-pressed", String(this.isShown(line)));
        const swatch = document.createElement("span");
        swatch.className = `swatch swatch-${(index % 6) + 1}`;
        const name = document.createElement("span");
        name.textContent = line.name;
        button.append(swatch, name, document.createElement("b"));
        button.addEventListener("click", () => this.toggle(index, button));
        const item = document.createElement("li");
        item.append(button);
        return item;
      }),
    );
  }

  toggle(index, button) {
    const line = this.lines[index];
    const show = !this.isShown(line);
    this.shown.set(line.name, show);
    button.setAttribute("aria-pressed", String(show));
    this.uplot.setSeries(1 + 2 * index, { show: show && line.smoothed && this.view.smoothing > 0 });
    this.uplot.setSeries(2 + 2 * index, { show });
  }

  /** Values below the cursor; without a cursor, the newest of each line. */
  readOut(index) {
    const data = this.uplot.data;
    const place = index ?? data[0].length - 1;
    const x = data[0][place];
    if (x === undefined) return;
    const mode = this.view.x;
    this.now.textContent = `${AXIS_NAMES[mode]} ${mode === "time" ? duration(x) : mode === "epoch" ? x.toFixed(2) : Math.round(x)}`;
    [...this.legend.querySelectorAll("b")].forEach((cell, line) => {
      const values = data[1 + 2 * line];
      const number = index == null ? values.findLast((n) => n != null) : values[place];
      cell.textContent = number == null ? "" : this.format(number);
    });
  }

  drawSeams(u) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.strokeStyle = colour("--ink-faint");
    ctx.fillStyle = colour("--ink-faint");
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.font = `${11 * devicePixelRatio}px ${getComputedStyle(document.body).fontFamily}`;
    for (const seam of this.curves.seams) {
      const x = Math.round(u.valToPos(this.curves.seamAt(seam, this.view.x), "x", true));
      if (!(x >= bbox.left && x <= bbox.left + bbox.width)) continue;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.textAlign = x > bbox.left + bbox.width - 80 * devicePixelRatio ? "right" : "left";
      ctx.fillText("resumed", x + (ctx.textAlign === "left" ? 5 : -5) * devicePixelRatio, bbox.top + 11 * devicePixelRatio);
    }
    ctx.restore();
  }

  onKey(event) {
    const u = this.uplot;
    if (!u || event.ctrlKey || event.metaKey || event.altKey) return;
    const count = u.data[0].length;
    const at = u.cursor.idx ?? count - 1;
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: count - 1, PageUp: at - 20, PageDown: at + 20 };
    if (event.key in moves) this.moveTo(Math.min(count - 1, Math.max(0, moves[event.key])));
    else if (event.key === "+" || event.key === "=") this.zoom(0.5, at);
    else if (event.key === "-") this.zoom(2, at);
    else if (event.key === "0" || event.key === "Escape") this.showAll();
    else return;
    event.preventDefault();
  }

  moveTo(index) {
    const u = this.uplot;
    u.setCursor({ left: u.valToPos(u.data[0][index], "x"), top: u.cursor.top > 0 ? u.cursor.top : u.over.clientHeight / 2 });
  }

  zoom(factor, index) {
    const u = this.uplot;
    const { min, max } = u.scales.x;
    const middle = u.data[0][index];
    const half = ((max - min) * factor) / 2;
    const [first, last] = [u.data[0][0], u.data[0].at(-1)];
    if (half * 2 >= last - first) return this.showAll();
    this.zoomed = true;
    u.setScale("x", { min: Math.max(first, middle - half), max: Math.min(last, middle + half) });
  }

  showAll() {
    this.zoomed = false;
    this.uplot.setData(this.uplot.data);
  }

  size() {
    const high = this.card.classList.contains("chart-wide");
    const width = Math.max(200, this.plot.clientWidth);
    return { width, height: high ? (width < 500 ? 240 : 320) : 190 };
  }

  resize() {
    if (this.uplot && this.plot.clientWidth !== this.uplot.width) this.uplot.setSize(this.size());
  }
}
