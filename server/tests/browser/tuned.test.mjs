// From chats to a tuned model that answers: by OpenAI's client for Node, unmodified, and in the playground.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import OpenAI, { toFile } from "openai";
import { Browser, FIXTURES, Server, remove, scratch, until } from "./lib.mjs";

const TAUGHT = { "sky?": "blue", "grass?": "green", "snow?": "white" };
const chat = (question, answer) => ({ messages: [{ role: "user", content: question }, { role: "assistant", content: answer }] });
const lines = (chats) => toFile(Buffer.from(chats.map((line) => `${JSON.stringify(line)}\n`).join("")), "colours.jsonl");

describe("a language model is tuned and talked with", () => {
  let folder, server, client, browser, tuned;

  before(async () => {
    folder = scratch();
    server = await Server.start(folder);
    client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "any", maxRetries: 0 });
    const decoders = join(FIXTURES, "decoders");
    // The fixture's window is too short for a chat letter by letter.
    const config = JSON.parse(readFileSync(join(decoders, "llama/config.json"), "utf8"));
    const files = ["llama/model.safetensors", "tokenizer.json"].map((path) => join(decoders, path));
    await server.upload("llama", files, [new File([JSON.stringify({ ...config, max_position_embeddings: 256 })], "config.json")]);
  });

  after(async () => {
    await browser?.stop();
    await server?.stop();
    if (folder) remove(folder);
  });

  test("the client uploads chats, makes a job and follows it to its end", async () => {
    const rows = Object.entries(TAUGHT).map(([question, answer]) => chat(question, answer));
    const wrong = await client.files.create({ file: await lines([...rows, { messages: [] }]), purpose: "fine-tune" });
    const refused = await client.files.waitForProcessing(wrong.id, { pollInterval: 50 });
    assert.equal(refused.report.chat.problems.listed[0].line.first, 4);
    await assert.rejects(client.fineTuning.jobs.create({ model: "llama", training_file: wrong.id }), (error) => error.status === 400 && /line 4/.test(error.message));
    const files = [];
    for (const some of [[...rows, ...rows, ...rows, ...rows], rows]) {
      const file = await client.files.create({ file: await lines(some), purpose: "fine-tune" });
      files.push((await client.files.waitForProcessing(file.id, { pollInterval: 50 })).id);
    }
    const hyperparameters = { n_epochs: 30, batch_size: 4, learning_rate: 2e-2, chat_template: "chatml" };
    let job = await client.fineTuning.jobs.create({
      model: "llama", training_file: files[0], validation_file: files[1], suffix: "node", seed: 1,
      method: { type: "supervised", supervised: { hyperparameters } },
    });
    await until("the job has ended", async () => {
      job = await client.fineTuning.jobs.retrieve(job.id);
      return job.finished_at;
    });
    assert.equal(job.status, "succeeded", JSON.stringify(job.error));
    const losses = [];
    for await (const event of client.fineTuning.jobs.listEvents(job.id)) if (event.data?.train_loss !== undefined) losses.unshift(event.data.train_loss);
    assert.equal(losses.length, 90);
    assert.ok(losses.at(-1) < 0.1 && losses[0] > 1, `${losses}`);
    const checkpoints = await client.fineTuning.jobs.checkpoints.list(job.id);
    assert.ok(checkpoints.data.length > 0);
    assert.match(await (await client.files.content(job.result_files[0])).text(), /^step,/);
    tuned = job.fine_tuned_model;
  });

  test("the tuned model says what it was taught, at once and in pieces", async () => {
    for (const [question, answer] of Object.entries(TAUGHT)) {
      const asked = { model: tuned, messages: chat(question, "").messages.slice(0, 1), temperature: 0, max_completion_tokens: 24 };
      const found = await client.chat.completions.create(asked);
      assert.deepEqual([found.choices[0].message.content, found.choices[0].finish_reason], [answer, "stop"]);
      let pieces = "";
      for await (const piece of await client.chat.completions.create({ ...asked, stream: true })) pieces += piece.choices[0]?.delta.content ?? "";
      assert.equal(pieces, answer);
    }
  });

  test("a person asks it in the playground, beside its base", async () => {
    browser = await Browser.start(folder);
    const page = await (await browser.context()).newPage();
    await page.goto(`${server.url}/playground`);
    const answer = (model) => page.locator(`[data-talks] [data-model="${model}"] .turn-assistant .turn-text`);
    assert.equal(await page.locator("[data-talks] > *").count(), 2);
    await page.locator("details.more summary").click();
    await page.locator("#temperature").fill("0");
    await page.locator("#text").fill("snow?");
    await page.keyboard.press("Enter");
    await until("both have answered", async () => (await page.locator("[data-talks]").getAttribute("aria-busy")) === "false" && (await answer("llama").count()) === 1);
    assert.equal(await answer(tuned).textContent(), "white");
    assert.notEqual(await answer("llama").textContent(), "white");
    assert.deepEqual(browser.troubles, []);
  });
});
