// The browser, and what every check of the page uses.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import puppeteer from "puppeteer-core";

export const { EDGE, KEY, ADMIN, WALLET, SCREENSHOTS } = process.env;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

// Its own sandbox needs what containers do not give; nothing but our page is opened in it.
export const browser = await puppeteer.launch({
  executablePath: "/usr/bin/chromium", userDataDir: process.env.PROFILE,
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"],
});

/** Asks the node itself. */
export async function api(path, { key = "", method = "GET", body, accept = "*/*" } = {}) {
  const headers = { accept, ...(key && { "x-api-key": key }) };
  const answer = await fetch(EDGE + path, { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  assert(answer.ok, `${method} ${path}: ${answer.status} ${text}`);
  return answer.headers.get("content-type").startsWith("application/json") ? JSON.parse(text) : text;
}

/** A page, with what went wrong in it noted: errors, what the policy forbade, and every request. */
export async function opened({ width = 1280, height = 900, dark = false, base = EDGE, path = "/", wait = true, answers = null, before = null } = {}) {
  const page = await browser.newPage();
  if (answers) await answering(page, answers);
  await before?.(page);
  page.wrong = [];
  page.asked = [];
  page.on("console", (message) => ["error", "warn"].includes(message.type()) && page.wrong.push(`${message.text()} ${message.location().url ?? ""}`));
  page.on("pageerror", (error) => page.wrong.push(error.stack));
  page.on("request", (request) => page.asked.push({ url: request.url(), at: Date.now() }));
  await page.evaluateOnNewDocument(() => {
    window.forbidden = [];
    addEventListener("securitypolicyviolation", (event) => window.forbidden.push(`${event.violatedDirective} ${event.blockedURI}`));
  });
  await page.setViewport({ width, height, deviceScaleFactor: width < 500 ? 2 : 1, isMobile: width < 500, hasTouch: width < 500 });
  // A colour half-way to another has no contrast to speak of.
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }, { name: "prefers-reduced-motion", value: "reduce" }]);
  await page.setCacheEnabled(false);
  await page.goto(base + path, { waitUntil: "load" });
  if (wait) await until("the page knows how the node is", () => page.$eval("body", (body) => body.dataset.status !== "unknown"));
  return page;
}

/** Answers some paths with other data: a text, or JSON, or a function that changes the node's own JSON. */
async function answering(page, answers) {
  await page.setRequestInterception(true);
  page.on("request", async (request) => {
    const { pathname, search } = new URL(request.url());
    if (!(pathname in answers)) return request.continue();
    let answer = answers[pathname];
    if (typeof answer === "function") answer = answer(await api(pathname + search, { key: request.headers()["x-api-key"], accept: request.headers().accept }));
    const isText = typeof answer === "string";
    return request.respond({ status: 200, contentType: isText ? "text/plain" : "application/json", body: isText ? answer : JSON.stringify(answer) });
  });
}

export async function closed(page, expected = /^$/) {
  const forbidden = await page.evaluate(() => window.forbidden);
  assert.deepEqual(forbidden, [], "the policy forbade something");
  assert.deepEqual(page.wrong.filter((text) => !expected.test(text)), [], "the console has errors");
  await page.close();
}

/** Waits until it holds; the last value or error is reported where it never does. Gives the milliseconds it took. */
export async function until(what, holds, most = 5000) {
  const began = performance.now();
  let last;
  while (performance.now() - began < most) {
    try {
      last = await holds();
      if (last === true) return performance.now() - began;
    } catch (error) {
      last = error.message;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.fail(`not within ${most} ms: ${what}; last: ${JSON.stringify(last)}`);
}

export const text = (page, selector) => page.$eval(selector, (element) => element.textContent.trim());
export const shown = (page, selector) => page.$eval(selector, (element) => element.checkVisibility());
/** What people read: a figure as the page writes it. */
export const written = (number, most = 6) => new Intl.NumberFormat("en", { maximumFractionDigits: most }).format(number);

/** All of axe's rules, also those that are but good practice. */
export async function accessible(page, what) {
  // Not as an element of the page: its policy would forbid that, and should.
  await page.evaluate(axe);
  const { violations, passes } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const found = violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => `${node.html} ${node.failureSummary}`).join(" | ")}`);
  assert.deepEqual(found, [], `axe, ${what}`);
  assert(passes.length > 10, "axe looked at nothing");
}

export async function picture(page, name) {
  await page.screenshot({ path: `${SCREENSHOTS}/${name}.png`, fullPage: true });
}

/** Presses Tab until an element is focused, as people do who use no pointer. */
export async function tabTo(page, selector) {
  for (let presses = 0; presses < 80; presses++) {
    if (await page.evaluate((wanted) => document.activeElement.matches(wanted), selector)) return;
    await page.keyboard.press("Tab");
  }
  assert.fail(`${selector} is not reached by Tab`);
}

export async function tooWide(page, selector = "html") {
  return page.$eval(selector, (element) => element.scrollWidth - element.clientWidth);
}

export async function giveKey(page, key) {
  await page.type("#key-field", key);
  await page.keyboard.press("Enter");
}

/** Presses a button by the keyboard: panels above it may grow between finding a place and a click on it. */
export async function press(page, selector) {
  await page.focus(selector);
  await page.keyboard.press("Enter");
}
