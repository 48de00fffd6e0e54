// The form of a new fine-tune: what was chosen, which fields matter for it, one start for many clicks.

const form = document.getElementById("new-job");

function valueOf(name) {
  const field = form.elements.namedItem(name);
  return field?.type === "checkbox" ? String(field.checked) : (field?.value ?? "");
}

/** Shows a field only while the field that it depends on has one of the values named. */
function showFields() {
  for (const field of form.querySelectorAll("[data-when]")) {
    const [name, values] = field.dataset.when.split("=", 2);
    field.hidden = !values.split(",").includes(valueOf(name));
  }
}

function nameOf(group) {
  return form.querySelector(`input[name="${group}"]:checked`)?.closest(".choice").querySelector("strong").textContent;
}

function summarize() {
  const [data, model] = [nameOf("training_file"), nameOf("model")];
  const text = form.querySelector("[data-summary]");
  if (!data || !model) {
    text.textContent = !data && !model ? "Choose data and a checkpoint." : data ? "Choose a checkpoint." : "Choose data.";
    return;
  }
  const length = valueOf("max_steps") ? `${valueOf("max_steps")} steps` : `${valueOf("n_epochs")} epochs`;
  text.textContent = `${model} on ${data}: ${length}, batch size ${valueOf("batch_size")}, learning rate ${valueOf("learning_rate")}.`;
}

// The columns are drawn anew by the server; whoever was choosing one stays on it.
let focused = null;

function askForColumns() {
  const columns = document.getElementById("columns");
  focused = columns.contains(document.activeElement) ? document.activeElement.id : null;
  document.body.dispatchEvent(new CustomEvent("data-chosen"));
}

// The server counts memory, steps and time of what the form says; the same question is asked once.
let estimated = "";
let asking = 0;

function askForEstimate() {
  clearTimeout(asking);
  asking = setTimeout(() => {
    const said = new URLSearchParams(new FormData(form)).toString();
    if (said === estimated) return;
    estimated = said;
    document.body.dispatchEvent(new CustomEvent("settings-changed"));
  }, 400);
}

/** What is learnt follows from the checkpoint; where that is an encoder, from what was chosen. */
function settleTask() {
  const task = form.querySelector('input[name="model"]:checked')?.dataset.task;
  const goal = valueOf("columns.goal");
  const chosen = goal.startsWith("sentence-similarity") ? "sentence-similarity" : goal;
  if (task) form.elements.namedItem("task").value = task === "text-generation" ? task : chosen || task;
}

function refresh() {
  settleTask();
  showFields();
  summarize();
  askForEstimate();
}

form.addEventListener("change", (event) => {
  if (event.target.name === "training_file" || event.target.name === "model" || event.target.name.startsWith("columns.")) askForColumns();
  refresh();
});
form.addEventListener("input", (event) => {
  const list = event.target.dataset?.filter;
  if (list) {
    const word = event.target.value.toLowerCase();
    for (const choice of document.querySelectorAll(`#${list} .choice`)) choice.hidden = !choice.textContent.toLowerCase().includes(word);
  }
  summarize();
});
document.addEventListener("htmx:after:swap", () => {
  if (focused) document.getElementById(focused)?.focus();
  focused = null;
  refresh();
});

document.addEventListener("uploaded", async ({ detail }) => {
  const answer = await fetch(`/jobs/new/picker?name=${detail.name}&chosen=${encodeURIComponent(detail.id)}`);
  if (!answer.ok) return;
  document.getElementById(`picker-${detail.name}`).outerHTML = await answer.text();
  askForColumns();
  refresh();
});

// The hidden token makes a second click the same request; this only says that the first was heard.
form.addEventListener("submit", (event) => {
  if (event.submitter?.hasAttribute("formaction")) return;
  if (form.dataset.sent) return event.preventDefault();
  form.dataset.sent = "yes";
  event.submitter?.setAttribute("aria-disabled", "true");
});
addEventListener("pageshow", () => {
  delete form.dataset.sent;
  form.querySelector(".start-bar .button").removeAttribute("aria-disabled");
});

refresh();
form.querySelector("[aria-invalid=true]")?.focus();
