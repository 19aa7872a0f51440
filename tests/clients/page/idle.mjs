// The page of a node to which nothing is connected, until a miner sends its first sample.
import assert from "node:assert/strict";
import { KEY, WALLET, accessible, api, browser, closed, opened, picture, shown, text, tooWide, until } from "./browser.mjs";

for (const [name, look] of Object.entries({ idle: {}, "idle-dark": { dark: true }, "idle-phone": { width: 390, height: 844 } })) {
  const page = await opened(look);
  await until("it says so, neutrally", async () => (await text(page, "#status")) === "Nothing is connected yet" && page.$eval("body", (body) => body.dataset.status === "idle"));
  const start = await text(page, "#start");
  for (const word of ["Ollama", "llama-server", "[miner]", "r3mes-edge doctor"]) assert(start.includes(word), word);
  await until("no panel has figures", async () => (await page.$$(".panel[data-empty]")).length >= 6);
  for (const panel of ["hashrate", "miner", "earnings"]) assert.equal(await text(page, `[data-feed=${panel}] .message`), "No wallet is known yet.");
  assert.equal(await text(page, "[data-feed=metrics] .message"), "No chats yet.");
  assert.equal(await text(page, "[data-feed=alerts] .message"), "No alert fires.");
  const heights = await page.$$eval(".panel[data-empty]", (panels) => panels.filter((panel) => panel.checkVisibility() && panel.id !== "account").map((panel) => panel.offsetHeight));
  assert(heights.every((height) => height <= 150), `empty panels are small: ${heights}`);
  assert(await tooWide(page) <= 0, "too wide");
  await picture(page, name);
  await accessible(page, name);
  await closed(page);
}

// Without a chain, Keplr says which chain has wallets of this kind.
for (const chains of [["cosmos"], ["cosmos", "remes"]]) {
  const before = (page) => page.evaluateOnNewDocument((prefixes) => {
    window.keplr = {
      getChainInfosWithoutEndpoints: async () => prefixes.map((prefix) => ({ chainId: `${prefix}-1`, bech32Config: { bech32PrefixAccAddr: prefix } })),
      enable: async (chain) => { throw new Error(`no account on ${chain}`); },
    };
  }, chains);
  const page = await opened({ before });
  await page.click("#keplr-button");
  const wanted = chains[1] ? "Keplr: no account on remes-1." : "Keplr: it knows no chain with remes1 addresses, and no chain answers this node.";
  await until("which chain", async () => { const problem = await text(page, "#key-problem"); return problem === wanted || problem; });
  await closed(page);
}

const page = await opened({ path: `/#${WALLET}` });
await until("no sample yet", async () => (await text(page, "[data-feed=miner] .message")) === "No sample yet.");
await api("/miner/stats", { key: KEY, method: "POST", body: { hashrate: 42.5, gpu_temperature: 67 } });
await until("its figures", async () => (await text(page, "#hashrate")) === "42.5" && (await text(page, "#status")) === "All systems normal", 15_000);
assert(!(await shown(page, "#start")), "there is nothing to start");
await closed(page);
await browser.close();
