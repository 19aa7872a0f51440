// The node for an admin: models and prices, nodes and breakers, backups, the ledger's verification, alerts and the audit.

// Models, nodes, breakers.

const modelColumns = [
  { title: "Model", of: (row) => row.id },
  { title: "Request", number: true, of: (row) => credits(row.price?.request) },
  { title: "Prompt", number: true, of: (row) => credits(row.price?.prompt) },
  { title: "Cached prompt", number: true, of: (row) => credits(row.price?.cached_prompt) },
  { title: "Completion", number: true, of: (row) => credits(row.price?.completion) },
  { title: "Context", number: true, of: (row) => row.context_length == null ? none : whole.format(row.context_length) },
  { title: "Answer at most", number: true, of: (row) => row.max_output_tokens == null ? none : whole.format(row.max_output_tokens) },
];
const nodeColumns = [
  { title: "Node", of: (row) => row.name },
  { title: "In use", number: true, of: (row) => `${whole.format(row.in_flight)} of ${row.slots == null ? none : whole.format(row.slots)}` },
  { title: "Waiting", number: true, of: (row) => whole.format(row.waiting) },
  { title: "Failures", number: true, of: (row) => whole.format(row.failures) },
  { title: "Last failure", of: (row) => row.last_failure ? `${row.last_failure}, ${ago(row.seconds_since_failure * SECOND)}` : none },
  { title: "Endpoints", of: (row) => (row.endpoints ?? []).join(", ") || none },
];

function breakerAction({ name, state, forced }) {
  const change = (verb, effect) => (button) => act(button, `${sentence(verb)} the breaker of ${name}? ${effect}`, sentence(verb), async () => {
    const now = await send("POST", `/admin/breakers/${encodeURIComponent(name)}`, { state: verb });
    return `The breaker of ${name} is ${(STATES[now.state]?.[1] ?? now.state)}.`;
  });
  const buttons = [];
  if (!forced) buttons.push(actionButton("Open", change("open", "Every call to it is refused until the breaker is reset."), { label: `Open the breaker of ${name}` }));
  if (state !== "CLOSED") buttons.push(actionButton("Reset", change("reset", "Calls to it are made again, and its counts begin at 0."), { label: `Reset the breaker of ${name}` }));
  return make("div", { class: "actions" }, ...buttons);
}
const breakerColumns = [
  { title: "Upstream", of: (row) => row.name },
  { title: "Breaker", of: (row) => marked(...(STATES[row.state] ?? ["warn", row.state])) },
  { title: "Why", of: (row) => row.state === "CLOSED" ? none : whyOpen(row) },
  { title: "Actions", of: breakerAction },
];

const withIds = (rows) => rows.map((row) => ({ ...row, id: row.id ?? row.name }));

/** A table, or a text where there are no rows. */
function tableOr(id, columns, rows, empty) {
  const element = by(id);
  let nothing = element.querySelector(":scope > .message");
  if (!nothing) element.append(nothing = make("p", { class: "message" }, empty));
  nothing.hidden = rows.length > 0;
  table(element, columns, withIds(rows));
}

const servedModels = new Pages(by("admin-models"), { path: () => "/v1/models", member: "data", columns: modelColumns, empty: "No model is served. Start a model server on this machine, or name one under [[inference]]." });
adminPanels.models = async () => {
  const [served, { nodes }, { breakers }] = await Promise.all([servedModels.first(), ask("/health"), ask("/admin/breakers")]);
  return () => {
    served();
    tableOr("admin-nodes", nodeColumns, nodes ?? [], "No inference server answers.");
    tableOr("admin-switches", breakerColumns, breakers, "No upstream is in use.");
  };
};

// Backups and the ledger.

const asSize = (bytes) => bytes < 2 ** 20 ? `${whole.format(bytes / 2 ** 10)} KiB` : bytes < 2 ** 30 ? `${tenths.format(bytes / 2 ** 20)} MiB` : `${tenths.format(bytes / 2 ** 30)} GiB`;
const checkedRows = ({ wallets, entries }) => `${count(wallets, "wallet")} and ${count(entries, "entry", "entries")} checked`;

