// Keys for an admin: listed, made (shown once), rotated, revoked.

const SCOPES = { chat: "chat: spends credits on models", read: "read: reads the wallet's data", miner: "miner: sends samples", keys: "keys: manages the wallet's keys", metrics: "metrics: reads metrics and alerts", admin: "admin: everything, for every wallet" };

/** How a key is called in questions and results. */
const keyName = ({ id, name, wallet_address }) => `${name ? `"${name}" (${id})` : id}${wallet_address ? ` of ${wallet_address}` : ""}`;

/** One that was revoked is listed as one that expired at that time. */
const stateOf = ({ is_active }) => is_active ? marked("ok", "active") : marked("", "ended");

function keyActions(row) {
  if (!row.is_active) return "";
  const name = keyName(row);
  return make("div", { class: "actions" },
    actionButton("Rotate", () => openRotate(row), { label: `Rotate ${name}` }),
    actionButton("Revoke", (button) => act(button, `Revoke the key ${name}? It is refused from its next request on, and cannot come back.${row.id === holder?.key.id ? " It is the one that you use now." : ""}`, "Revoke", async () => {
      await send("DELETE", `/api/keys/${row.id}`);
      return `Revoked the key ${name}.`;
    }), { label: `Revoke ${name}` }));
}

const keyColumns = [
  { title: "Name", of: (row) => row.name || none },
  { title: "Begins with", of: (row) => mono(row.start) },
  { title: "Wallet", of: (row) => row.wallet_address ? walletButton(row.wallet_address) : "admin" },
  { title: "Scopes", of: (row) => row.scopes.join(", ") },
  { title: "Limits", of: (row) => ownLimits(row) || none },
  { title: "State", of: stateOf },
  { title: "Last used", of: (row) => whenAgo(row.last_used) },
  { title: "Ends", of: (row) => when(row.expires_at) },
  { title: "Actions", of: keyActions },
];
const allKeys = new Pages(by("admin-keys"), { path: () => "/api/keys", member: "keys", columns: keyColumns, empty: "There are no keys." });
adminPanels.keys = () => allKeys.first();

// The new key, shown once.

/** The key is in this element until the dialog is closed, and nowhere else. The dialog outlasts the section and its key. */
function showSecret(title, about, secret) {
  set("admin-secret-title", title);
  set("admin-secret-about", about);
  set("admin-secret", secret);
  set("admin-secret-copied", "");
  by("admin-secret-dialog").showModal();
}

by("admin-secret-copy").addEventListener("click", async () => {
  const selection = getSelection();
  selection.selectAllChildren(by("admin-secret"));
  try {
    // Only where the page comes by https or from this machine.
    await navigator.clipboard.writeText(by("admin-secret").textContent);
    set("admin-secret-copied", "Copied.");
  } catch {
    set("admin-secret-copied", "The browser does not let a page copy here: the key is selected, press Ctrl+C.");
  }
});
// Escape would lose the key.
by("admin-secret-dialog").addEventListener("cancel", (event) => event.preventDefault());
function closeSecret() {
  set("admin-secret", "");
  by("admin-secret-dialog").close();
}
by("admin-secret-close").addEventListener("click", closeSecret);

// Making one.

const checkbox = (name, value, text, checked) =>
  make("label", { class: "check" }, make("input", { type: "checkbox", name, value, ...(checked && { checked: "" }) }), make("span", {}, text));

by("admin-new-key-scopes").append(...Object.entries(SCOPES).map(([name, text]) => checkbox("scopes", name, text, ["chat", "read"].includes(name))));

const showNewKey = formDialog("admin-new-key-dialog", ({ wallet_address, name, credit_limit, credit_period, max_concurrency, expires_days }) => {
  const chosen = (of) => [...by(`admin-new-key-${of}`).querySelectorAll("input:checked")].map((box) => box.value);
  const scopes = chosen("scopes"), models = chosen("models");
  const body = {
    wallet_address, name, scopes, credit_limit: numeric(credit_limit), max_concurrency: numeric(max_concurrency), expires_days: numeric(expires_days),
    credit_period: credit_limit === undefined ? undefined : credit_period, models: models.length ? models : undefined,
  };
  const limits = [
    credit_limit !== undefined && `at most ${credit_limit} credits ${credit_period === "total" ? "in total" : `a ${credit_period}`}`,
    max_concurrency !== undefined && `${max_concurrency} requests at a time`, models.length && `only ${models.join(", ")}`,
    expires_days !== undefined && `until ${count(Number(expires_days), "day")} from now`,
  ].filter(Boolean).join("; ");
  return {
    idempotent: true, word: "Create key",
    question: `Create a key${name ? ` "${name}"` : ""} for ${wallet_address ?? "no wallet"}?\nScopes: ${scopes.join(", ") || "none"}\nLimits: ${limits || "none"}`,
    run: async () => {
      try {
        return await send("POST", "/api/keys", body, { idempotent: true });
      } catch (error) {
        // The first of two tries was done, and its answer did not come.
        if (error.code === "already_issued") return { lost: error.message };
        throw error;
      }
    },
    done: (made) => {
      if (made.lost) return `The key was created, but the answer that held it was lost: ${made.lost}. Rotate or revoke it.`;
      showSecret("The new key", keyName(made), made.api_key);
      return `Created the key ${keyName(made)}.`;
    },
  };
});

/** Opens the dialog for a new key, of a wallet if one is given; the models are those that are served now. */
function openNewKey(button, wallet = "") {
  return attempt(button, async () => {
    const { data } = await ask("/v1/models");
    const { firstElementChild: legend } = by("admin-new-key-models");
    by("admin-new-key-models").replaceChildren(legend, ...data.map((model) => checkbox("models", model.id, model.id)));
    by("admin-new-key-models").hidden = data.length === 0;
    showNewKey();
    by("admin-new-key-wallet").value = wallet;
    by(wallet ? "admin-new-key-name" : "admin-new-key-wallet").focus();
  });
}

by("admin-key-new").addEventListener("click", ({ target }) => openNewKey(target));

// Rotating one.

let rotated = null;
const showRotate = formDialog("admin-rotate-dialog", ({ grace_seconds }) => {
  const row = rotated, grace = by("admin-rotate-grace").selectedOptions[0].textContent;
  return {
    word: "Rotate", question: `Rotate the key ${keyName(row)}?\nThe old key stays valid for ${grace}.`,
    run: () => send("POST", `/api/keys/${row.id}/rotate`, { grace_seconds: Number(grace_seconds) }),
    done: async (made) => {
      // The page goes on with the new one; where that fails, it asks for a key once the old one is refused.
      if (row.id === holder?.key.id) await signIn(made.api_key).catch(() => {});
      showSecret("The key in its place", keyName(made), made.api_key);
      return `Rotated the key ${keyName(row)}: the new one is ${made.id}.`;
    },
  };
});

function openRotate(row) {
  rotated = row;
  showRotate();
  set("admin-rotate-key", keyName(row));
}
