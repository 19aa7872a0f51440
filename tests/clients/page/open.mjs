// The figures of a node that shows them to strangers: the demo, at its usual rates.
import assert from "node:assert/strict";
import { ADMIN, EDGE, KEY, SCREENSHOTS, WALLET, accessible, api, browser, closed, giveKey, opened, picture, shown, text, tooWide, until, written } from "./browser.mjs";

const DAY = 86_400_000;
/** The leaderboard is kept for a minute, so a wallet without earnings is on none; the address names it. */
const NAMED = `/#${WALLET}`;

/** A wallet with several workers. */
const RIGS = "remes19asaj7tyd9p698uqq74dwx5m2k6882cvq3c9lx";
/** A wallet without a miner. */
const OTHER = "remes150rtrmj2f8vl9tem8qpfw36ylw5jg9j2vu34rm";

/** The node names the wallets of its miners, its own first. */
async function ownWallet() {
  const page = await opened({ answers: { "/network/stats": (stats) => ({ ...stats, wallets: [WALLET, OTHER, "<img src=/evil onerror=alert(1)>"] }) } });
  await until("the node's own wallet", async () => (await text(page, "#wallet")) === WALLET && (await text(page, "#hashrate")) !== "–");
  assert.equal(await text(page, "#status"), "All systems normal");
  assert.equal(await text(page, "[data-feed=earnings] .message"), "Nothing earned yet.");
  assert.deepEqual(await page.$$eval("#wallet-select option", (options) => options.map((option) => option.value)), [WALLET, OTHER, "other"]);
  await picture(page, "connected");
  await accessible(page, "connected");
  await page.select("#wallet-select", OTHER);
  await until("the other wallet", async () => (await text(page, "#wallet")) === OTHER && (await text(page, "[data-feed=miner] .message")) !== "");
  assert.equal(new URL(page.url()).hash, `#${OTHER}`);
  await page.select("#wallet-select", "other");
  await page.type("#wallet-field", "remes1invalid");
  await page.keyboard.press("Enter");
  assert.match(await text(page, "#wallet-problem"), /remes1 and 38/);
  await page.$eval("#wallet-field", (field) => { field.value = ""; });
  await page.type("#wallet-field", WALLET);
  await page.keyboard.press("Enter");
  await until("the wallet's miner", async () => (await text(page, "#hashrate")) !== "–");
  assert.equal(new URL(page.url()).hash, `#${WALLET}`);
  // It has no account yet.
  await closed(page, /status of 404/);
}

/** What covers a part of the range fills the chart. */
async function chartsFit() {
  const at = (seconds) => new Date(Date.now() - seconds * 1000).toISOString();
  const lines = Array.from({ length: 40 }, (_, i) => `${at((40 - i) * 15)},${40 + i % 5},gradients/h,40,44,1`);
  const answers = { [`/miner/hashrate/${WALLET}`]: `recorded_at,hashrate,hashrate_unit,min,max,samples\r\n${lines.join("\r\n")}\r\n` };
  const page = await opened({ path: NAMED, answers });
  await until("ten minutes fill an hour's chart", () => page.evaluate(() => {
    const [line, plot] = ["#hashrate-chart path.line", "#hashrate-chart .plot"].map((name) => document.querySelector(name).getBoundingClientRect());
    return line.width > 0.85 * plot.width || line.width / plot.width;
  }));
  await closed(page);
}

