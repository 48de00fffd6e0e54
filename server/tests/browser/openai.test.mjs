// OpenAI's client for Node, unmodified, against a server whose trainer is `tests/fixtures/worker.py`.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import OpenAI from "openai";
import { Server, remove, scratch, talking } from "./lib.mjs";

const messages = [{ role: "user", content: "one two" }];
const say = (content) => [{ role: "user", content }];

describe("the client for Node talks with models", () => {
  let folder, server, client;
  const model = "tiny";

  before(async () => {
    folder = scratch();
    server = await talking(folder);
    client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "any", maxRetries: 0 });
  });

  after(async () => {
    await server?.stop();
    if (folder) remove(folder);
  });

  test("a chat is answered", async () => {
    const answer = await client.chat.completions.create({ model, messages, n: 2, logprobs: true, top_logprobs: 1 });
    assert.deepEqual(answer.choices.map((choice) => choice.message.content), ["one two", "one two"]);
    assert.equal(answer.choices[0].logprobs.content.length, 2);
  });

  test("a stream brings pieces and the counts", async () => {
    let text = "";
    let usage = null;
    for await (const chunk of await client.chat.completions.create({ model, messages, stream: true, stream_options: { include_usage: true } })) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, "one two");
    assert.equal(usage.total_tokens, 4);
  });

  test("the client's own stream helper joins the pieces", async () => {
    const whole = await client.chat.completions.stream({ model, messages }).finalChatCompletion();
    assert.equal(whole.choices[0].message.content, "one two");
    assert.equal(whole.choices[0].finish_reason, "stop");
  });

  test("an answer keeps to a schema", async () => {
    const json_schema = { name: "answer", schema: { type: "object", properties: { answer: { type: "integer" } } } };
    const parsed = await client.chat.completions.parse({ model, messages, response_format: { type: "json_schema", json_schema } });
    assert.equal(JSON.parse(parsed.choices[0].message.content).answer, 42);
  });

  test("completions and vectors come", async () => {
    const completion = await client.completions.create({ model, prompt: ["a", "b c"], echo: true, max_tokens: 0, logprobs: 1 });
    assert.deepEqual(completion.choices.map((choice) => choice.text), ["a", "b c"]);
    const { data } = await client.embeddings.create({ model: "encoder", input: "a" });
    assert.ok(Math.abs(data[0].embedding[2] - 0.8) < 1e-6);
  });

  test("what is refused or breaks off is an error of the client", async () => {
    await assert.rejects(client.chat.completions.create({ model: "encoder", messages }), (error) => error.status === 400 && error.param === "model");
    const broken = async () => {
      const stream = await client.chat.completions.create({ model, messages: say("a <broken>"), stream: true });
      for await (const _ of stream);
    };
    await assert.rejects(broken, (error) => /out of memory/.test(error.message));
  });

  test("a stream that the client aborts is given up", async () => {
    const stream = await client.chat.completions.create({ model, messages: say("<silent>"), stream: true });
    assert.equal((await server.json(`/v1/models/${model}`)).loaded.requests, 1);
    stream.controller.abort();
    while ((await server.json(`/v1/models/${model}`)).loaded.requests > 0) await new Promise((wait) => setTimeout(wait, 50));
  });
});
