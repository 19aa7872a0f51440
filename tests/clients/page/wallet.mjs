// What a person does on the page: signs in by key or by wallet, chats, stops, comes back. The demo, which is killed at the end.
import assert from "node:assert/strict";
import { createECDH, createPrivateKey, sign } from "node:crypto";
import { createServer, request as forward } from "node:http";
import { ADMIN, EDGE, KEY, WALLET, accessible, api, browser, closed, giveKey, opened, picture, shown, tabTo, text, tooWide, until, written } from "./browser.mjs";

const MARKUP = "<img src=/evil onerror=alert(1)>";
/** The wallet of a secret key that everybody knows, as in examples/login.py. */
const SIGNER = "remes150rtrmj2f8vl9tem8qpfw36ylw5jg9j2vu34rm", SECRET = Buffer.alloc(32, 7);
const balance = async (wallet = WALLET) => (await api(`/users/${wallet}`)).credits;
const words = (page) => page.$$eval("#chat-log .assistant .words", (answers) => answers.at(-1)?.textContent ?? "");

async function paidChat() {
  const page = await opened();
  assert(!(await shown(page, "#chat-box")) && !(await shown(page, "#usage")) && !(await shown(page, "#keys")), "there is no key yet");
  await giveKey(page, KEY);
  await until("models and prices", async () => (await text(page, "#chat-price")) === "1 credit a request.");
  const { data } = await api("/v1/models", { key: KEY });
  assert.deepEqual(await page.$$eval("#chat-model option", (options) => options.map((option) => option.value)), data.map((model) => model.id));
  assert.match(await text(page, "[data-feed=keys] .message"), /no scope “keys”/);
  const before = await balance();
  await page.type("#chat-text", `Which words come back? ${MARKUP}`);
  await page.click("#chat-send");
  await until("it comes word by word", async () => { const now = await words(page); return now.startsWith("This is") && !now.includes("Which"); });
  assert(await shown(page, "#chat-stop"), "an answer can be stopped");
  await until("the whole answer", async () => (await words(page)).endsWith("words Which"), 8000);
  assert((await words(page)).includes("onerror=alert(1)>"), "markup is text");
  assert.equal(await page.$("img, [onerror]"), null);
  await until("its charge and the balance", async () => (await text(page, "#chat-state")) === `Charged 1 credit; balance ${written(before - 1)}.`);
  assert.equal(await balance(), before - 1);
  await until("the balance of the wallet", async () => (await text(page, "#balance")) === written(before - 1));
  const { usage } = await api("/usage?by=model", { key: KEY });
  await until("the usage by model", async () => {
    const rows = await page.$$eval("#usage-models tbody tr", (rows) => rows.map((row) => [row.cells[0].textContent, row.cells[1].textContent, row.cells[4].textContent]));
    return JSON.stringify(rows) === JSON.stringify(usage.map((row) => [row.model, written(row.requests), written(row.credits)])) || rows;
  });
  assert.equal(await text(page, "#spent"), written(usage.reduce((all, row) => all + row.credits, 0)));
  const days = await page.$$eval("#usage-chart svg text", (labels) => labels.map((label) => label.textContent).filter((label) => / /.test(label)));
  assert(days.length > 0 && new Set(days).size === days.length, `a day has one label: ${days}`);
  await picture(page, "chat");
  await accessible(page, "a chat");

  // Stopped: what came stays, and costs what the ledger says.
  await page.type("#chat-text", "again ".repeat(60));
  await page.keyboard.press("Enter");
  await until("the next answer", async () => (await words(page)).startsWith("This is a") && (await page.$$("#chat-log .assistant")).length === 2);
  await page.click("#chat-stop");
  await until("it is stopped", async () => /^Stopped\. Charged 1 credit; balance /.test(await text(page, "#chat-state")));
  assert.equal(await page.$eval("#chat-log .assistant:last-child", (answer) => answer.lastChild.textContent), "Stopped here.");
  assert.equal(await balance(), before - 2);
  await page.click("#chat-clear");
  assert(!(await shown(page, "#chat-log")), "a cleared conversation");
  await closed(page);
}

/** A refusal is readable, and the message is not lost. */
async function refused(page) {
  await page.type("#chat-text", "Anybody there?");
  await page.click("#chat-send");
  await until("why not", async () => (await text(page, "#chat-problem")) !== "");
  assert.match(await text(page, "#chat-problem"), /0 are available/);
  assert.equal(await page.$eval("#chat-text", (field) => field.value), "Anybody there?");
  assert(!(await shown(page, "#chat-log")) && (await shown(page, "#chat-send")));
}

const ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;
/** Signs as Keplr does: the document of ADR-036, with s in its low form. */
function keplrSigns(signer, message) {
  const value = { data: Buffer.from(message).toString("base64"), signer };
  const document = JSON.stringify({ account_number: "0", chain_id: "", fee: { amount: [], gas: "0" }, memo: "", msgs: [{ type: "sign/MsgSignData", value }], sequence: "0" });
  const key = createPrivateKey({ key: Buffer.concat([Buffer.from("302e0201010420", "hex"), SECRET, Buffer.from("a00706052b8104000a", "hex")]), format: "der", type: "sec1" });
  const signature = sign("sha256", Buffer.from(document), { key, dsaEncoding: "ieee-p1363" });
  const s = BigInt(`0x${signature.subarray(32).toString("hex")}`);
  if (s > ORDER / 2n) signature.write((ORDER - s).toString(16).padStart(64, "0"), 32, "hex");
  const curve = createECDH("secp256k1");
  curve.setPrivateKey(SECRET);
  return { pub_key: { type: "tendermint/PubKeySecp256k1", value: curve.getPublicKey("base64", "compressed") }, signature: signature.toString("base64") };
}

async function keplr() {
  const plain = await opened();
  assert(!(await shown(plain, "#keplr-form")), "this browser has no Keplr");
  await closed(plain);
  const before = async (page) => {
    await page.exposeFunction("signsAs", keplrSigns);
    await page.evaluateOnNewDocument((wallet) => {
      window.asked = [];
      window.keplr = {
        enable: async (chain) => {
          if (window.rejects) throw new Error("Request rejected");
          window.asked.push(chain);
        },
        getKey: async () => ({ bech32Address: window.wallet ?? wallet }),
        signArbitrary: (chain, signer, data) => window.signsAs(window.signer ?? signer, data),
      };
    }, SIGNER);
  };
  const page = await opened({ before });
  await until("the chain", async () => (await text(page, "#height")) !== "–");
  const attempt = (change) => page.evaluate(change).then(() => page.click("#keplr-button"));
  await attempt(() => { window.rejects = true; });
  await until("a rejection is shown", async () => (await text(page, "#key-problem")) === "Keplr: Request rejected.");
  await attempt(() => Object.assign(window, { rejects: false, wallet: "cosmos1abc" }));
  await until("another kind of account", async () => (await text(page, "#key-problem")).includes("cosmos1abc, not a wallet"));
  await attempt(() => Object.assign(window, { wallet: undefined, signer: "remes1other" }));
  await until("a wrong signature is refused", async () => (await text(page, "#key-problem")).startsWith("Not accepted"));
  await attempt(() => { window.signer = undefined; });
  await until("signed in", async () => (await text(page, "#wallet")) === SIGNER && (await text(page, "#balance")) === "0");
  assert.deepEqual(await page.evaluate(() => [...new Set(window.asked)]), ["r3mes-demo"]);
  // The key of a login may list the wallet's keys.
  await until("its keys", async () => (await page.$$eval("#keys-list strong", (names) => names.map((name) => name.textContent))).join() === "login");
  await until("models", async () => (await page.$$("#chat-model option")).length > 0);
  await refused(page);
  await accessible(page, "signed in by Keplr");
  await picture(page, "keplr");
  await closed(page, /status of 40[124]/);
}

/** Only if it was asked for is the key in the tab's storage, and only until it is forgotten. */
async function rememberedInThisTab() {
  const stored = (page) => page.evaluate(() => [localStorage.length, sessionStorage.length]);
  const page = await opened();
  await page.click("#remember");
  await giveKey(page, KEY);
  await until("the balance", () => shown(page, "#balance-box"));
  assert.deepEqual(await stored(page), [0, 1]);
  await page.reload();
  await until("the balance after a reload", () => shown(page, "#balance-box"));
  const other = await opened();
  assert(await shown(other, "#key-form"), "another tab has no key");
  assert.deepEqual(await stored(other), [0, 0]);
  await closed(other);
  await page.click("#key-forget");
  assert.deepEqual(await stored(page), [0, 0]);
  await page.reload();
  await until("it asks again", () => shown(page, "#key-form"));
  // One that was revoked meanwhile is forgotten.
  const made = await api("/api/keys", { key: ADMIN, method: "POST", body: { wallet_address: WALLET, scopes: ["read"], name: MARKUP } });
  await page.click("#remember");
  await giveKey(page, made.api_key);
  await until("the balance", () => shown(page, "#balance-box"));
  await page.goto("about:blank");
  await api(`/api/keys/${made.id}`, { key: ADMIN, method: "DELETE" });
  await page.goto(EDGE);
  await until("it says why", async () => (await text(page, "#key-problem")).startsWith("The remembered key opens nothing any more"));
  assert.deepEqual(await stored(page), [0, 0]);
  await closed(page, /status of 401/);
}

