// The page with an admin's key: every action end to end, with the state of the server asked from its API afterwards; two tabs,
// a server that goes in the middle of an action, markup in every text, and axe's rules in every panel and dialog.
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, truncateSync } from "node:fs";
import { tmpdir } from "node:os";
import { Relay, Server, configured, model, walletOf } from "./server.mjs";

const { BINARY } = process.env;
const folder = process.env.FOLDER ?? mkdtempSync(`${tmpdir()}/admin-`);
/** What a text can do in a page that does not take it as text. */
const MARKUP = "<img src=/evil onerror=window.hurt=1>";
const upstream = await model(["small", MARKUP]);
mkdirSync(`${folder}/backups`, { recursive: true });
configured(folder, upstream.url, `[adapters.small]\nprice = { request = 0.5, prompt = 100.0, cached_prompt = 10.0, completion = 1000.0 }\n[backup]\nfolder = "${folder}/backups"\n[alerts]\nconfirm = "1s"\n`);
const server = new Server(BINARY, folder), relay = new Relay();
await server.start();
await relay.start(server.url);
process.env.EDGE = relay.url;
process.env.WALLET = walletOf(1);
const { accessible, api, browser, closed, giveKey, opened, picture, press, shown, text, until, written } = await import("./browser.mjs");
const [FIRST, SECOND, THIRD] = [1, 2, 3].map(walletOf);
const ADMIN = server.admin;
const asAdmin = (path, body, method = body === undefined ? "GET" : "POST") => api(path, { key: ADMIN, method, body });
const newest = async () => (await asAdmin("/admin/audit?limit=1")).entries[0];
/** The status of a request with a key. */
const status = async (path, key, body) => (await fetch(relay.url + path, { method: body ? "POST" : "GET", headers: { "x-api-key": key }, body: body && JSON.stringify(body) })).status;

// The page.

async function entered(options = {}) {
  const page = await opened({ height: 1000, ...options });
  await giveKey(page, ADMIN);
  await until("the section of an admin", () => shown(page, "#admin"));
  await until("the accounts are read", () => page.$eval("#view-accounts", (box) => box.ariaBusy === "false"));
  return page;
}
async function panel(page, name) {
  await press(page, `#admin-nav [data-view=${name}]`);
  await until(`the panel ${name}`, () => page.$eval(`#view-${name}`, (box) => box.checkVisibility() && box.ariaBusy === "false"));
}
async function account(page, wallet) {
  await panel(page, "accounts");
  await fill(page, { "users-search": wallet });
  await page.keyboard.press("Enter");
  await until("the account is found", async () => (await rows(page, "users")).length === 1 && Boolean(await page.$(`#admin-users button[title="${wallet}"]`)));
  await press(page, "#admin-users td button, #admin-users th button");
  await until("the account", async () => (await text(page, "#admin-account-wallet")) === wallet && page.$eval("#view-account", (box) => box.ariaBusy === "false"));
}
/** Answers the question with yes; returns it. */
async function agree(page) {
  await until("the page asks", () => shown(page, "#question"));
  const question = await text(page, "#question");
  await page.$eval("#question ~ .buttons .main", (button) => button.click());
  return question;
}
/** Waits for what is said of an action; returns it. */
async function said(page, expected) {
  await until(`it says ${expected}`, async () => expected.test(await text(page, "#admin-done")) || `${await text(page, "#admin-done")} / ${await text(page, "#admin-problem")}`);
  return text(page, "#admin-done");
}
async function fill(page, values) {
  for (const [id, value] of Object.entries(values)) {
    await page.$eval(`#admin-${id}`, (field) => { if (field.select) field.select(); });
    await page.type(`#admin-${id}`, value);
  }
}
const matches = async (page, selector, expected) => { const now = await text(page, selector); return expected.test(now) || now; };
const rows = (page, id) => page.$$eval(`#admin-${id} tbody tr`, (all) => all.map((row) => [...row.cells].map((cell) => cell.textContent)));
const submit = (page, dialog) => press(page, `#admin-${dialog}-dialog [type=submit]`);
async function move(page, way, amount, reason, reference = "") {
  await press(page, `#admin-account-${way}`);
  await fill(page, { "credits-amount": amount, "credits-reason": reason, "credits-reference": reference });
  await submit(page, "credits");
}

// The checks.

