// The page of a job: charts, log and live changes.
import { toast } from "./app.js";
import { Chart, isDragging } from "./chart.js";
import { Curves } from "./curves.js";
import { Stream } from "./stream.js";
import { bytes, clock } from "./text.js";

// A series has about 3,000 points; when so many more have come, it is thinned out anew.
const MOST_POINTS = 6000;
const MOST_LINES = 500;

const page = document.getElementById("job");
const address = `/jobs/${page.dataset.job}`;
const curves = new Curves();
const view = { x: "step", smoothing: 0.6, log: false };

const field = (kind, name, label, smoothed) => () => [{ kind, field: name, name: label, smoothed }];
const has = (known, kind, name) => known.of(kind).fields[name]?.some((number) => number != null);

// Those with charts of their own.
const ELSEWHERE = ["loss", "perplexity", "chosen_reward", "rejected_reward", "reward_margin", "kl", "best_exact_match_threshold", "best_f1_threshold"];
// Metrics of texts that were written, from 0 to 100.
const OF_TEXTS = [["bleu", "BLEU"], ["chrf", "chrF"], ["chrf_plus_plus", "chrF++"], ["rouge1", "ROUGE-1"], ["rouge2", "ROUGE-2"], ["rougeL", "ROUGE-L"], ["rougeLsum", "ROUGE-Lsum"], ["ter", "TER"]];
const FIRST_OF_TEXTS = ["bleu", "chrf", "rougeL"];
// Shown at first; the rest of the metrics wait in the legend.
const FIRST_METRICS = ["mean_token_accuracy", "reward_accuracy", "accuracy", "exact_match", "f1", "f1_macro", "matthews_correlation", "r2", "pearson", "spearman", "ndcg_at_10", "mrr_at_10", "accuracy_at_1", "triplet_accuracy"];

const CHARTS = {
  loss: {
    log: true,
    lines: (known) => [
      { kind: "train", field: "loss", name: "training", smoothed: true },
      ...(has(known, "eval", "loss") ? [{ kind: "eval", field: "loss", name: "validation", smoothed: false }] : []),
    ],
  },
  metrics: {
    lines: (known) => {
      const names = Object.keys(known.of("eval").fields).filter((name) => !ELSEWHERE.includes(name) && !OF_TEXTS.some(([other]) => other === name) && has(known, "eval", name));
      const first = names.filter((name) => FIRST_METRICS.includes(name));
      return names.map((name) => ({ kind: "eval", field: name, name: name.replaceAll("_", " "), smoothed: false, hidden: first.length > 0 && !first.includes(name) }));
    },
  },
  texts: {
    lines: (known) =>
      OF_TEXTS.filter(([name]) => has(known, "eval", name)).map(([name, label]) => ({ kind: "eval", field: name, name: label, smoothed: false, hidden: !FIRST_OF_TEXTS.includes(name) })),
  },
  perplexity: { log: true, lines: field("eval", "perplexity", "validation", false) },
  rewards: {
    lines: (known) =>
      [["chosen_reward", "better answers"], ["rejected_reward", "worse answers"], ["reward_margin", "difference"]]
        .filter(([name]) => has(known, "eval", name))
        .map(([name, label]) => ({ kind: "eval", field: name, name: label, smoothed: false })),
  },
  kl: {
    lines: (known) => [
      { kind: "train", field: "kl", name: "training", smoothed: true },
      ...(has(known, "eval", "kl") ? [{ kind: "eval", field: "kl", name: "validation", smoothed: false }] : []),
    ],
  },
  learning_rate: { lines: field("train", "learning_rate", "learning rate", false) },
  throughput: {
    lines: (known) => [
      { kind: "train", field: "samples_per_second", name: "rows/s", smoothed: true },
      ...(has(known, "train", "tokens_per_second") ? [{ kind: "train", field: "tokens_per_second", name: "tokens/s", smoothed: true, hidden: true }] : []),
    ],
  },
  grad_norm: { log: true, lines: field("train", "grad_norm", "gradient norm", true) },
  memory: { lines: field("train", "memory_bytes", "memory", false), format: bytes },
};

const charts = [...document.querySelectorAll("[data-chart]")].map((card) => (card.chart = new Chart(card, curves, view, CHARTS[card.dataset.chart])));

let drawing = null;
function drawSoon(wait = 250) {
  drawing ??= setTimeout(() => {
    drawing = null;
    if (isDragging()) return drawSoon();
    for (const chart of charts) chart.draw();
  }, wait);
}

