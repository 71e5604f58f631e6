// Walks the dashboard; see ./run. Fails with the first thing that is wrong, or with all findings of axe-core at the end.
import assert from "node:assert/strict";
import {spawn} from "node:child_process";
import {readFileSync, mkdirSync} from "node:fs";
import {createRequire} from "node:module";
import {createServer} from "node:net";
import {chromium} from "playwright-core";

const {WORK: work, SHOTS: shots} = process.env;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const findings = [];
mkdirSync(shots, {recursive: true});

// A free port, so that a restarted server has the same address.
const port = await new Promise(resolve => {
  const s = createServer().listen(0, "127.0.0.1", () => { const {port} = s.address(); s.close(() => resolve(port)); });
});
const base = `http://127.0.0.1:${port}`;

let server;
async function start() {
  server = spawn(`${work}/neuronmill`, ["dev", "--listen", `127.0.0.1:${port}`], {env: {...process.env, NEURONMILL_DATA_DIR: `${work}/data`}, stdio: ["ignore", "ignore", "pipe"]});
  let log = "";
  server.stderr.on("data", d => { log += d; });
  for (let i = 0; ; i++) {
    try { if ((await fetch(`${base}/readyz`)).ok) return; } catch {}
    assert(i < 300 && server.exitCode === null, `no server: ${log}`);
    await new Promise(r => setTimeout(r, 200));
  }
}
async function stop(signal) {
  const ended = new Promise(r => server.once("exit", r));
  server.kill(signal);
  await ended;
}

async function submit(body, wait = 50) {
  const res = await fetch(`${base}/v1/tasks`, {method: "POST", headers: {"Content-Type": "application/json", Prefer: `wait=${wait}`}, body: JSON.stringify(body)});
  const task = await res.json();
  assert(res.status < 300, JSON.stringify(task));
  return task;
}

// tone is a second of a sound, as a WAV file.
function tone() {
  const n = 16000, b = Buffer.alloc(44 + 2 * n);
  b.write("RIFF", 0); b.writeUInt32LE(36 + 2 * n, 4); b.write("WAVEfmt ", 8); b.writeUInt32LE(16, 16); b.writeUInt16LE(1, 20); b.writeUInt16LE(1, 22);
  b.writeUInt32LE(n, 24); b.writeUInt32LE(2 * n, 28); b.writeUInt16LE(2, 32); b.writeUInt16LE(16, 34); b.write("data", 36); b.writeUInt32LE(2 * n, 40);
  for (let i = 0; i < n; i++) b.writeInt16LE(Math.round(9000 * Math.sin(i / 6)), 44 + 2 * i);
  return b;
}

async function work_() {
  const tasks = {};
  tasks.translation = await submit({kind: "translation", input: {text: "Good morning! The order is on its way.", target_lang: "de"}, metadata: {order: "7"}});
  tasks.image = await submit({kind: "image", input: {prompt: "a red fox in the snow"}});
  tasks.embedding = await submit({kind: "embedding", input: {texts: ["a quiet river", "a busy harbour", "snow on the pass"]}});
  tasks.text = await submit({kind: "text", input: {prompt: "Name three rivers"}});
  tasks.tools = await submit({kind: "text", input: {prompt: "What is the weather in Bern?", tools: [{name: "weather", description: "the weather of a place", parameters: {type: "object", properties: {place: {type: "string"}}}}]}});
  const form = new FormData();
  form.set("task", "{}");
  form.set("file", new Blob([tone()], {type: "audio/wav"}), "tone.wav");
  const res = await fetch(`${base}/v1/transcriptions`, {method: "POST", body: form});
  tasks.transcription = await res.json();
  await fetch(`${base}/v1/tasks/${tasks.transcription.id}?wait=50`);
  tasks.failed = await submit({kind: "text", model: "@cf/meta/llama-3.2-3b-instruct", input: {prompt: "cancel me"}, run_at: new Date(Date.now() + 3600e3).toISOString()}, 0);
  await fetch(`${base}/v1/tasks/${tasks.failed.id}`, {method: "DELETE"});
  await fetch(`${base}/v1/tasks/${tasks.failed.id}?wait=50`);
  tasks.scheduled = await submit({kind: "translation", input: {text: "Good night", target_lang: "fr"}, run_at: new Date(Date.now() + 7200e3).toISOString()}, 0);
  for (const prompt of ["a lighthouse at dusk", "a paper boat on a pond"]) await submit({kind: "image", input: {prompt}});
  await submit({kind: "translation", input: {text: "The meeting moves to Thursday.", target_lang: "es"}});
  for (const schedule of [{name: "report", cron: "0 2 * * *", time_zone: "Europe/Berlin"}, {name: "covers", cron: "*/15 8-18 * * 1-5"}]) {
    const res = await fetch(`${base}/v1/schedules`, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({...schedule, kind: "text", payload: {prompt: "Sum up the news of {{date -1d}}"}})});
    assert.equal(res.status, 201, await res.text());
  }
  const ran = await (await fetch(`${base}/v1/schedules/report/run`, {method: "POST"})).json();
  await fetch(`${base}/v1/tasks/${ran.task}?wait=50`);
  await fetch(`${base}/v1/schedules/covers/pause`, {method: "POST"});
  return tasks;
}