async function onlyForAdmins() {
  const { api_key } = await asAdmin("/api/keys", { wallet_address: FIRST, name: "holder", scopes: ["chat", "read", "keys"] });
  const page = await opened();
  assert(!(await shown(page, "#admin")) && !(await shown(page, "#admin-to")), "a stranger sees the section");
  await giveKey(page, api_key);
  await until("the key is known", () => shown(page, "#key-forget"));
  assert(!(await shown(page, "#admin")), "the holder of a wallet's key sees the section");
  const forAdmins = page.asked.filter(({ url }) => /\/admin\/|\/users$|\/users\?/.test(url));
  assert.deepEqual(forAdmins, [], "it asked for what only an admin may have");
  await closed(page);
  return api_key;
}

async function accounts(page) {
  await press(page, "#admin-user-new");
  await fill(page, { "user-wallet": "remes1invalid" });
  await submit(page, "user");
  await agree(page);
  await until("a wrong wallet is named", () => matches(page, "#admin-user-dialog .problem", /wallet_address/));
  await accessible(page, "a wrong wallet");
  await fill(page, { "user-wallet": SECOND });
  await submit(page, "user");
  assert.equal(await agree(page), `Create an account with 0 credits for ${SECOND}?`);
  await said(page, new RegExp(`^Created the account ${SECOND}`));
  assert.equal((await asAdmin(`/users/${SECOND}`)).credits, 0);
  const { action, target } = await newest();
  assert.deepEqual([action, target], ["users.create", SECOND]);
  assert((await rows(page, "users")).some(([wallet]) => wallet === SECOND), "the list does not show the account");
}

async function listing(page) {
  for (let number = 100; number < 160; number++) await asAdmin("/users", { wallet_address: walletOf(number) });
  await asAdmin(`/users/${walletOf(150)}/credits`, { amount: 777, reason: "listing" });
  await panel(page, "accounts");
  assert.equal((await rows(page, "users")).length, 50);
  await press(page, "#admin-users > .small");
  await until("the next page", async () => (await rows(page, "users")).length === 62);
  assert(!(await shown(page, "#admin-users > .small")), "there is no further page");
  await page.select("#admin-users-sort", "balance");
  await until("the highest balance first", async () => (await rows(page, "users"))[0][0] === walletOf(150));
  assert.equal((await rows(page, "users"))[0][1], "777");
  await fill(page, { "users-search": SECOND.slice(20) });
  await page.keyboard.press("Enter");
  await until("only what was searched", async () => { const found = await rows(page, "users"); return found.length === 1 && found[0][0] === SECOND; });
  await page.select("#admin-users-sort", "last_used");
  await fill(page, { "users-search": MARKUP });
  await page.keyboard.press("Enter");
  await until("nothing is found, or the search is refused", async () => (await rows(page, "users")).length === 0 || text(page, "#admin-problem"));
  await page.$eval("#admin-users-search", (field) => { field.value = ""; });
  await press(page, "#admin-users-form [type=submit]");
  await until("who used it last", async () => (await rows(page, "users")).length === 50);
  const { users } = await asAdmin("/users?sort=last_used&limit=50");
  assert.deepEqual((await rows(page, "users")).map(([wallet]) => wallet), users.map((user) => user.wallet_address));
  await page.select("#admin-users-sort", "created");
  await until("the order is the first again", async () => (await rows(page, "users"))[0][0] !== users[0].wallet_address || (await rows(page, "users"))[1][0] !== users[1].wallet_address);
}

