// The page of a node that shows strangers nothing, and goes while it is looked at.
import assert from "node:assert/strict";
import { ADMIN, KEY, WALLET, accessible, api, browser, closed, giveKey, opened, picture, shown, text, until } from "./browser.mjs";

// Refusals and lost connections stand in the console; nothing else may.
const EXPECTED = /status of 40[13]|ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE/;

const page = await opened();
await until("it asks for a key first", () => page.$eval("body", (body) => body.hasAttribute("data-gated")));
assert.equal(await text(page, "#account-title"), "For holders of a key");
assert.equal(await text(page, "#status"), "Nothing is connected yet");
for (const panel of ["hashrate", "miner", "earnings", "metrics", "health", "alerts"]) assert(!(await shown(page, `[data-feed=${panel}]`)), panel);
const paths = new Set(page.asked.map((request) => new URL(request.url).pathname));
assert.deepEqual([...paths].filter((path) => !path.startsWith("image")).sort(), ["/", "/health", "/leaderboard", "/page.css", "/page.js", "/readyz"], "it asked for what it may not have");
await picture(page, "closed");
await accessible(page, "closed");

// A wallet's key opens the wallet's figures, an admin's all.
await giveKey(page, KEY);
await until("the wallet", async () => (await shown(page, "#balance-box")) && (await text(page, "#wallet")) === WALLET);
await until("a feed that needs a key says so", async () => (await text(page, "[data-feed=metrics] .message")) === "For holders of an admin's key." && (await text(page, "[data-feed=alerts] .message")) === "For holders of an admin's key.");
await accessible(page, "a wallet's key");
await page.click("#key-forget");
await until("it asks for a key again", () => page.$eval("body", (body) => body.hasAttribute("data-gated")));
await api("/miner/earnings", { key: ADMIN, method: "POST", body: { wallet_address: WALLET, earnings: 2.5, source_id: "block-1" } });
await giveKey(page, ADMIN);
await until("an admin's figures", async () => (await text(page, "#firing")) === "0" && /\d/.test(await text(page, "#requests")));

process.kill(Number(process.env.SERVER), "SIGTERM");
const took = await until("the node is gone", async () => (await text(page, "#status")) === "The node does not answer" && page.$eval("body", (body) => body.dataset.status === "bad"), 10_000);
await until("how old the figures are", async () => / s old$/.test(await text(page, "[data-feed=metrics] .age")), 15_000);
console.log(`a node that is gone shows after ${took.toFixed(0)} ms`);
await picture(page, "broken");
await accessible(page, "broken");
await closed(page, EXPECTED);
await browser.close();
