// Accounts for an admin: the list, and one of them with its usage, keys and ledger.

/** Where a whole address would leave no place for the balance. */
const isNarrow = () => innerWidth < 640;
const allUsers = new Pages(by("admin-users"), {
  member: "users", id: "wallet_address", empty: "No account has this in its wallet.",
  path: () => {
    const search = by("admin-users-search").value.trim();
    return `/users?${new URLSearchParams({ sort: by("admin-users-sort").value, ...(search && { search }) })}`;
  },
  columns: [
    { title: "Wallet", of: (row) => walletButton(row.wallet_address, isNarrow() ? undefined : row.wallet_address) },
    { title: "Balance", number: true, of: (row) => credits(row.credits) },
    { title: "Last use", of: (row) => whenAgo(row.last_used_at) },
    { title: "Last mining", of: (row) => whenAgo(row.last_mining_at) },
    { title: "Created", of: (row) => when(row.created_at) },
    { title: "State", of: (row) => row.blocked ? marked("bad", "blocked") : marked("ok", "active") },
  ],
});
adminPanels.accounts = () => allUsers.first();

by("admin-users-form").addEventListener("submit", (event) => {
  event.preventDefault();
  refreshPanel(event.submitter ?? by("admin-users-form").querySelector("button"));
});
by("admin-users-sort").addEventListener("change", () => refreshPanel(by("admin-users-form").querySelector("button")));

const showNewUser = formDialog("admin-user-dialog", ({ wallet_address }) => ({
  idempotent: true, word: "Create account", question: `Create an account with 0 credits for ${wallet_address}?`,
  run: () => send("POST", "/users", { wallet_address }, { idempotent: true }),
  done: (made) => `Created the account ${made.wallet_address}.`,
}));
by("admin-user-new").addEventListener("click", showNewUser);

// One account.

/** The wallet of the account that is open, and the account as it was read. */
let shownWallet = "", shownUser = null;

function openAccount(wallet) {
  shownWallet = wallet;
  shownUser = null;
  set("admin-account-wallet", wallet);
  // What is there is of another account, until this one was read.
  by("view-account").classList.add("unread");
  openPanel("account").then(() => headingOfPanel()?.focus({ preventScroll: true }));
}
by("admin-account-back").addEventListener("click", () => openPanel("accounts").then(() => headingOfPanel().focus({ preventScroll: true })));

const ofShown = (path) => () => path.replace("{}", shownWallet);
const accountModels = new Pages(by("admin-account-models"), {
  path: ofShown("/usage?by=model&wallet={}"), member: "usage", id: "model", empty: "No model was used in 30 days.",
  columns: [
    { title: "Model", of: (row) => row.model },
    { title: "Requests", number: true, of: (row) => whole.format(row.requests) },
    { title: "Prompt tokens", number: true, of: (row) => whole.format(row.prompt_tokens) },
    { title: "of them cached", number: true, of: (row) => whole.format(row.cached_tokens) },
    { title: "Completion tokens", number: true, of: (row) => whole.format(row.completion_tokens) },
    { title: "Credits", number: true, of: (row) => credits(row.credits) },
  ],
});
const accountKeys = new Pages(by("admin-account-keys"), {
  path: ofShown("/api/keys?wallet={}"), member: "keys", empty: "This wallet has no keys.", columns: keyColumns.filter(({ title }) => title !== "Wallet"),
});