/** Workers are listed where there are several. */
async function perWorker() {
  const markup = "<img src=/evil onerror=alert(1)>", long = "r".repeat(64), now = Math.round(Date.now() / 1000);
  const sample = (worker, at, more) => ({ wallet_address: RIGS, worker, hashrate: 40.5, recorded_at: at, ...more });
  const mining = { gpu_temperature: 61, power_watts: 215.4, accepted: 360, rejected: 2 };
  const send = (body) => api("/miner/stats", { key: ADMIN, method: "POST", body });
  const path = `/#${RIGS}`;
  await send([sample("rig-1", now, mining)]);
  const alone = await opened({ path });
  await until("figures", async () => (await text(alone, "#hashrate")) !== "–");
  assert(!(await shown(alone, "#workers")), "one worker is no list");
  await closed(alone);
  await send([sample("rig-2", now - 1, mining), sample(long, now - 3600)]);
  // The server allows no markup in a name; the page does not rely on that.
  const renamed = ({ workers, ...more }) => ({ ...more, workers: workers.map((one) => one.worker === "rig-2" ? { ...one, worker: markup } : one) });
  const answers = { [`/miner/workers/${RIGS}`]: renamed };
  for (const look of [{}, { width: 390, height: 844 }]) {
    const page = await opened({ path, answers, ...look });
    await until("three workers", async () => (await page.$$("#workers-table tbody tr")).length === 3);
    const rows = await page.$$eval("#workers-table tbody tr", (rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent)));
    assert.deepEqual(rows.map((row) => row.slice(0, 6)), [
      ["rig-1", "mining", "40.5 gradients/h", "61 °C", "215 W", "360, 2 rejected"], [markup, "mining", "40.5 gradients/h", "61 °C", "215 W", "360, 2 rejected"],
      [long, "silent", "40.5 gradients/h", "–", "–", "–"],
    ]);
    assert.equal(await page.$("img, [onerror]"), null);
    assert(await tooWide(page) <= 0 && await tooWide(page, "#workers") <= 0, "the workers are too wide");
    if (look.width) assert.equal(await page.$$eval("main .panel", (panels) => panels.filter((panel) => panel.checkVisibility()).sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top)[0].id), "alerts", "alerts come first on a phone");
    await accessible(page, "workers");
    await picture(page, look.width ? "workers-phone" : "workers");
    await closed(page);
  }
}

/** Chats were counted: their times are known, or it is said that none was answered. */
async function latencies() {
  const metrics = (ended, first) => `chat_requests_total{status="${ended}",adapter="general"} 4\n${first}r3mes_http_request_duration_seconds_bucket{le="+Inf",route="/chat"} 9\n`;
  const histogram = (name) => `${name}_bucket{le="0.5"} 4\n${name}_bucket{le="+Inf"} 4\n`;
  for (const [answer, wanted] of [
    [metrics("success", histogram("r3mes_chat_first_byte_seconds") + histogram("chat_request_duration_seconds")), /^\d+ ms$/],
    [metrics("refused", ""), /^no answer yet$/],
  ]) {
    const page = await opened({ path: NAMED, answers: { "/metrics": answer } });
    await until("the window's times", async () => (await text(page, "#chat-window")).startsWith("no chat in the last"), 8000);
    for (const id of ["first-median", "first-slow", "whole-median"]) assert.match(await text(page, `#${id}`), wanted);
    await closed(page);
  }
}

/** Amounts as large as they can be, and a text without a gap, stay in their panel. */
async function largeAmounts() {
  const entry = { id: "led_1", amount: 9007199254.740991, balance: 9007199254.740991, reason: "g".repeat(200), reference: null, detail: null, created_at: new Date().toISOString() };
  const answers = { [`/users/${WALLET}/ledger`]: { wallet_address: WALLET, credits: entry.balance, entries: [entry], next_cursor: null } };
  for (const look of [{}, { width: 390, height: 844 }]) {
    const page = await opened({ answers, ...look });
    await giveKey(page, KEY);
    await until("the entry", async () => (await page.$$("#entries tbody tr")).length === 1);
    assert(await tooWide(page) <= 0 && await tooWide(page, "#account") <= 0, "the ledger is too wide");
    await closed(page);
  }
}

/** Six days of samples, and earnings of four weeks with a gap. */
async function fill() {
  const now = Date.now(), samples = [];
  const sample = (at, worker = "local") => samples.push({
    worker, recorded_at: Math.round(at / 1000), hashrate: Math.round(100 * (42 + 4 * Math.sin(at / 9e6) + Math.sin(at / 7e5) + Math.random())) / 100,
    gpu_temperature: 66, blocks_found: 3, uptime_percentage: 99.4,
  });
  for (let at = now - 6 * DAY; at < now - 3_600_000; at += 300_000) sample(at);
  for (let at = now - 3_600_000; at < now - 90_000; at += 15_000) if (at < now - 2_100_000 || at > now - 1_700_000) sample(at);
  for (let i = 0; i < samples.length; i += 1000) await api("/miner/stats", { key: KEY, method: "POST", body: samples.slice(i, i + 1000) });
  for (let day = 0; day < 28; day++) {
    if (day === 9 || day === 10) continue;
    const earnings = Math.round(1e4 * (80 + 20 * Math.sin(day / 3) + 12 * Math.random())) / 1e4;
    await api("/miner/earnings", { key: ADMIN, method: "POST", body: { wallet_address: WALLET, earnings, source_id: `day-${day}`, recorded_at: Math.round((now - day * DAY) / 1000) } });
  }
}