await start();
const browser = await chromium.launch({executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"]});
try {
  const tasks = await work_();
  const pages = {overview: "/", tasks: "/tasks", ended: "/tasks?state=ended", new: "/new", batches: "/batches", schedules: "/schedules", schedule: "/schedules/report", errors: "/errors", gates: "/gates", workers: "/workers", usage: "/usage", "usage-month": "/usage?days=31&by=tenant", webhooks: "/webhooks", plan: "/actions/new?do=cancel", "plan-errors": "/actions/new?do=retry", log: "/log", login: "/login", missing: "/nothing"};
  for (const [name, t] of Object.entries(tasks)) pages[`task-${name}`] = `/tasks/${t.id}`;
  const looks = {light: {colorScheme: "light", viewport: {width: 1280, height: 900}}, dark: {colorScheme: "dark", viewport: {width: 1280, height: 900}}, phone: {colorScheme: "light", viewport: {width: 390, height: 844}}};
  for (const [look, options] of Object.entries(looks)) {
    const context = await browser.newContext({...options, reducedMotion: "reduce"});
    for (const [name, path] of Object.entries(pages)) {
      const page = await context.newPage();
      page.on("console", m => { if (!(name === "missing" && m.text().includes("404"))) findings.push(`${look} ${name}: console: ${m.text()}`); });
      page.on("pageerror", e => findings.push(`${look} ${name}: ${e}`));
      await page.goto(`${base}/ui${path}`, {waitUntil: "load"});
      if (name === "overview") await page.waitForTimeout(6500); // the rates need some seconds of samples
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      if (wide > 0) findings.push(`${look} ${name}: ${wide} px too wide`);
      await page.screenshot({path: `${shots}/${name}-${look}.png`, fullPage: true});
      // A second world: the page's policy allows no script that is not the server's own.
      const cdp = await context.newCDPSession(page);
      const {frameTree} = await cdp.send("Page.getFrameTree");
      const {executionContextId: contextId} = await cdp.send("Page.createIsolatedWorld", {frameId: frameTree.frame.id});
      await cdp.send("Runtime.evaluate", {contextId, expression: axe});
      const {result} = await cdp.send("Runtime.evaluate", {contextId, awaitPromise: true, returnByValue: true, expression:
        `axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}).then(r => r.violations.map(v => v.id + ": " + v.nodes.slice(0, 3).map(n => n.html.slice(0, 140)).join(" | ")))`});
      assert(Array.isArray(result.value), "axe did not run");
      for (const v of result.value) findings.push(`${look} ${name}: axe: ${v}`);
      await page.close();
    }
    await context.close();
  }

  // By keys alone: from the overview to the failed task, which runs again.
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(`${base}/ui/`);
  await page.keyboard.press("/");
  await page.keyboard.type("state:failed");
  await page.keyboard.press("Enter");
  await page.waitForURL(/state=failed/);
  await page.keyboard.press("j");
  await page.keyboard.press("Enter");
  await page.waitForURL(/\/tasks\/[^?]+$/);
  await page.getByRole("button", {name: "Run again"}).focus();
  await page.keyboard.press("Enter");
  await page.waitForURL(/done=retried/);
  assert(!page.url().includes(tasks.failed.id));

  // Live: the overview shows a new result by itself, also after a restart of the server.
  await page.goto(`${base}/ui/`);
  const shown = id => page.waitForFunction(id => document.querySelector(`.card[href$="${id}"]`), id, {timeout: 30_000});
  await shown((await submit({kind: "text", input: {prompt: "live"}})).id);
  await stop("SIGKILL");
  await start();
  await shown((await submit({kind: "text", input: {prompt: "live again"}})).id);
  await context.close();

  // Without JavaScript all rows and links are there.
  const plain = await browser.newContext({javaScriptEnabled: false});
  const still = await plain.newPage();
  await still.goto(`${base}/ui/`);
  assert(await still.locator(".card").count() >= 6);
  await still.goto(`${base}/ui/tasks?state=ended`);
  assert(await still.locator("tbody tr").count() >= 8);
  await still.goto(`${base}/ui/schedules/report`);
  await still.getByRole("button", {name: "Pause: report"}).click();
  await still.waitForURL(/done=paused/);
  assert.equal(await still.getByRole("button", {name: "Resume: report"}).count(), 1);
  await plain.close();
} finally {
  await browser.close();
  await stop("SIGTERM");
}
if (findings.length > 0) {
  console.error([...new Set(findings)].join("\n"));
  process.exit(1);
}
console.log("the dashboard is fine");
