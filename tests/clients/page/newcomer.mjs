// The chat that a newcomer paid for, on the page: signed in with the wallet's key, its ledger entry is there. Run by newcomer.sh.
import assert from "node:assert/strict";
import { KEY, WALLET, api, browser, closed, giveKey, opened, picture, until } from "./browser.mjs";

const { entries } = await api(`/users/${WALLET}/ledger`, { key: KEY });
const chats = entries.filter((entry) => entry.reason === "chat");
assert.equal(chats.length, 3);
assert(chats.every((entry) => entry.amount === -1), JSON.stringify(chats));

const page = await opened();
await giveKey(page, KEY);
for (const { id } of chats) {
  await until(`the entry ${id}`, () => page.evaluate((id) => {
    const row = document.querySelector(`[data-id="${id}"]`);
    // The balance after it is in the same cell.
    const amount = (cell) => cell.firstChild.textContent === "−1";
    return Boolean(row?.checkVisibility() && /chat/i.test(row.textContent) && [...row.cells].some(amount));
  }, id), 15_000);
}
await picture(page, "newcomer");
await closed(page);
await browser.close();