async function credits(page) {
  await account(page, SECOND);
  await move(page, "grant", "12.5", MARKUP, "inv-7");
  assert.equal(await agree(page), `Grant 12.5 credits to ${SECOND}?\nReason: ${MARKUP}\nReference: inv-7`);
  await said(page, /^Granted 12.5 credits: .* has 12.5 now/);
  assert.equal(await text(page, "#admin-account-balance"), "12.5");
  const { credits: balance, entries: [entry] } = await asAdmin(`/users/${SECOND}/ledger`);
  assert.deepEqual([balance, entry.amount, entry.reason, entry.reference], [12.5, 12.5, MARKUP, "inv-7"]);
  assert.deepEqual([(await newest()).action, (await newest()).amount, (await newest()).reason], ["credits.grant", 12.5, MARKUP]);
  await move(page, "take", "2.25", "correction");
  assert.match(await agree(page), /^Take 2.25 credits from /);
  await said(page, /^Took 2.25 credits: .* has 10.25 now/);
  assert.equal((await asAdmin(`/users/${SECOND}`)).credits, 10.25);
  assert.deepEqual([(await newest()).action, (await newest()).amount], ["credits.take", -2.25]);
  // What is refused stays in the dialog, named.
  await move(page, "take", "1000", "too much");
  await agree(page);
  await until("too much is refused", async () => /10.25 credits of the wallet are available/.test(await text(page, "#admin-credits-dialog .problem")));
  await fill(page, { "credits-amount": "1", "credits-reason": "mining" });
  await submit(page, "credits");
  await agree(page);
  await until("a reserved reason is named", async () => /^Reason must not be/.test(await text(page, "#admin-credits-dialog .problem")));
  for (const amount of ["-1", "0", "a", "1e3"]) {
    await fill(page, { "credits-amount": amount });
    await submit(page, "credits");
    assert.match(await text(page, "#admin-credits-dialog .problem"), /^Amount must be/);
  }
  // A question that is not confirmed does nothing.
  await fill(page, { "credits-amount": "1", "credits-reason": "unsure" });
  await submit(page, "credits");
  await until("the page asks", () => shown(page, "#question"));
  await page.keyboard.press("Escape");
  await until("it is closed", async () => !(await page.$("#question")));
  await press(page, "#admin-credits-dialog .close");
  assert.equal((await asAdmin(`/users/${SECOND}`)).credits, 10.25);
}

async function blocking(page) {
  const { api_key } = await asAdmin("/api/keys", { wallet_address: SECOND });
  const chat = { model: "small", messages: [{ role: "user", content: "Hello" }] };
  await account(page, SECOND);
  await press(page, "#admin-account-block");
  assert.match(await agree(page), new RegExp(`^Block ${SECOND}\\?`));
  await said(page, new RegExp(`^Blocked ${SECOND}`));
  assert.equal(await status("/v1/chat/completions", api_key, chat), 403);
  assert.deepEqual([(await asAdmin(`/users/${SECOND}`)).blocked, (await newest()).action], [true, "users.block"]);
  assert.equal(await text(page, "#admin-account-block"), "Unblock");
  await picture(page, "admin-blocked");
  await press(page, "#admin-account-block");
  await agree(page);
  await said(page, new RegExp(`^Unblocked ${SECOND}`));
  assert.equal(await status("/v1/chat/completions", api_key, chat), 200);
  assert.equal((await newest()).action, "users.unblock");
}

async function usage(page) {
  const { api_key } = await asAdmin("/api/keys", { wallet_address: FIRST, name: MARKUP });
  await asAdmin(`/users/${FIRST}/credits`, { amount: 100, reason: "use" });
  for (const name of ["small", "small", MARKUP]) await api("/v1/chat/completions", { key: api_key, method: "POST", body: { model: name, messages: [{ role: "user", content: "Hello" }] } });
  await account(page, FIRST);
  const [{ usage: models }, { usage: [today] }, { entries }] = await Promise.all([`/usage?by=model&wallet=${FIRST}`, `/usage?by=day&wallet=${FIRST}`, `/users/${FIRST}/ledger`].map((path) => asAdmin(path)));
  assert.deepEqual((await rows(page, "account-models")).map(([name, requests, , , , paid]) => [name, requests, paid]), models.map((row) => [row.model, written(row.requests), written(row.credits)]));
  assert(models.some((row) => row.model === MARKUP), "the model's name is markup");
  assert.match(await text(page, "#admin-usage-reading"), new RegExp(`^${written(today.credits)} credits in 30 days`));
  const ledger = await rows(page, "account-ledger");
  assert.deepEqual(ledger.map(([, amount, balance, reason]) => [amount, balance, reason]), entries.map((entry) => [`${entry.amount < 0 ? "−" : "+"}${written(Math.abs(entry.amount))}`, written(entry.balance), entry.reason]));
  assert.match(ledger[1][4], /^small · 12 prompt tokens · 3 completion tokens · key_/);
  await page.focus("#admin-usage-chart .plot");
  assert.match(await page.$eval("#admin-usage-chart .plot", (plot) => plot.ariaValueText), / credits$/);
  // The files are what the API gives.
  const downloads = mkdtempSync(`${folder}/downloads-`);
  const session = await browser.target().createCDPSession();
  await session.send("Browser.setDownloadBehavior", { behavior: "allow", downloadPath: downloads, eventsEnabled: false });
  const csv = { "usage-csv": [`usage-${FIRST}.csv`, `/usage?by=day&wallet=${FIRST}`], "ledger-csv": [`ledger-${FIRST}.csv`, `/users/${FIRST}/ledger?format=csv`] };
  for (const [button, [name, path]] of Object.entries(csv)) {
    await press(page, `#admin-${button}`);
    await until(`the file ${name}`, () => existsSync(`${downloads}/${name}`));
    const expected = await api(path, { key: ADMIN, accept: "text/csv" });
    assert.equal(readFileSync(`${downloads}/${name}`, "utf8"), expected);
    assert(expected.includes("\r\n") && expected.split("\r\n").length > 2, expected);
  }
  await picture(page, "admin-account");
}