/** What an entry is of: the model and its tokens, or what the server wrote. */
function detailOf({ detail, reference }) {
  const { adapter, prompt_tokens, cached_tokens, completion_tokens, estimated, request_id, key_id, ...others } = detail ?? {};
  const texts = [
    reference, adapter, prompt_tokens != null && `${whole.format(prompt_tokens)} prompt tokens${cached_tokens ? `, ${whole.format(cached_tokens)} of them cached` : ""}`,
    completion_tokens != null && `${whole.format(completion_tokens)} completion tokens`, estimated && "tokens estimated",
    ...Object.entries(others).filter(([, value]) => value != null).map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`),
    key_id, request_id,
  ];
  return texts.filter(Boolean).join(" · ") || none;
}

const accountLedger = new Pages(by("admin-account-ledger"), {
  path: ofShown("/users/{}/ledger"), member: "entries", empty: "Nothing has moved yet.",
  columns: [
    { title: "When", of: (row) => when(row.created_at) },
    { title: "Amount", number: true, of: (row) => signed(row.amount) },
    { title: "Balance after", number: true, of: (row) => credits(row.balance) },
    { title: "Reason", of: (row) => row.reason },
    { title: "Detail", of: detailOf },
  ],
});

const accountChart = new Chart(by("admin-usage-chart"), { name: "Credits used", bars: true, reading: by("admin-usage-reading") });

function showAccountUsage({ from, to, usage }) {
  const [start, end] = [from, to].map((time) => Date.parse(time));
  const number = Math.ceil((end - start) / DAY), points = bars(DAY, number, start + number * DAY, usage.map((row) => [Date.parse(row.day), row.credits]));
  const total = exact(usage.reduce((all, row) => all + row.credits, 0));
  const summary = `${credits(total)} ${total === 1 ? "credit" : "credits"} in ${count(points.length, "day")}`;
  // The chart writes it where there is anything to read.
  set("admin-usage-reading", "");
  accountChart.show({
    points: total > 0 ? points : [], from: start, to: end, utc: true, summary, note: `${summary} (UTC)`, empty: "Nothing used in 30 days.",
    value: (number, bare) => credits(exact(number)) + (bare ? "" : " credits"),
    tick: (at) => utcDay.format(at), time: (point) => utcDay.format(point.at),
  });
}

function showUser(user) {
  shownUser = user;
  set("admin-account-balance", credits(user.credits));
  set("admin-account-block", user.blocked ? "Unblock" : "Block");
  const facts = [["Created", when(user.created_at)], ["Last use", whenAgo(user.last_used_at)], ["Last mining", whenAgo(user.last_mining_at)], ["State", user.blocked ? marked("bad", "blocked") : marked("ok", "active")]];
  by("admin-account-facts").replaceChildren(...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

adminPanels.account = async () => {
  const wallet = shownWallet;
  // The list has the last use too.
  const [{ users: [user] }, usage] = await Promise.all([ask(`/users?search=${wallet}`), ask(`/usage?by=day&wallet=${wallet}`)]);
  if (!user) throw new Trouble("refused", "this node has no account of this wallet", 404);
  const tables = await together(accountModels.first(), accountKeys.first(), accountLedger.first());
  return () => {
    by("view-account").classList.remove("unread");
    showUser(user);
    showAccountUsage(usage);
    tables();
  };
};

// What is done to one account.

let direction = 1;
const showCredits = formDialog("admin-credits-dialog", ({ amount, reason, reference }, complainThere) => {
  const number = numeric(amount), wallet = shownWallet;
  if (typeof number !== "number" || number === 0) {
    complainThere("Amount must be a number above 0, such as 12.5.");
    return null;
  }
  const [verb, to] = direction > 0 ? ["Grant", "to"] : ["Take", "from"];
  return {
    idempotent: true, word: verb, question: `${verb} ${credits(number)} credits ${to} ${wallet}?\nReason: ${reason ?? none}${reference ? `\nReference: ${reference}` : ""}`,
    run: () => send("POST", `/users/${wallet}/credits`, { amount: direction * number, reason: reason ?? "", reference }, { idempotent: true }),
    done: ({ credits: balance, entry }) => `${direction > 0 ? "Granted" : "Took"} ${credits(Math.abs(entry.amount))} credits: ${wallet} has ${credits(balance)} now.`,
  };
});

function openCredits(sign) {
  direction = sign;
  showCredits();
  set("admin-credits-title", sign > 0 ? "Grant credits" : "Take credits");
  set("admin-credits-wallet", shownWallet);
  by("admin-credits-dialog").querySelector("[type=submit]").textContent = sign > 0 ? "Grant" : "Take";
}
by("admin-account-grant").addEventListener("click", () => openCredits(1));
by("admin-account-take").addEventListener("click", () => openCredits(-1));
by("admin-account-key").addEventListener("click", ({ target }) => openNewKey(target, shownWallet));
by("admin-account-block").addEventListener("click", ({ target }) => {
  const wallet = shownWallet, verb = shownUser?.blocked ? "unblock" : "block";
  const effect = verb === "block" ? "It keeps its credits, but cannot log in, pay or make keys, from its next request on." : "It can log in, pay and make keys again.";
  act(target, `${sentence(verb)} ${wallet}? ${effect}`, sentence(verb), async () => {
    await send("POST", `/users/${wallet}/${verb}`);
    return `${sentence(verb)}ed ${wallet}.`;
  });
});
by("admin-ledger-csv").addEventListener("click", ({ target }) => attempt(target, () => download(`ledger-${shownWallet}.csv`, `/users/${shownWallet}/ledger?format=csv&limit=500`)));
by("admin-usage-csv").addEventListener("click", ({ target }) => attempt(target, () => download(`usage-${shownWallet}.csv`, `/usage?by=day&format=csv&wallet=${shownWallet}`)));