let announcing = new Set();
function announce(name, wait) {
  if (announcing.has(name)) return;
  announcing.add(name);
  setTimeout(() => {
    announcing.delete(name);
    document.body.dispatchEvent(new CustomEvent(name));
  }, wait);
}

const log = document.getElementById("log");
const lineTemplate = document.getElementById("log-line");
/** Number of the newest event that was taken: where the stream goes on. */
let cursor = Number(page.dataset.last);
const newestLine = () => Number(log.lastElementChild?.dataset.number ?? 0);
let lastLine = newestLine();

function addLine(event) {
  if (event.number <= lastLine || event.kind === "train" || !event.message) return;
  lastLine = event.number;
  const item = lineTemplate.content.firstElementChild.cloneNode(true);
  item.dataset.number = event.number;
  const style = { warn: "warn", error: "error-line" }[event.level] ?? (["checkpoint", "eval", "test", "result", "resume"].includes(event.kind) ? "mark" : "");
  if (style) item.className = style;
  const time = item.querySelector("time");
  time.dateTime = new Date(event.at).toISOString();
  time.textContent = clock(event.at);
  item.querySelector(".level").textContent = event.level;
  item.querySelector(".message").textContent = event.message;
  const below = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.append(item);
  while (log.children.length > MOST_LINES) log.firstElementChild.remove();
  if (below) log.scrollTop = log.scrollHeight;
}

let loading = null;
// Events that come while a series is on its way, which may not hold them.
let meanwhile = [];

function take(events) {
  if (loading) meanwhile.push(...events);
  for (const event of events) {
    cursor = Math.max(cursor, event.number);
    addLine(event);
    const known = event.number <= curves.last;
    if (curves.add(event)) drawSoon();
    if (known) continue;
    announce("job-changed", 1000);
    if (["eval", "test", "examples", "samples", "checkpoint", "result"].includes(event.kind)) announce("job-results", 300);
  }
  if (curves.size > MOST_POINTS) load();
}

function load() {
  loading ??= (async () => {
    try {
      const answer = await fetch(`${address}/series`, { cache: "no-store" });
      if (!answer.ok) throw new Error(String(answer.status));
      curves.load(await answer.json());
      for (const event of meanwhile) curves.add(event);
      drawSoon(0);
      return true;
    } catch {
      return false;
    } finally {
      loading = null;
      meanwhile = [];
    }
  })();
  return loading;
}

/** After a long absence: the series and the log as they are now, instead of every event since. */
async function catchUp() {
  const answer = await fetch(address, { cache: "no-store" });
  if (!answer.ok || !(await load())) return;
  const now = new DOMParser().parseFromString(await answer.text(), "text/html");
  log.replaceChildren(...now.getElementById("log").children);
  log.scrollTop = log.scrollHeight;
  lastLine = newestLine();
  cursor = Math.min(curves.last, Number(now.getElementById("job").dataset.last));
  announce("job-changed", 0);
  announce("job-results", 0);
}

const stream = new Stream(`${address}/events`, {
  last: () => cursor,
  onEvents: take,
  onGap: () => catchUp().catch(() => {}),
  onState: (state) => {
    page.dataset.stream = state;
    if (state === "ended") {
      announce("job-changed", 0);
      announce("job-results", 0);
    }
  },
});

async function start() {
  log.scrollTop = log.scrollHeight;
  for (let wait = 500; !(await load()); wait = Math.min(8000, wait * 2)) {
    if (wait === 4000) toast("The server does not answer; trying again.");
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
  stream.open();
}

const smoothing = document.getElementById("smoothing");
smoothing.addEventListener("input", () => {
  view.smoothing = Number(smoothing.value);
  smoothing.nextElementSibling.value = view.smoothing.toFixed(2);
  drawSoon(0);
});
for (const choice of document.querySelectorAll("input[name=x]")) {
  choice.addEventListener("change", () => {
    view.x = choice.value;
    drawSoon(0);
  });
}
document.getElementById("log-scale").addEventListener("change", (event) => {
  view.log = event.target.checked;
  drawSoon(0);
});
// A reload keeps the form's state in some browsers; the charts follow it.
view.smoothing = Number(smoothing.value);
view.log = document.getElementById("log-scale").checked;
view.x = document.querySelector("input[name=x]:checked")?.value ?? "step";

start();