const backupColumns = [
  { title: "Name", of: (row) => mono(row.name) },
  { title: "Made", of: (row) => when(row.created_at) },
  { title: "Age", of: (row) => span(since(row.created_at)) },
  { title: "Size", number: true, of: (row) => asSize(row.bytes) },
  {
    title: "Actions", of: ({ name }) => actionButton("Verify", (button) => {
      tell("");
      attempt(button, async () => {
        const { ledger } = await send("POST", `/admin/backups/${encodeURIComponent(name)}/verify`);
        const errors = ledger.mistakes;
        if (errors.length) complain(`The backup ${name} is not good: ${sentence(errors[0])}${errors.length > 1 ? `, and ${count(errors.length - 1, "further error")}` : ""}.`);
        else tell(`The backup ${name} is good: ${checkedRows(ledger)}.`);
      });
    }, { label: `Verify ${name}` }),
  },
];

adminPanels.backups = async () => {
  const { folder, backups } = await ask("/admin/backups");
  return () => {
    set("admin-backup-folder", folder ? `In ${folder}` : "");
    tableOr("admin-backups", backupColumns, backups, "There are no backups yet.");
  };
};

by("admin-backup-new").addEventListener("click", ({ target }) => act(target, "Make a backup of the database? It is verified before it gets its name.", "Make a backup", async () => {
  const made = await send("POST", "/admin/backup");
  return `Made the backup ${made.file}: ${asSize(made.bytes)}, ${checkedRows(made.ledger)}.`;
}));

function verifyLedger(button, path) {
  set("admin-ledger-verdict", "");
  list("admin-ledger-errors", []);
  return attempt(button, async () => {
    const report = await send("GET", path), errors = report.mistakes;
    by("admin-ledger-verdict").dataset.mark = errors.length ? "bad" : "ok";
    set("admin-ledger-verdict", errors.length ? `The ledger does not add up: ${count(errors.length, "error")}, ${checkedRows(report)}.` : `The ledger adds up: ${checkedRows(report)}, no errors.`);
    list("admin-ledger-errors", errors.map((error) => row("bad", "error", error)));
  });
}
by("admin-ledger-verify").addEventListener("click", ({ target }) => verifyLedger(target, "/admin/ledger/verify"));
by("admin-ledger-verify-all").addEventListener("click", ({ target }) => verifyLedger(target, "/admin/ledger/verify?full=true"));

// Alerts.

const alertColumns = [
  { title: "Alert", of: titled },
  { title: "State", of: (row) => row.resolved_at ? marked("", "over") : marked(marks[row.severity] ?? "warn", "fires") },
  { title: "Severity", of: (row) => String(row.severity).toLowerCase() },
  { title: "Since", of: (row) => when(row.since) },
  { title: "Lasted", of: (row) => lasting((row.resolved_at ? Date.parse(row.resolved_at) : Date.now()) - Date.parse(row.since)) },
  { title: "What", of: (row) => sentence(row.summary) },
];
adminPanels.history = async () => {
  const { firing = [], recent = [] } = await ask("/alerts");
  const rows = [...firing, ...recent].map((alert) => ({ ...alert, id: `${alert.name} ${alert.subject ?? ""} ${alert.since}` }));
  return () => {
    by("admin-clock-accept").hidden = !firing.some((alert) => alert.name === "clock_jump");
    tableOr("admin-alert-history", alertColumns, rows, "No alert has fired since the node started.");
  };
};
by("admin-clock-accept").addEventListener("click", ({ target }) => act(target, "Accept the clock of the node's machine as it is now? What is older than its retention by that clock is deleted.", "Accept the clock", async () => {
  const { server_time_iso } = await send("POST", "/admin/clock/accept");
  return `The clock is accepted: it is ${server_time_iso}.`;
}));

// The audit.

const auditLog = new Pages(by("admin-audit"), {
  path: () => "/admin/audit", member: "entries", empty: "No change has been made yet.",
  columns: [
    { title: "When", of: (row) => when(row.created_at) },
    { title: "Action", of: (row) => row.action },
    { title: "Target", of: (row) => asWallet(row.target) ? walletButton(row.target) : idOr(row.target) },
    { title: "Amount", number: true, of: (row) => signed(row.amount) },
    { title: "Reason", of: (row) => row.reason },
    { title: "By", of: (row) => idOr(row.actor) },
    { title: "Address", of: (row) => row.address },
  ],
});
adminPanels.audit = () => auditLog.first();
