// Uploads by dropping or choosing: progress while it is sent, the server's own words when it is refused.
import { bytes } from "./text.js";

/** Files of a drop, folders opened, each with its path from the dropped folder on. */
async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (entries.length === 0) return { files: [...transfer.files].map((file) => ({ file, path: file.name })), folder: null };
  const folder = entries.length === 1 && entries[0].isDirectory ? entries[0].name : null;
  return { files: (await Promise.all(entries.map((entry) => walk(entry, "")))).flat(), folder };
}

async function walk(entry, prefix) {
  const path = prefix + entry.name;
  if (entry.isFile) return [{ file: await new Promise((resolve, reject) => entry.file(resolve, reject)), path }];
  const reader = entry.createReader();
  const children = [];
  for (;;) {
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (part.length === 0) break;
    children.push(...part);
  }
  return (await Promise.all(children.map((child) => walk(child, `${path}/`)))).flat();
}

function bodyOf(kind, files, folder) {
  const body = new FormData();
  if (kind === "data") {
    body.append("purpose", "fine-tune");
    body.append("file", files[0].file, files[0].file.name);
  } else if (files.length === 1 && folder === null) {
    body.append("file", files[0].file, files[0].file.name);
  } else {
    if (folder) body.append("id", folder.replace(/[^A-Za-z0-9._-]+/g, "-").slice(0, 96));
    for (const { file, path } of files) body.append("files", file, path);
  }
  return body;
}

class Drop {
  constructor(box) {
    this.box = box;
    this.kind = box.dataset.upload;
    this.state = box.querySelector(".drop-state");
    this.error = box.querySelector(".drop-error");
    for (const input of box.querySelectorAll("input[type=file]")) {
      input.addEventListener("change", () => input.files.length > 0 && this.chosen(input));
    }
    box.querySelector("[data-abort]").addEventListener("click", () => this.request?.abort());
    for (const name of ["dragenter", "dragover"]) {
      box.addEventListener(name, (event) => {
        event.preventDefault();
        box.classList.add("over");
      });
    }
    box.addEventListener("dragleave", (event) => box.contains(event.relatedTarget) || box.classList.remove("over"));
    box.addEventListener("drop", async (event) => {
      event.preventDefault();
      box.classList.remove("over");
      const { files, folder } = await filesOf(event.dataTransfer);
      this.send(files, folder);
    });
    box.addEventListener("submit", (event) => event.preventDefault());
  }

  chosen(input) {
    const files = [...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
    const folder = "folder" in input.dataset ? files[0].path.split("/")[0] : null;
    this.send(files, folder);
    input.value = "";
  }

  send(files, folder) {
    if (this.request || files.length === 0) return;
    if (this.kind === "data" && files.length > 1) return this.fail("Choose one file at a time: training and validation data are two uploads.");
    this.error.hidden = true;
    this.state.hidden = false;
    this.name = folder ?? files[0].file.name;
    this.show(0, files.reduce((sum, { file }) => sum + file.size, 0));
    const request = new XMLHttpRequest();
    this.request = request;
    request.responseType = "json";
    request.upload.addEventListener("progress", (event) => event.lengthComputable && this.show(event.loaded, event.total));
    request.addEventListener("load", () => (request.status < 300 ? this.done(request.response) : this.fail(request.response?.error?.message ?? `The server answered ${request.status}.`)));
    request.addEventListener("error", () => this.fail("The connection was lost before the upload ended. Nothing was kept; try again."));
    request.addEventListener("abort", () => this.fail("Stopped. Nothing was kept."));
    request.open("POST", this.box.dataset.endpoint);
    request.send(bodyOf(this.kind, files, folder));
  }

  show(sent, total) {
    const bar = this.state.querySelector("progress");
    bar.max = total || 1;
    bar.value = sent;
    this.state.querySelector(".drop-name").textContent = this.name;
    const whole = sent >= total && total > 0;
    this.state.querySelector(".drop-percent").textContent = whole ? "reading and checking …" : `${bytes(sent)} of ${bytes(total)}`;
  }

  fail(message) {
    this.request = null;
    this.state.hidden = true;
    this.error.hidden = false;
    this.error.textContent = message;
  }

  done(answer) {
    this.request = null;
    this.state.hidden = true;
    const choose = this.box.dataset.choose;
    if (choose) document.dispatchEvent(new CustomEvent("uploaded", { detail: { name: choose, id: answer.id } }));
    else location.href = `/${this.kind === "data" ? "data" : "models"}/${encodeURIComponent(answer.id)}`;
  }
}

for (const box of document.querySelectorAll("[data-upload]")) new Drop(box);
// A file dropped beside the box would replace the page.
for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