/** A ledger of more than one page is saved whole. */
async function longLedger() {
  const wallet = walletOf(200), number = 501;
  for (let made = 0; made < number; made++) await asAdmin(`/users/${wallet}/credits`, { amount: 0.000001, reason: `number ${made}` });
  const page = await entered();
  await account(page, wallet);
  const downloads = mkdtempSync(`${folder}/downloads-`);
  const session = await browser.target().createCDPSession();
  await session.send("Browser.setDownloadBehavior", { behavior: "allow", downloadPath: downloads, eventsEnabled: false });
  await press(page, "#admin-ledger-csv");
  await until("the file of the whole ledger", () => existsSync(`${downloads}/ledger-${wallet}.csv`), 20_000);
  const [head, ...lines] = readFileSync(`${downloads}/ledger-${wallet}.csv`, "utf8").trimEnd().split("\r\n");
  assert.match(head, /^id,wallet_address,/);
  assert.deepEqual(lines.map((line) => line.split(",")[4]), Array.from({ length: number }, (_, i) => `number ${number - 1 - i}`));
  await closed(page);
}

async function keys(page) {
  await account(page, SECOND);
  await press(page, "#admin-account-key");
  await until("the dialog", () => shown(page, "#admin-new-key-dialog"));
  assert.equal(await page.$eval("#admin-new-key-wallet", (field) => field.value), SECOND);
  await fill(page, { "new-key-name": MARKUP, "new-key-limit": "5", "new-key-concurrency": "many", "new-key-days": "90" });
  await page.select("#admin-new-key-period", "day");
  await page.click("#admin-new-key-scopes input[value=miner]");
  await page.click("#admin-new-key-models input[value=small]");
  await submit(page, "new-key");
  await agree(page);
  await until("a wrong limit is named", async () => /max_concurrency/.test(await text(page, "#admin-new-key-dialog .problem")) || text(page, "#admin-new-key-dialog .problem"));
  await picture(page, "admin-key-wrong");
  await fill(page, { "new-key-concurrency": "2" });
  await submit(page, "new-key");
  assert.equal(await agree(page), `Create a key "${MARKUP}" for ${SECOND}?\nScopes: chat, read, miner\nLimits: at most 5 credits a day; 2 requests at a time; only small; until 90 days from now`);
  await until("the key is shown", () => shown(page, "#admin-secret-dialog"));
  const secret = await text(page, "#admin-secret");
  await picture(page, "admin-key-shown");
  await accessible(page, "a new key");
  const { key: made } = await api("/auth/me", { key: secret });
  assert.deepEqual([made.scopes, made.limits], [["chat", "read", "miner"], { models: ["small"], credit_limit: 5, credit_period: "day", max_concurrency: 2 }]);
  assert.deepEqual([(await newest()).action, (await newest()).target], ["keys.create", made.id]);
  await press(page, "#admin-secret-copy");
  await until("it is copied or selected", async () => /^Copied|selected/.test(await text(page, "#admin-secret-copied")));
  assert.equal(await page.evaluate(() => getSelection().toString()), secret);
  await page.keyboard.press("Escape");
  assert(await shown(page, "#admin-secret-dialog"), "Escape lost the key");
  await press(page, "#admin-secret-close");
  const kept = await page.evaluate(() => [document.documentElement.outerHTML, JSON.stringify({ ...localStorage, ...sessionStorage }), location.href].join());
  assert(!kept.includes(secret) && !page.asked.some(({ url }) => url.includes(secret)), "the key stands somewhere");
  await until("it is listed", async () => (await rows(page, "account-keys")).some(([name, start]) => name === MARKUP && secret.startsWith(start)));

  await panel(page, "keys");
  const [listed] = await rows(page, "keys");
  assert.match(listed[4], /^0 of 5 credits this day · only small · 2 requests at a time$/);
  await press(page, `#admin-keys tr[data-id=${made.id}] button[aria-label^=Rotate]`);
  await page.select("#admin-rotate-grace", "0");
  await submit(page, "rotate");
  assert.match(await agree(page), /^Rotate the key .*\nThe old key stays valid for no time/);
  await until("the key in its place", () => shown(page, "#admin-secret-dialog"));
  const second = await text(page, "#admin-secret");
  await press(page, "#admin-secret-close");
  assert.deepEqual([await status("/auth/me", secret), await status("/auth/me", second), (await newest()).action], [401, 200, "keys.rotate"]);
  const { key: { id } } = await api("/auth/me", { key: second });
  await until("the new one is listed", async () => Boolean(await page.$(`#admin-keys tr[data-id=${id}]`)));
  await press(page, `#admin-keys tr[data-id=${id}] button[aria-label^=Revoke]`);
  assert.match(await agree(page), new RegExp(`^Revoke the key .*${id}.* of ${SECOND}`));
  await said(page, /^Revoked the key /);
  assert.deepEqual([await status("/auth/me", second), (await newest()).action, (await newest()).target], [401, "keys.revoke", id]);
  await until("the focus stays in the panel", () => page.evaluate(() => document.querySelector("#view-keys").contains(document.activeElement)));
}

