// A server with a data folder of its own, and a browser that remembers what went wrong in it.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { chmodSync, cpSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import { chromium } from "playwright-core";

const TREE = resolve(import.meta.dirname, "../../..");
const PROGRAM = join(resolve(TREE, process.env.CARGO_TARGET_DIR ?? "target"), "release/luthier");
export const FIXTURES = join(TREE, "trainer/tests/fixtures");
const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

/** A folder of this test run, gone at its end. */
export function scratch() {
  const folder = mkdtempSync(join(tmpdir(), "luthier-browser-"));
  // Postgres runs as another user under root and has to pass through.
  chmodSync(folder, 0o711);
  return folder;
}

async function freePort() {
  const server = createServer();
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  const { port } = server.address();
  await new Promise((closed) => server.close(closed));
  return port;
}

export class Server {
  /** With `options.env` more of the environment, and `options.trainer` another trainer than the local one. */
  static async start(folder, options = {}) {
    assert.ok(existsSync(PROGRAM), `${PROGRAM} is missing: make build`);
    const server = new Server();
    server.folder = folder;
    server.options = { env: {}, trainer: "local", ...options };
    server.port = await freePort();
    server.url = `http://127.0.0.1:${server.port}`;
    await server.run();
    return server;
  }

  async run() {
    const log = openSync(join(this.folder, "server.log"), "a");
    const { LUTHIER_API_KEY, DATABASE_URL, ...env } = process.env;
    this.process = spawn(PROGRAM, ["serve", "--listen", `127.0.0.1:${this.port}`, "--data", join(this.folder, "data"), "--trainer", this.options.trainer], { env: { ...env, ...this.options.env }, stdio: ["ignore", log, log] });
    this.ended = new Promise((ended) => this.process.once("exit", ended));
    await until("the server is ready", async () => {
      if (this.process.exitCode !== null) throw new Error(`the server ended:\n${this.log()}`);
      return (await fetch(`${this.url}/readyz`).catch(() => null))?.ok;
    });
  }

  log() {
    return readFileSync(join(this.folder, "server.log"), "utf8").split("\n").slice(-40).join("\n");
  }

  async stop(signal = "SIGTERM") {
    this.process.kill(signal);
    await this.ended;
  }

  /** Uploads files as a model. */
  async upload(id, paths, more = []) {
    const form = new FormData();
    form.append("id", id);
    for (const file of [...paths.map((path) => new File([readFileSync(path)], basename(path))), ...more]) form.append("files", file);
    const answer = await fetch(`${this.url}/v1/models`, { method: "POST", body: form });
    assert.ok(answer.ok, `${id}: ${await answer.text()}`);
  }

  async json(path) {
    const answer = await fetch(this.url + path);
    assert.ok(answer.ok, `${path}: ${answer.status}`);
    return answer.json();
  }
}

/** A server whose language models are answered by `tests/fixtures/worker.py`: `tiny` chats, `base` does not; and `encoder`. */
export async function talking(folder) {
  const program = join(folder, "worker.py");
  cpSync(join(import.meta.dirname, "../fixtures/worker.py"), program);
  const server = await Server.start(folder, { trainer: "none", env: { LUTHIER_TRAINER_BINARY: program } });
  const decoders = join(FIXTURES, "decoders");
  const llama = ["llama/config.json", "llama/model.safetensors", "tokenizer.json", "tokenizer_config.json"].map((path) => join(decoders, path));
  const template = new File(["{% for m in messages %}{{ m.content }}{% endfor %}"], "chat_template.jinja");
  await server.upload("base", llama);
  await server.upload("tiny", llama, [template]);
  await server.upload("encoder", ["config.json", "model.safetensors", "tokenizer.json"].map((name) => join(FIXTURES, "bert_encoder", name)));
  return server;
}

/** Waits until `question` answers with something true. */
export async function until(what, question, seconds = 90) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const answer = await question();
    if (answer) return answer;
    if (Date.now() > end) throw new Error(`waited ${seconds} s until ${what}`);
    await new Promise((wait) => setTimeout(wait, 100));
  }
}

export class Browser {
  static async start(folder) {
    const browser = new Browser();
    const profile = join(folder, "profile");
    browser.process = await chromium.launch({
      executablePath: process.env.LUTHIER_CHROMIUM ?? "/usr/bin/chromium",
      args: FLAGS,
      env: { ...process.env, HOME: folder, XDG_CONFIG_HOME: profile, XDG_CACHE_HOME: profile },
    });
    browser.troubles = [];
    return browser;
  }

  /** A window of its own; `expected` are messages of the console that this test brings about. */
  async context(options = {}, expected = []) {
    const context = await this.process.newContext({ viewport: { width: 1280, height: 900 }, acceptDownloads: true, ...options });
    if (options.javaScriptEnabled !== false) {
      await context.addInitScript(() => {
        document.addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
      });
    }
    const note = (where, text) => expected.some((pattern) => pattern.test(text)) || this.troubles.push(`${where}: ${text}`);
    context.setDefaultTimeout(20_000);
    context.on("page", (page) => {
      page.on("console", (message) => message.type() === "error" && note(page.url(), message.text()));
      page.on("pageerror", (error) => note(page.url(), error.message));
    });
    return context;
  }

  async stop() {
    await this.process.close();
  }
}

const WORDS = { positive: ["good", "great"], negative: ["bad", "boring"] };

/** Rows that a tiny model learns at once. */
export function rows(count) {
  const lines = ["text,label"];
  for (let row = 0; row < count; row += 1) {
    const label = row % 2 === 0 ? "positive" : "negative";
    const word = WORDS[label][(row >> 1) % 2];
    lines.push(`"the ${["film", "movie", "plot", "acting"][row % 4]} was ${word}, and not ${row}",${label}`);
  }
  return `${lines.join("\n")}\n`;
}

export function writeFile(folder, name, text) {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

/** A tiny encoder as a person would have it: packed, or as a folder. */
export function checkpoint(folder, name, fixture = "bert_encoder") {
  const path = join(folder, name);
  cpSync(join(FIXTURES, fixture), path, { recursive: true });
  return path;
}

export function pack(folder, name) {
  execFileSync("tar", ["-czf", join(folder, `${name}.tar.gz`), "-C", folder, name]);
  return join(folder, `${name}.tar.gz`);
}

export function remove(folder) {
  rmSync(folder, { recursive: true, force: true });
}
