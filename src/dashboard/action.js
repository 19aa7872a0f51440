// What the panels share that act: requests that change something, a confirmation, a download, a table.

/** How long an action may take: a backup or a verification of a large database takes a while. */
const ACTION_TIMEOUT = 2 * MINUTE;
/** Idempotency keys of actions whose outcome is unknown, so that a retry of the same action is done once. */
const unanswered = new Map();

/** A random id. `randomUUID` exists in secure contexts only. */
const randomId = () => crypto.randomUUID?.() ?? Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** Sends a request with the key and a JSON body; returns the JSON of the response, or `null` if it has no body. */
async function send(method, path, body, { idempotent = false } = {}) {
  const action = JSON.stringify([method, path, body]);
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (idempotent) {
    if (!unanswered.has(action)) unanswered.set(action, randomId());
    headers["Idempotency-Key"] = unanswered.get(action);
  }
  const read = async (response) => JSON.parse((await response.text()) || "null");
  try {
    const answer = await request(path, read, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), timeout: ACTION_TIMEOUT });
    unanswered.delete(action);
    return answer;
  } catch (error) {
    const isFinal = error.kind === "refused" && error.status < 500 && error.code !== "idempotency_in_progress";
    if (isFinal) unanswered.delete(action);
    throw error;
  }
}

/** Pages of a table that are fetched at most, within the rate of reads. */
const MOST_PAGES = 200;

/** Fetches all pages of a table as CSV with the key, and saves them as one file; a table that is too long is not saved in part. */
async function download(name, path) {
  const parts = [], withKey = key;
  for (let next = path; next;) {
    if (parts.length === MOST_PAGES) throw new Trouble("refused", `more than ${MOST_PAGES} pages: r3mes-edge ledger export --format csv writes all`);
    const read = async (response) => [await response.text(), response.headers.get("Link") ?? ""];
    const [text, link] = await request(next, read, { withKey, headers: { Accept: "text/csv" }, timeout: ACTION_TIMEOUT });
    // Every page begins with the headings.
    parts.push(parts.length ? text.slice(text.indexOf("\n") + 1) : text);
    next = /^<([^>]+)>; rel="next"$/.exec(link)?.[1];
  }
  const blob = new Blob(parts, { type: "text/csv" });
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), MINUTE);
}

/** Asks once before an action. Resolves to whether it was confirmed; Escape cancels. */
function confirmed(text, { word = "Confirm" } = {}) {
  const cancel = make("button", { type: "button", autofocus: "" }, "Cancel");
  const confirm = make("button", { type: "button", class: "main" }, word);
  const question = make("p", { id: "question" }, text);
  const dialog = make("dialog", { "aria-labelledby": "question" }, question, make("div", { class: "buttons" }, cancel, confirm));
  document.body.append(dialog);
  cancel.addEventListener("click", () => dialog.close());
  confirm.addEventListener("click", () => dialog.close("confirmed"));
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "confirmed");
    });
    dialog.showModal();
  });
}

/** The nearest heading before an element, of its section. */
function headingOf(element) {
  const headings = [...element.closest("section").querySelectorAll("h2, h3")];
  return headings.findLast((heading) => heading.compareDocumentPosition(element) & Node.DOCUMENT_POSITION_FOLLOWING)?.textContent ?? "";
}

/**
 * Shows `rows` as a table in `element`, within a box that scrolls. `columns` are `{title, of: (row) => text or node, number}`.
 * Rows that are the same as before stay, with focus and selection; a row's `id` distinguishes rows of the same content.
 */
function table(element, columns, rows) {
  let box = element.querySelector(":scope > .scroll");
  if (!box) {
    box = make("div", { class: "scroll rows-table", tabindex: 0, role: "region" }, make("table", {}, make("thead"), make("tbody")));
    element.append(box);
  }
  const label = `${headingOf(element)}, table`;
  if (box.ariaLabel !== label) box.ariaLabel = label;
  box.hidden = rows.length === 0;
  const kind = ({ number }) => number ? { class: "number" } : {};
  const head = make("tr", {}, ...columns.map((column) => make("th", { scope: "col", ...kind(column) }, column.title)));
  const { tHead, tBodies: [body] } = box.firstChild;
  if (!head.isEqualNode(tHead.rows[0])) tHead.replaceChildren(head);
  const old = [...body.rows];
  const wanted = rows.map((row) => {
    const cells = columns.map((column, i) => make(i ? "td" : "th", { ...(i === 0 && { scope: "row" }), ...kind(column) }, column.of(row) ?? none));
    const made = make("tr", row.id === undefined ? {} : { "data-id": row.id }, ...cells);
    const same = old.findIndex((before) => before.isEqualNode(made));
    return same < 0 ? made : old.splice(same, 1)[0];
  });
  for (const row of old) row.remove();
  wanted.forEach((row, i) => { if (body.rows[i] !== row) body.insertBefore(row, body.rows[i] ?? null); });
}

const keyListeners = [];
/** Calls `f` with the response of `GET /auth/me`, or null, whenever the key changes. */
const onKey = (f) => keyListeners.push(f);
