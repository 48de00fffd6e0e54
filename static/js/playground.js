// Talking with up to three models side by side: one conversation of the person's, and each model's own answers to it.
import { Refused, ask } from "./answer-stream.js";

const form = document.querySelector("[data-playground]");
const talks = document.querySelector("[data-talks]");
const blank = document.getElementById("talk");

/** What one model was told and said. */
class Talk {
  constructor(option) {
    this.model = option.value;
    this.chats = option.dataset.chat === "yes";
    this.turns = [];
    this.element = blank.content.firstElementChild.cloneNode(true);
    this.element.dataset.model = this.model;
    this.list = this.element.querySelector("ol");
    this.state = this.element.querySelector("[data-state]");
    this.element.querySelector("h2").textContent = this.model;
    this.element.setAttribute("aria-label", this.model);
  }

  get busy() {
    return this.abort !== undefined;
  }

  /** How the model is asked with these settings. */
  request(settings) {
    const { system, chat_template: template, ...rest } = settings;
    if (!this.chats && !template) {
      return ["/v1/completions", { model: this.model, prompt: this.turns.at(-1).content, ...rest, max_tokens: rest.max_tokens ?? 256 }];
    }
    const messages = system ? [{ role: "system", content: system }, ...this.turns] : this.turns;
    const named = template ? { chat_template: template } : {};
    return ["/v1/chat/completions", { model: this.model, messages: messages.map(({ role, content }) => ({ role, content })), ...named, ...rest }];
  }

  add(role, text) {
    const item = document.createElement("li");
    item.className = `turn turn-${role}`;
    const name = document.createElement("span");
    name.className = "turn-role";
    name.textContent = role === "user" ? "You" : "Model";
    const body = document.createElement("div");
    body.className = "turn-text";
    body.textContent = text;
    item.append(name, body);
    this.list.append(item);
    return item;
  }

  /** Asks about a text of the person; what comes is shown at once. */
  async say(text, settings) {
    this.turns.push({ role: "user", content: text });
    this.add("user", text);
    const item = this.add("assistant", "");
    const body = item.querySelector(".turn-text");
    item.classList.add("turn-waiting");
    this.list.scrollTop = this.list.scrollHeight;
    this.show("Waiting for the model; the first answer waits until it is loaded …");
    this.abort = new AbortController();
    const heard = { text: "", tokens: 0, since: 0, finish: null };
    try {
      const [path, request] = this.request(settings);
      for await (const chunk of ask(path, request, this.abort.signal)) this.hear(chunk, heard, body);
      this.end(item, heard, heard.finish === "length" ? "cut off at the limit of tokens" : "");
    } catch (error) {
      if (error.name === "AbortError") this.end(item, heard, "stopped");
      else this.fail(item, heard, error);
    } finally {
      this.abort = undefined;
    }
  }

  hear(chunk, heard, body) {
    if (chunk.usage) heard.tokens = chunk.usage.completion_tokens;
    const choice = chunk.choices[0];
    if (!choice) return;
    const text = choice.delta?.content ?? choice.text ?? "";
    heard.finish = choice.finish_reason ?? heard.finish;
    if (!text) return;
    heard.since ||= performance.now();
    heard.until = performance.now();
    heard.text += text;
    heard.tokens += 1;
    body.textContent = heard.text;
    body.parentElement.classList.remove("turn-waiting");
    this.show(this.count(heard));
    this.follow();
  }

  count({ tokens, since, until }) {
    const seconds = (until - since) / 1000;
    const speed = tokens > 1 && seconds > 0 ? ` · ${((tokens - 1) / seconds).toFixed(1)} tokens/s` : "";
    return `${tokens} ${tokens === 1 ? "token" : "tokens"}${speed}`;
  }

  end(item, heard, note) {
    item.classList.remove("turn-waiting");
    // What was stopped before a word came is no turn that a model should read.
    if (heard.text || !note) this.turns.push({ role: "assistant", content: heard.text });
    else this.turns.pop();
    if (!heard.text) item.querySelector(".turn-text").append(small(note || "an empty answer"));
    this.show([this.count({ until: 0, ...heard }), note].filter(Boolean).join(" · "));
  }

  fail(item, heard, error) {
    item.classList.remove("turn-waiting");
    this.turns.pop();
    const line = document.createElement("p");
    line.className = "error";
    line.setAttribute("role", "alert");
    line.textContent = error instanceof Refused ? error.message : `This page failed: ${error.message}`;
    item.append(line);
    this.show(heard.text ? `${this.count(heard)} · broke off` : "");
    this.follow();
  }

  show(text) {
    this.state.textContent = text;
  }

  follow() {
    const box = this.list;
    const near = box.scrollHeight - box.scrollTop - box.clientHeight < 160;
    if (near) box.scrollTop = box.scrollHeight;
  }
}

function small(text) {
  const note = document.createElement("span");
  note.className = "faint";
  note.textContent = `(${text})`;
  return note;
}

let open = [];

function chosen() {
  const options = [...form.querySelectorAll("select[data-model]")].map((select) => select.selectedOptions[0]).filter((option) => option?.value);
  return options.filter((option, place) => options.findIndex((other) => other.value === option.value) === place);
}

/** Makes the columns fit the choice; a model that stays keeps its conversation. */
function lay() {
  const kept = new Map(open.map((talk) => [talk.model, talk]));
  open = chosen().map((option) => kept.get(option.value) ?? new Talk(option));
  for (const talk of kept.values()) if (!open.includes(talk)) talk.abort?.abort();
  talks.dataset.count = String(open.length);
  talks.replaceChildren(...open.map((talk) => talk.element));
  for (const { list } of open) list.scrollTop = list.scrollHeight;
  const template = form.elements.chat_template.value;
  for (const talk of open) talk.element.querySelector("[data-plain]").hidden = talk.chats || template !== "";
  const query = open.map((talk) => `model=${encodeURIComponent(talk.model)}`).join("&");
  history.replaceState(null, "", `${location.pathname}?${query}`);
}

/** The settings that differ from the models' own; none where a field is empty. */
function settings() {
  const fields = form.elements;
  const given = {};
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    if (fields[name].value !== "") given[name] = Number(fields[name].value);
  }
  const stops = fields.stop.value.split("\n").filter((line) => line !== "");
  if (stops.length > 0) given.stop = stops;
  if (fields.system.value.trim() !== "") given.system = fields.system.value;
  if (fields.chat_template.value !== "") given.chat_template = fields.chat_template.value;
  return given;
}

function mark(busy) {
  form.querySelector("[data-send]").setAttribute("aria-disabled", String(busy));
  form.querySelector("[data-stop]").hidden = !busy;
  talks.setAttribute("aria-busy", String(busy));
}

async function send() {
  const text = form.elements.text.value;
  if (text.trim() === "" || open.length === 0 || open.some((talk) => talk.busy)) return;
  form.elements.text.value = "";
  mark(true);
  const asked = settings();
  await Promise.all(open.map((talk) => talk.say(text, asked)));
  mark(false);
}

function stop() {
  for (const talk of open) talk.abort?.abort();
}

function clear() {
  stop();
  open = [];
  lay();
  form.elements.text.focus();
}

if (form) {
  lay();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (form.reportValidity()) send();
  });
  form.addEventListener("change", (event) => event.target.matches("select") && lay());
  form.querySelector("[data-stop]").addEventListener("click", stop);
  form.querySelector("[data-clear]").addEventListener("click", clear);
  form.elements.text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && stop());
  form.elements.text.focus({ preventScroll: true });
}