async function node(page) {
  await panel(page, "models");
  const { data } = await asAdmin("/v1/models");
  assert.deepEqual((await rows(page, "models")).map(([name, ...prices]) => [name, ...prices.slice(0, 4)]), data.map(({ id, price }) => [id, ...[price.request, price.prompt, price.cached_prompt, price.completion].map((number) => written(number))]));
  assert((await rows(page, "nodes"))[0][0] === "node");
  const breaker = async () => (await asAdmin("/admin/breakers")).breakers.find(({ name }) => name === "node");
  await press(page, '#admin-switches button[aria-label="Open the breaker of node"]');
  assert.match(await agree(page), /^Open the breaker of node\?/);
  await said(page, /^The breaker of node is open/);
  assert.deepEqual([(await breaker()).state, (await breaker()).forced, (await newest()).action], ["OPEN", true, "breaker.open"]);
  await picture(page, "admin-breaker");
  await until("the focus stays in the panel", () => page.evaluate(() => document.querySelector("#view-models").contains(document.activeElement)));
  await until("its alert fires", async () => (await asAdmin("/alerts")).firing.length === 1);
  await panel(page, "history");
  assert.deepEqual((await rows(page, "alert-history")).map(([name, state]) => [name, state]), [["Breaker open: node", "fires"]]);
  await panel(page, "models");
  await press(page, '#admin-switches button[aria-label="Reset the breaker of node"]');
  await agree(page);
  await said(page, /^The breaker of node is in use/);
  assert.deepEqual([(await breaker()).state, (await newest()).action], ["CLOSED", "breaker.reset"]);
  await until("its alert is over", async () => (await asAdmin("/alerts")).recent.length === 1, 10_000);
  await panel(page, "history");
  assert.deepEqual((await rows(page, "alert-history")).map(([name, state]) => [name, state]), [["Breaker open: node", "over"]]);
}

async function backups(page) {
  await panel(page, "backups");
  assert.equal(await text(page, "#admin-backups .message"), "There are no backups yet.");
  await press(page, "#admin-backup-new");
  await agree(page);
  await said(page, /^Made the backup edge\.db\..*\.backup: \d+ KiB, \d+ wallets and \d+ entries checked/);
  const { target, action } = await newest();
  const { backups: made } = await asAdmin("/admin/backups");
  assert.deepEqual([action, made.length, made[0].name], ["backup.create", 1, target]);
  assert(existsSync(`${folder}/backups/${target}`));
  await until("it is listed", async () => (await rows(page, "backups"))[0]?.[0] === target);
  await press(page, "#admin-backups td button");
  await said(page, new RegExp(`^The backup ${target} is good`));
  await press(page, "#admin-ledger-verify-all");
  await until("the verdict", async () => /^The ledger adds up: \d+ wallets and \d+ entries checked, no errors\.$/.test(await text(page, "#admin-ledger-verdict")));
  await press(page, "#admin-ledger-verify");
  await until("the verdict of what is new", async () => /^The ledger adds up: /.test(await text(page, "#admin-ledger-verdict")));
  await picture(page, "admin-backups");
  // Another program damages the copy.
  truncateSync(`${folder}/backups/${target}`, 5000);
  await press(page, "#admin-backups td button");
  await until("a damaged copy is not good", async () => (await text(page, "#admin-problem")) !== "" && (await text(page, "#admin-done")) === "");
}

