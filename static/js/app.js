// What every page has: theme, fresh times, dialogs, tabs, copying, messages.
import { ago, clock } from "./text.js";

const root = document.documentElement;

function toggleTheme() {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("theme", root.dataset.theme);
  } catch {
    // Kept for this page alone.
  }
  dispatchEvent(new Event("theme-changed"));
}

/** Shows a message in the corner; errors stay until they are closed. */
export function toast(message, style = "bad") {
  const box = document.createElement("div");
  box.className = `notice notice-${style}`;
  const text = document.createElement("div");
  text.textContent = message;
  const close = document.createElement("button");
  close.className = "button button-plain button-small";
  close.type = "button";
  close.textContent = "Close";
  close.addEventListener("click", () => box.remove());
  box.append(text, close);
  document.getElementById("toasts").append(box);
  if (style !== "bad") setTimeout(() => box.remove(), 4000);
}

function freshen(scope = document) {
  const now = Date.now();
  for (const time of scope.querySelectorAll("time[data-ago]")) time.textContent = ago((now - Date.parse(time.dateTime)) / 1000);
  for (const time of scope.querySelectorAll("time[data-clock]:not([data-local])")) {
    time.textContent = clock(time.dateTime);
    time.dataset.local = "";
  }
}

async function confirmBy(link) {
  const dialog = document.getElementById("dialog");
  try {
    const answer = await fetch(link.href, { headers: { "HX-Request": "true" } });
    if (!answer.ok) throw new Error(String(answer.status));
    dialog.innerHTML = await answer.text();
    dialog.showModal();
  } catch {
    location.href = link.href;
  }
}

function select(tab) {
  const tabs = [...tab.closest("[role=tablist]").querySelectorAll("[role=tab]")];
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", String(chosen));
    other.tabIndex = chosen ? 0 : -1;
    document.getElementById(other.getAttribute("aria-controls"))?.toggleAttribute("data-later", !chosen);
  }
  return tabs;
}

// A fragment that was fetched again comes with its first tab chosen; the person's choice goes on.
let chosenTab = null;
// So do long texts that were opened.
const opened = new Set();

document.addEventListener("click", (event) => {
  const target = event.target;
  if (!(target instanceof Element)) return;
  const plain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey;
  if (target.closest("[data-theme-toggle]")) toggleTheme();
  const confirm = target.closest("a[data-confirm]");
  if (confirm && plain) {
    event.preventDefault();
    confirmBy(confirm);
  }
  if (target.closest("[data-close]") && target.closest("dialog")) {
    event.preventDefault();
    target.closest("dialog").close();
  }
  if (target instanceof HTMLDialogElement) target.close();
  const tab = target.closest("[role=tab]");
  if (tab) {
    chosenTab = tab.id;
    select(tab);
  }
  const fold = target.closest(".fold[id] > summary")?.parentElement;
  if (fold) opened[fold.open ? "delete" : "add"](fold.id);
  const copy = target.closest("[data-copy]");
  if (copy) copyFrom(copy);
});

// A form in a dialog leads to another page, or to a download, which leaves this one as it is.
document.addEventListener("submit", (event) => {
  const dialog = event.target.closest("dialog");
  if (dialog) setTimeout(() => dialog.close());
});

document.addEventListener("keydown", (event) => {
  const tab = event.target instanceof Element ? event.target.closest("[role=tab]") : null;
  const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!tab || !move) return;
  const tabs = [...tab.parentElement.querySelectorAll("[role=tab]")];
  const next = tabs[(tabs.indexOf(tab) + move + tabs.length) % tabs.length];
  chosenTab = next.id;
  select(next);
  next.focus();
});

document.addEventListener("htmx:after:swap", () => {
  freshen();
  const tab = chosenTab && document.getElementById(chosenTab);
  if (tab) select(tab);
  for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
});

async function copyFrom(button) {
  const text = document.getElementById(button.dataset.copy)?.textContent ?? "";
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied.", "good");
  } catch {
    toast("The browser does not let this page write to the clipboard; select the text and copy it.");
  }
}

freshen();
setInterval(() => document.hidden || freshen(), 1000);
