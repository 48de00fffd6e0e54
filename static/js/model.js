// The try-it box of a model: asks the API and draws the scores, marks the answer to a question, or shows what was written.

const form = document.querySelector("[data-try]");
const result = form?.querySelector("[data-try-result]");

function bar(label, score, probability) {
  const item = document.createElement("li");
  item.className = "score";
  const name = document.createElement("strong");
  name.textContent = label;
  const text = document.createElement("span");
  text.className = "right";
  text.textContent = probability ? `${(score * 100).toFixed(1)} %` : score.toFixed(4);
  const meter = document.createElement(probability ? "progress" : "span");
  if (probability) {
    meter.max = 1;
    meter.value = score;
    meter.setAttribute("aria-label", label);
  }
  item.append(name, meter, text);
  return item;
}

function show(output) {
  if (typeof output.text === "string") {
    result.replaceChildren(Object.assign(document.createElement("p"), { className: "sample-text", textContent: output.text || "nothing" }));
    return;
  }
  const scores = Object.entries(output.scores ?? { [output.label]: output.score }).sort((a, b) => b[1] - a[1]);
  const probability = scores.every(([, score]) => score >= 0 && score <= 1) && form.dataset.problem !== "regression";
  const list = document.createElement("ol");
  list.className = "scores";
  list.append(...scores.map(([label, score]) => bar(label, score, probability)));
  result.replaceChildren(list);
}

// The likeliest answers, and the text with the answer marked. Places count characters, not the units of a string.
function showAnswer(output, context) {
  const list = document.createElement("ol");
  list.className = "scores";
  const items = output.candidates.map((candidate) => bar(candidate.answer, candidate.score, true));
  if (output.null_score !== null) {
    const none = bar("no answer", output.null_score, true);
    if (output.answer === null) items.unshift(none);
    else items.push(none);
  }
  list.append(...items);
  const letters = [...context];
  const text = document.createElement("p");
  text.className = "answered";
  if (output.answer === null) {
    text.textContent = context;
  } else {
    const mark = document.createElement("mark");
    mark.className = "mark-said";
    mark.textContent = letters.slice(output.start, output.end).join("");
    text.append(letters.slice(0, output.start).join(""), mark, letters.slice(output.end).join(""));
  }
  result.replaceChildren(list, text);
}

function fail(message) {
  const line = document.createElement("p");
  line.className = "error";
  line.textContent = message;
  result.replaceChildren(line);
}

async function predict() {
  const text = form.elements.text.value;
  const pair = form.elements.text_pair?.value;
  const asks = form.dataset.try === "question";
  const input = asks ? { question: text, context: pair } : pair ? { text, text_pair: pair } : { text };
  // A model that writes one text from another has a field for what stands before it.
  const prefix = form.elements.source_prefix;
  const asked = prefix ? { source_prefix: prefix.value } : {};
  const button = form.querySelector("button");
  button.setAttribute("aria-disabled", "true");
  result.replaceChildren(Object.assign(document.createElement("p"), { className: "faint", textContent: "Asking the model; the first answer waits until it is loaded …" }));
  try {
    const answer = await fetch("/v1/predictions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ model: form.dataset.model, inputs: [input], ...asked }),
    });
    const body = await answer.json();
    if (answer.ok && asks) showAnswer(body.outputs[0], pair);
    else if (answer.ok) show(body.outputs[0]);
    else fail(body.error?.message ?? `The server answered ${answer.status}.`);
  } catch {
    fail("The server does not answer.");
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

form?.addEventListener("submit", (event) => {
  event.preventDefault();
  predict();
});
form?.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