async function auditTrail(page) {
  await panel(page, "audit");
  const { entries, next_cursor } = await asAdmin("/admin/audit");
  const expected = entries.map((entry) => [entry.action, entry.target.startsWith("remes1") ? `${entry.target.slice(0, 12)}…${entry.target.slice(-6)}` : entry.target, entry.reason ?? "–"]);
  assert.deepEqual((await rows(page, "audit")).map(([, action, target, , reason]) => [action, target, reason]), expected);
  assert(next_cursor, "the audit has more than a page");
  await press(page, "#admin-audit > .small");
  await until("the next page", async () => (await rows(page, "audit")).length > entries.length);
}

/** A jump of the clock is in the answer only: the machine's clock is everybody's. */
async function clock() {
  const page = await entered();
  await page.setRequestInterception(true);
  page.on("request", (request) => {
    if (new URL(request.url()).pathname !== "/alerts") return request.continue();
    const jump = { name: "clock_jump", subject: null, severity: "CRITICAL", summary: MARKUP, value: 400, threshold: 300, since: new Date().toISOString() };
    return request.respond({ contentType: "application/json", body: JSON.stringify({ firing: [jump], recent: [] }) });
  });
  await panel(page, "history");
  assert.equal((await rows(page, "alert-history"))[0][5], MARKUP);
  await press(page, "#admin-clock-accept");
  assert.match(await agree(page), /^Accept the clock/);
  await said(page, /^The clock is accepted: it is 20/);
  assert.equal((await newest()).action, "clock.accept");
  await harmless(page);
  await closed(page);
}

async function twoTabs(page) {
  const other = await entered();
  // The same account in both: the second learns that there is one.
  for (const tab of [page, other]) {
    await tab.bringToFront();
    await panel(tab, "accounts");
    await press(tab, "#admin-user-new");
    await fill(tab, { "user-wallet": THIRD });
    await submit(tab, "user");
    await until("the page asks", () => shown(tab, "#question"));
  }
  await page.bringToFront();
  await agree(page);
  await said(page, /^Created the account/);
  await other.bringToFront();
  await agree(other);
  await until("the second says why not", async () => (await text(other, "#admin-user-dialog .problem")) !== "");
  await press(other, "#admin-user-dialog .close");
  // Each of two people who grant has granted.
  for (const tab of [page, other]) {
    await tab.bringToFront();
    await account(tab, THIRD);
    await move(tab, "grant", "3", "both");
    await agree(tab);
    await said(tab, /^Granted 3 credits/);
  }
  assert.equal((await asAdmin(`/users/${THIRD}`)).credits, 6);
  // The same key is revoked in both: once.
  const { id } = await asAdmin("/api/keys", { wallet_address: THIRD, name: "both" });
  for (const tab of [page, other]) {
    await tab.bringToFront();
    await account(tab, THIRD);
    await press(tab, `#admin-account-keys tr[data-id=${id}] button[aria-label^=Revoke]`);
    await until("the page asks", () => shown(tab, "#question"));
  }
  for (const tab of [page, other]) {
    await tab.bringToFront();
    await agree(tab);
    await until("it was answered", async () => (await text(tab, "#admin-done")) !== "" || (await text(tab, "#admin-problem")) !== "");
    await until("the key is listed as ended", async () => (await rows(tab, "account-keys"))[0][4] === "ended" || (await rows(tab, "account-keys"))[0]);
  }
  const { entries } = await asAdmin("/admin/audit?limit=100");
  assert.equal(entries.filter((entry) => entry.action === "keys.revoke" && entry.target === id).length, 1, "a key was revoked twice");
  await other.bringToFront();
  await closed(other, /40[49]/);
}