/** The picture of the README: the figures for a wallet's key, and a chat. */
async function forTheReadme() {
  const page = await opened({ path: NAMED, height: 1310 });
  await giveKey(page, KEY);
  await until("the models", async () => (await text(page, "#chat-price")) !== "");
  await page.type("#chat-text", "Which words come back to me?");
  await page.keyboard.press("Enter");
  await until("a paid answer", async () => /^Charged 1 credit; /.test(await text(page, "#chat-state")), 10_000);
  await until("its usage and entry", async () => (await page.$$("#usage-models tbody tr")).length === 1 && (await text(page, "#entries tbody tr")).startsWith("chat"), 10_000);
  await until("figures", async () => (await text(page, "#hashrate")) !== "–" && (await page.$$("#earnings-chart .bar")).length > 0);
  await page.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });
  await page.screenshot({ path: `${SCREENSHOTS}/readme.png` });
  await closed(page);
}

/** What a text can do in a page that does not take it as text. */
async function markup() {
  await api(`/users/${WALLET}/credits`, { key: ADMIN, method: "POST", body: { amount: 0.000001, reason: "<img src=/evil onerror=alert(1)>" } });
}

async function weightAndTime() {
  const loads = [], figures = [];
  let bytes = 0;
  for (let load = 0; load < 5; load++) {
    const page = await opened({ path: NAMED, wait: false });
    await until("figures", async () => (await text(page, "#hashrate")) !== "–" && (await text(page, "#firing")) !== "–");
    figures.push(await page.evaluate(() => performance.now()));
    const files = await page.evaluate(() => performance.getEntries().filter((entry) => ["navigation", "resource"].includes(entry.entryType))
      .map(({ name, transferSize, duration, initiatorType }) => ({ name, transferSize, duration, initiatorType })));
    const own = files.filter((file) => file.initiatorType !== "fetch");
    assert.deepEqual(own.map((file) => new URL(file.name).pathname).filter((path) => path !== "image/svg+xml").sort(), ["/", "/page.css", "/page.js"]);
    assert(files.every((file) => file.name.startsWith(EDGE) || file.name.startsWith("data:")), "something came from elsewhere");
    loads.push(own.find((file) => file.initiatorType === "navigation").duration);
    bytes = own.reduce((all, file) => all + file.transferSize, 0);
    await closed(page);
  }
  const median = (times) => times.sort((a, b) => a - b)[2];
  console.log(`page: ${(bytes / 1024).toFixed(1)} KiB in 3 files, loaded in ${median(loads).toFixed(0)} ms, figures of the node after ${median(figures).toFixed(0)} ms (medians of 5)`);
  assert(bytes > 0 && bytes < 150 * 1024, `${bytes} bytes`);
}

/** Every figure on the page against the API, asked at the same time. */
async function figuresAreTheApis(page) {
  const equal = (selector, of) => until(`${selector} is the API's`, async () => {
    const [wanted, found] = [await of(), await text(page, selector)];
    return wanted === found || { wanted, found };
  }, 15_000);
  const miner = () => api(`/miner/stats/${WALLET}`);
  await equal("#hashrate", async () => written((await miner()).hashrate, 2));
  await equal("#hashrate-unit", async () => (await miner()).hashrate_unit);
  await equal("#temperature", async () => written((await miner()).gpu_temperature, 1));
  await equal("#blocks-found", async () => written((await miner()).blocks_found));
  await equal("#miner-up", async () => `${written((await miner()).uptime_percentage, 1)} %`);
  await equal("#earned-total", async () => written((await miner()).total_earnings));
  const days = (await api(`/miner/earnings/${WALLET}?days=30`)).earnings;
  const sum = (rows) => written(rows.reduce((all, row) => all + row.earnings, 0));
  const since = (count) => new Date(Date.now() - (count - 1) * DAY).toISOString().slice(0, 10);
  assert.equal(await text(page, "#earned-today"), sum(days.filter((day) => day.date >= since(1))));
  assert.equal(await text(page, "#earned-week"), sum(days.filter((day) => day.date >= since(7))));
  assert.equal(await text(page, "#earned-month"), sum(days));
  await equal("#height", async () => written((await api("/chain/status")).latest_block_height));
  assert.deepEqual(await page.$$eval("#breakers strong", (names) => names.map((name) => name.textContent)), (await api("/health")).breakers.map((breaker) => breaker.name));
  assert.match(await text(page, "#about"), new RegExp(`^${(await api("/health")).version} · up `));
}

