// A row as tokens: the arrow keys go from row to row.

const typing = "input, select, textarea, [contenteditable]";

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || event.target.closest?.(typing)) return;
  const way = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
  const link = way && document.querySelector(`a[rel="${way}"]`);
  if (!link) return;
  event.preventDefault();
  link.click();
});

// A choice is shown at once; what is written waits for the button.
const form = document.querySelector(".token-form");
for (const select of form.querySelectorAll("select")) {
  select.addEventListener("change", () => {
    if (select.name !== "chat_template" || select.value !== "jinja") form.requestSubmit();
    else if (!form.elements.namedItem("chat_template.jinja")) form.requestSubmit();
  });
}