/** The server does it and goes before it answers; then another starts over the same file. */
async function goneInTheMiddle(page) {
  await page.bringToFront();
  await account(page, THIRD);
  const before = (await asAdmin(`/users/${THIRD}`)).credits;
  const seen = [];
  let isBack = false;
  relay.lost = async ({ method, url, headers }) => {
    if (method !== "POST" || !url.endsWith("/credits")) return false;
    // The browser may repeat a request itself.
    if (seen.push(headers["idempotency-key"]) === 1) await server.stop("SIGKILL");
    return !isBack;
  };
  await move(page, "grant", "40", "lost");
  await agree(page);
  await until("it is not known", () => matches(page, "#admin-credits-dialog .problem", /not known whether it was done\. Try again: the server does it once\.$/));
  await picture(page, "admin-gone");
  await server.start();
  relay.target = server.url;
  isBack = true;
  await submit(page, "credits");
  await agree(page);
  await said(page, /^Granted 40 credits/);
  assert(seen.length >= 2 && seen[0] && new Set(seen).size === 1, "the second try has another Idempotency-Key");
  assert.equal((await asAdmin(`/users/${THIRD}`)).credits, before + 40, "granted twice, or not at all");
  // It may have been created unseen: a second key is not made in secret.
  relay.lost = async ({ method, url }) => method === "POST" && url === "/api/keys";
  const keysBefore = (await asAdmin(`/api/keys?wallet=${THIRD}`)).keys.length;
  await press(page, "#admin-account-key");
  await until("the dialog", () => shown(page, "#admin-new-key-dialog"));
  await submit(page, "new-key");
  await agree(page);
  await until("it is not known", () => matches(page, "#admin-new-key-dialog .problem", /not known whether it was done/));
  relay.lost = async () => false;
  await submit(page, "new-key");
  await agree(page);
  const lost = await said(page, /^The key was created, but the answer that held it was lost: /);
  const after = (await asAdmin(`/api/keys?wallet=${THIRD}`)).keys;
  assert.equal(after.length, keysBefore + 1);
  assert(lost.includes(after[0].id), lost);
}

/** While a request runs its button cannot be pressed again. */
async function onceAtATime(page) {
  await account(page, THIRD);
  let answer, asked = 0;
  relay.lost = ({ url }) => url.endsWith("/block") ? (asked += 1, new Promise((resolve) => { answer = () => resolve(false); })) : false;
  await press(page, "#admin-account-block");
  await agree(page);
  await until("the request runs", () => asked === 1);
  assert(await page.$eval("#admin-account-block", (button) => button.disabled), "the button can be pressed");
  await page.click("#admin-account-block");
  assert.equal(await page.$("#question"), null);
  answer();
  await said(page, /^Blocked/);
  assert.equal(asked, 1);
  relay.lost = async () => false;
}

async function restful(page) {
  await panel(page, "accounts");
  const before = page.asked.length;
  await until("the page has polled its other panels", () => {
    const polled = page.asked.slice(before).map(({ url }) => new URL(url).pathname);
    return polled.filter((path) => path === "/alerts").length >= 3 || polled;
  }, 20_000);
  const own = page.asked.slice(before).filter(({ url }) => /\/admin\/|\/users\?|\/users$|\/api\/keys/.test(url));
  assert.deepEqual(own, [], "an idle panel polls");
}

async function byKeyboard() {
  const page = await entered();
  await page.focus("#admin-nav [data-view=keys]");
  await page.keyboard.press("Enter");
  await until("the keys", async () => (await rows(page, "keys")).length > 0);
  await page.focus("#admin-nav [data-view=accounts]");
  await page.keyboard.press("Space");
  await until("the accounts", () => page.$eval("#view-accounts", (box) => box.checkVisibility() && box.ariaBusy === "false"));
  await page.focus("#admin-users-search");
  await page.keyboard.type(SECOND);
  await page.keyboard.press("Enter");
  await until("the account is found", async () => (await rows(page, "users")).length === 1);
  await page.focus(`#admin-users button[title="${SECOND}"]`);
  await page.keyboard.press("Enter");
  await until("the focus is at the account", () => page.evaluate(() => document.activeElement.id === "admin-account-wallet"));
  const before = (await asAdmin(`/users/${SECOND}`)).credits;
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.id), "admin-account-grant");
  await page.keyboard.press("Enter");
  await page.keyboard.type("1.5");
  await page.keyboard.press("Tab");
  await page.keyboard.type("by keyboard");
  await page.keyboard.press("Enter");
  await until("the page asks", () => shown(page, "#question"));
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await said(page, /^Granted 1.5 credits/);
  assert.equal((await asAdmin(`/users/${SECOND}`)).credits, before + 1.5);
  await until("the focus returns", () => page.evaluate(() => document.activeElement.id === "admin-account-grant"));
  await closed(page);
}

