// The operator's page with an admin key: its panels, and what these share. A panel reads when it is opened, after an action and
// by its Refresh button; it does not poll.

/** Each panel's name and what it reads: a function that returns one which shows it. Filled by the files after this one. */
const adminPanels = {};
/** Paged tables, which are emptied when the key goes. */
const adminPages = [];
/** The panel that is open, and how many times one was read: the response to an earlier read is out of date. */
let adminOpen = "", adminTurn = 0;

const tell = (text) => set("admin-done", text);
const complain = (text, element = by("admin-problem")) => { element.textContent = text; };

/** Why an action failed. The server's message names the field, which may be its first word. */
function whyNot(error, { changes, idempotent }) {
  const message = /^\w+_/.test(error.message) ? error.message : sentence(error.message);
  const again = idempotent ? "Try again: the server does it once." : "Refresh to see whether it was done.";
  if (error.kind === "gone") return `No response: ${error.message}. ${changes ? `It is not known whether it was done. ${again}` : "Try again."}`;
  if (error.status === 429 && error.wait) return `${message}. Try again in ${span(Math.max(error.wait, SECOND))}.`;
  return `${message}.`;
}

/** Runs something that asks the server, with its button disabled; shows in `problem` why it failed. Returns whether it did not. */
async function attempt(button, run, { problem = by("admin-problem"), ...action } = {}) {
  const before = key;
  complain("", problem);
  button.disabled = true;
  try {
    await run();
    return true;
  } catch (error) {
    if (!(error instanceof Trouble)) throw error;
    if (error.status === 401 && before === key) keyRefused(error);
    else if (before === key) complain(whyNot(error, action), problem);
    return false;
  } finally {
    button.disabled = false;
    // A disabled button loses the focus, and one that is replaced too.
    if (document.activeElement === document.body) (button.isConnected && button.checkVisibility() ? button : headingOfPanel())?.focus();
  }
}

/** An action on one thing: asks, sends, says how it went, and reads the panel anew. `run` returns what to say. */
async function act(button, question, word, run, options = {}) {
  tell("");
  complain("");
  if (!(await confirmed(question, { word }))) return;
  const before = key;
  let done;
  const isDone = await attempt(button, async () => { done = await run(); }, { changes: true, ...options });
  // What was done for the holder of another key is not for this one.
  if (!isDone || before !== key) return;
  tell(done);
  await refreshPanel(button);
}

const panelBox = () => by(`view-${adminOpen}`);
const headingOfPanel = () => panelBox()?.querySelector("h3[tabindex]");

function openPanel(name) {
  adminOpen = name;
  tell("");
  for (const button of by("admin-nav").children) {
    const { view } = button.dataset;
    // An account is one of the accounts.
    button.ariaCurrent = String(view === name || (view === "accounts" && name === "account"));
  }
  for (const box of by("admin").querySelectorAll(":scope > [id^=view-]")) box.hidden = box !== panelBox();
  return refreshPanel(by("admin-nav").querySelector("[aria-current=true]"));
}

/** Reads the open panel and shows it, unless another one was opened or another key given meanwhile. */
async function readPanel() {
  const turn = ++adminTurn, box = panelBox();
  box.ariaBusy = "true";
  try {
    const show = await adminPanels[adminOpen]();
    if (turn === adminTurn) show();
  } catch (error) {
    if (turn === adminTurn || error.status === 401) throw error;
  } finally {
    if (turn === adminTurn) box.ariaBusy = "false";
  }
}

const refreshPanel = (button) => attempt(button, readPanel);

/** Reads several things at once; shows them all. */
async function together(...reads) {
  const shows = await Promise.all(reads);
  return () => { for (const show of shows) show(); };
}

/** A table of which More reads the next page. */
class Pages {
  /** `path` returns the address of the first page; `member` names the rows in the response, `id` the member that is a row's id. */
  constructor(element, { path, member, id = "id", columns, empty }) {
    Object.assign(this, { element, path, member, id, columns, empty, rows: [] });
    this.nothing = make("p", { class: "message", hidden: "" }, empty);
    this.more = actionButton("More", () => attempt(this.more, () => this.next()));
    this.more.hidden = true;
    this.element.append(this.nothing, this.more);
    adminPages.push(this);
  }

  async first() {
    const path = this.path(), answer = await ask(path);
    return () => {
      this.shown = path;
      this.show([], answer);
    };
  }

  async next() {
    const { rows, shown: path } = this;
    const answer = await ask(`${path}${path.includes("?") ? "&" : "?"}cursor=${encodeURIComponent(this.cursor)}`);
    // Unless the table shows something else by now.
    if (rows === this.rows) this.show(rows, answer);
  }

