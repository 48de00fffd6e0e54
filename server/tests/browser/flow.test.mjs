// The whole way in a browser: data and checkpoint in, curves, orders, a checkpoint out.
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { Browser, Server, checkpoint, pack, remove, rows, scratch, until, writeFile } from "./lib.mjs";

const LONG = "Long run";
const SHORT = "<script>document.title=1337</script>";

describe("a person fine-tunes in the browser", () => {
  let folder, server, browser, context, page, files;

  before(async () => {
    folder = scratch();
    server = await Server.start(folder);
    browser = await Browser.start(folder);
    // What the console says of a killed server, of a form with a wrong value, of a name that is taken.
    context = await browser.context({}, [/ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET|status of 503/, /htmx:error: Failed to fetch/, /status of 422/, /status of 400/]);
    page = await context.newPage();
    const model = checkpoint(folder, "tiny-bert");
    files = {
      train: writeFile(folder, "reviews.csv", rows(240)),
      ragged: writeFile(folder, "ragged.csv", "text,label\na,pos\nb,neg,really\nc,pos\n"),
      hostile: writeFile(folder, "hostile.csv", 'text,label\n"<script>document.title=1337</script>",pos\n"<img src=x onerror=""document.title=1337"">",neg\n{{7*7}},pos\n'),
      another: checkpoint(join(folder, "another"), "tiny-bert", "bert"),
      folder: checkpoint(folder, "tiny-bert-folder"),
      archive: pack(folder, "tiny-bert"),
    };
  });

  after(async () => {
    await browser?.stop();
    await server?.stop();
    if (folder) remove(folder);
  });

  let broken = null;

  /** A test that builds on those before it: after a failure the rest would only fail for the same reason. */
  function step(name, options, body = options) {
    test(name, typeof options === "object" ? options : {}, async (context) => {
      if (broken) return context.skip(`“${broken}” failed`);
      broken = name;
      await body();
      broken = null;
    });
  }

  const open = (path) => page.goto(server.url + path);
  const state = () => page.locator("#status").getAttribute("data-state");
  const points = (of = page) => of.locator("[data-chart=loss]").getAttribute("data-points").then(Number);
  const jobs = async () => (await server.json("/v1/fine_tuning/jobs?limit=100")).data;
  const jobOf = () => page.locator("#job").getAttribute("data-job");

  /** Numbers of all training steps that the page's own series holds. */
  const steps = async (job) => (await server.json(`/jobs/${job}/series`)).kinds.train.step;

  step("an empty server shows the three steps", async () => {
    await open("/");
    assert.match(await page.locator("h1").textContent(), /Fine-tune a model/);
    assert.equal(await page.locator(".steps li").count(), 3);
    await until("the trainer is there", async () => {
      await open("/");
      return (await page.getByText("idle").count()) > 0;
    });
  });

  step("a file with bad rows says which lines", async () => {
    await open("/data");
    await page.locator("input[type=file]").setInputFiles(files.ragged);
    await page.waitForURL(/\/data\/file-/);
    assert.match(await page.locator(".problems").textContent(), /Line 3/);
    assert.equal(await page.getByText("Fine-tune on this").count(), 0);
  });

  step("cells that look like a page are shown letter by letter", async () => {
    await open("/data");
    await page.locator("input[type=file]").setInputFiles(files.hostile);
    await page.waitForURL(/\/data\/file-/);
    const cells = await page.locator(".cell-clip").allTextContents();
    assert.ok(cells.includes("<script>document.title=1337</script>"), cells.join("|"));
    assert.ok(cells.includes("{{7*7}}"));
    assert.match(await page.title(), /hostile\.csv/);
  });

  step("data and checkpoint are uploaded in the form and chosen there", async () => {
    await open("/jobs/new");
    await page.locator("[data-choose=training_file] input[type=file]").first().setInputFiles(files.train);
    await page.locator(".choice:has-text('reviews.csv') input:checked").waitFor();
    await page.locator("#columns .card-inner").waitFor();
    assert.equal(await page.locator("#f-columns-text").inputValue(), "text");
    assert.equal(await page.locator("#f-columns-label").inputValue(), "label");
    assert.match(await page.locator("#columns").textContent(), /240 rows, 2 classes: negative 120, positive 120/);
    await page.locator("[data-choose=model] input[type=file]").first().setInputFiles(files.archive);
    await page.locator(".choice:has-text('tiny-bert') input:checked").waitFor();
    assert.match(await page.locator("[data-summary]").textContent(), /tiny-bert on reviews\.csv/);
  });

  step("a folder is a checkpoint too", async () => {
    await open("/models");
    // Its name is taken by the archive, which holds something else.
    await page.locator("[data-folder]").setInputFiles(files.another);
    await page.locator(".drop-error").filter({ hasText: "tiny-bert" }).waitFor();
    await page.locator("[data-folder]").setInputFiles(files.folder);
    await page.waitForURL(/\/models\/tiny-bert-folder/);
    assert.match(await page.locator(".facts").textContent(), /BertModel/);
  });

  step("another label column brings another preview without losing the rest of the form", async () => {
    await open("/jobs/new");
    await page.locator(".choice:has-text('reviews.csv')").click();
    await page.locator("#f-n_epochs").fill("7");
    await page.locator("#columns .card-inner").waitFor();
    await page.locator("#f-columns-label").focus();
    await page.locator("#f-columns-label").selectOption("text");
    await page.locator("#columns").getByText("240 different labels").waitFor();
    assert.equal(await page.locator("#f-n_epochs").inputValue(), "7");
    assert.equal(await page.locator("#f-columns-label").evaluate((field) => field === document.activeElement), true);
  });

  async function fill(name, settings) {
    await open("/jobs/new");
    await page.locator(".choice:has-text('reviews.csv')").click();
    await page.locator("#columns .card-inner").waitFor();
    await page.locator(".choice", { has: page.locator("strong", { hasText: /^tiny-bert$/ }) }).click();
    await page.locator("#f-name").fill(name);
    const more = page.locator("details.more-inner");
    if (!(await more.getAttribute("open").then((open) => open !== null))) await more.locator("summary").click();
    for (const [field, value] of Object.entries(settings)) await page.locator(`[name="${field}"]`).fill(value);
  }

  step("a wrong setting is told at its field, and nothing is started", async () => {
    await fill("wrong", { learning_rate: "-3", "optimizer.beta1": "quick" });
    await page.getByRole("button", { name: "Start" }).click();
    await page.locator("[aria-invalid=true]").first().waitFor();
    assert.equal(await page.locator("#f-optimizer-beta1").getAttribute("aria-invalid"), "true");
    assert.match(await page.locator(".field:has(#f-optimizer-beta1) .error").textContent(), /not a number/);
    await page.locator("#f-optimizer-beta1").fill("0.9");
    await page.getByRole("button", { name: "Start" }).click();
    await page.locator(".field:has(#f-learning_rate) .error").waitFor();
    assert.equal(await page.locator("#f-name").inputValue(), "wrong");
    assert.equal((await jobs()).length, 0);
  });

  step("a field that the optimizer does not have is not shown", async () => {
    await fill("fields", {});
    assert.equal(await page.locator("#f-optimizer-momentum").isVisible(), false);
    await page.locator("#f-optimizer-name").selectOption("sgd");
    assert.equal(await page.locator("#f-optimizer-momentum").isVisible(), true);
    assert.equal(await page.locator("#f-optimizer-beta1").isVisible(), false);
  });

  step("a double click on Start makes one job, and its curve grows", async () => {
    await fill(LONG, { max_steps: "60000", batch_size: "8", "eval_every.count": "200", learning_rate: "1e-3", checkpoint_every: "200", log_every: "1" });
    await page.locator("#f-eval_every-unit").selectOption("steps");
    await page.getByRole("button", { name: "Start" }).dblclick();
    await page.waitForURL(/\/jobs\/ftjob-/);
    assert.equal((await jobs()).length, 1);
    const first = await until("the curve begins", () => points());
    await until("the curve grows", async () => (await points()) > first + 20);
    await until("the first evaluation is on the page", () => page.getByText("Confusion matrix").count());
    assert.equal(await state(), "running");
  });

  step("the same form sent again is the same job", async () => {
    const form = await page.context().newPage();
    await form.goto(`${server.url}/jobs/new`);
    const token = await form.locator("[name=token]").inputValue();
    const model = await form.locator(".choice", { has: form.locator("strong", { hasText: /^tiny-bert$/ }) }).locator("input").inputValue();
    const data = await form.locator(".choice:has-text('reviews.csv') input").inputValue();
    await form.close();
    const before = (await jobs()).length;
    const send = () =>
      fetch(`${server.url}/jobs`, {
        method: "POST",
        redirect: "manual",
        body: new URLSearchParams({ token, model, training_file: data, name: "twice", n_epochs: "1", "columns.text": "text", "columns.label": "label" }),
      }).then((answer) => answer.headers.get("location"));
    const places = await Promise.all(Array.from({ length: 5 }, send));
    assert.equal(new Set(places).size, 1, places.join(" "));
    assert.match(places[0], /^\/jobs\/ftjob-/);
    assert.equal((await jobs()).length, before + 1);
    await fetch(`${server.url}${places[0]}/cancel`, { method: "POST" });
  });

  step("axis, smoothing, log scale and legend redraw the curve", async () => {
    const card = page.locator("[data-chart=loss]");
    const axis = (name) => page.locator(".segments").getByText(name);
    await axis("Epoch").click();
    await card.locator(".chart-now", { hasText: "epoch" }).waitFor();
    await axis("Time").click();
    await card.locator(".chart-now", { hasText: "time" }).waitFor();
    await axis("Step").click();
    const isLog = () => card.evaluate((card) => card.chart.uplot.scales.y.distr === 3);
    await page.locator("#log-scale").check();
    await until("the scale is logarithmic", isLog);
    await page.locator("#smoothing").fill("0");
    assert.equal(await page.locator("output[for=smoothing]").textContent(), "0.00");
    const training = card.locator(".legend button").first();
    await training.click();
    assert.equal(await training.getAttribute("aria-pressed"), "false");
    await training.click();
    await page.locator("#log-scale").uncheck();
    await until("the scale is linear", async () => !(await isLog()));
  });

  step("dragging zooms in, a double click shows all again", async () => {
    const plot = page.locator("[data-chart=loss] .u-over");
    await plot.scrollIntoViewIfNeeded();
    const { x, y, width, height } = await plot.boundingBox();
    const shown = () => page.locator("[data-chart=loss]").evaluate((card) => card.chart.uplot.scales.x.max - card.chart.uplot.scales.x.min);
    const all = await shown();
    await page.mouse.move(x + width * 0.2, y + height / 2);
    await page.mouse.down();
    await page.mouse.move(x + width * 0.5, y + height / 2, { steps: 5 });
    await page.mouse.up();
    await until("the chart is zoomed", async () => (await shown()) < all * 0.6);
    const grown = await points();
    await until("it grows while it is zoomed", async () => (await points()) > grown);
    assert.ok((await shown()) < all * 0.6);
    await page.mouse.dblclick(x + width / 2, y + height / 2);
    await until("everything is shown", async () => (await shown()) >= all);
  });

  step("a reload loses nothing", async () => {
    const before = await points();
    await page.reload();
    await until("the curve is back", async () => (await points()) >= before);
  });

  step("pause and resume leave a seam and no gap", async () => {
    await page.getByRole("button", { name: "Pause" }).click();
    await until("it is paused", async () => (await state()) === "paused");
    await page.getByRole("button", { name: "Resume" }).click();
    await until("it runs again", async () => (await state()) === "running");
    const job = await jobOf();
    await until("the seam is known", async () => (await server.json(`/jobs/${job}/series`)).seams.length === 1);
    const at = Math.max(...(await steps(job)));
    await until("steps come behind the seam", async () => Math.max(...(await steps(job))) > at);
    const seams = await until("the page has the seam", () => page.locator("[data-chart=loss]").evaluate((card) => card.chart.curves.seams.length));
    assert.equal(seams, 1);
  });

  step("eight tabs on one job leave the browser connections for a ninth page", async () => {
    const address = page.url();
    const tabs = [];
    for (let tab = 0; tab < 7; tab += 1) {
      const other = await context.newPage();
      await other.goto(address);
      await until("its curve is drawn", () => points(other));
      tabs.push(other);
    }
    const held = await page.evaluate(async () => (await navigator.locks.query()).held.filter((lock) => lock.name.startsWith("luthier-stream")).length);
    assert.ok(held >= 1 && held <= 3, `${held} streams are open`);
    const last = tabs.at(-1);
    const now = await points(last);
    await until("the last tab grows as well", async () => (await points(last)) > now);
    const ninth = await context.newPage();
    await ninth.goto(`${server.url}/models`);
    assert.match(await ninth.locator("h1").textContent(), /Models/);
    for (const tab of [...tabs, ninth]) await tab.close();
  });

  step("a killed server that comes back finds the open page going on, no point doubled", async () => {
    const job = await jobOf();
    await server.stop("SIGKILL");
    await until("the page has noticed", async () => (await page.locator("#job").getAttribute("data-stream")) === "lost");
    await server.run();
    const before = await points();
    await until("the curve grows without a reload", async () => (await points()) > before, 120);
    const known = await page.locator("[data-chart=loss]").evaluate((card) => card.chart.curves.of("train").step);
    assert.deepEqual(known, [...new Set(known)].sort((a, b) => a - b));
    const { data } = await server.json(`/v1/fine_tuning/jobs/${job}/checkpoints`);
    assert.ok(data.length > 0);
  });

  step("cancelling asks first", async () => {
    await page.getByRole("link", { name: "Cancel" }).click();
    await page.locator("dialog[open]").waitFor();
    assert.match(await page.locator("dialog").textContent(), /Cancel this fine-tune\?/);
    await page.keyboard.press("Escape");
    await page.locator("dialog[open]").waitFor({ state: "hidden" });
    assert.equal(await state(), "running");
    await page.getByRole("link", { name: "Cancel" }).click();
    await page.getByRole("button", { name: "Cancel it" }).click();
    await until("it is cancelled", async () => (await state()) === "cancelled");
    assert.equal(await page.getByRole("link", { name: "Download checkpoint" }).count(), 0);
  });

  step("run again brings the same settings", async () => {
    await page.getByRole("link", { name: "Run again" }).click();
    await page.waitForURL(/\/jobs\/new\?from=/);
    assert.equal(await page.locator("#f-max_steps").inputValue(), "60000");
    assert.equal(await page.locator("#f-eval_every-unit").inputValue(), "steps");
    assert.equal(await page.locator("#f-columns-text").inputValue(), "text");
    await page.locator("#f-name").fill(SHORT);
    await page.locator("#f-max_steps").fill("");
    await page.locator("#f-n_epochs").fill("3");
    await page.locator("#f-eval_every-count").fill("1");
    await page.locator("#f-eval_every-unit").selectOption("epochs");
    await page.getByRole("button", { name: "Start" }).click();
    await page.waitForURL(/\/jobs\/ftjob-/);
  });

  step("a run ends with metrics, examples and a checkpoint, without a reload", async () => {
    await until("it has succeeded", async () => (await state()) === "succeeded");
    assert.equal(await page.locator("h1").textContent(), SHORT);
    assert.notEqual(await page.title(), "1337");
    await page.locator("#results").getByText("Confusion matrix").waitFor();
    assert.ok((await page.locator(".matrix td").count()) === 4);
    await page.getByRole("tab", { name: "Random" }).click();
    assert.equal(await page.locator("#examples-random").isVisible(), true);
    assert.equal(await page.locator("#examples-worst").isVisible(), false);
    await page.locator("[data-stream=ended]").waitFor();
    const job = await server.json(`/v1/fine_tuning/jobs/${await jobOf()}`);
    assert.equal(job.status, "succeeded");
    // 216 of 240 rows are trained on in batches of 8: three times 27 steps, each there once.
    assert.deepEqual(await steps(job.id), Array.from({ length: 81 }, (_, step) => step + 1));
    assert.equal(await points(), 81);
  });

  step("the archive is downloaded", async () => {
    const started = page.waitForEvent("download");
    await page.getByRole("link", { name: "Download checkpoint" }).click();
    const download = await started;
    const path = join(folder, "model.zip");
    await download.saveAs(path);
    assert.ok(statSync(path).size > 100_000);
    const bytes = readFileSync(path);
    assert.equal(bytes.subarray(0, 2).toString(), "PK");
    for (const name of ["config.json", "model.safetensors", "tokenizer.json", "README.md"]) assert.ok(bytes.includes(name), name);
  });

  step("the try-it box answers", async () => {
    await page.getByRole("link", { name: "Open model" }).click();
    await page.waitForURL(/\/models\/ft:/);
    await page.locator("#try-text").fill("the film was great");
    await page.locator("#try-text").press("Control+Enter");
    await page.locator(".score").first().waitFor();
    assert.deepEqual((await page.locator(".score strong").allTextContents()).sort(), ["negative", "positive"]);
    assert.match(await page.locator(".lineage").textContent(), /tiny-bert.*this model/s);
  });

  step("the theme is kept from page to page", async () => {
    const theme = () => page.evaluate(() => document.documentElement.dataset.theme);
    await page.locator("[data-theme-toggle]").click();
    const chosen = await theme();
    assert.ok(["light", "dark"].includes(chosen));
    await open("/jobs");
    assert.equal(await theme(), chosen);
    await page.locator("[data-theme-toggle]").click();
  });

  step("everything is reached with the keyboard", async () => {
    await open("/");
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => location.hash), "#main");
    await open("/jobs");
    const [finished] = (await jobs()).filter((job) => job.status === "succeeded");
    await page.locator(`a[href="/jobs/${finished.id}"]`).focus();
    await page.keyboard.press("Enter");
    await page.waitForURL(/\/jobs\/ftjob-/);
    await until("the curve is drawn", () => points());
    await page.locator("[data-chart=loss] .chart-plot").focus();
    await page.keyboard.press("Home");
    await page.locator("[data-chart=loss] .chart-now", { hasText: "step 1" }).waitFor();
    await page.keyboard.press("ArrowRight");
    await page.locator("[data-chart=loss] .chart-now", { hasText: "step 2" }).waitFor();
    await page.getByRole("tab", { name: "Worst" }).focus();
    await page.keyboard.press("ArrowRight");
    assert.equal(await page.locator("#examples-best").isVisible(), true);
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert.equal(outline, "solid");
  });

  step("without script there is a drawing, a table and a form that starts a job", async () => {
    const plain = await browser.context({ javaScriptEnabled: false });
    const tab = await plain.newPage();
    const [finished] = (await jobs()).filter((job) => job.status === "succeeded");
    await tab.goto(`${server.url}/jobs/${finished.id}`);
    const drawing = tab.locator(".drawn img").first();
    await drawing.waitFor();
    assert.equal(await tab.locator("noscript tbody tr").count(), 3);
    assert.equal(await tab.locator("#examples-worst").isVisible(), true);
    const drawn = await fetch(server.url + (await drawing.getAttribute("src")));
    assert.match(drawn.headers.get("content-type"), /svg/);
    assert.match(await drawn.text(), /<polyline points="/);
    await tab.goto(`${server.url}/jobs/${finished.id}/values`);
    assert.ok((await tab.locator("tbody tr").count()) >= 84);
    await tab.goto(`${server.url}/data`);
    await tab.locator("input[type=file]").setInputFiles(writeFile(folder, "plain.csv", rows(60)));
    await tab.getByRole("button", { name: "Upload" }).click();
    await tab.waitForURL(/\/data\/file-/);
    await tab.getByRole("link", { name: "Fine-tune on this" }).click();
    assert.equal(await tab.locator("#f-columns-text").inputValue(), "text");
    await tab.locator(".choice", { has: tab.locator("strong", { hasText: /^tiny-bert$/ }) }).click();
    await tab.locator("#f-name").fill("without script");
    await tab.getByRole("button", { name: "Start" }).click();
    await tab.waitForURL(/\/jobs\/ftjob-/);
    await tab.getByRole("link", { name: "Cancel" }).click();
    await tab.getByRole("button", { name: "Cancel it" }).click();
    await tab.waitForURL(/\/jobs\/ftjob-/);
    await plain.close();
  });

  step("data that no living run needs is deleted after a question", async () => {
    await open("/data");
    await page.getByRole("link", { name: "hostile.csv" }).click();
    await page.getByRole("link", { name: "Delete" }).click();
    await page.getByRole("button", { name: "Delete it" }).click();
    await page.waitForURL(/\/data$/);
    assert.equal(await page.getByRole("link", { name: "hostile.csv" }).count(), 0);
  });

  step("an address that leads nowhere is a page that says so", async () => {
    const answer = await page.context().request.get(`${server.url}/jobs/ftjob-0`, { headers: { accept: "text/html" } });
    assert.equal(answer.status(), 404);
    assert.match(await answer.text(), /Not found/);
  });

  step("no page broke the policy or wrote an error to the console", () => {
    assert.deepEqual(browser.troubles, []);
  });

  step("pictures of every page", { skip: process.env.SCREENSHOTS ? false : "SCREENSHOTS=folder writes them" }, async () => {
    const target = process.env.SCREENSHOTS;
    mkdirSync(target, { recursive: true });
    const list = await jobs();
    const finished = list.find((job) => job.status === "succeeded");
    // The oldest: the one without script was cancelled before its first step.
    const cancelled = list.findLast((job) => job.status === "cancelled");
    const { data } = await server.json("/v1/files?purpose=fine-tune");
    const train = data.find((file) => file.filename === "reviews.csv").id;
    const ragged = data.find((file) => file.filename === "ragged.csv").id;
    const pages = {
      home: "/",
      jobs: "/jobs",
      new: `/jobs/new?training_file=${train}&model=tiny-bert`,
      job: `/jobs/${finished.id}`,
      "job-cancelled": `/jobs/${cancelled.id}`,
      values: `/jobs/${finished.id}/values`,
      data: "/data",
      "data-detail": `/data/${train}`,
      "data-problems": `/data/${ragged}`,
      models: "/models",
      "model-detail": `/models/${finished.fine_tuned_model}`,
      "not-found": "/nothing",
    };
    for (const colorScheme of ["light", "dark"]) {
      for (const width of [1280, 390]) {
        const shots = await browser.context({ colorScheme, viewport: { width, height: 900 } }, [/status of 404/]);
        for (const [name, path] of Object.entries(pages)) {
          const tab = await shots.newPage();
          await tab.goto(server.url + path);
          if (name.startsWith("job-") || name === "job") await until("its curve is drawn", () => points(tab));
          const wide = await tab.evaluate(() => document.documentElement.scrollWidth - innerWidth);
          assert.ok(wide <= 0, `${name} is ${wide} pixels too wide at ${width}`);
          const height = await tab.evaluate(() => document.documentElement.scrollHeight);
          await tab.setViewportSize({ width, height });
          await tab.waitForTimeout(200);
          await tab.screenshot({ path: join(target, `${name}-${width}-${colorScheme}.png`) });
          await tab.close();
        }
        await shots.close();
      }
    }
  });
});