async function charts(page) {
  // By keyboard alone: the radio buttons, the chart, its points.
  await page.focus("#ranges input:checked");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowRight");
  await until("30 days of hashrate", async () => (await text(page, "#hashrate-reading")).endsWith("in the last 30 days"));
  const points = (await api(`/miner/hashrate/${WALLET}?hours=720`)).hashrate;
  await page.focus("#hashrate-chart .plot");
  await page.keyboard.press("Home");
  const first = await text(page, "#hashrate-reading");
  const last = Number(await page.$eval("#hashrate-chart .plot", (plot) => plot.getAttribute("aria-valuemax")));
  assert.equal(last, points.length - 1);
  assert(first.includes(`: ${written(points[0].hashrate, 2)} ${points[0].hashrate_unit}`), first);
  await page.keyboard.press("ArrowRight");
  const second = await page.$eval("#hashrate-chart .plot", (plot) => plot.getAttribute("aria-valuetext"));
  assert(second.endsWith(`${written(points[1].hashrate, 2)} ${points[1].hashrate_unit}`), second);
  await page.keyboard.press("Escape");
  assert((await text(page, "#hashrate-reading")).startsWith("Mean "));
  // By pointer.
  const box = await (await page.$("#earnings-chart .plot")).boundingBox();
  await page.mouse.move(box.x + box.width - 16, box.y + box.height / 2);
  const today = (await api(`/miner/earnings/${WALLET}?days=1`)).earnings[0].earnings;
  assert((await text(page, "#earnings-reading")).endsWith(`: ${written(today)} credits`), await text(page, "#earnings-reading"));
  await page.mouse.move(5, 5);
  // As a table.
  await page.$eval("#earnings-chart summary", (summary) => summary.click());
  await until("30 rows", async () => (await page.$$("#earnings-chart tbody tr")).length === 30);
  assert.equal(await text(page, "#earnings-chart tbody tr td"), `${written(today)} credits`);
  await accessible(page, "a month and a table");
  await page.$eval("#earnings-chart summary", (summary) => summary.click());
  await page.click("#ranges label");
}

