// Talking with models in the playground; the trainer is `tests/fixtures/worker.py`, which repeats what it is told.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { Browser, remove, scratch, talking, until } from "./lib.mjs";

describe("a person talks with models", () => {
  let folder, server, browser, page;

  before(async () => {
    folder = scratch();
    server = await talking(folder);
    browser = await Browser.start(folder);
    page = await (await browser.context({}, [/status of 400/])).newPage();
    await page.goto(`${server.url}/playground?model=tiny&model=base`);
  });

  after(async () => {
    await browser?.stop();
    await server?.stop();
    if (folder) remove(folder);
  });

  const column = (model) => page.locator(`[data-talks] [data-model="${model}"]`);
  const answers = (model) => column(model).locator(".turn-assistant .turn-text");
  const state = (model) => column(model).locator("[data-state]");

  async function say(text) {
    await page.locator("#text").fill(text);
    await page.keyboard.press("Enter");
  }

  test("two models answer side by side, and their speed is told", async () => {
    await say("<slow> how are you");
    await until("both are done", async () => (await page.locator("[data-talks]").getAttribute("aria-busy")) === "false" && (await answers("base").count()) === 1);
    for (const model of ["tiny", "base"]) {
      assert.equal(await answers(model).textContent(), "<slow> how are you");
      assert.match(await state(model).textContent(), /^4 tokens · [\d.]+ tokens\/s$/);
    }
    assert.ok(await column("base").getByText("continues text").isVisible());
    assert.ok(await column("tiny").getByText("continues text").isHidden());
  });

  test("a conversation goes on, with the settings of the page", async () => {
    await page.locator("details.more summary").click();
    await page.locator("#system").fill("Be brief.");
    await page.locator("#temperature").fill("0");
    await page.locator("#stop").fill("END");
    await say("<settings>");
    await until("it is answered", async () => (await state("tiny").textContent()).includes("tokens/s") && (await answers("tiny").count()) === 2);
    await until("it is whole", async () => (await page.locator("[data-talks]").getAttribute("aria-busy")) === "false");
    const asked = JSON.parse(await answers("tiny").nth(1).textContent());
    assert.deepEqual(asked.messages.map((message) => message.role), ["system", "user", "assistant", "user"]);
    assert.deepEqual([asked.temperature, asked.stop, asked.max_tokens], [0, ["END"], 512]);
    assert.equal(JSON.parse(await answers("base").nth(1).textContent()).prompt, "<settings>");
  });

  test("an answer is stopped by a key, and what came stays", async () => {
    await say(`<slow> ${"word ".repeat(200)}`);
    await until("words come", async () => (await answers("tiny").nth(2).textContent()).includes("word word"));
    await page.keyboard.press("Escape");
    await until("it stops", async () => (await state("tiny").textContent()).includes("stopped"));
    await until("the server knows", async () => (await server.json("/v1/models/tiny")).loaded.requests === 0);
  });

  test("an error is shown in its column", async () => {
    await say("a <broken>");
    await until("it broke", async () => (await column("tiny").locator(".error").count()) > 0);
    assert.match(await column("tiny").locator(".error").first().textContent(), /out of memory/);
    await say("hello again");
    await until("it goes on", async () => (await answers("tiny").last().textContent()) === "hello again");
  });

  test("a model is added and taken away, and a clear page begins anew", async () => {
    await page.locator("#model-2").selectOption("");
    assert.equal(await page.locator("[data-talks] > *").count(), 1);
    assert.equal(new URL(page.url()).search, "?model=tiny");
    await page.locator("[data-clear]").click();
    assert.equal(await answers("tiny").count(), 0);
  });

  test("a language model's page leads here, and what is loaded is let go of", async () => {
    await page.goto(`${server.url}/models/tiny`);
    await page.getByRole("link", { name: "Talk to it" }).click();
    await page.waitForURL(/\/playground\?model=tiny/);
    await page.goto(`${server.url}/models`);
    const loaded = page.locator("section", { has: page.locator("#loaded") });
    assert.equal(await loaded.locator("tbody tr").count(), 2);
    for (let left = 2; left > 0; left -= 1) await loaded.getByRole("button", { name: "Unload" }).first().click();
    await until("nothing is loaded", async () => (await page.locator("#loaded").count()) === 0);
    assert.equal((await server.json("/v1/models/tiny")).loaded, null);
  });

  test("without script the page says what it needs", async () => {
    const context = await browser.context({ javaScriptEnabled: false });
    const plain = await context.newPage();
    await plain.goto(`${server.url}/playground`);
    assert.ok(await plain.getByText("which takes JavaScript").isVisible());
    assert.ok(await plain.locator("[data-playground]").isHidden());
    await context.close();
  });

  test("nothing went wrong in the console", () => assert.deepEqual(browser.troubles, []));
});