/** A proxy that serves the node below /edge/. */
async function belowAPrefix() {
  const proxy = createServer((request, response) => {
    if (!request.url.startsWith("/edge/")) return response.writeHead(404).end();
    const { hostname: host, port } = new URL(EDGE);
    const asked = forward({ host, port, path: request.url.slice(5), method: request.method, headers: request.headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    response.on("close", () => asked.destroy());
    asked.on("error", () => response.destroy());
    return request.pipe(asked);
  });
  await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  const base = `http://127.0.0.1:${proxy.address().port}`;
  const page = await opened({ base, path: "/edge/" });
  await giveKey(page, KEY);
  await until("the balance", () => shown(page, "#balance-box"));
  await until("models", async () => (await text(page, "#chat-price")) !== "");
  await page.type("#chat-text", "Through a proxy");
  await page.keyboard.press("Enter");
  await until("the answer", async () => (await words(page)).endsWith("a Through") && (await text(page, "#chat-state")).startsWith("Charged"), 8000);
  const outside = page.asked.filter(({ url }) => !url.startsWith(`${base}/edge/`) && !url.startsWith("data:"));
  assert.deepEqual(outside, [], "it asked outside its folder");
  for (const link of await page.$$eval("footer a", (links) => links.map((a) => a.href))) assert(link.startsWith(`${base}/edge/`), link);
  await closed(page);
  proxy.close();
  proxy.closeAllConnections();
}

/** What one tab does shows in the other; each has its own key. */
async function twoTabs() {
  const tabs = [await opened(), await opened()];
  for (const tab of tabs) {
    await tab.bringToFront();
    await giveKey(tab, KEY);
    await until("the balance", () => shown(tab, "#balance-box"));
  }
  const before = await balance();
  await until("models", async () => (await text(tabs[1], "#chat-price")) !== "");
  await tabs[1].type("#chat-text", "From the other tab");
  await tabs[1].keyboard.press("Enter");
  await until("its charge", async () => (await text(tabs[1], "#chat-state")).startsWith("Charged 1 credit"), 8000);
  await tabs[0].bringToFront();
  await until("it shows in the first", async () => (await text(tabs[0], "#balance")) === written(before - 1), 8000);
  await tabs[0].click("#key-forget");
  await tabs[1].bringToFront();
  assert(await shown(tabs[1], "#key-box"), "the other tab keeps its key");
  for (const tab of tabs) await closed(tab);
}

/** Texts of strangers: whatever they hold, they are shown as they are. */
async function markupIsText() {
  const alert = { name: "breaker_open", subject: MARKUP, severity: "WARNING", summary: `Summary ${MARKUP}`, value: 1, threshold: 0, since: new Date().toISOString() };
  const breaker = { name: `upstream ${MARKUP}`, state: "OPEN", forced: false, reason: `Reason ${MARKUP}`, retry_after_seconds: 9 };
  const entry = { id: MARKUP, amount: 1, balance: 1, reason: `memo ${MARKUP}`, reference: MARKUP, detail: null, created_at: new Date().toISOString() };
  const key = { id: "key_1", start: MARKUP, wallet_address: WALLET, name: `name ${MARKUP}`, scopes: [MARKUP], limits: { models: [MARKUP], credit_limit: 5, credit_period: "day", max_concurrency: 2 }, spent: 1, is_active: true, created_at: entry.created_at, expires_at: null, last_used: null };
  const row = { requests: 1, lost: 0, prompt_tokens: 1, cached_tokens: 0, completion_tokens: 1, credits: 1 };
  const answers = {
    "/health": (health) => ({ ...health, version: `version ${MARKUP}`, breakers: [breaker] }),
    "/alerts": { firing: [alert], recent: [{ ...alert, resolved_at: alert.since }] },
    "/chain/status": (status) => ({ ...status, network: `chain ${MARKUP}` }),
    "/network/stats": (stats) => ({ ...stats, wallets: [WALLET, MARKUP] }),
    "/auth/me": (me) => ({ ...me, key: { ...me.key, scopes: ["chat", "read", "keys", MARKUP] } }),
    "/api/keys": { keys: [key], next_cursor: null },
    "/v1/models": { object: "list", data: [{ id: `model ${MARKUP}`, price: { request: 1, prompt: 0, cached_prompt: 0, completion: 0 } }] },
    "/usage": { usage: [{ ...row, model: `model ${MARKUP}`, day: new Date().toISOString().slice(0, 10) }], next_cursor: null },
    [`/users/${WALLET}/ledger`]: { wallet_address: WALLET, credits: 1, entries: [entry], next_cursor: null },
    [`/miner/workers/${WALLET}`]: { workers: ["a", "b"].map((name) => ({ worker: `worker ${name} ${MARKUP}`, hashrate: 1, hashrate_unit: MARKUP, is_active: true, recorded_at: entry.created_at })) },
    [`/miner/stats/${WALLET}`]: (stats) => ({ ...stats, hashrate_unit: `unit ${MARKUP}` }),
  };
  const page = await opened({ answers });
  await giveKey(page, KEY);
  const wanted = { "#about": "version", "#breakers": "upstream", "#breakers p": "Reason", "#firing-list": "Summary", "#recent-list": "Summary", "#chain": "chain", "#keys-list": "name", "#chat-model": "model", "#usage-models": "model", "#entries": "memo", "#workers-table": "worker a", "#hashrate-unit": "unit" };
  for (const [selector, word] of Object.entries(wanted)) {
    await until(`${word} is a text`, async () => { const found = await text(page, selector); return found.includes(`${word} ${MARKUP}`) || found; });
  }
  assert.equal(await page.$("img, [onerror]"), null, "a text became an element");
  assert(!page.asked.some(({ url }) => url.includes("/evil")));
  for (const width of [1280, 390]) {
    await page.setViewport({ width, height: 844 });
    // The charts are drawn anew after it.
    await until(`nothing is too wide at ${width}`, async () => { const more = await tooWide(page); return more <= 0 || more; });
  }
  await closed(page);
}

/** Signing in, a chat and its end without a pointer. */
async function byKeyboard() {
  const page = await opened();
  await tabTo(page, "#key-field");
  await page.keyboard.type(KEY);
  await page.keyboard.press("Enter");
  await until("the key is used", () => page.evaluate(() => document.activeElement.id === "key-forget"));
  await until("models", async () => (await text(page, "#chat-price")) !== "");
  await page.evaluate(() => document.activeElement.blur());
  await tabTo(page, "#chat-model");
  await page.keyboard.press("ArrowDown");
  assert.equal(await page.$eval("#chat-model", (select) => select.value), "stand-in");
  await tabTo(page, "#chat-text");
  await page.keyboard.type("one ");
  await page.keyboard.down("Shift");
  await page.keyboard.press("Enter");
  await page.keyboard.up("Shift");
  await page.keyboard.type("two ".repeat(60));
  await page.keyboard.press("Enter");
  await until("the answer begins", async () => (await words(page)).startsWith("This is"));
  assert.equal(await text(page, "#chat-log .assistant .who"), "stand-in");
  assert.equal(await page.$eval("#chat-log .user .words", (message) => message.textContent.slice(0, 8)), "one \ntwo", "Shift and Enter begin a line");
  await tabTo(page, "#chat-stop");
  await page.keyboard.press("Enter");
  await until("it is stopped", async () => (await text(page, "#chat-state")).startsWith("Stopped."));
  await tabTo(page, "#key-forget");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "key-field");
  assert(!(await shown(page, "#chat-box")), "the chat goes with the key");
  await closed(page);
}

/** The node is killed while it answers: what came stays, and it is said to be broken off. */
async function brokenOff() {
  const page = await opened();
  await giveKey(page, KEY);
  await until("models", async () => (await text(page, "#chat-price")) !== "");
  await page.type("#chat-text", "again ".repeat(60));
  await page.keyboard.press("Enter");
  await until("the answer begins", async () => (await words(page)).startsWith("This is a stand-in"));
  process.kill(Number(process.env.SERVER), "SIGKILL");
  await until("it is broken off", async () => (await text(page, "#chat-log .assistant .problem")) === "Broken off: the connection ended before the answer did.");
  await until("the balance is not known", async () => (await text(page, "#chat-state")).startsWith("Broken off. The balance is not known"));
  assert((await words(page)).startsWith("This is a stand-in"));
  await page.type("#chat-text", "Still there?");
  await page.click("#chat-send");
  await until("no answer", async () => (await text(page, "#chat-problem")) === "The node does not answer; nothing was received.");
  assert.equal(await page.$eval("#chat-text", (field) => field.value), "Still there?");
  await until("the line at the top", async () => (await text(page, "#status")) === "The node does not answer");
  await picture(page, "broken-off");
  await accessible(page, "broken off");
  await closed(page, /ERR_|net::/);
}

for (const step of [paidChat, keplr, rememberedInThisTab, belowAPrefix, twoTabs, markupIsText, byKeyboard, brokenOff]) {
  await step();
  console.log(`${step.name}: passed`);
}
await browser.close();