/** How often it asks, held against the rates: 600 a minute of health, 300 of reads. */
async function restraint(page) {
  const during = async (ms) => {
    const before = page.asked.length;
    await new Promise((resolve) => setTimeout(resolve, ms));
    const paths = page.asked.slice(before).map((request) => new URL(request.url).pathname);
    const health = paths.filter((path) => ["/health", "/readyz", "/alerts", "/metrics"].includes(path)).length;
    return { health: health * 60_000 / ms, read: (paths.length - health) * 60_000 / ms };
  };
  const open = await during(12_000);
  assert(open.health > 20 && open.health <= 150 && open.read > 10 && open.read <= 120, JSON.stringify(open));
  const hide = (hidden) => page.evaluate((value) => {
    Object.defineProperty(document, "hidden", { value, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, hidden);
  await hide(true);
  // What was on its way to be asked still is.
  await new Promise((resolve) => setTimeout(resolve, 3500));
  const hidden = await during(8000);
  assert(hidden.health + hidden.read < (open.health + open.read) / 3, JSON.stringify(hidden));
  await hide(false);
  console.log(`asks ${open.health + open.read} times a minute (${open.health} of 600 health, ${open.read} of 300 reads); hidden, ${hidden.health + hidden.read}`);
}

async function withKey(page) {
  await giveKey(page, `${KEY.slice(0, -1)}${KEY.endsWith("0") ? "1" : "0"}`);
  await until("a mistyped key is refused", async () => (await text(page, "#key-problem")).startsWith("Not accepted"));
  await page.$eval("#key-field", (field) => { field.value = ""; });
  await giveKey(page, KEY);
  await until("the balance is the API's", async () => {
    const { credits } = await api(`/users/${WALLET}`);
    return (await text(page, "#balance")) === written(credits) || credits;
  });
  const { entries } = await api(`/users/${WALLET}/ledger?limit=8`, { key: KEY });
  await until("the ledger", async () => (await page.$$("#entries tbody tr")).length === entries.length);
  const rows = await page.$$eval("#entries tbody tr", (rows) => rows.map((row) => [row.dataset.id, row.cells[0].firstChild.textContent, row.cells[1].firstChild.textContent, row.cells[1].lastChild.textContent]));
  assert.deepEqual(rows, entries.map(({ id, reason, amount, balance }) => [id, reason, `${amount < 0 ? "−" : "+"}${written(Math.abs(amount))}`, written(balance)]));
  assert(entries.some((entry) => entry.reason.startsWith("<img")), "the hostile reason is not among the newest");
  assert.equal(await page.$("img, [onerror]"), null, "a text became an element");
  // Earnings by the hour, out of the ledger.
  const mined = (await api(`/users/${WALLET}/ledger?limit=500`, { key: KEY })).entries.filter((entry) => entry.reason === "mining");
  await until("the last hour's earnings", async () => (await text(page, "#earnings-reading")) === "In the last hour");
  assert.equal(await text(page, "#earned"), written(Math.round(1e6 * mined.reduce((all, entry) => all + entry.amount, 0)) / 1e6));
  // A chat shows in the balance and in the rate.
  const before = await text(page, "#balance");
  for (let chat = 0; chat < 3; chat++) await api("/chat", { key: KEY, method: "POST", body: { message: "Which words come back to me?" } });
  await until("the chats in the rate", async () => (await text(page, "#chat-window")).startsWith("3 chats in the last "), 8000);
  await until("the chats in the balance", async () => (await text(page, "#balance")) === written((await api(`/users/${WALLET}`)).credits));
  assert.notEqual(await text(page, "#balance"), before);
  assert.match(await text(page, "#first-median"), / m?s$/);
  assert.match(await text(page, "#whole-median"), / m?s$/);
}

async function somethingIsAmiss(page) {
  const breaker = (state) => api("/admin/breakers/stand-in", { key: ADMIN, method: "POST", body: { state } });
  await breaker("open");
  const took = await until("the breaker shows", async () => (await page.$$eval("#breakers li", (rows) => rows.map((row) => row.dataset.mark)))[0] === "bad");
  assert((await text(page, "#breakers li")).includes("An operator opened stand-in's breaker"));
  const alerted = took + await until("the alert shows", async () => (await text(page, "#firing")) === "1" && (await page.$$("#firing-list li")).length === 1, 5000 - took);
  const [alert] = (await api("/alerts")).firing;
  const row = await text(page, "#firing-list li");
  assert(row.includes("Breaker open: stand-in") && row.includes(alert.summary.slice(1)), row);
  await until("the line at the top", () => page.$eval("body", (body) => body.dataset.status === "bad"));
  console.log(`an opened breaker shows after ${took.toFixed(0)} ms, its alert after ${alerted.toFixed(0)} ms`);
  await picture(page, "alert");
  await accessible(page, "an alert");
  await breaker("reset");
  await until("the breaker is closed", async () => (await page.$$eval("#breakers li", (rows) => rows.map((row) => row.dataset.mark)))[0] === "ok");
}

/** A route that hangs, one that limits, and shares of a miner that the demo has not got. */
async function oldData() {
  const page = await opened({ path: NAMED });
  await until("figures", async () => (await text(page, "#temperature")) !== "–" && (await text(page, "#requests")) !== "–");
  await page.setRequestInterception(true);
  let limited = 0;
  page.on("request", async (request) => {
    const path = new URL(request.url()).pathname;
    if (path.startsWith("/miner/stats")) return;
    if (path !== "/metrics") return request.continue();
    limited += 1;
    const problem = { detail: "too many requests", code: "rate_limited" };
    return request.respond({ status: 429, headers: { "Retry-After": "60" }, contentType: "application/problem+json", body: JSON.stringify(problem) });
  });
  await until("a feed that hangs is marked as old", async () => /^\d+ s old$/.test(await text(page, "[data-feed=miner] .age")), 15_000);
  await until("a rate limit is shown", async () => /^waits, \d+ s old$/.test(await text(page, "[data-feed=metrics] .age")));
  assert.notEqual(await text(page, "#temperature"), "–");
  assert.equal(limited, 1, "a limit's Retry-After was not kept");
  await picture(page, "old");
  await accessible(page, "old data");
  await closed(page, /429/);

  const rig = await browser.newPage();
  await rig.setRequestInterception(true);
  rig.on("request", async (request) => {
    if (new URL(request.url()).pathname !== "/metrics") return request.continue();
    const real = await api("/metrics");
    // The miner of the demo reports neither.
    const changed = `${real}r3mes_miner_shares_accepted 361\nr3mes_miner_shares_rejected 2\nr3mes_miner_power_watts 254.6\n`;
    return request.respond({ status: 200, contentType: "text/plain", body: changed });
  });
  await rig.goto(EDGE);
  await until("shares and power", async () => (await text(rig, "#shares")) === "361 accepted, 2 rejected" && (await text(rig, "#power")) === "255 W");
  await rig.close();
}

async function looks() {
  for (const [name, look] of Object.entries({ desktop: {}, dark: { dark: true }, phone: { width: 390, height: 844 }, "phone-dark": { width: 390, height: 844, dark: true }, tablet: { width: 820, height: 1180 } })) {
    const page = await opened(look);
    if (name !== "phone") await giveKey(page, KEY);
    await until(`figures, ${name}`, async () => {
      const there = { hashrate: await text(page, "#hashrate"), bars: (await page.$$("#earnings-chart .bar")).length, entries: (await page.$$("#entries tbody tr")).length, price: await text(page, "#chat-price"), models: (await page.$$("#usage-models tbody tr")).length };
      const hasKey = name !== "phone";
      return (there.hashrate !== "–" && there.bars > 0 && there.entries > 0 === hasKey && there.models > 0 === hasKey && there.price !== "" === hasKey) || there;
    }, 30_000);
    assert(await tooWide(page) <= 0, `${name} is too wide`);
    await picture(page, name);
    await accessible(page, name);
    await closed(page);
  }
}

async function keyIsNowhere(page) {
  const traces = () => page.evaluate(async () => {
    const fields = [...document.querySelectorAll("input")].map((field) => field.value);
    const databases = await indexedDB.databases(), kept = "caches" in window ? await caches.keys() : [];
    return { kept: [localStorage.length, sessionStorage.length, document.cookie, databases.length, kept.length], texts: [location.href, JSON.stringify(history.state), document.documentElement.outerHTML, ...fields] };
  });
  const found = await traces();
  assert.deepEqual(found.kept, [0, 0, "", 0, 0]);
  assert(!found.texts.some((text) => text.includes(KEY)), "the key stands in the page");
  assert(!page.asked.some((request) => request.url.includes(KEY)), "the key stood in an address");
  await page.click("#key-forget");
  await until("the balance goes with the key", async () => !(await shown(page, "#balance-box")) && (await shown(page, "#key-form")));
  await page.reload();
  await until("a new start without a key", () => shown(page, "#key-form"));
}

async function revoked() {
  const made = await api("/api/keys", { key: ADMIN, method: "POST", body: { wallet_address: WALLET, scopes: ["read"] } });
  const page = await opened();
  await giveKey(page, made.api_key);
  await until("the balance", () => shown(page, "#balance-box"));
  await api(`/api/keys/${made.id}`, { key: ADMIN, method: "DELETE" });
  await until("a revoked key is forgotten", async () => (await text(page, "#key-problem")).includes("opens nothing any more") && !(await shown(page, "#balance-box")));
  await closed(page, /401/);
}

await ownWallet();
await chartsFit();
await perWorker();
await latencies();
await largeAmounts();
await fill();
await forTheReadme();
await markup();
await weightAndTime();
const page = await opened({ path: NAMED });
await figuresAreTheApis(page);
await charts(page);
await withKey(page);
await restraint(page);
await somethingIsAmiss(page);
await keyIsNowhere(page);
await closed(page, /401/);
await revoked();
await oldData();
await looks();
await browser.close();
