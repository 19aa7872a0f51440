// An admin's day by the page: EDGE, ADMIN and WALLET.
import { ADMIN, WALLET, browser, closed, giveKey, opened, press, shown, text, until } from "./browser.mjs";

const page = await opened({ height: 1000 });
await giveKey(page, ADMIN);
await until("the section of an admin", () => shown(page, "#admin"));

async function panel(name) {
  await press(page, `#admin-nav [data-view=${name}]`);
  await until(name, () => page.$eval(`#view-${name}`, (box) => box.checkVisibility() && box.ariaBusy === "false"));
}
/** Answers the question with yes, and waits for what is said then. */
async function agreed(expected) {
  await until("the page asks", () => shown(page, "#question"));
  await page.$eval("#question ~ .buttons .main", (button) => button.click());
  await until(`it says ${expected}`, async () => expected.test(await text(page, "#admin-done")));
  await until("the panel is read", () => page.$$eval("[id^=view-]", (boxes) => boxes.every((box) => box.ariaBusy !== "true")));
}
async function act(selector, expected) {
  await press(page, selector);
  await agreed(expected);
}
async function submit(dialog, fields, expected) {
  for (const [id, value] of Object.entries(fields)) await page.type(`#admin-${id}`, value);
  await act(`#admin-${dialog}-dialog [type=submit]`, expected);
}
const newKey = "#admin-account-keys tbody tr:first-child";

await press(page, "#admin-user-new");
await submit("user", { "user-wallet": WALLET }, /^Created the account/);
await press(page, `#admin-users button[title="${WALLET}"]`);
await until("the account", () => page.$eval("#view-account", (box) => box.checkVisibility() && box.ariaBusy === "false"));
await press(page, "#admin-account-grant");
await submit("credits", { "credits-amount": "100", "credits-reason": "welcome, Ada", "credits-reference": "inv-1" }, /^Granted 100 credits/);
await press(page, "#admin-account-key");
await until("the dialog", () => shown(page, "#admin-new-key-dialog"));
await page.click("#admin-new-key-models input[value=general]");
await page.select("#admin-new-key-period", "day");
await submit("new-key", { "new-key-name": "day", "new-key-limit": "5", "new-key-concurrency": "2", "new-key-days": "90" }, /^Created the key/);
await press(page, "#admin-secret-close");
await press(page, `${newKey} button[aria-label^=Rotate]`);
await submit("rotate", {}, /^Rotated the key/);
await press(page, "#admin-secret-close");
await press(page, "#admin-account-take");
await submit("credits", { "credits-amount": "25.5", "credits-reason": "correction" }, /^Took 25.5 credits/);
await act("#admin-account-block", /^Blocked/);
await act("#admin-account-block", /^Unblocked/);
await panel("models");
await act('#admin-switches button[aria-label="Open the breaker of node"]', /is open/);
await act('#admin-switches button[aria-label="Reset the breaker of node"]', /is in use/);
await panel("backups");
await act("#admin-backup-new", /^Made the backup/);
await press(page, "#admin-ledger-verify-all");
await until("the verdict", async () => /^The ledger adds up/.test(await text(page, "#admin-ledger-verdict")));
await panel("accounts");
await press(page, `#admin-users button[title="${WALLET}"]`);
await until("the account", () => page.$eval("#view-account", (box) => box.checkVisibility() && box.ariaBusy === "false"));
await act(`${newKey} button[aria-label^=Revoke]`, /^Revoked the key/);
await closed(page);
await browser.close();