  show(before, answer) {
    this.rows = [...before, ...answer[this.member].map((row) => ({ ...row, id: row[this.id] }))];
    this.cursor = answer.next_cursor;
    table(this.element, this.columns, this.rows);
    this.element.append(this.more);
    this.more.hidden = !this.cursor;
    this.nothing.hidden = this.rows.length > 0;
  }

  clear() {
    this.show([], { [this.member]: [], next_cursor: null });
  }
}

// Cells.

function actionButton(text, run, { label = text, ...attributes } = {}) {
  const button = make("button", { type: "button", class: "small", ...(label !== text && { "aria-label": label }), ...attributes }, text);
  button.addEventListener("click", () => run(button));
  return button;
}

/** A time, short; whole as its title. */
const when = (text) => text ? make("time", { datetime: text, title: text }, dayClock.format(new Date(text))) : none;
/** How long ago a time was. */
const whenAgo = (text) => text ? make("time", { datetime: text, title: text }, ago(since(text))) : none;
const mono = (text) => make("code", {}, text);
const idOr = (text) => /^key_/.test(text) ? mono(text) : text;
/** A state: a mark with its word. */
const marked = (mark, word) => make("span", { "data-mark": mark }, make("span", { class: "mark" }, word));
const shortWallet = (text) => text.length > 20 ? `${text.slice(0, 12)}…${text.slice(-6)}` : text;
/** A wallet that opens its account. */
const walletButton = (wallet, text = shortWallet(wallet)) =>
  actionButton(text, () => openAccount(wallet), { class: "plain mono", title: wallet });
const signed = (amount) => amount == null ? none : make("span", { class: amount < 0 ? "out" : "in" }, `${amount < 0 ? "−" : "+"}${credits(Math.abs(amount))}`);

// Dialogs with a form.

/** The fields of a form that are filled in, by their names. */
function fieldsOf(form) {
  const filled = [...new FormData(form)].map(([name, text]) => [name, text.trim()]).filter(([, text]) => text !== "");
  return Object.fromEntries(filled);
}

/** A number as a number; any other text as it is, so that the server's message names its field. */
const numeric = (text) => text !== undefined && /^\d+(\.\d+)?$/.test(text) ? Number(text) : text;

/**
 * `submit(fields, complain)` returns what to ask and do, or null where a field is wrong: `run` sends it, `done` is called with
 * the response once the dialog is closed, and returns what to say. Returns a function that opens the dialog.
 */
function formDialog(id, submit) {
  const dialog = by(id), form = dialog.querySelector("form"), problem = form.querySelector(".problem");
  const button = form.querySelector("[type=submit]");
  form.querySelector(".close").addEventListener("click", () => dialog.close());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const action = submit(fieldsOf(form), (text) => complain(text, problem));
    if (!action || button.disabled) return;
    complain("", problem);
    // Stays open where it fails, with what was entered.
    await act(button, action.question, action.word, async () => {
      const made = await action.run();
      dialog.close();
      return action.done(made);
    }, { idempotent: action.idempotent, problem });
  });
  return () => {
    form.reset();
    complain("", problem);
    tell("");
    dialog.showModal();
  };
}

// The section: only with an admin's key.

function showAdmin(me) {
  adminTurn += 1;
  const mayAct = Boolean(me?.key.scopes.includes("admin"));
  for (const dialog of by("admin").querySelectorAll("dialog[open]")) dialog.close();
  for (const form of by("admin").querySelectorAll("form")) form.reset();
  for (const pages of adminPages) pages.clear();
  for (const text of ["done", "problem", "ledger-verdict", "backup-folder", "account-wallet", "account-balance", "credits-wallet", "rotate-key"]) set(`admin-${text}`, "");
  for (const list of ["nodes", "switches", "backups", "alert-history", "ledger-errors", "account-facts"]) by(`admin-${list}`).replaceChildren();
  by("admin").hidden = by("admin-to").hidden = !mayAct;
  if (mayAct) openPanel("accounts");
}

by("about").before(actionButton("Administration", () => {
  by("admin").scrollIntoView({ block: "start" });
  by("admin-nav").querySelector("[aria-current=true]").focus({ preventScroll: true });
}, { id: "admin-to", class: "small", hidden: "" }));
by("admin-nav").addEventListener("click", ({ target }) => { if (target.dataset.view) openPanel(target.dataset.view); });
for (const button of by("admin").querySelectorAll(".refresh")) {
  button.addEventListener("click", async () => {
    tell("");
    if (await refreshPanel(button)) tell("Read anew.");
  });
}
onKey(showAdmin);