/** An admin who rotates the key of the page goes on with the new one, which is shown. */
async function ownKey() {
  const { id, api_key: old } = await asAdmin("/api/keys", { name: "own", scopes: ["admin"] });
  const page = await opened({ height: 1000 });
  await giveKey(page, old);
  await until("the section of an admin", () => shown(page, "#admin"));
  await panel(page, "keys");
  await press(page, `#admin-keys tr[data-id=${id}] button[aria-label^=Rotate]`);
  await page.select("#admin-rotate-grace", "0");
  await submit(page, "rotate");
  await agree(page);
  await until("the key in its place", () => shown(page, "#admin-secret-dialog"));
  const secret = await text(page, "#admin-secret");
  assert.deepEqual([await status("/auth/me", old), await status("/auth/me", secret)], [401, 200]);
  await press(page, "#admin-secret-close");
  await panel(page, "keys");
  const { key } = await api("/auth/me", { key: secret });
  await press(page, `#admin-keys tr[data-id=${key.id}] button[aria-label^=Revoke]`);
  assert.match(await agree(page), /It is the one that you use now\.$/);
  await until("the page asks for a key", async () => !(await shown(page, "#admin")) && shown(page, "#key-form"));
  await closed(page, /401/);
}

const PANELS = ["accounts", "keys", "models", "backups", "history", "audit"];

/** No text became an element, and none ran. */
async function harmless(page) {
  const found = await page.evaluate(() => [window.hurt ?? null, document.querySelectorAll("#admin img, dialog img").length]);
  assert.deepEqual(found, [null, 0], "a text was taken as markup");
  assert(!page.asked.some(({ url }) => url.endsWith("/evil")), "a text was loaded");
  assert.deepEqual(page.wrong.filter((text) => !text.startsWith("Failed to load resource")), [], "the script failed");
}

async function looks() {
  for (const [name, look] of Object.entries({ light: {}, dark: { dark: true }, phone: { width: 390, height: 844 }, "phone-dark": { width: 390, height: 844, dark: true } })) {
    const page = await entered(look);
    const checked = async (what) => {
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert(wide <= 0, `${what}, ${name}: ${wide} px too wide`);
      await accessible(page, `${what}, ${name}`);
      await harmless(page);
      await page.$eval("#admin", (section) => section.scrollIntoView());
      await (await page.$("#admin")).screenshot({ path: `${process.env.SCREENSHOTS}/admin-${name}-${what}.png` });
    };
    for (const view of PANELS) {
      await panel(page, view);
      if (view === "accounts" && look.width) {
        const right = await page.$eval("#admin-users tbody .number", (cell) => cell.getBoundingClientRect().right);
        assert(right <= look.width, "a balance is outside of what a phone shows");
      }
      await checked(view);
    }
    await account(page, FIRST);
    await checked("account");
    for (const [button, dialog] of [["account-grant", "credits"], ["account-key", "new-key"]]) {
      await press(page, `#admin-${button}`);
      await until(dialog, () => shown(page, `#admin-${dialog}-dialog`));
      await accessible(page, `${dialog}, ${name}`);
      await picture(page, `admin-${name}-${dialog}`);
      if (dialog === "credits") {
        await fill(page, { "credits-amount": "1", "credits-reason": MARKUP });
        await submit(page, "credits");
        await until("the page asks", () => shown(page, "#question"));
        await accessible(page, `a question, ${name}`);
        await page.keyboard.press("Escape");
      }
      await press(page, `#admin-${dialog}-dialog .close`);
    }
    await closed(page);
  }
}

/** With the key all goes that it showed. */
async function forgotten(page) {
  await page.click("#key-forget");
  await until("the section goes", async () => !(await shown(page, "#admin")));
  const left = await page.$eval("#admin", (section) => section.textContent);
  assert(!/remes1[a-z0-9]{20}|key_0/.test(left), "data stayed behind");
}

await until("the model is known", async () => (await asAdmin("/v1/models")).data.some(({ id }) => id === MARKUP), 15_000);
await onlyForAdmins();
const page = await entered();
page.on("dialog", (dialog) => assert.fail(dialog.message()));
for (const check of [accounts, listing, credits, blocking, usage, keys, node, backups, auditTrail, twoTabs, goneInTheMiddle, onceAtATime, restful]) {
  await check(page);
  await harmless(page);
  console.log(`the page with an admin's key: ${check.name}`);
}
await forgotten(page);
// Refusals that were provoked, and the server that went.
await closed(page, /status of 4\d\d|ERR_EMPTY_RESPONSE|ERR_CONNECTION|status of 503/);
await clock();
await ownKey();
await byKeyboard();
await looks();
await longLedger();
assert(!server.log.includes(ADMIN), "a key is in the log");
await browser.close();
relay.stop();
upstream.close();
await server.stop();
